"""The list of scenarios. Each is a function of the stand; its first line of documentation is the promise, what it returns was measured."""

import time

SCENARIOS = []


def scenario(alone=False):
    """Adds a scenario; one that is `alone` runs before all others, because it measures times."""
    def add(function):
        function.alone = alone
        SCENARIOS.append(function)
        return function

    return add


def holds(what, seconds, condition):
    """Looks for so long whether something that must not happen happens."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert condition(), what
        time.sleep(0.5)
