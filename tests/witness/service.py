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
import sys
import tempfile
import time
import unittest
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
            # A burst from many pods: five pass, and what the time that it takes adds.
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
        for fault in ("reset-after", "truncate", "invalid-json", "hang-after"):
            with self.subTest(fault):
                self.emulator.admin("reset", {})
                self.emulator.admin("clock", START)
                self.emulator.admin("faults", {"fault": fault, "count": 1})
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
