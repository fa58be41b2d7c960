"""The forty lines that a seller would write without tollgate: they work, and they lack what README.md says they lack.

Usage: by_hand.py PROGRAM

What tollgate does in the same cases is tested elsewhere: `tests/metering/semantics.rs`, `tests/herd.rs`, `tests/gate`.
"""

import importlib.util
import os
import signal
import subprocess
import sys
import time
import unittest

from processes import Emulator

PROGRAM = sys.argv.pop(1)
sys.dont_write_bytecode = True
SCRIPT = os.path.join(os.path.dirname(__file__), "../../examples/by-hand/by_hand.py")
SOLD = ("demometered", "111122223333", "requests")
HOUR = 3600


class ByHand(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.emulator = Emulator(PROGRAM).__enter__()
        cls.addClassCleanup(cls.emulator.__exit__)
        cls.key = os.path.join(cls.emulator.facts["public_keys"], "1.pem")

    def setUp(self):
        self.emulator.admin("reset", {})
        self.environment = {
            "PATH": os.environ["PATH"],
            "AWS_ENDPOINT_URL_MARKETPLACE_METERING": self.emulator.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": self._testMethodName,
            "AWS_SECRET_ACCESS_KEY": "any",
            # One attempt for each call, because a real outage is longer than the SDK's own
            # attempts.
            "AWS_MAX_ATTEMPTS": "1",
        }
        os.environ.update(self.environment)

    def script(self):
        """The script as a module, with a client for this test's pod."""
        spec = importlib.util.spec_from_file_location("by_hand", SCRIPT)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def start(self):
        """The script as a program in front of a command."""
        command = [sys.executable, SCRIPT, "demohourly", self.key, "echo", "started"]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True)

    def fault(self, **rule):
        self.emulator.admin("faults", rule)

    def subscribed(self, subscribed):
        self.emulator.admin("customers", {"account_id": "111122223333", "subscribed": subscribed})

    def calls(self):
        return [call for call in self.emulator.admin("calls")["calls"] if call["pod"] == self._testMethodName]

    def test_it_starts_the_command_of_a_buyer_and_of_nobody_else(self):
        done = self.start()
        self.assertEqual((done.returncode, done.stdout), (0, "started\n"), done.stderr)
        self.subscribed(False)
        self.environment["AWS_ACCESS_KEY_ID"] += "-other"
        done = self.start()
        self.assertEqual((done.returncode, done.stdout), (1, ""), done.stderr)

    def test_it_refuses_a_token_that_answers_another_nonce(self):
        self.fault(fault="token", token="wrong-nonce", operation="RegisterUsage", count=1)
        self.assertFalse(self.script().entitled("demohourly", self.key))

    def test_it_reports_usage_once(self):
        usage = self.script().Usage("demometered")
        usage.add("requests", 2)
        usage.add("requests", 3)
        usage.report(time.time())
        usage.report(time.time())
        self.assertEqual(self.emulator.billed(), {SOLD: "5"})

    def test_usage_of_the_running_hour_dies_with_the_process(self):
        for ended_by in (signal.SIGTERM, signal.SIGKILL):
            code = "import by_hand, os; u = by_hand.Usage('demometered'); u.add('requests', 5); print(flush=True); u.run()"
            folder = os.path.dirname(SCRIPT)
            process = subprocess.Popen([sys.executable, "-Bc", code], env=self.environment, cwd=folder, stdout=subprocess.PIPE)
            process.stdout.readline()
            process.send_signal(ended_by)
            self.assertEqual(process.wait(), -ended_by)
            process.stdout.close()
        self.assertEqual(self.emulator.billed(), {})

    def test_a_lost_answer_is_billed_twice(self):
        usage = self.script().Usage("demometered")
        usage.add("requests", 5)
        self.fault(fault="reset-after", operation="MeterUsage", count=1)
        usage.report(time.time() - HOUR)
        usage.report(time.time())
        self.assertEqual(self.emulator.billed(), {SOLD: "10"})

    def test_a_misspelt_dimension_is_never_billed_and_nothing_says_so(self):
        usage = self.script().Usage("demometered")
        usage.add("reqests", 5)
        for hours_ago in (2, 1, 0):
            usage.report(time.time() - hours_ago * HOUR)
        self.assertEqual((self.emulator.billed(), usage.counts["reqests"]), ({}, 5))

    def test_a_throttled_start_ends_with_a_traceback_and_every_restart_asks_again(self):
        self.fault(fault="throttle", operation="RegisterUsage")
        for _ in range(3):
            done = self.start()
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertIn("ThrottlingException", done.stderr)
            self.assertIn("Traceback", done.stderr)
        self.assertEqual(len(self.calls()), 3)

    def test_the_end_of_the_subscription_goes_unnoticed(self):
        usage = self.script().Usage("demometered")
        self.subscribed(False)
        usage.add("requests", 5)
        usage.report(time.time())
        self.assertEqual((self.emulator.billed(), usage.counts["requests"]), ({}, 5))

    def test_the_announced_end_of_the_public_key_goes_unnoticed(self):
        self.emulator.admin("products", {"product_code": "demohourly", "rotate": True})
        done = self.start()
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "started\n", ""))
        self.assertIsNotNone(self.calls()[-1]["answer"]["PublicKeyRotationTimestamp"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
