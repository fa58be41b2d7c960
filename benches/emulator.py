#!/usr/bin/env python3
"""The emulator beside what it cannot be faster than: signatures a second, and the time to take in a large world.

Usage: emulator.py PROGRAM [PART…]

PROGRAM is a release build with the emulator. Parts: register (RegisterUsage answers beside the signatures of `openssl speed` with a
key of the same size, on the same core, in turn), world (a file of 100,000 customers, each with an identifier and a license of its
own, until the port answers; in turn with one of 10,000); without PART, both. Each figure is the median of its rounds. If a budget
is missed by more than its noise, the exit code is 1. Needs wrk, openssl and taskset.
"""

import http.client
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from usage import AUTHORIZATION, PATIENCE, PROGRAM, SERVED, SIGNED, openssl_signs, wrk

ROUNDS = 5
# Seconds of one measurement of calls.
CALLING = 3

missed = 0


def budget(what, measured, limit, noise, shown, least=False):
    """Prints a row. The budget is the most, or with `least` the least, and may be missed by the share `noise`."""
    global missed
    good = measured >= limit * (1 - noise) if least else measured <= limit * (1 + noise)
    missed += not good
    sign = "≥" if least else "≤"
    print(f"| {what} | {shown(measured)} | {sign} {shown(limit)}, noise {noise:.0%} | {'reached' if good else 'MISSED'} |", flush=True)


class Emulator:
    """An emulator on a port of its own; `ready` are the seconds until it answered."""

    def __init__(self, *options, core=()):
        began = time.perf_counter()
        command = [*core, PROGRAM, "emulator", "--addr", "127.0.0.1:0", "--json", *map(str, options)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.endpoint = json.loads(self.process.stdout.readline())["endpoint"]
        connection = http.client.HTTPConnection(self.endpoint.removeprefix("http://"), timeout=PATIENCE)
        connection.request("GET", "/_emulator/clock")
        assert connection.getresponse().status == 200
        self.ready = time.perf_counter() - began
        connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()


def register():
    now = int(time.time())
    date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    body = json.dumps({"ProductCode": "demohourly", "PublicKeyVersion": 1, "Nonce": "bench"})
    authorization = AUTHORIZATION.replace("20261124", date[:8])
    script = SIGNED % {"operation": "RegisterUsage", "date": date, "authorization": authorization, "pods": 1000, "body": body}
    rates, signs = [], []
    with tempfile.TemporaryDirectory() as folder, Emulator("--state", folder, core=SERVED) as emulator:
        wrk(emulator.endpoint, script, 16, 1)
        for _ in range(ROUNDS):
            signs.append(openssl_signs())
            rates.append(wrk(emulator.endpoint, script, 16, CALLING)[0])
    ratio = statistics.median(rate / sign for rate, sign in zip(rates, signs))
    budget(f"RegisterUsage calls/s ({statistics.median(rates):,.0f}) ÷ `openssl speed rsa3072` signatures/s", ratio, 0.9, 0.05, "{:.2f}".format, least=True)


def crowd(path, customers):
    """A world file; every name differs, so that each is looked up."""
    lines = ['[[products]]\nproduct_code = "demosaas"\npricing = "saas"\ndimensions = ["requests"]\n']
    for number in range(customers):
        account = 100_000_000_000 + number
        lines.append(
            f'[[customers]]\naccount_id = "{account}"\nidentifier = "buyer-{number}"\nlicenses = '
            f'[{{ product_code = "demosaas", license_arn = "arn:aws:license-manager::{account}:license:l-{number}" }}]\n'
        )
    path.write_text("".join(lines))


def world():
    sizes = (10_000, 100_000)
    seconds = {size: [] for size in sizes}
    with tempfile.TemporaryDirectory() as folder:
        files = {size: pathlib.Path(folder) / f"{size}.toml" for size in sizes}
        for size, path in files.items():
            crowd(path, size)
        for _ in range(ROUNDS):
            for size, path in files.items():
                with Emulator("--world", path) as emulator:
                    seconds[size].append(emulator.ready)
    few, many = (statistics.median(seconds[size]) for size in sizes)
    budget("`--world` of 100,000 customers until the port answers", many, 2, 0.1, "{:.2f} s".format)
    # Ten times the customers: as much more, and something for larger maps. When each was compared with all it was a hundred.
    budget("the same ÷ that of 10,000 customers", many / few, 14, 0.15, "{:.1f}".format)


PARTS = {"register": register, "world": world}

if __name__ == "__main__":
    print("| what | measured | budget | |\n| --- | ---: | ---: | --- |")
    for part in sys.argv[2:] or PARTS:
        PARTS[part]()
    sys.exit(1 if missed else 0)
