"""The tests of examples/pytest, examples/go and examples/junit, by the commands of docs/CLIENTS.md, and the test on docs/REHEARSAL.md, with
the built binary: with an emulator of their own, and with one that already runs.

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

import pages
from processes import Emulator

PROGRAM = os.path.abspath(sys.argv[1])
ROOT = pathlib.Path(__file__).resolve().parents[2]
# Of Debian's package junit5.
JUNIT = "/usr/share/java/junit-platform-console-standalone.jar"
# What the command in each section of the page prints, if all tests have run.
PROMISES = {
    "pytest": ["5 passed"],
    "Go": ["ok  \texample.com/rehearsal\t", "ok  \texample.com/rehearsal/usage\t"],
    "JUnit": ["5 tests successful"],
}


def run(command, folder, promises, **environment):
    """Whether a command succeeds and prints the expected texts; its output."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    more = {"PATH": path, "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_ADDOPTS": "-p no:cacheprovider", "JUNIT": JUNIT, **environment}
    done = subprocess.run(command, cwd=folder, env={**os.environ, **more}, capture_output=True, text=True)
    return done.returncode == 0 and all(promise in done.stdout for promise in promises), done.stdout + done.stderr


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


def tests_of_the_page():
    """Each section's command, by its heading."""
    sections = (ROOT / "docs/CLIENTS.md").read_text().split("\n### ")[1:]
    for section in sections:
        heading = section.splitlines()[0]
        if heading in PROMISES:
            script = "\n".join(command for command, _ in pages.steps(section))
            yield heading, (["bash", "-euo", "pipefail", "-c", script], ROOT, PROMISES[heading])


def main():
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor() as pool:
        other = pathlib.Path(folder) / "other"
        other.symlink_to("/bin/true")
        tests = shutil.copytree(ROOT / "examples/pytest", pathlib.Path(folder) / "pytest")
        (test,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/REHEARSAL.md").read_text(), re.S)
        (tests / "test_page.py").write_text(test)
        commands = dict(tests_of_the_page())
        assert set(commands) == set(PROMISES), f"docs/CLIENTS.md has the sections {set(commands)}"
        commands["REHEARSAL.md"] = ([sys.executable, "-m", "pytest", "-q", "test_page.py"], tests, ["1 passed"])
        # In parallel, because most of the time they wait for the sidecar's next attempt.
        found = sum(pool.map(lambda name: failures(other, name, commands[name]), commands), [])
    print("\n".join([*found, f"fixtures: {', '.join(commands)}: {len(found)} failures"]))
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
