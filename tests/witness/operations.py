"""boto3, unmodified, for every operation, and every modelled error of each as botocore's own exception.

Usage: operations.py PROGRAM
"""

import datetime
import sys
import unittest

import boto3
import botocore.config

from processes import Emulator

PROGRAM = sys.argv.pop(1)
AT = datetime.datetime(2026, 11, 24, 8, 30, tzinfo=datetime.timezone.utc)
LICENSE = "arn:aws:license-manager::111122223333:license:l-demo"


class Operations(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.emulator = Emulator(PROGRAM).__enter__()
        cls.addClassCleanup(cls.emulator.__exit__)

    def setUp(self):
        self.emulator.admin("reset", {})
        self.emulator.admin("clock", {"now": "2026-11-24T08:30:00Z"})

    def client(self, pod="pod", region="us-east-1"):
        return boto3.client(
            "meteringmarketplace",
            endpoint_url=self.emulator.endpoint,
            region_name=region,
            aws_access_key_id=pod,
            aws_secret_access_key="any",
            config=botocore.config.Config(retries={"total_max_attempts": 1}),
        )

    def meter(self, client, quantity=None, at=AT, dimension="requests", **members):
        if quantity is not None:
            members["UsageQuantity"] = quantity
        return client.meter_usage(ProductCode="demometered", Timestamp=at, UsageDimension=dimension, **members)

    def batch(self, client, *records):
        return client.batch_meter_usage(UsageRecords=list(records))

    def record(self, account="111122223333", quantity=1, **members):
        record = {"Timestamp": AT, "CustomerAWSAccountId": account, "Dimension": "requests", "Quantity": quantity}
        return {**record, "LicenseArn": LICENSE, **members}

    def test_every_modelled_error_of_every_operation(self):
        client = self.client()
        token = self.emulator.admin("tokens", {"account_id": "111122223333", "product_code": "demosaas"})["token"]
        calls = {
            "RegisterUsage": lambda: client.register_usage(ProductCode="demohourly", PublicKeyVersion=1, Nonce="n"),
            "MeterUsage": lambda: self.meter(client, 1),
            "BatchMeterUsage": lambda: self.batch(client, self.record()),
            "ResolveCustomer": lambda: client.resolve_customer(RegistrationToken=token),
        }
        model = client.meta.service_model
        seen = 0
        for operation in model.operation_names:
            for shape in model.operation_model(operation).error_shapes:
                rule = {"fault": "exception", "exception": shape.name, "operation": operation, "count": 1}
                self.emulator.admin("faults", rule)
                with self.subTest(operation=operation, exception=shape.name):
                    with self.assertRaises(getattr(client.exceptions, shape.name)) as raised:
                        calls[operation]()
                    response = raised.exception.response
                    self.assertTrue(response["Error"]["Message"])
                    status = response["ResponseMetadata"]["HTTPStatusCode"]
                    self.assertEqual(status, 500 if shape.name == "InternalServiceErrorException" else 400)
                    self.assertTrue(response["ResponseMetadata"]["RequestId"])
                    seen += 1
            calls[operation]()
        self.assertEqual(seen, 34)

    def test_an_hour_takes_one_value(self):
        client = self.client()
        first = self.meter(client, 17)["MeteringRecordId"]
        later = AT + datetime.timedelta(minutes=-10)
        self.assertEqual(self.meter(client, 17, at=later)["MeteringRecordId"], first, "AWS floors to the hour")
        self.assertEqual(self.meter(client, UsageQuantityAsDecimal="17.00")["MeteringRecordId"], first)
        with self.assertRaises(client.exceptions.DuplicateRequestException):
            self.meter(client, 18)
        other_pod = self.meter(self.client("pod-2"), 18)["MeteringRecordId"]
        self.assertNotEqual(other_pod, first)
        self.assertEqual(self.emulator.billed(), {("demometered", "111122223333", "requests"): "35"})

    def test_windows_allocations_dimensions_and_tokens(self):
        client = self.client()
        with self.assertRaises(client.exceptions.TimestampOutOfBoundsException):
            self.meter(client, 1, at=AT - datetime.timedelta(hours=7))
        with self.assertRaises(client.exceptions.InvalidUsageDimensionException):
            self.meter(client, 1, dimension="unknown")
        with self.assertRaises(client.exceptions.InvalidUsageAllocationsException):
            self.meter(client, 3, UsageAllocations=[{"AllocatedUsageQuantity": 2}])
        self.meter(client, 1, ClientToken="token")
        with self.assertRaises(client.exceptions.IdempotencyConflictException):
            self.meter(client, 2, dimension="gigabytes", ClientToken="token")

    def test_dry_runs_in_both_documented_forms(self):
        client = self.client()
        self.meter(client, 5, DryRun=True)
        self.emulator.admin("switches", {"dry_run": "exception"})
        with self.assertRaisesRegex(client.exceptions.ClientError, "DryRunOperation"):
            self.meter(client, 5, DryRun=True)
        self.assertEqual(self.emulator.billed(), {})

    def test_a_batch_is_judged_record_by_record(self):
        client = self.client("seller")
        stranger = {k: v for k, v in self.record("444455556666").items() if k != "LicenseArn"}
        answer = self.batch(client, self.record(quantity=3))
        self.assertEqual([r["Status"] for r in answer["Results"]], ["Success"])
        self.assertEqual(self.batch(client, self.record(quantity=4))["Results"][0]["Status"], "DuplicateRecord")
        answer = client.batch_meter_usage(ProductCode="demosaas", UsageRecords=[stranger])
        self.assertEqual(answer["Results"][0]["Status"], "CustomerNotSubscribed")
        self.emulator.admin("faults", {"fault": "unprocessed", "operation": "BatchMeterUsage", "records": 1, "count": 1})
        answer = self.batch(client, self.record(Dimension="gigabytes"))
        self.assertEqual((answer["Results"], len(answer["UnprocessedRecords"])), ([], 1))
        with self.assertRaises(client.exceptions.TimestampOutOfBoundsException):
            self.batch(client, self.record(Timestamp=AT - datetime.timedelta(hours=30)))

    def test_a_registration_token_is_its_customers(self):
        client = self.client("seller")
        order = {"account_id": "111122223333", "product_code": "demosaas"}
        token = self.emulator.admin("tokens", order)["token"]
        customer = client.resolve_customer(RegistrationToken=token)
        self.assertEqual(customer["CustomerAWSAccountId"], "111122223333")
        self.assertEqual(customer["LicenseArn"], LICENSE)
        with self.assertRaises(client.exceptions.InvalidTokenException):
            client.resolve_customer(RegistrationToken="made up")
        answers = (("invalid", client.exceptions.InvalidTokenException), ("expired", client.exceptions.ExpiredTokenException))
        for answer, refusal in answers:
            self.emulator.admin("switches", {"token_resubmission": answer})
            with self.assertRaises(refusal):
                client.resolve_customer(RegistrationToken=token)
        self.emulator.admin("switches", {"token_resubmission": "accepted"})
        self.emulator.admin("clock", {"advance": "239m"})
        self.assertEqual(client.resolve_customer(RegistrationToken=token)["LicenseArn"], LICENSE)
        self.emulator.admin("clock", {"advance": "2m"})
        with self.assertRaises(client.exceptions.ExpiredTokenException):
            client.resolve_customer(RegistrationToken=token)

    def test_regions_platforms_and_permissions(self):
        client = self.client("elsewhere", region="eu-central-1")
        with self.assertRaises(client.exceptions.InvalidRegionException):
            client.register_usage(ProductCode="demohourly", PublicKeyVersion=1, Nonce="n")
        self.emulator.admin("pods", {"access_key": "on-a-node", "platform": "node-role"})
        client = self.client("on-a-node")
        with self.assertRaises(client.exceptions.PlatformNotSupportedException):
            client.register_usage(ProductCode="demohourly", PublicKeyVersion=1, Nonce="n")
        self.emulator.admin("pods", {"access_key": "without-role", "denied": ["RegisterUsage"]})
        client = self.client("without-role")
        with self.assertRaisesRegex(client.exceptions.ClientError, "AccessDenied"):
            client.register_usage(ProductCode="demohourly", PublicKeyVersion=1, Nonce="n")


if __name__ == "__main__":
    unittest.main(verbosity=2)
