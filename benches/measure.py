#!/usr/bin/env python3
"""Measures the built binary compared with what an engineer would use instead, as ratios within one run.

Usage: measure.py PROGRAM RELEASE_PROGRAM

PROGRAM is a release build with the emulator, which stands in for AWS on loopback. RELEASE_PROGRAM is the static build
without the emulator, as in the image: its size and its memory are measured. It does not accept the emulator's
signatures, so its gate stays shut. Needs curl 7.75 or newer (--aws-sigv4), boto3 and wrk.
"""

import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS = 30
PROBE_SECONDS = 5

BOTO3 = """
import boto3, os
client = boto3.client("meteringmarketplace", endpoint_url=os.environ["ENDPOINT"])
client.register_usage(ProductCode="demohourly", PublicKeyVersion=1, Nonce="benchmark")
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(port, path):
    """The answer to one GET, at most 4 KiB of it; empty if the connection is refused."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as stream:
            stream.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
            return stream.recv(4096)
    except ConnectionRefusedError:
        return b""


def ask(port, path):
    """The status of one GET, or None if the connection is refused."""
    answer = get(port, path)
    return int(answer.split(b" ")[1]) if answer else None


def post(endpoint, path, body):
    host, port = endpoint.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as stream:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        stream.sendall((head + body).encode())
        assert stream.recv(64).startswith(b"HTTP/1.1 200"), (path, body)


