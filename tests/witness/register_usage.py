"""boto3, unmodified, registers with the emulator; PyJWT verifies its token; PyJWT forges, and tollgate refuses.

Usage: register_usage.py PROGRAM
"""

import json
import subprocess
import sys
import tempfile
import unittest

import boto3
import botocore.config
import jwt
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

PROGRAM = sys.argv.pop(1)

EXCEPTIONS = {
    "InvalidProductCodeException": 400,
    "InvalidRegionException": 400,
    "InvalidPublicKeyVersionException": 400,
    "PlatformNotSupportedException": 400,
    "CustomerNotEntitledException": 400,
    "ThrottlingException": 400,
    "InternalServiceErrorException": 500,
    "DisabledApiException": 400,
}


def verify(token, key_file, nonce, *extra):
    """Exit code and output of `tollgate verify`."""
    command = [
        PROGRAM, "verify", "--product-code", "demohourly", "--public-key-version", "1",
        "--public-key", key_file, "--nonce", nonce, *extra, token,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


class Emulator(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.process = subprocess.Popen(
            [PROGRAM, "emulator", "--addr", "127.0.0.1:0", "--json", "--state", cls.folder.name],
            stdout=subprocess.PIPE,
            text=True,
        )
        cls.facts = json.loads(cls.process.stdout.readline())
        cls.key_file = cls.facts["public_keys"] + "/1.pem"

    @classmethod
    def tearDownClass(cls):
        cls.process.terminate()
        cls.process.wait()
        cls.process.stdout.close()
        cls.folder.cleanup()

    def client(self, pod="witness"):
        return boto3.client(
            "meteringmarketplace",
            endpoint_url=self.facts["endpoint"],
            region_name="us-east-1",
            aws_access_key_id=pod,
            aws_secret_access_key="any",
            config=botocore.config.Config(retries={"total_max_attempts": 1}),
        )

    def admin(self, path, body):
        import urllib.request

        request = urllib.request.Request(self.facts["endpoint"] + path, json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def test_pyjwt_verifies_what_boto3_received(self):
        answer = self.client().register_usage(ProductCode="demohourly", PublicKeyVersion=1, Nonce="my nonce")
        with open(self.key_file, encoding="ascii") as key:
            claims = jwt.decode(answer["Signature"], key.read(), algorithms=["PS256"])
        self.assertEqual(claims["productCode"], "demohourly")
        self.assertEqual(claims["nonce"], "my nonce")
        self.assertEqual(claims["publicKeyVersion"], 1)
        self.assertIs(claims["emulated"], True)
        self.assertEqual(jwt.get_unverified_header(answer["Signature"]), {"alg": "PS256", "typ": "JWT"})
        code, output, _ = verify(answer["Signature"], self.key_file, "my nonce", "--allow-emulated")
        self.assertEqual((code, json.loads(output)), (0, claims))

    def test_every_exception_is_modelled_and_has_its_status(self):
        for name, status in EXCEPTIONS.items():
            with self.subTest(name):
                self.admin("/_emulator/faults", {"pod": name, "fault": "exception", "exception": name})
                client = self.client(name)
                with self.assertRaises(getattr(client.exceptions, name)) as raised:
                    client.register_usage(ProductCode="demohourly", PublicKeyVersion=1)
                response = raised.exception.response
                self.assertEqual(response["ResponseMetadata"]["HTTPStatusCode"], status)
                self.assertTrue(response["Error"]["Message"])

    def test_the_rules_without_a_script(self):
        client = self.client("rules")
        for arguments, name in [
            ({"ProductCode": "unknown", "PublicKeyVersion": 1}, "InvalidProductCodeException"),
            ({"ProductCode": "demohourly", "PublicKeyVersion": 9}, "InvalidPublicKeyVersionException"),
        ]:
            with self.assertRaises(ClientError) as raised:
                client.register_usage(**arguments)
            self.assertEqual(raised.exception.response["Error"]["Code"], name)
        self.admin("/_emulator/pods", {"access_key": "poor", "account_id": "444455556666"})
        with self.assertRaises(client.exceptions.CustomerNotEntitledException) as raised:
            self.client("poor").register_usage(ProductCode="demohourly", PublicKeyVersion=1)

    def test_pyjwt_reads_the_token_in_every_form_that_awss_documents_allow(self):
        def decoded(switch, answer, **request):
            self.admin("/_emulator/switches", {switch: answer})
            try:
                answer = self.client().register_usage(ProductCode="demohourly", PublicKeyVersion=1, **request)
            finally:
                self.admin("/_emulator/reset", {})
            with open(self.key_file, encoding="ascii") as key:
                return answer, jwt.decode(answer["Signature"], key.read(), algorithms=["PS256"])

        common = {"emulated": True}
        camel = {"productCode": "demohourly", "publicKeyVersion": 1, **common}
        pascal = {"ProductCode": "demohourly", "PublicKeyVersion": 1, "Nonce": "n", **common}
        for switch, answer, request, expected in [
            ("claim_case", "pascal", {"Nonce": "n"}, pascal),
            ("claim_case", "camel", {"Nonce": "n"}, {**camel, "nonce": "n"}),
            ("absent_nonce", "omitted", {}, camel),
            ("absent_nonce", "null", {}, {**camel, "nonce": None}),
            ("rotation_claim", "present", {}, {**camel, "publicKeyRotationTimestamp": None}),
        ]:
            with self.subTest(switch=switch, answer=answer):
                _, claims = decoded(switch, answer, **request)
                self.assertIsInstance(claims.pop("iat"), int)
                self.assertEqual(claims, expected)
        self.assertEqual(decoded("issued_at", "omitted")[1], camel)
        self.assertNotIn("PublicKeyRotationTimestamp", decoded("absent_rotation", "omitted")[0])
        # RFC 7518 requires 32 bytes of salt, and PyJWT accepts nothing else.
        with self.assertRaises(jwt.InvalidSignatureError):
            decoded("salt_length", "longest")

    def test_awss_own_bounds_are_the_emulators(self):
        # Without the client's own validation, as another client would send it.
        config = botocore.config.Config(parameter_validation=False, retries={"total_max_attempts": 1})
        client = boto3.client(
            "meteringmarketplace", endpoint_url=self.facts["endpoint"], region_name="us-east-1",
            aws_access_key_id="bounds", aws_secret_access_key="any", config=config,
        )
        good = {"ProductCode": "demohourly", "PublicKeyVersion": 1, "Nonce": "n" * 255}
        client.register_usage(**good)
        for change in [
            {"Nonce": "n" * 256}, {"ProductCode": "x" * 256}, {"ProductCode": "no spaces"}, {"PublicKeyVersion": 0},
        ]:
            with self.subTest(change), self.assertRaises(ClientError) as raised:
                client.register_usage(**{**good, **change})
            self.assertEqual(raised.exception.response["Error"]["Code"], "ValidationException")


class Forgeries(unittest.TestCase):
    """Tokens made by PyJWT, verified by tollgate."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
        cls.other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        cls.key_file = cls.folder.name + "/1.pem"
        cls.public = cls.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        with open(cls.key_file, "wb") as file:
            file.write(cls.public)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    claims = {"productCode": "demohourly", "nonce": "n", "publicKeyVersion": 1}

    def judge(self, token):
        code, _, error = verify(token, self.key_file, "n")
        return code, error.split(":")[1].strip() if code else ""

    def test_pyjwts_token_is_accepted(self):
        self.assertEqual(self.judge(jwt.encode(self.claims, self.key, "PS256")), (0, ""))

    def test_pyjwts_forgeries_are_refused(self):
        for token, reason in [
            (jwt.encode(self.claims, self.other, "PS256"), "SignatureInvalid"),
            (jwt.encode(self.claims, self.key, "RS256"), "AlgorithmNotAllowed"),
            (jwt.encode(self.claims, self.key, "PS384"), "AlgorithmNotAllowed"),
            (jwt.encode(self.claims, "secret" * 8, "HS256"), "AlgorithmNotAllowed"),
            (jwt.encode(self.claims, None, "none"), "TokenMalformed"),
            (jwt.encode({**self.claims, "nonce": "m"}, self.key, "PS256"), "NonceMismatch"),
            (jwt.encode({**self.claims, "exp": 1}, self.key, "PS256"), "TokenExpired"),
            (jwt.encode(self.claims, self.key, "PS256", headers={"crit": ["x"], "x": 1}), "ExtensionNotAllowed"),
        ]:
            with self.subTest(reason):
                self.assertEqual(self.judge(token), (76, reason))


if __name__ == "__main__":
    unittest.main(verbosity=2)
