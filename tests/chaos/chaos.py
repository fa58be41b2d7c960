"""Chaos: the sidecar against the emulator with real faults between them. Each row is a fault, a promise, and the measured result.

Usage: chaos.py PROGRAM [short] [ROW…]

Needs root: it runs in a network and a mount namespace of its own, with nft, a name server on port 53 and a small disk of its own.
`short` leaves out the rows that take long. If a promise is broken, the run ends with code 1.
"""

import contextlib
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

if os.environ.get("CHAOS_INSIDE") != "1":
    os.environ["CHAOS_INSIDE"] = "1"
    os.execvp("unshare", ["unshare", "--net", "--mount", sys.executable, *sys.argv])

from faults import NameServer, Proxy, tls
from stand import MEBIBYTE, MEMORY_MAX, Application, Cgroup, Emulator, Kubelet, Sidecar, exchange, wait

HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAM = os.path.abspath(sys.argv[1])
TLS = os.path.join(HERE, "../fixtures/tls")

ROWS = []


def row(fault, promise, long=False):
    def add(function):
        ROWS.append((function.__name__, fault, promise, long, function))
        return function

    return add


class Stand:
    """An emulator, a folder, and the processes of a row; all end with the row."""

    def __init__(self, keys):
        self.stack = contextlib.ExitStack()
        self.folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.emulator = self.stack.enter_context(Emulator(PROGRAM, "--keys", keys))
        address = self.emulator.endpoint.removeprefix("http://").rsplit(":", 1)
        self.upstream = (address[0], int(address[1]))

    def sidecar(self, mode, **settings):
        folder = settings.pop("folder", self.folder)
        return self.stack.enter_context(Sidecar(PROGRAM, self.emulator, mode, folder, **settings))

    def proxy(self, *fault, context=None):
        return self.stack.enter_context(contextlib.closing(Proxy(self.upstream, fault or ("plain", 0), context)))

    def kubelet(self, sidecar):
        return Kubelet(sidecar)


def heals(stand, fault, *codes):
    """A fault before the gate opens: the reason names it, probes are answered at once, and the gate opens when the fault ends."""
    proxy = stand.proxy(*fault)
    sidecar = stand.sidecar("hourly", endpoint=proxy.endpoint)
    with stand.kubelet(sidecar) as kubelet:
        code = sidecar.wait_for_code(*codes)
        assert sidecar.entitlement()["gate"] == "shut"
        proxy.fault = ("plain", 0)
        healed = time.monotonic()
        sidecar.wait_for("entitled")
    return f"{code}; open {time.monotonic() - healed:.0f} s after the repair; {kubelet}"


# === between the sidecar and AWS ===


@row("AWS's answers take 3 s", "the gate opens; no probe waits for AWS")
def slow_answers(stand):
    proxy = stand.proxy("delay", 3)
    sidecar = stand.sidecar("hourly", endpoint=proxy.endpoint)
    with stand.kubelet(sidecar) as kubelet:
        sidecar.wait_for("entitled")
    return str(kubelet)


@row("answers are reset after 40 bytes", "named, retried, open after the repair")
def cut_answers(stand):
    return heals(stand, ("cut", 40), "Connection", "InvalidAnswer")


@row("requests arrive, answers are lost", "named, retried, open after the repair")
def lost_answers(stand):
    return heals(stand, ("lose", 0), "Connection", "InvalidAnswer")


@row("answers trickle, a byte every half second", "given up after 10 s, open after the repair", long=True)
def trickled_answers(stand):
    return heals(stand, ("trickle", 0.5), "Timeout")


@row("connections are accepted and never answered", "given up after 10 s, open after the repair", long=True)
def silence(stand):
    return heals(stand, ("hang", 0), "Timeout")


def nft(*rules):
    text = "table inet chaos {\nchain in {\ntype filter hook input priority 0;\n" + "\n".join(rules) + "\n}\n}\n"
    subprocess.run(["nft", "delete", "table", "inet", "chaos"], capture_output=True)
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


