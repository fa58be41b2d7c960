#!/usr/bin/env python3
"""Measures what serving costs: probes beside bare hyper, memory after a day of them, and the CPU of an idle day.

Usage: serving.py PROGRAM RELEASE_PROGRAM EXAMPLES

PROGRAM is a release build with the emulator, which stands in for AWS on loopback. RELEASE_PROGRAM is the static build without the
emulator, as in the image: its memory is measured, with a gate that stays shut. EXAMPLES is the folder of release examples, with
`bare_hyper`: hyper with the same limits, which sends as many bytes. Needs wrk and two cores.
"""

import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from measure import Bench, ask, free_port, get

# Rounds of each server in alternation, and the seconds of each.
ROUNDS, SECONDS = 7, 2

# A day of the kubelet's liveness probes, one every 10 s; `/livez` on a connection of its own, as the kubelet sends it.
PROBES_A_DAY = 8_640
APPLICATION_CONNECTIONS = 3_000
REPORTS_A_DAY = 24
IDLE_SECONDS = 30
# Between two probes whose CPU is measured: the caches are cold by then, as they are after 10 s.
PAUSE_SECONDS = 0.05
COLD_PROBES = 200

# By how much one run differs from the next: of a ratio of medians, of memory in KiB (the allocator's pages), of CPU.
RATIO_NOISE = 0.03
MEMORY_NOISE = 64
CPU_NOISE = 0.1


def memory(process):
    """Resident and anonymous memory, in KiB."""
    with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
        text = status.read()
    return [int(re.search(rf"{name}:\s+(\d+) kB", text).group(1)) for name in ("VmRSS", "RssAnon")]


def spent(process):
    """Seconds of CPU of all its threads so far, and how often they waited."""
    seconds, waits = 0, 0
    for thread in os.listdir(f"/proc/{process.pid}/task"):
        folder = f"/proc/{process.pid}/task/{thread}"
        try:
            with open(folder + "/schedstat", encoding="ascii") as stat, open(folder + "/status", encoding="ascii") as status:
                seconds += int(stat.read().split()[0]) / 1e9
                waits += int(re.search(r"\nvoluntary_ctxt_switches:\s+(\d+)", status.read()).group(1))
        except FileNotFoundError:
            pass  # The thread has ended since the folder was listed.
    return seconds, waits


def wrk(port, path, close):
    """Answers a second; every request must be answered with 200."""
    command = ["taskset", "-c", "1", "wrk", "-t1", "-c16", f"-d{SECONDS}s"]
    command += ["-H", "connection: close"] if close else []
    report = subprocess.run([*command, f"http://127.0.0.1:{port}{path}"], check=True, capture_output=True, text=True).stdout
    assert "Non-2xx" not in report and "Socket errors" not in report, report
    return float(re.search(r"Requests/sec:\s+([\d.]+)", report).group(1))


class Bare:
    """bare_hyper on one core, with a body."""

    def __init__(self, examples, body):
        self.file = tempfile.NamedTemporaryFile()
        self.file.write(body)
        self.file.flush()
        self.port = free_port()
        self.process = subprocess.Popen(
            ["taskset", "-c", "0", os.path.join(examples, "bare_hyper"), self.file.name, f"127.0.0.1:{self.port}"])
        while not get(self.port, "/"):
            assert self.process.poll() is None

    def close(self):
        self.process.kill()
        self.process.wait()
        self.file.close()


def end(process):
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0, process.returncode


def ratios(bench, examples):
    """The rate of each page over that of bare hyper, in alternation: kept connections, and a connection for each request."""
    port, process = bench.sidecar(core=0, TOLLGATE_APP_ADDR=f"127.0.0.1:{free_port()}")
    while ask(port, "/readyz") != 200:
        assert process.poll() is None
    rates = {}
    for path in ("/livez", "/readyz"):
        answer = get(port, path)
        bare = Bare(examples, answer.partition(b"\r\n\r\n")[2])
        for close in (False, True):
            ours, floor = [], []
            for _ in range(ROUNDS):
                ours.append(wrk(port, path, close))
                floor.append(wrk(bare.port, path, close))
            rates[path, close] = statistics.median(ours), statistics.median(floor)
        bare.close()
    end(process)
    return rates


