"""Runs tollgate and AWS's API in an account of yours: pods on EKS, tasks on ECS, with a limited listing. README.md says what it costs.

Usage: live.py SETTINGS [--spend-in ACCOUNT] [--transcript FILE] [--clean] [PART…]

Without `--spend-in` and the number of the account that the credentials belong to, it starts nothing at AWS: it runs against tollgate's
emulator only. Parts: hourly, unsubscribed, metered, denied, contract; without any, all that SETTINGS describes.
"""

import argparse
import json
import os
import pathlib
import secrets
import sys
import tomllib

import boto3
import botocore.config
import botocore.exceptions

import facts
from platforms import Ecs, Eks, Failed
from transcript import Leak, Transcript

# Exit codes, the same as tollgate's.
USAGE, LEAKED = 64, 70
PARTS = ["hourly", "unsubscribed", "metered", "denied", "contract"]
OUT_OF_BOUNDS, DRY_RUN = "TimestampOutOfBoundsException", "DryRunOperation"
# The allowed outcomes of each step; any other outcome is a failure. If there are several, AWS's documents leave the
# question open.
EXPECTED = {
    "hourly": {
        "gate": ["entitled"], "register": ["ok"], "register again": ["ok"], "register without a nonce": ["ok"],
        "register with a rotated key": ["ok", "InvalidPublicKeyVersionException"],
    },
    "unsubscribed": {"gate": ["denied"], "register after a refusal": ["CustomerNotEntitledException", "ok"]},
    "metered": {
        "gate": ["entitled"], "dry run": ["ok", DRY_RUN], "dry run of an unknown dimension": ["ok", DRY_RUN, "InvalidUsageDimensionException"],
        "zero": ["ok", OUT_OF_BOUNDS], "zero before the start": ["ok", OUT_OF_BOUNDS], "zero again": ["ok", OUT_OF_BOUNDS],
        "zero with allocations": ["ok", "DuplicateRequestException", OUT_OF_BOUNDS], "the same record": ["ok", "other"],
        "client token of another pod": ["ok", "IdempotencyConflictException", OUT_OF_BOUNDS],
    },
    "client-token": {"client token": ["ok", OUT_OF_BOUNDS]},
    "denied": {
        "gate": ["misconfigured"], "register without permission": ["AccessDeniedException"], "meter without permission": ["AccessDeniedException"],
        "dry run without permission": ["AccessDeniedException", "UnauthorizedException"],
        "list without permission": ["AuthorizationException", "AccessDeniedException"],
    },
    "contract": {
        "gate": ["entitled"], "list": ["ok"], "checkout": ["ok"], "checkout with the same client token": ["ok"], "the same checkout": ["ok", "other"],
        "extend by dry run": ["ok"], "check in": ["ok"], "checkout in another unit": ["NoEntitlementsAllowedException", "ValidationException"],
        "checkout in another region": ["ok", "RedirectException"], "check in of another region": ["ok"],
    },
}
EVERYWHERE = {"task metadata": ["ok"], "end": ["ok"]}
# Steps that run only with some settings, or after some answers.
OPTIONAL = {"register with a rotated key", "checkout in another region", "check in of another region", "check in of another unit", "task metadata"}
PROOFS = {"hourly": ["signature"], "metered": ["permission", "metering"], "contract": ["license"]}
# On EKS with Fargate AWS may refuse RegisterUsage; that is a finding and no failure.
REGISTRATIONS = ["register", "register again", "register without a nonce", "register with a rotated key", "register after a refusal"]
UNSUPPORTED = {"gate": "misconfigured", **dict.fromkeys(REGISTRATIONS, "PlatformNotSupportedException")}


class Refused(Exception):
    """Nothing was started."""


def asked(arguments):
    parser = argparse.ArgumentParser(prog="live.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", type=pathlib.Path)
    parser.add_argument("--spend-in", metavar="ACCOUNT")
    parser.add_argument("--transcript", type=pathlib.Path, default=pathlib.Path("tollgate-live.txt"))
    parser.add_argument("--clean", action="store_true")
    parser.add_argument("parts", nargs="*", metavar="PART")
    return parser.parse_intermixed_args(arguments)


