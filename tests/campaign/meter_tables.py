"""Tests of the model that judges the campaign of meters: tables worked by hand, and what must hold for any events in any order."""

import os
import random
import sys
import unittest
from fractions import Fraction

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import meter_bill  # noqa: E402
from meter import MILLION, Meter, Rule  # noqa: E402
from meter_bill import micros  # noqa: E402
from meter_days import DIMENSIONS, Days  # noqa: E402


class Sending(unittest.TestCase):
    def test_a_total_sends_what_was_worked_out_by_hand(self):
        # Scale, digits (None: nothing is rounded), total → quantity, the quantity in the event's own unit.
        cases = [
            ("1", None, "12.345678", "12.345678", "12.345678"),
            ("1", None, "0", "0", "0"),
            # A gigabyte is 10^9 bytes; a millionth of one is 1,000 bytes.
            ("bytes:GB", None, "1234567890", "1.234567", "1234567000"),
            ("bytes:GB", None, "999", "0", "0"),
            ("bytes:KB", None, "0.001", "0.000001", "0.001"),
            # 2^30 bytes × 10^-6 is 1073.741824 bytes: whole in millionths.
            ("bytes:GiB", None, "1073741824", "1", "1073741824"),
            ("bytes:GiB", None, "1073.741824", "0.000001", "1073.741824"),
            ("bytes:GiB", None, "1073.741823", "0", "0"),
            ("bytes:TiB", None, "1099511627776", "1", "1099511627776"),
            ("1000000", None, "1", "0.000001", "1"),
            ("1000000", None, "2.5", "0.000002", "2"),
            # An odd number of millionths × 2.5 is no whole number of millionths.
            ("2.5", None, "0.000005", "0.000002", "0.000005"),
            ("2.5", None, "0.000009", "0.000002", "0.000005"),
            ("2.5", None, "10", "4", "10"),
            # Only whole units are whole millionths of both.
            ("0.333333", None, "1", "3", "0.999999"),
            ("0.333333", None, "0.333332", "0", "0"),
            ("1", 0, "0.000001", "1", "1"),
            ("1", 0, "1", "1", "1"),
            ("1", 0, "1.000001", "2", "2"),
            ("1", 2, "1.230001", "1.24", "1.24"),
            ("1", 6, "1.234567", "1.234567", "1.234567"),
            ("3600", 2, "3601", "1.01", "3636"),
            ("3600", 0, "59", "1", "3600"),
            ("bytes:GB", 0, "1000000001", "2", "2000000000"),
            ("bytes:GiB", 1, "1", "0.1", "107374182.4"),
            # The quantity in the event's own unit is rounded up to a millionth: 0.1 × 0.000003.
            ("0.000003", 1, "0.000001", "0.4", "0.000002"),
            # The largest amount that an event may have.
            ("bytes:TB", None, "100000000000000000000", "100000000", "100000000000000000000"),
        ]
        for scale, digits, total, quantity, raw in cases:
            sent = Rule("sum", scale, digits).send(micros(total))
            self.assertEqual(sent, (micros(quantity), micros(raw)), (scale, digits, total))

    def test_none_sends_the_largest_quantity_that_is_whole_in_both_units(self):
        # By trying every quantity, which the model does not.
        for scale in ("1", "2.5", "0.333333", "0.4", "1.5", "0.75", "12.000001", "0.07"):
            divisor = Fraction(scale)
            for total in range(60):
                whole = [k for k in range(int(total / divisor) + 1) if (k * divisor).denominator == 1 and k * divisor <= total]
                quantity, raw = Rule("sum", scale).send(total)
                self.assertEqual(quantity, max(whole), (scale, total))
                self.assertEqual(raw, quantity * divisor)


