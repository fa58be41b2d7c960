"""Prints how a release was built, as a predicate of SLSA provenance v1: from which revision, by which tools, with which files of the
machine. `deploy/release.sh` attaches it to the image and the charts.

Usage: provenance.py VERSION
"""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

HOME = "https://example.com/tollgate"
# What determines the bytes: compiler, linker, the libraries that are linked statically, and the tools that write the
# list of crates and the image.
TOOLS = {
    "rustc": ["rustc", "--version", "--verbose"],
    "rustc for arm64": ["/usr/bin/rustc", "--version"],
    "cc": ["cc", "--version"],
    "cc for arm64": ["aarch64-linux-gnu-gcc", "--version"],
    "ld": ["ld", "--version"],
    "glibc": ["getconf", "GNU_LIBC_VERSION"],
    "cargo-auditable": ["cargo-auditable", "auditable", "--version"],
    "buildah": ["buildah", "--version"],
}


def output(command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def file(uri, path):
    return {"uri": uri, "digest": {"sha256": hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()}}


def builder():
    """The builder and its run: GitHub's runner, or a person by hand."""
    server, environment = os.environ.get("GITHUB_SERVER_URL"), os.environ
    if environment.get("GITHUB_ACTIONS") != "true":
        return {"builder": {"id": f"{HOME}/built-by-hand"}}
    run = f"{server}/{environment['GITHUB_REPOSITORY']}/actions/runs/{environment['GITHUB_RUN_ID']}"
    return {
        "builder": {"id": f"{server}/{environment['GITHUB_WORKFLOW_REF']}"},
        "metadata": {"invocationId": f"{run}/attempts/{environment['GITHUB_RUN_ATTEMPT']}"},
    }


def main():
    (version,) = sys.argv[1:]
    try:
        revision = output(["git", "rev-parse", "HEAD"])
    except subprocess.CalledProcessError as error:
        sys.exit(f"provenance: a release names its commit, so it is made in a clone: {error.stderr.strip()}")
    source = {"uri": f"git+{HOME}@{revision}", "digest": {"gitCommit": revision}}
    tools = {name: output(command).splitlines() for name, command in TOOLS.items() if shutil.which(command[0])}
    print(json.dumps({
        "buildDefinition": {
            "buildType": f"{HOME}/just-release/v1",
            "externalParameters": {"version": version, "command": "just release"},
            "internalParameters": {"tools": tools, "uncommittedChanges": output(["git", "status", "--porcelain"]).splitlines()},
            "resolvedDependencies": [
                source, file("file:Cargo.lock", "Cargo.lock"),
                file("file:///etc/ssl/certs/ca-certificates.crt", "/etc/ssl/certs/ca-certificates.crt"),
            ],
        },
        "runDetails": builder(),
    }, indent=1))


main()
