"""Unmodified third-party programs: the AWS CLI, the AWS SDK for JavaScript, and moto.

Usage: clients.py PROGRAM NODE_MODULES_FOLDER
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

import boto3
from moto.server import ThreadedMotoServer

from processes import Emulator

FOLDER = sys.argv.pop(2)
PROGRAM = sys.argv.pop(1)
TIME = "2026-11-24T08:30:00Z"


class Clients(unittest.TestCase):
    def setUp(self):
        # The CLI caches the credentials of a role below HOME, and another run's emulator does not know
        # them.
        self.home = self.enterContext(tempfile.TemporaryDirectory())
        self.emulator = self.enterContext(Emulator(PROGRAM))
        self.emulator.admin("clock", {"now": TIME})

    def token(self):
        order = {"account_id": "111122223333", "product_code": "demosaas"}
        return self.emulator.admin("tokens", order)["token"]

    def cli(self, *arguments):
        keys = {
            "AWS_ENDPOINT_URL_MARKETPLACE_METERING": self.emulator.endpoint,
            "AWS_ACCESS_KEY_ID": "cli-pod",
            "AWS_SECRET_ACCESS_KEY": "any",
        }
        return self.aws(keys, "meteringmarketplace", *arguments)

    def aws(self, environment, *arguments):
        surroundings = {
            "PATH": os.environ["PATH"], "HOME": self.home, "AWS_DEFAULT_REGION": "us-east-1", "AWS_PAGER": "",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        program = os.path.join(os.path.dirname(sys.executable), "aws")
        done = subprocess.run([program, *arguments], env={**surroundings, **environment}, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        # The CLI prints nothing for an answer without members.
        return json.loads(done.stdout or "{}")

    def test_the_aws_cli_with_one_environment_variable(self):
        answer = self.cli("register-usage", "--product-code", "demohourly", "--public-key-version", "1")
        self.assertEqual(answer["Signature"].count("."), 2)
        answer = self.cli(
            "meter-usage", "--product-code", "demometered", "--timestamp", TIME, "--usage-dimension", "requests",
            "--usage-quantity", "3",
        )
        self.assertTrue(answer["MeteringRecordId"])
        record = f"Timestamp={TIME},CustomerIdentifier=customer-111122223333,Dimension=requests,Quantity=4"
        answer = self.cli("batch-meter-usage", "--product-code", "demosaas", "--usage-records", record)
        self.assertEqual(answer["Results"][0]["Status"], "Success")
        answer = self.cli("resolve-customer", "--registration-token", self.token())
        self.assertEqual(answer["CustomerAWSAccountId"], "111122223333")

    def test_the_aws_cli_takes_a_seat_and_gives_it_back(self):
        keys = {
            "AWS_ENDPOINT_URL_LICENSE_MANAGER": self.emulator.endpoint, "AWS_ACCESS_KEY_ID": "cli-pod",
            "AWS_SECRET_ACCESS_KEY": "any",
        }

        def cli(*arguments):
            return self.aws(keys, "license-manager", *arguments)

        license = cli("list-received-licenses", "--filters", "Name=ProductSKU,Values=prod-democontract")["Licenses"][0]
        arn = license["LicenseArn"]
        taken = cli(
            "checkout-license", "--product-sku", license["ProductSKU"], "--checkout-type", "PROVISIONAL",
            "--key-fingerprint", license["Issuer"]["KeyFingerprint"], "--client-token", "token",
            "--entitlements", "Name=users,Value=3,Unit=Count",
        )
        token = ("--license-consumption-token", taken["LicenseConsumptionToken"])
        self.assertEqual(cli("extend-license-consumption", *token)["LicenseConsumptionToken"], token[1])
        usage = cli("get-license-usage", "--license-arn", arn)["LicenseUsage"]["EntitlementUsages"][0]
        self.assertEqual((usage["ConsumedValue"], usage["MaxCount"]), ("3", "10"))
        cli("check-in-license", *token)
        usage = cli("get-license-usage", "--license-arn", arn)["LicenseUsage"]["EntitlementUsages"][0]
        self.assertEqual(usage["ConsumedValue"], "0")
        self.assertEqual(cli("get-license", "--license-arn", arn)["License"]["ProductSKU"], "prod-democontract")
        refresh = self.emulator.admin("refresh-tokens", {"license_arn": arn})["refresh_token"]
        self.assertTrue(cli("get-access-token", "--token", refresh)["AccessToken"])
        created = cli(
            "create-license", "--license-name", "rehearsal", "--product-name", "demo", "--product-sku", "prod-rehearsal",
            "--issuer", "Name=me", "--home-region", "us-east-1", "--validity", "Begin=2026-01-01T00:00:00Z",
            "--entitlements", "Name=users,MaxCount=5,Unit=Count,AllowCheckIn=true", "--beneficiary", "111122223333",
            "--consumption-configuration", "ProvisionalConfiguration={MaxTimeToLiveInMinutes=180}", "--client-token", "token",
        )
        self.assertEqual(created["Status"], "AVAILABLE")

    def test_the_aws_sdk_for_javascript(self):
        script = os.path.join(FOLDER, "calls.mjs")
        shutil.copy(os.path.join(os.path.dirname(__file__), "calls.mjs"), script)
        command = ["node", script, self.emulator.endpoint, self.token(), TIME]
        done = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        answer = json.loads(done.stdout)
        self.assertEqual((answer["parts"], answer["statuses"], answer["unprocessed"]), (3, ["Success"], 0))
        self.assertEqual(answer["account"], "111122223333")
        self.assertTrue(answer["record"])

    def test_moto_answers_a_batch_in_the_same_shape(self):
        moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        moto.start()
        self.addCleanup(moto.stop)
        endpoint = "http://{}:{}".format(*moto.get_host_and_port())
        request = {
            "ProductCode": "demosaas",
            "UsageRecords": [
                {"Timestamp": TIME, "CustomerIdentifier": "customer-111122223333", "Dimension": "requests", "Quantity": 4}
            ],
        }

        def answer(endpoint):
            client = boto3.client(
                "meteringmarketplace", endpoint_url=endpoint, region_name="us-east-1",
                aws_access_key_id="moto", aws_secret_access_key="any",
            )
            answer = client.batch_meter_usage(**request)
            del answer["ResponseMetadata"]
            return answer

        def shape(value):
            if isinstance(value, dict):
                return {key: shape(item) for key, item in value.items()}
            return [shape(item) for item in value] if isinstance(value, list) else type(value).__name__

        ours, theirs = answer(self.emulator.endpoint), answer(endpoint)
        self.assertEqual(shape(ours), shape(theirs))

    def test_the_aws_cli_assumes_a_role_and_says_who_it_is(self):
        with tempfile.NamedTemporaryFile("w") as file:
            claims = {"sub": "system:serviceaccount:shop:app", "aud": "sts.amazonaws.com"}
            parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in ({"alg": "RS256"}, claims)]
            file.write(".".join([*parts, "c2ln"]))
            file.flush()
            role = {
                "AWS_ENDPOINT_URL": self.emulator.endpoint, "AWS_WEB_IDENTITY_TOKEN_FILE": file.name,
                "AWS_ROLE_ARN": "arn:aws:iam::111122223333:role/app", "AWS_ROLE_SESSION_NAME": "cli-session",
            }
            answer = self.aws(role, "sts", "get-caller-identity")
            self.assertEqual(answer["Arn"], "arn:aws:sts::111122223333:assumed-role/app/cli-session")
            arguments = ("--product-code", "demohourly", "--public-key-version", "1")
            self.aws(role, "meteringmarketplace", "register-usage", *arguments)
        last = self.emulator.admin("calls")["calls"][-1]
        self.assertEqual((last["pod"], last["role"]), ("cli-session", role["AWS_ROLE_ARN"]))


if __name__ == "__main__":
    unittest.main(verbosity=2)
