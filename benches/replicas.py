#!/usr/bin/env python3
"""How much usage replicas of tollgate-saas take, what the database pays for it, and an hour of 50,000 customers: docs/LOAD.md.

Usage: replicas.py EMULATOR PROGRAM EXAMPLES [PART…]

EMULATOR is a release build of `tollgate` with the emulator, PROGRAM one of `tollgate-saas`, EXAMPLES the folder of
`cargo build --release --examples`. Parts: intake (one, two and four replicas, 64 clients together), ratio (one
replica beside a bare loop of the same statements), hour; without PART, all. BENCH_FOLDER is a
folder on the disk that the database uses; the default is the folder for temporary files. CUSTOMERS changes the number of customers of the hour.

Clients, replicas and the database share this machine, so the CPU time per event says more than the rate.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, "..", "tests", "campaign"))
from memory import Books, declare, licensed, names  # noqa: E402
from postgres import PASSWORD, ROLE, Servers  # noqa: E402
from relay import Relay  # noqa: E402
from stand import Emulator, Sidecar, exchange, wait  # noqa: E402

EMULATOR, PROGRAM, EXAMPLES = map(os.path.abspath, sys.argv[1:4])
LOAD = os.path.join(EXAMPLES, "load")
CLIENTS, SECONDS, ROUNDS = 64, 8, 3
CUSTOMERS = int(os.environ.get("CUSTOMERS", "50000"))
QUOTA, CALL_SECONDS = 10, 0.3
# How long sending is measured. All of it takes ten minutes.
SENDING_SECONDS = 240
# The chart's memory limit of a replica, in MiB.
MEMORY_MAX = 64
# As a small database has them; the fixture's are for small disks.
USUAL = {"shared_buffers": "'256MB'", "max_wal_size": "'1GB'", "wal_keep_size": "0"}
TICKS = os.sysconf("SC_CLK_TCK")

# A clock that the bench moves, as the campaign does.
CLOCK = """
CREATE SCHEMA bench;
GRANT USAGE ON SCHEMA bench TO PUBLIC;
CREATE TABLE bench.clock (ahead_ms bigint NOT NULL);
INSERT INTO bench.clock VALUES (0);
GRANT SELECT ON bench.clock TO PUBLIC;
CREATE OR REPLACE FUNCTION tollgate.ledger_now() RETURNS bigint LANGUAGE sql VOLATILE
    AS $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint + ahead_ms FROM bench.clock $$;
"""

missed = 0


def row(what, measured, goal="", reached=True):
    global missed
    missed += not reached
    print(f"| {what} | {measured} | {goal}{'' if reached else ' MISSED'} |", flush=True)


def cpu(pid):
    """Seconds of CPU time of a process and of its ended children."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return sum(map(int, stat.read().rsplit(")", 1)[1].split()[11:15])) / TICKS
    except OSError:
        return 0.0