class Hours(unittest.TestCase):
    def run_table(self, rule, steps):
        """Each step is an amount of hour 0, 1, … or the sealing of an hour with the quantity that it must send."""
        meter = Meter()
        for what, hour, figure in steps:
            place = ("customer", "dimension", hour)
            if what == "event":
                meter.add(place, rule, micros(figure))
            else:
                self.assertEqual(meter.seal(place, what == "early").quantity, micros(figure), (rule, steps, what, hour))
            self.assertTrue(meter.balanced("dimension"))
        return meter

    def test_what_is_left_joins_the_next_hour(self):
        meter = self.run_table(Rule("sum", "bytes:GB"), [
            ("event", 0, "1500"), ("seal", 0, "0.000001"),
            ("event", 1, "400"), ("seal", 1, "0"),
            ("event", 2, "100"), ("seal", 2, "0.000001"),
        ])
        self.assertEqual(meter.remainder("dimension"), 0)

    def test_a_final_seal_rounds_up_and_gives_no_credit(self):
        meter = self.run_table(Rule("sum", "1", 0), [
            ("event", 0, "1.2"), ("seal", 0, "2"), ("event", 1, "1.2"), ("seal", 1, "2"),
        ])
        self.assertEqual(meter.rounded_up["dimension"], micros("1.6"))

    def test_the_next_hour_has_the_credit_of_an_early_seal(self):
        meter = self.run_table(Rule("sum", "1", 0), [
            # One process: 3. Billed 2, of which 0.8 is a credit; then 1.2 + 0.6 - 0.8 = 1.0.
            ("event", 0, "1.2"), ("early", 0, "2"), ("event", 1, "1.2"), ("event", 1, "0.6"), ("seal", 1, "1"),
        ])
        self.assertEqual(meter.rounded_up["dimension"], 0)

    def test_what_the_next_hour_does_not_use_of_a_credit_ends(self):
        meter = self.run_table(Rule("sum", "3600", 0), [
            ("event", 0, "10"), ("early", 0, "1"), ("event", 1, "20"), ("early", 1, "0"), ("event", 2, "3570"), ("seal", 2, "1"),
            ("event", 3, "1"), ("seal", 3, "1"),
        ])
        self.assertEqual(meter.rounded_up["dimension"], micros("7199"))

    def test_a_maximum_is_that_of_one_hour(self):
        meter = self.run_table(Rule("max", "1", 0), [
            ("event", 0, "3"), ("event", 0, "7.5"), ("event", 0, "5"), ("seal", 0, "8"), ("event", 1, "2"), ("seal", 1, "2"),
        ])
        self.assertEqual(meter.accepted["dimension"], micros("9.5"))

    def test_what_is_left_of_a_maximum_is_added_to_the_next(self):
        self.run_table(Rule("max", "0.3"), [
            ("event", 0, "1"), ("event", 0, "0.5"), ("seal", 0, "3.333330"), ("event", 1, "0.999999"), ("seal", 1, "3.333330"),
            ("event", 2, "0.3"), ("seal", 2, "1"),
        ])

    def test_a_carried_record_is_added_after_the_maximum(self):
        meter, rule = Meter(), Rule("max", "2", 0)
        meter.add(("a", "d", 0), rule, micros("3"))
        self.assertEqual(meter.seal(("a", "d", 0), False).quantity, micros("2"))
        meter.add(("a", "d", 9), rule, micros("5"))
        meter.carry(("a", "d", 0), ("a", "d", 9), rule)
        meter.add(("a", "d", 9), rule, micros("4"))
        self.assertTrue(meter.balanced("d"))
        # 4 of the record and 5 of the maximum, in the event's own unit.
        self.assertEqual(meter.seal(("a", "d", 9), False).quantity, micros("5"))
        self.assertEqual((meter.rounded_up["d"], meter.billed["d"]), (micros("2"), micros("10")))

    def test_what_aws_does_not_take_in_one_record_joins_another_hour(self):
        # Scale, total → quantity, excess. Of 2.5 only an even number of millionths is whole.
        cases = [
            ("1", "10000000001.5", "9999999999.999999", "1.500001"),
            ("bytes:KB", "10000000001000.7", "9999999999.999999", "1000.701"),
            ("2.5", "25000000000", "9999999999.999998", "0.000005"),
        ]
        for scale, total, quantity, excess in cases:
            meter, rule = Meter(), Rule("sum", scale)
            meter.add(("a", "d", 0), rule, micros(total))
            seal = meter.seal(("a", "d", 0), False)
            self.assertEqual((seal.quantity, seal.excess), (micros(quantity), micros(excess)))
            meter.join(("a", "d", 1), rule, seal.excess)
            self.assertTrue(meter.balanced("d"))

    def test_two_customers_and_two_scales_do_not_share_what_is_left(self):
        meter = Meter()
        gigabytes, kilobytes = Rule("sum", "bytes:GB"), Rule("sum", "bytes:KB")
        for customer, rule, hour in (("a", gigabytes, 0), ("b", gigabytes, 0), ("a", kilobytes, 1), ("a", gigabytes, 2)):
            meter.add((customer, "d", hour), rule, micros("600"))
        quantities = [meter.seal(place, False).quantity for place in (("a", "d", 0), ("b", "d", 0), ("a", "d", 1), ("a", "d", 2))]
        self.assertEqual(quantities, [0, 0, 600_000, 1])
        self.assertEqual(meter.remainder("d"), micros("800"))

    def test_a_slot_keeps_the_rule_that_it_began_with(self):
        meter, place = Meter(), ("a", "d", 0)
        meter.add(place, Rule("sum", "1", 0), micros("0.5"))
        self.assertFalse(meter.takes(place, Rule("sum", "1", 1)))
        self.assertTrue(meter.takes(("a", "d", 1), Rule("sum", "1", 1)))
        self.assertEqual(meter.seal(place, False).quantity, MILLION)


