"""boto3, unmodified, reports through the AWS door: only AWS_ENDPOINT_URL_MARKETPLACE_METERING is set.

Usage: door.py PROGRAM
"""

import datetime
import gzip
import os
import sys
import unittest
import urllib.error
import urllib.request

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from processes import Emulator, Sidecar

PROGRAM = sys.argv.pop(1)
START = "2026-11-24T08:20:00Z"
AT = datetime.datetime(2026, 11, 24, 8, 20, tzinfo=datetime.timezone.utc)
LICENSE = "arn:aws:license-manager::111122223333:license:l-demo"


def client(sidecar, config=None):
    """A client as an application makes it: endpoint from the environment, credentials without value."""
    os.environ["AWS_ENDPOINT_URL_MARKETPLACE_METERING"] = sidecar.app
    session = boto3.Session("not-a-key", "not-a-secret", region_name="us-east-1")
    return session.client("meteringmarketplace", config=config)


class Door(unittest.TestCase):
    def setUp(self):
        self.emulator = self.enterContext(Emulator(PROGRAM))
        self.emulator.admin("clock", {"now": START})

    def sidecar(self, mode, **settings):
        return self.enterContext(Sidecar(PROGRAM, self.emulator, mode, TOLLGATE_AWS_DOOR="true", **settings))

    def meter(self, metering, quantity, **members):
        return metering.meter_usage(
            ProductCode="demometered", Timestamp=AT, UsageDimension="requests", UsageQuantity=quantity, **members
        )

    def test_meter_usage_is_billed_once_and_a_repeat_is_the_same_record(self):
        metering = client(self.sidecar("metered"))
        first = self.meter(metering, 7)["MeteringRecordId"]
        self.assertEqual(self.meter(metering, 7)["MeteringRecordId"], first)
        self.assertEqual(self.emulator.billed(), {("demometered", "111122223333", "requests"): "7"})

    def test_another_value_for_the_hour_is_refused_by_us_and_says_so(self):
        metering = client(self.sidecar("metered"))
        self.meter(metering, 7)
        with self.assertRaises(metering.exceptions.DuplicateRequestException) as raised:
            self.meter(metering, 8)
        headers = raised.exception.response["ResponseMetadata"]["HTTPHeaders"]
        self.assertEqual(headers["x-tollgate-answer"], "1")

    def test_usage_of_the_same_hour_counts_to_the_next(self):
        sidecar = self.sidecar("metered")
        status, answer = sidecar.ask("/v1/usage", {"dimension": "requests", "quantity": 5})
        self.assertEqual((status, answer["results"][0]["status"]), (202, "accepted"))
        self.meter(client(sidecar), 7)
        self.emulator.admin("clock", {"now": "2026-11-24T10:15:00Z"})
        sidecar.log_line("record_billed")
        self.assertEqual(self.emulator.billed(), {("demometered", "111122223333", "requests"): "12"})
        rows = sidecar.ask("/v1/reconciliation")[1]["dimensions"]
        self.assertEqual((rows[0]["accepted"], rows[0]["billed"], rows[0]["balanced"]), ("12", "12", True))

    def test_an_answer_that_was_lost_is_asked_for_again(self):
        metering = client(self.sidecar("metered"))
        self.emulator.admin("faults", {"fault": "reset-after", "operation": "MeterUsage", "count": 1})
        self.assertTrue(self.meter(metering, 7)["MeteringRecordId"])
        self.assertEqual(self.emulator.billed(), {("demometered", "111122223333", "requests"): "7"})

    def test_awss_own_error_comes_back(self):
        metering = client(self.sidecar("metered"))
        with self.assertRaises(metering.exceptions.InvalidUsageDimensionException) as raised:
            metering.meter_usage(
                ProductCode="demometered", Timestamp=AT, UsageDimension="unknown", UsageQuantity=1
            )
        headers = raised.exception.response["ResponseMetadata"]["HTTPHeaders"]
        self.assertNotIn("x-tollgate-answer", headers)
        self.assertEqual(headers["x-tollgate-emulator"], "1")

    def test_another_product_is_refused_by_us_in_awss_words(self):
        sidecar = self.sidecar("metered")
        metering = client(sidecar)
        with self.assertRaises(metering.exceptions.InvalidProductCodeException) as raised:
            metering.meter_usage(ProductCode="demohourly", Timestamp=AT, UsageDimension="requests", UsageQuantity=1)
        headers = raised.exception.response["ResponseMetadata"]["HTTPHeaders"]
        self.assertEqual(headers["x-tollgate-answer"], "1")
        self.assertEqual(sidecar.ask("/v1/records")[1]["records"], [])

    def test_more_than_a_share_of_the_quota_is_throttled_and_the_sdk_waits(self):
        # The SDK waits a random time between its three tries, which may be shorter than the door's interval.
        metering = client(self.sidecar("metered"), Config(retries={"mode": "standard", "total_max_attempts": 10}))
        for _ in range(25):
            self.meter(metering, 9, DryRun=True)
        calls = self.emulator.admin("calls?operation=MeterUsage")["calls"]
        self.assertEqual(len([call for call in calls if call["request"].get("UsageQuantity") == 9]), 25)

    def test_a_dry_run_claims_nothing(self):
        sidecar = self.sidecar("metered")
        metering = client(sidecar)
        self.meter(metering, 9, DryRun=True)
        self.assertEqual(sidecar.ask("/v1/records")[1]["records"], [])
        self.meter(metering, 7)

    def test_allocations_and_decimals_pass_unchanged(self):
        metering = client(self.sidecar("metered"))
        allocations = [
            {"AllocatedUsageQuantity": 3, "Tags": [{"Key": "team", "Value": "a"}]},
            {"AllocatedUsageQuantity": 4},
        ]
        self.meter(metering, 7, UsageAllocations=allocations)
        metering.meter_usage(
            ProductCode="demometered", Timestamp=AT, UsageDimension="gigabytes", UsageQuantityAsDecimal="0.000001"
        )
        calls = self.emulator.admin("calls?operation=MeterUsage")["calls"]
        self.assertEqual(calls[-2]["request"]["UsageAllocations"], allocations)
        self.assertEqual(self.emulator.billed()["demometered", "111122223333", "gigabytes"], "0.000001")

    def test_the_answer_is_awss_byte_for_byte(self):
        sidecar = self.sidecar("metered")
        body = (
            b'{"ProductCode":"demometered","Timestamp":%d,"UsageDimension":"requests","UsageQuantity":7,"ClientToken":"own"}'
            % AT.timestamp()
        )
        headers = {"content-type": "application/x-amz-json-1.1", "x-amz-target": "AWSMPMeteringService.MeterUsage"}

        def post(url, headers):
            with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as answer:
                names = {name.lower() for name in answer.headers} - {"content-length"}
                return answer.status, answer.read(), names

        signed = AWSRequest("POST", self.emulator.endpoint + "/", headers=headers, data=body)
        SigV4Auth(Credentials("witness-pod", "any"), "aws-marketplace", "us-east-1").add_auth(signed)
        through = post(sidecar.app + "/", headers)
        # The same report, directly from the same pod: the emulator repeats its answer.
        straight = post(self.emulator.endpoint + "/", dict(signed.headers))
        self.assertEqual(through, straight)

    def test_a_compressed_request_is_refused_rather_than_passed_without_a_claim(self):
        sidecar = self.sidecar("metered")
        request = urllib.request.Request(
            sidecar.app + "/", gzip.compress(b"{}"),
            {"content-type": "application/x-amz-json-1.1", "content-encoding": "gzip",
             "x-amz-target": "AWSMPMeteringService.MeterUsage"},
        )
        with self.assertRaises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(request)
        self.assertEqual((raised.exception.code, raised.exception.headers["x-tollgate-answer"]), (415, "1"))

    def test_a_client_token_is_added_once_and_the_applications_own_is_kept(self):
        metering = client(self.sidecar("metered"))
        self.meter(metering, 7, ClientToken="own")
        call = self.emulator.admin("calls?operation=MeterUsage")["calls"][-1]["request"]
        self.assertEqual((call["ClientToken"], call["UsageQuantity"]), ("own", 7))

    def test_an_unanswered_call_is_a_503_to_the_application_and_billed_by_the_ledger(self):
        sidecar = self.sidecar("metered")
        config = Config(retries={"max_attempts": 0}, read_timeout=60)
        os.environ["AWS_ENDPOINT_URL_MARKETPLACE_METERING"] = sidecar.app
        session = boto3.Session("not-a-key", "not-a-secret", region_name="us-east-1")
        metering = session.client("meteringmarketplace", config=config)
        self.emulator.admin("faults", {"fault": "reset-before", "operation": "MeterUsage", "count": 3})
        with self.assertRaises(ClientError) as raised:
            self.meter(metering, 7)
        self.assertEqual(raised.exception.response["ResponseMetadata"]["HTTPStatusCode"], 503)
        sidecar.log_line("record_billed")
        self.assertEqual(self.emulator.billed(), {("demometered", "111122223333", "requests"): "7"})
        # The application tries again, as an SDK does: the same record.
        self.assertTrue(self.meter(metering, 7)["MeteringRecordId"])
        self.assertEqual(self.emulator.billed(), {("demometered", "111122223333", "requests"): "7"})

    def test_register_usage_passes(self):
        metering = client(self.sidecar("hourly"))
        answer = metering.register_usage(ProductCode="demohourly", PublicKeyVersion=1, Nonce="own-nonce")
        self.assertEqual(answer["Signature"].count("."), 2)

    def test_batch_meter_usage_and_resolve_customer_pass(self):
        metering = client(self.sidecar("saas"))
        record = {
            "Timestamp": AT,
            "CustomerAWSAccountId": "111122223333",
            "LicenseArn": LICENSE,
            "Dimension": "requests",
            "Quantity": 7,
        }
        answer = metering.batch_meter_usage(UsageRecords=[record])
        self.assertEqual(answer["Results"][0]["Status"], "Success")
        order = {"account_id": "111122223333", "product_code": "demosaas"}
        token = self.emulator.admin("tokens", order)["token"]
        customer = metering.resolve_customer(RegistrationToken=token)
        self.assertEqual(customer["CustomerAWSAccountId"], "111122223333")

    def test_a_door_that_is_shut_says_so(self):
        sidecar = self.enterContext(Sidecar(PROGRAM, self.emulator, "metered"))
        with self.assertRaises(ClientError) as raised:
            self.meter(client(sidecar), 7)
        self.assertIn("aws_door", str(raised.exception))


if __name__ == "__main__":
    unittest.main(verbosity=2)