def account(word, region):
    """(account, emulated) of the credentials, if the run may use them. AWS is asked for the account only if `--spend-in` names one."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_STS") or os.environ.get("AWS_ENDPOINT_URL")
    if not word and not endpoint:
        raise Refused("this would start pods and tasks at AWS, which costs money: name the account with --spend-in ACCOUNT")
    config = botocore.config.Config(retries={"total_max_attempts": 2})
    answer = boto3.client("sts", region_name=region, config=config).get_caller_identity()
    emulated = answer["ResponseMetadata"]["HTTPHeaders"].get("x-tollgate-emulator") == "1"
    if not emulated and not word:
        raise Refused("what answers as STS is not tollgate's emulator: name the account with --spend-in ACCOUNT")
    if word and word != answer["Account"]:
        raise Refused("the credentials belong to another account than --spend-in names")
    return answer["Account"], emulated


def wrong(platform, part, step):
    """The reason why a step is a failure, or None."""
    name, outcome = step["step"], step["outcome"]
    expected = {**EXPECTED[part], **EVERYWHERE}.get(name)
    if platform == "eks-fargate" and part in ("hourly", "unsubscribed") and UNSUPPORTED.get(name) == outcome:
        return None
    if expected is None or outcome not in expected:
        return f"{name}: {outcome}, expected {' or '.join(expected or ['no such step'])}"
    if name == "gate" and outcome == "entitled" and step["proof"] not in PROOFS[part]:
        return f"gate: proof {step['proof']}, expected {' or '.join(PROOFS[part])}"
    if name.startswith("register") and outcome == "ok" and part == "hourly":
        if not step["product"] or step["salt_bytes"] is None or step["alg"] != "PS256":
            return f"{name}: the token does not verify"
        if step["nonce"] != ("ours" if name != "register without a nonce" else step["nonce"]):
            return f"{name}: the token answers another nonce"
    if name == "list" and not step["licenses"]:
        return "list: the account has received no license of the product"
    return None


def missing(part, said):
    """Steps that did not happen."""
    return [name for name in {**EXPECTED[part], **EVERYWHERE} if name not in OPTIONAL and all(step["step"] != name for step in said)]


class Run:
    def __init__(self, settings, emulated, transcript):
        self.settings, self.emulated, self.transcript = settings, emulated, transcript
        self.steps, self.failures = [], []

    def order(self, part, **more):
        of_part = {key: value for key, value in self.settings.get(part, {}).items() if key != "gate"}
        for name in [name for name in of_part if name.endswith("_file")]:
            of_part[name.removesuffix("_file")] = pathlib.Path(of_part.pop(name)).read_text()
        return {"part": part, "region": self.settings["region"], "emulated": self.emulated, **of_part, **more}

    def perform(self, platform, part, gate, order):
        role = "denied" if part == "denied" else "product"
        environment = {"LIVE_ORDER": json.dumps(order), "AWS_REGION": self.settings["region"], "PYTHONUNBUFFERED": "1"}
        try:
            said = platform.perform(part, role, gate, environment)
        except (Failed, botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            self.fail(platform, part, str(error))
            return
        for step in said:
            shown = {key: value for key, value in step.items() if key not in ("step", "outcome")}
            self.transcript.write(f"{platform.name} {part}: {step['step']}: {step['outcome']} {json.dumps(shown) if shown else ''}".rstrip())
            self.steps.append({"platform": platform.name, "part": part, **step})
            if problem := wrong(platform.name, part, step):
                self.fail(platform, part, problem)
        for name in missing(part, said):
            self.fail(platform, part, f"{name}: did not happen")

    def fail(self, platform, part, problem):
        self.failures.append(problem)
        self.transcript.write(f"{platform.name} {part}: FAILED: {problem}")

    def parts(self, platform, wanted):
        token = secrets.token_hex(16)
        for part in wanted:
            # A refused role needs no product of its own; it uses the first gate image.
            gate = self.settings[part if part != "denied" else next(iter(self.of_products()))]["gate"]
            if part == "metered":
                self.perform(platform, "client-token", gate, {**self.order(part), "part": "client-token", "client_token": token})
            more = {"client_token": token} if part == "metered" else {}
            order = self.order(part, **more)
            if part == "denied":
                order["product_code"] = self.settings[next(iter(self.of_products()))].get("product_code", "none")
            self.perform(platform, part, gate, order)

    def of_products(self):
        return [part for part in ("hourly", "metered") if part in self.settings]

    def report(self):
        self.transcript.write()
        for switch, question, step, _ in facts.FACTS:
            answer = facts.settled(self.steps)[switch]
            self.transcript.write(f"{switch} = {answer or 'not settled'}   ({question} By: {step}.)")
        self.transcript.write()
        self.transcript.write(f"{len(self.steps)} steps, {len(self.failures)} failed")


def platforms(settings, run):
    found = [kind({**settings[name], "region": settings["region"]}, run) for name, kind in (("eks", Eks), ("ecs", Ecs)) if name in settings]
    if not found:
        raise Refused("the settings describe neither [eks] nor [ecs]")
    return found


def main(arguments):
    try:
        options = asked(arguments)
    except SystemExit as end:
        return USAGE if end.code else 0
    try:
        settings = tomllib.loads(options.settings.read_text())
        number, emulated = account(options.spend_in, settings["region"])
        places = platforms(settings, secrets.token_hex(4))
        if options.clean:
            for platform in places:
                platform.clean()
            return 0
        described = [part for part in PARTS if part in settings or part == "denied" and ("hourly" in settings or "metered" in settings)]
        wanted = options.parts or described
        if undescribed := [part for part in wanted if part not in described]:
            raise Refused(f"the settings do not describe {', '.join(undescribed)}")
        transcript = Transcript(options.transcript)
    except (Refused, Failed, OSError, KeyError, tomllib.TOMLDecodeError, botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        print(f"live: nothing was started: {type(error).__name__}: {error}", file=sys.stderr)
        return USAGE
    credentials = boto3.Session().get_credentials().get_frozen_credentials()
    transcript.hide("CREDENTIALS", *credentials)
    transcript.hide("ACCOUNT", number)
    for platform in places:
        transcript.hide("PRIVATE", *platform.private)
    run = Run(settings, emulated, transcript)
    transcript.write(f"tollgate live run, {'against the emulator: nothing here is a fact about AWS' if emulated else 'against AWS'}")
    try:
        for platform in places:
            run.parts(platform, wanted)
        run.report()
    finally:
        try:
            transcript.close()
        except Leak as leak:
            print(f"live: {leak}", file=sys.stderr)
            return LEAKED
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