class Verdict(unittest.TestCase):
    """A bill that is wrong by a millionth is noticed."""

    def setUp(self):
        self.meter, rule = Meter(), Rule("sum", "1", 0)
        place = ("111122223333", "d", 7)
        self.meter.add(place, rule, micros("0.4"), frozenset({("team", "a")}))
        self.meter.add(place, rule, micros("0.7"))
        self.meter.seal(place, False)

    def record(self, quantity="2", hour="2026-11-24T07:00:00Z", team="0.9", rest="1.1"):
        shares = [{"quantity": team, "tags": {"team": "a"}}, {"quantity": rest, "tags": {}}]
        return {"account_id": "111122223333", "dimension": "d", "hour": hour, "quantity": quantity, "allocations": shares}

    def test_of_the_bill(self):
        def faults(*records):
            return len(meter_bill.of_bill(self.meter, records, ["d"])[1])

        self.assertEqual(faults(self.record()), 0)
        self.assertEqual(faults(), 1)
        # The hour lacks it, and another has it.
        self.assertEqual(faults(self.record(hour="2026-11-24T08:00:00Z")), 2)
        self.assertEqual(faults(self.record(), self.record(hour="2026-11-24T08:00:00Z")), 1)
        # Allocations that do not add up, and of a quantity that nobody used.
        self.assertEqual(faults(self.record(quantity="2.000001")), 2)
        self.assertEqual(faults(self.record(team="0.900001")), 1)
        self.assertEqual(faults(self.record(team="2", rest="0")), 1)

    def test_of_the_balance(self):
        row = {"balanced": True, "accepted": "1.1", "rounded_up": "0.9", "billed": "2", "pending": "0", "dead": "0", "discarded": "0", "remainder": "0"}

        def faults(**wrong):
            return len(meter_bill.of_balance(self.meter, {"d": {**row, **wrong}}, ["d"])[1])

        self.assertEqual(faults(), 0)
        for member in meter_bill.MEMBERS:
            self.assertEqual(faults(**{member: "1.000001"}), 1, member)
        self.assertEqual(faults(balanced=False), 1)