@row("every third packet to AWS is answered with a reset (nft)", "the gate opens; the bill equals the acknowledged usage")
def resets(stand):
    proxy = stand.proxy()
    nft(f"tcp dport {proxy.port} numgen random mod 3 == 0 reject with tcp reset")
    stand.stack.callback(nft)
    sidecar, application = stand.sidecar("metered", endpoint=proxy.endpoint), Application()
    with stand.kubelet(sidecar) as kubelet:
        # About every fourth attempt succeeds, and attempts are up to 28 s apart.
        sidecar.wait_for("entitled", patience=300)
        for _ in range(3):
            application.report(sidecar, 50)
            before = attempts(sidecar)
            stand.emulator.admin("clock", {"advance": "65m"})
            wait("an attempt", lambda: attempts(sidecar) > before)
        nft()
        result = application.settle(stand.emulator, sidecar)
    return f"{result}; {attempts(sidecar)} attempts at {len(sidecar.records())} records; {kubelet}"


def attempts(sidecar):
    return sum(record["attempts"] for record in sidecar.records())


@row("packets to AWS are dropped (nft)", "ConnectTimeout after 3 s, open after the repair")
def drops(stand):
    proxy = stand.proxy()
    nft(f"tcp dport {proxy.port} drop")
    stand.stack.callback(nft)
    sidecar = stand.sidecar("hourly", endpoint=proxy.endpoint)
    with stand.kubelet(sidecar) as kubelet:
        code = sidecar.wait_for_code("ConnectTimeout")
        nft()
        sidecar.wait_for("entitled")
    return f"{code}; {kubelet}"


@row("the name server answers SERVFAIL, then refuses, then is silent", "named; no probe waits; open once names resolve")
def names(stand):
    server = stand.stack.enter_context(contextlib.closing(NameServer("fail")))
    sidecar = stand.sidecar("hourly", endpoint=f"http://metering.chaos.test:{stand.upstream[1]}")
    with stand.kubelet(sidecar) as kubelet:
        code = sidecar.wait_for_code("Dns")
        for mode in ("refuse", "silent"):
            attempts = sidecar.entitlement()["attempts"]
            server.mode = mode
            wait("another attempt", lambda: sidecar.entitlement()["attempts"] > attempts + 1)
            assert sidecar.entitlement()["gate"] == "shut"
        server.mode = "address"
        sidecar.wait_for("entitled")
    return f"{code}; {kubelet}"


@row("TLS: unknown authority, no TLS at all, cut in the handshake", "named Tls, InvalidAnswer, Connection; the gate stays shut")
def broken_tls(stand):
    certificate = tls(os.path.join(TLS, "server.pem"), os.path.join(TLS, "server-key.pem"))
    plain, unknown = stand.proxy(), stand.proxy(context=certificate)
    cutting = stand.proxy("cut", 0)
    seen = []
    for number, (endpoint, bundle) in enumerate((
        (unknown.endpoint, "other-ca.pem"), (plain.endpoint.replace("http", "https"), "ca.pem"),
        (cutting.endpoint.replace("http", "https"), "ca.pem"),
    )):
        folder = os.path.join(stand.folder, str(number))
        os.mkdir(folder)
        sidecar = stand.sidecar("hourly", endpoint=endpoint, folder=folder, AWS_CA_BUNDLE=os.path.join(TLS, bundle))
        seen.append(sidecar.wait_for_code("Tls", "InvalidAnswer", "Connection"))
        assert sidecar.entitlement()["gate"] == "shut"
    assert seen == ["Tls", "InvalidAnswer", "Connection"], seen
    trusted = stand.sidecar("hourly", endpoint=unknown.endpoint, AWS_CA_BUNDLE=os.path.join(TLS, "ca.pem"))
    trusted.wait_for("entitled")
    return f"{', '.join(seen)}; with the right AWS_CA_BUNDLE open"


# === hostile clients ===


def connect(address, wanted=True):
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=5)


