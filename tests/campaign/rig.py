"""Tests of what the campaign of replicas stands on: the proxy that loses commits, the servers, and the comparison of the bill."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from decimal import Decimal

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from bill import TAG, Account, compare  # noqa: E402
from postgres import PASSWORD, ROLE, Bouncer, Servers  # noqa: E402
from wire import ANSWER, REQUEST, Messages, Wire, asks_for_commit, tells_of_commit  # noqa: E402

SLOT = ("111122223333", "requests")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def until(condition):
    while not condition():
        time.sleep(0.01)


class Protocol(unittest.TestCase):
    def test_messages_are_whole_however_the_bytes_arrive(self):
        stream = b"\0\0\0\x0b\0\3\0\0abc" + b"Q\0\0\0\x0bCOMMIT\0" + b"X\0\0\0\4"
        for size in range(1, len(stream)):
            messages, found = Messages(starts=True), []
            for at in range(0, len(stream), size):
                found += messages.feed(stream[at : at + size])
            self.assertEqual([kind for kind, _ in found], [b"", b"Q", b"X"])
            self.assertEqual(b"".join(message for _, message in found), stream)

    def test_commits_are_known_in_each_form(self):
        def query(text):
            return b"Q", b"Q\0\0\0\0" + text + b"\0"

        def prepared(text):
            return b"P", b"P\0\0\0\0name\0" + text + b"\0\0\0"

        for form in (query, prepared):
            for text in (b"COMMIT", b"commit;", b"UPDATE t SET x = 1; COMMIT"):
                self.assertTrue(asks_for_commit(*form(text)), text)
            for text in (b"SELECT 'COMMIT'", b"BEGIN", b"COMMIT; BEGIN", b"ROLLBACK"):
                self.assertFalse(asks_for_commit(*form(text)), text)
        self.assertTrue(asks_for_commit(b"S", b"S\0\0\0\4"))
        self.assertTrue(tells_of_commit(b"C", b"C\0\0\0\0COMMIT\0"))
        self.assertTrue(tells_of_commit(b"Z", b"Z\0\0\0\5I"))
        self.assertFalse(tells_of_commit(b"Z", b"Z\0\0\0\5T"))
        self.assertFalse(tells_of_commit(b"C", b"C\0\0\0\0ROLLBACK\0"))
        self.assertFalse(tells_of_commit(b"D", b"D\0\0\0\0COMMIT\0"))


class Comparison(unittest.TestCase):
    def compare(self, account, *shares):
        shares = [{"quantity": quantity, "tags": tags} for quantity, tags in shares]
        total = sum(Decimal(share["quantity"]) for share in shares)
        record = {"account_id": SLOT[0], "dimension": SLOT[1], "quantity": str(total), "allocations": shares}
        return compare(account, [record] if shares else [], [SLOT])[1]

    def test_an_event_with_an_id_counts_once(self):
        account = Account()
        for status in ("accepted", "duplicate", "accepted"):
            account.answered("a", SLOT, Decimal(2), status)
        self.assertEqual(self.compare(account, ("2", {})), [])
        for wrong in (("2.000001", {}), ("4", {})):
            self.assertEqual(len(self.compare(account, wrong)), 1)
        self.assertEqual(len(self.compare(account)), 1)

    def test_an_event_without_an_id_counts_as_its_answer_promises(self):
        cases = {"acknowledged": {"0": 2, "2": 0, "4": 2}, "refused": {"0": 0, "2": 2}, "unanswered": {"0": 0, "2": 0, "4": 1}}
        for fate, billed in cases.items():
            for quantity, faults in billed.items():
                account = Account()
                account.sent(7, SLOT, Decimal(2), fate)
                shares = [(quantity, {TAG: "7"})] if quantity != "0" else []
                self.assertEqual(len(self.compare(account, *shares)), faults, (fate, quantity))

    def test_what_nobody_sent_is_a_fault(self):
        self.assertEqual(len(self.compare(Account(), ("2", {TAG: "7"}))), 2)
        _, faults = compare(Account(), [{"account_id": "1", "dimension": "d", "quantity": "1", "allocations": []}], [SLOT])
        self.assertEqual(len(faults), 1)


class Rig(unittest.TestCase):
    """Against a real server, with psql as the replica."""

    @classmethod
    def setUpClass(cls):
        cls.servers = Servers()
        cls.addClassCleanup(cls.servers.__exit__)
        cls.server = cls.servers.server(free_port())
        cls.server.sql(f"CREATE DATABASE own OWNER {ROLE}")
        cls.server.sql(f"CREATE TABLE t (x text); ALTER TABLE t OWNER TO {ROLE}", "own")

    def ask(self, address, statement):
        url = f"postgres://{ROLE}:{PASSWORD}@{address[0]}:{address[1]}/own?sslmode=disable"
        done = subprocess.run(["psql", "-XqAt", url, "-c", "BEGIN", "-c", statement, "-c", "COMMIT"], capture_output=True, text=True)
        return done.returncode == 0, done.stdout + done.stderr

    def bench(self, address, statement):
        """The same by the extended protocol and without BEGIN and COMMIT, which psql 15 cannot: pgbench, once."""
        url = f"postgres://{ROLE}:{PASSWORD}@{address[0]}:{address[1]}/own?sslmode=disable"
        with tempfile.NamedTemporaryFile("w") as script:
            script.write(statement)
            script.flush()
            pgbench = [os.path.join(self.servers.programs, "pgbench"), "-n", "-M", "extended", "-t", "1", "-f", script.name, url]
            done = subprocess.run(pgbench, capture_output=True, text=True)
        return done.returncode == 0, done.stdout + done.stderr

    def rows(self, text):
        return int(self.server.sql(f"SELECT count(*) FROM t WHERE x = '{text}'", "own")[0][0])

    def test_commits_are_lost_on_either_way_and_otherwise_pass(self):
        bouncer = Bouncer(self.server, free_port())
        cases = [(server.port, write) for server in (self.server, bouncer) for write in (self.ask, self.bench)]
        for port, write in cases:
            with Wire("127.0.0.1", lambda port=port: ("127.0.0.1", port), b"INSERT") as wire:
                until(lambda: self.ask(wire.address, "SELECT")[0])
                for what, kept in ((None, 1), (ANSWER, 1), (REQUEST, 0)):
                    text = f"{what} {port} {write.__name__}"
                    if what:
                        wire.lose(what, closed_for=0.3)
                    self.assertTrue(self.ask(wire.address, "SELECT")[0], "it has no marker")
                    good, output = write(wire.address, f"INSERT INTO t VALUES ('{text}')")
                    self.assertEqual(good, what is None, output)
                    if what:
                        self.assertFalse(self.ask(wire.address, "SELECT")[0])
                        until(lambda: self.ask(wire.address, "SELECT")[0])
                        self.assertEqual((wire.pending(), wire.lost[what]), (0, 1))
                    self.assertEqual(self.rows(text), kept, text)
        bouncer.end()

    def test_a_failover_keeps_each_commit(self):
        servers = Servers()
        self.addCleanup(servers.__exit__)
        primary = servers.server(free_port())
        primary.sql(f"CREATE DATABASE own OWNER {ROLE}")
        primary.sql("CREATE TABLE t AS SELECT 'kept'", "own")
        standby = primary.standby(free_port())
        primary.sql("INSERT INTO t VALUES ('more')", "own")
        standby.pause()
        with self.assertRaises(subprocess.TimeoutExpired):
            subprocess.run(
                ["psql", "-XqAt", "-U", "postgres", "-h", servers.folder, "-p", str(primary.port), "-d", "own", "-c", "INSERT INTO t VALUES ('waits')"],
                timeout=1.0,
            )
        standby.resume()
        primary.crash()
        standby.promote()
        self.assertIn(["more"], standby.sql("TABLE t", "own"))
        primary.forget()
        standby.standby(free_port())

    def test_a_full_disk_ends_and_the_server_goes_on(self):
        servers = Servers(room="100m")
        self.addCleanup(servers.__exit__)
        server = servers.server(free_port())
        server.sql("CREATE TABLE t (x text)")
        servers.fill()
        with self.assertRaisesRegex(RuntimeError, "No space left on device"):
            server.sql("INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
        servers.free()
        if not server.running():
            server.start()
        server.sql("INSERT INTO t VALUES ('x')")


if __name__ == "__main__":
    unittest.main(verbosity=2)
