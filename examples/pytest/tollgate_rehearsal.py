"""A rehearsal for pytest: the emulator, and a sidecar that asks it. Copy this file beside your tests; it needs only pytest.

In conftest.py:

    pytest_plugins = ["tollgate_rehearsal"]

TOLLGATE names the program, a development build (`tollgate` in PATH otherwise). With TOLLGATE_EMULATOR, such as http://127.0.0.1:8090, an
emulator that already runs is used, such as the service container of a CI job.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import pytest

PROGRAM = os.environ.get("TOLLGATE", "tollgate")
BUYER = "111122223333"
PATIENCE = 60


def wait(what, condition):
    """Waits until the condition holds, and returns its value."""
    until = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < until, f"no {what} within {PATIENCE} s"
        time.sleep(0.05)
    return found


def ask(url, document=None, method=None):
    """The JSON of an answer; a document is posted."""
    body = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


class Emulator:
    """The emulator of `docs/EMULATOR.md`, in AWS's place."""

    def __init__(self, endpoint):
        self.endpoint = endpoint

    def admin(self, path, order=None, method=None):
        return ask(f"{self.endpoint}/_emulator/{path}", order, method)

    def subscribe(self, subscribed=True, account_id=BUYER):
        self.admin("customers", {"account_id": account_id, "subscribed": subscribed})

    def fault(self, **rule):
        """Makes calls fail, for example by `fault(fault="throttle", operation="MeterUsage", count=3)`."""
        self.admin("faults", rule)

    def advance(self, duration):
        """Moves the clock of the emulator and of every sidecar, for example by "1h"."""
        return self.admin("clock", {"advance": duration})["now"]

    def ledger(self, pod=None):
        """What AWS would bill: one entry for each record."""
        return self.admin(f"ledger?pod={pod}" if pod else "ledger")["records"]

    def public_key(self, product_code, version=1):
        with urllib.request.urlopen(f"{self.endpoint}/_emulator/public-keys/{product_code}/{version}.pem", timeout=10) as answer:
            return answer.read()


class Sidecar:
    """`tollgate run`; its name is a pod of the emulator."""

    def __init__(self, emulator, pod, folder, settings):
        self.emulator, self.pod = emulator, pod
        environment = {
            "PATH": os.environ["PATH"], "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ACCESS_KEY_ID": pod, "AWS_SECRET_ACCESS_KEY": "any",
            "TOLLGATE_POD_UID": pod, "TOLLGATE_STATE_DIR": str(folder / "state"), "TOLLGATE_LOG_FORMAT": "json",
            "TOLLGATE_ENDPOINT_URL": emulator.endpoint, "TOLLGATE_CLOCK": f"{emulator.endpoint}/_emulator/clock",
            "TOLLGATE_PROBE_ADDR": "127.0.0.1:0", "TOLLGATE_APP_ADDR": "127.0.0.1:0",
            **{f"TOLLGATE_{name.upper()}": str(value) for name, value in settings.items()},
        }
        if settings.get("mode", "hourly") == "hourly":
            key = folder / "1.pem"
            key.write_bytes(emulator.public_key(settings["product_code"]))
            environment["TOLLGATE_PUBLIC_KEYS"] = str(key)
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen([PROGRAM, "run"], env=environment, stderr=log)
        try:
            started = wait("start of the sidecar", lambda: self.process.poll() is None and self.logged("started") or self.ended())
        except BaseException:
            self.stop()
            raise
        self.app, self.probe = f"http://{started['app_addr']}", f"http://{started['probe_addr']}"

    def logged(self, event):
        lines = (json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n"))
        return next((line for line in lines if line.get("event") == event), None)

    def ended(self):
        assert self.process.poll() is None, f"the sidecar ended with {self.process.returncode}:\n{self.log.read_text()}"

    def entitlement(self):
        try:
            return ask(f"{self.probe}/entitlement")
        except urllib.error.HTTPError as shut:
            with shut:
                return json.load(shut)

    def wait_for(self, state):
        """Waits until the gate has this state, such as entitled or denied; returns the document."""
        return wait(f"state {state}", lambda: (seen := self.entitlement())["state"] == state and seen)

    def use(self, dimension, quantity):
        """Reports usage, as your application does; for tests without one."""
        results = ask(f"{self.app}/v1/usage", {"dimension": dimension, "quantity": quantity})["results"]
        assert results[0]["status"] == "accepted", results

    def wait_for_bill(self, records):
        """Waits until AWS would bill this number of records of the pod; returns the records."""
        return wait(f"bill with {records} records", lambda: len(bill := self.emulator.ledger(self.pod)) >= records and bill)

    def stop(self):
        self.process.terminate()
        self.process.wait()


@pytest.fixture(scope="session")
def tollgate_keys(tmp_path_factory):
    """The keys of all emulators of a session, because making a key takes seconds."""
    return tmp_path_factory.mktemp("keys")


@pytest.fixture
def emulator(tollgate_keys):
    """An emulator without earlier calls. An emulator that already runs is reset before each test and after it."""
    if endpoint := os.environ.get("TOLLGATE_EMULATOR"):
        running = Emulator(endpoint.rstrip("/"))
        running.admin("reset", {})
        yield running
        # A test that failed may have left a buyer who is not subscribed.
        running.admin("reset", {})
        return
    command = [PROGRAM, "emulator", "--addr", "127.0.0.1:0", "--keys", str(tollgate_keys), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            # It prints its first line when it is ready.
            yield Emulator(json.loads(process.stdout.readline())["endpoint"])
        finally:
            process.terminate()


@pytest.fixture
def sidecar(emulator):
    """Starts sidecars: `sidecar("pod-1", mode="metered", product_code="demometered", dimensions="requests")`."""
    with contextlib.ExitStack() as stack:
        def start(pod, **settings):
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            started = Sidecar(emulator, pod, folder, settings)
            stack.callback(started.stop)
            return started

        yield start
