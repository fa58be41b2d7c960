"""deploy/rehearsal/rehearse.sh with a kubectl whose pods never start: what a rehearsal that fails half way leaves in the emulator,
what it says then, the marketplace that it makes of a seller.toml, and how it compares the bill.

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
import tomllib
import unittest

from processes import Emulator

PROGRAM = os.path.abspath(sys.argv.pop(1))
SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "deploy/rehearsal/rehearse.sh"
BUYER = "111122223333"
# A script that does not end by then is hung.
LIMIT = 60
# The program that started this may ignore Ctrl-C, as a shell does for a job in the background: children inherit that, and a
# shell cannot trap what it was started with ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Every selector but this one finds no pod.
PODS = "app.kubernetes.io/instance=shop"
KUBECTL = """#!/bin/sh
case "$*" in
*port-forward*) echo "Forwarding from {address} -> 8090"; exec sleep 600 ;;
*configmap*) echo '{seller}' ;;
*logs*tollgate-await*) echo "asking AWS" ;;
*"--selector {pods} "*metadata.name*) echo shop-1 ;;
*Ready*) echo {ready} ;;
*restartCount*) printf 'tollgate %s\\ntollgate-await 0\\nshop 4\\n' {restarts} ;;
*"get pods"*jsonpath*) ;;
*"get pods"*) echo "shop-1   0/2   Init:1/2" ;;
esac
"""
METERED = """mode = "metered"   # priced by use
product_code = 'demometered'
dimensions = [
    "requests",  # of the application
    "gigabytes",
]
# entitlement_dimension = "no"
entitlement_dimension = "entitled"
"""
CONTRACT = 'mode = "contract"\nproduct_id = "{}"\nentitlements = ["users:Count:7", "premium:None", "nodes"]\n'


class Rehearse(unittest.TestCase):
    def setUp(self):
        self.emulator = self.enterContext(Emulator(PROGRAM))
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.address = self.emulator.endpoint.removeprefix("http://")
        self.forward_to(self.address)

    def forward_to(self, address, seller="", ready="False", restarts=0):
        kubectl = self.folder / "kubectl"
        kubectl.write_text(KUBECTL.format(address=address, seller=seller, pods=PODS, ready=ready, restarts=restarts))
        kubectl.chmod(0o755)

    def start(self, *arguments, patience):
        environment = {"PATH": f"{self.folder}:{os.environ['PATH']}", "PATIENCE": str(patience)}
        # In a process group of its own, as from a terminal: Ctrl-C goes to the whole group.
        return subprocess.Popen([SCRIPT, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0)

    def fails(self, *arguments, patience=2):
        with self.start(*arguments, patience=patience) as script:
            said, error = script.communicate(timeout=LIMIT)
        self.assertEqual(script.returncode, 1, said + error)
        return error

    def runs(self, *arguments):
        with self.start(*arguments, patience=LIMIT) as script:
            said, error = script.communicate(timeout=LIMIT)
        self.assertEqual(script.returncode, 0, said + error)
        return said

    def subscribed(self):
        (buyer,) = [customer for customer in self.emulator.admin("world")["customers"] if customer["account_id"] == BUYER]
        return {of_product["product_code"]: of_product["subscribed"] for of_product in buyer["licenses"]}

    def test_a_buyer_who_was_refused_is_subscribed_again(self):
        before = self.subscribed()
        self.assertIn("no refusal of every pod", self.fails("not-entitled", PODS))
        self.assertEqual(self.subscribed(), before)
        self.forward_to(self.address, CONTRACT.format(self.emulator.facts["product_id"]))
        received = lambda: [one["received"] for one in self.emulator.admin("licenses")["licenses"]]  # noqa: E731
        before = received()
        self.assertIn("no refusal of every pod", self.fails("not-entitled", PODS))
        self.assertEqual(received(), before)

    def test_a_label_that_no_pod_has_changes_nothing(self):
        for command in ("not-entitled", "throttled"):
            before = self.emulator.admin("world")
            self.assertIn("no pod in this namespace has the label app=shop; kubectl get pods --show-labels", self.fails(command, "app=shop"))
            self.assertEqual((self.emulator.admin("world"), self.emulator.admin("faults")["rules"]), (before, []))

    def test_pods_that_do_not_start_are_told(self):
        error = self.fails("throttled", PODS)
        self.assertIn("shop-1   0/2   Init:1/2", error)
        self.assertIn("shop-1: tollgate-await: asking AWS", error)

    def test_throttled_pods_do_not_restart(self):
        self.forward_to(self.address, ready="True", restarts=2)
        self.assertIn("2 restarts of tollgate's containers, not 0", self.fails("throttled", PODS))
        self.forward_to(self.address, ready="True")
        # Pods of a real product ask AWS; tests/kubernetes has such.
        self.assertIn("0 calls were throttled, not 3", self.fails("throttled", PODS))

    def test_faults_are_taken_back(self):
        self.assertIn("no ready pods", self.fails("throttled", PODS))
        self.assertEqual(self.emulator.admin("faults")["rules"], [])

    def test_an_interrupted_rehearsal_ends_as_one_that_fails(self):
        before = self.subscribed()
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(number), self.start("not-entitled", PODS, patience=LIMIT) as script:
                until = time.monotonic() + LIMIT
                while self.subscribed() == before:
                    self.assertLess(time.monotonic(), until)
                os.killpg(script.pid, number)
                # It ended by the signal, and not because PATIENCE was over.
                self.assertEqual(script.wait(LIMIT), 128 + number)
                self.assertEqual(self.subscribed(), before)

    def test_the_marketplace_is_made_of_the_sellers_file(self):
        def world(seller):
            (self.folder / "seller.toml").write_text(seller)
            made = tomllib.loads(self.runs("world", str(self.folder / "seller.toml")))
            (self.folder / "world.toml").write_text(self.runs("world", str(self.folder / "seller.toml")))
            # The emulator takes it.
            with Emulator(PROGRAM, "--world", str(self.folder / "world.toml")):
                return made

        buyer = [{"account_id": BUYER, "subscribed": True}]
        dimensions = ["requests", "gigabytes", "entitled"]
        product = {"product_code": "demometered", "pricing": "metered", "dimensions": dimensions}
        self.assertEqual(world(METERED), {"products": [product], "customers": buyer})
        # AWS may know the dimension of the entitlement as one of the others.
        same = METERED.replace('"entitled"', '"requests"')
        self.assertEqual(world(same)["products"][0]["dimensions"], dimensions[:2])
        hourly = 'product_code = "demohourly"\npublic_keys = "keys"\n'
        self.assertEqual(world(hourly), {"products": [{"product_code": "demohourly", "pricing": "hourly"}], "customers": buyer})
        entitlements = [
            {"name": "users", "unit": "Count", "max_count": 7},
            {"name": "premium", "unit": "None", "value": "Enabled"},
            {"name": "nodes", "unit": "Count", "max_count": 10},
        ]
        license = {"product_id": "prod-demo", "account_id": BUYER, "entitlements": entitlements}
        self.assertEqual(world(CONTRACT.format("prod-demo")), {"licenses": [license]})
        self.assertEqual(len(world('mode = "contract"\nproduct_id = "prod-demo"\n')["licenses"][0]["entitlements"]), 1)
        for mode, setting in (("metered", "product_code"), ("contract", "product_id")):
            (self.folder / "seller.toml").write_text(f'mode = "{mode}"\n')
            self.assertIn(f"has no line {setting}", self.fails("world", str(self.folder / "seller.toml")))

    def test_the_bill_is_compared_by_its_sum(self):
        def bill(*lines):
            columns = "operation,pod,product_code,account_id,license_arn,dimension,hour,timestamp,quantity,metering_record_id,calls,request_ids"
            rows = [f"MeterUsage,{pod},demo,{BUYER},,{dimension},2026-11-24T{hour}:00:00Z,then,{quantity},r,1,q" for pod, dimension, hour, quantity in lines]
            (self.folder / "bill.csv").write_text("".join(f"{line}\r\n" for line in (columns, *rows)))
            # In the place of the emulator's ledger.
            curl = self.folder / "curl"
            curl.write_text(f'#!/bin/sh\nexec cat "{self.folder}/bill.csv"\n')
            curl.chmod(0o755)

        bill(("a", "requests", "08", "2"), ("a", "requests", "09", "2.1"), ("a", "entitled", "09", "0"), ("b", "requests", "09", "0.200001"))
        self.assertEqual(self.runs("bill", "requests", "4.300001"), "rehearse: bill: 2 hours, 4.300001 requests: as reported\n")
        for wrong in ("4.3", "4.300002", "2"):
            self.assertIn(f"2 hours, 4.300001 requests: not {wrong}", self.fails("bill", "requests", wrong, patience=LIMIT))
        self.assertIn("no quantity", self.fails("bill", "requests", "2x", patience=LIMIT))
        self.assertIn("0 hours, 0 gigabytes: not 1", self.fails("bill", "gigabytes", "1", patience=LIMIT))
        bill(("a", "requests", "08", "2"), ("a", "requests", "08", "2"))
        self.assertIn("1 hours, 4 requests: 1 of them billed twice", self.fails("bill", "requests", "4", patience=LIMIT))

    def test_an_emulator_that_does_not_answer_is_not_waited_for(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            self.forward_to(f"127.0.0.1:{silent.getsockname()[1]}")
            with self.start("ledger", patience=1) as script:
                _, error = script.communicate(timeout=LIMIT)
            self.assertIn("timed out", error)
            self.assertNotEqual(script.returncode, 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
