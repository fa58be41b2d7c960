"""Rules for the workflows that actionlint does not have: everything external is pinned by digest, a job has only the permissions that it
names, and jobs with secrets compile no third-party code.

Usage: workflows.py
"""

import pathlib
import re
import unittest

import yaml

WORKFLOWS = pathlib.Path(__file__).resolve().parents[2] / ".github/workflows"
# Commands that compile or run third-party code.
COMPILES = r"\b(cargo|just|make|go (install|build|run|test)|npm|npx|pip3? install|docker build)\b"
SOUND = """
on: push
permissions: {}
jobs:
  build:
    permissions: { contents: read }
    container: { image: "rust:1@sha256:%s" }
    steps:
      - uses: actions/checkout@%s # v1.2.3
        with: { persist-credentials: false }
      - run: cargo build
""" % ("a" * 64, "b" * 40)


def findings(text):
    """The faults of a workflow."""
    workflow, found = yaml.safe_load(text), []
    if workflow.get("permissions") != {}:
        found.append("a job without permissions of its own must have none")
    for line in re.findall(r"uses: (.*)", text):
        if not re.fullmatch(r"[\w-]+/[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line):
            found.append(f"{line}: not a full commit digest with its version behind it")
    for name, job in workflow["jobs"].items():
        if "permissions" not in job:
            found.append(f"{name}: names no permissions")
        container = job.get("container")
        image = container if isinstance(container, str) else (container or {}).get("image")
        if image and not re.search(r"@sha256:[0-9a-f]{64}$", image):
            found.append(f"{name}: {image} is not pinned by digest")
        writes = "write" in str(job.get("permissions"))
        commands = " ".join(step.get("run", "") for step in job["steps"])
        if (writes or "secrets." in str(job)) and re.search(COMPILES, commands):
            found.append(f"{name}: builds where it may write or has secrets")
        for step in job["steps"]:
            checkout = step.get("uses", "").startswith("actions/checkout@")
            if checkout and step.get("with", {}).get("persist-credentials") is not False:
                found.append(f"{name}: leaves its token in the checkout")
            if "${{" in step.get("run", ""):
                found.append(f"{name}: an expression in a script; hand it over as a variable")
    return found


class Workflows(unittest.TestCase):
    def test_the_workflows_are_pinned_and_may_do_no_more_than_they_must(self):
        files = sorted(WORKFLOWS.glob("*.yml"))
        self.assertEqual([file.name for file in files], ["release.yml", "test.yml"])
        for file in files:
            self.assertEqual(findings(file.read_text()), [], file.name)

    def test_each_rule_finds_what_it_forbids(self):
        self.assertEqual(findings(SOUND), [])
        for sound, broken in (
            ("permissions: {}\n", ""), ("b" * 40 + " # v1.2.3", "v7"), ("@sha256:" + "a" * 64, ""), ("contents: read", "contents: write"),
            ("    permissions: { contents: read }\n", ""), ("false", "true"), ("cargo build", "echo ${{ github.ref }}"),
            ("run: cargo build", "run: cargo build\n        env: { KEY: '${{ secrets.KEY }}' }"),
            ("run: cargo build", "run: go install example@v1\n        env: { KEY: '${{ secrets.KEY }}' }"),
        ):
            self.assertIn(sound, SOUND)
            self.assertEqual(len(findings(SOUND.replace(sound, broken, 1))), 1, broken)


if __name__ == "__main__":
    unittest.main(verbosity=2)
