"""All of tests/live against the emulator: pods by a stand-in for kubectl, tasks by a stand-in for ECS, with the roles that both would have.

Usage: live.py PROGRAM

A relay between the containers and the emulator records every secret, token and account in the traffic: no transcript may contain one. The
switches of the emulator are AWS's possible answers; each run must find out the current ones.
"""

import http.client
import http.server
import json
import os
import pathlib
import re
import stat
import subprocess
import sys
import tempfile
import threading
import unittest
import urllib.parse

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from processes import Emulator
from stand_ins import ISSUER, Account

PROGRAM = os.path.abspath(sys.argv.pop(1))
LIVE = pathlib.Path(__file__).resolve().parents[1] / "live"
sys.path.insert(0, str(LIVE))
import facts  # noqa: E402
import transcript  # noqa: E402

BUYER, PRODUCT = "111122223333", "prod-democontract"
SECRET_MEMBERS = {"Signature", "LicenseConsumptionToken", "SignedToken", "SecretAccessKey", "SessionToken", "Token", "AccessKeyId", "LicenseArn"}
# Answers that tollgate does not accept as AWS's, or that hide others: each has a run of its own.
ALONE = {"salt_length", "hour_before_start", "eks_fargate"}


class Relay(http.server.BaseHTTPRequestHandler):
    """Passes everything on, and records what a transcript must not contain."""

    def relay(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)
        upstream.request(self.command, self.path, body, dict(self.headers))
        answer = upstream.getresponse()
        text = answer.read()
        if not self.path.startswith("/_emulator"):
            self.server.secrets |= secrets_in(self.headers, body.decode(), text.decode())
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
        upstream.close()

    do_GET = do_POST = relay

    def log_message(self, *_):
        pass


def secrets_in(headers, asked, answered):
    """Values with which one could act as the buyer, or that name the buyer."""
    found = set(re.findall(r"Credential=([^/]+)/", headers.get("authorization", "")))
    found |= set(re.findall(r"Signature=([0-9a-f]+)", headers.get("authorization", "")))
    found.add(headers.get("x-amz-security-token") or "")
    form = urllib.parse.parse_qs(asked)
    found |= set(form.get("WebIdentityToken", [])) | set(form.get("RoleArn", []))
    found |= set(re.findall(r"<(?:AccessKeyId|SecretAccessKey|SessionToken)>([^<]+)<", answered))
    found |= set(re.findall(r"(?<!\d)\d{12}(?!\d)", asked + answered))

    def members(value):
        if isinstance(value, dict):
            for name, below in value.items():
                if name in SECRET_MEMBERS and isinstance(below, str):
                    found.add(below)
                members(below)
        elif isinstance(value, list):
            for below in value:
                members(below)

    for text in (asked, answered):
        if text.startswith(("{", "[")):
            members(json.loads(text))
    # Each part of a token except the header, which is the same in every token.
    found |= {part for secret in found if secret.count(".") == 2 for part in secret.split(".")[1:]}
    return {secret for secret in found if len(secret) >= 8}


