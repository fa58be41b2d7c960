"""The list of scenarios. Each is a function of the stand. The first line of its documentation is the promise; it returns the measured result."""

import time

SCENARIOS = []


def scenario(pods=1, alone=False):
    """Adds a scenario that has this number of pods at once; one that is `alone` runs before all others, because it measures times."""
    def add(function):
        function.pods, function.alone = pods, alone
        SCENARIOS.append(function)
        return function

    return add


def never(what, seconds, happened):
    """Checks for this time that something does not happen."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        seen = happened()
        assert not seen, f"{what}: {seen}"
        time.sleep(0.5)
