#!/usr/bin/env python3
"""Measures the emulator's speed and the sidecar's durable intake, as ratios within one run.

Usage: usage.py PROGRAM BARE_LOOP

PROGRAM is a release build with the emulator; BARE_LOOP is `cargo build --release --example bare_ledger`, which commits the
same rows by rusqlite alone. Needs wrk, taskset and openssl.
"""

import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

PROGRAM, BARE_LOOP = sys.argv[1:3]
SECONDS = 5
# The load generator has a core of its own.
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

USAGE = """
local count, worker = 0, 0
local workers = 0
setup = function(thread) thread:set("worker", workers); workers = workers + 1 end
request = function()
  count = count + 1
  local event = string.format('{"id":"%d-%d","dimension":"requests","quantity":"0.5"}', worker, count)
  return wrk.format("POST", "/v1/usage", {["content-type"] = "application/json", ["host"] = "localhost"}, event)
end
done = function(summary, latency)
  io.write(string.format("p99 %f\\n", latency:percentile(99.0) / 1e6))
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
  return wrk.format("POST", "/v1/usage", {["content-type"] = "application/json", ["host"] = "localhost"},
    "[" .. table.concat(events, ",") .. "]")
end
"""


def wrk(url, script, connections, seconds=SECONDS):
    """Requests a second, failures, and what the script printed."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = [*LOADING, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", file.name, url]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    failed = sum(int(number) for number in re.findall(r"Non-2xx or 3xx responses: (\d+)", text))
    failed += sum(map(int, re.findall(r"(?:connect|read|write|timeout) (\d+)", text)))
    return float(re.search(r"Requests/sec: +([\d.]+)", text)[1]), failed, text


def resident(pid):
    """MiB of resident memory."""
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) / 1024


def admin(endpoint, path, order):
    request = urllib.request.Request(f"{endpoint}/_emulator/{path}", data=json.dumps(order).encode())
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def row(what, measured, goal):
    print(f"| {what} | {measured} | {goal} |", flush=True)


def emulator_start():
    """Milliseconds to the line that says it is ready: the median of starts with keys."""
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
    """Signatures a second by `openssl speed`; its versions differ in their columns, which the line before names."""
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
    rate, failed, _ = wrk(endpoint, script("MeterUsage", meter, 1000), 16)
    row("emulator: MeterUsage calls/s on one core (1,000 pods)", f"{rate:,.0f}, {failed} failed", "≥ 5,000")
    before = resident(process.pid)
    calls = 0
    while calls < 1_000_000:
        rate, failed, _ = wrk(endpoint, script("MeterUsage", meter, 1000), 16, 20)
        calls += int(rate * 20)
    row(f"emulator: resident memory before and after {calls:,} more calls",
        f"{before:.0f} → {resident(process.pid):.0f} MiB", "bounded")
    register = json.dumps({"ProductCode": "demohourly", "PublicKeyVersion": 1, "Nonce": "bench"})
    # Before and after, and the better of the two: a neighbour's load must not flatter the emulator.
    signs = openssl_signs()
    rate, failed, _ = wrk(endpoint, script("RegisterUsage", register, 1000), 16)
    signs = max(signs, openssl_signs())
    row("emulator: RegisterUsage calls/s on that core", f"{rate:,.0f}, {failed} failed", f"≥ 0.7 of {signs:,.0f} signatures")
    row("the same beside `openssl speed rsa3072`", f"{rate / signs:.2f}", "≥ 0.7")
    # Every call another pod: the emulator remembers 100,000 of them, and refuses the rest.
    strangers, _, _ = wrk(endpoint, script("MeterUsage", meter, 10**9), 16, 10)
    row(f"emulator: resident memory after {int(strangers * 10):,} calls, each of another pod",
        f"{resident(process.pid):.0f} MiB", "bounded")
    process.terminate()
    process.wait()


class Sidecar:
    def __init__(self, endpoint, clock, folder):
        environment = {
            "PATH": os.environ["PATH"], "TOLLGATE_MODE": "metered", "TOLLGATE_PRODUCT_CODE": "demometered",
            "TOLLGATE_ENDPOINT_URL": endpoint, "TOLLGATE_CLOCK": clock, "TOLLGATE_PROBE_ADDR": "127.0.0.1:0",
            "TOLLGATE_APP_ADDR": "127.0.0.1:0", "TOLLGATE_STATE_DIR": folder, "TOLLGATE_POD_UID": "bench",
            "TOLLGATE_LOG_FORMAT": "json", "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "any", "AWS_EC2_METADATA_DISABLED": "true",
        }
        began = time.perf_counter()
        self.process = subprocess.Popen([PROGRAM, "run"], env=environment, stderr=subprocess.PIPE, text=True)
        self.app = None
        for line in self.process.stderr:
            parsed = json.loads(line)
            if parsed["message"] == "tollgate started":
                self.app = "http://" + parsed["app_addr"]
                self.probe = "http://" + parsed["probe_addr"]
            if parsed["message"] == "entitlement" and parsed["state"] == "entitled":
                break
        self.start_seconds = time.perf_counter() - began

    def metric(self, name):
        with urllib.request.urlopen(self.probe + "/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return float(next(line for line in lines if line.startswith(name + " ")).split()[-1])

    def end(self):
        self.process.kill()
        self.process.wait()


def fsync_seconds(folder):
    """The median of an fsync after 4 KiB."""
    times = []
    with open(os.path.join(folder, "fsync"), "wb", buffering=0) as file:
        for _ in range(200):
            began = time.perf_counter()
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2]


def intake():
    folder = tempfile.mkdtemp(dir=os.environ.get("BENCH_FOLDER"))
    emulator = subprocess.Popen(
        [PROGRAM, "emulator", "--addr", "127.0.0.1:0", "--json", "--state", folder + "/emulator"],
        stdout=subprocess.PIPE, text=True,
    )
    facts = json.loads(emulator.stdout.readline())
    os.mkdir(folder + "/state")
    sidecar = Sidecar(facts["endpoint"], facts["clock"], folder + "/state")
    empty_start = sidecar.start_seconds
    time.sleep(1)
    row("resident memory, idle with an open ledger", f"{resident(sidecar.process.pid):.1f} MiB", "≤ 12 MiB")

    fsync = fsync_seconds(folder)
    latencies = []
    client = http.client.HTTPConnection(sidecar.app.removeprefix("http://"))
    for index in range(300):
        event = json.dumps({"id": f"one-{index}", "dimension": "requests", "quantity": 1})
        began = time.perf_counter()
        client.request("POST", "/v1/usage", event, {"content-type": "application/json"})
        client.getresponse().read()
        latencies.append(time.perf_counter() - began)
    one = sorted(latencies)[150]
    commits = sidecar.metric("tollgate_ledger_commit_duration_seconds_sum") / 300
    row("one event alone: its commit beside one fdatasync", f"{commits / fsync:.2f} ({fsync * 1e3:.2f} ms)", "≤ 1.5")
    row("one event alone: the whole request, by a Python client", f"{one * 1e3:.2f} ms", "stated")

    rate, failed, text = wrk(sidecar.app, USAGE, 64)
    p99 = float(re.search(r"p99 ([\d.]+)", text)[1])
    events = sidecar.metric('tollgate_usage_events_total{dimension="requests",status="accepted"}') - 300
    group = events / (sidecar.metric("tollgate_ledger_commit_duration_seconds_count") - 300)

    def bare(rows):
        command = [BARE_LOOP, f"{folder}/bare-{rows}.sqlite", str(rows), str(SECONDS)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    alone = bare(max(1, round(group)))
    row(f"durable intake, 64 connections, one event a request, events/s (groups of {group:.0f})", f"{rate:,.0f}, {failed} failed", "≥ 10,000")
    row(f"the same beside a bare rusqlite loop of {group:.0f} rows a commit ({alone:,.0f} rows/s)", f"{rate / alone:.2f}", "≥ 0.7")
    many, failed, _ = wrk(sidecar.app, MANY, 64)
    alone = bare(1000)
    row("durable intake, 64 connections, 100 events a request, events/s", f"{many * 100:,.0f}, {failed} failed", "≥ 10,000")
    row(f"the same beside a bare loop of 1,000 rows a commit ({alone:,.0f} rows/s)", f"{many * 100 / alone:.2f}", "≥ 0.7")
    row("99th percentile of an acknowledgement", f"{p99 * 1e3:.2f} ms = {p99 / fsync:.1f} fsyncs", "≤ 4 fsyncs")

    sent = 0
    batch = 0
    before = os.path.getsize(folder + "/state/usage.sqlite")
    while sent < 1_000_000:
        events = [{"id": f"b{batch}-{i}", "dimension": "requests", "quantity": 1} for i in range(1000)]
        request = urllib.request.Request(
            sidecar.app + "/v1/usage", data=json.dumps(events).encode(), headers={"content-type": "application/json"}
        )
        urllib.request.urlopen(request).read()
        batch += 1
        sent += 1000
    row("resident memory after 1,000,000 events in an hour", f"{resident(sidecar.process.pid):.1f} MiB", "≤ 24 MiB")
    grown = os.path.getsize(folder + "/state/usage.sqlite") - before
    row("growth of the ledger for 1,000,000 events with ids (kept 48 h)", f"{grown / 2**20:.0f} MiB", "stated")
    sidecar.end()
    again = Sidecar(facts["endpoint"], facts["clock"], folder + "/state")
    row("start with 1,000,000 keys beside an empty ledger",
        f"{again.start_seconds * 1e3:.0f} ms / {empty_start * 1e3:.0f} ms = {again.start_seconds / empty_start:.1f}", "< 10")
    again.end()
    emulator.terminate()
    emulator.wait()


if __name__ == "__main__":
    print("| what | measured | goal |\n| --- | ---: | ---: |")
    if "intake" not in sys.argv[3:]:
        emulator_start()
        emulator_speed()
    intake()
