"""STS and the ECS agent of the emulator by boto3, unmodified, with tokens that PyJWT signed.

Usage: sts.py PROGRAM
"""

import contextlib
import functools
import http.server
import json
import os
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
import botocore.session
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from processes import Emulator

PROGRAM = sys.argv.pop(1)
ISSUER = "https://oidc.eks.us-east-1.amazonaws.com/id/EXAMPLE"
ROLE = "arn:aws:iam::111122223333:role/shop/app"
POD = {"namespace": "shop", "pod": {"name": "app-0", "uid": "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"}}
KEYS = {
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
}
STRANGER = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def jwks():
    keys = []
    for name, key in KEYS.items():
        algorithm = jwt.algorithms.get_default_algorithms()[name]
        keys.append({**json.loads(algorithm.to_jwk(key.public_key())), "kid": name, "use": "sig"})
    return json.dumps({"keys": keys})


def token(algorithm="RS256", key=None, kid=None, **claims):
    now = int(time.time())
    claims = {
        "iss": ISSUER, "aud": ["sts.amazonaws.com"], "sub": "system:serviceaccount:shop:app",
        "iat": now, "nbf": now, "exp": now + 3600, "kubernetes.io": POD, **claims,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, key or KEYS[algorithm], algorithm, headers={"kid": kid or algorithm})


@contextlib.contextmanager
def environment(**variables):
    """This process's environment without AWS's variables, and with the given ones."""
    kept = dict(os.environ)
    for name in list(os.environ):
        if name.startswith("AWS_"):
            del os.environ[name]
    os.environ.update({"AWS_EC2_METADATA_DISABLED": "true", "AWS_DEFAULT_REGION": "us-east-1", **variables})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


