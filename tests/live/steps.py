"""The program in the container `client` of a pod or task: calls of AWS, and of the gate beside it, with one line of output for each.

It is one file that needs only Python 3.11 and boto3, and is passed to the container as text. LIVE_ORDER (JSON) names the part to run. A
line is `live: {"step", "outcome", …}`: the name of AWS's answer, never a token, a credential or an account. It gets its credentials from the
pod or task, as every SDK does.
"""

import base64
import hashlib
import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid

import boto3
import botocore.config
import botocore.exceptions

ORDER = json.loads(os.environ["LIVE_ORDER"])
# How long the gate may take to answer, and the time between two requests to it.
GATE_SECONDS = 180
GATE_STEP = 1
HOUR = 3600
# AWS Marketplace itself, the issuer of bought licenses.
FINGERPRINT = "aws:294406891311:AWS/Marketplace:issuer-fingerprint"
# One allocation of 0, with one tag.
SPLIT = [{"AllocatedUsageQuantity": 0, "Tags": [{"Key": "live", "Value": "tests"}]}]


def say(step, outcome, **facts):
    print("live: " + json.dumps({"step": step, "outcome": outcome, **facts}), flush=True)


class Service:
    """A service of AWS. Each call returns an answer or the name of a refusal."""

    def __init__(self, name, region=None):
        # One attempt, because a throttled call is a finding that a retry could hide.
        config = botocore.config.Config(retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=30)
        self.client = boto3.client(name, region_name=region or ORDER["region"], config=config)
        # boto3 omits members that are null in an answer.
        self.body = ""
        self.client.meta.events.register("before-parse", self.keep)

    def keep(self, response_dict, **_):
        self.body = response_dict["body"].decode(errors="replace")

    def ask(self, operation, **members):
        """(outcome, answer): "ok", or the exception's code."""
        try:
            answer = getattr(self.client, operation)(**members)
            self.check(answer)
            return "ok", answer
        except botocore.exceptions.ClientError as error:
            self.check(error.response)
            return error.response["Error"]["Code"], error.response
        except botocore.exceptions.BotoCoreError as error:
            # No answer, or no credentials: the class says which; the text may name hosts and roles.
            return type(error).__name__, {}

    def check(self, response):
        """The answer must be the emulator's if, and only if, the run is against the emulator."""
        emulated = response["ResponseMetadata"]["HTTPHeaders"].get("x-tollgate-emulator") == "1"
        if emulated != ORDER["emulated"]:
            say("end", "wrong-service", emulated=emulated)
            sys.exit(1)


# === The token of RegisterUsage (RFC 7515, RFC 8017 section 9.1.2)


def decoded(part):
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def public_key(pem):
    """Modulus and exponent of an RSA key in SPKI PEM: the last two integers of its DER."""
    der = base64.b64decode("".join(line for line in pem.splitlines() if "-----" not in line))

    def element(at):
        length, size = der[at + 1], 0
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(der[at + 2 : at + 2 + size], "big")
        begin = at + 2 + size
        return begin, begin + length

    begin, _ = element(0)
    _, after_algorithm = element(begin)
    bits, _ = element(after_algorithm)
    begin, _ = element(bits + 1)  # The first byte of a bit string is the number of unused bits.
    first, end = element(begin)
    second, last = element(end)
    return int.from_bytes(der[first:end], "big"), int.from_bytes(der[second:last], "big")


