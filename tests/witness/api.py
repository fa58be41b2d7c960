"""Runs the commands of docs/API.md against sidecars and the emulator, and compares the output with the text behind the arrows. The page
must have a command for every path and method of docs/openapi.yaml.

Usage: api.py PROGRAM
"""

import re
import sys
import tempfile

import yaml

import pages
from processes import Emulator, Sidecar

PROGRAM = sys.argv[1]
START = "2026-11-24T08:00:00Z"


def missing(commands):
    """Operations of the description that no command of the page calls."""
    called = set()
    for command in commands:
        for call in command.replace("\\\n", " ").split("curl ")[1:]:
            path = re.search(r"http://127\.0\.0\.1:1918[01](/[^\s'?]*)", call)
            if path:
                method = "post" if re.search(r" -d |-X POST", call) else "get"
                called.add((method, path[1]))
    document = yaml.safe_load(pages.read("openapi.yaml"))
    for path, item in document["paths"].items():
        pattern = re.compile(re.sub(r"\{\w+\}", "[0-9]+", path))
        for method in ("get", "post", "put", "delete"):
            if method in item and not any(how == method and pattern.fullmatch(at) for how, at in called):
                yield f"{method} {path}"


def make_dead_letters(emulator, sidecar):
    """Makes three records, numbered 1 to 3, that AWS refuses permanently."""
    emulator.admin("faults", {"operation": "MeterUsage", "fault": "exception", "exception": "InvalidUsageDimensionException"})
    for dimensions in (("requests", "gigabytes"), ("requests",)):
        events = [{"dimension": dimension, "quantity": 5} for dimension in dimensions]
        assert sidecar.ask("/v1/usage", events)[0] == 202
        emulator.admin("clock", {"advance": "75m"})
        for _ in dimensions:
            sidecar.log_line("record_dead")
    emulator.admin("faults", method="DELETE")


def main():
    sections = pages.read("API.md").split("\n## ")
    steps = [step for section in sections for step in pages.steps(section)]
    lacking = list(missing([command for command, _ in steps]))
    for operation in lacking:
        print(f"FAILED: docs/API.md has no command for {operation}")
    ran = failed = 0
    with tempfile.TemporaryDirectory() as home:
        by_mode = {}
        for section in sections[1:]:
            mode = re.search(r"[Ii]n mode `(\w+)`", section)[1]
            by_mode.setdefault(mode, []).append(section)
        for mode, texts in by_mode.items():
            settings = {"TOLLGATE_QUIT": "true"} if mode == "hourly" else {}
            with Emulator(PROGRAM) as emulator:
                emulator.admin("clock", {"now": START})
                with Sidecar(PROGRAM, emulator, mode, **settings) as sidecar:
                    if mode == "metered":
                        make_dead_letters(emulator, sidecar)
                    text = "\n".join(texts)
                    for written, real in (("19180", sidecar.probe), ("19181", sidecar.app), ("8090", emulator.endpoint)):
                        text = text.replace(f"http://127.0.0.1:{written}", real)
                    done = pages.run(pages.steps(text), home)
                    ran, failed = ran + done[0], failed + done[1]
    print(f"api: {ran} of {len(steps)} steps, {failed} failed; {len(lacking)} operations without a command")
    sys.exit(0 if ran == len(steps) and not failed and not lacking else 1)


if __name__ == "__main__":
    main()
