"""The emulator's GetEntitlements by boto3, in both protocols of its model, and lifecycle events as an HTTP server of Python's receives them.

Usage: entitlements.py PROGRAM
"""

import datetime
import http.server
import json
import queue
import sys
import tempfile
import threading
import unittest
import unittest.mock
import urllib.error

import boto3
import botocore.config
import botocore.exceptions
import botocore.model

from processes import Emulator

PROGRAM = sys.argv.pop(1)
SELLER = "777788889999"
BUYER = "111122223333"
OTHER = "444455556666"
DEMO = "arn:aws:license-manager::111122223333:license:l-demo"
SECOND = "arn:aws:license-manager::294406891311:license:l-second"
AT = datetime.datetime(2026, 11, 24, 8, 30, tzinfo=datetime.timezone.utc)
END = datetime.datetime(2027, 1, 1, tzinfo=datetime.timezone.utc)


class Receiver:
    """What an API destination posts to."""

    def __init__(self):
        received = self.received = queue.Queue()
        receiver = self
        self.status = 200

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                received.put((self.path, dict(self.headers.items()), json.loads(body)))
                self.send_response(receiver.status)
                self.end_headers()
                self.wfile.write(b"heard")

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/events/marketplace"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def events(self):
        """What has arrived; a delivery is answered before its order is."""
        arrived = []
        while not self.received.empty():
            arrived.append(self.received.get())
        return arrived


class Case(unittest.TestCase):
    # botocore prefers JSON, other SDKs the model's first.
    protocol = "json"

    @classmethod
    def setUpClass(cls):
        cls.emulator = Emulator(PROGRAM).__enter__()
        cls.addClassCleanup(cls.emulator.__exit__)

    def setUp(self):
        self.emulator.admin("reset", {})
        self.emulator.admin("clock", {"now": "2026-11-24T08:30:00Z"})
        self.emulator.admin("pods", {"access_key": "seller", "account_id": SELLER})
        self.client = self.client_of("seller")

    def client_of(self, pod, service="marketplace-entitlement", region="us-east-1"):
        protocol = self.protocol if service == "marketplace-entitlement" else "json"
        with unittest.mock.patch.object(botocore.model.ServiceModel, "resolved_protocol", protocol):
            client = boto3.client(
                service, endpoint_url=self.emulator.endpoint, region_name=region, aws_access_key_id=pod,
                aws_secret_access_key="any", config=botocore.config.Config(retries={"total_max_attempts": 1}),
            )
        client.meta.service_model.resolved_protocol = protocol
        return client

    def contracts(self):
        """Two customers with contracts of demosaas: four entitlements of one, two of the other."""
        demo = {"product_code": "demosaas", "license_arn": DEMO, "active_until": "2027-01-01T00:00:00Z", "entitlements": [
            {"dimension": "users", "value": 25},
            {"dimension": "storage", "value": 1.5},
            {"dimension": "premium", "value": True},
            {"dimension": "plan", "value": "gold"},
        ]}
        second = {"product_code": "demosaas", "license_arn": SECOND, "entitlements": [
            {"dimension": "users", "value": 7, "expires_at": "2026-12-01T00:00:00Z"},
            {"dimension": "support", "value": False},
        ]}
        self.emulator.admin("customers", {"account_id": BUYER, "licenses": [demo]})
        self.emulator.admin("customers", {"account_id": OTHER, "identifier": "other", "licenses": [second]})

    def found(self, client=None, product="demosaas", **filters):
        """Account and dimension of each entitlement, by botocore's own paginator."""
        pages = (client or self.client).get_paginator("get_entitlements").paginate(ProductCode=product, Filter=filters)
        return [(e["CustomerAWSAccountId"][:4], e["Dimension"]) for page in pages for e in page["Entitlements"]]

    def order(self, event, **members):
        return self.emulator.admin("events", {"event": event, **members})

    def refused(self, path, order):
        with self.assertRaises(urllib.error.HTTPError) as raised:
            self.emulator.admin(path, order)
        with raised.exception as error:
            self.assertEqual(error.code, 400)
            return json.load(error)["error"]


