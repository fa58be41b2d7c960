"""The list of scenarios. Each is a function of the stand; its first line of documentation is the promise, what it returns was measured."""

import time

SCENARIOS = []


def scenario(pods=1, alone=False):
    """Adds a scenario that has so many pods at once; one that is `alone` runs before all others, because it measures times."""
    def add(function):
        function.pods, function.alone = pods, alone
        SCENARIOS.append(function)
        return function

    return add


def never(what, seconds, happened):
    """Looks for so long whether something happens that must not."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        seen = happened()
        assert not seen, f"{what}: {seen}"
        time.sleep(0.5)
