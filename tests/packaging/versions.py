"""The version: documents, charts and manifests name the one of Cargo.toml, and the changelog gives each release its two dates.

Usage: versions.py
"""

import datetime
import os
import pathlib
import re
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Built, fetched, written by others, or wrong on purpose.
NOT_OURS = {"target", ".git", "Cargo.lock", "THIRD-PARTY-NOTICES.txt", "node_modules", "dist", "artifacts", "corpus", "seeds"}
# These documents name several versions.
OF_SEVERAL = {"CHANGELOG.md", "docs/UPGRADE.md"}
# The places of this version: files below a path, behind a text. What follows is ignored if it is no version.
STATED = [
    ("", "tollgate:"), ("", "tollgate-"), ("", "tollgate-dev:"), ("Cargo.toml", 'version = "'), ("docs/openapi.yaml", " version: "),
    ("docs/quickstart/", " version: "), ("helm/", "ersion: "), ("helm/example/values-rehearsal.yaml", "tag: "),
    ("helm/tollgate/", "tag: "), ("helm/tollgate/README.md", '`image.tag` | `"'), ("helm/tollgate-saas/", "tag: "),
    ("helm/tollgate-saas/README.md", '`image.tag` | `"'), ("", "tollgate-saas:"), ("", "tollgate-saas-dev:"),
]
NUMBER = r"(\d+\.\d+\.\d+)(?!\.?\d)"
HEADING = re.compile(r"^## (\d\S*)(?: \(released (\S+), security fixes until (\S+)\))?", re.M)


def checkout():
    """The text files, by path."""
    texts = {}
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in NOT_OURS]
        for path in (pathlib.Path(folder, name) for name in files if name not in NOT_OURS):
            try:
                texts[path.relative_to(ROOT).as_posix()] = path.read_text()
            except (UnicodeDecodeError, OSError):
                continue  # an image, an archive, a link
    return texts


def other_versions(texts):
    """What names another version than Cargo.toml."""
    version = re.search(r'^version = "(.*)"', texts["Cargo.toml"], re.M)[1]
    found = []
    for path, text in texts.items():
        for place, before in STATED:
            if path in OF_SEVERAL or not path.startswith(place):
                continue
            # Third-party crates have versions of their own.
            lines = [line for line in text.splitlines() if place != "Cargo.toml" or line.startswith("tollgate-")]
            stated = re.findall(re.escape(before) + NUMBER, "\n".join(lines))
            found += [f"{path}: {before}{other}: Cargo.toml has {version}" for other in stated if other != version]
    return found


def undated_versions(changelog):
    """The versions without a day of release, or without the year of security fixes that SECURITY.md promises."""
    found = []
    for version, *days in HEADING.findall(changelog):
        try:
            released, until = map(datetime.date.fromisoformat, days)
        except ValueError:
            released = until = None
        # A patch release keeps the last day of its minor version. The first release had no dates.
        kept = released and (until >= released.replace(year=released.year + 1) or not version.endswith(".0"))
        found += [] if kept or version == "0.1.0" else [version]
    return found


class Versions(unittest.TestCase):
    maxDiff = None

    def test_one_version_everywhere(self):
        texts = checkout()
        self.assertGreater(len(texts), 300, "the checkout was not read")
        self.assertEqual(other_versions(texts), [])

    def test_another_version_is_found_in_each_place(self):
        version, other = "1.2.3", "1.2.30"

        def texts(stated):
            return {
                "CHANGELOG.md": f"FROM tollgate:{other}",
                "Cargo.toml": f'version = "{version}"\ntollgate-time = {{ version = "{stated}" }}\nclap = {{ version = "4.6.1" }}\n',
                "docs/INSTALL.md": f"tollgate:{stated}, tollgate-dev:{stated}, tollgate-{stated}-image.tar, your-gate:1.0.0 on 1.36.3, tollgate-await",
                "docs/openapi.yaml": f"openapi: 3.1.0\n  version: {stated}",
                "docs/quickstart/eks.md": f"- name: tollgate\n    version: {stated}",
                "helm/tollgate/Chart.yaml": f"version: {stated}\nappVersion: {stated}",
                "helm/tollgate/values.yaml": f"image:\n  tag: {stated}",
                "helm/tollgate/README.md": f'| `image.tag` | `"{stated}"` | |',
                "helm/tollgate-saas/values.yaml": f"image:\n  tag: {stated}",
                "helm/tollgate-saas/README.md": f'| `image.tag` | `"{stated}"` | | tollgate-saas:{stated} tollgate-saas-dev:{stated}',
                "helm/example/Chart.yaml": f"dependencies:\n  - version: {stated}",
                "helm/example/values-rehearsal.yaml": f"tollgate:\n  image:\n    tag: {stated}",
                "helm/example/values.yaml": "image:\n  tag: 1.0.0",
            }

        self.assertEqual(other_versions(texts(version)), [])
        self.assertEqual(len(other_versions(texts(other))), 16, other_versions(texts(other)))

    def test_every_release_has_its_two_dates(self):
        self.assertEqual(undated_versions((ROOT / "CHANGELOG.md").read_text()), [])

    def test_a_release_without_its_dates_is_found(self):
        good = "## Unreleased\n## 0.2.1 (released 2027-03-01, security fixes until 2028-01-15)\n## 0.2.0 (released 2027-01-15, security fixes until 2028-01-15)\n## 0.1.0\n"
        self.assertEqual(undated_versions(good), [])
        for days in ("", " (released 2027-01-15)", " (released 2027-01-15, security fixes until 2027-12-31)", " (released soon, security fixes until later)"):
            self.assertEqual(undated_versions(f"## 0.2.0{days}\n"), ["0.2.0"], days)


if __name__ == "__main__":
    unittest.main()