def mask(seed, length):
    blocks = (hashlib.sha256(seed + number.to_bytes(4, "big")).digest() for number in range(length // 32 + 1))
    return b"".join(blocks)[:length]


def salt_of(signed, signature, key):
    """The length of the salt of a PSS signature with SHA-256, or None if the signature is not valid."""
    modulus, exponent = key
    bits = modulus.bit_length() - 1
    size = (bits + 7) // 8
    message = pow(int.from_bytes(signature, "big"), exponent, modulus).to_bytes(size, "big")
    masked, digest = message[: size - 33], message[size - 33 : -1]
    block = bytes(a ^ b for a, b in zip(masked, mask(digest, len(masked))))
    block = bytes([block[0] & (0xFF >> (8 * size - bits))]) + block[1:]
    padding, found, salt = block.partition(b"\x01")
    if message[-1:] != b"\xbc" or not found or any(padding):
        return None
    expected = hashlib.sha256(bytes(8) + hashlib.sha256(signed).digest() + salt).digest()
    return len(salt) if expected == digest else None


def about_token(token, nonce, key):
    """The properties of a token, without the token."""
    header, payload, signature = token.split(".")
    claims, head = json.loads(decoded(payload)), json.loads(decoded(header))
    lower = {name.lower(): value for name, value in claims.items()}
    names = sorted(claims)
    return {
        "alg": head.get("alg"), "claims": names, "bytes": len(token),
        "claim_case": "camel" if "productCode" in claims else "pascal" if "ProductCode" in claims else "neither",
        "issued_at": "seconds" if isinstance(lower.get("iat"), (int, float)) else "omitted" if "iat" not in lower else "other",
        "rotation_claim": "present" if "publickeyrotationtimestamp" in lower else "omitted",
        "nonce": "ours" if nonce and lower.get("nonce") == nonce else "omitted" if "nonce" not in lower else "null" if lower["nonce"] is None else "other",
        "product": lower.get("productcode") == ORDER["product_code"],
        "salt_bytes": salt_of(f"{header}.{payload}".encode(), decoded(signature), public_key(key)),
    }


# === The gate


def gate():
    """The sidecar's document, once it has an answer of AWS."""
    address = os.environ.get("TOLLGATE_PROBE_ADDR", "127.0.0.1:19180")
    document, deadline = {}, time.monotonic() + GATE_SECONDS
    while time.monotonic() < deadline and document.get("state", "pending") == "pending":
        try:
            with urllib.request.urlopen(f"http://{address}/entitlement", timeout=5) as answer:
                document = json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                document = json.load(error)
        except OSError:
            # The gate's container starts at the same time as this one.
            pass
        if document.get("state", "pending") == "pending":
            time.sleep(GATE_STEP)
    reason = (document.get("reason") or {}).get("code")
    facts = {name: document.get(name) for name in ("gate", "proof", "mode", "version", "build", "emulated")}
    say("gate", document.get("state", "no-answer"), reason=reason, **facts)


def task():
    """Where a task runs, by its agent; empty in a pod."""
    uri = os.environ.get("ECS_CONTAINER_METADATA_URI_V4")
    if not uri:
        return
    try:
        with urllib.request.urlopen(f"{uri}/task", timeout=5) as answer:
            document = json.load(answer)
        say("task metadata", "ok", launch_type=document.get("LaunchType"), region=document["TaskARN"].split(":")[3])
    except (OSError, ValueError, KeyError) as error:
        say("task metadata", type(error).__name__)


# === Parts


def register(service, step, nonce=None, version=None):
    members = {"ProductCode": ORDER["product_code"], "PublicKeyVersion": version or ORDER["public_key_version"]}
    outcome, answer = service.ask("register_usage", **members, **({"Nonce": nonce} if nonce else {}))
    facts = {}
    if outcome == "ok":
        written = json.loads(service.body).get("PublicKeyRotationTimestamp", "omitted")
        facts["rotation"] = written if written == "omitted" else "null" if written is None else "time"
        key = ORDER["public_key"] if version is None else ORDER["rotated_public_key"]
        facts.update(about_token(answer["Signature"], nonce, key))
    say(step, outcome, **facts)


def hourly():
    service = Service("meteringmarketplace")
    gate()
    register(service, "register", uuid.uuid4().hex)
    register(service, "register again", uuid.uuid4().hex)
    register(service, "register without a nonce")
    if version := ORDER.get("rotated_public_key_version"):
        register(service, "register with a rotated key", uuid.uuid4().hex, version)


def unsubscribed():
    service = Service("meteringmarketplace")
    gate()
    # The gate has called AWS already, so this is the pod's second call.
    register(service, "register after a refusal", uuid.uuid4().hex)


def meter(service, step, at, dimension=None, **members):
    outcome, answer = service.ask(
        "meter_usage", ProductCode=ORDER["product_code"], Timestamp=int(at), UsageDimension=dimension or ORDER["dimension"],
        UsageQuantity=0, **members,
    )
    record = answer.get("MeteringRecordId") if outcome == "ok" else None
    say(step, outcome, recorded=record is not None)
    return outcome, record


def metered():
    service, now = Service("meteringmarketplace"), time.time()
    gate()
    meter(service, "dry run", now, DryRun=True)
    meter(service, "dry run of an unknown dimension", now, "no-such-dimension-of-this-product", DryRun=True)
    meter(service, "zero", now)
    meter(service, "zero before the start", now - HOUR)
    first = meter(service, "zero again", now)
    second = meter(service, "zero with allocations", now, UsageAllocations=SPLIT)
    say("the same record", "ok" if first[1] is not None and first[1] == second[1] else "other")
    # The other pod reported with allocations. If AWS knows the token for the account, it now has other parameters.
    meter(service, "client token of another pod", now, ClientToken=ORDER["client_token"])


def meter_token():
    """Another pod uses the client token first."""
    meter(Service("meteringmarketplace"), "client token", time.time(), UsageAllocations=SPLIT, ClientToken=ORDER["client_token"])


def denied():
    """A role without permissions."""
    metering, licenses = Service("meteringmarketplace"), Service("license-manager")
    gate()
    outcome, _ = metering.ask("register_usage", ProductCode=ORDER["product_code"], PublicKeyVersion=1)
    say("register without permission", outcome)
    meter(metering, "meter without permission", time.time(), "requests")
    meter(metering, "dry run without permission", time.time(), "requests", DryRun=True)
    outcome, _ = licenses.ask("list_received_licenses", MaxResults=1)
    say("list without permission", outcome)


def checkout(service, step, token, unit=None, **more):
    entitlement = {"Name": ORDER["entitlement"], "Unit": unit or ORDER["unit"]}
    if entitlement["Unit"] != "None":
        entitlement["Value"] = "1"
    outcome, answer = service.ask(
        "checkout_license", ProductSKU=ORDER["product_id"], CheckoutType="PROVISIONAL", ClientToken=token,
        KeyFingerprint=ORDER.get("key_fingerprint", FINGERPRINT), Entitlements=[entitlement], **more,
    )
    facts = {}
    if outcome == "ok":
        facts = {"zone": answer.get("Expiration", "").endswith("Z"), "signed_token": bool(answer.get("SignedToken"))}
    if outcome == "RedirectException":
        location = answer.get("Location") or answer.get("Error", {}).get("Location") or ""
        facts["location"] = "url" if "://" in location else "region" if location else "none"
    say(step, outcome, **facts)
    return answer.get("LicenseConsumptionToken") if outcome == "ok" else None


def check_in(service, step, token):
    say(step, service.ask("check_in_license", LicenseConsumptionToken=token)[0])


def contract():
    service, token = Service("license-manager"), str(uuid.uuid4())
    gate()
    filters = [
        {"Name": "ProductSKU", "Values": [ORDER["product_id"]]},
        {"Name": "Fingerprint", "Values": [ORDER.get("key_fingerprint", FINGERPRINT)]},
    ]
    outcome, answer = service.ask("list_received_licenses", Filters=filters)
    licenses = answer.get("Licenses", []) if outcome == "ok" else []
    say("list", outcome, licenses=len(licenses), units=sorted({e["Unit"] for one in licenses for e in one.get("Entitlements", [])}))
    # CheckoutLicense has no dry run, so one seat is taken for seconds and given back.
    # ExtendLicenseConsumption has a dry run.
    first = checkout(service, "checkout", token)
    again = checkout(service, "checkout with the same client token", token)
    if first:
        say("the same checkout", "ok" if again == first else "other")
        say("extend by dry run", service.ask("extend_license_consumption", LicenseConsumptionToken=first, DryRun=True)[0])
    for held in dict.fromkeys(token for token in (first, again) if token):
        check_in(service, "check in", held)
    if wrong := checkout(service, "checkout in another unit", str(uuid.uuid4()), "None" if ORDER["unit"] != "None" else "Count"):
        check_in(service, "check in of another unit", wrong)
    if ORDER.get("other_region"):
        elsewhere = Service("license-manager", ORDER["other_region"])
        if held := checkout(elsewhere, "checkout in another region", str(uuid.uuid4())):
            check_in(elsewhere, "check in of another region", held)


PARTS = {"hourly": hourly, "unsubscribed": unsubscribed, "metered": metered, "client-token": meter_token, "denied": denied, "contract": contract}

if __name__ == "__main__":
    if ORDER["emulated"] and not any(name.startswith("AWS_ENDPOINT_URL") for name in os.environ):
        say("end", "no-endpoint")
        sys.exit(1)
    task()
    PARTS[ORDER["part"]]()
    say("end", "ok")
