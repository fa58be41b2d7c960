"""Signs an image or a chart in a registry with a key file, in the form of cosign: beside what is signed, under a tag that is made from its
digest. `cosign verify --key`, skopeo, CRI-O and the admission controllers that read cosign's signatures can verify it. Nothing is sent
to a transparency log.

Usage: sign.py image KEY REPOSITORY DIGEST                        a signature; of a manifest list, one for each architecture too
       sign.py attest KEY REPOSITORY DIGEST PREDICATE-TYPE=FILE…   attestations (in-toto, DSSE), which replace earlier ones

KEY is an EC P-256 key in PEM; RELEASE_KEY_PASSWORD is its passphrase, where it has one. Needs openssl and skopeo, which is logged in.

cosign itself is not needed here: signing takes openssl and two small documents, and the test verifies them by tools of others.
"""

import base64
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from image import Archive

PAYLOAD = "application/vnd.in-toto+json"


def sign(key, content):
    """The signature of some bytes, as base64."""
    command = ["openssl", "dgst", "-sha256", "-sign", key]
    if "RELEASE_KEY_PASSWORD" in os.environ:
        command += ["-passin", "env:RELEASE_KEY_PASSWORD"]
    return base64.b64encode(subprocess.run(command, input=content, stdout=subprocess.PIPE, check=True).stdout).decode()


def push(repository, digest, kind, layers):
    """Pushes what belongs to a digest, each layer as (media type, content, annotations)."""
    archive = Archive()
    described = [{**archive.add(media, content), "annotations": annotations} for media, content, annotations in layers]
    # cosign writes the same empty configuration.
    config = {
        "architecture": "", "created": "0001-01-01T00:00:00Z", "os": "", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in described]},
        "history": [{"created": "0001-01-01T00:00:00Z"} for _ in described],
    }
    manifest = {
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": archive.add_json("config.v1+json", config), "layers": described,
    }
    archive.name(archive.add_json("manifest.v1+json", manifest), kind)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "archive.tar"
        archive.write(path)
        target = f"docker://{repository}:{digest.replace(':', '-')}.{kind}"
        # Without --preserve-digests skopeo would compress the layers, and a signature would no longer be one.
        subprocess.run(["skopeo", "copy", "--quiet", "--preserve-digests", f"oci-archive:{path}", target], check=True)


def sign_image(key, repository, digest):
    identity = {"docker-reference": repository}
    critical = {"identity": identity, "image": {"docker-manifest-digest": digest}, "type": "cosign container image signature"}
    payload = json.dumps({"critical": critical, "optional": None}, separators=(",", ":")).encode()
    annotations = {"dev.cosignproject.cosign/signature": sign(key, payload)}
    push(repository, digest, "sig", [("application/vnd.dev.cosign.simplesigning.v1+json", payload, annotations)])
    raw = subprocess.run(["skopeo", "inspect", "--raw", f"docker://{repository}@{digest}"], stdout=subprocess.PIPE, check=True).stdout
    for manifest in json.loads(raw).get("manifests", []):
        sign_image(key, repository, manifest["digest"])


def attest(key, repository, digest, predicates):
    layers = []
    for predicate in predicates:
        kind, _, file = predicate.partition("=")
        algorithm, _, value = digest.partition(":")
        statement = json.dumps({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": repository, "digest": {algorithm: value}}],
            "predicateType": kind,
            "predicate": json.loads(pathlib.Path(file).read_text()),
        }).encode()
        # What DSSE signs: type and content, each with its length before it.
        signed = b"DSSEv1 %d %s %d %s" % (len(PAYLOAD), PAYLOAD.encode(), len(statement), statement)
        envelope = {
            "payloadType": PAYLOAD,
            "payload": base64.b64encode(statement).decode(),
            "signatures": [{"keyid": "", "sig": sign(key, signed)}],
        }
        annotations = {"dev.cosignproject.cosign/signature": "", "predicateType": kind}
        layers.append(("application/vnd.dsse.envelope.v1+json", json.dumps(envelope).encode(), annotations))
    push(repository, digest, "att", layers)


def main():
    what, key, repository, digest, *predicates = sys.argv[1:]
    if what == "image" and not predicates:
        sign_image(key, repository, digest)
    elif what == "attest" and predicates:
        attest(key, repository, digest, predicates)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