class Sts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = cls.enterClassContext(tempfile.TemporaryDirectory())
        cls.keys = os.path.join(cls.folder, "keys.json")
        with open(cls.keys, "w") as file:
            file.write(jwks())
        arguments = ("--web-identity-jwks", cls.keys, "--web-identity-issuer", ISSUER, "--container-token", "s3cret")
        cls.emulator = cls.enterClassContext(Emulator(PROGRAM, *arguments))

    def setUp(self):
        self.emulator.admin("reset", {})

    def client(self, service="sts", endpoint=None, **credentials):
        config = botocore.config.Config(retries={"total_max_attempts": 1}, read_timeout=1, parameter_validation=False)
        credentials = credentials or {"aws_access_key_id": "plain", "aws_secret_access_key": "any"}
        endpoint = endpoint or self.emulator.endpoint
        return boto3.client(service, endpoint_url=endpoint, region_name="us-east-1", config=config, **credentials)

    def assume(self, web_identity_token=None, endpoint=None, **members):
        members = {"RoleArn": ROLE, "RoleSessionName": "session-1", **members}
        return self.client(endpoint=endpoint).assume_role_with_web_identity(
            WebIdentityToken=web_identity_token or token(), **members
        )

    def session(self, **members):
        given = self.assume(**members)["Credentials"]
        return {
            "aws_access_key_id": given["AccessKeyId"], "aws_secret_access_key": given["SecretAccessKey"],
            "aws_session_token": given["SessionToken"],
        }

    def refused(self, code, call, status=400):
        with self.assertRaises(botocore.exceptions.ClientError) as raised:
            call()
        response = raised.exception.response
        self.assertEqual((response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]), (code, status))
        return response["Error"]["Message"]

    def register(self, client):
        return client.register_usage(ProductCode="demohourly", PublicKeyVersion=1)

    def calls(self):
        return [(c["operation"], c["outcome"], c["pod"], c["role"]) for c in self.emulator.admin("calls")["calls"]]

    def test_tokens_of_both_algorithms_become_credentials_of_the_role(self):
        for algorithm in KEYS:
            answer = self.assume(token(algorithm))
            self.assertEqual(answer["SubjectFromWebIdentityToken"], "system:serviceaccount:shop:app")
            self.assertEqual((answer["Provider"], answer["Audience"]), (ISSUER, "sts.amazonaws.com"))
            self.assertEqual(answer["AssumedRoleUser"]["Arn"], "arn:aws:sts::111122223333:assumed-role/app/session-1")
            self.assertTrue(answer["ResponseMetadata"]["RequestId"])
        metering = self.client("meteringmarketplace", **self.session())
        self.assertTrue(self.register(metering)["Signature"])
        self.assertEqual(self.calls()[-1], ("RegisterUsage", "ok", "app-0.0a1b2c3d", ROLE))
        pods = {pod["name"]: pod for pod in self.emulator.admin("world")["pods"]}
        self.assertEqual(pods["app-0.0a1b2c3d"]["role"], ROLE)

    def test_each_way_in_which_a_token_is_wrong(self):
        now = int(time.time())
        invalid = "InvalidIdentityToken"
        for code, says, bad in [
            (invalid, "signature", token(key=STRANGER)),
            (invalid, "Couldn't retrieve", token(kid="gone")),
            (invalid, "provider", token(iss="https://other.example")),
            (invalid, "audience", token(aud=["kubernetes"])),
            (invalid, "audience", token(aud=None)),
            ("ExpiredTokenException", "expired", token(exp=now - 1)),
            (invalid, "exp", token(exp=None)),
            (invalid, "not valid yet", token(nbf=now + 3000)),
            (invalid, "valid JWT", "not.a.token"),
            (invalid, "HS256", jwt.encode({"iss": ISSUER, "aud": "sts.amazonaws.com", "exp": now + 60}, "k" * 32)),
        ]:
            with self.subTest(says):
                self.assertIn(says, self.refused(code, functools.partial(self.assume, bad)))
        self.assertEqual({outcome for _, outcome, _, _ in self.calls()}, {invalid, "ExpiredTokenException"})

    def test_every_error_that_can_be_scripted_with_the_models_status(self):
        model = botocore.session.get_session().get_service_model("sts")
        statuses = {}
        for operation in ("AssumeRoleWithWebIdentity", "GetCallerIdentity"):
            for shape in model.operation_model(operation).error_shapes:
                statuses[shape.metadata["error"]["code"]] = shape.metadata["error"]["httpStatusCode"]
        self.assertEqual(len(statuses), 7)
        scripted = self.emulator.admin("faults")["exceptions"]
        self.assertLessEqual(set(statuses), set(scripted["AssumeRoleWithWebIdentity"]))
        common = {"AccessDenied": 403, "ExpiredToken": 403, "InternalFailure": 500, "InvalidClientTokenId": 403,
                  "ServiceUnavailable": 503, "SignatureDoesNotMatch": 403, "Throttling": 400}
        calls = {"AssumeRoleWithWebIdentity": self.assume, "GetCallerIdentity": self.client().get_caller_identity}
        for operation, call in calls.items():
            for code in scripted[operation]:
                rule = {"operation": operation, "fault": "exception", "exception": code, "count": 1}
                self.emulator.admin("faults", rule)
                with self.subTest(operation=operation, code=code):
                    self.refused(code, call, {**common, **statuses}[code])
            self.emulator.admin("faults", {"operation": operation, "fault": "throttle", "count": 1})
            self.refused("Throttling", call)
            for fault, raised in [
                ({"fault": "http", "status": 502}, botocore.exceptions.ClientError),
                ({"fault": "invalid-json"}, botocore.parsers.ResponseParserError),
                ({"fault": "reset-before"}, botocore.exceptions.ConnectionClosedError),
                ({"fault": "hang"}, botocore.exceptions.ReadTimeoutError),
                ({"fault": "delay", "delay": "3s"}, botocore.exceptions.ReadTimeoutError),
            ]:
                self.emulator.admin("faults", {"operation": operation, "count": 1, **fault})
                with self.subTest(operation=operation, fault=fault), self.assertRaises(raised):
                    call()
            call()

    def test_durations(self):
        for seconds in (900, 3600, 43200):
            ends = self.assume(DurationSeconds=seconds)["Credentials"]["Expiration"].timestamp()
            self.assertAlmostEqual(ends - time.time(), seconds, delta=30)
        for seconds in (899, 43201, 0):
            self.refused("ValidationError", lambda: self.assume(DurationSeconds=seconds))
        self.refused("ValidationError", lambda: self.assume(RoleArn="arn:aws:iam::1:role/application"))
        self.refused("MalformedPolicyDocument", lambda: self.assume(Policy="{"))

    def test_credentials_end_on_the_emulators_clock(self):
        credentials = self.session(DurationSeconds=900)
        metering, sts = self.client("meteringmarketplace", **credentials), self.client(**credentials)
        self.emulator.admin("clock", {"advance": "14m"})
        self.register(metering)
        self.emulator.admin("clock", {"advance": "2m"})
        self.refused("ExpiredTokenException", lambda: self.register(metering))
        self.refused("ExpiredToken", sts.get_caller_identity, 403)

    def test_the_caller_is_told_who_it_is(self):
        identity = self.client(**self.session()).get_caller_identity()
        self.assertEqual(identity["Arn"], "arn:aws:sts::111122223333:assumed-role/app/session-1")
        self.assertEqual(identity["Account"], "111122223333")
        self.assertRegex(identity["UserId"], r"^AROA[A-Z2-7]{17}:session-1$")
        plain = self.client().get_caller_identity()
        self.assertEqual(plain["Arn"], "arn:aws:iam::111122223333:user/plain")
        other = self.session(RoleArn="arn:aws:iam::444455556666:role/app")
        self.assertEqual(self.client(**other).get_caller_identity()["Account"], "444455556666")
        self.refused("CustomerNotEntitledException", lambda: self.register(self.client("meteringmarketplace", **other)))
        bad = {**self.session(), "aws_secret_access_key": "other"}
        self.refused("SignatureDoesNotMatch", self.client(**bad).get_caller_identity, 403)
        # Signed for another service.
        self.refused("SignatureDoesNotMatch", self.signed("GET", "execute-api", bad), 403)

    def signed(self, method, service, credentials):
        """A call of GetCallerIdentity by hand; raises an error as botocore does."""
        query = "Action=GetCallerIdentity&Version=2011-06-15"
        given = botocore.credentials.Credentials(*credentials.values())
        request = botocore.awsrequest.AWSRequest(method, f"{self.emulator.endpoint}/?{query}")
        botocore.auth.SigV4Auth(given, service, "us-east-1").add_auth(request)

        def call():
            sent = urllib.request.Request(request.url, headers=dict(request.headers), method=method)
            try:
                with urllib.request.urlopen(sent) as answer:
                    return answer.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    text = error.read().decode()
                code = text.split("<Code>")[1].split("<")[0]
                response = {"Error": {"Code": code, "Message": text}, "ResponseMetadata": {"HTTPStatusCode": error.code}}
                raise botocore.exceptions.ClientError(response, "GetCallerIdentity") from None

        return call

    def test_parameters_may_be_in_the_query(self):
        self.assertIn(":assumed-role/app/session-1</Arn>", self.signed("GET", "sts", self.session())())
        parameters = {
            "Action": "AssumeRoleWithWebIdentity", "Version": "2011-06-15", "RoleArn": ROLE, "RoleSessionName": "by-get",
            "WebIdentityToken": token(),
        }
        url = f"{self.emulator.endpoint}/?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url) as answer:
            self.assertIn("assumed-role/app/by-get", answer.read().decode())
        # The page's own address is still the page.
        with urllib.request.urlopen(f"{self.emulator.endpoint}/") as answer:
            self.assertIn("text/html", answer.headers["content-type"])

    def test_what_is_noted_cannot_be_used(self):
        sent = token()
        given = self.assume(sent)["Credentials"]
        noted = json.dumps(self.emulator.admin("calls"))
        for secret in (given["SecretAccessKey"], given["SessionToken"], sent.rsplit(".", 1)[1]):
            self.assertNotIn(secret, noted)
        self.assertIn(sent.rsplit(".", 1)[0], noted)

    def test_boto3s_own_chain_finds_the_role_of_a_pod(self):
        file = os.path.join(self.folder, "token")
        with open(file, "w") as opened:
            opened.write(token())
        with environment(
            AWS_ROLE_ARN=ROLE, AWS_WEB_IDENTITY_TOKEN_FILE=file, AWS_ENDPOINT_URL=self.emulator.endpoint
        ):
            self.assertTrue(self.register(boto3.Session().client("meteringmarketplace"))["Signature"])
        seen = [(operation, pod) for operation, _, pod, _ in self.calls()]
        self.assertEqual(seen, [("AssumeRoleWithWebIdentity", "app-0.0a1b2c3d"), ("RegisterUsage", "app-0.0a1b2c3d")])

    def test_boto3s_own_chain_finds_the_role_of_a_task(self):
        uri = f"{self.emulator.endpoint}/v2/credentials/task-1"
        for authorization, works in (("s3cret", True), ("wrong", False), (None, False)):
            variables = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": uri, "AWS_ENDPOINT_URL": self.emulator.endpoint}
            if authorization:
                variables["AWS_CONTAINER_AUTHORIZATION_TOKEN"] = authorization
            with self.subTest(authorization), environment(**variables):
                client = boto3.Session().client
                if works:
                    self.assertTrue(self.register(client("meteringmarketplace"))["Signature"])
                    arn = client("sts").get_caller_identity()["Arn"]
                    self.assertEqual(arn, "arn:aws:sts::111122223333:assumed-role/emulated-task/task-1")
                else:
                    with self.assertRaises(botocore.exceptions.CredentialRetrievalError):
                        self.register(client("meteringmarketplace"))
        self.assertIn(("ContainerCredentials", "AccessDenied"), [call[:2] for call in self.calls()])
        world = {pod["name"]: pod for pod in self.emulator.admin("world")["pods"]}
        self.assertEqual(world["task-1"]["platform"], "ecs")

    def test_a_task_that_was_moved_to_another_account_gets_a_role_of_that(self):
        request = urllib.request.Request(f"{self.emulator.endpoint}/v2/credentials/task-3", headers={"authorization": "s3cret"})
        roles = []
        for order in ({}, {"account_id": "444455556666"}):
            self.emulator.admin("pods", {"session": "task-3", **order})
            with urllib.request.urlopen(request) as answer:
                roles.append(json.load(answer)["RoleArn"])
        self.assertEqual(roles, [f"arn:aws:iam::{account}:role/emulated-task" for account in ("111122223333", "444455556666")])

    def test_the_task_is_described(self):
        self.emulator.admin("pods", {"session": "task-2", "region": "eu-central-1", "platform": "ecs-fargate"})
        with urllib.request.urlopen(f"{self.emulator.endpoint}/v4/task-2/task") as answer:
            task = json.load(answer)
        self.assertRegex(task["TaskARN"], r"^arn:aws:ecs:eu-central-1:111122223333:task/emulated/[0-9a-f]{32}$")
        self.assertEqual((task["LaunchType"], task["Family"], task["KnownStatus"]), ("FARGATE", "task-2", "RUNNING"))
        with urllib.request.urlopen(f"{self.emulator.endpoint}/v4/task-2") as answer:
            self.assertEqual(json.load(answer), task["Containers"][0])
        for status in (404, 500):
            self.emulator.admin("faults", {"operation": "TaskMetadata", "fault": "http", "status": status, "count": 1})
            with self.assertRaises(urllib.error.HTTPError) as raised:
                urllib.request.urlopen(f"{self.emulator.endpoint}/v4/task-2/task")
            raised.exception.close()
            self.assertEqual(raised.exception.code, status)

    def test_keys_from_a_url_and_their_absence(self):
        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_):
                pass

        handler = functools.partial(Quiet, directory=self.folder)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/keys.json"
        with Emulator(PROGRAM, "--web-identity-jwks", url) as emulator:
            self.assume(endpoint=emulator.endpoint)
            self.refused("InvalidIdentityToken", lambda: self.assume(token(key=STRANGER), emulator.endpoint))
            server.shutdown()
            server.server_close()
            message = self.refused("InvalidIdentityToken", lambda: self.assume(endpoint=emulator.endpoint))
            self.assertIn("Couldn't retrieve verification key from your identity provider", message)

    def test_without_keys_every_well_formed_token_is_taken_and_that_is_said(self):
        with Emulator(PROGRAM) as emulator:
            self.assume(token(key=STRANGER, exp=1, aud=None, iss=None), emulator.endpoint)
            self.refused("InvalidIdentityToken", lambda: self.assume("not.a.token", emulator.endpoint))
            self.assertIs(emulator.admin("world")["web_identity_verified"], False)
        self.assertIs(self.emulator.admin("world")["web_identity_verified"], True)


if __name__ == "__main__":
    unittest.main(verbosity=2)
