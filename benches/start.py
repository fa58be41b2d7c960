#!/usr/bin/env python3
"""Measures what a start, its round trips and an exec probe cost, as ratios within one run.

Usage: start.py RELEASED [ROUNDS]

RELEASED is the static build without the emulator, as in the image. It does not accept the emulator's signatures, so
benches/answers.c signs with a key of this run. The floors are benches/floor.c: a static C program that makes one POST and ends
at the answer, and one that makes a probe's GET. Needs a C compiler, libcrypto's headers, openssl and curl 7.75 or newer.

All rows are measured in turn, in a shuffled order, so that other work on the machine affects them alike. The exit code is 1 if a
budget is missed by more than the row's noise, which is how much the medians of two runs of one program differ. What a page fault
costs differs between machines, and with it the ratios to the floors: docs/PERFORMANCE.md says of which machine these budgets are.
"""

import asyncio
import contextlib
import os
import pathlib
import random
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
from measure import free_port  # noqa: E402

ROUNDS = 60
# Of the rows that wait for a network: what they measure is a hundred times longer than what disturbs it.
SLOW_ROUNDS = 7
# One direction of the network; a round trip takes two of them.
DELAY = 0.05
REGION = "us-east-1"
NAMES = [f"sts.{REGION}.amazonaws.com", f"metering.marketplace.{REGION}.amazonaws.com"]
SYSTEMS_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"

# AWS STS API reference, AssumeRoleWithWebIdentity.
CREDENTIALS = (
    '<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult>'
    "<Credentials><AccessKeyId>ASIA</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>"
    "<Expiration>2100-01-01T00:00:00Z</Expiration></Credentials>"
    "</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
)


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Network:
    """AWS's names behind a proxy: each tunnel takes a round trip, as a TCP connection does, and each flight of bytes in it one
    direction's delay. TLS ends here; STS is answered here, and the metering service by `answers`."""

    def __init__(self, folder, upstream):
        self.upstream, self.delay = upstream, 0.0
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(f"{folder}/aws.pem", f"{folder}/aws-key.pem")
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self.start(), self.loop).result()

    async def start(self):
        # Ports of the TLS servers by the name that a tunnel asks for.
        answerers = [self.answer_sts, self.answer_metering]
        servers = [await asyncio.start_server(answer, "127.0.0.1", 0, ssl=self.tls) for answer in answerers]
        self.ports = {name: server.sockets[0].getsockname()[1] for name, server in zip(NAMES, servers)}
        self.server = await asyncio.start_server(self.tunnel, "127.0.0.1", 0)
        return self.server.sockets[0].getsockname()[1]

    async def tunnel(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        name = head.split(b" ")[1].decode().removesuffix(":443")
        server = await asyncio.open_connection("127.0.0.1", self.ports[name])
        await asyncio.sleep(2 * self.delay)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(self.carry(reader, server[1]), self.carry(server[0], writer))

    async def carry(self, reader, writer):
        """Bytes from one side to the other, each a direction's delay after it was sent."""
        flights = asyncio.Queue()

        async def deliver():
            while flight := await flights.get():
                sent, data = flight
                await asyncio.sleep(max(0, sent + self.delay - self.loop.time()))
                writer.write(data)
            writer.close()

        delivering = asyncio.ensure_future(deliver())
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                flights.put_nowait((self.loop.time(), data))
        flights.put_nowait(None)
        with contextlib.suppress(ConnectionError):
            await delivering

    async def requests(self, reader):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                yield head + await reader.readexactly(int(lengths[0].split(b":")[1]))

    async def answer_sts(self, reader, writer):
        async for _ in self.requests(reader):
            writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(CREDENTIALS)}\r\n\r\n{CREDENTIALS}".encode())
        writer.close()

    async def answer_metering(self, reader, writer):
        async for request in self.requests(reader):
            answers = await asyncio.open_connection("127.0.0.1", self.upstream)
            answers[1].write(request)
            head = await answers[0].readuntil(b"\r\n\r\n")
            body = await answers[0].readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            writer.write(head + body)
            answers[1].close()
        writer.close()

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()


