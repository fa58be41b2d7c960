"""Every constraint of botocore's own models of metering, entitlement and License Manager, at its limit and one beyond, against
the emulator.

Usage: constraints.py PROGRAM

For each member of each operation's input (lists, maps and structures within included) the walk builds values whose validity
follows from the model alone: lengths, patterns, ranges, counts, required members, types. The emulator must refuse
exactly the invalid ones, with ValidationException or, for a wrong type, SerializationException. A valid value may still
be refused for its meaning (an unknown product), with other exceptions.
"""

import copy
import json
import re
import sys
import urllib.error
import urllib.request

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import botocore.session

from processes import Emulator

PROGRAM = sys.argv[1]
NOW = 1_795_507_200
MARKETPLACE = "aws:294406891311:AWS/Marketplace:issuer-fingerprint"
ARN = "arn:aws:license-manager::294406891311:license:l-demo"
TIME = "2026-11-24T08:30:00Z"

# A valid request of each operation; the walk adds the other members.
BASES = {
    "RegisterUsage": {"ProductCode": "demohourly", "PublicKeyVersion": 1, "Nonce": "n"},
    "MeterUsage": {
        "ProductCode": "demometered",
        "Timestamp": NOW,
        "UsageDimension": "requests",
        "UsageQuantity": 1,
        "UsageAllocations": [{"AllocatedUsageQuantity": 1, "Tags": [{"Key": "k", "Value": "v"}]}],
    },
    "BatchMeterUsage": {
        "UsageRecords": [
            {
                "Timestamp": NOW,
                "CustomerAWSAccountId": "111122223333",
                "LicenseArn": "arn:aws:license-manager::111122223333:license:l-demo",
                "Dimension": "requests",
                "Quantity": 1,
                "UsageAllocations": [{"AllocatedUsageQuantity": 1, "Tags": [{"Key": "k", "Value": "v"}]}],
            }
        ],
    },
    "ResolveCustomer": {"RegistrationToken": "token"},
    "GetEntitlements": {
        "ProductCode": "demosaas",
        "Filter": {name: ["v"] for name in ("CUSTOMER_AWS_ACCOUNT_ID", "CUSTOMER_IDENTIFIER", "LICENSE_ARN", "DIMENSION")},
        "NextToken": "emulated-page-0",
        "MaxResults": 10,
    },
    "CheckoutLicense": {
        "ProductSKU": "prod-democontract",
        "CheckoutType": "PROVISIONAL",
        "KeyFingerprint": MARKETPLACE,
        "Entitlements": [{"Name": "users", "Unit": "Count", "Value": "1"}],
        "ClientToken": "token",
        "Beneficiary": "111122223333",
        "NodeId": "node",
    },
    "ExtendLicenseConsumption": {"LicenseConsumptionToken": "token", "DryRun": False},
    "CheckInLicense": {"LicenseConsumptionToken": "token", "Beneficiary": "111122223333"},
    "ListReceivedLicenses": {
        "LicenseArns": [ARN],
        "Filters": [{"Name": "ProductSKU", "Values": ["prod-democontract"]}],
        "MaxResults": 10,
    },
    "GetLicense": {"LicenseArn": ARN, "Version": "1"},
    "GetLicenseUsage": {"LicenseArn": ARN},
    "GetAccessToken": {"Token": "token", "TokenProperties": ["property"]},
    "CreateLicense": {
        "LicenseName": "license",
        "ProductName": "product",
        "ProductSKU": "prod-created",
        "Issuer": {"Name": "issuer", "SignKey": "key"},
        "HomeRegion": "us-east-1",
        "Validity": {"Begin": TIME, "End": "2027-11-24T08:30:00Z"},
        "Entitlements": [{"Name": "users", "Unit": "Count", "MaxCount": 1, "Overage": False, "AllowCheckIn": True}],
        "Beneficiary": "111122223333",
        "ConsumptionConfiguration": {
            "RenewType": "None",
            "ProvisionalConfiguration": {"MaxTimeToLiveInMinutes": 60},
            "BorrowConfiguration": {"AllowEarlyCheckIn": True, "MaxTimeToLiveInMinutes": 60},
        },
        "LicenseMetadata": [{"Name": "name", "Value": "value"}],
        "ClientToken": "token",
        "Tags": [{"Key": "key", "Value": "value"}],
    },
}

