"""The rehearsals of examples/pytest and examples/go against the built binary: with an emulator of their own, and with one that runs already.

Usage: fixtures.py PROGRAM

Each is shown to fail, too: with a program that is no tollgate.
"""

import os
import subprocess
import sys
import tempfile

from processes import Emulator

PROGRAM = os.path.abspath(sys.argv[1])
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
# What a run says of the three rehearsals that have passed.
COMMANDS = {
    "pytest": ([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "examples/pytest"], ROOT, "3 passed"),
    "go test": (["go", "test", "-count=1", "-v", "."], os.path.join(ROOT, "examples/go"), "--- PASS: TestADayOfHours"),
}


def run(name, **environment):
    """Whether all of a command's rehearsals passed, and what it said."""
    command, folder, promise = COMMANDS[name]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment}, capture_output=True, text=True
    )
    return done.returncode == 0 and promise in done.stdout, done.stdout + done.stderr


def main():
    failed = 0
    with Emulator(PROGRAM) as emulator, tempfile.TemporaryDirectory() as folder:
        other = os.path.join(folder, "tollgate")
        os.symlink("/bin/true", other)
        for name in COMMANDS:
            for what, environment, good in (
                ("an emulator of its own", {"TOLLGATE": PROGRAM}, True),
                ("one that runs", {"TOLLGATE": PROGRAM, "TOLLGATE_EMULATOR": emulator.endpoint}, True),
                ("no tollgate", {"TOLLGATE": other}, False),
            ):
                passed, said = run(name, **environment)
                if passed != good:
                    failed += 1
                    print(f"FAILED: {name}, {what}:\n{said[-4000:]}")
    print(f"fixtures: {', '.join(COMMANDS)}: {failed} failures")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
