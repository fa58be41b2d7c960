"""Runs deploy/release.sh into a registry on loopback, with a key made for it; then docs/VERIFY.md, block by block, as a buyer would; then
cases that must be refused. Registry, skopeo, Helm, openssl and the attestations' readers are third-party programs.

Usage: release.py COSIGN [TEST…]     (COSIGN is the program of tests/release/cosign)
"""

import base64
import datetime
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import unittest

from cryptography.hazmat.primitives.serialization import load_pem_public_key
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

ROOT = pathlib.Path(__file__).resolve().parents[2]
VERSION = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
COSIGN = sys.argv.pop(1)
RELEASED = ("tollgate", "tollgate-saas")
PUBLISHED = (*RELEASED, "tollgate-dev", "tollgate-saas-dev", "charts/tollgate", "charts/tollgate-saas", "charts/example")
# A registry that has not answered by then is considered broken.
PATIENCE = 30


def run(*command, check=True, **more):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **more)
    if check and done.returncode != 0:
        raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def make_key(path):
    run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path)
    return path


class Registry:
    """Debian's docker-registry with TLS, as real registries have it, so that no tool needs an option for plain HTTP."""

    def __init__(self, folder):
        self.ca, key = folder / "ca.pem", folder / "ca.key"
        run(
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
            "-subj", "/CN=registry", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", self.ca,
        )
        settings = {
            # At this level it logs the port that it chose.
            "version": "0.1", "log": {"level": "info", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}},
            "http": {"addr": "127.0.0.1:0", "tls": {"certificate": str(self.ca), "key": str(key)}},
        }
        # Every JSON text is YAML, too.
        (folder / "registry.yml").write_text(json.dumps(settings))
        self.log = (folder / "registry.log").open("w")
        self.process = subprocess.Popen(["docker-registry", "serve", folder / "registry.yml"], stdout=self.log, stderr=self.log)
        until = time.monotonic() + PATIENCE
        while not (found := re.search(r"listening on (127\.0\.0\.1:\d+)", said := (folder / "registry.log").read_text())):
            if self.process.poll() is not None or time.monotonic() > until:
                self.close()
                raise AssertionError(f"no registry: {said}")
            time.sleep(0.05)
        self.address = found[1]

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()


