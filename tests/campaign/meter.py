"""A model of metering by rules: what a seller's `[dimension.NAME]` makes of events, hour by hour. It knows no program.

It is written from the semantics that the documents state, so that the program's bill can be judged by it. All amounts are whole numbers of
millionths: of the event's own unit, or where a name says `quantity`, of the unit that AWS bills.

- An hour of a customer and dimension is one slot: the sum or the maximum of its events, and an additive part, which joins after the maximum.
- `none` sends what is a whole number of millionths in both units; what is left joins the total of the next hour that is sealed.
- `up` sends the hour's total rounded up. What a seal before the hour's close added is a credit: the next hour's total is less by it, and what is left of it ends.
- A slot keeps the rule that it began with. What is left, and a credit, belong to a customer, dimension and scale.
- What AWS does not take in one record joins the additive part of the current hour.
- In the event's own unit: accepted + rounded up = billed + pending + remainder, after each step.
"""

import dataclasses
import math
from collections import defaultdict
from fractions import Fraction

MILLION = 10**6
# The largest quantity that AWS takes in one record, in millionths: ten digits, and six decimals.
QUANTITY_MAX = 10**16 - 1
UNITS = {
    **{f"bytes:{prefix}B": Fraction(1000 ** (power + 1)) for power, prefix in enumerate("KMGT")},
    **{f"bytes:{prefix}iB": Fraction(1024 ** (power + 1)) for power, prefix in enumerate("KMGT")},
}


@dataclasses.dataclass(frozen=True)
class Rule:
    """`scale` is text as in the configuration; `digits` None is the mode `none`."""

    aggregation: str = "sum"
    scale: str = "1"
    digits: int | None = None

    def divisor(self):
        """How much of the event's own unit is one unit of the dimension."""
        return UNITS[self.scale] if self.scale in UNITS else Fraction(self.scale)

    def send(self, total):
        """The quantity that a total sends, and the same in the event's own unit."""
        divisor = self.divisor()
        if self.digits is None:
            # A quantity of k millionths is k × numerator / denominator millionths of the event's own unit: whole only if the denominator
            # divides k.
            parts = total // divisor.numerator
            return divisor.denominator * parts, divisor.numerator * parts
        if total <= 0:
            return 0, 0
        step = 10 ** (6 - self.digits)
        quantity = step * math.ceil(Fraction(total) / divisor / step)
        return quantity, math.ceil(quantity * divisor)

    def toml(self):
        """The members of the table `[dimension.NAME]`."""
        lines = []
        if self.aggregation != "sum":
            lines.append(f'aggregation = "{self.aggregation}"')
        if self.scale != "1":
            lines.append(f'scale = "{self.scale}"')
        if self.digits is not None:
            lines.append(f'rounding = {{ mode = "up", digits = {self.digits} }}')
        return lines


@dataclasses.dataclass
class Slot:
    rule: Rule
    aggregate: int | None = None
    additive: int = 0
    # The part of each set of tags; usage without tags has the empty set.
    shares: dict = dataclasses.field(default_factory=lambda: defaultdict(int))

    def amount(self):
        return (self.aggregate or 0) + self.additive

    def add(self, amount, tags=frozenset()):
        """Returns by how much the slot has grown."""
        before = self.amount()
        if self.rule.aggregation == "max":
            self.aggregate = amount if self.aggregate is None else max(self.aggregate, amount)
        else:
            self.aggregate = (self.aggregate or 0) + amount
            self.shares[tags] += amount
        return self.amount() - before


@dataclasses.dataclass(frozen=True)
class Seal:
    """What one sealing makes of a slot: a record, if there is a quantity. `shares` is None where something else is a part of it."""

    rule: Rule
    quantity: int
    raw: int
    shares: dict | None
    # In the event's own unit, what AWS does not take in one record. It counts to another hour, which the caller says.
    excess: int


class Meter:
    """All slots of one product. The caller says to which hour an event counts, and when an hour is sealed."""

    def __init__(self):
        # By customer, dimension and hour. A seal without a quantity leaves no record.
        self.slots, self.seals = {}, {}
        # By customer, dimension and scale; one of both is 0.
        self.left, self.credit = defaultdict(int), defaultdict(int)
        # By dimension.
        self.accepted, self.rounded_up, self.billed = defaultdict(int), defaultdict(int), defaultdict(int)

    def takes(self, place, rule):
        """Whether an event by this rule may count to the slot of this customer, dimension and hour."""
        return place not in self.slots or self.slots[place].rule == rule

    def add(self, place, rule, amount, tags=frozenset()):
        assert place not in self.seals, f"{place} is sealed"
        assert self.takes(place, rule)
        slot = self.slots.setdefault(place, Slot(rule))
        self.accepted[place[1]] += slot.add(amount, tags)

    def sends(self, place):
        """Whether a seal of this slot now would make a record."""
        slot = self.slots[place]
        account = (*place[:2], slot.rule.divisor())
        return slot.rule.send(max(slot.amount() + self.left.get(account, 0) - self.credit.get(account, 0), 0))[0] > 0

    def seal(self, place, early):
        """Seals one slot. The hours of a customer and dimension are sealed in their order."""
        slot = self.slots.pop(place)
        customer, dimension, _ = place
        rule = slot.rule
        account = (customer, dimension, rule.divisor())
        left, credit = self.left.pop(account, 0), self.credit.pop(account, 0)
        total = slot.amount() + left - credit
        quantity, raw = rule.send(max(total, 0))
        excess = 0
        if quantity > QUANTITY_MAX:
            assert rule.digits is None, "the documents do not say how much of a rounded total is sent"
            quantity, raw = rule.send(math.floor(QUANTITY_MAX * rule.divisor()))
            excess = total - raw
        elif total < 0:
            # The hour's total and what was left are a part of the credit; the rest of it ends.
            credit += total
        elif rule.digits is None:
            self.left[account] = total - raw
        else:
            self.rounded_up[dimension] += raw - total
            if early:
                self.credit[account] = raw - total
        self.rounded_up[dimension] -= credit
        self.billed[dimension] += raw
        seal = Seal(rule, quantity, raw, None if slot.additive or excess else dict(slot.shares), excess)
        if quantity:
            self.seals[place] = seal
        return seal

    def join(self, to, rule, amount):
        """What another hour could not send counts to this one, beside the aggregate of its own events."""
        self.slots.setdefault(to, Slot(rule)).additive += amount

    def carry(self, place, to, rule):
        """A record that AWS never took counts to another hour, beside the aggregate of that hour's own events.

        If that hour has another scale, the quantity stays the same, and its amount in the event's own unit changes.
        """
        seal, dimension = self.seals.pop(place), place[1]
        slot = self.slots.setdefault(to, Slot(rule))
        raw = math.ceil(seal.quantity * slot.rule.divisor())
        self.billed[dimension] -= seal.raw
        self.accepted[dimension] += raw - seal.raw
        slot.additive += raw

    def pending(self, dimension):
        return sum(slot.amount() for (_, name, _), slot in self.slots.items() if name == dimension)

    def remainder(self, dimension):
        return sum(amount for (_, name, _), amount in self.left.items() if name == dimension)

    def balanced(self, dimension):
        held = self.billed[dimension] + self.pending(dimension) + self.remainder(dimension)
        return self.accepted[dimension] + self.rounded_up[dimension] == held
