"""Reports usage to tollgate. Copy report() into your application: it needs only Python's standard library (3.9 or newer).

Usage: usage.py DIMENSION QUANTITY [ID]
"""

import http.client
import json
import os
import socket
import sys
import time
import uuid

ADDRESS = os.environ.get("TOLLGATE_APP_ADDR", "127.0.0.1:19181")


def report(dimension, quantity, id=None):
    """Returns when tollgate has the event on disk, and retries until then. Raises ValueError for an event that tollgate rejects."""
    # The id is made once and kept: tollgate knows a repeat by it, and counts the event once. `tags` and `customer` belong here, too.
    event = json.dumps({"id": id or str(uuid.uuid4()), "dimension": dimension, "quantity": f"{quantity:.6f}"})
    while True:
        try:
            status, wait, said = post(event)
        except (OSError, http.client.HTTPException) as error:
            # Away, or the answer was lost: perhaps the event counts already.
            wait, said = 1, error
        else:
            if status == 202 and json.loads(said)["results"][0]["status"] != "rejected":
                return
            if status not in (408, 503):
                raise ValueError(f"tollgate does not take the event {event}: {status} {said}")
        print(f"tollgate: {said}; trying again in {wait} s", file=sys.stderr)
        time.sleep(wait)


def post(event):
    """One attempt: the status, the seconds to wait before another, and the body. tollgate answers within 30 seconds."""
    connection = Connection("localhost", timeout=35)
    try:
        connection.request("POST", "/v1/usage", event, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, int(answer.headers.get("retry-after", 1)), answer.read().decode()
    finally:
        connection.close()


class Connection(http.client.HTTPConnection):
    """To an address as `app_addr` has it: IP:port, or unix:/path. It never asks a proxy."""

    def connect(self):
        kind, _, path = ADDRESS.partition("unix:")
        if path:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            self.sock.connect(path)
        else:
            host, _, port = kind.rpartition(":")
            self.sock = socket.create_connection((host.strip("[]"), int(port)), self.timeout)


if __name__ == "__main__":
    report(sys.argv[1], float(sys.argv[2]), *sys.argv[3:])
