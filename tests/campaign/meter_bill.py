"""The verdict of the campaign of meters: the emulator's bill and the program's balance against the model. Only data; it asks nothing."""

import datetime
import math
import re
from collections import defaultdict
from decimal import Decimal, getcontext

# An amount of 10^20 with six decimals has 26 digits.
getcontext().prec = 40
# Midnight of the first day.
START = datetime.datetime(2026, 11, 24, tzinfo=datetime.timezone.utc)
MEMBERS = ("accepted", "rounded_up", "billed", "pending", "dead", "discarded", "remainder")


def micros(text):
    amount = Decimal(text).scaleb(6)
    assert amount == int(amount), f"{text} has more than six decimals"
    return int(amount)


def text_of(amount):
    return format(Decimal(amount).scaleb(-6), "f")


def moment(minutes):
    return (START + datetime.timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")


def minutes_of(text):
    return (datetime.datetime.fromisoformat(text.replace("Z", "+00:00")) - START).total_seconds() / 60


def hour_of(text):
    return round(minutes_of(text)) // 60


def place_of(row, own):
    """Customer, dimension and hour of a record or an open slot, as the program shows them; in mode metered the only customer is `own`."""
    found = re.search(r"\d{12}", row["customer"] or "")
    return found[0] if found else own, row["dimension"], hour_of(row["hour"])


def figures(row):
    """A row of the balance in millionths; a program without rules has no rounding and no remainder."""
    return {member: micros(row.get(member, 0)) for member in MEMBERS}


def of_bill(meter, records, dimensions):
    """The bill by customer, dimension and hour, in the unit that AWS bills. Returns lines to print and faults."""
    billed, expected, faults = defaultdict(int), {place: seal.quantity for place, seal in meter.seals.items()}, []
    for record in records:
        place = (record["account_id"], record["dimension"], hour_of(record["hour"]))
        billed[place] += micros(record["quantity"])
        if place in meter.seals:
            faults += of_shares(place, meter.seals[place], record)
    for place in sorted(billed.keys() | expected.keys()):
        if billed.get(place, 0) != expected.get(place, 0):
            at = f"{place[0]} {place[1]} {moment(60 * place[2])}"
            faults.append(f"the bill of {at}: {text_of(expected.get(place, 0))} expected, billed {text_of(billed.get(place, 0))}")
    lines = []
    for name in dimensions:
        sums = [sum(quantity for place, quantity in bill.items() if place[1] == name) for bill in (expected, billed)]
        lines.append(f"{name}: {text_of(sums[0])} by the model, {text_of(sums[1])} billed: {'equal' if sums[0] == sums[1] else 'NOT EQUAL'}")
    return lines, faults


def of_shares(place, seal, record):
    """Allocations add up to the quantity, and each is its tags' part of it, but for what rounding and earlier hours add."""
    shares = {frozenset(share["tags"].items()): micros(share["quantity"]) for share in record["allocations"]}
    if shares and sum(shares.values()) != micros(record["quantity"]):
        return [f"the allocations of {place} do not add up: {record}"]
    if seal.shares is None or not (shares or any(seal.shares)):
        return []
    # A part that is less than AWS's smallest is none, and what has no other part than that without tags has no allocations.
    shares = shares or {frozenset(): micros(record["quantity"])}
    parts = {tags: math.floor(amount / seal.rule.divisor()) for tags, amount in seal.shares.items()}
    # What rounding, remainder and credit add to the quantity or take from it may be in any share.
    slack = abs(seal.quantity - sum(parts.values())) + len(parts)
    if any(abs(parts.get(tags, 0) - shares.get(tags, 0)) > slack for tags in parts.keys() | shares.keys()):
        return [f"the allocations of {place}: {parts} expected, {shares} billed"]
    return []


def of_balance(meter, rows, dimensions):
    """Each member of the balance, in the event's own unit, when no hour is open. Returns lines to print and faults."""
    lines, faults = [], []
    for name in dimensions:
        assert meter.balanced(name), f"the model does not balance: {name}"
        expected = dict.fromkeys(MEMBERS, 0)
        expected.update(
            accepted=meter.accepted[name], rounded_up=meter.rounded_up[name], billed=meter.billed[name], remainder=meter.remainder(name)
        )
        row = rows.get(name, {"balanced": True})
        shown = figures(row)
        if shown != expected or not row["balanced"]:
            wanted = {member: text_of(amount) for member, amount in expected.items()}
            faults.append(f"the balance of {name}: {wanted} expected, shown {row}")
        lines.append(f"{name}: {', '.join(f'{member} {text_of(amount)}' for member, amount in shown.items() if amount)}")
    return lines, faults