# The emulator's operations of each service, and the least number of values that a walk over them must find.
SERVICES = {
    "meteringmarketplace": (["RegisterUsage", "MeterUsage", "BatchMeterUsage", "ResolveCustomer"], 800),
    "marketplace-entitlement": (["GetEntitlements"], 100),
    "license-manager": (
        [
            "CheckoutLicense", "ExtendLicenseConsumption", "CheckInLicense", "ListReceivedLicenses", "GetLicense",
            "GetLicenseUsage", "GetAccessToken", "CreateLicense",
        ],
        800,
    ),
}


def fits(shape, value):
    """Whether the model accepts a scalar."""
    meta = shape.metadata
    if shape.type_name == "string":
        return (
            isinstance(value, str)
            and meta.get("min", 0) <= len(value) <= meta.get("max", 1 << 30)
            and re.fullmatch(meta.get("pattern", r"[\s\S]*").strip("^$"), value) is not None
            and value in meta.get("enum", [value])
        )
    bits = {"integer": 31, "long": 63}[shape.type_name]
    return type(value) is int and meta.get("min", -(1 << bits)) <= value <= meta.get("max", (1 << bits) - 1)


def texts(shape):
    """Texts at the limits of length and pattern."""
    meta = shape.metadata
    values = ["", "0", "a", "1", " ", "\u00fc", "a b", "A/b=c:d_e.f@g-h", "0.1", "00", "1.0000001", "-1", "1e3", "x" * 2000]
    values += ["arn:aws:license-manager::111122223333:license:l-demo", "arn:aws:x", "9999999999.999999"]
    values += ["10000000000", "0.0000001", "17.", ".5", "01.5", "+1", "1_000", "\u0661", "a\n", "0\n"]
    # The pattern of a LicenseArn limits its parts; the model has no maximum for the whole.
    for service, region, resource in ((63, 63, 1024), (64, 0, 1), (1, 64, 1), (1, 0, 1025)):
        values.append(f"arn:aws-cn:{'s' * service}:{'r' * region}::{'l' * resource}")
    for length in {meta.get("min"), meta.get("max")} - {None}:
        for count in (length - 1, length, length + 1):
            if count >= 0:
                values += ["a" * count, "1" * count]
    for choice in meta.get("enum", []):
        values += [choice, choice.lower(), choice.upper(), choice + " "]
    if shape.name == "ISO8601DateTime":
        values += times()
    return values


def times():
    """A time with each of its parts at its limits, and with parts left out or repeated."""
    parts = {
        "year": ["2026", "0000", "-2026", "12026", "02026", "226", ""],
        "month": ["01", "12", "00", "13", "1"],
        "day": ["01", "31", "00", "32", "9"],
        "between": ["T", "t", " "],
        "hour": ["00", "23", "24", "2 "],
        "minute": ["00", "59", "60"],
        "second": ["00", "59", "60"],
        "fraction": ["", ".0", ".123456789012", "."],
        "zone": ["Z", "z", "", "+00:00", "-23:59", "+2 :00", "+24:00", "+01:60", "+0100", "ZZ", "Z+01:00", "Z "],
    }
    for name, values in parts.items():
        for value in values:
            p = {part: value if part == name else known[0] for part, known in parts.items()}
            yield f"{p['year']}-{p['month']}-{p['day']}{p['between']}{p['hour']}:{p['minute']}:{p['second']}{p['fraction']}{p['zone']}"


def numbers(shape):
    """Integers at the limits of the range, and of 32 or 64 bits."""
    largest = (1 << (63 if shape.type_name == "long" else 31)) - 1
    borders = {shape.metadata.get("min"), shape.metadata.get("max"), 0, largest} - {None}
    return sorted({border + step for border in borders for step in (-1, 0, 1)})


def walk(shape, path):
    """(path, value, valid, label) for everything below a structure."""
    for name, member in shape.members.items():
        here = path + [name]
        if name in shape.required_members:
            yield here, None, False, "missing"
        yield from values(member, here)


