"""Every constraint of botocore's own service model, at its border and one beyond, against the emulator.

Usage: constraints.py PROGRAM

For each member of each operation's input (lists and structures within included) the walk builds values whose validity
follows from the model alone: lengths, patterns, ranges, counts, required members, types. The emulator must refuse
exactly the invalid ones, with ValidationException or, for a wrong type, SerializationException. A valid value may still
be refused for what it means (an unknown product): those exceptions are others.
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
MODEL = botocore.session.get_session().get_service_model("meteringmarketplace")
NOW = 1_795_507_200

# A valid request of each operation; what it lacks, the walk adds.
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
}


def fits(shape, value):
    """Whether the model accepts a scalar."""
    meta = shape.metadata
    if shape.type_name == "string":
        return (
            isinstance(value, str)
            and meta.get("min", 0) <= len(value) <= meta.get("max", 1 << 30)
            and re.fullmatch(meta.get("pattern", r"[\s\S]*").strip("^$"), value) is not None
        )
    if shape.type_name == "integer":
        return type(value) is int and meta.get("min", -(1 << 31)) <= value <= meta.get("max", (1 << 31) - 1)
    raise AssertionError(shape)


def texts(shape):
    """Texts at the borders of length and pattern."""
    meta = shape.metadata
    values = ["", "0", "a", "1", " ", "\u00fc", "a b", "A/b=c:d_e.f@g-h", "0.1", "00", "1.0000001", "-1", "1e3", "x" * 2000]
    values += ["arn:aws:license-manager::111122223333:license:l-demo", "arn:aws:x", "9999999999.999999"]
    values += ["10000000000", "0.0000001", "17.", ".5", "01.5", "+1", "1_000", "\u0661", "a\n", "0\n"]
    # The pattern of a LicenseArn bounds its parts; the model has no maximum for the whole.
    for service, region, resource in ((63, 63, 1024), (64, 0, 1), (1, 64, 1), (1, 0, 1025)):
        values.append(f"arn:aws-cn:{'s' * service}:{'r' * region}::{'l' * resource}")
    for length in {meta.get("min"), meta.get("max")} - {None}:
        for count in (length - 1, length, length + 1):
            if count >= 0:
                values += ["a" * count, "1" * count]
    return values


def numbers(shape):
    """Integers at the borders of the range, and of 32 bits."""
    borders = {shape.metadata.get("min"), shape.metadata.get("max"), 0, (1 << 31) - 1} - {None}
    return sorted({border + step for border in borders for step in (-1, 0, 1)})


def walk(shape, path):
    """(path, value, valid, label) for everything below a structure."""
    for name, member in shape.members.items():
        here = path + [name]
        if name in shape.required_members:
            yield here, None, False, "missing"
        if member.type_name == "string":
            for text in texts(member):
                yield here, text, fits(member, text), f"text of {len(text)}: {text[:20]!r}"
            yield here, 7, False, "a number for a text"
        elif member.type_name == "integer":
            for number in numbers(member):
                yield here, number, fits(member, number), f"number {number}"
            yield here, "7", False, "a text for a number"
        elif member.type_name == "boolean":
            yield here, True, True, "true"
            yield here, "yes", False, "a text for a boolean"
        elif member.type_name == "timestamp":
            yield here, NOW, True, "a time"
            yield here, [], False, "a list for a time"
        elif member.type_name == "list":
            yield here, "x", False, "a text for a list"
            for count in {member.metadata.get(key, 0) + step for key in ("min", "max") for step in (-1, 0, 1)}:
                if count >= 0:
                    valid = member.metadata.get("min", 0) <= count <= member.metadata["max"]
                    yield here, [item(member.member, index) for index in range(count)], valid, f"{count} items"
            yield from walk(member.member, here + [0])


def item(shape, index):
    """One of many items, unlike the others where that matters."""
    if shape.name == "Tag":
        return {"Key": f"k{index}", "Value": "v"}
    if shape.name == "UsageAllocation":
        return {"AllocatedUsageQuantity": 0, "Tags": [{"Key": "k", "Value": f"v{index}"}]}
    if shape.name == "UsageRecord":
        return {**copy.deepcopy(BASES["BatchMeterUsage"]["UsageRecords"][0]), "Timestamp": NOW - 3600 * index}
    raise AssertionError(shape)


def changed(base, path, value):
    """The base with one value put in, or taken out."""
    request = copy.deepcopy(base)
    place = request
    for step in path[:-1]:
        place = place[step]
    name = path[-1]
    # One form of a quantity at a time: both at once is another rule.
    twin = name.removesuffix("AsDecimal") if name.endswith("AsDecimal") else f"{name}AsDecimal"
    if twin != name:
        place.pop(twin, None)
    if value is None:
        place.pop(name, None)
    else:
        place[name] = value
    return request


def call(endpoint, operation, request):
    """Status and exception of one signed call."""
    body = json.dumps(request).encode()
    headers = {"content-type": "application/x-amz-json-1.1", "x-amz-target": f"AWSMPMeteringService.{operation}"}
    signed = botocore.awsrequest.AWSRequest("POST", endpoint, headers, body)
    credentials = botocore.credentials.Credentials("constraint-walk", "any")
    botocore.auth.SigV4Auth(credentials, "aws-marketplace", "us-east-1").add_auth(signed)
    question = urllib.request.Request(endpoint, body, dict(signed.headers))
    try:
        with urllib.request.urlopen(question) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)["__type"].rpartition("#")[2]


def main():
    walked = accepted = refused = 0
    failures = []
    with Emulator(PROGRAM) as emulator:
        emulator.admin("clock", {"now": "2026-11-24T08:30:00Z"})
        for operation in MODEL.operation_names:
            shape = MODEL.operation_model(operation).input_shape
            for path, value, valid, label in walk(shape, []):
                request = changed(BASES[operation], path, value)
                status, code = call(emulator.endpoint, operation, request)
                invalid = code in ("ValidationException", "SerializationException")
                walked += 1
                accepted += not invalid
                refused += invalid
                if invalid == valid or status >= 500:
                    where = ".".join(map(str, path))
                    failures.append(f"{operation} {where}, {label}: {status} {code}, the model says {valid}")
    for failure in failures:
        print(failure)
    print(f"{walked} values walked: {accepted} accepted, {refused} refused, {len(failures)} unlike the model")
    sys.exit(1 if failures or walked < 400 else 0)


if __name__ == "__main__":
    main()