class Loris:
    """This number of connections, which send a header byte by byte, and connect again when they are closed."""

    def __init__(self, address, count):
        self.address, self.count, self.closed = address, count, 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        open_ones = []
        while not self.stop.is_set():
            while len(open_ones) < self.count and not self.stop.is_set():
                with contextlib.suppress(OSError):
                    one = connect(self.address)
                    one.sendall(b"POST /v1/usage HTTP/1.1\r\nhost: localhost\r\nx-slow: ")
                    open_ones.append(one)
            for one in list(open_ones):
                try:
                    one.sendall(b"a")
                except OSError:
                    self.closed += 1
                    one.close()
                    open_ones.remove(one)
            self.stop.wait(0.5)
        for one in open_ones:
            one.close()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


@row("slow-loris, 400 connections on the probe server, 700 on the application's", "probes are answered, usage is acknowledged")
def slow_loris(stand):
    sidecar, application = stand.sidecar("metered"), Application()
    sidecar.wait_for("entitled")
    with Loris(sidecar.probe, 400) as one, Loris(sidecar.app, 700) as other, stand.kubelet(sidecar) as kubelet:
        until = time.monotonic() + 15
        while time.monotonic() < until:
            application.report(sidecar, 5)
    assert one.closed and other.closed
    return f"{one.closed + other.closed} slow connections were closed; {application.settle(stand.emulator, sidecar)}; {kubelet}"


def nonsense(rng):
    """Raw bytes that are no request, or almost one."""
    usage = b'[{"id":"x","dimension":"requests","quantity":1}]'
    head = b"POST /v1/usage HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return rng.choice([
        lambda: rng.randbytes(rng.randint(1, 4000)),
        lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(200),
        lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(50),
        lambda: b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n",
        lambda: b"GET /livez HTTP/1.1\r\n" + b"".join(b"x%d: y\r\n" % n for n in range(500)) + b"\r\n",
        lambda: head + b"content-length: 99999999999999999999\r\n\r\n" + usage,
        lambda: head + b"content-length: -1\r\n\r\n" + usage,
        lambda: head + b"content-length: 5\r\ncontent-length: 48\r\n\r\n" + usage,
        lambda: head + b"transfer-encoding: chunked\r\n\r\nffffffffffffffff1\r\n" + usage,
        lambda: head + b"transfer-encoding: chunked\r\n\r\nzz\r\n" + usage,
        lambda: head + b"transfer-encoding: xchunked\r\n\r\n" + usage,
        lambda: head + b"content-length: 2000000\r\n\r\n" + b"[" * 100000,
        lambda: head + b"content-length: 1000\r\n\r\n" + usage,
        lambda: b"GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n" * 200,
        lambda: b"GET /readyz HTTP/1.1\rhost: a\r\r",
        lambda: b"GET /readyz\x00 HTTP/1.1\r\n\r\n",
    ])()


@row("4,000 garbage connections on both servers", "no crash; unacknowledged usage is not billed")
def garbage(stand):
    sidecar, application, rng = stand.sidecar("metered"), Application(), random.Random(7)
    sidecar.wait_for("entitled")
    with stand.kubelet(sidecar) as kubelet:
        for number in range(4000):
            with contextlib.suppress(OSError), connect((sidecar.probe, sidecar.app)[number % 2]) as one:
                one.sendall(nonsense(rng))
                one.settimeout(0.02)
                if number % 5 == 0:
                    one.recv(100)
            if number % 200 == 0:
                application.report(sidecar, 5)
    assert sidecar.alive()
    return f"{application.settle(stand.emulator, sidecar)}; {kubelet}"


