#!/usr/bin/env python3
"""Measures the emulator's speed and the sidecar's durable intake, as ratios within one run.

Usage: usage.py PROGRAM EXAMPLES [PART…]

PROGRAM is a release build with the emulator; EXAMPLES is the folder of `cargo build --release --examples`: `bare_ledger` commits
the same rows with rusqlite alone, or with the ledger alone, and `load` runs 64 clients. Parts: emulator, intake, slow-disk, million;
without PART, all of them. BENCH_FOLDER is a folder on the disk to measure; the default is the folder for temporary files. Needs wrk,
taskset, openssl, and for slow-disk a C compiler.

slow-disk runs the intake part with every fsync lasting 3 ms (benches/slow_disk.c), for the sidecar and for the bare loop: the goals
were set on such a disk. In the intake part the disk is as fast as it is: on a fast one HTTP is the limit, not the commit.
"""

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

# benches/emulator.py imports this file, and uses no examples.
PROGRAM, EXAMPLES = (*sys.argv[1:3], "")[:2]
BARE_LOOP, LOAD = (os.path.join(EXAMPLES, name) for name in ("bare_ledger", "load"))
SECONDS = 5
# Each ratio is measured this many times, in turn with the others; the median is printed.
ROUNDS = 5
# Seconds for one answer: if a program hangs, the run fails.
PATIENCE = 30
# The load generator runs on one core, and the measured program on another.
SERVED, LOADING = ["taskset", "-c", "0"], ["taskset", "-c", "1"]

AUTHORIZATION = (
    "AWS4-HMAC-SHA256 Credential=pod-%d/20261124/us-east-1/aws-marketplace/aws4_request, "
    "SignedHeaders=content-type;host;x-amz-date;x-amz-target, Signature=" + "0" * 64
)

SIGNED = """
local count = 0
request = function()
  count = count + 1
  local headers = {
    ["content-type"] = "application/x-amz-json-1.1",
    ["x-amz-target"] = "AWSMPMeteringService.%(operation)s",
    ["x-amz-date"] = "%(date)s",
    ["authorization"] = string.format('%(authorization)s', count %% %(pods)d),
  }
  return wrk.format("POST", "/", headers, '%(body)s')
end
"""

REFUSED = """
local count = 0
request = function()
  count = count + 1
  local event = string.format('{"id":"refused-%d","dimension":"requests","quantity":"-1"}', count)
  return wrk.format("POST", "/v1/usage", {["content-type"] = "application/json", ["Host"] = "localhost"}, event)
end
"""


MANY = """
local count = 0
request = function()
  local events = {}
  for i = 1, 100 do
    count = count + 1
    events[i] = string.format('{"id":"many-%d","dimension":"requests","quantity":"0.5"}', count)
  end
  return wrk.format("POST", "/v1/usage", {["content-type"] = "application/json", ["Host"] = "localhost"},
    "[" .. table.concat(events, ",") .. "]")
end
"""


def wrk(url, script, connections, seconds=SECONDS, refusals=False):
    """Requests a second, and the output of wrk. Unless `refusals` is set, a request without a 2xx or 3xx answer ends the program."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = [*LOADING, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", file.name, url]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    failed = sum(int(number) for number in re.findall(r"Non-2xx or 3xx responses: (\d+)", text))
    failed += sum(map(int, re.findall(r"(?:connect|read|write|timeout) (\d+)", text)))
    if failed and not refusals:
        sys.exit(f"{failed} requests failed, so nothing was measured:\n{text}")
    return float(re.search(r"Requests/sec: +([\d.]+)", text)[1]), text


def resident(pid):
    """The process's resident memory in MiB."""
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) / 1024


def admin(endpoint, path, order):
    request = urllib.request.Request(f"{endpoint}/_emulator/{path}", data=json.dumps(order).encode())
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return json.load(answer)


def row(what, measured, goal):
    print(f"| {what} | {measured} | {goal} |", flush=True)


def emulator_start():
    """Milliseconds until the emulator prints its ready line: the median of 20 starts with existing keys."""
    folder, times = tempfile.mkdtemp(), []
    for _ in range(21):
        began = time.perf_counter()
        command = [PROGRAM, "emulator", "--addr", "127.0.0.1:0", "--json", "--state", folder]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        process.stdout.readline()
        times.append((time.perf_counter() - began) * 1e3)
        process.terminate()
        process.wait()
    # The first start makes the keys.
    first, rest = times[0], sorted(times[1:])
    row("emulator: ready, once keys exist", f"{rest[len(rest) // 2]:.1f} ms (most {rest[-1]:.1f}; the first start {first:.0f})", "< 100 ms")