class Entitlements(Case):
    def test_every_member_of_an_entitlement(self):
        self.contracts()
        answer = self.client.get_entitlements(ProductCode="demosaas", Filter={"LICENSE_ARN": [DEMO]})
        values = {e["Dimension"]: e["Value"] for e in answer["Entitlements"]}
        self.assertEqual(values, {
            "users": {"IntegerValue": 25}, "storage": {"DoubleValue": 1.5}, "premium": {"BooleanValue": True},
            "plan": {"StringValue": "gold"},
        })
        first = answer["Entitlements"][0]
        self.assertEqual(first["ExpirationDate"], END)
        self.assertEqual((first["LicenseArn"], first["CustomerAWSAccountId"]), (DEMO, BUYER))
        self.assertEqual((first["ProductCode"], first["CustomerIdentifier"]), ("demosaas", "customer-111122223333"))
        model = self.client.meta.service_model.shape_for("Entitlement")
        self.assertEqual(set(first), set(model.members))
        self.emulator.admin("products", {"product_code": "demosaas", "agreements": "concurrent"})
        answer = self.client.get_entitlements(ProductCode="demosaas", Filter={"DIMENSION": ["support"]})
        self.assertEqual(set(model.members) - set(answer["Entitlements"][0]), {"CustomerIdentifier", "ExpirationDate"})

    def test_every_filter_of_the_model(self):
        self.contracts()
        one = [("1111", name) for name in ("users", "storage", "premium", "plan")]
        two = [("4444", "users"), ("4444", "support")]
        self.assertEqual(self.found(), one + two)
        cases = [
            ({"CUSTOMER_AWS_ACCOUNT_ID": [OTHER]}, two),
            ({"CUSTOMER_IDENTIFIER": ["other", "nobody"]}, two),
            ({"LICENSE_ARN": [DEMO]}, one),
            ({"LICENSE_ARN": [DEMO, SECOND]}, one + two),
            ({"DIMENSION": ["users", "support"]}, [one[0], *two]),
            ({"DIMENSION": ["users"], "CUSTOMER_AWS_ACCOUNT_ID": [BUYER]}, [one[0]]),
            ({"DIMENSION": ["plan"], "LICENSE_ARN": [SECOND]}, []),
        ]
        for filters, expected in cases:
            with self.subTest(filters):
                self.assertEqual(self.found(**filters), expected)
        names = self.client.meta.service_model.shape_for("GetEntitlementFilterName").enum
        self.assertEqual({name for filters, _ in cases for name in filters}, set(names))
        both = {"CUSTOMER_AWS_ACCOUNT_ID": [OTHER], "CUSTOMER_IDENTIFIER": ["other"]}
        with self.assertRaises(self.client.exceptions.InvalidParameterException):
            self.found(**both)
        self.emulator.admin("switches", {"two_customer_filters": "accepted"})
        self.assertEqual(self.found(**both), two)

    def test_pages_and_those_that_are_empty_although_more_follows(self):
        self.contracts()

        def pages(limit=9, **members):
            sizes, token = [], None
            while len(sizes) < limit:
                answer = self.client.get_entitlements(
                    ProductCode="demosaas", **members, **({"NextToken": token} if token else {})
                )
                sizes.append(len(answer["Entitlements"]))
                token = answer.get("NextToken")
                if token is None:
                    break
            return sizes

        second = {"LICENSE_ARN": [SECOND]}
        self.assertEqual(pages(), [6])
        self.assertEqual(pages(MaxResults=4), [4, 2])
        self.assertEqual(pages(MaxResults=2, Filter=second), [0, 0, 2])
        self.emulator.admin("switches", {"entitlement_pages": "full"})
        self.assertEqual(pages(MaxResults=2, Filter=second), [2])
        self.emulator.admin("faults", {"fault": "empty-page", "operation": "GetEntitlements", "count": 2})
        self.assertEqual(pages(Filter=second), [0, 0, 2])
        self.emulator.admin("faults", {"fault": "endless-pages"})
        self.assertEqual(pages(Filter=second), [2] * 9)
        self.emulator.admin("faults", method="DELETE")
        licenses = [{"product_code": "demosaas", "license_arn": f"{DEMO}-{n}", "entitlements": [{"dimension": "users", "value": n}]}
                    for n in range(60)]
        self.emulator.admin("customers", {"account_id": BUYER, "licenses": licenses})
        self.assertEqual(pages(Filter={"CUSTOMER_AWS_ACCOUNT_ID": [BUYER]}), [25, 25, 10])
        self.assertEqual(len(self.found(CUSTOMER_AWS_ACCOUNT_ID=[BUYER])), 60)
        with self.assertRaises(self.client.exceptions.InvalidParameterException):
            self.client.get_entitlements(ProductCode="demosaas", NextToken="made-up")

    def test_every_modelled_error(self):
        shapes = self.client.meta.service_model.operation_model("GetEntitlements").error_shapes
        self.assertEqual(len(shapes), 3)
        for shape in shapes:
            rule = {"fault": "exception", "exception": shape.name, "operation": "GetEntitlements", "count": 1}
            self.emulator.admin("faults", rule)
            with self.subTest(shape.name), self.assertRaises(getattr(self.client.exceptions, shape.name)) as raised:
                self.found()
            response = raised.exception.response
            self.assertTrue(response["Error"]["Message"])
            status = 500 if shape.name == "InternalServiceErrorException" else 400
            self.assertEqual(response["ResponseMetadata"]["HTTPStatusCode"], status)
        self.found()

    def test_a_foreign_account_gets_an_empty_list(self):
        self.contracts()
        buyer = self.client_of("buyer")
        self.emulator.admin("pods", {"access_key": "stranger", "account_id": "999999999999"})
        for client in (buyer, self.client_of("stranger")):
            answer = client.get_entitlements(ProductCode="demosaas", Filter={"CUSTOMER_AWS_ACCOUNT_ID": [BUYER]})
            self.assertEqual(answer["Entitlements"], [])
            self.assertNotIn("NextToken", answer)
        self.assertEqual(self.emulator.admin("calls?operation=GetEntitlements")["calls"][-1]["account_id"], "999999999999")
        # Usage-only, another seller's, unknown.
        self.assertEqual(self.found(product="demometered"), [])
        self.emulator.admin("products", {"product_code": "demosaas", "seller_account_id": "999999999999"})
        self.assertEqual(self.found(), [])
        self.assertEqual(len(self.found(self.client_of("stranger"))), 6)
        self.assertEqual(self.found(product="unknown"), [])
        self.emulator.admin("switches", {"unknown_entitlement_product": "refused"})
        with self.assertRaises(self.client.exceptions.InvalidParameterException):
            self.found(product="unknown")

    def test_only_one_region_of_a_partition_answers(self):
        self.contracts()
        for region in ("us-east-1", "cn-northwest-1", "eusc-de-east-1"):
            self.assertEqual(len(self.found(self.client_of("seller", region=region))), 6, region)
        for region in ("eu-central-1", "us-west-2", "us-gov-west-1"):
            with self.assertRaises(botocore.exceptions.ClientError) as raised:
                self.found(self.client_of("seller", region=region))
            self.assertEqual(raised.exception.response["Error"]["Code"], "InvalidSignatureException", region)

    def test_the_protocol_and_a_verified_signature(self):
        sent = []
        self.client.meta.events.register("before-send", lambda request, **_: sent.append(request))
        self.emulator.admin("pods", {"access_key": "seller", "secret_key": "any"})
        self.assertEqual(self.found(), [])
        expected = {
            "json": ("/", b"application/x-amz-json-1.1"),
            "smithy-rpc-v2-cbor": ("/service/AWSMPEntitlementService/operation/GetEntitlements", b"application/cbor"),
        }
        path, content_type = expected[self.protocol]
        self.assertEqual(sent[0].url, self.emulator.endpoint + path)
        self.assertIn(sent[0].headers["content-type"], (content_type, content_type.decode()))
        noted = self.emulator.admin("calls?operation=GetEntitlements")["calls"][-1]
        self.assertEqual(noted["request"]["ProductCode"], "demosaas")
        self.assertEqual(noted["answer"], {"Entitlements": []})
        self.emulator.admin("pods", {"access_key": "seller", "secret_key": "other"})
        with self.assertRaisesRegex(botocore.exceptions.ClientError, "InvalidSignature"):
            self.found()

    def test_faults_of_the_connection(self):
        self.contracts()
        self.emulator.admin("faults", {"fault": "trickle", "delay": "200ms", "operation": "GetEntitlements", "count": 1})
        self.assertEqual(len(self.found()), 6)
        for fault in ("invalid-json", "truncate", "reset-before", "http"):
            self.emulator.admin("faults", {"fault": fault, "operation": "GetEntitlements", "count": 1})
            with self.subTest(fault), self.assertRaises(Exception):
                self.found()
        self.assertEqual(len(self.found()), 6)

    def test_a_role_without_the_permission(self):
        self.emulator.admin("pods", {"access_key": "seller", "denied": ["GetEntitlements"]})
        with self.assertRaisesRegex(botocore.exceptions.ClientError, "aws-marketplace:GetEntitlements") as raised:
            self.found()
        self.assertEqual(raised.exception.response["Error"]["Code"], "AccessDeniedException")

    def test_what_is_listed_as_time_goes_by(self):
        self.contracts()
        self.emulator.admin("clock", {"now": "2026-12-02T00:00:00Z"})
        self.assertEqual(len(self.found()), 6)
        self.emulator.admin("switches", {"expired_entitlement": "omitted"})
        self.assertEqual(self.found(CUSTOMER_AWS_ACCOUNT_ID=[OTHER]), [("4444", "support")])
        self.emulator.admin("clock", {"now": "2027-01-01T00:00:00Z"})
        self.assertEqual(self.found(CUSTOMER_AWS_ACCOUNT_ID=[BUYER]), [])

    def test_an_order_with_a_fault_changes_nothing(self):
        self.contracts()
        before = self.emulator.admin("world")
        for entitlement, part in [
            ({"dimension": "users", "value": 3_000_000_000}, "32 bits"),
            ({"dimension": "two words", "value": 1}, "blanks"),
            ({"dimension": "", "value": 1}, "a name has"),
            ({"dimension": "users", "value": 1, "expires_at": "soon"}, "no time"),
            ({"dimension": "users", "value": []}, "does not fit"),
            ({"dimension": "users"}, "missing field"),
        ]:
            license = {"product_code": "demosaas", "entitlements": [entitlement]}
            self.assertIn(part, self.refused("customers", {"account_id": BUYER, "licenses": [license]}))
            self.assertIn(part, self.refused("events", {
                "event": "license-updated", "license_arn": DEMO, "entitlements": [entitlement],
            }))
        twice = [{"dimension": "users", "value": 1}] * 2
        self.assertIn("declared twice", self.refused("events", {
            "event": "license-updated", "license_arn": DEMO, "entitlements": twice,
        }))
        self.assertEqual(self.emulator.admin("world"), before)


