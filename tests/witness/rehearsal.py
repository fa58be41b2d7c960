"""Runs the commands of docs/EMULATOR.md with the AWS CLI and compares the output with the text behind the arrows. Every command must
succeed; an HTTP error is a failure.

Usage: rehearsal.py PROGRAM
"""

import sys
import tempfile

import pages
from processes import Emulator

PROGRAM = sys.argv[1]


def main():
    with Emulator(PROGRAM) as emulator, tempfile.TemporaryDirectory() as home:
        text = pages.read("EMULATOR.md").replace("http://127.0.0.1:8090", emulator.endpoint)
        ran, failed = pages.run(pages.steps(text), home)
    print(f"rehearsal: {ran} steps, {failed} failed")
    sys.exit(1 if failed or ran < 8 else 0)


if __name__ == "__main__":
    main()
