"""The emulator as a process and as a service: its wire protocol, signatures, quotas, faults, world file and state.

Usage: service.py PROGRAM
"""

import datetime
import csv
import http.client
import io
import json
import os
import signal
import subprocess
import socket
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

import boto3
import botocore.auth
import botocore.awsrequest
import botocore.config
import botocore.credentials
import botocore.exceptions

from processes import Emulator

PROGRAM = sys.argv.pop(1)
AT = datetime.datetime(2026, 11, 24, 8, 30, tzinfo=datetime.timezone.utc)
START = {"now": "2026-11-24T08:30:00Z"}
TARGET = "AWSMPMeteringService."
REGISTER = {"ProductCode": "demohourly", "PublicKeyVersion": 1, "Nonce": "n"}


def client(emulator, pod="pod", secret="any", attempts=1):
    return boto3.client(
        "meteringmarketplace",
        endpoint_url=emulator.endpoint,
        region_name="us-east-1",
        aws_access_key_id=pod,
        aws_secret_access_key=secret,
        config=botocore.config.Config(retries={"total_max_attempts": attempts}, read_timeout=1),
    )


def meter(service, quantity=1, hours=0):
    at = AT + datetime.timedelta(hours=hours)
    answer = service.meter_usage(
        ProductCode="demometered", Timestamp=at, UsageDimension="requests", UsageQuantity=quantity
    )
    return answer["MeteringRecordId"]


def refusal(call):
    """The code of the exception that a call ends with."""
    try:
        call()
    except botocore.exceptions.ClientError as error:
        return error.response["Error"]["Code"]
    return None