class Bench:
    def __init__(self, program, folder):
        self.program, self.folder = os.path.abspath(program), folder
        for name, libraries in [("floor", ["-static"]), ("answers", ["-lcrypto"])]:
            run("cc", "-O2", "-o", f"{folder}/{name}", str(HERE / f"{name}.c"), *libraries)
        run("openssl", "genrsa", "-out", f"{folder}/key.pem", "2048")
        run("openssl", "rsa", "-in", f"{folder}/key.pem", "-pubout", "-out", f"{folder}/1.pem")
        self.certify()
        self.answers = subprocess.Popen([f"{folder}/answers", f"{folder}/key.pem"], stdout=subprocess.PIPE, text=True)
        self.port = int(self.answers.stdout.readline())
        self.network = Network(folder, self.port)
        pathlib.Path(folder, "token").write_text("a.b.c")
        self.common = {
            "TOLLGATE_PRODUCT_CODE": "demohourly", "TOLLGATE_PUBLIC_KEYS": f"{folder}/1.pem", "TOLLGATE_STATE_DIR": "none",
            "TOLLGATE_POD_UID": "bench", "TOLLGATE_LOG_FORMAT": "json", "TOLLGATE_PROBE_ADDR": "127.0.0.1:0",
            "TOLLGATE_APP_ADDR": "127.0.0.1:0", "AWS_REGION": REGION, "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.plain = {
            **self.common, "TOLLGATE_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "any",
        }

    def certify(self):
        """A certificate for AWS's names, by an authority of this run."""
        path = self.folder
        run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{path}/ca-key.pem", "-out", f"{path}/ca.pem",
            "-days", "2", "-subj", "/CN=bench")
        run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{path}/aws-key.pem", "-out", f"{path}/aws.csr",
            "-subj", "/CN=aws")
        pathlib.Path(path, "names").write_text("subjectAltName=" + ",".join(f"DNS:{name}" for name in NAMES))
        run("openssl", "x509", "-req", "-in", f"{path}/aws.csr", "-CA", f"{path}/ca.pem", "-CAkey", f"{path}/ca-key.pem",
            "-CAcreateserial", "-days", "2", "-extfile", f"{path}/names", "-out", f"{path}/aws.pem")

    def close(self):
        self.network.close()
        self.answers.send_signal(signal.SIGTERM)
        self.answers.wait()

    @contextlib.contextmanager
    def open_gate(self, environment):
        """A sidecar whose gate is open, and the seconds from its start to the line that says so."""
        started = time.perf_counter()
        process = subprocess.Popen([self.program, "run"], env=environment, stderr=subprocess.PIPE)
        try:
            lines = []
            while True:
                line = process.stderr.readline()
                lines.append(line)
                if b'"gate":"open"' in line:
                    break
                if not line:
                    raise SystemExit(f"the gate does not open: {b''.join(lines).decode()}")
            yield time.perf_counter() - started
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()

    def start(self, **settings):
        with self.open_gate({**self.plain, **settings}) as took:
            return took

    def timed(self, *command):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={"PATH": os.environ["PATH"]})
        return time.perf_counter() - started

    def floor(self):
        return self.timed(f"{self.folder}/floor", "post", "127.0.0.1", str(self.port), "bench")

    def curl(self):
        return self.timed(
            "curl", "--silent", "--show-error", "--fail", "--aws-sigv4", f"aws:amz:{REGION}:aws-marketplace", "--user", "bench:any",
            "-H", "content-type: application/x-amz-json-1.1", "-H", "x-amz-target: AWSMPMeteringService.RegisterUsage",
            "--data", '{"ProductCode":"demohourly","PublicKeyVersion":1,"Nonce":"bench"}', f"http://127.0.0.1:{self.port}/",
        )

    def start_over_tls(self, delay):
        """From nothing to the open gate, by web identity and TLS, over a network with this delay in each direction."""
        self.network.delay = delay
        environment = {
            **self.common, "AWS_WEB_IDENTITY_TOKEN_FILE": f"{self.folder}/token", "AWS_ROLE_ARN": "arn:aws:iam::111122223333:role/bench",
            "HTTPS_PROXY": f"http://127.0.0.1:{self.network.port}", "AWS_CA_BUNDLE": f"{self.folder}/ca.pem", "HOME": "/nonexistent",
        }
        with self.open_gate(environment) as took:
            return took

    def cpu(self, *command, **environment):
        """The processor's time of one process, its start included."""
        output = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
        child = os.posix_spawn(command[0], command, environment, file_actions=output)
        _, status, usage = os.wait4(child, 0)
        assert status == 0, (command, status)
        return usage.ru_utime + usage.ru_stime