class Stand:
    """A database on a disk, an emulator, and replicas."""

    def __init__(self, replicas, **settings):
        self.count, self.settings, self.stack = replicas, settings, contextlib.ExitStack()

    def __enter__(self):
        disk = self.stack.enter_context(tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")))
        os.chmod(disk, 0o777)
        os.environ["DISK"] = disk
        self.servers = self.stack.enter_context(Servers(room=""))
        self.server = self.servers.server(5600)
        for setting, value in USUAL.items():
            self.server.sql(f"ALTER SYSTEM SET {setting} = {value}")
        self.server.stop("fast")
        self.server.start()
        self.server.sql(f"CREATE DATABASE ledger OWNER {ROLE}")
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        url = os.path.join(folder, "url")
        self.url = f"postgres://{ROLE}:{PASSWORD}@127.0.0.1:{self.server.port}/ledger"
        with open(url, "w") as file:
            file.write(self.url + "?sslmode=disable")
        self.emulator = self.stack.enter_context(Emulator(EMULATOR, "--quotas"))
        self.emulator.admin("clock", {"now": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
        self.relay = self.stack.enter_context(Relay(self.emulator.endpoint, delay=CALL_SECONDS))
        self.replicas = []
        for number in range(self.count):
            os.mkdir(own := os.path.join(folder, str(number)))
            settings = {"TOLLGATE_LEDGER_URL_FILE": url, "TOLLGATE_POD_UID": f"replica-{number}", **self.settings}
            self.replicas.append(self.stack.enter_context(
                Sidecar(PROGRAM, self.emulator, "saas", own, endpoint=self.relay.endpoint, **settings)))
        for replica in self.replicas:
            replica.wait_for("entitled")
        wait("a ledger", lambda: self.reconciliation() is not None)
        self.server.sql(CLOCK, "ledger")
        return self

    def __exit__(self, *error):
        return self.stack.__exit__(*error)

    def reconciliation(self):
        answer = exchange(self.replicas[0].app, "GET", "/v1/reconciliation")
        return json.loads(answer[2]) if answer and answer[0] == 200 else None

    def sql(self, statement):
        return self.server.sql(statement, "ledger")[0][0]

    def database_cpu(self):
        """Seconds of CPU time of all processes of the server. Those that end meanwhile are counted with their parent."""
        with open(f"/proc/{self.postmaster()}/task/{self.postmaster()}/children") as children:
            pids = children.read().split()
        return cpu(self.postmaster()) + sum(map(cpu, pids))

    def postmaster(self):
        folder = self.sql("SHOW data_directory")
        with open(os.path.join(folder, "postmaster.pid")) as file:
            return int(file.readline())

    # Called by `Books`, as `check` and `sidecar` of a `Keeper`.
    @property
    def sidecar(self):
        return self.replicas[0]

    def check(self):
        for replica in self.replicas:
            assert replica.alive(), "a replica ended"

    def load(self, clients, seconds, customers, events=1):
        """Starts clients of all replicas."""
        share = max(clients // len(self.replicas), 1)
        return [
            subprocess.Popen([LOAD, replica.app, str(share), str(seconds), str(customers), str(events)], stdout=subprocess.PIPE, text=True)
            for replica in self.replicas
        ]

    def loaded(self, processes):
        """Acknowledgements a second of all, the worst 99th percentile, and the longest."""
        lines = [process.communicate()[0] for process in processes]
        assert all(process.returncode == 0 for process in processes), "a client was not acknowledged"
        figures = [list(map(float, line.split())) for line in lines]
        return sum(rate for rate, _, _ in figures), max(p99 for _, p99, _ in figures), max(longest for _, _, longest in figures)


def intake():
    for replicas in (1, 2, 4):
        for events in (1, 100):
            crowd(replicas, events, 1000)


def ratio():
    """The loop and the replica take turns on one database; the loop's events are of one customer, or three: benches/take.rs."""
    loop = loop_program()
    for events, customers in ((1, 1), (100, 3)):
        with Stand(1) as stand:
            ratios, rates = [], []
            for _ in range(ROUNDS + 1):
                done = subprocess.run([loop, stand.url, str(events), str(SECONDS)], capture_output=True, text=True, check=True)
                bare = float(done.stdout)
                rate = events * stand.loaded(stand.load(CLIENTS, SECONDS, customers, events))[0]
                ratios.append(rate / bare)
                rates.append(f"{rate:,.0f} / {bare:,.0f}")
            middle = sorted(ratios[1:])[ROUNDS // 2]
            row(f"{events} event{'s' * (events > 1)} a request through HTTP, beside the bare loop", f"{middle:.2f} ({', '.join(rates[1:])})", "≥ 0.4", middle >= 0.4)


def loop_program():
    """The bare loop, which is a part of a benchmark of the engine."""
    command = ["cargo", "bench", "--locked", "--package", "tollgate-postgres", "--bench", "take", "--no-run", "--message-format", "json"]
    lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    return next(found for line in lines if (found := json.loads(line).get("executable")) and "/take-" in found)


def crowd(replicas, events, customers):
    """64 clients of all replicas."""
    with Stand(replicas) as stand:
        rounds = []
        # The first round fills caches.
        for _ in range(ROUNDS + 1):
            before = [cpu(replica.process.pid) for replica in stand.replicas], stand.database_cpu(), int(stand.sql("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))
            rate, p99, longest = stand.loaded(stand.load(CLIENTS, SECONDS, customers, events))
            taken = rate * SECONDS * events
            own = sum(cpu(replica.process.pid) for replica in stand.replicas) - sum(before[0])
            database = stand.database_cpu() - before[1]
            wal = int(stand.sql("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")) - before[2]
            rounds.append((rate * events, p99, longest, own / taken, database / taken, wal / taken))
        rate, p99, _, own, database, wal = (sorted(values)[ROUNDS // 2] for values in zip(*rounds[1:]))
        keys = float(stand.sql("SELECT sum(pg_total_relation_size(relid))::float / (SELECT count(*) FROM tollgate.keys)"
                               " FROM pg_partition_tree('tollgate.keys')"))
        hwm = max(replica.status("VmHWM") for replica in stand.replicas) / 1024
        row(f"{replicas} replica{'s' * (replicas > 1)}, {events} event{'s' * (events > 1)} a request, {customers} customer{'s' * (customers > 1)}: events/s",
            f"{rate:,.0f}; p99 {p99 * 1e3:.1f} ms; CPU of an event {own * 1e6:.1f} µs in the replica and {database * 1e6:.1f} µs in the database; "
            f"WAL {wal:.0f} bytes; a key {keys:.0f} bytes; a replica's peak {hwm:.1f} MiB", f"peak ≤ {MEMORY_MAX} MiB", hwm <= MEMORY_MAX)


def hour():
    dimensions = names(3)
    with Stand(2, TOLLGATE_DIMENSIONS=",".join([*dimensions, "requests"])) as stand:
        # Not the last minutes of an hour: usage then counts for two hours.
        second = time.time() % 3600
        if second > 2400:
            ahead = 3600 - second + 300
            move(stand, ahead)
        stand.emulator.admin("products", {"product_code": "demosaas", "dimensions": [*dimensions, "requests"]})
        declare(stand.emulator, CUSTOMERS)
        for account in range(8 * 10**11, 8 * 10**11 + 100):
            stand.emulator.admin("customers", {"account_id": str(account), "subscribed": True})
        books = Books()
        began = time.monotonic()
        books.feed(stand, ({"dimension": name, "customer": licensed(number)} for number in range(CUSTOMERS) for name in dimensions))
        fed = time.monotonic() - began
        peak = [replica.status("VmHWM") / 1024 for replica in stand.replicas]
        row(f"{CUSTOMERS:,} customers × 3 dimensions: all in the open hour", f"{fed:.1f} s; peaks {peak[0]:.1f} and {peak[1]:.1f} MiB")
        alone = stand.loaded(stand.load(8, 10, 100))
        row("8 clients beside nothing: acknowledgement, p99 and longest", f"{alone[1] * 1e3:.1f} ms, {alone[2] * 1e3:.1f} ms")
        move(stand, 3600)
        clients = stand.load(8, SENDING_SECONDS + 60, 100)
        began, ready = time.monotonic(), None
        closed = "SELECT count(*) FROM tollgate.sums, tollgate.ledger WHERE hour <= closed"
        wait("the end of the hour", lambda: int(stand.sql("SELECT count(*) FROM tollgate.records")) > 0, 120)
        started = time.monotonic()
        wait("sealing", lambda: stand.sql(closed) == "0", 300)
        sealed = time.monotonic()
        records = int(stand.sql("SELECT (SELECT count(*) FROM tollgate.records) + (SELECT count(*) FROM tollgate.settled)"))
        time.sleep(max(0.0, started + SENDING_SECONDS - time.monotonic()))
        calls = list(stand.relay.passed)
        rate, _, longest = stand.loaded(clients)
        row("sealed beside 8 clients", f"{records:,} records in {sealed - started:.1f} s")
        row("the longest acknowledgement beside sealing and sending", f"{longest * 1e3:.0f} ms, {rate:,.0f} acknowledgements/s", "≤ 100 ms", longest <= 0.1)
        def spread_of(calls):
            return (len(calls) - 1) / (calls[-1] - calls[0]) / QUOTA

        spread = spread_of(calls)
        early, late = ([at for at in calls if (at < sealed) == first] for first in (True, False))
        sizes = int(stand.sql("SELECT count(*) FROM tollgate.settled")) / max(len(stand.relay.passed), 1)
        row("calls a second beside the quota", f"{spread:.3f} ({spread_of(early):.3f} while the hour was sealed, {spread_of(late):.3f} after it); {sizes:.1f} records a call; answers by status {dict(stand.relay.statuses)}", "≥ 0.97", spread >= 0.97)
        room = float(stand.sql("SELECT sum(pg_total_relation_size(relid))::float / (SELECT count(*) FROM tollgate.settled)"
                               " FROM pg_partition_tree('tollgate.settled')"))
        row("a settled record with its indexes", f"{room:.0f} bytes")
        peaks = [replica.status("VmHWM") / 1024 for replica in stand.replicas]
        row("memory of the replicas, peak", ", ".join(f"{peak:.1f} MiB" for peak in peaks), f"≤ {MEMORY_MAX} MiB", max(peaks) <= MEMORY_MAX)
        assert stand.reconciliation() is not None


def move(stand, seconds):
    stand.emulator.admin("clock", {"advance": f"{round(seconds)}s"})
    stand.sql(f"UPDATE bench.clock SET ahead_ms = ahead_ms + {round(seconds * 1000)} RETURNING 1")


PARTS = {"intake": intake, "ratio": ratio, "hour": hour}

if __name__ == "__main__":
    unknown = set(sys.argv[4:]) - set(PARTS)
    if unknown:
        sys.exit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    print("| what | measured | goal |\n| --- | --- | --- |", flush=True)
    for part in sys.argv[4:] or PARTS:
        PARTS[part]()
    sys.exit(1 if missed else 0)