def held(bench, released):
    """Memory of the released build: idle, and after a day of probes and 3,000 connections of the application."""
    app = free_port()
    port, process = bench.sidecar(program=released, TOLLGATE_APP_ADDR=f"127.0.0.1:{app}")
    while not re.search(rb'"state":"(entitled|unverified)"', get(port, "/entitlement")):
        assert process.poll() is None
    idle = memory(process)
    for _ in range(PROBES_A_DAY):
        assert get(port, "/livez")
    for _ in range(APPLICATION_CONNECTIONS):
        assert get(app, "/v1/entitlement")
    after = memory(process)
    process.send_signal(signal.SIGTERM)
    process.wait()
    return idle, after


def idle_day(bench):
    """CPU seconds of a day in mode `metered`: at rest, by probes, by reports; and how often the process wakes in an hour of rest."""
    app = free_port()
    state = tempfile.TemporaryDirectory()
    port, process = bench.sidecar(
        TOLLGATE_APP_ADDR=f"127.0.0.1:{app}", TOLLGATE_MODE="metered", TOLLGATE_PRODUCT_CODE="demometered", TOLLGATE_PUBLIC_KEYS=None,
        TOLLGATE_DIMENSIONS="requests", TOLLGATE_STATE_DIR=state.name, TOLLGATE_DRAIN_QUIET="0s",
    )
    while ask(port, "/readyz") != 200:
        assert process.poll() is None
    time.sleep(IDLE_SECONDS / 3)
    before, woken = spent(process)
    time.sleep(IDLE_SECONDS)
    after, again = spent(process)
    resting, wakes = (after - before) / IDLE_SECONDS, (again - woken) / IDLE_SECONDS
    before, _ = spent(process)
    began = time.monotonic()
    for _ in range(COLD_PROBES):
        assert get(port, "/livez")
        time.sleep(PAUSE_SECONDS)
    probe = (spent(process)[0] - before - resting * (time.monotonic() - began)) / COLD_PROBES
    # One report: the drain seals the open hour and sends it. It includes the rest of the process's end.
    body = json.dumps({"events": [{"dimension": "requests", "quantity": 1}]})
    with socket.create_connection(("127.0.0.1", app), timeout=5) as stream:
        stream.sendall((
            "POST /v1/usage HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n"
            f"content-length: {len(body)}\r\n\r\n{body}").encode())
        answer = stream.recv(4096)
    assert answer.startswith(b"HTTP/1.1 202"), answer
    before, _ = spent(process)
    process.send_signal(signal.SIGTERM)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, process.returncode
    state.cleanup()
    report = usage.ru_utime + usage.ru_stime - before
    return 86_400 * resting, PROBES_A_DAY * probe, REPORTS_A_DAY * report, 3_600 * wakes


def main():
    program, released, examples = sys.argv[1:]
    bench = Bench(program)
    try:
        rates = ratios(bench, examples)
        idle, after = held(bench, released)
        resting, probes, reports, wakes = idle_day(bench)
    finally:
        bench.close()
    rows = []
    for (path, close), (ours, floor) in rates.items():
        ratio = ours / floor
        goal, reached = ("≥ 0.95", ratio >= 0.95 - RATIO_NOISE) if not close else ("stated", True)
        kind = "a connection for each request" if close else "kept connections"
        rows.append((f"`{path}` ÷ bare hyper, {kind}", f"{ratio:.2f} ({ours:,.0f}/s)", goal, reached))
    day = resting + probes + reports
    rows += [
        ("resident memory of the released build, idle", f"{idle[0] / 1024:.1f} MiB", "≤ 6 MiB", idle[0] <= 6 * 1024 + MEMORY_NOISE),
        ("of which anonymous", f"{idle[1] / 1024:.2f} MiB", "stated", True),
        (
            "anonymous after a day of probes and 3,000 connections of the application", f"{after[1] / 1024:.2f} MiB", "≤ 0.9 MiB",
            after[1] <= 0.9 * 1024 + MEMORY_NOISE,
        ),
        (
            "CPU of an idle day: rest, probes, reports", f"{day:.2f} s ({resting:.2f}, {probes:.2f}, {reports:.2f})", "≤ 1.5 s",
            day <= 1.5 * (1 + CPU_NOISE),
        ),
        ("of which wakes in an hour of rest", f"{wakes:.0f}", "stated", True),
    ]
    print("| what | measured | goal | |\n| --- | ---: | --- | --- |")
    for what, measured, goal, reached in rows:
        print(f"| {what} | {measured} | {goal} | {'reached' if reached else 'MISSED'} |")
    print(f"\nNoise: {RATIO_NOISE} of a ratio, {MEMORY_NOISE} KiB, {CPU_NOISE:.0%} of the day's CPU; a goal counts as missed beyond it.")
    sys.exit(0 if all(reached for *_, reached in rows) else 1)


if __name__ == "__main__":
    main()
