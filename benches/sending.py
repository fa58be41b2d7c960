#!/usr/bin/env python3
"""How fast sealed usage is sent, compared with AWS's quota of ten calls a second, and how much a stop sends in its grace period.

Usage: sending.py PROGRAM [PART…]

PROGRAM is a release build with the emulator. Between it and the sidecar a relay makes each call last 300 ms, and the emulator enforces
AWS's quota. Parts: rate, slow-disk (every fsync lasts 3 ms, benches/slow_disk.c), customers, dimensions, eviction; without PART, all
of them. BENCH_FOLDER is a folder on the disk to use. If a goal is missed, the exit code is 1.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from decimal import Decimal

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "tests", "campaign"))
from memory import Books, declare, licensed, names, pending  # noqa: E402
from relay import Relay  # noqa: E402
from stand import Emulator, Sidecar, exchange, wait  # noqa: E402

PROGRAM = os.path.abspath(sys.argv[1])
CALL_SECONDS = 0.3
QUOTA = 10
CUSTOMERS = 5_000

missed = 0


def row(what, measured, goal, reached):
    global missed
    missed += not reached
    print(f"| {what} | {measured} | {goal} | {'reached' if reached else 'MISSED'} |", flush=True)


class Bench:
    """A sidecar whose calls are slow, with usage in the open hour."""

    def __init__(self, mode, dimensions, customers, **settings):
        self.mode, self.dimensions, self.customers = mode, dimensions, customers
        self.stack, self.settings = contextlib.ExitStack(), settings

    def __enter__(self):
        folder = self.stack.enter_context(tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")))
        self.emulator = self.stack.enter_context(Emulator(PROGRAM, "--quotas"))
        # Not the first minutes of an hour: usage then counts for the hour before.
        self.emulator.admin("clock", {"now": "2026-11-24T08:05:00Z"})
        self.emulator.admin("products", {"product_code": f"demo{self.mode}", "dimensions": self.dimensions})
        declare(self.emulator, self.customers)
        self.relay = self.stack.enter_context(Relay(self.emulator.endpoint, delay=CALL_SECONDS))
        settings = {"TOLLGATE_DIMENSIONS": ",".join(self.dimensions), **self.settings}
        self.sidecar = self.stack.enter_context(
            Sidecar(PROGRAM, self.emulator, self.mode, folder, endpoint=self.relay.endpoint, **settings))
        self.sidecar.wait_for("entitled")
        self.books = Books()
        events = ({"dimension": name, **({"customer": licensed(number)} if self.customers else {})}
                  for number in range(self.customers or 1) for name in self.dimensions)
        self.books.feed(self, events)
        return self

    def __exit__(self, *error):
        return self.stack.__exit__(*error)

    # Called by `Books` and `pending`, as `check` and `get` of a `Keeper`.
    def check(self):
        assert self.sidecar.alive(), "the sidecar ended"

    def get(self, path):
        answer = exchange(self.sidecar.app, "GET", path)
        return json.loads(answer[2]) if answer and answer[0] == 200 else None

    def billed(self):
        """The number of acknowledged totals that are exact on the bill, and the number of all."""
        bill = {key[1:]: Decimal(quantity) for key, quantity in self.emulator.billed().items()}
        return sum(bill.get(key) == total for key, total in self.books.totals.items()), len(self.books.totals)

    def stop(self, kill_after):
        """Sends SIGTERM, and SIGKILL after `kill_after` seconds; returns the seconds until the end, and the exit code."""
        began = time.monotonic()
        self.sidecar.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.sidecar.process.wait(kill_after)
        took = time.monotonic() - began
        self.sidecar.process.kill()
        return took, self.sidecar.process.wait()


def rate(disk="", goal=0.97, **settings):
    with Bench("saas", ["requests"], CUSTOMERS, **settings) as bench:
        bench.emulator.admin("clock", {"now": "2026-11-24T09:13:00Z"})
        wait("all usage to be sent", lambda: pending(bench) == [], patience=300)
        calls, (exact, of) = bench.relay.passed, bench.billed()
        ratio = (len(calls) - 1) / (calls[-1] - calls[0]) / QUOTA
        refused = {status: count for status, count in bench.relay.statuses.items() if status != 200}
        row(f"saas: calls a second beside the quota{disk}",
            f"{ratio:.3f} ({len(calls)} calls, {CUSTOMERS / len(calls):.1f} records each, {refused or 'none'} refused; "
            f"{exact} of {of} bills exact)", f"≥ {goal}", ratio >= goal and exact == of)


def slow_disk():
    with tempfile.TemporaryDirectory() as folder:
        library = folder + "/slow_disk.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, os.path.join(HERE, "slow_disk.c"), "-ldl"], check=True)
        rate(", 3 ms an fsync", 0.9, LD_PRELOAD=library, SLOW_DISK_US="3000")


def stop_row(what, bench, seconds, grace):
    took, code = bench.stop(grace)
    exact, of = bench.billed()
    row(what, f"{took:.1f} s, exit {code}; {exact} of {of} bills exact, {len(bench.relay.passed)} calls", f"all, ≤ {seconds} s",
        exact == of and took <= seconds)


def customers():
    with Bench("saas", ["requests"], CUSTOMERS, TOLLGATE_SHUTDOWN_GRACE="60s", TOLLGATE_DRAIN_QUIET="0s") as bench:
        stop_row(f"stop with {CUSTOMERS:,} customers in the open hour", bench, 60, 65)


def dimensions():
    with Bench("metered", names(200), 0, TOLLGATE_SHUTDOWN_GRACE="25s", TOLLGATE_DRAIN_QUIET="0s") as bench:
        stop_row("stop with 200 metered dimensions in the open hour", bench, 25, 30)


def eviction():
    with Bench("metered", names(10), 0, TOLLGATE_DRAIN_QUIET="0s") as bench:
        bench.stop(2)
        exact, of = bench.billed()
        row("evicted: SIGTERM, SIGKILL after 2 s, ten metered dimensions", f"{exact} of {of} billed", "all", exact == of)


PARTS = {"rate": rate, "slow-disk": slow_disk, "customers": customers, "dimensions": dimensions, "eviction": eviction}

if __name__ == "__main__":
    unknown = set(sys.argv[2:]) - set(PARTS)
    if unknown:
        sys.exit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    print("| what, 300 ms a call | measured | goal | |\n| --- | --- | --- | --- |", flush=True)
    for part in sys.argv[2:] or PARTS:
        PARTS[part]()
    sys.exit(1 if missed else 0)
