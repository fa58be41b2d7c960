"""deploy/image.py: an archive of what buildah built, and the budget of its size.

Usage: image_size.py [TEST…]
"""

import hashlib
import io
import json
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def built(folder, sizes):
    """An image as `buildah push IMAGE dir:FOLDER` writes it, with a layer for each size of a file."""

    def blob(content):
        digest = hashlib.sha256(content).hexdigest()
        (folder / digest).write_bytes(content)
        return {"digest": f"sha256:{digest}"}

    layers = []
    for size in sizes:
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as tar:
            file = tarfile.TarInfo("file")
            file.size = size
            tar.addfile(file, io.BytesIO(bytes(size)))
        layers.append(blob(layer.getvalue()))
    config = blob(json.dumps({"config": {"Hostname": "x", "Labels": {}}}).encode())
    (folder / "manifest.json").write_text(json.dumps({"config": config, "layers": layers}))


class Size(unittest.TestCase):
    def test_an_image_above_its_budget_is_refused_and_one_at_it_is_not(self):
        mib = 2**20
        for sizes, allowed in (([mib, mib // 2], True), ([mib, mib // 2 + 1], False)):
            with tempfile.TemporaryDirectory() as folder:
                folder = pathlib.Path(folder)
                built(folder, sizes)
                archive = folder / "image.tar"
                command = [sys.executable, ROOT / "deploy/image.py", archive, "1.0.0", "1.5", f"amd64={folder}"]
                done = subprocess.run(command, capture_output=True, text=True)
                # Zeros compress well: what counts is what a node unpacks.
                self.assertEqual((done.returncode == 0, archive.exists()), (allowed, allowed), done.stderr)
                if not allowed:
                    self.assertIn(f"the files for amd64 have {sum(sizes)} bytes, more than 1.5 MiB", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
