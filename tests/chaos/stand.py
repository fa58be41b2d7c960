"""The sidecar under chaos: started with limits, probed like a kubelet does, with an application that counts its acknowledged usage."""

import datetime
import http.client
import json
import os
import re
import resource
import select
import subprocess
import sys
import tempfile
import threading
import time
from decimal import Decimal

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "witness"))
from processes import Emulator  # noqa: E402, F401

# Enough time for everything that happens at once or after a few retries, also on a loaded machine.
PATIENCE = 120
# An hour's record is due this number of minutes after the hour: settling, and the pod's delay.
DUE_AFTER = 13
# How long a record that is due may stay unsent while AWS answers: longer than the longest pause after a fault (28 s).
PAUSE_MAX = 40
# States of a record without a final answer of AWS.
UNSENT = ("sealed", "in_doubt", "claimed")
MEBIBYTE = 1 << 20
# The memory limit of deploy/ and helm/, which the security review promises.
MEMORY_MAX = 32 * MEBIBYTE


def wait(what, condition, patience=PATIENCE):
    until = time.monotonic() + patience
    while not (found := condition()):
        if time.monotonic() > until:
            raise AssertionError(f"timed out waiting for {what}")
        time.sleep(0.05)
    return found


def exchange(address, method, path, body=None, headers=None, timeout=30):
    """Status, headers and bytes of one request, or None if the connection broke."""
    host, port = address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
    try:
        connection.request(method, path, body, {"host": "localhost", **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


class Sidecar:
    """`tollgate run`; a thread reads its log, so that a full pipe does not block it."""

    def __init__(self, program, emulator, mode, folder, endpoint=None, files=None, cgroup=None, **settings):
        environment = {
            "TOLLGATE_MODE": mode,
            "TOLLGATE_PRODUCT_CODE": f"demo{mode}",
            "TOLLGATE_ENDPOINT_URL": endpoint or emulator.endpoint,
            "TOLLGATE_PROBE_ADDR": "127.0.0.1:0",
            "TOLLGATE_APP_ADDR": "127.0.0.1:0",
            "TOLLGATE_STATE_DIR": folder,
            "TOLLGATE_POD_UID": "chaos",
            "TOLLGATE_LOG_FORMAT": "json",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ACCESS_KEY_ID": "chaos",
            "AWS_SECRET_ACCESS_KEY": "any",
            **({"TOLLGATE_PUBLIC_KEYS": emulator.facts["public_keys"]} if mode == "hourly" else {}),
            **({"TOLLGATE_CLOCK": emulator.facts["clock"], "TOLLGATE_DIMENSIONS": "requests"} if mode != "hourly" else {}),
            **settings,
        }

        def limit():
            if files:
                resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
            if cgroup:
                with open(os.path.join(cgroup, "cgroup.procs"), "w") as procs:
                    procs.write(str(os.getpid()))

        self.lines, self.changed = [], threading.Condition()
        self.process = subprocess.Popen([program, "run"], env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=limit)
        threading.Thread(target=self.read, daemon=True).start()
        try:
            started = self.log(lambda line: line.get("event") == "started")
        except BaseException:
            # The caller does not have the process yet, so it must be ended here.
            self.__exit__()
            raise
        self.app, self.probe = started["app_addr"], started["probe_addr"]

    def read(self):
        for line in self.process.stderr:
            with self.changed:
                self.lines.append(json.loads(line))
                self.changed.notify_all()
        with self.changed:
            self.lines.append({"message": "the log has ended"})
            self.changed.notify_all()

    def log(self, wanted):
        """The first matching line, earlier or later."""
        until, read = time.monotonic() + PATIENCE, 0
        with self.changed:
            while True:
                for line in self.lines[read:]:
                    if wanted(line):
                        return line
                    if line["message"] == "the log has ended":
                        raise AssertionError(f"the sidecar ended: {self.lines[-5:]}")
                read = len(self.lines)
                if not self.changed.wait_for(lambda: len(self.lines) > read, until - time.monotonic()):
                    raise AssertionError(f"no such line in {self.lines[-5:]}")

    def entitlement(self):
        answer = exchange(self.probe, "GET", "/entitlement")
        return json.loads(answer[2]) if answer else {"state": None, "reason": None}

    def wait_for(self, state, patience=PATIENCE):
        return wait(state, lambda: (found := self.entitlement())["state"] == state and found, patience)

    def records(self):
        answer = exchange(self.app, "GET", "/v1/records")
        return json.loads(answer[2])["records"] if answer and answer[0] == 200 else []

    def overdue(self, now):
        """Records that should have been sent by `now`."""
        due = (now - datetime.timedelta(minutes=60 + DUE_AFTER)).strftime("%Y-%m-%dT%H:%M:%SZ")
        return [record for record in self.records() if record["state"] in UNSENT and record["hour"] <= due]

    def wait_for_code(self, *codes):
        seen = set()

        def named():
            code = (self.entitlement()["reason"] or {}).get("code")
            seen.add(code)
            return code in codes and code

        try:
            return wait(codes, named)
        except AssertionError as error:
            raise AssertionError(f"{error}; seen: {seen}") from None

    def status(self, name):
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(re.search(rf"{name}:\s+(\d+)", status.read())[1])

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def alive(self):
        return self.process.poll() is None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


class Cgroup:
    """A limit of 32 MiB, by the cgroup interface that the kernel has."""

    def __init__(self, bytes_max):
        two = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
        self.path = tempfile.mkdtemp(prefix="tollgate-", dir=f"/sys/fs/cgroup/{'' if two else 'memory'}")
        with open(os.path.join(self.path, "memory.max" if two else "memory.limit_in_bytes"), "w") as limit:
            limit.write(str(bytes_max))
        self.peak = os.path.join(self.path, "memory.peak" if two else "memory.max_usage_in_bytes")

    def most(self):
        with open(self.peak) as peak:
            return int(peak.read())

    def close(self):
        os.rmdir(self.path)


class Kubelet:
    """Asks /livez every tenth of a second, more often than a kubelet does; records the slowest answer and the failures.

    It is a process of its own, so that it measures only the sidecar and not the work of the row in this process.
    """

    def __init__(self, sidecar):
        self.address = sidecar.probe

    def __enter__(self):
        command = [sys.executable, os.path.abspath(__file__), self.address]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "asking\n"
        return self

    def __exit__(self, kind, *_):
        answer = self.process.communicate()[0]
        self.asked, self.failed, self.slowest = json.loads(answer)
        if kind is None:
            assert self.asked and not self.failed, f"{self.failed} of {self.asked} probes failed"

    def __str__(self):
        return f"{self.asked} probes, the slowest {self.slowest * 1000:.0f} ms"


def ask_until_told(address, timeout=5):
    """The prober's process: asks until its standard input closes, then prints the results."""
    asked = failed = 0
    slowest = 0.0
    print("asking", flush=True)
    told = False
    while not told:
        began = time.monotonic()
        answer = exchange(address, "GET", "/livez", timeout=timeout)
        asked += 1
        failed += not (answer and answer[0] == 200)
        slowest = max(slowest, time.monotonic() - began)
        told = select.select([sys.stdin], [], [], 0.1)[0]
    print(json.dumps([asked, failed, slowest]))


def emulator_time(emulator):
    return datetime.datetime.fromisoformat(emulator.admin("clock")["now"].replace("Z", "+00:00"))


class Application:
    """Reports usage under an id until it is acknowledged, and records the acknowledged usage."""

    def __init__(self):
        self.acknowledged = Decimal(0)
        self.sent = self.put_off = 0

    def report(self, sidecar, events=1):
        """Sends one request with this number of events, again until it is acknowledged."""
        batch = []
        for _ in range(events):
            self.sent += 1
            batch.append({"id": f"event-{self.sent}", "dimension": "requests", "quantity": f"{self.sent % 9}.{self.sent % 1000:03}"})
        body = json.dumps(batch)

        def taken():
            answer = exchange(sidecar.app, "POST", "/v1/usage", body, {"content-type": "application/json"})
            if answer and answer[0] == 202:
                return [result["status"] for result in json.loads(answer[2])["results"]]
            if answer:
                assert answer[0] == 503 and answer[1]["retry-after"], answer
            self.put_off += 1
            return None

        statuses = wait("an acknowledgement", taken)
        assert set(statuses) <= {"accepted", "duplicate"}, statuses
        self.acknowledged += sum(Decimal(event["quantity"]) for event in batch)

    def balance(self, sidecar):
        answer = exchange(sidecar.app, "GET", "/v1/reconciliation")
        rows = json.loads(answer[2])["dimensions"] if answer and answer[0] == 200 else []
        return next((row for row in rows if row["dimension"] == "requests"), None)

    def settle(self, emulator, sidecar):
        """Closes the hours until all usage is sent; then the bill must equal the acknowledged usage, to the millionth.

        The clock does not move while a record that is due is unsent. AWS accepts it within six hours, and after a fault the sidecar pauses for real
    seconds: a clock that passes six hours meanwhile would make a dead letter of a record that is only late.
        """
        stands_until = time.monotonic()

        def sent():
            nonlocal stands_until
            if not sidecar.overdue(emulator_time(emulator)) or time.monotonic() > stands_until:
                emulator.admin("clock", {"advance": "75m"})
                stands_until = time.monotonic() + PAUSE_MAX
            time.sleep(0.5)
            row = self.balance(sidecar)
            return row and row["pending"] == "0" and row

        row = wait("all usage to be sent", sent)
        billed = {key[2]: Decimal(quantity) for key, quantity in emulator.billed().items()}.get("requests", Decimal(0))
        assert row["balanced"] and row["dead"] == "0" and billed == self.acknowledged, (row, billed, self.acknowledged)
        return f"{self.sent} events acknowledged, billed to the millionth"


if __name__ == "__main__":
    ask_until_told(sys.argv[1])