def openssl_signs():
    """Signatures a second by `openssl speed`. Its columns differ between versions; the line before the figures names them."""
    command = [*SERVED, "openssl", "speed", "-seconds", "3", "rsa3072"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    column = lines[-2].split().index("sign/s") + len("rsa 3072 bits".split())
    return float(lines[-1].split()[column])


def emulator_speed():
    folder = tempfile.mkdtemp()
    process = subprocess.Popen(
        [*SERVED, PROGRAM, "emulator", "--addr", "127.0.0.1:0", "--json", "--state", folder],
        stdout=subprocess.PIPE, text=True,
    )
    facts = json.loads(process.stdout.readline())
    endpoint = facts["endpoint"]
    now = int(time.time())
    date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    authorization = AUTHORIZATION.replace("20261124", date[:8])

    def script(operation, body, pods):
        values = {"operation": operation, "date": date, "authorization": authorization, "pods": pods, "body": body}
        return SIGNED % values

    meter = json.dumps(
        {"ProductCode": "demometered", "Timestamp": now, "UsageDimension": "requests", "UsageQuantity": 1}
    )
    rate, _ = wrk(endpoint, script("MeterUsage", meter, 1000), 16)
    row("emulator: MeterUsage calls/s on one core (1,000 pods)", f"{rate:,.0f}", "≥ 5,000")
    before = resident(process.pid)
    calls = 0
    while calls < 1_000_000:
        rate, _ = wrk(endpoint, script("MeterUsage", meter, 1000), 16, 20)
        calls += int(rate * 20)
    row(f"emulator: resident memory before and after {calls:,} more calls",
        f"{before:.0f} → {resident(process.pid):.0f} MiB", "bounded")
    # Each call is of another pod: the emulator remembers 100,000 pods and refuses the calls of more.
    strangers, _ = wrk(endpoint, script("MeterUsage", meter, 10**9), 16, 10, refusals=True)
    row(f"emulator: resident memory after {int(strangers * 10):,} calls, each of another pod",
        f"{resident(process.pid):.0f} MiB", "bounded")
    for path, goal in (("ledger/hours", "stated"), ("ledger", "stated")):
        began = time.perf_counter()
        with urllib.request.urlopen(f"{endpoint}/_emulator/{path}") as answer:
            size = len(answer.read())
        took = time.perf_counter() - began
        row(f"emulator: /_emulator/{path} of that bill ({size / 2**20:.1f} MiB)", f"{took * 1e3:.0f} ms", goal)
    process.terminate()
    process.wait()


# A rule of the dimension that is measured, beside its sum.
MAXIMUM = {"TOLLGATE_DIMENSION": "{ requests = { aggregation = 'max', per_pod = true } }"}


class Bench:
    """An emulator, and a sidecar in mode metered on a disk."""

    def __init__(self, socket=False, **preload):
        self.folder = tempfile.mkdtemp(dir=os.environ.get("BENCH_FOLDER"))
        self.preload = preload
        self.emulator = subprocess.Popen(
            [PROGRAM, "emulator", "--addr", "127.0.0.1:0", "--json", "--state", self.folder + "/emulator"],
            stdout=subprocess.PIPE, text=True,
        )
        self.facts = json.loads(self.emulator.stdout.readline())
        os.mkdir(self.folder + "/state")
        self.listens = f"unix:{self.folder}/app" if socket else "127.0.0.1:0"
        self.start()

    def start(self):
        environment = {
            "PATH": os.environ["PATH"], "TOLLGATE_MODE": "metered", "TOLLGATE_PRODUCT_CODE": "demometered",
            "TOLLGATE_DIMENSIONS": "requests", "TOLLGATE_ENDPOINT_URL": self.facts["endpoint"], "TOLLGATE_CLOCK": self.facts["clock"],
            "TOLLGATE_PROBE_ADDR": "127.0.0.1:0", "TOLLGATE_APP_ADDR": self.listens,
            "TOLLGATE_STATE_DIR": self.folder + "/state", "TOLLGATE_POD_UID": "bench",
            "TOLLGATE_LOG_FORMAT": "json", "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "any", "AWS_EC2_METADATA_DISABLED": "true", **self.preload,
        }
        began = time.perf_counter()
        self.process = subprocess.Popen([*SERVED, PROGRAM, "run"], env=environment, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if not line.startswith("{"):
                continue
            parsed = json.loads(line)
            if parsed.get("event") == "started":
                self.app = "http://" + parsed["app_addr"]
                self.probe = "http://" + parsed["probe_addr"]
            if parsed.get("event") == "state" and parsed["state"] == "entitled":
                break
        seconds = time.perf_counter() - began
        # `cat` reads the rest of the log: a full pipe would block the sidecar.
        subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=subprocess.DEVNULL)
        return seconds

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # After a failure too: a program left running would keep the caller's terminal open and slow the next run down.
        self.kill()
        self.emulator.terminate()
        self.emulator.wait()
        shutil.rmtree(self.folder)

    def metric(self, name):
        with urllib.request.urlopen(self.probe + "/metrics", timeout=PATIENCE) as answer:
            lines = answer.read().decode().splitlines()
        return float(next((line for line in lines if line.startswith(name + " ")), "0").split()[-1])

    def commits(self):
        """The number of commits so far, and their seconds together."""
        name = "tollgate_ledger_commit_duration_seconds"
        return self.metric(name + "_count"), self.metric(name + "_sum")

    def bare(self, rows, what="bare"):
        """Rows a second of the bare loop, or with `what` "store" of the ledger alone, on the same disk."""
        folder = tempfile.mkdtemp(dir=self.folder)
        command = [*SERVED, BARE_LOOP, what, folder, str(rows), str(SECONDS)]
        environment = {**os.environ, **self.preload}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        shutil.rmtree(folder)
        return float(done.stdout)

    def load(self):
        """Acknowledgements a second of 64 clients with one event a request, and of their times the 99th percentile and the longest."""
        address = self.app.removeprefix("http://")
        done = subprocess.run([*LOADING, LOAD, address, "64", str(SECONDS)], capture_output=True, text=True, check=True)
        return map(float, done.stdout.split())

    def fsync_seconds(self):
        """The median seconds of an fdatasync after 4 KiB were written, in a process that has the same preload as the sidecar."""
        script = """
import os, sys, time
times = []
with open(sys.argv[1], "wb", buffering=0) as file:
    for _ in range(200):
        file.write(b"x" * 4096)
        began = time.perf_counter()
        os.fdatasync(file.fileno())
        times.append(time.perf_counter() - began)
print(sorted(times)[100])
"""
        command = [sys.executable, "-c", script, self.folder + "/fsync"]
        environment = {**os.environ, **self.preload}
        return float(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)


def alone(bench, disk):
    """One client, one event at a time."""
    fsync = bench.fsync_seconds()
    commits, seconds = bench.commits()
    latencies = []
    client = http.client.HTTPConnection(bench.app.removeprefix("http://"), timeout=PATIENCE)
    for index in range(500):
        event = json.dumps({"id": f"one-{index}", "dimension": "requests", "quantity": 1})
        began = time.perf_counter()
        client.request("POST", "/v1/usage", event, {"content-type": "application/json"})
        client.getresponse().read()
        latencies.append(time.perf_counter() - began)
    after, total = bench.commits()
    commit = (total - seconds) / (after - commits)
    row(f"one event alone{disk}: its commit beside one fdatasync", f"{commit / fsync:.2f} ({fsync * 1e3:.2f} ms)", "≤ 1.5")
    row(f"one event alone{disk}: the whole request, by a Python client", f"{sorted(latencies)[250] / fsync:.2f} fsyncs", "stated")
    return fsync


def middle(values):
    return sorted(values)[len(values) // 2]


def crowd(bench, disk, fsync):
    """64 clients with one event a request, by TCP and by a Unix socket; then 64 connections with 100 events a request."""
    accepted = 'tollgate_usage_events_total{dimension="requests",status="accepted"}'
    figures = {name: [] for name in ("bare", "store", "tcp", "max", "unix", "p99", "max p99", "unix p99", "group")}
    for _ in range(ROUNDS):
        figures["bare"].append(bench.bare(64))
        figures["store"].append(bench.bare(64, "store"))
        for name, p99, socket, rule in (("tcp", "p99", False, {}), ("max", "max p99", False, MAXIMUM), ("unix", "unix p99", True, {})):
            # Each starts with an empty ledger, as the loops do: the cost of an id depends on the number of ids in the ledger.
            with Bench(socket=socket, **rule, **bench.preload) as served:
                rate, slowest, _ = served.load()
                commits, _ = served.commits()
                figures["group"].append(served.metric(accepted) / commits)
            figures[name].append(rate)
            figures[p99].append(slowest)
    bare = figures["bare"]
    ratio = {name: middle([rate / loop for rate, loop in zip(figures[name], bare)]) for name in ("store", "tcp", "unix")}
    rate = {name: f"{middle(figures[name]):,.0f}" for name in ("bare", "store", "tcp", "unix")}
    row(f"a bare loop of the same statements{disk}, 64 rows a commit, rows/s", rate["bare"], "stated")
    row(f"the ledger alone{disk}, 64 events a commit: events/s; beside the bare loop", f"{rate['store']}; {ratio['store']:.2f}", "≥ 0.8")
    row(f"64 clients by TCP{disk}, one event a request, groups of {middle(figures['group']):.0f}: events/s; beside the bare loop",
        f"{rate['tcp']}; {ratio['tcp']:.2f}", "≥ 10,000; ≥ 0.6")
    maximum = middle([rate / summed for rate, summed in zip(figures["max"], figures["tcp"])])
    row(f"the same with `aggregation = \"max\"`, beside the sum{disk}", f"{middle(figures['max']):,.0f}; {maximum:.2f}", "≥ 0.95")
    row(f"the same by a Unix socket{disk}", f"{rate['unix']}; {ratio['unix']:.2f}", "≥ 0.75")
    for name, by in (("p99", "TCP"), ("unix p99", "a Unix socket")):
        p99 = middle(figures[name])
        row(f"99th percentile of an acknowledgement{disk}, by {by}", f"{p99 * 1e3:.2f} ms = {p99 / fsync:.1f} fsyncs", "≤ 4 fsyncs")
    # Requests that are refused and so need no commit: the speed of HTTP alone on this machine.
    refused, _ = wrk(bench.app, REFUSED, 64)
    row(f"requests refused, so without a commit{disk}", f"{refused:,.0f}", "stated")
    many, _ = wrk(bench.app, MANY, 64)
    loop = bench.bare(1000)
    row(f"durable intake{disk}, 64 connections, 100 events a request, events/s", f"{many * 100:,.0f}", "≥ 10,000")
    row(f"the same beside a bare loop of 1,000 rows a commit ({loop:,.0f} rows/s)", f"{many * 100 / loop:.2f}", "≥ 0.7")


def intake():
    with Bench() as bench:
        time.sleep(1)
        row("resident memory, idle with an open ledger", f"{resident(bench.process.pid):.1f} MiB", "≤ 12 MiB")
        crowd(bench, "", alone(bench, ""))


def slow_disk():
    with tempfile.TemporaryDirectory() as folder:
        library = folder + "/slow_disk.so"
        source = os.path.join(os.path.dirname(__file__), "slow_disk.c")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        with Bench(LD_PRELOAD=library, SLOW_DISK_US="3000") as bench:
            crowd(bench, ", 3 ms an fsync", alone(bench, ", 3 ms an fsync"))


def million():
    with Bench() as bench:
        bench.kill()
        empty = sorted(restart(bench) for _ in range(5))[2]
        bench.start()
        file, sent = bench.folder + "/state/usage.sqlite", 0
        before = os.path.getsize(file)
        client = http.client.HTTPConnection(bench.app.removeprefix("http://"), timeout=PATIENCE)
        while sent < 1_000_000:
            events = [{"id": f"b{sent + i}", "dimension": "requests", "quantity": 1} for i in range(1000)]
            client.request("POST", "/v1/usage", json.dumps(events), {"content-type": "application/json"})
            client.getresponse().read()
            sent += 1000
        row("resident memory after 1,000,000 events in an hour", f"{resident(bench.process.pid):.1f} MiB", "≤ 24 MiB")
        bench.kill()
        grown = os.path.getsize(file) - before
        row("growth of the ledger for 1,000,000 events with ids (33 bytes each, [SIZING](SIZING.md))", f"{grown / 2**20:.0f} MiB", "stated")
        full = sorted(restart(bench) for _ in range(5))[2]
        row("start with 1,000,000 keys beside an empty ledger", f"{full * 1e3:.0f} ms / {empty * 1e3:.0f} ms = {full / empty:.1f}", "< 10")


def restart(bench):
    """Seconds from the start of the process until the gate is open; the process is killed afterwards."""
    seconds = bench.start()
    bench.kill()
    return seconds


def emulator():
    emulator_start()
    emulator_speed()


PARTS = {"emulator": emulator, "intake": intake, "slow-disk": slow_disk, "million": million}

if __name__ == "__main__":
    print("| what | measured | goal |\n| --- | ---: | ---: |")
    for part in sys.argv[3:] or PARTS:
        PARTS[part]()