@row("two contradicting lengths, and a length beside chunks, as in request smuggling", "one answer to one request, or 400")
def smuggling(stand):
    sidecar = stand.sidecar("metered")
    sidecar.wait_for("entitled")
    hidden = b"GET /v1/entitlement HTTP/1.1\r\nhost: localhost\r\n\r\n"
    head = b"POST /nowhere HTTP/1.1\r\nhost: localhost\r\n"
    forms = {
        "two lengths": head + b"content-length: 0\r\ncontent-length: %d\r\n\r\n" % len(hidden) + hidden,
        "length and chunks": head + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "chunks and length": head + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        "chunks hidden by a space": head + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        "chunked twice": head + b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "another coding": head + b"transfer-encoding: gzip\r\n\r\n" + hidden,
        "a sign before the length": head + b"content-length: +5\r\n\r\n12345",
        "a folded header": head + b"content-length:\r\n 5\r\n\r\n12345",
        "two hosts": b"GET /v1/entitlement HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n\r\n",
        "another host in the target": b"GET http://evil.example/v1/entitlement HTTP/1.1\r\nhost: localhost\r\n\r\n",
    }
    for name, request in forms.items():
        with connect(sidecar.app) as one:
            one.sendall(request)
            one.shutdown(socket.SHUT_WR)
            answer = b""
            with contextlib.suppress(OSError):
                while data := one.recv(65536):
                    answer += data
        statuses = [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]
        assert len(statuses) <= 1 and all(400 <= status < 500 for status in statuses), (name, answer)
    return f"{len(forms)} forms, none answered twice or let in"


@row("10,000 idle connections on each server", "probes are answered, usage is acknowledged, memory and descriptors stay bounded")
def idle(stand):
    sidecar, application = stand.sidecar("metered"), Application()
    sidecar.wait_for("entitled")
    with stand.kubelet(sidecar) as kubelet:
        # The application's connections last, so that the measurement has the most of both.
        for address in (sidecar.probe, sidecar.app):
            held = [connect(address) for _ in range(10_000)]
            application.report(sidecar, 5)
            descriptors, anonymous = sidecar.descriptors(), sidecar.status("RssAnon")
            for one in held:
                one.close()
    assert descriptors < 256 + 512 + 64 and anonymous * 1024 < MEMORY_MAX, (descriptors, anonymous)
    return f"{descriptors} descriptors, {anonymous / 1024:.1f} MiB anonymous; {application.settle(stand.emulator, sidecar)}; {kubelet}"


# === the machine ===


@row("64 descriptors in all, idle connections on both servers", "probes are answered, usage is acknowledged and billed")
def descriptors(stand):
    sidecar, application = stand.sidecar("metered", files=64), Application()
    sidecar.wait_for("entitled")
    held = [connect((sidecar.app, sidecar.probe)[number % 2]) for number in range(200)]
    with stand.kubelet(sidecar) as kubelet:
        for _ in range(5):
            application.report(sidecar, 5)
        most = sidecar.descriptors()
        result = application.settle(stand.emulator, sidecar)
        for one in held:
            one.close()
    return f"{most} descriptors in use; {result}; {kubelet}"


@row("32 MiB of memory, 100 requests of 1,000 events at once, 300 bodies that never end", "it is not killed; the bill is exact")
def memory(stand):
    cgroup = Cgroup(MEMORY_MAX)
    stand.stack.callback(cgroup.close)
    sidecar, application = stand.sidecar("metered", cgroup=cgroup.path), Application()
    sidecar.wait_for("entitled")
    books = [Application() for _ in range(100)]
    for number, book in enumerate(books):
        book.sent = 1_000_000 * (number + 1)
    held = []
    with stand.kubelet(sidecar) as kubelet:
        for _ in range(300):
            one = connect(sidecar.app)
            one.settimeout(0.2)
            with contextlib.suppress(OSError):
                one.sendall(b"POST /v1/usage HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n")
                one.sendall(b" " * 999_000)
            held.append(one)
        threads = [threading.Thread(target=book.report, args=(sidecar, 1000)) for book in books]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for one in held:
            one.close()
    assert sidecar.alive(), "the kernel killed it"
    application.acknowledged, application.sent = sum(book.acknowledged for book in books), 1000 * len(books)
    result = application.settle(stand.emulator, sidecar)
    put_off = sum(book.put_off for book in books)
    sidecar.__exit__()
    return f"at most {cgroup.most() / MEBIBYTE:.1f} MiB, page cache included; {result}; {put_off} put off by 503; {kubelet}"