class Bench:
    def __init__(self, program):
        self.program = program
        self.folder = tempfile.mkdtemp()
        self.emulator = subprocess.Popen(
            [program, "emulator", "--addr", "127.0.0.1:0", "--json", "--state", self.folder + "/emulator"],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.facts = json.loads(self.emulator.stdout.readline())
        self.endpoint = self.facts["endpoint"]
        self.environment = {
            "PATH": os.environ["PATH"],
            "ENDPOINT": self.endpoint,
            "TOLLGATE_PRODUCT_CODE": "demohourly",
            "TOLLGATE_PUBLIC_KEYS": self.facts["public_keys"],
            "TOLLGATE_ENDPOINT_URL": self.endpoint,
            "TOLLGATE_STATE_DIR": "none",
            "TOLLGATE_POD_UID": "benchmark",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "benchmark",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def close(self):
        self.emulator.send_signal(signal.SIGTERM)
        self.emulator.wait()
        shutil.rmtree(self.folder)

    def sidecar(self, core=None, program=None, **settings):
        port = free_port()
        command = [program or self.program, "run"]
        if core is not None:
            command = ["taskset", "-c", str(core), *command]
        environment = {**self.environment, "TOLLGATE_PROBE_ADDR": f"127.0.0.1:{port}", **settings}
        environment = {name: value for name, value in environment.items() if value is not None}
        return port, subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)

    def start_to_ready(self, **settings):
        started = time.perf_counter()
        port, process = self.sidecar(**settings)
        while ask(port, "/readyz") != 200:
            pass
        took = time.perf_counter() - started
        process.send_signal(signal.SIGTERM)
        process.wait()
        return took

    def start_keeping(self, **settings):
        """`start_to_ready` of a new pod that keeps its state on a disk."""
        with tempfile.TemporaryDirectory() as state:
            return self.start_to_ready(TOLLGATE_STATE_DIR=state, **settings)

    def start_of_contract(self, model):
        return self.start_keeping(
            TOLLGATE_MODE="contract", TOLLGATE_PRODUCT_ID="prod-democontract", TOLLGATE_LICENSE_MODEL=model,
            TOLLGATE_PRODUCT_CODE=None, TOLLGATE_PUBLIC_KEYS=None,
        )

    def two_fsyncs(self):
        """Seconds to create and fsync two small files on the same disk."""
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            for number in range(2):
                with open(f"{folder}/{number}", "wb") as file:
                    file.write(bytes(1000))
                    file.flush()
                    os.fsync(file.fileno())
            return time.perf_counter() - started

    def timed(self, command):
        started = time.perf_counter()
        subprocess.run(command, env=self.environment, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started

    def curl(self):
        body = '{"ProductCode":"demohourly","PublicKeyVersion":1,"Nonce":"benchmark"}'
        return self.timed([
            "curl", "--silent", "--show-error", "--fail", "--aws-sigv4", "aws:amz:us-east-1:aws-marketplace",
            "--user", "benchmark:any", "-H", "content-type: application/x-amz-json-1.1",
            "-H", "x-amz-target: AWSMPMeteringService.RegisterUsage", "--data", body, self.endpoint + "/",
        ])

    def boto3(self):
        return self.timed([sys.executable, "-c", BOTO3])

    def memory(self, program):
        """Resident and anonymous memory, in KiB, of a sidecar that has checked the answer to its registration and was probed."""
        port, process = self.sidecar(program=program)
        while not re.search(rb'"state":"(entitled|unverified)"', get(port, "/entitlement")):
            pass
        return self.probed(port, process)

    def memory_of_exec(self):
        """Resident and anonymous memory, in KiB, of `exec` after it has started its command."""
        port, app = free_port(), free_port()
        environment = {
            **self.environment, "TOLLGATE_PROBE_ADDR": f"127.0.0.1:{port}", "TOLLGATE_APP_ADDR": f"127.0.0.1:{app}",
            "TOLLGATE_MODE": "metered", "TOLLGATE_PRODUCT_CODE": "demometered", "TOLLGATE_DIMENSIONS": "requests",
            "TOLLGATE_STATE_DIR": self.folder + "/exec",
        }
        os.mkdir(environment["TOLLGATE_STATE_DIR"])
        command = [self.program, "exec", "--", "/bin/sh", "-c", "echo started; exec sleep 1000"]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout.readline() == "started\n"
        return self.probed(port, process)

    def probed(self, port, process):
        for _ in range(200):
            ask(port, "/readyz")
            ask(port, "/metrics")
        with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
            text = status.read()
        process.send_signal(signal.SIGTERM)
        process.wait()
        return [int(re.search(rf"{name}:\s+(\d+) kB", text).group(1)) for name in ("VmRSS", "RssAnon")]

    def probes(self, path, hang):
        """Answers a second of a sidecar on one core, and the number of probes that failed: no 2xx or 3xx answer, or a socket error."""
        if hang:
            post(self.endpoint, "/_emulator/faults", '{"fault":"hang"}')
        port, process = self.sidecar(core=0)
        while ask(port, "/livez") != 200 or (not hang and ask(port, "/readyz") != 200):
            pass
        report = subprocess.run(
            ["taskset", "-c", "1", "wrk", "-t1", "-c16", f"-d{PROBE_SECONDS}s", f"http://127.0.0.1:{port}{path}"],
            check=True, capture_output=True, text=True,
        ).stdout
        process.send_signal(signal.SIGTERM)
        process.wait()
        failed = re.search(r"Non-2xx or 3xx responses: (\d+)", report)
        sockets = re.search(r"Socket errors: (.*)", report)
        errors = sum(int(number) for number in re.findall(r"\d+", sockets.group(1))) if sockets else 0
        rate = float(re.search(r"Requests/sec:\s+([\d.]+)", report).group(1))
        return rate, (int(failed.group(1)) if failed else 0) + errors


def main():
    program, released = sys.argv[1:]
    bench = Bench(program)
    try:
        bench.start_to_ready(), bench.curl(), bench.boto3()
        # In turn, so that other work on the machine affects all of them alike.
        ready, curl, boto3 = [], [], []
        hourly, check, floating, fsyncs = [], [], [], []
        for _ in range(ROUNDS):
            hourly.append(bench.start_keeping())
            check.append(bench.start_of_contract("check"))
            floating.append(bench.start_of_contract("floating"))
            fsyncs.append(bench.two_fsyncs())
            ready.append(bench.start_to_ready())
            curl.append(bench.curl())
            boto3.append(bench.boto3())
        resident, anonymous = bench.memory(released)
        open_resident, _ = bench.memory(program)
        beside, beside_anonymous = bench.memory_of_exec()
        rate, failed = bench.probes("/readyz", hang=False)
        hanging_rate, hanging_failed = bench.probes("/livez", hang=True)
    finally:
        bench.close()
    ready, curl, boto3, hourly, check, floating, fsyncs = (
        statistics.median(times) * 1000 for times in (ready, curl, boto3, hourly, check, floating, fsyncs))
    rows = [
        ("process start to `/readyz` 200", f"{ready:.1f} ms", f"≤ one `curl --aws-sigv4` call ({curl:.1f} ms)", ready <= curl),
        ("the same beside a boto3 script", f"1/{boto3 / ready:.0f}", f"< 1/25 ({boto3:.0f} ms)", ready < boto3 / 25),
        (
            "process start to `/readyz` 200 in mode `contract`, `check`, beside mode `hourly` that keeps its state, too",
            f"{check / hourly:.2f}", f"≤ 1.6 ({hourly:.1f} ms)", check <= 1.6 * hourly,
        ),
        (
            "the same, `floating`, less two fsyncs", f"{(floating - fsyncs) / hourly:.2f}", f"≤ 1.6 (two fsyncs: {fsyncs:.1f} ms)",
            floating - fsyncs <= 1.6 * hourly,
        ),
        ("resident memory of the released build, idle", f"{resident / 1024:.1f} MiB", "≤ 9 MiB", resident <= 9 * 1024),
        ("of which anonymous", f"{anonymous / 1024:.1f} MiB", "≤ 2 MiB", anonymous <= 2 * 1024),
        ("resident memory of a build with the emulator, idle and open", f"{open_resident / 1024:.1f} MiB", "stated", True),
        (
            "the same, `exec` in mode `metered` beside its command (anonymous)",
            f"{beside / 1024:.1f} MiB ({beside_anonymous / 1024:.1f})", "≤ 12 MiB", beside <= 12 * 1024,
        ),
        ("probe answers a second, one core", f"{rate:,.0f}", "≥ 40,000", rate >= 40_000),
        ("probes that failed meanwhile", str(failed), "0", failed == 0),
        ("probes that failed while registration hangs", f"{hanging_failed} ({hanging_rate:,.0f}/s)", "0", hanging_failed == 0),
    ]
    size = os.path.getsize(released)
    rows.append(("static release binary without the emulator", f"{size / 2**20:.2f} MiB", "≤ 8 MiB", size <= 8 * 2**20))
    print("| what | measured | goal | |\n| --- | ---: | --- | --- |")
    for what, measured, goal, reached in rows:
        print(f"| {what} | {measured} | {goal} | {'reached' if reached else 'MISSED'} |")
    sys.exit(0 if all(reached for *_, reached in rows) else 1)


if __name__ == "__main__":
    main()
