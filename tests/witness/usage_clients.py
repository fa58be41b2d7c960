"""The clients of examples/usage and examples/go/usage, each as a process of its own, against a sidecar and the emulator: what they
report is on the bill once.

Usage: usage_clients.py PROGRAM

Nothing listens where a client reports until it has failed to connect. Then its door opens, and passes each request on to the sidecar:
the first answer is the sidecar's own 503, the second is lost after the ledger has counted the event, the third is cut off, the fourth
arrives. A client that makes a new id for each attempt goes the same way, and must be billed three times: so the faults are real ones.
"""

import concurrent.futures
import http.client
import http.server
import json
import os
import pathlib
import queue
import re
import socket
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
import time

from processes import Emulator, Sidecar

PROGRAM = os.path.abspath(sys.argv[1])
EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"
ACCOUNT = "111122223333"
# A client that has not ended by then is hung.
LIMIT = 90
# The sidecar's limits: of one body, and of all bodies together four of the largest.
BODY_BYTES_MAX, BODIES = 1 << 20, 4
RETRY_AFTER = 5
AGAIN = "trying again"
# Java's HttpClient has no Unix sockets.
ONLY_TCP = {"java"}
# The client that no application should be: its python is the example's, with a new id for each attempt.
FORGETFUL = "forgetful"


def built(folder):
    """The command of each client, by its language."""
    subprocess.run(["javac", "-d", folder, EXAMPLES / "usage/Usage.java"], check=True)
    subprocess.run(["go", "build", "-o", f"{folder}/go-usage", "./usage"], cwd=EXAMPLES / "go", check=True)
    # Of the whole workspace, as `cargo test` builds it: with other features its dependencies would be built once more.
    rust = ["cargo", "run", "--quiet", "--locked", "--example", "usage", "--"]
    subprocess.run(["cargo", "build", *rust[2:-1]], check=True)
    forgetful, changes = re.subn(r'(connection\.request\(.*?, )event,', r"\1again(event),", (EXAMPLES / "usage/usage.py").read_text())
    assert changes == 1
    new_id = 'def again(event):\n    return json.dumps({**json.loads(event), "id": str(uuid.uuid4())})\n\n\n'
    pathlib.Path(folder, "forgetful.py").write_text(forgetful.replace("def report(", f"{new_id}def report("))
    return {
        "python": [sys.executable, EXAMPLES / "usage/usage.py"],
        "node": ["node", EXAMPLES / "usage/usage.mjs"],
        "java": ["java", "-cp", folder, "Usage"],
        "go": [f"{folder}/go-usage"],
        "rust": rust,
        FORGETFUL: [sys.executable, f"{folder}/forgetful.py"],
    }


class Door(socketserver.ThreadingTCPServer):
    """Stands between a client and the sidecar. Its port is taken, and refuses connections, until it opens; then each answer meets the
    next fate, and later ones arrive."""

    daemon_threads = True

    def __init__(self, sidecar, *fates):
        super().__init__(("127.0.0.1", 0), Passage, bind_and_activate=False)
        self.server_bind()
        self.address = f"127.0.0.1:{self.server_address[1]}"
        self.sidecar, self.fates = sidecar.app.removeprefix("http://"), list(fates)
        # When each request came, its id, and what the sidecar answered: 503, accepted, duplicate.
        self.answers = queue.Queue()

    def open(self):
        self.server_activate()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def passed(self):
        """What has passed since the last look."""
        return [self.answers.get() for _ in range(self.answers.qsize())]

    def shutdown_request(self, request):
        # Without a FIN of its own, so that a connection which is to be reset is reset.
        self.close_request(request)