@row("stopped for 15 s (SIGSTOP), continued", "the gate is unchanged; no acknowledged usage is lost")
def stopped(stand):
    sidecar, application = stand.sidecar("metered"), Application()
    sidecar.wait_for("entitled")
    for turn in range(2):
        application.report(sidecar, 20)
        sidecar.process.send_signal(signal.SIGSTOP)
        stand.emulator.admin("clock", {"advance": "65m"})
        time.sleep(15 if turn == 0 else 2)
        sidecar.process.send_signal(signal.SIGCONT)
        assert sidecar.entitlement()["state"] == "entitled"
    return application.settle(stand.emulator, sidecar)


@row("the clock jumps: 5 h ahead, 2 h back, 90 s ahead and back", "no hour is billed twice or lost")
def jumps(stand):
    sidecar, application = stand.sidecar("metered"), Application()
    sidecar.wait_for("entitled")
    now = stand.emulator.admin("clock")["now"]
    for order in ({"advance": "5h"}, {"now": now}, {"advance": "90s"}, {"now": now}, {"advance": "1h"}, {"now": now}):
        application.report(sidecar, 20)
        stand.emulator.admin("clock", order)
        time.sleep(0.5)
    stand.emulator.admin("clock", {"advance": "5h"})
    return application.settle(stand.emulator, sidecar)


@row("the disk of the ledger is full, then has room", "503 with Retry-After, no acknowledged usage is lost, it continues by itself")
def full_disk(stand):
    disk = os.path.join(stand.folder, "disk")
    os.mkdir(disk)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=True)
    stand.stack.callback(lambda: subprocess.run(["umount", "--lazy", disk], check=True))
    sidecar, application = stand.sidecar("metered", folder=disk), Application()
    sidecar.wait_for("entitled")
    application.report(sidecar, 50)
    ballast = os.path.join(disk, "ballast")
    with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    refused = 0
    with stand.kubelet(sidecar) as kubelet:
        for number in range(40):
            event = json.dumps({"id": f"lost-{number}", "dimension": "requests", "quantity": 0, "tags": {"t": "x" * 200}})
            answer = exchange(sidecar.app, "POST", "/v1/usage", event, {"content-type": "application/json"})
            assert answer and answer[0] in (202, 503), answer
            refused += answer[0] == 503
        assert refused, "the disk was never full"
        assert sidecar.entitlement()["state"] == "entitled"
        os.remove(ballast)
        application.report(sidecar, 50)
    return f"{refused} refused; {application.settle(stand.emulator, sidecar)}; {kubelet}"


def prepare(folder):
    """Sets up loopback and an own name server, in namespaces of this run."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    resolver = os.path.join(folder, "resolv.conf")
    with open(resolver, "w") as file:
        file.write("nameserver 127.0.0.1\noptions timeout:2 attempts:1\n")
    subprocess.run(["mount", "--bind", resolver, "/etc/resolv.conf"], check=True)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 100_000), most))


def main():
    wanted = sys.argv[2:]
    short = "short" in wanted
    wanted = [name for name in wanted if name != "short"]
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        keys = os.path.join(folder, "keys")
        os.mkdir(keys)
        print("| fault | what was promised | measured |\n| --- | --- | --- |", flush=True)
        began = time.monotonic()
        for name, fault, promise, long, function in ROWS:
            if (short and long) or (wanted and name not in wanted):
                continue
            stand = Stand(keys)
            try:
                measured = function(stand)
            # A row that fails does not stop the others.
            except Exception as error:  # noqa: BLE001
                failed += 1
                measured = f"**NOT HELD**: {error!r}"
            finally:
                stand.stack.close()
            print(f"| {fault} | {promise} | {measured} |", flush=True)
        print(f"chaos: {failed} promises not held, {time.monotonic() - began:.0f} s")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