class Script(unittest.TestCase):
    def test_a_seed_determines_the_days(self):
        for mode in ("metered", "saas"):
            first, again, other = (Days(mode, 2, random.Random(seed), DIMENSIONS) for seed in (1, 1, 2))
            self.assertEqual(first.steps, again.steps)
            self.assertNotEqual(first.steps, other.steps)

    def test_every_incident_and_every_jump_happens(self):
        for mode in ("metered", "saas"):
            steps = Days(mode, 20, random.Random(1), DIMENSIONS).steps
            incidents = {step.incident for step in steps}
            self.assertEqual(incidents, {None, "kill", "cut", "stop", "torn", "change", "back"} | ({"flush"} if mode == "saas" else set()))
            hours = [after.to // 60 - before.to // 60 for before, after in zip(steps, steps[1:])]
            self.assertTrue(min(hours) == -1 and any(1 < ahead < 5 for ahead in hours) and max(hours) >= 30, hours)
            late = [event for step in steps for request in step.requests for event in request if event.hour(step.to) < step.to // 60]
            self.assertGreater(len(late), 100)
            self.assertEqual({event.dimension for event in late}, set(DIMENSIONS))


class Any(unittest.TestCase):
    RULES = [Rule(kind, scale, digits) for kind in ("sum", "max") for scale in ("1", "2.5", "0.333333", "bytes:GiB") for digits in (None, 0, 2)]

    def test_the_order_of_events_changes_nothing(self):
        rng = random.Random(1)
        for rule in self.RULES:
            events = [(hour, rng.randrange(1, 10 * MILLION)) for hour in range(4) for _ in range(5)]
            bills = set()
            for _ in range(6):
                rng.shuffle(events)
                meter = Meter()
                for hour, amount in events:
                    meter.add(("a", "d", hour), rule, amount)
                for hour in range(4):
                    meter.seal(("a", "d", hour), False)
                bills.add((tuple(seal.quantity for seal in meter.seals.values()), meter.accepted["d"], meter.remainder("d")))
            self.assertEqual(len(bills), 1, rule)

    def test_it_balances_after_each_step_and_loses_less_than_a_step(self):
        rng = random.Random(2)
        for rule in self.RULES:
            meter, hour = Meter(), 0
            for _ in range(300):
                place = ("a", "d", hour)
                if rng.random() < 0.8 or place not in meter.slots:
                    meter.add(place, rule, rng.randrange(0, 10 ** rng.randrange(1, 14)))
                else:
                    meter.seal(place, rng.random() < 0.5)
                    hour += 1
                self.assertTrue(meter.balanced("d"), rule)
                self.assertLess(meter.remainder("d"), rule.divisor() * MILLION)

    def test_restarts_never_bill_more_of_a_sum(self):
        """One process seals each hour at its close. Restarted, it seals some early; later usage of such an hour counts to the next."""
        rng = random.Random(3)
        for rule in (rule for rule in self.RULES if rule.aggregation == "sum"):
            for _ in range(200):
                whole, restarted, free = Meter(), Meter(), 0
                for hour in range(6):
                    for _ in range(rng.randrange(6)):
                        amount = rng.randrange(1, 3 * MILLION)
                        whole.add(("a", "d", hour), rule, amount)
                        free = max(free, hour)
                        restarted.add(("a", "d", free), rule, amount)
                        if rng.random() < 0.3 and free == hour:
                            restarted.seal(("a", "d", hour), True)
                            free = hour + 1
                    for meter in (whole, restarted):
                        if ("a", "d", hour) in meter.slots:
                            meter.seal(("a", "d", hour), False)
                for meter in (whole, restarted):
                    for place in list(meter.slots):
                        meter.seal(place, False)
                billed = [sum(seal.quantity for seal in meter.seals.values()) for meter in (restarted, whole)]
                self.assertLessEqual(*billed, rule)


if __name__ == "__main__":
    unittest.main()