class Passage(http.server.BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        came = time.monotonic()
        event = self.rfile.read(int(self.headers["content-length"]))
        sidecar = http.client.HTTPConnection(self.server.sidecar, timeout=LIMIT)
        sidecar.request("POST", self.path, event, dict(self.headers))
        answer = sidecar.getresponse()
        said = answer.read()
        sidecar.close()
        # Before the client has its answer: it may end at once, and what has passed is looked at then.
        status = answer.status if answer.status != 202 else json.loads(said)["results"][0]["status"]
        self.server.answers.put((came, json.loads(event)["id"], status))
        fate = self.server.fates.pop(0) if self.server.fates else "arrives"
        if fate == "lost":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
        else:
            head = [f"HTTP/1.1 {answer.status} {answer.reason}", *(f"{name}: {value}" for name, value in answer.getheaders())]
            whole = "\r\n".join([*head, "", ""]).encode() + said
            self.wfile.write(whole[: -len(said) // 2] if fate == "cut" else whole)
            self.close_connection |= fate == "cut"

    def log_message(self, *_):
        pass


class Client:
    """A client at work."""

    def __init__(self, command, address, *arguments):
        environment = {**os.environ, "TOLLGATE_APP_ADDR": address}
        self.process = subprocess.Popen(
            [*command, *arguments], env=environment, cwd=EXAMPLES.parent, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self.limit = threading.Timer(LIMIT, self.process.kill)
        self.limit.start()
        self.said = ""

    def until_it_tries_again(self):
        for line in self.process.stderr:
            self.said += line
            if AGAIN in line:
                return self
        raise AssertionError(f"it ended, and did not wait: {self.said}")

    def end(self):
        """Its exit code, and what it has said."""
        self.said += self.process.stderr.read()
        code = self.process.wait()
        self.process.stderr.close()
        self.limit.cancel()
        return code, self.said


class Full:
    """While it is entered, the sidecar's room for bodies is taken, as under load: it answers usage with 503."""

    def __init__(self, sidecar):
        self.sidecar, self.connections = sidecar, []

    def answers(self, status):
        while self.sidecar.ask("/v1/usage", {"dimension": "", "quantity": 0})[0] != status:
            pass

    def __enter__(self):
        host, port = self.sidecar.app.removeprefix("http://").split(":")
        head = f"POST /v1/usage HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {BODY_BYTES_MAX}\r\n\r\n"
        for _ in range(BODIES):
            connection = socket.create_connection((host, int(port)))
            connection.sendall(head.encode() + b" " * (BODY_BYTES_MAX - 1))
            self.connections.append(connection)
        self.answers(503)

    def __exit__(self, *_):
        for connection in self.connections:
            connection.close()
        self.answers(202)


def wrong(passed):
    """What is wrong with how a client met the four fates."""
    came, ids, statuses = zip(*passed)
    if list(statuses) != [503, "accepted", "duplicate", "duplicate"]:
        yield f"it was answered {statuses}"
    if len(set(ids)) != 1 or not ids[0]:
        yield f"the event's id became {ids}"
    if came[1] - came[0] < RETRY_AFTER:
        yield f"after the 503 it tried again within {came[1] - came[0]:.1f} s"


def through_faults(commands, sidecar, doors):
    """Lets all clients meet all fates at the same time; gives the faults found."""
    clients = {name: Client(command, doors[name].address, name, "12.5") for name, command in commands.items()}
    for client in clients.values():
        client.until_it_tries_again()
    refused = {}
    with Full(sidecar):
        for name, door in doors.items():
            door.open()
            refused[name] = door.answers.get(timeout=LIMIT)
    for name, client in clients.items():
        code, said = client.end()
        found = list(wrong([refused[name], *doors[name].passed()]))
        if code != 0 or said.count(AGAIN) < 4:
            found.append(f"it ended with {code} and said {said}")
        if name == FORGETFUL:
            found = [] if found and code == 0 else ["the checks found nothing"]
        yield from (f"{name}: {fault}" for fault in found)


def later(name, command, door, strict):
    """Gives the faults of a client that reports again: an id of the application's own, new ids, events that are rejected."""

    def outcome(address, *arguments):
        code, said = Client(command, address, *arguments).end()
        return code, said, [status for _, _, status in door.passed()]

    for expected in ("accepted", "duplicate"):
        code, said, statuses = outcome(door.address, name, "2", f"job-17-{name}")
        if (code, statuses) != (0, [expected]):
            yield f"{name}: an id of the application's own: {code} {statuses} {said}"
    for _ in range(2):
        code, said, statuses = outcome(door.address, name, "0.000001")
        if (code, statuses) != (0, ["accepted"]):
            yield f"{name}: an event without an id: {code} {statuses} {said}"
    for status, address, attempts in ((202, door.address, ["rejected"]), (422, strict.app.removeprefix("http://"), [])):
        code, said, statuses = outcome(address, "reqests", "1")
        if code == 0 or statuses != attempts or AGAIN in said or not all(word in said for word in (str(status), "reqests", "rejected")):
            yield f"{name}: a rejected event: {code} {statuses} {said}"


def over_a_socket(commands, emulator, folder):
    """Lets clients wait for a sidecar that listens on a Unix socket; gives that sidecar and the faults."""
    address = f"unix:{folder}/app.sock"
    waiting = {name: Client(command, address, name, "1") for name, command in commands.items() if name not in ONLY_TCP}
    for client in waiting.values():
        client.until_it_tries_again()
    pod = {"TOLLGATE_POD_UID": "socket-pod", "AWS_ACCESS_KEY_ID": "socket-pod"}
    dimensions = ",".join(commands)
    sidecar = Sidecar(PROGRAM, emulator, "metered", TOLLGATE_APP_ADDR=address, TOLLGATE_DIMENSIONS=dimensions, **pod)
    ended = {name: client.end() for name, client in waiting.items()}
    return sidecar, [f"{name}: over a Unix socket: {code} {said}" for name, (code, said) in ended.items() if code != 0]


def main():
    with tempfile.TemporaryDirectory() as folder, Emulator(PROGRAM) as emulator:
        commands = built(folder)
        emulator.admin("clock", {"now": "2026-11-24T08:00:00Z"})
        emulator.admin("products", {"product_code": "demometered", "dimensions": list(commands)})
        dimensions = {"TOLLGATE_DIMENSIONS": ",".join(commands)}
        sold = {name: command for name, command in commands.items() if name != FORGETFUL}
        with Sidecar(PROGRAM, emulator, "metered", **dimensions) as sidecar:
            doors = {name: Door(sidecar, "arrives", "lost", "cut", "arrives") for name in commands}
            failures = list(through_faults(commands, sidecar, doors))
            strict_pod = {"TOLLGATE_POD_UID": "strict-pod", "AWS_ACCESS_KEY_ID": "strict-pod", "TOLLGATE_STRICT_USAGE": "true"}
            with Sidecar(PROGRAM, emulator, "metered", **dimensions, **strict_pod) as strict, concurrent.futures.ThreadPoolExecutor() as pool:
                found = pool.map(lambda name: list(later(name, sold[name], doors[name], strict)), sold)
                failures += [fault for faults in found for fault in faults]
            on_socket, faults = over_a_socket(sold, emulator, folder)
            with on_socket:
                failures += faults
                emulator.admin("clock", {"advance": "75m"})
                for reporter, records in ((sidecar, len(commands)), (on_socket, len(sold) - len(ONLY_TCP))):
                    for _ in range(records):
                        reporter.log_line("record_billed")
            balance = sidecar.ask("/v1/reconciliation")[1]["dimensions"]
        billed = {dimension: quantity for (_, _, dimension), quantity in emulator.billed().items()}
    once = {name: "14.500002" if name in ONLY_TCP else "15.500002" for name in sold}
    if billed != {**once, FORGETFUL: "37.5"}:
        failures.append(f"billed {billed}")
    if not all(row["balanced"] and row["accepted"] == row["billed"] for row in balance):
        failures.append(f"the balance is {balance}")
    print("\n".join([*failures, f"usage clients: {', '.join(sold)}: billed {billed}: {len(failures)} failures"]))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