class EntitlementsInCbor(Entitlements):
    protocol = "smithy-rpc-v2-cbor"


class Events(Case):
    def setUp(self):
        super().setUp()
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)
        self.emulator.admin("event-target", {"url": self.receiver.url, "header": "authorization", "value": "Bearer secret"})

    def batch(self, account=BUYER, hours=0):
        """The status of one record of the hour."""
        now = datetime.datetime.fromisoformat(self.emulator.admin("clock")["now"])
        record = {
            "Timestamp": now - datetime.timedelta(hours=hours), "CustomerAWSAccountId": account, "Dimension": "requests",
            "Quantity": 1,
        }
        answer = self.client_of("seller", "meteringmarketplace").batch_meter_usage(ProductCode="demosaas", UsageRecords=[record])
        return answer["Results"][0]["Status"]

    def test_each_event_arrives_as_an_api_destination_posts_it(self):
        for name, detail_type in [
            ("agreement-created", "Purchase Agreement Created - Proposer"),
            ("agreement-amended", "Purchase Agreement Amended - Proposer"),
            ("agreement-ended", "Purchase Agreement Ended - Proposer"),
            ("license-updated", "License Updated - Manufacturer"),
            ("license-deprovisioned", "License Deprovisioned - Manufacturer"),
        ]:
            answer = self.order(name, account_id=BUYER)
            [(path, headers, event)] = self.receiver.events()
            headers = {key.lower(): value for key, value in headers.items()}
            self.assertEqual(path, "/v1/events/marketplace")
            self.assertEqual((headers["authorization"], headers["content-type"]), ("Bearer secret", "application/json"))
            self.assertEqual(headers["x-tollgate-emulator"], "1")
            self.assertEqual(event, answer["event"])
            self.assertEqual(answer["deliveries"], [{"status": 200, "answer": "heard"}])
            self.assertEqual((event["detail-type"], event["source"]), (detail_type, "aws.agreement-marketplace"))
            self.assertEqual(event["time"][:16], "2026-11-24T08:30")
            self.assertEqual(event["detail"]["acceptor"], {"accountId": BUYER})
            self.assertEqual(event["detail"]["agreement"]["id"], "agmt-demo")
            self.assertEqual(event["detail"].get("license"), {"arn": DEMO} if "License" in detail_type else None)
        shown = self.emulator.admin("events")
        self.assertEqual(len({entry["event"]["id"] for entry in shown["events"]}), 5)
        self.assertNotIn("secret", json.dumps(shown))
        self.assertEqual(len(self.emulator.admin("events?last=2")["events"]), 2)

    def test_the_marketplace_follows_to_the_end_of_the_last_hour(self):
        entitlements = [{"dimension": "users", "value": 25}]
        self.order("license-updated", account_id=BUYER, entitlements=entitlements)
        self.assertEqual(self.found(), [("1111", "users")])
        # The end of the agreement alone ends nothing.
        self.order("agreement-ended", account_id=BUYER, status="EXPIRED")
        self.emulator.admin("clock", {"advance": "2h"})
        self.assertEqual((self.batch(), self.found()), ("Success", [("1111", "users")]))
        self.order("license-deprovisioned", account_id=BUYER)
        self.assertEqual((self.batch(hours=1), self.found()), ("Success", []))
        self.emulator.admin("clock", {"advance": "59m"})
        # A repetition does not begin a new hour.
        self.order("license-deprovisioned", account_id=BUYER, times=3)
        self.assertEqual(self.batch(), "Success")
        self.emulator.admin("clock", {"advance": "2m"})
        self.assertEqual(self.batch(), "CustomerNotSubscribed")
        self.order("license-updated", account_id=BUYER)
        self.assertEqual((self.batch(), self.found()), ("Success", [("1111", "users")]))
        self.emulator.admin("switches", {"deprovisioned_flush": "none"})
        self.order("license-deprovisioned", account_id=BUYER)
        self.assertEqual(self.batch(hours=3), "CustomerNotSubscribed")

    def test_a_license_of_several_ends_alone(self):
        self.contracts()
        more = [{"product_code": "demosaas", "license_arn": arn, "entitlements": [{"dimension": "users", "value": 1}]}
                for arn in (DEMO, f"{DEMO}-2")]
        self.emulator.admin("customers", {"account_id": BUYER, "licenses": more})
        self.assertIn("name the license_arn", self.refused("events", {"event": "license-deprovisioned", "account_id": BUYER}))
        self.order("license-deprovisioned", license_arn=DEMO)
        self.assertEqual(self.found(CUSTOMER_AWS_ACCOUNT_ID=[BUYER]), [("1111", "users")])
        self.assertEqual(self.found(LICENSE_ARN=[DEMO]), [])
        # A customer for whom no license is declared has the standard one.
        self.emulator.admin("customers", {"account_id": "123456789012"})
        self.order("license-deprovisioned", account_id="123456789012")
        self.emulator.admin("clock", {"advance": "61m"})
        self.assertEqual(self.batch("123456789012"), "CustomerNotSubscribed")

    def test_licenses_outlive_the_emulators_death_and_events_do_not(self):
        with tempfile.TemporaryDirectory() as folder:
            with Emulator(PROGRAM, "--state", folder) as first:
                first.admin("event-target", {"url": self.receiver.url})
                order = {"event": "license-updated", "account_id": BUYER, "entitlements": [{"dimension": "users", "value": 25}]}
                first.admin("events", order)
                first.admin("events", {"event": "license-deprovisioned", "account_id": OTHER})
                before = first.admin("world")["customers"]
                first.process.kill()
                first.process.wait()
            with Emulator(PROGRAM, "--state", folder) as second:
                self.assertEqual(second.admin("world")["customers"], before)
                self.assertEqual(second.admin("events"), {"target": None, "events": []})
        licenses = {license["license_arn"]: license for customer in before for license in customer["licenses"]}
        self.assertEqual(licenses[DEMO]["entitlements"], [{"dimension": "users", "value": 25, "expires_at": None}])

    def test_again_late_and_in_another_order(self):
        first = self.order("license-updated", account_id=BUYER, deliver=False)
        self.assertEqual((first["deliveries"], self.receiver.events()), ([], []))
        last = self.order("license-deprovisioned", account_id=BUYER, times=2)
        late = self.emulator.admin("events", {"resend": first["event"]["id"]})
        self.assertEqual(late["event"], first["event"])
        arrived = [event for _, _, event in self.receiver.events()]
        self.assertEqual(arrived, [last["event"], last["event"], first["event"]])
        # What is sent again does not happen again.
        self.emulator.admin("clock", {"advance": "61m"})
        self.assertEqual(self.batch(), "CustomerNotSubscribed")
        counts = [len(entry["deliveries"]) for entry in self.emulator.admin("events")["events"]]
        self.assertEqual(counts, [1, 2])
        self.assertIn("there is no event", self.refused("events", {"resend": "unknown"}))

    def test_a_forged_event_changes_nothing_here(self):
        forged = {"account": "999999999999", "detail": {"product": {"code": "another"}, "license": None}}
        event = self.order("license-deprovisioned", account_id=BUYER, forged=forged, id="known")["event"]
        [(_, _, arrived)] = self.receiver.events()
        self.assertEqual(arrived, event)
        self.assertEqual((arrived["id"], arrived["account"]), ("known", "999999999999"))
        self.assertEqual(arrived["detail"]["product"]["code"], "another")
        self.assertNotIn("license", arrived["detail"])
        self.emulator.admin("clock", {"advance": "61m"})
        self.assertEqual(self.batch(), "Success")

    def test_a_target_that_refuses_or_is_gone_is_told(self):
        self.receiver.status = 503
        self.assertEqual(self.order("license-updated", account_id=BUYER)["deliveries"][0]["status"], 503)
        self.receiver.close()
        error = self.order("license-updated", account_id=BUYER)["deliveries"][0]["error"]
        self.assertIn("cannot connect", error)
        self.emulator.admin("event-target", method="DELETE")
        self.assertEqual(self.order("license-updated", account_id=BUYER)["deliveries"], [])
        before = self.emulator.admin("events")
        self.assertIn("no target", self.refused("events", {"event": "license-deprovisioned", "account_id": BUYER, "deliver": True}))
        self.assertEqual(self.emulator.admin("events"), before)
        for target, part in [
            ({"url": "https://127.0.0.1/x"}, "url is http"),
            ({"url": "http://registry.example/x"}, "a private network"),
            ({"url": "nonsense"}, "url is http"),
            ({"url": "http://127.0.0.1/x", "header": "authorization"}, "go together"),
            ({"url": "http://127.0.0.1/x", "header": "a b", "value": "x"}, "an HTTP header"),
            ({"url": "http://127.0.0.1/x", "header": "x-key", "value": "a\nb"}, "an HTTP header"),
        ]:
            self.assertIn(part, self.refused("event-target", target))
        key = {"url": self.receiver.url, "header": "x-api-key", "value": "key"}
        self.assertEqual(self.emulator.admin("event-target", key)["target"], {"url": self.receiver.url, "header": "x-api-key"})


if __name__ == "__main__":
    unittest.main(verbosity=2)
