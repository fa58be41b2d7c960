"""Puts what buildah built for each architecture into one OCI archive that is the same whenever it is built.

Usage: image.py ARCHIVE NAME MIB ARCHITECTURE=FOLDER…   (folders as `buildah push IMAGE dir:FOLDER` writes them)

Fails when the files of one architecture's image have more than MIB, unpacked: each pod's node pulls them.

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
    """Adds one architecture's image; the descriptor of its manifest, and the bytes of its files."""

    def blob(descriptor):
        return (folder / descriptor["digest"].removeprefix("sha256:")).read_bytes()

    manifest = json.loads((folder / "manifest.json").read_text())
    config = json.loads(blob(manifest["config"]))
    for name in ("container", "container_config", "docker_version"):
        config.pop(name, None)
    config["config"]["Hostname"] = ""
    config["config"]["Labels"].pop("io.buildah.version", None)
    layers, unpacked = [], 0
    for descriptor in manifest["layers"]:
        content = blob(descriptor)
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        layers.append(archive.add("layer.v1.tar+gzip", gzip.compress(content, mtime=0)))
        with tarfile.open(fileobj=io.BytesIO(content)) as layer:
            unpacked += sum(entry.size for entry in layer)
    descriptor = archive.add_json("manifest.v1+json", {
        "schemaVersion": 2,
        "mediaType": OCI + "manifest.v1+json",
        "config": archive.add_json("config.v1+json", config),
        "layers": layers,
    })
    return descriptor, unpacked


def main():
    path, name, mib, *architectures = sys.argv[1:]
    archive = Archive()
    manifests = []
    for part in architectures:
        architecture, _, folder = part.partition("=")
        descriptor, unpacked = image(archive, pathlib.Path(folder))
        manifests.append({**descriptor, "platform": {"architecture": architecture, "os": "linux"}})
        print(f"{architecture} {descriptor['digest']}, {unpacked / 2**20:.2f} of at most {mib} MiB unpacked")
        if unpacked > float(mib) * 2**20:
            sys.exit(f"image: the files for {architecture} have {unpacked} bytes, more than {mib} MiB: deploy/Dockerfile says what they are")
    index = {"schemaVersion": 2, "mediaType": OCI + "index.v1+json", "manifests": manifests}
    whole = archive.add_json("index.v1+json", index)
    archive.name(whole, name)
    archive.write(path)
    print(f"manifest list {whole['digest']}")


if __name__ == "__main__":
    main()
