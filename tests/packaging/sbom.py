"""Prints the software bill of materials of the release build as CycloneDX 1.5 JSON: the crates that `cargo tree` links for
either architecture of the image.

Usage: sbom.py [PACKAGE]   (tollgate, or tollgate-saas)
"""

import json
import pathlib
import re
import subprocess
import sys
import uuid

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = (sys.argv[1:] or ["tollgate"])[0]
TREE = ["cargo", "tree", "--locked", "--package", PACKAGE, "--no-default-features", "--edges", "normal,build", "--prefix", "none"]
# The image is for both architectures, whichever this machine has.
TREE += ["--target", "x86_64-unknown-linux-gnu", "--target", "aarch64-unknown-linux-gnu", "--format"]


def crates():
    """(name, version, licence) of all crates in the release build, the program first. The program's own crates, which have a path in place
    of a registry, count as the program."""
    text = subprocess.run([*TREE, "{p}|{l}"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = {}
    for line in filter(None, text.splitlines()):
        package, _, licence = line.removesuffix(" (*)").partition("|")
        name, version, *rest = package.split()
        if found and any(word.startswith("(/") for word in rest):
            continue
        found.setdefault((name, version.removeprefix("v")), licence.removesuffix(" (*)"))
    return [(name, version, licence) for (name, version), licence in found.items()]


def checksums():
    """SHA-256 of each crate, from Cargo.lock."""
    lock = (ROOT / "Cargo.lock").read_text()
    pattern = r'name = "([^"]+)"\nversion = "([^"]+)"\nsource = "[^"]+"\nchecksum = "([0-9a-f]{64})"'
    return {(name, version): checksum for name, version, checksum in re.findall(pattern, lock)}


def component(name, version, licence, sums):
    entry = {
        "type": "library",
        "bom-ref": f"pkg:cargo/{name}@{version}",
        "name": name,
        "version": version,
        "purl": f"pkg:cargo/{name}@{version}",
    }
    if licence:
        entry["licenses"] = [{"expression": licence.replace("/", " OR ")}]
    if (name, version) in sums:
        entry["hashes"] = [{"alg": "SHA-256", "content": sums[name, version]}]
    return entry


def main():
    (name, version, licence), *others = crates()
    sums = checksums()
    missing = [other for other in others if (other[0], other[1]) not in sums]
    if missing:
        sys.exit(f"sbom: not in Cargo.lock: {missing}")
    components = [component(*other, sums) for other in sorted(others)]
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        # The same contents give the same serial number.
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(components))}",
        "version": 1,
        "metadata": {"component": {**component(name, version, licence, {}), "type": "application"}},
        "components": components,
    }
    print(json.dumps(bom, indent=1))


if __name__ == "__main__":
    main()
