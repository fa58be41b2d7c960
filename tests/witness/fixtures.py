"""The rehearsals of examples/pytest and examples/go, and the test on docs/REHEARSAL.md, with the built binary: with an emulator of their
own, and with one that already runs.

Usage: fixtures.py PROGRAM

Each must fail with a program that is not tollgate.
"""

import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from processes import Emulator

PROGRAM = os.path.abspath(sys.argv[1])
ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(command, folder, promise, **environment):
    """Whether a command succeeds and prints the expected text; its output."""
    more = {"PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run(command, cwd=folder, env={**os.environ, **more}, capture_output=True, text=True)
    return done.returncode == 0 and promise in done.stdout, done.stdout + done.stderr


def state(emulator):
    """What a test may have changed for the next user of the emulator."""
    return emulator.admin("world")["customers"], emulator.admin("faults")["rules"], emulator.admin("ledger")["totals"]


def failures(other, name, command):
    """The faults of one command: with an emulator of its own, with one that already runs, and with another program."""
    found = []
    with Emulator(PROGRAM) as emulator:
        before = state(emulator)
        for what, environment, good in (
            ("an emulator of its own", {"TOLLGATE": PROGRAM}, True),
            ("one that runs", {"TOLLGATE": PROGRAM, "TOLLGATE_EMULATOR": emulator.endpoint}, True),
            ("no tollgate", {"TOLLGATE": str(other)}, False),
        ):
            passed, said = run(*command, **environment)
            if passed != good:
                found.append(f"FAILED: {name}, {what}:\n{said[-4000:]}")
        if (after := state(emulator)) != before:
            found.append(f"FAILED: {name}: it left {after} in the emulator, not {before}")
    return found


def main():
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor() as pool:
        other = pathlib.Path(folder) / "other"
        other.symlink_to("/bin/true")
        # The examples and the page's test, side by side.
        tests = shutil.copytree(ROOT / "examples/pytest", pathlib.Path(folder) / "pytest")
        (test,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/REHEARSAL.md").read_text(), re.S)
        (tests / "test_page.py").write_text(test)
        commands = {
            "pytest": ([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."], tests, "4 passed"),
            "go test": (["go", "test", "-count=1", "-v", "."], ROOT / "examples/go", "--- PASS: TestADayOfHours"),
        }
        # In parallel, because most of the time they wait for the sidecar's next attempt.
        found = sum(pool.map(lambda name: failures(other, name, commands[name]), commands), [])
    print("\n".join([*found, f"fixtures: {', '.join(commands)}: {len(found)} failures"]))
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
