"""A relay between the sidecar and the emulator. It reads each call, and by the call's content passes it on, delays it, or lets it fail.

The emulator's own faults hit operations and pods. A bad neighbour is a dimension or a customer, which only the body names.
"""

import http.client
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# The usage whose calls always fail: a dimension, and in mode saas the only customer that uses it.
POISON = "poison"
# Longer than the sidecar waits for an answer.
HANG_SECONDS = 12
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}


def internal_error(handler):
    handler.answer(500, b'{"__type":"InternalServiceErrorException","message":"from the relay"}')


def page(handler):
    """A proxy that refuses the request's content."""
    handler.answer(400, b"<html><body>Bad Request</body></html>", "text/html")


def wrong_customer(handler):
    """AWS refuses a batch as a whole for one of its records."""
    handler.answer(400, b'{"__type":"InvalidCustomerIdentifierException","message":"from the relay"}')


def hang(handler):
    handler.server.ended.wait(HANG_SECONDS)
    handler.close_connection = True


FAULTS = {"500": internal_error, "page": page, "customer": wrong_customer, "hang": hang}


def of_poison(call):
    """Whether a call reports poison. A DryRun is no report."""
    records = call.get("UsageRecords", [{"Dimension": call.get("UsageDimension")}])
    return not call.get("DryRun") and any(record.get("Dimension") == POISON for record in records)


class Relay:
    """Serves until the `with` block ends; `fault(call)` returns one of FAULTS or None, and each call is delayed by `delay` seconds."""

    def __init__(self, upstream, fault=lambda call: None, delay=0.0):
        self.fault, self.delay = fault, delay
        self.address = upstream.removeprefix("http://")
        # The times of usage reports in seconds, of those that were passed on and of all others; the answers to the
        # first.
        self.passed, self.spoilt, self.statuses = [], [], Counter()
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.relay, self.server.ended = self, threading.Event()
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.ended.set()
        self.server.shutdown()
        self.server.server_close()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    # A client that is killed during a call leaves a broken connection, which is no error here.
    def handle_error(self, request, client_address):
        pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        self.upstream = http.client.HTTPConnection(self.server.relay.address, timeout=60)

    def finish(self):
        self.upstream.close()
        super().finish()

    def do_POST(self):
        relay = self.server.relay
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        reports = self.headers.get("x-amz-target", "").endswith("MeterUsage")
        call = json.loads(body) if reports else {}
        began = time.monotonic()
        fault = relay.fault(call) if reports else None
        if reports and not call.get("DryRun"):
            (relay.spoilt if fault else relay.passed).append(began)
        if fault:
            FAULTS[fault](self)
            return
        self.server.ended.wait(relay.delay)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
        # The signature covers the host that the sidecar asked.
        self.upstream.request(self.command, self.path, body, {"host": self.headers["host"], **headers})
        answer = self.upstream.getresponse()
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP]
        if reports and not call.get("DryRun"):
            relay.statuses[answer.status] += 1
        self.answer(answer.status, answer.read(), headers=kept)

    # A sidecar of mode saas asks by a GET whether the endpoint is the emulator.
    do_GET = do_POST

    def answer(self, status, body, kind="application/x-amz-json-1.1", headers=None):
        self.send_response_only(status)
        for name, value in headers if headers is not None else [("content-type", kind)]:
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
