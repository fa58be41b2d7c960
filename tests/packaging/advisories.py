"""The data for buyers' scanners: the crates inside the release binaries, read by cargo-audit; and the VEX file, which must name exactly the
advisories that deny.toml ignores, each with a reason that is true for this Cargo.lock and this binary.

Usage: advisories.py BINARY SAAS   (tollgate and tollgate-saas)
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
import tomllib
import unittest
import warnings
import zlib

import vexipy

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY, SAAS = (pathlib.Path(sys.argv.pop(1)).resolve() for _ in (1, 2))
VEX = ROOT / "deploy/tollgate.openvex.json"
ADVISORY = """```toml
[advisory]
id = "{id}"
package = "{crate}"
date = "2026-01-01"
url = "https://example.com/"

[versions]
patched = []
```

# Made for this test
"""


def listed(binary):
    """The crates that cargo-auditable wrote into a binary, as {name: {versions}}."""
    with tempfile.NamedTemporaryFile() as section:
        command = ["objcopy", "--dump-section", f".dep-v0={section.name}", binary, "/dev/null"]
        subprocess.run(command, check=True, capture_output=True)
        packages = json.loads(zlib.decompress(pathlib.Path(section.name).read_bytes()))["packages"]
    crates = {}
    for package in packages:
        crates.setdefault(package["name"], set()).add(package["version"])
    return crates


class Advisories(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.vex = json.loads(VEX.read_text())
        ignored = tomllib.loads((ROOT / "deny.toml").read_text())["advisories"]["ignore"]
        cls.ignored = {entry if isinstance(entry, str) else entry["id"] for entry in ignored}
        cls.locked = {package["name"] for package in tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]}

    def scan(self, crate, advisory):
        """Runs cargo-audit on the binary with a database of one advisory."""
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "crates" / crate / f"{advisory}.md"
            file.parent.mkdir(parents=True)
            file.write_text(ADVISORY.format(id=advisory, crate=crate))
            audit = [pathlib.Path(sys.executable).parent / "cargo-audit", "audit", "--no-fetch", "--stale", "--db", folder]
            return subprocess.run([*audit, "bin", BINARY], capture_output=True, text=True)

    def test_a_scanner_finds_the_crates_in_the_binary(self):
        found = self.scan("ring", "RUSTSEC-2026-9001")
        self.assertEqual(found.returncode, 1, found.stderr)
        self.assertIn("RUSTSEC-2026-9001", found.stdout + found.stderr)
        # The emulator's cryptography is in Cargo.lock, but not in the released binary.
        absent = self.scan("rsa", "RUSTSEC-2026-9002")
        self.assertEqual(absent.returncode, 0, absent.stdout + absent.stderr)

    def test_each_binary_names_every_crate_of_its_bill_of_materials(self):
        ours = {"tollgate", *(f"tollgate-{path.parent.name}" for path in ROOT.glob("crates/*/Cargo.toml"))}
        for file in (BINARY, SAAS):
            made = subprocess.run([sys.executable, ROOT / "tests/packaging/sbom.py", file.name], capture_output=True, text=True, check=True)
            bom = {(component["name"], component["version"]) for component in json.loads(made.stdout)["components"]}
            binary = {(name, version) for name, versions in listed(file).items() if name not in ours for version in versions}
            self.assertEqual(bom - binary, set())
            # cargo-auditable asks `cargo metadata`, which also counts crates that only a feature or a test of another
            # workspace crate needs.
            self.assertLess(len(binary - bom), 20, binary - bom)
            print(f"crates in {file.name}: {len(binary)}; beyond the bill of materials: {sorted(name for name, _ in binary - bom)}")

    def test_the_sidecar_knows_nothing_of_postgresql(self):
        self.assertEqual({name for name in listed(BINARY) if "postgres" in name}, set())
        self.assertNotIn(b"tokio_postgres", BINARY.read_bytes())
        self.assertLessEqual({"tollgate-postgres", "tokio-postgres", "postgres-protocol"}, set(listed(SAAS)))

    def test_each_ignored_advisory_has_its_statement_and_no_other(self):
        named = {statement["vulnerability"]["name"] for statement in self.vex["statements"]}
        self.assertEqual(named, self.ignored)

    def test_each_statement_holds_for_what_is_built(self):
        shipped = {**listed(BINARY), **listed(SAAS)}
        for statement in self.vex["statements"]:
            self.assertEqual(statement["status"], "not_affected", "what is affected is fixed, not explained")
            for product in statement["products"]:
                for part in product["subcomponents"]:
                    crate = re.fullmatch(r"pkg:cargo/([\w-]+)", part["@id"]).group(1)
                    self.assertIn(crate, self.locked, "a statement about a crate that is gone")
                    if statement["justification"] == "component_not_present":
                        self.assertNotIn(crate, shipped)

    def test_it_is_openvex(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            vexipy.Document.from_json(VEX.read_text())
            broken = json.loads(VEX.read_text())
            broken["statements"][0]["justification"] = "not_ours"
            with self.assertRaises(ValueError):
                vexipy.Document.from_json(json.dumps(broken))


if __name__ == "__main__":
    unittest.main(verbosity=2)
