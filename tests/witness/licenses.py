"""The emulator's License Manager by boto3, unmodified: every call, every modelled error, seats on the emulated clock, lost
answers, listings, and the way from a refresh token to a role.

Usage: licenses.py PROGRAM
"""

import concurrent.futures
import http.client
import json
import sys
import tempfile
import unittest

import boto3
import botocore
import botocore.config
import botocore.exceptions
import jwt

from processes import Emulator

PROGRAM = sys.argv.pop(1)
SKU = "prod-democontract"
MARKETPLACE = "aws:294406891311:AWS/Marketplace:issuer-fingerprint"
ROLE = "arn:aws:iam::111122223333:role/anywhere"
OPERATIONS = [
    "CheckoutLicense", "ExtendLicenseConsumption", "CheckInLicense", "ListReceivedLicenses", "GetLicense", "GetLicenseUsage",
    "GetAccessToken", "CreateLicense",
]


def users(count):
    return [{"Name": "users", "Unit": "Count", "Value": str(count)}]


class Licenses(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.emulator = Emulator(PROGRAM).__enter__()
        cls.addClassCleanup(cls.emulator.__exit__)

    def setUp(self):
        self.emulator.admin("reset", {})
        self.emulator.admin("clock", {"now": "2026-11-24T08:30:00Z"})
        self.client = self.client_of("pod-1")

    def client_of(self, pod, service="license-manager", region="us-east-1", attempts=1, **settings):
        return boto3.client(
            service, endpoint_url=self.emulator.endpoint, region_name=region, aws_access_key_id=pod,
            aws_secret_access_key="any",
            config=botocore.config.Config(retries={"total_max_attempts": attempts, "mode": "standard"}, **settings),
        )

    def checkout(self, token, entitlements, client=None, **members):
        return (client or self.client).checkout_license(
            ProductSKU=SKU, CheckoutType="PROVISIONAL", KeyFingerprint=MARKETPLACE, ClientToken=token,
            Entitlements=entitlements, **members,
        )

    def license(self, **order):
        return self.emulator.admin("licenses", {"product_id": SKU, **order})

    def shown(self):
        return self.emulator.admin("licenses")

    def held(self):
        entitlement = self.shown()["licenses"][0]["entitlements"][0]
        return entitlement["held"], entitlement["held_max"]

    def arn(self):
        return self.shown()["licenses"][0]["license_arn"]

    def creation(self, token="c", **members):
        return {
            "LicenseName": "rehearsal", "ProductName": "demo", "ProductSKU": "prod-rehearsal", "Issuer": {"Name": "me"},
            "HomeRegion": "us-east-1", "Validity": {"Begin": "2026-01-01T00:00:00Z", "End": "2027-01-01T00:00:00Z"},
            "Entitlements": [{"Name": "users", "Unit": "Count", "MaxCount": 5, "Overage": False, "AllowCheckIn": True}],
            "Beneficiary": "444455556666", "ClientToken": token,
            "ConsumptionConfiguration": {"ProvisionalConfiguration": {"MaxTimeToLiveInMinutes": 180}}, **members,
        }

    def calls(self):
        """One good call of each operation."""
        held = self.checkout("held", users(1))["LicenseConsumptionToken"]
        refresh = self.emulator.admin("refresh-tokens", {})["refresh_token"]
        return {
            "CheckoutLicense": lambda: self.checkout("a", users(1)),
            "ExtendLicenseConsumption": lambda: self.client.extend_license_consumption(LicenseConsumptionToken=held),
            "CheckInLicense": lambda: self.client.check_in_license(LicenseConsumptionToken=held),
            "ListReceivedLicenses": self.client.list_received_licenses,
            "GetLicense": lambda: self.client.get_license(LicenseArn=self.arn()),
            "GetLicenseUsage": lambda: self.client.get_license_usage(LicenseArn=self.arn()),
            "GetAccessToken": lambda: self.client.get_access_token(Token=refresh),
            "CreateLicense": lambda: self.client.create_license(**self.creation()),
        }

    def test_every_modelled_error_of_every_operation(self):
        calls, seen = self.calls(), 0
        model = self.client.meta.service_model
        for operation in OPERATIONS:
            for shape in model.operation_model(operation).error_shapes:
                rule = {"fault": "exception", "exception": shape.name, "operation": operation, "count": 1}
                self.emulator.admin("faults", rule)
                with self.subTest(operation=operation, exception=shape.name):
                    with self.assertRaises(getattr(self.client.exceptions, shape.name)) as raised:
                        calls[operation]()
                    response = raised.exception.response
                    self.assertTrue(response["Error"]["Message"])
                    status = response["ResponseMetadata"]["HTTPStatusCode"]
                    self.assertEqual(status, 500 if shape.name == "ServerInternalException" else 400)
                    seen += 1
            calls[operation]()
        listed = self.emulator.admin("faults")["exceptions"]
        for operation in OPERATIONS:
            modelled = [shape.name for shape in model.operation_model(operation).error_shapes]
            self.assertEqual(listed[operation], modelled)
        self.assertEqual(seen, sum(len(listed[operation]) for operation in OPERATIONS))

    def test_answers_have_the_members_of_the_model_and_no_others(self):
        self.license(end="2027-01-01T00:00:00Z")
        model = self.client.meta.service_model

        def check(shape, value, where):
            if shape.type_name == "structure":
                self.assertIsInstance(value, dict, where)
                for name in shape.required_members:
                    self.assertIn(name, value, where)
                for name, member in value.items():
                    self.assertIn(name, shape.members, where)
                    check(shape.members[name], member, f"{where}.{name}")
            elif shape.type_name == "list":
                for index, member in enumerate(value):
                    check(shape.member, member, f"{where}[{index}]")
            elif shape.type_name == "string":
                self.assertIsInstance(value, str, where)
                meta = shape.metadata
                self.assertIn(value, meta.get("enum", [value]), where)
                self.assertGreaterEqual(len(value), meta.get("min", 0), where)
                self.assertLessEqual(len(value), meta.get("max", 1 << 20), where)
                if "pattern" in meta:
                    self.assertRegex(value, meta["pattern"], where)
            else:
                self.assertIsInstance(value, {"boolean": bool, "integer": int, "long": int}[shape.type_name], where)

        for operation, call in self.calls().items():
            answer = call()
            self.assertEqual(answer.pop("ResponseMetadata")["HTTPHeaders"]["x-tollgate-emulator"], "1")
            check(model.operation_model(operation).output_shape, answer, operation)

    def test_ten_seats_are_taken_exhausted_given_back_and_taken_again(self):
        tokens = [self.checkout(f"t{n}", users(1), self.client_of(f"pod-{n}"))["LicenseConsumptionToken"] for n in range(10)]
        with self.assertRaises(self.client.exceptions.NoEntitlementsAllowedException):
            self.checkout("late", users(1))
        usage = self.client.get_license_usage(LicenseArn=self.arn())["LicenseUsage"]["EntitlementUsages"]
        self.assertEqual(usage[0], {"Name": "users", "ConsumedValue": "10", "MaxCount": "10", "Unit": "Count"})
        rows = self.shown()["checkouts"]
        self.assertEqual(sorted(row["pod"] for row in rows), [f"pod-{n}" for n in range(10)])
        self.assertEqual({(row["quantity"], row["expires"][:19]) for row in rows}, {(1, "2026-11-24T09:30:00")})
        self.client.check_in_license(LicenseConsumptionToken=tokens[3])
        with self.assertRaises(self.client.exceptions.ResourceNotFoundException):
            self.client.check_in_license(LicenseConsumptionToken=tokens[3])
        self.checkout("late", users(1))
        self.assertEqual(self.held(), (10, 10))
        log = [(event["what"], event["held"]) for event in self.shown()["log"]]
        self.assertEqual(log, [("take", n + 1) for n in range(10)] + [("return", 9), ("take", 10)])

    def test_of_forty_pods_at_once_ten_get_a_seat(self):
        # Threads share the client, which botocore allows.
        with concurrent.futures.ThreadPoolExecutor(40) as pool:
            def take(n):
                try:
                    return self.checkout(f"t{n}", users(1)) and 1
                except self.client.exceptions.NoEntitlementsAllowedException:
                    return 0

            self.assertEqual(sum(pool.map(take, range(40))), 10)
        self.assertEqual(self.held(), (10, 10))

    def test_a_seat_lasts_as_long_as_it_is_extended(self):
        kept = self.checkout("kept", users(9))["LicenseConsumptionToken"]
        left = self.checkout("left", users(1))["LicenseConsumptionToken"]
        self.emulator.admin("clock", {"advance": "59m"})
        answer = self.client.extend_license_consumption(LicenseConsumptionToken=kept)
        self.assertEqual(answer["Expiration"][:16], "2026-11-24T10:29")
        self.emulator.admin("clock", {"advance": "1m"})
        with self.assertRaises(self.client.exceptions.ResourceNotFoundException):
            self.client.extend_license_consumption(LicenseConsumptionToken=left)
        self.assertEqual(self.held(), (9, 10))
        shown = self.shown()
        self.assertEqual(shown["totals"], {"takes": 2, "returns": 0, "lapses": 1, "extensions": 1})
        self.license(time_to_live="5m")
        self.checkout("short", users(1))
        self.emulator.admin("clock", {"advance": "5m"})
        # The answer to an order shows the changed license, too.
        self.assertEqual(self.license(time_to_live="60m")["entitlements"][0]["held"], 9)
        self.assertEqual(self.held()[0], 9)

    def test_a_repeated_client_token_in_all_four_ways(self):
        def twice(advance):
            first = self.checkout("same", users(1))["LicenseConsumptionToken"]
            self.emulator.admin("clock", {"advance": advance})
            return self.checkout("same", users(1))["LicenseConsumptionToken"] == first

        for switches, advance, same in (
            ({}, "9m", True),
            ({}, "11m", False),
            ({"client_token_life": "forever"}, "11m", True),
            ({"repeated_client_token": "new-seat"}, "1s", False),
        ):
            with self.subTest(switches=switches, advance=advance):
                self.setUp()
                self.emulator.admin("switches", switches)
                self.assertEqual(twice(advance), same)
                self.assertEqual(self.held()[0], 1 if same else 2)
        self.setUp()
        self.checkout("same", users(1))
        with self.assertRaises(self.client.exceptions.InvalidParameterValueException):
            self.checkout("same", users(2))

    def test_an_answer_lost_after_the_seat_was_taken(self):
        for fault in ("reset-after", "truncate", "invalid-json"):
            with self.subTest(fault=fault):
                self.setUp()
                self.emulator.admin("faults", {"fault": fault, "operation": "CheckoutLicense", "count": 1})
                try:
                    # botocore returns an answer without members for a body that is no JSON.
                    self.assertNotIn("LicenseConsumptionToken", self.checkout("same", users(1)))
                except botocore.exceptions.BotoCoreError:
                    self.assertNotEqual(fault, "invalid-json")
                self.assertEqual(self.held()[0], 1)
                token = self.checkout("same", users(1))["LicenseConsumptionToken"]
                self.assertEqual(self.held(), (1, 1), "the same ClientToken takes nothing more")
                self.client.check_in_license(LicenseConsumptionToken=token)
        self.emulator.admin("faults", {"fault": "hang-after", "operation": "CheckoutLicense", "count": 1})
        with self.assertRaises(botocore.exceptions.ReadTimeoutError):
            self.checkout("hung", users(1), self.client_of("pod-1", read_timeout=1))
        self.assertEqual(self.held()[0], 1)
        self.emulator.admin("faults", {"fault": "reset-before", "operation": "CheckoutLicense", "count": 1})
        with self.assertRaises(botocore.exceptions.BotoCoreError):
            self.checkout("never", users(1))
        self.assertEqual(self.held()[0], 1)

    def test_every_fault_happens_to_every_operation(self):
        calls = self.calls()
        for operation in OPERATIONS:
            for fault in ("throttle", "http", "reset-before"):
                self.emulator.admin("faults", {"fault": fault, "operation": operation, "count": 1})
                with self.subTest(operation=operation, fault=fault):
                    with self.assertRaises((botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)) as raised:
                        calls[operation]()
                    if fault == "throttle":
                        code = raised.exception.response["Error"]["Code"]
                        self.assertEqual(code, "RateLimitExceededException")
            calls[operation]()
        self.emulator.admin("faults", {"fault": "throttle", "count": 1})
        with self.assertRaises(self.client.exceptions.RateLimitExceededException):
            self.client.list_received_licenses()

    def test_one_error_has_many_causes_and_the_listing_tells_them_apart(self):
        refused = self.client.exceptions.NoEntitlementsAllowedException
        for entitlements in (
            [{"Name": "users", "Unit": "None"}],
            [{"Name": "premium", "Unit": "Count", "Value": "1"}],
            [{"Name": "nodes", "Unit": "Count", "Value": "1"}],
            [{"Name": "gold", "Unit": "None"}],
        ):
            with self.assertRaises(refused):
                self.checkout("a", entitlements)
        for order, member, value in (
            ({"received": "disabled"}, "ReceivedStatus", "DISABLED"),
            ({"received": "pending"}, "ReceivedStatus", "PENDING_ACCEPT"),
            ({"received": "active", "status": "deactivated"}, "Status", "DEACTIVATED"),
            ({"status": "available", "end": "2026-11-24T08:00:00Z"}, "Status", "EXPIRED"),
        ):
            with self.subTest(order=order):
                self.license(**order)
                with self.assertRaises(refused):
                    self.checkout("a", users(1))
                listed = self.client.list_received_licenses()["Licenses"][0]
                self.assertEqual({**listed, **listed["ReceivedMetadata"]}[member], value)
        self.license(end="never")
        self.checkout("a", users(1))
        self.emulator.admin("switches", {"unit_mismatch": "validation"})
        with self.assertRaises(self.client.exceptions.ValidationException):
            self.checkout("b", [{"Name": "users", "Unit": "None"}])

    def test_tiers_that_are_there_come_back(self):
        answer = self.checkout("a", [{"Name": "premium", "Unit": "None"}, {"Name": "gold", "Unit": "None"}])
        self.assertEqual(answer["EntitlementsAllowed"], [{"Name": "premium", "Unit": "None", "Value": "Enabled"}])
        signed = jwt.decode(answer["SignedToken"], options={"verify_signature": False})
        self.assertIs(signed["emulated"], True)

    def test_the_switches_of_regions_times_and_permissions(self):
        far = self.client_of("pod-1", region="eu-central-1")
        self.checkout("near", users(1), far)
        for answer, location in (
            ("redirect", "us-east-1"), ("redirect-url", "https://license-manager.us-east-1.amazonaws.com"),
        ):
            self.emulator.admin("switches", {"other_region": answer})
            with self.assertRaises(far.exceptions.RedirectException) as raised:
                self.checkout(answer, users(1), far)
            self.assertEqual(raised.exception.response["Location"], location)
            self.checkout(answer, users(1))
        self.assertTrue(self.checkout("z", users(1))["Expiration"].endswith("Z"))
        self.emulator.admin("switches", {"expiration_format": "none"})
        answer = self.checkout("y", users(1))
        self.assertEqual(answer["Expiration"], answer["IssuedAt"].replace("T08", "T09"))
        self.emulator.admin("pods", {"access_key": "pod-1", "denied": ["ListReceivedLicenses", "GetAccessToken"]})
        for answer in ("Authorization", "AccessDenied"):
            self.emulator.admin("switches", {"authorization_code": answer})
            with self.assertRaises(getattr(self.client.exceptions, f"{answer}Exception")) as raised:
                self.client.list_received_licenses()
            self.assertIn("license-manager:ListReceivedLicenses", str(raised.exception))
        self.checkout("x", users(1))

    def test_of_two_licenses_of_one_product_one_serves(self):
        second = "arn:aws:license-manager::294406891311:license:l-second"
        self.license(license_arn=second, entitlements=[{"name": "users", "max_count": 2}])
        self.assertEqual(self.checkout("a", users(2))["LicenseArn"], second)
        with self.assertRaises(self.client.exceptions.NoEntitlementsAllowedException):
            self.checkout("b", users(1))
        self.emulator.admin("switches", {"newest_license": "oldest"})
        self.assertNotEqual(self.checkout("b", users(3))["LicenseArn"], second)
        with self.assertRaises(Exception) as raised:
            self.license(received="disabled")
        self.assertIn("name one of them", raised.exception.read().decode())

    def pages(self, limit=None, **members):
        """Lists page by page, as a client must, because botocore has no paginator for this operation."""
        pages, token = [], None
        while limit is None or len(pages) < limit:
            answer = self.client.list_received_licenses(**members, **({"NextToken": token} if token else {}))
            pages.append([license["ProductSKU"] for license in answer["Licenses"]])
            token = answer.get("NextToken")
            if token is None:
                break
        return pages

    def test_pages_filters_and_listings_that_no_client_should_trust(self):
        entitlements = [{"name": "users", "max_count": 2}]
        for number in range(4):
            self.emulator.admin("licenses", {"product_id": f"prod-{number}", "entitlements": entitlements})
        everything = [[SKU, "prod-0"], ["prod-1", "prod-2"], ["prod-3"]]
        self.assertEqual(self.pages(MaxResults=2), everything)
        self.assertEqual(self.pages(), [sum(everything, [])])
        by_product = [{"Name": "ProductSKU", "Values": [SKU, "prod-3"]}, {"Name": "Fingerprint", "Values": [MARKETPLACE]}]
        self.assertEqual(self.pages(Filters=by_product), [[SKU, "prod-3"]])
        with self.assertRaises(self.client.exceptions.InvalidParameterValueException):
            self.pages(Filters=[{"Name": "Colour", "Values": ["red"]}])
        self.emulator.admin("faults", {"fault": "empty-page", "count": 1})
        self.assertEqual(self.pages(Filters=by_product), [[], [SKU, "prod-3"]])
        self.emulator.admin("faults", {"fault": "endless-pages"})
        self.assertEqual(len(self.pages(limit=30, Filters=by_product)), 30)
        self.emulator.admin("faults", method="DELETE")
        self.assertEqual(len(self.pages(Filters=by_product)), 1)

    def test_an_account_can_issue_what_only_its_fingerprint_tells_from_a_bought_license(self):
        self.emulator.admin("pods", {"access_key": "buyer", "account_id": "444455556666"})
        buyer = self.client_of("buyer")
        created = self.client.create_license(**self.creation(ProductSKU=SKU))
        self.assertEqual(created["Status"], "AVAILABLE")
        self.assertEqual(self.client.create_license(**self.creation(ProductSKU=SKU))["LicenseArn"], created["LicenseArn"])
        with self.assertRaises(buyer.exceptions.NoEntitlementsAllowedException):
            self.checkout("a", users(1), buyer)
        own = {"ProductSKU": SKU, "CheckoutType": "PROVISIONAL", "ClientToken": "b", "Entitlements": users(1)}
        fingerprint = "aws:111122223333:me:issuer-fingerprint"
        answer = buyer.checkout_license(KeyFingerprint=fingerprint, **own)
        self.assertEqual(answer["LicenseArn"], created["LicenseArn"])
        self.assertEqual(answer["Expiration"][:16], "2026-11-24T11:30")
        for client in (buyer, self.client):
            license = client.get_license(LicenseArn=created["LicenseArn"])["License"]
            self.assertEqual(license["Issuer"]["KeyFingerprint"], fingerprint)
        self.client.create_license(**self.creation(token="own", ProductSKU=SKU, Beneficiary="111122223333"))
        with self.assertRaises(self.client.exceptions.InvalidParameterValueException):
            self.client.checkout_license(KeyFingerprint=fingerprint, **own)
        self.client.checkout_license(KeyFingerprint=fingerprint, Beneficiary="111122223333", **own)

    def test_from_a_refresh_token_to_a_role_that_takes_a_seat(self):
        unsigned = self.client_of("x", signature_version=botocore.UNSIGNED)
        sts = self.client_of("x", "sts", signature_version=botocore.UNSIGNED)
        refresh = self.emulator.admin("refresh-tokens", {})["refresh_token"]
        claims = jwt.decode(refresh, options={"verify_signature": False})
        self.assertEqual((claims["aud"], claims["emulated"]), (self.arn(), True))
        self.assertEqual(claims["amr"], ["aws:license-manager:token-issuer-account-id:111122223333"])
        access = unsigned.get_access_token(Token=refresh)["AccessToken"]
        session = sts.assume_role_with_web_identity(RoleArn=ROLE, RoleSessionName="anywhere-1", WebIdentityToken=access)
        keys = session["Credentials"]
        client = boto3.client(
            "license-manager", endpoint_url=self.emulator.endpoint, region_name="us-east-1",
            aws_access_key_id=keys["AccessKeyId"], aws_secret_access_key=keys["SecretAccessKey"],
            aws_session_token=keys["SessionToken"],
        )
        self.checkout("a", users(1), client)
        self.assertEqual(self.shown()["checkouts"][0]["pod"], "anywhere-1")
        for bad in (refresh, access[:-4] + "AAAA"):
            with self.assertRaisesRegex(botocore.exceptions.ClientError, "InvalidIdentityToken"):
                sts.assume_role_with_web_identity(RoleArn=ROLE, RoleSessionName="x-1", WebIdentityToken=bad)
        for bad in (access, "made-up"):
            with self.assertRaises(unsigned.exceptions.AuthorizationException):
                unsigned.get_access_token(Token=bad)
        short = self.emulator.admin("refresh-tokens", {"life": "2h"})["refresh_token"]
        self.emulator.admin("clock", {"advance": "61m"})
        with self.assertRaisesRegex(botocore.exceptions.ClientError, "ExpiredToken"):
            sts.assume_role_with_web_identity(RoleArn=ROLE, RoleSessionName="x-1", WebIdentityToken=access)
        unsigned.get_access_token(Token=short)
        self.emulator.admin("clock", {"advance": "1h"})
        with self.assertRaises(unsigned.exceptions.AuthorizationException):
            unsigned.get_access_token(Token=short)
        noted = json.dumps(self.emulator.admin("calls"))
        for secret in (refresh, access, keys["SecretAccessKey"]):
            self.assertNotIn(secret, noted)
        # A wrong signature is refused, and no other operation is accepted unsigned.
        with self.assertRaisesRegex(botocore.exceptions.ClientError, "MissingAuthenticationToken"):
            unsigned.list_received_licenses()

    def test_a_signature_is_for_its_own_service(self):
        with self.assertRaisesRegex(botocore.exceptions.ClientError, "InvalidSignature"):
            client = self.client_of("pod-1")
            client.meta.events.register("before-sign.license-manager.*", lambda request, **_: request.context.update(
                signing={"signing_name": "aws-marketplace"}))
            client.list_received_licenses()

    def test_an_operation_belongs_to_its_own_service(self):
        address = self.emulator.endpoint.removeprefix("http://")
        for target in ("AWSLicenseManager.MeterUsage", "AWSMPMeteringService.CheckoutLicense", "AWSLicenseManager.CreateGrant"):
            connection = http.client.HTTPConnection(address)
            connection.request("POST", "/", "{}", {"content-type": "application/x-amz-json-1.1", "x-amz-target": target})
            answer = json.load(connection.getresponse())
            connection.close()
            self.assertTrue(answer["__type"].endswith("#UnknownOperationException"), answer)

    def test_seats_outlive_the_emulators_death(self):
        with tempfile.TemporaryDirectory() as folder:
            with Emulator(PROGRAM, "--state", folder) as first:
                self.emulator, kept = first, self.emulator
                self.addCleanup(setattr, self, "emulator", kept)
                self.client = self.client_of("pod-1")
                token = self.checkout("a", users(4))["LicenseConsumptionToken"]
                given = self.checkout("b", users(6))["LicenseConsumptionToken"]
                self.client.check_in_license(LicenseConsumptionToken=given)
                before = self.shown()
                first.process.kill()
                first.process.wait()
            with Emulator(PROGRAM, "--state", folder) as second:
                self.emulator = second
                self.client = self.client_of("pod-1")
                self.assertEqual(self.shown(), before)
                self.assertEqual(self.checkout("a", users(4))["LicenseConsumptionToken"], token)
                self.client.extend_license_consumption(LicenseConsumptionToken=token)
                self.assertEqual(self.held(), (4, 10))


if __name__ == "__main__":
    unittest.main(verbosity=2)