class Live(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        jwk = {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())), "kid": "cluster", "use": "sig"}
        (self.folder / "keys.json").write_text(json.dumps({"keys": [jwk]}))
        self.emulator = self.enterContext(Emulator(PROGRAM, "--web-identity-jwks", str(self.folder / "keys.json"), "--web-identity-issuer", ISSUER))
        self.relay = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Relay)
        self.relay.upstream, self.relay.secrets = self.emulator.endpoint.removeprefix("http://"), set()
        self.serve(self.relay)
        self.endpoint = f"http://127.0.0.1:{self.relay.server_port}"
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
        self.cluster = self.folder / "cluster"
        self.cluster.mkdir()
        self.facts = {
            "program": PROGRAM, "endpoint": self.endpoint, "admin": self.emulator.endpoint, "key": pem, "platform": "eks", "account": BUYER,
            "accounts": {name: {"role": f"arn:aws:iam::{BUYER}:role/live-{name}", "allowed": name == "product"} for name in ("product", "denied")},
            "denied_role": f"arn:aws:iam::{BUYER}:role/live-denied",
        }
        self.account = Account(self.facts)
        self.addCleanup(self.account.server_close)
        self.addCleanup(self.account.shutdown)
        # A product without a buyer, and a rotated key: version 1 is the old one.
        self.emulator.admin("products", {"product_code": "notbought", "pricing": "hourly", "keys": [{"version": 1}]})
        self.emulator.admin("customers", {"account_id": BUYER, "subscribed": False, "product_code": "notbought"})
        self.emulator.admin("products", {"product_code": "demohourly", "rotate": True})
        self.environment = {
            "PATH": os.environ["PATH"], "AWS_ENDPOINT_URL_STS": self.endpoint, "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL_ECS": f"http://127.0.0.1:{self.account.server_port}", "AWS_ENDPOINT_URL_CLOUDWATCH_LOGS": f"http://127.0.0.1:{self.account.server_port}",
            "AWS_ACCESS_KEY_ID": "AKIDSELLERLAPTOP", "AWS_SECRET_ACCESS_KEY": "secret-of-the-laptop/+key",
        }

    def serve(self, server):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)

    def settings(self, fargate=False):
        """As in example.toml; images are processes here, so their settings come from the environment."""
        (self.cluster / "facts.json").write_text(json.dumps({**self.facts, "platform": "eks-fargate" if fargate else "eks"}))
        kubectl = self.folder / "kubectl"
        kubectl.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{pathlib.Path(__file__).with_name('stand_ins.py')}' '{self.cluster}' \"$@\"\n")
        kubectl.chmod(0o755)
        keys = pathlib.Path(self.emulator.facts["public_keys"])

        def gate(**variables):
            rows = "".join(f'{name} = "{value}"\n' for name, value in variables.items())
            return f'image = "registry.example/your-gate:1.0.0"\n[{{part}}.gate.environment]\n{rows}'

        def part(name, text, **variables):
            return f"[{name}]\n{text}\n[{name}.gate]\n" + gate(**variables).replace("{part}", name)

        path = self.folder / "settings.toml"
        path.write_text("\n".join([
            'region = "us-east-1"',
            f'[eks]\ncontext = "live"\nnamespace = "shop"\nkubectl = "{kubectl}"\nservice_account = "product"\ndenied_service_account = "denied"\n'
            f'client_image = "registry.example/live-client:1"\nfargate = {str(fargate).lower()}',
            f'[ecs]\ncluster = "live"\nsubnets = ["subnet-0a1b2c3d"]\nsecurity_groups = ["sg-0a1b2c3d"]\nlog_group = "/ecs/live"\n'
            f'execution_role_arn = "arn:aws:iam::{BUYER}:role/live-execution"\ntask_role_arn = "arn:aws:iam::{BUYER}:role/live-product"\n'
            f'denied_task_role_arn = "{self.facts["denied_role"]}"\nclient_image = "registry.example/live-client:1"',
            part("hourly", f'product_code = "demohourly"\npublic_key_version = 2\nrotated_public_key_version = 1\n'
                 f'public_key_file = "{keys}/2.pem"\nrotated_public_key_file = "{keys}/1.pem"',
                 TOLLGATE_PRODUCT_CODE="demohourly", TOLLGATE_PUBLIC_KEYS=keys),
            part("unsubscribed", f'product_code = "notbought"\npublic_key_version = 1\npublic_key_file = "{keys.parent}/notbought/1.pem"',
                 TOLLGATE_PRODUCT_CODE="notbought", TOLLGATE_PUBLIC_KEYS=keys.parent / "notbought"),
            part("metered", 'product_code = "demometered"\ndimension = "requests"',
                 TOLLGATE_MODE="metered", TOLLGATE_PRODUCT_CODE="demometered", TOLLGATE_DIMENSIONS="requests"),
            part("contract", f'product_id = "{PRODUCT}"\nentitlement = "users"\nunit = "Count"\nother_region = "eu-west-1"',
                 TOLLGATE_MODE="contract", TOLLGATE_PRODUCT_ID=PRODUCT),
        ]))
        return path

    def live(self, *arguments, fargate=False, **environment):
        """(exit code, transcript, standard error)."""
        path = self.folder / f"transcript-{len(list(self.folder.glob('transcript-*')))}"
        command = [sys.executable, str(LIVE / "live.py"), str(self.settings(fargate)), "--transcript", str(path), *arguments]
        done = subprocess.run(command, env={**self.environment, **environment}, capture_output=True, text=True, timeout=600)
        text = path.read_text() if path.exists() else None
        if text is not None:
            self.assertEqual(text, done.stdout)
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        return done.returncode, text, done.stderr

    def switches(self):
        return self.emulator.admin("switches")

    def settled(self, text):
        return dict(re.findall(r"^(\w+) = (not settled|[\w-]+)   \(", text, re.M))

    def in_force(self):
        return {name: switch["answer"] for name, switch in self.switches().items()}

    def leaks_nothing(self, text):
        secrets = self.relay.secrets | {"secret-of-the-laptop/+key", "AKIDSELLERLAPTOP", BUYER, "live-execution", "subnet-0a1b2c3d"}
        self.assertGreater(len(secrets), 30)
        self.assertEqual([secret for secret in secrets if secret in text], [])

    def nothing_is_left(self):
        self.assertEqual((list(self.cluster.glob("*.log")), self.account.definitions), ([], {}))

    def run_with(self, answers, *parts, fargate=False, unsettled=(), code=0):
        """One run with these answers of AWS; it must report exactly these."""
        self.emulator.admin("switches", answers)
        done, text, error = self.live(*parts, fargate=fargate)
        self.assertEqual(done, code, (text or "") + error)
        force, found = self.in_force(), self.settled(text)
        self.assertEqual(found, {name: "not settled" if name in unsettled else force[name] for name in found})
        self.leaks_nothing(text)
        self.nothing_is_left()
        return text

    def test_each_first_answer_is_found(self):
        text = self.run_with({}, fargate=True, unsettled={"hour_before_start"})
        self.assertIn("against the emulator: nothing here is a fact about AWS", text)
        self.assertRegex(text, r"\n\d+ steps, 0 failed\n$")
        for expected in (
            'eks-fargate hourly: gate: entitled', 'ecs-fargate hourly: task metadata: ok {"launch_type": "FARGATE"', "eks-fargate unsubscribed: gate: denied",
            "ecs-fargate denied: gate: misconfigured", "ecs-fargate contract: extend by dry run: ok", '"salt_bytes": 32', "ecs-fargate metered: zero: ok",
        ):
            self.assertIn(expected, text)
        # No usage is billed, and every seat was given back.
        self.assertEqual(set(self.emulator.billed().values()) - {"0", 0}, set())
        self.assertEqual(self.emulator.admin("licenses")["licenses"][0]["entitlements"][0]["held"], 0)

    def test_each_second_answer_is_found(self):
        others = {row[0]: self.switches()[row[0]]["answers"][1] for row in facts.FACTS if row[0] not in ALONE}
        self.run_with(others, unsettled={"eks_fargate"})

    def test_answers_that_hide_others_are_found(self):
        names = {row[0] for row in facts.FACTS}
        of_time = {"pod_start", "hour_before_start", "dry_run", "dry_run_checks"}
        self.run_with({"hour_before_start": "refused", "pod_start": "first-call"}, "metered", unsettled=names - of_time)
        self.run_with({"other_region": "redirect-url"}, "contract", unsettled=names - {"other_region", "expiration_format", "repeated_client_token", "unit_mismatch"})
        of_token = {"salt_length", "claim_case", "issued_at", "rotation_claim", "absent_rotation", "absent_nonce", "expired_key"}
        self.run_with({"eks_fargate": "refused"}, "hourly", fargate=True, unsettled=names - of_token - {"eks_fargate"})
        # tollgate accepts no token with another salt length, and the run says so.
        text = self.run_with(
            {"salt_length": "longest"}, "hourly", code=1, unsettled=names - of_token,
        )
        self.assertIn("eks hourly: FAILED: gate: unverified, expected entitled", text)

    def test_nothing_is_started_without_the_accounts_number(self):
        of_aws = {"AWS_ENDPOINT_URL_STS": f"http://127.0.0.1:{self.account.server_port}"}
        for arguments, environment, says in (
            ([], {"AWS_ENDPOINT_URL_STS": ""}, "name the account with --spend-in ACCOUNT"),
            ([], of_aws, "is not tollgate's emulator"),
            (["--spend-in", BUYER], of_aws, "another account"),
            (["--spend-in", "999988887777"], {}, "another account"),
            (["saas"], {}, "do not describe saas"),
            (["--transcript", str(self.folder)], {}, "nothing was started"),
        ):
            with self.subTest(arguments=arguments, says=says):
                code, text, error = self.live(*arguments, **environment)
                self.assertIn(says, error)
                self.assertEqual(code, 64)
                self.assertIsNone(text)
        operations = {call["operation"] for call in self.emulator.admin("calls")["calls"]}
        self.assertLessEqual(operations, {"GetCallerIdentity"})
        self.nothing_is_left()

    def test_a_run_that_failed_leaves_nothing_and_says_why(self):
        self.emulator.admin("customers", {"account_id": BUYER, "subscribed": False})
        code, text, _ = self.live("hourly")
        self.assertEqual(code, 1)
        self.assertIn("ecs-fargate hourly: FAILED: gate: denied, expected entitled", text)
        self.leaks_nothing(text)
        self.nothing_is_left()
        # Objects that a killed run left behind.
        self.account.definitions["arn:aws:ecs:us-east-1:111122223333:task-definition/tollgate-live-0-hourly:1"] = {}
        self.account.definitions["arn:aws:ecs:us-east-1:111122223333:task-definition/somebody-elses:1"] = {}
        (self.cluster / "tollgate-live-0-hourly.log").write_text("")
        self.assertEqual(self.live("--clean")[0], 0)
        self.assertEqual(list(self.account.definitions), ["arn:aws:ecs:us-east-1:111122223333:task-definition/somebody-elses:1"])
        self.assertEqual(list(self.cluster.glob("*.log")), [])

    def test_containers_that_cannot_run_end_their_part_at_once_with_the_platforms_message(self):
        self.facts["broken"] = "the node has no memory left"
        # boto3 calls again, with the same client token.
        self.account.lost.add("RunTask")
        code, text, error = self.live("hourly")
        self.assertEqual(code, 1, error)
        self.assertIn("eks hourly: FAILED: pod tollgate-live-", text)
        self.assertIn(": Failed; Evicted; the node has no memory left\n", text)
        self.assertRegex(text, r"ecs-fargate hourly: FAILED: task tollgate-live-\w+-hourly: Task failed to start; client: the node has no memory left\n")
        # A container that never ran writes no log: nothing waits for one.
        self.assertEqual((self.account.log_reads, self.account.lost, len(self.account.tasks)), (0, set(), 1))
        self.nothing_is_left()

    def test_a_transcript_hides_what_it_knows_and_what_looks_like_a_secret(self):
        path = self.folder / "redacted"
        shown = transcript.Transcript(path)
        shown.hide("KEY", "a/secret+key", None, "x")
        for text, redacted in (
            ("a/secret+key", "[KEY-1]"), ("YS9zZWNyZXQra2V5", "[KEY-1]"), ("a%2Fsecret%2Bkey", "[KEY-1]"), ("x", "x"),
            ("arn:aws:iam::123456789012:role/a", "arn:aws:iam::[ACCOUNT-1]:role/a"), ("123456789012 210987654321", "[ACCOUNT-1] [ACCOUNT-2]"),
            ("eyJhbGciOiJQUzI1NiJ9.eyJhIjoxfQ.c2ln", "[TOKEN-1]"), ("ASIAABCDEFGHIJKLMNOP", "[ACCESS-KEY-1]"), ("l-0123456789abcdef0123456789abcdef", "[LICENSE-1]"),
            ("q" * 48, "[LONG-1]"), ("a\x1b[2J\nb", "a [2J b"), ("1234567890123", "1234567890123"),
        ):
            self.assertEqual(shown.redacted(text), redacted)
        shown.write("a/secret+key of 123456789012")
        shown.close()
        self.assertEqual(path.read_text(), "[KEY-1] of [ACCOUNT-1]\n")
        # A value that the redaction misses is found at the end.
        leaking = transcript.Transcript(self.folder / "leaking")
        leaking.file.write("of account 123456789012\n")
        with self.assertRaises(transcript.Leak):
            leaking.close()
        self.assertFalse((self.folder / "leaking").exists())

    def test_the_readme_names_every_switch_and_its_step(self):
        text = (LIVE / "README.md").read_text()
        settled, _, others = text.partition("## What a run does not settle")
        settled = settled.partition("## What a run settles")[2]
        rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|$", settled, re.M)
        self.assertEqual(rows, [(switch, question, step) for switch, question, step, _ in facts.FACTS])
        unsettled = set(re.findall(r"^\| `(\w+)`", others, re.M))
        self.assertEqual({row[0] for row in facts.FACTS} | unsettled, set(self.switches()))
        self.assertEqual({row[0] for row in facts.FACTS} & unsettled, set())


if __name__ == "__main__":
    unittest.main(verbosity=2)