def main():
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else ROUNDS
    assert os.path.exists(SYSTEMS_AUTHORITIES), f"{SYSTEMS_AUTHORITIES} is missing: install ca-certificates"
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(sys.argv[1], folder)
        measures = {
            "start": bench.start, "floor": bench.floor, "curl": bench.curl,
            "bundle": lambda: bench.start(AWS_CA_BUNDLE=SYSTEMS_AUTHORITIES),
        }
        try:
            for measure in measures.values():
                measure()
            taken = {name: [] for name in measures}
            # In another order each time: what runs after itself finds its pages in the processor's cache.
            order = random.Random(1)
            for _ in range(rounds):
                for name in order.sample(list(measures), len(measures)):
                    taken[name].append(measures[name]())
            near, far = [], []
            for _ in range(SLOW_ROUNDS):
                near.append(bench.start_over_tls(0.0))
                far.append(bench.start_over_tls(DELAY))
            addr = f"127.0.0.1:{free_port()}"
            probes, floors = [], []
            with bench.open_gate({**bench.plain, "TOLLGATE_PROBE_ADDR": addr}):
                for _ in range(5 * rounds):
                    probes.append(bench.cpu(bench.program, "probe", "ready", TOLLGATE_PROBE_ADDR=addr))
                    floors.append(bench.cpu(f"{folder}/floor", "probe", *addr.split(":"), "/readyz"))
        finally:
            bench.close()
    start, floor, curl, bundle = (statistics.median(times) * 1000 for times in taken.values())
    near, far = (statistics.median(times) for times in (near, far))
    probe, probe_floor = (statistics.median(times) * 1000 for times in (probes, floors))
    rows = [
        ("start to open gate ÷ a static C program's POST", start / floor, f"{start:.2f} ms; {floor:.2f} ms", 2.75, 0.2),
        ("start to open gate ÷ one `curl --aws-sigv4` call", start / curl, f"{curl:.2f} ms", 0.37, 0.03),
        ("the same with `AWS_CA_BUNDLE` (the system's list) ÷ without", bundle / start, f"{bundle:.2f} ms", 1.05, 0.05),
        (
            "network round trips in a row, web identity and TLS, from nothing", (far - near) / (2 * DELAY),
            f"{far * 1000:.0f} ms with {2 * DELAY * 1000:.0f} ms each; {near * 1000:.0f} ms with none", 4, 0.1,
        ),
        ("processor time of `probe ready` ÷ a static C probe", probe / probe_floor, f"{probe:.2f} ms; {probe_floor:.2f} ms", 2.85, 0.2),
    ]
    print("| what | measured | of | at most | noise | |\n| --- | ---: | --- | ---: | ---: | --- |")
    missed = 0
    for what, measured, of, budget, noise in rows:
        missed += measured > budget + noise
        kept = "kept" if measured <= budget else "within noise" if measured <= budget + noise else "MISSED"
        print(f"| {what} | {measured:.2f} | {of} | {budget} | {noise} | {kept} |")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