def values(member, here):
    """The same for one member and the members below it."""
    if member.type_name == "string":
        for text in texts(member):
            yield here, text, fits(member, text), f"text of {len(text)}: {text[:20]!r}"
        yield here, 7, False, "a number for a text"
    elif member.type_name in ("integer", "long"):
        for number in numbers(member):
            yield here, number, fits(member, number), f"number {number}"
        yield here, "7", False, "a text for a number"
    elif member.type_name == "boolean":
        yield here, True, True, "true"
        yield here, "yes", False, "a text for a boolean"
    elif member.type_name == "timestamp":
        yield here, NOW, True, "a time"
        yield here, [], False, "a list for a time"
    elif member.type_name == "structure":
        yield here, "x", False, "a text for a structure"
        yield from walk(member, here)
    elif member.type_name == "map":
        yield here, [], False, "a list for a map"
        yield here, {}, True, "an empty map"
        for name in texts(member.key):
            yield here, {name: ["v"]}, fits(member.key, name), f"the key {name[:20]!r}"
        for name in member.key.enum:
            yield from values(member.value, here + [name])
    elif member.type_name == "list":
        yield here, "x", False, "a text for a list"
        borders = [member.metadata.get("min", 0), *({member.metadata.get("max")} - {None})]
        for count in sorted({border + step for border in borders for step in (-1, 0, 1)}):
            if count >= 0:
                valid = member.metadata.get("min", 0) <= count <= member.metadata.get("max", count)
                yield here, [item(member.member, index) for index in range(count)], valid, f"{count} items"
        if member.member.type_name == "structure":
            yield from walk(member.member, here + [0])
        else:
            yield from values(member.member, here + [0])
    else:
        raise AssertionError(member)


def item(shape, index):
    """One of many items, different from the others if that matters."""
    if shape.name == "Tag":
        return {"Key": f"k{index}", "Value": "v"}
    if shape.name == "UsageAllocation":
        return {"AllocatedUsageQuantity": 0, "Tags": [{"Key": "k", "Value": f"v{index}"}]}
    if shape.name == "UsageRecord":
        return {**copy.deepcopy(BASES["BatchMeterUsage"]["UsageRecords"][0]), "Timestamp": NOW - 3600 * index}
    if shape.name in ("EntitlementData", "Entitlement"):
        return {"Name": f"n{index}", "Unit": "Count"}
    if shape.name == "Filter":
        return {"Name": "ProductSKU", "Values": [f"v{index}"]}
    if shape.name == "Metadata":
        return {"Name": f"n{index}", "Value": "v"}
    if shape.name == "Arn":
        return f"{ARN}{index}"
    if shape.type_name == "string":
        return f"v{index}"
    raise AssertionError(shape)


def changed(base, path, value):
    """The base with one value put in, or taken out."""
    request = copy.deepcopy(base)
    place = request
    for step in path[:-1]:
        place = place[step]
    name = path[-1]
    # One form of a quantity at a time, because both at once break another rule.
    if isinstance(name, str):
        twin = name.removesuffix("AsDecimal") if name.endswith("AsDecimal") else f"{name}AsDecimal"
        place.pop(twin, None)
    if value is None:
        place.pop(name, None)
    else:
        place[name] = value
    return request


def call(endpoint, model, operation, request):
    """Status and exception of one signed call."""
    body = json.dumps(request).encode()
    target = f"{model.metadata['targetPrefix']}.{operation}"
    headers = {"content-type": "application/x-amz-json-1.1", "x-amz-target": target}
    signed = botocore.awsrequest.AWSRequest("POST", endpoint, headers, body)
    credentials = botocore.credentials.Credentials("constraint-walk", "any")
    botocore.auth.SigV4Auth(credentials, model.signing_name, "us-east-1").add_auth(signed)
    question = urllib.request.Request(endpoint, body, dict(signed.headers))
    try:
        with urllib.request.urlopen(question) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)["__type"].rpartition("#")[2]


def main():
    failures = []
    with Emulator(PROGRAM) as emulator:
        emulator.admin("clock", {"now": TIME})
        for service, (operations, least) in SERVICES.items():
            model = botocore.session.get_session().get_service_model(service)
            walked = accepted = refused = 0
            for operation in operations:
                for path, value, valid, label in walk(model.operation_model(operation).input_shape, []):
                    request = changed(BASES[operation], path, value)
                    status, code = call(emulator.endpoint, model, operation, request)
                    invalid = code in ("ValidationException", "SerializationException")
                    walked += 1
                    accepted += not invalid
                    refused += invalid
                    if invalid == valid or status >= 500:
                        where = ".".join(map(str, path))
                        failures.append(f"{operation} {where}, {label}: {status} {code}, the model says {valid}")
            print(f"{service}: {walked} values walked, {accepted} accepted, {refused} refused")
            if walked < least:
                failures.append(f"{service}: {walked} values are too few")
    for failure in failures:
        print(failure)
    print(f"{len(failures)} unlike the models")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
