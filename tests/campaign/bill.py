"""What a campaign's application knows of each event, and what the bill must therefore be.

An event with an id is repeated until it is answered; it must count once. Several answers may say `accepted`: a replica whose commit was
lost cannot tell its own event from the same one of another replica. An event without an id is sent once: it must count if it was
acknowledged, must not if it was refused, and may if there was no answer. Each of those has a tag of its own, so that the bill's
allocations show which ones counted.
"""

import threading
from collections import Counter, defaultdict
from decimal import Decimal

# The tag of events without an id.
TAG = "anonymous"


class Account:
    """What the application knows. All its methods may be called by several threads."""

    def __init__(self):
        self.lock = threading.Lock()
        # Quantities of acknowledged events with ids, by account and dimension; answers `accepted`, by id.
        self.named, self.accepted = defaultdict(Decimal), Counter()
        self.acknowledged = set()
        # Events without ids: number → (account, dimension, quantity, fate).
        self.anonymous = {}

    def answered(self, event_id, slot, quantity, status):
        """An event with an id was answered `accepted` or `duplicate`."""
        with self.lock:
            self.accepted[event_id] += status == "accepted"
            if event_id not in self.acknowledged:
                self.acknowledged.add(event_id)
                self.named[slot] += quantity

    def sent(self, number, slot, quantity, fate):
        """An event without an id had this fate: acknowledged, refused or unanswered."""
        with self.lock:
            self.anonymous[number] = (*slot, quantity, fate)

    def accepted_again(self):
        return sum(count > 1 for count in self.accepted.values())

    def fates(self):
        return Counter(fate for *_, fate in self.anonymous.values())


def compare(account, records, slots):
    """Lines of the comparison with the bill's records, and the faults found."""
    billed, parts = defaultdict(Decimal), defaultdict(Decimal)
    faults = []
    for record in records:
        slot = (record["account_id"], record["dimension"])
        billed[slot] += Decimal(record["quantity"])
        for share in record["allocations"]:
            if TAG in share["tags"]:
                parts[slot, int(share["tags"][TAG])] += Decimal(share["quantity"])
    counted = defaultdict(Decimal)
    for number, (who, dimension, quantity, fate) in account.anonymous.items():
        slot, part = (who, dimension), parts.pop(((who, dimension), number), Decimal(0))
        allowed = {"acknowledged": [quantity], "refused": [0], "unanswered": [0, quantity]}[fate]
        if part not in allowed:
            faults.append(f"event {number} without an id, {fate}, of {quantity} to {slot}: billed {part}")
        # Unanswered ones count as the bill has them; for the others the promise is compared.
        counted[slot] += part if fate == "unanswered" else allowed[0]
    faults += [f"{slot}: event {number} without an id is not the application's: {part}" for (slot, number), part in parts.items()]
    lines = []
    for slot in slots:
        expected = account.named[slot] + counted[slot]
        equal = billed.pop(slot, Decimal(0))
        if equal != expected:
            faults.append(f"{slot}: {expected} expected, billed {equal}")
        lines.append(f"{slot[0]} {slot[1]}: acknowledged {account.named[slot]} with ids, {counted[slot]} without; billed {equal}: "
                     f"{'equal' if equal == expected else 'NOT EQUAL'}")
    faults += [f"{slot}: billed {quantity}, and nothing was sent" for slot, quantity in billed.items()]
    return lines, faults
