"""Puts what buildah built for each architecture into one OCI archive that is the same whenever it is built.

Usage: image.py ARCHIVE NAME ARCHITECTURE=FOLDER…   (folders as `buildah push IMAGE dir:FOLDER` writes them)

buildah writes the build container's random name into the configuration; that is taken out. skopeo's own conversion to OCI would drop
the HEALTHCHECK, which Docker and ECS read although OCI does not name it; here it stays.
"""

import gzip
import hashlib
import io
import json
import pathlib
import sys
import tarfile

OCI = "application/vnd.oci.image."


class Archive:
    """Blobs by digest, and the tar file of them."""

    def __init__(self):
        self.files = {"oci-layout": json.dumps({"imageLayoutVersion": "1.0.0"}).encode()}

    def add(self, kind, content):
        """Adds a blob; its descriptor. The kind is one of OCI's own, or a whole media type."""
        digest = hashlib.sha256(content).hexdigest()
        self.files[f"blobs/sha256/{digest}"] = content
        return {"mediaType": kind if "/" in kind else OCI + kind, "digest": f"sha256:{digest}", "size": len(content)}

    def add_json(self, kind, value):
        return self.add(kind, json.dumps(value, sort_keys=True, separators=(",", ":")).encode())

    def name(self, descriptor, name):
        """What the archive offers, under a name."""
        named = {**descriptor, "annotations": {"org.opencontainers.image.ref.name": name}}
        self.files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [named]}).encode()

    def write(self, path):
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name in sorted(self.files):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(self.files[name]), 0o644
                tar.addfile(entry, io.BytesIO(self.files[name]))


def image(archive, folder):
    """Adds one architecture's image; the descriptor of its manifest."""

    def blob(descriptor):
        return (folder / descriptor["digest"].removeprefix("sha256:")).read_bytes()

    manifest = json.loads((folder / "manifest.json").read_text())
    config = json.loads(blob(manifest["config"]))
    for name in ("container", "container_config", "docker_version"):
        config.pop(name, None)
    config["config"]["Hostname"] = ""
    config["config"]["Labels"].pop("io.buildah.version", None)
    layers = []
    for descriptor in manifest["layers"]:
        content = blob(descriptor)
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        layers.append(archive.add("layer.v1.tar+gzip", gzip.compress(content, mtime=0)))
    return archive.add_json("manifest.v1+json", {
        "schemaVersion": 2,
        "mediaType": OCI + "manifest.v1+json",
        "config": archive.add_json("config.v1+json", config),
        "layers": layers,
    })


def main():
    path, name, *architectures = sys.argv[1:]
    archive = Archive()
    manifests = []
    for part in architectures:
        architecture, _, folder = part.partition("=")
        descriptor = image(archive, pathlib.Path(folder))
        manifests.append({**descriptor, "platform": {"architecture": architecture, "os": "linux"}})
        print(f"{architecture} {descriptor['digest']}")
    index = {"schemaVersion": 2, "mediaType": OCI + "index.v1+json", "manifests": manifests}
    whole = archive.add_json("index.v1+json", index)
    archive.name(whole, name)
    archive.write(path)
    print(f"manifest list {whole['digest']}")


if __name__ == "__main__":
    main()