class Release(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        server = Registry(cls.folder)
        cls.addClassCleanup(server.close)
        cls.registry = f"{server.address}/your-org"
        # Without the machine's own logins and trusted keys.
        home = cls.folder / "home"
        home.mkdir()
        cls.environment = {"PATH": os.environ["PATH"], "HOME": str(home), "SSL_CERT_FILE": str(server.ca), "LC_ALL": "C.UTF-8"}
        cls.key = make_key(cls.folder / "release.key")
        cls.dist = cls.staged("dist")
        cls.first = run(*cls.command(cls.dist), env=cls.environment).stdout
        print(cls.first)

    @classmethod
    def staged(cls, name, heading=None):
        """Copies the release's files to a folder of their own, with the changelog as on the day of a release."""
        folder = cls.folder / name
        folder.mkdir()
        for file in (ROOT / "dist").glob(f"tollgate-{VERSION}*"):
            shutil.copy2(file, folder)
        for form in (f"tollgate-*-{VERSION}.tgz", f"tollgate-dev-{VERSION}*", f"tollgate-saas-{VERSION}*", f"tollgate-saas-dev-{VERSION}*"):
            for file in (ROOT / "dist").glob(form):
                shutil.copy2(file, folder)
        today = datetime.date.today()
        heading = heading or f"## {VERSION} (released {today}, security fixes until {today + datetime.timedelta(days=365)})"
        changes = folder / f"tollgate-{VERSION}-changes.md"
        changes.write_text("\n".join([heading, *changes.read_text().splitlines()[1:], ""]))
        cls.sum_up(folder)
        return folder

    @staticmethod
    def sum_up(folder):
        sums = "".join(f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in sorted(folder.glob("tollgate-*")))
        (folder / "SHA256SUMS").write_text(sums)

    @classmethod
    def command(cls, folder, registry=None, key=None):
        return [ROOT / "deploy/release.sh", folder, registry or cls.registry, key or cls.key]

    def published(self, said):
        """The repositories of images and charts, with their digests."""
        found = re.findall(r"^published: (\S+@sha256:[0-9a-f]{64})$", said, re.M)
        self.assertEqual(len(found), len(PUBLISHED), said)
        return found

    def refused(self, sentence, *arguments, **more):
        done = run(*self.command(*arguments, **more), check=False, env=self.environment)
        self.assertNotEqual(done.returncode, 0, done.stdout)
        self.assertIn(sentence, done.stderr)
        self.assertNotIn("published", done.stdout)

    def buyers_folder(self, name):
        """The files of a buyer: the release's files and the key."""
        folder = self.folder / name
        shutil.copytree(self.dist, folder)
        return folder

    def page(self):
        """The `sh` blocks of VERIFY.md as one script, for this registry and this version."""
        blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs/VERIFY.md").read_text(), re.M | re.S)
        self.assertGreater(len(blocks), 6)
        self.assertIn("REGISTRY=registry.example\n", blocks[0])
        blocks[0] = f"REGISTRY={self.registry}\nVERSION={VERSION}\n"
        return "set -euo pipefail\n" + "".join(blocks)

    def push_product(self):
        """An image of a seller, built from the released one."""
        store = self.folder / "store"
        in_store = ["buildah", "--root", store / "root", "--runroot", store / "run", "--storage-driver", "vfs"]
        (self.folder / "Dockerfile").write_text("FROM released\nCOPY seller.toml /usr/share/tollgate/seller.toml\n")
        (self.folder / "seller.toml").write_text('product_code = "demo"\n')
        run(*in_store, "pull", "--quiet", f"oci-archive:{self.dist}/tollgate-{VERSION}-image.tar")
        image = run(*in_store, "images", "--quiet").stdout.split()[0]
        run(*in_store, "tag", image, "localhost/released")
        (self.folder / "Dockerfile").write_text("FROM localhost/released\nCOPY seller.toml /usr/share/tollgate/seller.toml\n")
        run(*in_store, "bud", "--quiet", "--tag", "product", self.folder)
        run(*in_store, "push", "--quiet", "product", f"docker://{self.registry}/your-product:1.0.0", env=self.environment)

    def test_a_buyer_verifies_everything_with_the_commands_of_the_page(self):
        self.push_product()
        folder = self.buyers_folder("buyer")
        done = run("bash", "-c", self.page(), cwd=folder, env=self.environment)
        # The checksums, images and charts, and three attestations.
        self.assertEqual(done.stdout.count("Verified OK"), 1 + len(PUBLISHED) + 3, done.stdout)
        for kind in ("https://slsa.dev/provenance/v1", "https://cyclonedx.org/bom", "https://openvex.dev/ns"):
            self.assertIn(f"attested: {kind}\n", done.stdout)
        self.assertTrue(done.stdout.endswith("true\n"), done.stdout)
        self.assertIn("THIRD-PARTY-NOTICES.txt", done.stdout)

    def test_another_key_verifies_nothing(self):
        folder = self.buyers_folder("deceived")
        other = make_key(self.folder / "other.key")
        run("openssl", "pkey", "-in", other, "-pubout", "-out", folder / "tollgate-release.pub")
        script = self.page()
        self.assertNotEqual(run("bash", "-c", script, cwd=folder, check=False, env=self.environment).returncode, 0)
        # Each signature separately, because the first refusal hides the others.
        functions = script[script.index("verify() {"):script.index("\nDIGEST=")]
        for name in PUBLISHED:
            digest, _ = self.digest(name)
            call = f"set -euo pipefail\n{functions}\nverify {self.registry}/{name} {digest}"
            done = run("bash", "-c", call, cwd=folder, check=False, env=self.environment)
            self.assertNotEqual(done.returncode, 0, name)
            self.assertIn("Verification failure", done.stdout)
            sound = self.buyers_folder("sound-" + name.replace("/", "-"))
            run("bash", "-c", call, cwd=sound, env=self.environment)

    def test_a_changed_file_and_an_image_in_the_released_ones_place_are_noticed(self):
        folder = self.buyers_folder("changed")
        with (folder / f"tollgate-{VERSION}-linux-amd64").open("ab") as file:
            file.write(b"\0")
        done = run("bash", "-c", self.page(), cwd=folder, check=False, env=self.environment)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("FAILED", done.stdout)
        # An attacker with the registry's password but without the key: another image, with the signature of the
        # released one.
        stolen = f"{self.registry.rpartition('/')[0]}/stolen"
        archive = f"oci-archive:{self.dist}/tollgate-{VERSION}-image.tar"
        digest, index = self.digest("tollgate")
        one = index["manifests"][0]["digest"]
        self.copy(archive, f"docker://{stolen}/tollgate:{VERSION}")
        done = run("bash", "-c", self.page().replace(self.registry, stolen), cwd=self.buyers_folder("robbed"), check=False, env=self.environment)
        self.assertNotEqual(done.returncode, 0, "an image without a signature")
        there, _ = self.digest("tollgate", stolen)
        self.copy(f"docker://{self.registry}/tollgate:{one.replace(':', '-')}.sig", f"docker://{stolen}/tollgate:sha256-{there}.sig")
        script = self.page().replace(self.registry, stolen)
        done = run("bash", "-c", script, cwd=self.buyers_folder("fooled"), check=False, env=self.environment)
        self.assertNotEqual(done.returncode, 0)
        self.assertTrue(done.stdout.endswith("Verified OK\nfalse\n"), "a sound signature of something else: " + done.stdout)

    def copy(self, source, target):
        run("skopeo", "copy", "--quiet", "--preserve-digests", source, target, env=self.environment)

    def digest(self, name, registry=None):
        """The digest behind a name, without its algorithm, and the manifest."""
        raw = subprocess.run(
            ["skopeo", "inspect", "--raw", f"docker://{registry or self.registry}/{name}:{VERSION}"], env=self.environment, capture_output=True, check=True
        ).stdout
        return hashlib.sha256(raw).hexdigest(), json.loads(raw)

    def attached(self, name, kind):
        """The layers beside an image or a chart, as (descriptor, content)."""
        digest, _ = self.digest(name)
        with tempfile.TemporaryDirectory() as folder:
            source = f"docker://{self.registry}/{name}:sha256-{digest}.{kind}"
            self.copy(source, f"dir:{folder}")
            layers = json.loads((pathlib.Path(folder) / "manifest.json").read_text())["layers"]
            return [(layer, (pathlib.Path(folder) / layer["digest"].removeprefix("sha256:")).read_bytes()) for layer in layers]

    def test_the_attestations_are_in_toto_statements_about_what_they_are_attached_to(self):
        other = make_key(self.folder / "third.key")
        run("openssl", "pkey", "-in", other, "-pubout", "-out", self.folder / "third.pub")
        key, stranger = (
            SSlibKey.from_crypto(load_pem_public_key(path.read_bytes()), keyid="key")
            for path in (self.dist / "tollgate-release.pub", self.folder / "third.pub")
        )
        predicates = {}
        for name in PUBLISHED:
            digest, _ = self.digest(name)
            for layer, content in self.attached(name, "att"):
                self.assertEqual(layer["mediaType"], "application/vnd.dsse.envelope.v1+json")
                # cosign leaves the key's name empty; this reader requires one. It is not signed.
                envelope = Envelope.from_dict(json.loads(content.replace(b'"keyid": ""', b'"keyid": "key"')))
                envelope.verify([key], 1)
                with self.assertRaises(VerificationError):
                    envelope.verify([stranger], 1)
                Statement.copy_from_pb(json_format.Parse(envelope.payload, statement_pb2.Statement())).validate()
                document = json.loads(envelope.payload)
                self.assertEqual(document["subject"], [{"name": f"{self.registry}/{name}", "digest": {"sha256": digest}}])
                self.assertEqual(layer["annotations"]["predicateType"], document["predicateType"])
                predicates[name, document["predicateType"]] = document["predicate"]
        slsa = "https://slsa.dev/provenance/v1"
        kinds = {slsa: "tollgate-{}-provenance.json", "https://cyclonedx.org/bom": "{name}-{}.cdx.json", "https://openvex.dev/ns": "tollgate-{}.openvex.json"}
        self.assertEqual(set(predicates), {(name, slsa) for name in PUBLISHED} | {(name, kind) for name in RELEASED for kind in kinds})
        for name in RELEASED:
            for kind, file in kinds.items():
                self.assertEqual(predicates[name, kind], json.loads((self.dist / file.format(VERSION, name=name)).read_text()))
        # Fields that SLSA does not define are refused.
        json_format.ParseDict(predicates["tollgate", slsa], provenance_pb2.Provenance())
        revision = run("git", "rev-parse", "HEAD", cwd=ROOT).stdout.strip()
        built = predicates["tollgate", slsa]["buildDefinition"]
        self.assertEqual(built["resolvedDependencies"][0]["digest"], {"gitCommit": revision})
        for tool in ("rustc", "cc", "glibc", "cargo-auditable", "buildah"):
            self.assertTrue(built["internalParameters"]["tools"][tool], tool)

    def test_cosigns_own_code_accepts_what_was_signed_and_nothing_else(self):
        images = [f"{self.registry}/{name}@sha256:{self.digest(name)[0]}" for name in PUBLISHED]
        lines = run(COSIGN, self.dist / "tollgate-release.pub", *images, env=self.environment).stdout.splitlines()
        slsa = "https://slsa.dev/provenance/v1"
        self.assertEqual(lines, [
            *[f"signatures: 1, attestations: {slsa} https://cyclonedx.org/bom https://openvex.dev/ns"] * len(RELEASED),
            *[f"signatures: 1, attestations: {slsa}"] * (len(PUBLISHED) - len(RELEASED)),
        ])
        other = make_key(self.folder / "fourth.key")
        run("openssl", "pkey", "-in", other, "-pubout", "-out", self.folder / "fourth.pub")
        for image in images:
            self.assertIn("invalid signature", run(COSIGN, self.folder / "fourth.pub", image, check=False, env=self.environment).stderr)

    def test_signatures_have_cosigns_form_for_the_list_and_each_architecture(self):
        public = self.dist / "tollgate-release.pub"
        digest, index = self.digest("tollgate")
        signed = [f"sha256:{digest}", *(manifest["digest"] for manifest in index["manifests"])]
        for one in signed:
            with tempfile.TemporaryDirectory() as folder:
                source = f"docker://{self.registry}/tollgate:{one.replace(':', '-')}.sig"
                self.copy(source, f"dir:{folder}")
                (layer,) = json.loads((pathlib.Path(folder) / "manifest.json").read_text())["layers"]
                self.assertEqual(layer["mediaType"], "application/vnd.dev.cosign.simplesigning.v1+json")
                payload = pathlib.Path(folder) / layer["digest"].removeprefix("sha256:")
                self.assertEqual(json.loads(payload.read_text())["critical"], {
                    "identity": {"docker-reference": f"{self.registry}/tollgate"},
                    "image": {"docker-manifest-digest": one},
                    "type": "cosign container image signature",
                })
                signature = pathlib.Path(folder) / "signature"
                signature.write_bytes(base64.b64decode(layer["annotations"]["dev.cosignproject.cosign/signature"]))
                run("openssl", "dgst", "-sha256", "-verify", public, "-signature", signature, payload)

    def test_the_same_release_can_be_published_again_and_another_one_cannot_take_its_place(self):
        again = run(*self.command(self.staged("again")), env=self.environment).stdout
        self.assertEqual(self.published(again), self.published(self.first))
        for name, file, sentence in (
            ("other-image", f"tollgate-{VERSION}-image.tar", "exists and is another image"),
            ("other-chart", f"tollgate-chart-{VERSION}.tgz", "exists and is another chart"),
        ):
            folder = self.staged(name)
            if file.endswith(".tar"):
                empty = folder / "empty"
                run("skopeo", "copy", "--quiet", f"oci-archive:{folder / file}", f"oci:{empty}:{VERSION}")
                (folder / file).unlink()
                run("skopeo", "copy", "--quiet", f"oci:{empty}:{VERSION}", f"oci-archive:{folder / file}:{VERSION}")
                shutil.rmtree(empty)
            else:
                shutil.copy2(folder / f"tollgate-example-chart-{VERSION}.tgz", folder / file)
            self.sum_up(folder)
            done = run(*self.command(folder), check=False, env=self.environment)
            self.assertIn(sentence, done.stderr)
            self.assertNotEqual(done.returncode, 0)

    def test_what_is_not_a_release_is_refused_before_anything_is_pushed(self):
        self.refused("CHANGELOG.md", self.staged("unreleased", heading="## Unreleased"))
        damaged = self.staged("damaged")
        (damaged / f"tollgate-{VERSION}-linux-amd64").write_bytes(b"")
        self.refused("SHA256SUMS", damaged)
        sound = self.staged("refused")
        self.refused("takes no signatures", sound, registry="709825985650.dkr.ecr.us-east-1.amazonaws.com/seller")
        self.refused("leave the scheme out", sound, registry=f"https://{self.registry}")
        rsa = self.folder / "rsa.key"
        run("openssl", "genrsa", "-out", rsa, "2048")
        self.refused("not an EC key over P-256", sound, key=rsa)
        self.refused("no private key", sound, key=self.dist / "tollgate-release.pub")

    def test_a_key_may_have_a_passphrase(self):
        locked = self.folder / "locked.key"
        run("openssl", "pkcs8", "-topk8", "-in", self.key, "-passout", "pass:release", "-out", locked)
        registry = self.registry + "-locked"
        secret = {**self.environment, "RELEASE_KEY_PASSWORD": "release"}
        done = run(*self.command(self.staged("locked"), registry, locked), env=secret)
        self.assertEqual(self.published(done.stdout.replace(registry, self.registry)), self.published(self.first))
        wrong = {**self.environment, "RELEASE_KEY_PASSWORD": "wrong"}
        done = run(*self.command(self.staged("mistyped"), registry, locked), env=wrong, check=False)
        self.assertIn("no private key that openssl can read", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
