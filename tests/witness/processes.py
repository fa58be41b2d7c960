"""The binary under test as emulator and as sidecar, for the witnesses."""

import json
import os
import subprocess
import tempfile
import urllib.error
import urllib.request


class Process:
    """A child that ends with the `with` block."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()
        self.folder.cleanup()


class Emulator(Process):
    """`tollgate emulator` on a port of its own."""

    def __init__(self, program, *arguments, address="127.0.0.1"):
        self.folder = tempfile.TemporaryDirectory()
        if "--state" not in arguments:
            arguments = ("--state", self.folder.name, *arguments)
        self.process = subprocess.Popen(
            [program, "emulator", "--addr", f"{address}:0", "--json", *arguments],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.facts = json.loads(self.process.stdout.readline())
        self.endpoint = self.facts["endpoint"]

    def admin(self, path, order=None, method=None):
        """Calls the admin interface; an order is posted."""
        body = None if order is None else json.dumps(order).encode()
        request = urllib.request.Request(f"{self.endpoint}/_emulator/{path}", data=body, method=method)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def billed(self):
        """The bill by (product, account, dimension)."""
        totals = self.admin("ledger")["totals"]
        return {(t["product_code"], t["account_id"], t["dimension"]): t["quantity"] for t in totals}


def product(emulator, mode):
    """The settings for the emulator's product of a mode."""
    if mode == "contract":
        return {"TOLLGATE_PRODUCT_ID": emulator.facts["product_id"], "TOLLGATE_LICENSE_MODEL": "floating"}
    code = {"TOLLGATE_PRODUCT_CODE": f"demo{mode}"}
    return code if mode == "hourly" else {**code, "TOLLGATE_DIMENSIONS": "requests,gigabytes"}


class Sidecar(Process):
    """`tollgate run`, asking an emulator and following its clock, once it is in a state."""

    def __init__(self, program, emulator, mode, state="entitled", **settings):
        self.folder = tempfile.TemporaryDirectory()
        environment = {
            "TOLLGATE_MODE": mode,
            **product(emulator, mode),
            "TOLLGATE_ENDPOINT_URL": emulator.endpoint,
            "TOLLGATE_CLOCK": emulator.facts["clock"],
            "TOLLGATE_PROBE_ADDR": "127.0.0.1:0",
            "TOLLGATE_APP_ADDR": "127.0.0.1:0",
            "TOLLGATE_STATE_DIR": self.folder.name,
            "TOLLGATE_POD_UID": "witness-pod",
            "TOLLGATE_LOG_FORMAT": "json",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ACCESS_KEY_ID": "witness-pod",
            "AWS_SECRET_ACCESS_KEY": "any",
            **settings,
        }
        if mode == "hourly":
            environment["TOLLGATE_PUBLIC_KEYS"] = emulator.facts["public_keys"]
        environment["PATH"] = os.environ["PATH"]
        self.process = subprocess.Popen([program, "run"], env=environment, stderr=subprocess.PIPE, text=True)
        started = self.log_line("started")
        self.app = f"http://{started['app_addr']}"
        self.probe = f"http://{started['probe_addr']}"
        # Waits for the dimensions' dry runs, in any order, because faults that a test sets must hit reports
        # of usage only.
        awaited = [("state", state)]
        if mode == "metered":
            awaited.append(("dimensions_tried", None))
        while awaited:
            line = json.loads(next(self.process.stderr))
            awaited = [one for one in awaited if one != (line.get("event"), line.get("state"))]

    def log_line(self, event, **members):
        """The next log line of this event with these members."""
        for line in self.process.stderr:
            parsed = json.loads(line)
            if parsed.get("event") == event and all(parsed.get(k) == v for k, v in members.items()):
                return parsed
        raise AssertionError(f"the sidecar ended before it logged {event!r}")

    def ask(self, path, document=None, token=None):
        """Status and JSON of one request to the application's server."""
        body = None if document is None else json.dumps(document).encode()
        headers = {} if document is None else {"content-type": "application/json"}
        if token:
            headers["authorization"] = f"Bearer {token}"
        request = urllib.request.Request(self.app + path, data=body, headers=headers)
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def wait_until(self, moment):
        """Waits until the sidecar's clock shows at least this time."""
        while self.ask("/v1/reconciliation")[1]["at"] < moment:
            pass
