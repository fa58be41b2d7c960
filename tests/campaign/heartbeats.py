"""What heartbeat dimensions must have counted: each second in which a process had its gate open, whatever the clock of the days does.

The campaign sees from outside when a process was started, when its gate was open, when it was told to end and when it had ended, and by how
much it set the clock forward meanwhile, which counts as time that passed. So the seconds of each process are known between two bounds. A kill
may lose what was not written yet.
"""

import time

from meter import MILLION

# How often a process writes what it has counted, by its own clock.
WRITTEN_EVERY = 10
# The seconds are whole at both ends, and the emulator tells its clock in whole seconds.
SLACK = 2.0


class Lives:
    """The processes of a campaign, one after the other."""

    def __init__(self):
        self.counted, self.bounds = 0.0, (0.0, 0.0)
        self.started = self.opened = 0.0
        self.skips = []

    def spawned(self):
        self.started, self.skips = time.monotonic(), []

    def entitled(self):
        self.opened = time.monotonic()

    def skipped(self, seconds):
        """The clock was set forward while the process ran."""
        self.skips.append((time.monotonic(), seconds))

    def ended(self, told, killed):
        """The process has ended; `told` is when it was asked to, or killed."""
        self.bounds = self.until(told - (WRITTEN_EVERY if killed else 0))

    def until(self, written):
        """The seconds that the process must have written by then, and the most that it can have counted."""
        least = max(0.0, written - self.opened) + sum(seconds for at, seconds in self.skips if at <= written)
        return least, time.monotonic() - self.started + sum(seconds for _, seconds in self.skips)

    def check(self, accepted):
        """The fault of the process that has ended, if it has one. `accepted` is what all have counted, and what the next one has until now."""
        least, most = self.bounds
        seconds, self.counted = accepted / MILLION - self.counted, accepted / MILLION
        if least - SLACK <= seconds <= most + SLACK + time.monotonic() - self.started:
            return []
        return [f"a process counted {seconds} s, and its gate was open for {least:.1f} to {most:.1f} s"]


def judge(rows):
    """The faults in the balances of heartbeat dimensions that all count alike; `rows` has members in millionths."""
    faults = []
    for name, row in rows.items():
        held = row["billed"] + row["pending"] + row["dead"] + row["discarded"] + row["remainder"]
        if row["accepted"] + row["rounded_up"] != held:
            faults.append(f"{name} does not balance: {row}")
    if len({row["accepted"] for row in rows.values()}) > 1:
        faults.append(f"heartbeat dimensions differ: {rows}")
    return faults


def of_hours(billed, hours, names):
    """In each of these hours one process had its gate open all the time: each heartbeat dimension bills 1, but for a remainder's millionth."""
    return [
        f"{name} in hour {hour}: 1 expected, billed {billed.get((name, hour), 0) / MILLION}"
        for hour in hours for name in names if abs(billed.get((name, hour), 0) - MILLION) > 1
    ]