class Wire(unittest.TestCase):
    """Requests as no SDK sends them, signed by botocore's signer."""

    @classmethod
    def setUpClass(cls):
        cls.emulator = Emulator(PROGRAM).__enter__()
        cls.addClassCleanup(cls.emulator.__exit__)

    def ask(self, body, target="RegisterUsage", content_type="application/x-amz-json-1.1", service="aws-marketplace",
            region="us-east-1", key="wire", change=None):
        headers = {"content-type": content_type, "x-amz-target": TARGET + target}
        signed = botocore.awsrequest.AWSRequest("POST", self.emulator.endpoint + "/", headers, body)
        if service:
            credentials = botocore.credentials.Credentials(key, "any")
            botocore.auth.SigV4Auth(credentials, service, region).add_auth(signed)
        headers = dict(signed.headers)
        headers.update(change or {})
        where = urllib.parse.urlsplit(self.emulator.endpoint)
        connection = http.client.HTTPConnection(where.hostname, where.port, timeout=10)
        self.addCleanup(connection.close)
        connection.request("POST", "/", body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, json.loads(answer.read())

    def refused(self, code, *arguments, status=400, **named):
        got, headers, document = self.ask(*arguments, **named)
        self.assertEqual((got, document["__type"].rpartition("#")[2]), (status, code), document)
        self.assertTrue(document["__type"].partition("#")[0].startswith("com.amazon"), document)
        self.assertEqual(headers["x-amzn-errortype"].rpartition("#")[2].partition(":")[0], code)
        self.assertEqual(headers["content-type"], "application/x-amz-json-1.1")
        self.assertTrue(headers["x-amzn-requestid"])
        self.assertEqual(headers["x-tollgate-emulator"], "1")
        return document.get("message") or document.get("Message")

    def test_what_is_no_request_of_this_service(self):
        good = json.dumps(REGISTER)
        self.refused("UnknownOperationException", good, target="Dance")
        self.refused("UnknownOperationException", good, content_type="application/json")
        for text in ("", "{", "[]", "7", '{"ProductCode": 7, "PublicKeyVersion": 1}'):
            expected = "ValidationException" if text == "" else "SerializationException"
            with self.subTest(text):
                self.refused(expected, text)
        message = self.refused("ValidationException", json.dumps({"PublicKeyVersion": 0}))
        self.assertIn("2 validation errors", message)
        self.assertIn("publicKeyVersion", message)

    def test_a_body_larger_than_any_request_is_refused_in_awss_words(self):
        message = self.refused("RequestEntityTooLargeException", "x" * (3 << 20), status=413)
        self.assertIn("1 MB", message)
        records = {"UsageRecords": [], "Filling": "x" * 1_000_000}
        self.refused("RequestEntityTooLargeException", json.dumps(records), target="BatchMeterUsage", status=413)

    def test_clients_that_stop_in_the_middle_keep_nobody_waiting(self):
        where = urllib.parse.urlsplit(self.emulator.endpoint)
        for part in ("POST / HT", "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"):
            for _ in range(40):
                stopped = socket.create_connection((where.hostname, where.port))
                self.addCleanup(stopped.close)
                stopped.sendall(part.encode())
        status, _, _ = self.ask(json.dumps(REGISTER))
        self.assertEqual(status, 200)

    def test_unknown_members_are_ignored_and_null_is_absent(self):
        status, _, _ = self.ask(json.dumps({**REGISTER, "Tomorrow": {"a": [1]}, "Nonce": None}))
        self.assertEqual(status, 200)

    def test_signatures_are_checked_for_form_service_region_and_time(self):
        good = json.dumps(REGISTER)
        self.refused("MissingAuthenticationTokenException", good, service=None, status=403)
        self.refused("InvalidSignatureException", good, service="s3", status=403)
        self.refused("InvalidSignatureException", good, region="mars-north-1", status=403)
        torn = {"Authorization": "AWS4-HMAC-SHA256 Credential=x"}
        self.refused("IncompleteSignatureException", good, change=torn, status=403)
        self.refused("InvalidSignatureException", good, change={"X-Amz-Date": "20200101T000000Z"}, status=403)


class Races(unittest.TestCase):
    def test_one_of_many_that_report_the_same_hour_at_once_is_billed(self):
        with Emulator(PROGRAM) as emulator:
            emulator.admin("clock", START)
            for quantities in (range(1, 17), [5] * 16):
                with self.subTest(list(quantities)):
                    emulator.admin("reset", {})
                    emulator.admin("clock", START)
                    clients = [(client(emulator, "racer"), quantity) for quantity in quantities]
                    start, answers = threading.Barrier(len(clients)), []

                    def report(service, quantity):
                        start.wait()
                        try:
                            answers.append((quantity, meter(service, quantity)))
                        except service.exceptions.DuplicateRequestException:
                            answers.append((quantity, None))

                    threads = [threading.Thread(target=report, args=pair) for pair in clients]
                    for thread in threads:
                        thread.start()
                    for thread in threads:
                        thread.join()
                    records = emulator.admin("ledger")["records"]
                    self.assertEqual(len(records), 1)
                    accepted = [pair for pair in answers if pair[1]]
                    self.assertEqual({record for _, record in accepted}, {records[0]["metering_record_id"]})
                    self.assertEqual({str(quantity) for quantity, _ in accepted}, {records[0]["quantity"]})
                    self.assertEqual(len(accepted), 16 if len(set(quantities)) == 1 else 1)
                    self.assertEqual(len(answers), 16)


class Admin(unittest.TestCase):
    def ask(self, emulator, method, path, body=None, **headers):
        request = urllib.request.Request(emulator.endpoint + path, data=body, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def test_every_path_that_is_listed_is_there_and_answers_its_methods_only(self):
        with Emulator(PROGRAM) as emulator:
            paths = [entry.split(" ") for entry in emulator.admin("")]
            self.assertGreater(len(paths), 15)
            for method, path in paths:
                path = path.replace("CODE", "demohourly")
                with self.subTest(method=method, path=path):
                    status = self.ask(emulator, method, path, b"nonsense" if method == "POST" else None)
                    self.assertEqual(status, 400 if method == "POST" and path != "/_emulator/reset" else 200)
                    self.assertEqual(self.ask(emulator, "PUT", path, b"{}"), 405)
            self.assertEqual(self.ask(emulator, "GET", "/_emulator/nothing"), 404)

    def test_a_page_of_another_origin_gives_no_orders(self):
        with Emulator(PROGRAM) as emulator:
            own = emulator.endpoint
            for origin, status in ((own, 200), ("http://elsewhere.example", 403), ("null", 403)):
                self.assertEqual(self.ask(emulator, "POST", "/_emulator/reset", b"{}", Origin=origin), status, origin)

    def test_a_page_under_its_own_name_reads_nothing_and_gives_no_orders(self):
        with Emulator(PROGRAM) as emulator:
            for host, status in (("localhost", 200), ("evil.example", 421), ("evil.example:8090", 421), ("emulator:8090", 200)):
                for method, path in (("GET", "/_emulator/calls"), ("POST", "/_emulator/reset")):
                    body = b"{}" if method == "POST" else None
                    self.assertEqual(self.ask(emulator, method, path, body, Host=host), status, (host, method))

    def test_what_an_order_gets_wrong_changes_nothing(self):
        with Emulator(PROGRAM) as emulator:
            before = {path: emulator.admin(path) for path in ("world", "faults", "switches")}
            for path, order in (
                ("products", {"product_code": "a b"}), ("products", {"product_code": "x", "dimension": []}),
                ("customers", {"account_id": "1"}), ("pods", {"platform": "eks"}),
                ("faults", [{"fault": "hang"}, {"fault": "dance"}]), ("switches", {"dry_run": "exception", "x": "y"}),
                ("tokens", {"account_id": "111122223333", "product_code": "demohourly"}), ("clock", {"advance": "soon"}),
            ):
                with self.subTest(path=path, order=order):
                    self.assertEqual(self.ask(emulator, "POST", f"/_emulator/{path}", json.dumps(order).encode()), 400)
            self.assertEqual({path: emulator.admin(path) for path in before}, before)


class Secrets(unittest.TestCase):
    def test_signatures_are_verified_when_the_secret_is_given(self):
        with Emulator(PROGRAM, "--access-key", "AKIDEXAMPLE", "--secret-key", "right") as emulator:
            client(emulator, "AKIDEXAMPLE", "right").register_usage(**REGISTER)
            wrong = client(emulator, "AKIDEXAMPLE", "wrong")
            self.assertEqual(refusal(lambda: wrong.register_usage(**REGISTER)), "InvalidSignatureException")
            stranger = client(emulator, "AKIDOTHER", "right")
            self.assertEqual(refusal(lambda: stranger.register_usage(**REGISTER)), "UnrecognizedClientException")


class Quotas(unittest.TestCase):
    def test_quotas_hold_for_the_account_and_not_for_the_pod(self):
        with Emulator(PROGRAM, "--quotas") as emulator:
            # A burst from many pods: five calls pass, and those that the quota allows during the
            # burst's time.
            pods = [client(emulator, f"pod-{index}") for index in range(25)]
            began = time.monotonic()
            refusals = [refusal(lambda pod=pod: pod.register_usage(**REGISTER)) for pod in pods]
            allowed = 5 + 5 * (time.monotonic() - began)
            self.assertIn("ThrottlingException", refusals)
            self.assertEqual(refusals[:5], [None] * 5)
            self.assertEqual(set(refusals), {None, "ThrottlingException"})
            self.assertLessEqual(refusals.count(None), allowed)


class Faults(unittest.TestCase):
    def setUp(self):
        self.emulator = self.enterContext(Emulator(PROGRAM))
        self.emulator.admin("clock", START)

    def test_a_lost_answer_is_billed_once_however_often_it_is_asked_for(self):
        rules = [{"fault": fault} for fault in ("reset-after", "truncate", "invalid-json", "hang-after")]
        for rule in [*rules, {"fault": "delay", "delay": "1m"}]:
            with self.subTest(rule):
                self.emulator.admin("reset", {})
                self.emulator.admin("clock", START)
                self.emulator.admin("faults", {**rule, "count": 1})
                with self.assertRaises((botocore.exceptions.BotoCoreError, AssertionError, ValueError)):
                    self.assertTrue(client(self.emulator).meter_usage(
                        ProductCode="demometered", Timestamp=AT, UsageDimension="requests", UsageQuantity=7
                    ).get("MeteringRecordId"))
                self.assertEqual(self.emulator.billed(), {("demometered", "111122223333", "requests"): "7"})
                record = meter(client(self.emulator), 7)
                records = self.emulator.admin("ledger")["records"]
                self.assertEqual(len(records), 1)
                self.assertEqual(records[0]["metering_record_id"], record)
                self.assertEqual(len(records[0]["request_ids"]), 2)

    def test_what_was_not_processed_is_not_billed(self):
        for rule in ({"fault": "reset-before"}, {"fault": "http", "status": 502}, {"fault": "hang"}):
            with self.subTest(rule):
                self.emulator.admin("faults", {**rule, "count": 1})
                with self.assertRaises((botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)):
                    meter(client(self.emulator), 7)
                self.assertEqual(self.emulator.billed(), {})

    def test_chance_is_the_same_for_the_same_seed(self):
        def outcomes(seed):
            self.emulator.admin("reset", {})
            self.emulator.admin("clock", START)
            self.emulator.admin("faults", {"seed": seed})
            self.emulator.admin("faults", {"fault": "throttle", "probability": 0.5})
            pod = client(self.emulator)
            return [refusal(lambda: meter(pod)) for _ in range(40)]

        first = outcomes(7)
        self.assertEqual(outcomes(7), first)
        self.assertNotEqual(outcomes(8), first)
        self.assertTrue(5 < first.count("ThrottlingException") < 35, first)


class Start(unittest.TestCase):
    def test_nobody_has_to_read_the_lines_that_it_starts_with(self):
        # A loopback address made from this process's ID: no other process uses it, so its port is free.
        number = os.getpid()
        address = f"127.{1 + number // 65536 % 254}.{number // 256 % 256}.{number % 256}:8090"
        read, write = os.pipe()
        os.close(read)
        process = subprocess.Popen([PROGRAM, "emulator", "--addr", address], stdout=write)
        self.addCleanup(process.wait)
        self.addCleanup(process.terminate)
        os.close(write)
        ready = [PROGRAM, "emulator", "--ready", "--addr", address]
        until = time.monotonic() + 30
        while subprocess.run(ready, stderr=subprocess.DEVNULL).returncode != 0:
            self.assertIsNone(process.poll(), "it ended")
            self.assertLess(time.monotonic(), until)


class State(unittest.TestCase):
    def test_killed_and_started_again_it_knows_what_it_billed(self):
        with tempfile.TemporaryDirectory() as folder:
            with Emulator(PROGRAM, "--state", folder) as emulator:
                emulator.admin("clock", START)
                emulator.admin("customers", {"account_id": "444455556666", "subscribed": True})
                token = emulator.admin("tokens", {"account_id": "111122223333"})["token"]
                record = meter(client(emulator), 5)
                before = emulator.admin("ledger")
                emulator.process.send_signal(signal.SIGKILL)
                emulator.process.wait()
            with Emulator(PROGRAM, "--state", folder) as emulator:
                self.assertEqual(emulator.admin("ledger"), before)
                self.assertEqual(emulator.admin("clock")["now"][:13], "2026-11-24T08")
                self.assertEqual(meter(client(emulator), 5), record)
                self.assertEqual(refusal(lambda: meter(client(emulator), 6)), "DuplicateRequestException")
                answer = client(emulator).resolve_customer(RegistrationToken=token)
                self.assertEqual(answer["CustomerAWSAccountId"], "111122223333")
                customers = {c["account_id"]: c["subscribed"] for c in emulator.admin("world")["customers"]}
                self.assertTrue(customers["444455556666"])
                emulator.admin("reset", {})
                self.assertEqual(emulator.billed(), {})

    def test_a_full_disk_bills_nothing_that_it_cannot_keep(self):
        with tempfile.TemporaryDirectory() as folder:
            # A limit on the size of files, without its signal, so that writes fail half-way, as on a full disk.
            limited = os.path.join(folder, "limited")
            with open(limited, "w") as file:
                file.write(f'#!/bin/bash\ntrap "" XFSZ\nulimit -f 8\nexec {os.path.abspath(PROGRAM)} "$@"\n')
            os.chmod(limited, 0o755)
            state = os.path.join(folder, "state")
            billed, first_refused = 0, None
            with Emulator(limited, "--state", state) as emulator:
                emulator.admin("clock", START)
                for number in range(200):
                    pod = client(emulator, f"pod-{number}")
                    code = refusal(lambda: meter(pod, number))
                    if code:
                        self.assertEqual(code, "InternalServiceErrorException")
                        first_refused = first_refused or number
                    else:
                        billed += 1
                self.assertIsNotNone(first_refused, "the disk did not fill up")
                with self.assertRaises(botocore.exceptions.ClientError) as raised:
                    meter(client(emulator, "another"), 1)
                self.assertIn("journal.jsonl", raised.exception.response["Error"]["Message"])
                before = emulator.admin("ledger")
                self.assertEqual(len(before["records"]), billed)
                emulator.process.send_signal(signal.SIGKILL)
                emulator.process.wait()
            with Emulator(PROGRAM, "--state", state) as emulator:
                self.assertEqual(emulator.admin("ledger"), before)
                meter(client(emulator, f"pod-{first_refused}"), first_refused)

    def test_a_switch_given_at_the_start_beats_the_one_that_was_kept(self):
        with tempfile.TemporaryDirectory() as folder:
            def dry_run(*arguments, order=None):
                with Emulator(PROGRAM, "--state", folder, *arguments) as emulator:
                    if order:
                        emulator.admin("switches", order)
                    return emulator.admin("switches")["dry_run"]["answer"]

            self.assertEqual(dry_run(order={"dry_run": "exception"}), "exception")
            self.assertEqual(dry_run(), "exception")
            self.assertEqual(dry_run("--switch", "dry_run=answer"), "answer")

    def test_the_line_for_scripts_is_the_one_of_the_contract(self):
        with Emulator(PROGRAM) as emulator:
            facts = emulator.facts
            self.assertEqual(list(facts), ["endpoint", "product_code", "product_id", "public_key_version", "public_keys", "clock"])
            self.assertEqual((facts["product_code"], facts["public_key_version"]), ("demohourly", 1))
            self.assertEqual(os.listdir(facts["public_keys"]), ["1.pem"])
            with urllib.request.urlopen(facts["clock"]) as answer:
                self.assertEqual(list(json.load(answer)), ["now"])
            world = emulator.admin("world")
            products = {p["product_code"]: (p["pricing"], p["dimensions"]) for p in world["products"]}
            both = ["gigabytes", "requests"]
            expected = {"demohourly": ("hourly", []), "demometered": ("metered", both), "demosaas": ("saas", both)}
            self.assertEqual(products, expected)
            subscribed = {c["account_id"]: c["subscribed"] for c in world["customers"]}
            self.assertEqual(subscribed, {"111122223333": True, "444455556666": False})
            licenses = {l["license_arn"] for c in world["customers"] for l in c["licenses"]}
            self.assertIn("arn:aws:license-manager::111122223333:license:l-demo", licenses)
            self.assertEqual(world["region"], "us-east-1")

    def test_public_keys_are_served_as_they_lie_in_their_folder(self):
        with Emulator(PROGRAM) as emulator:
            emulator.admin("products", {"product_code": "a/code", "pricing": "hourly"})
            emulator.admin("products", {"product_code": "demohourly", "rotate": True})

            def served(path):
                try:
                    with urllib.request.urlopen(f"{emulator.endpoint}/_emulator/public-keys/{path}") as answer:
                        return answer.read().decode()
                except urllib.error.HTTPError as error:
                    with error:
                        return error.code

            for version in (1, 2):
                with open(f"{emulator.facts['public_keys']}/{version}.pem") as file:
                    self.assertEqual(served(f"demohourly/{version}.pem"), file.read())
            self.assertTrue(served("a%2Fcode/1.pem").startswith("-----BEGIN PUBLIC KEY-----"))
            self.assertEqual(served("a/code/1.pem"), served("a%2Fcode/1.pem"))
            # There is no file for an unknown version or product, nor of another kind, nor for the untrusted key.
            for absent in ("demohourly/3.pem", "other/1.pem", "demohourly/1", "demohourly", "../keys/demohourly/1.pem", ".%20stranger/1.pem"):
                self.assertEqual(served(absent), 404, absent)

    def test_the_sums_by_hour_are_those_of_the_bill(self):
        with Emulator(PROGRAM) as emulator:
            emulator.admin("clock", START)
            for number in range(3):
                meter(client(emulator, f"pod-{number}"), 10)
                meter(client(emulator, f"pod-{number}"), 1 + number, -1)
            sums = emulator.admin("ledger/hours")
            self.assertEqual([row["quantity"] for row in sums["hours"]], ["6", "30"])
            self.assertEqual([row["records"] for row in sums["hours"]], [3, 3])
            self.assertEqual(sums["totals"], emulator.admin("ledger")["totals"])
            self.assertEqual(len(emulator.admin("ledger/hours?last=1")["hours"]), 1)

    def test_the_bill_as_csv_is_the_bill(self):
        with Emulator(PROGRAM) as emulator:
            emulator.admin("clock", START)
            for hours in range(3):
                meter(client(emulator), 10 + hours, -hours)
            answer = urllib.request.urlopen(emulator.endpoint + "/_emulator/ledger?format=csv")
            with answer:
                rows = list(csv.DictReader(io.StringIO(answer.read().decode())))
            records = emulator.admin("ledger")["records"]
            self.assertEqual(len(rows), 3)
            for name in ("product_code", "account_id", "dimension", "hour", "quantity", "metering_record_id"):
                self.assertEqual([row[name] for row in rows], [record[name] for record in records])


class World(unittest.TestCase):
    def run_with(self, text):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "world.toml")
            with open(path, "w") as file:
                file.write(text)
            command = [PROGRAM, "emulator", "--addr", "127.0.0.1:0", "--world", path]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30)
            return done.returncode, done.stderr.replace(path, "world.toml")

    def test_the_default_world_is_a_world_file(self):
        text = subprocess.run([PROGRAM, "emulator", "--print-world"], capture_output=True, text=True, check=True).stdout
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write(text.replace('"demohourly"', '"myproduct"'))
            file.flush()
            with Emulator(PROGRAM, "--world", file.name) as emulator:
                self.assertEqual(emulator.facts["product_code"], "myproduct")
                client(emulator).register_usage(**{**REGISTER, "ProductCode": "myproduct"})
                foreign = client(emulator)
                self.assertEqual(refusal(lambda: foreign.register_usage(**REGISTER)), "InvalidProductCodeException")

    def test_every_mistake_is_told_with_its_line(self):
        code, told = self.run_with(
            'region = "us-east-1"\n'
            "[[products]]\n"
            'product_code = "a b"\n'
            "[[customers]]\n"
            'account_id = "12"\n'
        )
        self.assertEqual(code, 78, told)
        for line in (3, 5):
            self.assertIn(f"world.toml: line {line}: ", told)
        code, told = self.run_with('region = "us-east-1"\nregio = 1\n')
        self.assertEqual(code, 78)
        self.assertIn("world.toml: line 2: ", told)


if __name__ == "__main__":
    unittest.main(verbosity=2)
