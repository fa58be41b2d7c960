"""The crate tollgate-receipt as it would be published: the packed files, the metadata, and that it builds alone.

Usage: receipt.py. Needs no network if the crates have been fetched: `cargo package` packs the crate, unpacks it and builds it outside the
workspace. `cargo publish --dry-run` does the same and also asks the registry.
"""

import pathlib
import re
import subprocess
import sys
import tarfile
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Shown on a crate's page, and used by its search.
SHOWN = ["description", "documentation", "readme", "license", "keywords", "categories", "rust-version"]


def packed():
    """The archive that would be uploaded."""
    command = ["cargo", "package", "--offline", "--locked", "--allow-dirty", "--package", "tollgate-receipt"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
    name, version = re.search(r"Packaging (\S+) v(\S+)", done.stderr).groups()
    return ROOT / f"target/package/{name}-{version}.crate"


def contents(archive):
    """Path and text of every file in it."""
    with tarfile.open(archive) as tar:
        members = [member for member in tar.getmembers() if member.isfile()]
        return {member.name.partition("/")[2]: tar.extractfile(member).read().decode() for member in members}


def sources():
    """The files of the crate's folder that the archive must contain: all but the tests."""
    folder = ROOT / "crates/receipt"
    paths = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {path for path in paths if "tests" not in path.replace(".rs", "").split("/")} | {"Cargo.lock", "Cargo.toml.orig"}


def main():
    files = contents(packed())
    # cargo adds the commit if the checkout has no changes.
    files.pop(".cargo_vcs_info.json", None)
    assert set(files) == sources(), set(files) ^ sources()
    manifest = tomllib.loads(files["Cargo.toml"])
    missing = [name for name in SHOWN if not manifest["package"].get(name)]
    assert not missing, f"crates/receipt/Cargo.toml: {missing}"
    # crates.io accepts neither paths nor inherited workspace values, and no other crate of tollgate is
    # published.
    needs = {**manifest["dependencies"], **manifest.get("dev-dependencies", {})}
    assert all("path" not in need and "version" in need for need in needs.values()), needs
    assert not any(name.startswith("tollgate") for name in needs), needs
    assert files["LICENSE"] == (ROOT / "LICENSE").read_text(), "the licence is not ours"
    for path, text in files.items():
        outside = [line for line in text.splitlines() if re.search(r"include(_str|_bytes)?!\(\"(\.\./){2,}", line)]
        assert not outside, f"{path} reads what is not published: {outside}"
    # A relative link leads nowhere on crates.io.
    relative = re.findall(r"\]\((?!https://)[^)]*\)", files["README.md"])
    assert not relative, relative
    print(f"receipt: {manifest['package']['version']}, {len(files)} files, built alone")


if __name__ == "__main__":
    sys.exit(main())
