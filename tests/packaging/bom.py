"""The software bill of materials, compared with CycloneDX's own schema and with the crates that cargo links.

Usage: bom.py
"""

import json
import pathlib
import subprocess
import sys

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = pathlib.Path(__file__).resolve().parents[2]


def check(package):
    """The names of the crates in one package's bill."""
    command = [sys.executable, ROOT / "tests/packaging/sbom.py", package]
    made = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in (1, 2)]
    assert made[0] == made[1], "two runs differ"
    validator = JsonStrictValidator(SchemaVersion.V1_5)
    error = validator.validate_str(made[0])
    assert error is None, error
    # A validator that accepts everything would accept this, too.
    assert validator.validate_str(made[0].replace('"library"', '"libary"')) is not None
    bom = json.loads(made[0])
    tree = ["cargo", "tree", "--locked", "--package", package, "--no-default-features"]
    tree += ["--edges", "normal,build", "--prefix", "none", "--format", "{p}", "--target"]
    lines = []
    for architecture in ("x86_64", "aarch64"):
        asked = [*tree, f"{architecture}-unknown-linux-gnu"]
        lines += subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    # A path in place of a registry: tollgate's own crates.
    linked = {tuple(line.split()[:2]) for line in lines if line.startswith(f"{package} v") or "(/" not in line}
    named = {(component["name"], f"v{component['version']}") for component in bom["components"]}
    named.add((bom["metadata"]["component"]["name"], f"v{bom['metadata']['component']['version']}"))
    assert linked == named, linked ^ named
    unlicensed = [component["name"] for component in bom["components"] if not component.get("licenses") or not component.get("hashes")]
    assert not unlicensed, unlicensed
    print(f"bill of materials of {package}: {len(bom['components'])} crates, each with licence and checksum; valid CycloneDX 1.5")
    return {component["name"] for component in bom["components"]}


def main():
    sidecar, saas = check("tollgate"), check("tollgate-saas")
    # PostgreSQL is in the second program only.
    assert not {name for name in sidecar if "postgres" in name}, sidecar
    assert {"tokio-postgres", "postgres-protocol"} <= saas, saas


if __name__ == "__main__":
    main()
