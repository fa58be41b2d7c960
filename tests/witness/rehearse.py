"""deploy/rehearsal/rehearse.sh with a kubectl that has no pods: what a rehearsal that fails half way leaves in the emulator.

Usage: rehearse.py PROGRAM

tests/kubernetes runs the same script to its end, in a cluster.
"""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

from processes import Emulator

PROGRAM = os.path.abspath(sys.argv.pop(1))
SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "deploy/rehearsal/rehearse.sh"
BUYER = "111122223333"
# A script that does not end by then is hung.
LIMIT = 60
KUBECTL = """#!/bin/sh
case "$*" in
*port-forward*) echo "Forwarding from {address} -> 8090"; exec sleep 600 ;;
esac
"""


class Rehearse(unittest.TestCase):
    def setUp(self):
        self.emulator = self.enterContext(Emulator(PROGRAM))
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.forward_to(self.emulator.endpoint.removeprefix("http://"))

    def forward_to(self, address):
        kubectl = self.folder / "kubectl"
        kubectl.write_text(KUBECTL.format(address=address))
        kubectl.chmod(0o755)

    def start(self, *arguments, patience):
        environment = {"PATH": f"{self.folder}:{os.environ['PATH']}", "PATIENCE": str(patience)}
        # In a process group of its own, as from a terminal: Ctrl-C goes to the whole group.
        return subprocess.Popen([SCRIPT, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0)

    def fails(self, *arguments):
        with self.start(*arguments, patience=1) as script:
            said, error = script.communicate(timeout=LIMIT)
        self.assertEqual(script.returncode, 1, said + error)
        return error

    def subscribed(self):
        (buyer,) = [customer for customer in self.emulator.admin("world")["customers"] if customer["account_id"] == BUYER]
        return {of_product["product_code"]: of_product["subscribed"] for of_product in buyer["licenses"]}

    def test_a_buyer_who_was_refused_is_subscribed_again(self):
        before = self.subscribed()
        self.assertIn("no refusal of every pod", self.fails("not-entitled", "app=shop"))
        self.assertEqual(self.subscribed(), before)
        received = lambda: [one["received"] for one in self.emulator.admin("licenses")["licenses"]]  # noqa: E731
        before = received()
        self.assertIn("no refusal of every pod", self.fails("not-entitled", "app=shop", self.emulator.facts["product_id"]))
        self.assertEqual(received(), before)

    def test_faults_are_taken_back(self):
        self.assertIn("no ready pods", self.fails("throttled", "app=shop"))
        self.assertEqual(self.emulator.admin("faults")["rules"], [])

    def test_an_interrupted_rehearsal_ends_as_one_that_fails(self):
        before = self.subscribed()
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(number), self.start("not-entitled", "app=shop", patience=LIMIT) as script:
                until = time.monotonic() + LIMIT
                while self.subscribed() == before:
                    self.assertLess(time.monotonic(), until)
                os.killpg(script.pid, number)
                # It ended by the signal, and not because PATIENCE was over.
                self.assertEqual(script.wait(LIMIT), 128 + number)
                self.assertEqual(self.subscribed(), before)

    def test_an_emulator_that_does_not_answer_is_not_waited_for(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            self.forward_to(f"127.0.0.1:{silent.getsockname()[1]}")
            with self.start("ledger", patience=1) as script:
                _, error = script.communicate(timeout=LIMIT)
            self.assertIn("timed out", error)
            self.assertNotEqual(script.returncode, 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
