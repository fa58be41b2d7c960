"""The images in real containers: an own dockerd, the release image FROM scratch, and the procedures of the documents.

Everything runs in namespaces of its own (network, mounts, processes). So nothing of it stays on the machine, also after a failure, and
programs on the machine, such as another dockerd, do not disturb it.

Usage: containers.py CONTEXT (dist/image, made by `just image-context`). Needs root, dockerd, docker, docker-compose, openssl, gcc.
"""

import fcntl
import hashlib
import http.server
import io
import json
import os
import pathlib
import re
import socket
import ssl
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

import yaml

import postgresql

if os.getpid() != 1:
    separate = ["--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    os.execvp("unshare", ["unshare", *separate, "--", sys.executable, *sys.argv])

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONTEXT = pathlib.Path(sys.argv.pop(1)).resolve()
PATIENCE = 60
# Binary, certificates and notices.
SIZES_MAX = {"tollgate": 17 << 19, "tollgate-saas": 21 << 19}


def wait(what, condition):
    """Waits until the condition holds, and returns its value."""
    until = time.monotonic() + PATIENCE
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > until:
            raise AssertionError(f"timed out: {what}")
        time.sleep(0.1)


class Containers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # In a new network namespace loopback is down: SIOCSIFFLAGS, IFF_UP | IFF_RUNNING.
        with socket.socket() as any_socket:
            fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 0x1 | 0x40))
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        host = f"unix://{cls.folder}/docker.sock"
        log = open(cls.folder / "dockerd.log", "w")
        cls.addClassCleanup(log.close)
        daemon = subprocess.Popen(
            ["dockerd", "--host", host, "--data-root", cls.folder / "data", "--exec-root", cls.folder / "exec",
             "--pidfile", cls.folder / "pid"],
            stdout=log, stderr=log,
        )
        cls.addClassCleanup(daemon.wait)
        cls.addClassCleanup(daemon.terminate)
        cls.environment = {**os.environ, "DOCKER_HOST": host, "DOCKER_BUILDKIT": "0", "COMPOSE_PROJECT_NAME": "tollgate"}
        wait("dockerd", lambda: cls.docker("info", check=False).returncode == 0)
        facts = ("--build-arg", "VERSION=1.2.3", "--build-arg", "REVISION=abc")
        for name, file in (
            ("tollgate", "Dockerfile"), ("tollgate-dev", "Dockerfile.dev"),
            ("tollgate-saas", "Dockerfile.saas"), ("tollgate-saas-dev", "Dockerfile.saas-dev"),
        ):
            cls.docker("build", "--quiet", "-t", name, *facts, "-f", ROOT / "deploy" / file, CONTEXT)
        # A product as in INSTALL.md: the gate inside the paid image, which has no shell.
        product = cls.folder / "product"
        product.mkdir()
        source = ROOT / "tests/packaging/application.c"
        subprocess.run(["gcc", "-static", "-O1", "-o", product / "your-app", source], check=True)
        (product / "Dockerfile").write_text(
            "FROM scratch\nCOPY --from=tollgate-dev /tollgate /tollgate\nCOPY your-app /your-app\nUSER 10001\n"
            'ENTRYPOINT ["/tollgate", "exec", "--", "/your-app"]\n'
        )
        cls.docker("build", "--quiet", "-t", "product", product)
        (product / "Dockerfile").write_text('FROM scratch\nCOPY your-app /your-app\nUSER 10001\nENTRYPOINT ["/your-app"]\n')
        cls.docker("build", "--quiet", "-t", "plain", product)
        cls.docker("network", "create", "test")

    @classmethod
    def docker(cls, *arguments, check=True):
        done = subprocess.run(["docker", *map(str, arguments)], env=cls.environment, capture_output=True, text=True)
        if check and done.returncode != 0:
            raise AssertionError(f"docker {arguments}: {done.stderr}")
        return done

    def run_container(self, name, *arguments, network="test"):
        self.docker("run", "-d", "--name", name, "--network", network, *arguments)
        self.addCleanup(self.docker, "rm", "-f", "-v", name, check=False)

    def inspect(self, name, path):
        return self.docker("inspect", "-f", "{{" + path + "}}", name).stdout.strip()

    def emulator(self):
        self.docker("volume", "create", "emulator")
        self.addCleanup(self.docker, "volume", "rm", "-f", "emulator", check=False)
        self.run_container(
            "emulator", "-p", "127.0.0.1:0:8090", "-v", "emulator:/var/lib/tollgate-emulator", "tollgate-dev",
            "emulator", "--addr", "0.0.0.0:8090", "--state", "/var/lib/tollgate-emulator",
        )
        port = self.inspect("emulator", '(index (index .NetworkSettings.Ports "8090/tcp") 0).HostPort')
        endpoint = f"http://127.0.0.1:{port}"
        wait("the emulator", lambda: self.docker(
            "exec", "emulator", "/tollgate", "emulator", "--ready", "--addr", "127.0.0.1:8090", check=False
        ).returncode == 0)
        return endpoint

    def settings(self, pod, **more):
        values = {
            "TOLLGATE_PRODUCT_CODE": "demohourly",
            "TOLLGATE_PUBLIC_KEYS": "/keys/public_keys/demohourly",
            # A name, so that the static binary resolves it by the container's resolv.conf.
            "TOLLGATE_ENDPOINT_URL": "http://emulator:8090",
            "TOLLGATE_POD_UID": pod,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": pod,
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_EC2_METADATA_DISABLED": "true",
            **more,
        }
        return [part for name, value in values.items() if value is not None for part in ("-e", f"{name}={value}")]

    hard = ("--read-only", "--memory", "32m", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")

    def admin(self, endpoint, path, order):
        request = urllib.request.Request(f"{endpoint}/_emulator/{path}", data=json.dumps(order).encode())
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def probe(self, name, question="startup"):
        return self.docker("exec", name, "/tollgate", "probe", question, check=False)

    def health(self, name):
        return self.inspect(name, ".State.Health.Status")

    def test_the_development_image_says_what_it_is(self):
        config = json.loads(self.docker("image", "inspect", "tollgate-dev").stdout)[0]["Config"]
        labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
        self.assertEqual(set(labels), {"title", "description", "licenses", "version", "revision"})
        self.assertEqual((labels["title"], labels["version"], labels["revision"]), ("tollgate-dev", "1.2.3-dev", "abc"))
        self.assertIn("not for production", labels["description"])
        for image, marked in (("tollgate", False), ("tollgate-dev", True)):
            with self.subTest(image):
                shown = self.docker("run", "--rm", *self.hard, image, "--version").stdout
                self.assertEqual("tollgate-dev" in shown, marked, shown)
                # Also in a state that needs no AWS: the sentence, the document, the metric.
                settings = self.settings(
                    "pod-1", TOLLGATE_ENDPOINT_URL=None, TOLLGATE_PUBLIC_KEYS=None, TOLLGATE_MODE="metered", TOLLGATE_DIMENSIONS="requests"
                )
                self.run_container(f"says-{image}", *self.hard, "-v", "/var/lib/tollgate", *settings, image)
                wait("an answer", lambda: self.probe(f"says-{image}", "live").returncode == 0)
                said = self.probe(f"says-{image}", "ready").stdout
                self.assertEqual("[tollgate-dev: not for production]" in said, marked, said)
                document = json.loads(self.docker("exec", f"says-{image}", "/tollgate", "probe", "ready", "--json", check=False).stdout)
                self.assertEqual(document["build"], image)

    def test_the_emulator_starts_as_the_recipes_for_ci_start_it(self):
        github, gitlab = (yaml.safe_load((ROOT / f"deploy/rehearsal/{name}.yaml").read_text()) for name in ("github", "gitlab"))
        (service,) = github["jobs"]["tests"]["services"].values()
        (other,) = gitlab["rehearsal-tests"]["services"]
        for name, options, command in (
            ("github", service["options"].split(), service["command"].split()), ("gitlab", [], other["command"])
        ):
            self.run_container(f"emulator-{name}", *options, "tollgate-dev", *command)
            ready = ("exec", f"emulator-{name}", "/tollgate", "emulator", "--ready", "--addr", "127.0.0.1:8090")
            wait(f"the emulator of {name}", lambda: self.docker(*ready, check=False).returncode == 0)

    def test_the_release_image_is_small_bare_and_labelled(self):
        image = json.loads(self.docker("image", "inspect", "tollgate").stdout)[0]
        config = image["Config"]
        self.assertEqual((config["User"], config["Entrypoint"], config["Cmd"]), ("65532:65532", ["/tollgate"], ["run"]))
        self.assertEqual(config["Healthcheck"]["Test"], ["CMD", "/tollgate", "probe", "startup"])
        labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
        self.assertEqual(set(labels), {"title", "description", "licenses", "version", "revision"})
        self.assertEqual((labels["licenses"], labels["version"], labels["revision"]), ("Apache-2.0", "1.2.3", "abc"))
        self.assertEqual(set(config["Volumes"]), {"/var/lib/tollgate-task"})
        self.assertEqual(set(config["ExposedPorts"]), {"19180/tcp"})
        self.assert_bare("tollgate", {"var/lib/tollgate-task"})

    def test_the_release_image_of_tollgate_saas_is_small_bare_and_labelled(self):
        config = json.loads(self.docker("image", "inspect", "tollgate-saas").stdout)[0]["Config"]
        self.assertEqual((config["User"], config["Entrypoint"], config["Cmd"]), ("65532:65532", ["/tollgate-saas"], ["run"]))
        self.assertEqual(config["Healthcheck"]["Test"], ["CMD", "/tollgate-saas", "probe", "startup"])
        labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
        self.assertEqual((labels["title"], labels["version"], labels["revision"]), ("tollgate-saas", "1.2.3", "abc"))
        self.assertEqual(set(config["ExposedPorts"]), {"19180/tcp", "19181/tcp"})
        self.assert_bare("tollgate-saas", set())
        # It ends with every fault of its configuration, and names the program.
        done = self.docker("run", "--rm", *self.hard, "-e", "TOLLGATE_MODE=saas", "tollgate-saas", check=False)
        self.assertEqual(done.returncode, 78)
        self.assertIn("product_code", done.stderr)

    def assert_bare(self, name, more):
        """The image has no emulator, and contains only the copied files."""
        size = json.loads(self.docker("image", "inspect", name).stdout)[0]["Size"]
        print(f"release image {name}: {size} bytes")
        self.assertLess(size, SIZES_MAX[name])
        done = self.docker("run", "--rm", *self.hard, name, "emulator", check=False)
        self.assertEqual(done.returncode, 64, done.stderr)
        self.docker("create", "--name", "files", name)
        self.addCleanup(self.docker, "rm", "files", check=False)
        listing = subprocess.run(
            "docker export files | tar -t", shell=True, env=self.environment, capture_output=True, text=True
        ).stdout.split()
        ours = {path.rstrip("/") for path in listing} - {".dockerenv", "dev", "dev/console", "dev/pts", "dev/shm", "etc",
            "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf", "proc", "sys"}
        self.assertEqual(ours, more | {
            "etc/ssl", "etc/ssl/certs", "etc/ssl/certs/ca-certificates.crt", name, "usr", "usr/share", "usr/share/doc",
            "usr/share/doc/tollgate", "usr/share/doc/tollgate/LGPL-2.1", "usr/share/doc/tollgate/LICENSE",
            "usr/share/doc/tollgate/THIRD-PARTY-NOTICES.txt", "usr/share/doc/tollgate/glibc-copyright", "usr/share/tollgate", "var", "var/lib", "var/lib/tollgate",
        })

    def test_the_archive_holds_the_same_image_for_each_architecture_and_nothing_else(self):
        (path,) = (ROOT / "dist").glob("tollgate-[0-9]*-image.tar")
        ours = json.loads(self.docker("image", "inspect", "tollgate").stdout)[0]["Config"]
        with tarfile.open(path) as archive:
            def blob(descriptor):
                content = archive.extractfile("blobs/" + descriptor["digest"].replace(":", "/")).read()
                self.assertEqual((hashlib.sha256(content).hexdigest(), len(content)), (descriptor["digest"][7:], descriptor["size"]))
                return content

            (index,) = json.loads(archive.extractfile("index.json").read())["manifests"]
            manifests = json.loads(blob(index))["manifests"]
            # No attestations, because AWS Marketplace treats them as images of an unknown
            # architecture.
            built = {manifest["platform"]["architecture"] for manifest in manifests}
            self.assertEqual(built, {path.name for path in CONTEXT.iterdir() if path.name in ("amd64", "arm64")})
            self.assertIn("amd64", built)
            for descriptor in manifests:
                manifest = json.loads(blob(descriptor))
                config = json.loads(blob(manifest["config"]))
                self.assertEqual(config["architecture"], descriptor["platform"]["architecture"])
                for name in ("User", "Entrypoint", "Cmd", "Healthcheck", "Volumes", "ExposedPorts"):
                    self.assertEqual(config["config"][name], ours[name], name)
                files = {}
                for layer in manifest["layers"]:
                    with tarfile.open(fileobj=io.BytesIO(blob(layer))) as tar:
                        files.update({entry.name: (entry.uid, entry.mtime) for entry in tar})
                self.assertEqual({name for name, (uid, _) in files.items() if uid}, {"var/lib/tollgate", "var/lib/tollgate-task"})
                self.assertEqual({mtime for _, mtime in files.values()}, {0})

    def test_the_release_image_takes_no_word_from_the_emulator(self):
        self.emulator()
        self.run_container("gate", *self.hard, "-v", "emulator:/keys:ro", *self.settings("pod-9"), "tollgate")
        line = wait("a verdict", lambda: (out := self.probe("gate").stdout).startswith("unverified") and out)
        self.assertIn("EmulatedToken", line)

    def test_what_config_init_writes_builds_a_sealed_image(self):
        seller = self.folder / "seller"
        key = ROOT / "tests/fixtures/keys/rsa3072-test-only.pub.pem"
        program = CONTEXT / "dev-amd64/tollgate"
        subprocess.run(
            [program, "config", "init", seller, "--product-code", "abc", "--public-key", key, "--image", "tollgate"],
            check=True, capture_output=True,
        )
        self.docker("build", "--quiet", "-t", "your-gate", seller)
        done = self.docker("run", "--rm", *self.hard, "your-gate", "config", "print", "--json")
        setting = json.loads(done.stdout)
        self.assertIn("abc", json.dumps(setting))
        done = self.docker("run", "--rm", *self.hard, "your-gate", "config", "check")
        self.assertEqual(done.returncode, 0)
        done = self.docker("run", "--rm", *self.hard, "-e", "TOLLGATE_PRODUCT_CODE=mine", "your-gate", check=False)
        self.assertEqual(done.returncode, 78)
        self.assertIn("product_code", done.stderr)
        self.assertIn("seller's file", done.stderr)

    def test_a_wrong_configuration_ends_with_78_and_names_every_fault(self):
        done = self.docker("run", "--rm", *self.hard, "-e", "TOLLGATE_PRODUCT_CODE=two words", "tollgate", check=False)
        self.assertEqual(done.returncode, 78)
        self.assertIn("product_code", done.stderr)
        self.assertIn("public_keys", done.stderr)

    def test_the_gate_opens_in_a_hardened_container_and_survives_a_restart(self):
        self.emulator()
        self.run_container("gate", *self.hard, "-v", "emulator:/keys:ro", *self.settings("pod-1"), "tollgate-dev")
        wait("health", lambda: self.health("gate") == "healthy")
        self.assertEqual(self.probe("gate", "ready").returncode, 0)
        self.docker("restart", "gate")
        wait("health after a restart", lambda: self.health("gate") == "healthy")
        self.assertEqual(self.inspect("gate", ".State.OOMKilled"), "false")

    def test_a_buyer_without_subscription_reads_why_and_the_application_never_starts(self):
        endpoint = self.emulator()
        self.admin(endpoint, "customers", {"account_id": "111122223333", "subscribed": False})
        self.run_container("gate", *self.hard, "-v", "emulator:/keys:ro", *self.settings("pod-2"), "tollgate-dev")
        line = wait("a refusal", lambda: (out := self.probe("gate").stdout).startswith("denied") and out)
        self.assertIn("CustomerNotEntitledException", line)
        self.assertLessEqual(len(line.encode()), 513)
        self.assertNotEqual(self.health("gate"), "healthy")
        done = self.docker(
            "run", "--rm", "--network", "container:gate", "tollgate-dev", "await", "--timeout", "2s", "--", "/tollgate",
            "--version", check=False,
        )
        self.assertEqual((done.returncode, done.stdout), (124, ""), done.stderr)

    def test_a_container_that_ends_leaves_its_last_sentence(self):
        endpoint = self.emulator()
        self.admin(endpoint, "customers", {"account_id": "111122223333", "subscribed": False})
        self.run_container("gate", *self.hard, "-v", "emulator:/keys:ro", *self.settings("pod-2"), "tollgate-dev")
        wait("a refusal", lambda: self.probe("gate").stdout.startswith("denied"))
        log = self.folder / "termination-log"
        for arguments, code, sentence in (
            (("--network", "container:gate", "tollgate-dev", "await", "--refused-after", "15s"), 77, "denied: Customer"),
            (("tollgate-dev", "run"), 78, "misconfigured: InvalidConfiguration: "),
            (("tollgate-dev", "exec", "--", "/nonexistent"), 78, "misconfigured: InvalidConfiguration: "),
            (("--network", "container:gate", "tollgate-dev", "await", "--", "/nonexistent"), 127, "cannot start"),
        ):
            # As the kubelet mounts it: a file that everyone may write.
            log.write_text("")
            log.chmod(0o666)
            done = self.docker("run", "--rm", *self.hard, "-v", f"{log}:/dev/termination-log", *arguments, check=False)
            self.assertEqual(done.returncode, code, done.stderr)
            self.assertTrue(log.read_text().startswith(sentence), log.read_text())
            self.assertEqual(log.read_text(), done.stderr.splitlines()[-1])

    def said(self, name):
        """The lines that the application in a container printed."""
        return self.docker("logs", name).stdout.splitlines()

    def assert_an_application_of_its_own(self, lines, **environment):
        """What every application may expect, however it is started."""
        self.assertIn("pid 1", lines)
        given = {line.removeprefix("environment ").partition("=")[0] for line in lines if line.startswith("environment ")}
        self.assertEqual({name for name in given if name.startswith("TOLLGATE")}, set())
        for name, value in environment.items():
            self.assertIn(f"environment {name}={value}", lines)
        self.assertEqual([line for line in lines if re.match("(open|ignored|blocked) ", line)], [])
        self.assertIn("reaped 2", lines)

    def test_exec_becomes_pid_1_in_an_image_without_a_shell(self):
        endpoint = self.emulator()
        keys = ("-v", "emulator:/keys:ro")
        more = {"TOLLGATE_STATE_DIR": "none", "KEPT": "kept"}
        self.run_container("app", *self.hard, *keys, *self.settings("pod-3", **more), "product", "--fast")
        wait("the application", lambda: "ready" in self.said("app"))
        lines = self.said("app")
        self.assert_an_application_of_its_own(lines, KEPT="kept")
        self.assertIn("argument --fast", lines)
        processes = self.docker("top", "app", "-o", "pid,args").stdout.strip().splitlines()
        self.assertEqual(len(processes), 2, f"nothing stays beside it: {processes}")
        began = time.monotonic()
        self.docker("stop", "-t", "30", "app")
        self.assertLess(time.monotonic() - began, 10, "SIGTERM reaches PID 1")
        self.assertEqual((self.inspect("app", ".State.ExitCode"), self.said("app")[-1]), ("7", "signal 15"))
        self.admin(endpoint, "customers", {"account_id": "111122223333", "subscribed": False})
        done = self.docker(
            "run", "--rm", "--network", "test", *self.hard, *keys, *self.settings("pod-4", **more), "product", check=False,
        )
        self.assertEqual((done.returncode, done.stdout), (77, ""), done.stderr)

    def test_install_and_await_gate_an_image_that_knows_nothing_of_tollgate(self):
        self.emulator()
        shared = self.folder / "bin"
        shared.mkdir(mode=0o777)
        # Like an emptyDir: writable for everyone.
        shared.chmod(0o777)
        self.docker("run", "--rm", *self.hard, "-v", f"{shared}:/opt/tollgate", "tollgate-dev", "install", "/opt/tollgate")
        self.run_container("gate", *self.hard, "-v", "emulator:/keys:ro", *self.settings("pod-10"), "tollgate-dev")
        self.run_container(
            "app", *self.hard, "-v", f"{shared}:/opt/tollgate:ro", "--entrypoint", "/opt/tollgate/tollgate", "-e",
            "TOLLGATE_LOG_FORMAT=json", "-e", "KEPT=kept", "plain", "await", "--", "/your-app", network="container:gate",
        )
        wait("the application", lambda: "ready" in self.said("app"))
        self.assert_an_application_of_its_own(self.said("app"), KEPT="kept")

    def test_the_ecs_volume_is_writable_where_ecs_makes_it(self):
        self.emulator()
        self.docker("volume", "create", "task")
        self.addCleanup(self.docker, "volume", "rm", "-f", "task", check=False)
        settings = self.settings("pod-11", TOLLGATE_GRACE_PERIOD="10m", TOLLGATE_STATE_DIR="/var/lib/tollgate-task")
        self.run_container(
            "gate", *self.hard, "-v", "emulator:/keys:ro", "-v", "task:/var/lib/tollgate-task", *settings, "tollgate-dev"
        )
        wait("health", lambda: self.health("gate") == "healthy")

    def test_the_sidecar_fits_its_memory(self):
        self.emulator()
        self.run_container("gate", *self.hard, "-v", "emulator:/keys:ro", *self.settings("pod-12"), "tollgate-dev")
        wait("health", lambda: self.health("gate") == "healthy")
        for _ in range(20):
            self.probe("gate", "ready")
        used = self.docker("stats", "--no-stream", "--format", "{{.MemUsage}}", "gate").stdout
        amount, unit = re.match(r"([\d.]+)(KiB|MiB)", used).groups()
        mebibytes = float(amount) / (1024 if unit == "KiB" else 1)
        print(f"sidecar: {used.strip()}")
        self.assertLess(mebibytes, 16, "more than is requested")

    def test_sigterm_sends_what_was_acknowledged(self):
        endpoint = self.emulator()
        token = self.folder / "token"
        token.write_text("a-token-of-some-length")
        token.chmod(0o644)
        metered = {
            "TOLLGATE_MODE": "metered", "TOLLGATE_PRODUCT_CODE": "demometered", "TOLLGATE_APP_ADDR": "0.0.0.0:19181",
            "TOLLGATE_APP_TOKEN_FILE": "/token", "TOLLGATE_PUBLIC_KEYS": None, "TOLLGATE_DIMENSIONS": "requests",
        }
        settings = self.settings("pod-5", **metered)
        self.run_container(
            "meter", *self.hard, "-p", "127.0.0.1:0:19181", "-v", f"{token}:/token:ro", "--tmpfs",
            "/var/lib/tollgate:uid=65532", *settings, "tollgate-dev",
        )
        wait("health", lambda: self.health("meter") == "healthy")
        port = self.inspect("meter", '(index (index .NetworkSettings.Ports "19181/tcp") 0).HostPort')
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/usage", data=b'{"dimension":"requests","quantity":7}',
            headers={"content-type": "application/json", "authorization": "Bearer a-token-of-some-length"},
        )
        with urllib.request.urlopen(request) as answer:
            self.assertEqual(json.load(answer)["results"][0]["status"], "accepted")
        self.docker("stop", "-t", "60", "meter")
        self.assertEqual(self.inspect("meter", ".State.ExitCode"), "0")
        with urllib.request.urlopen(f"{endpoint}/_emulator/ledger") as answer:
            self.assertEqual(json.load(answer)["totals"][0]["quantity"], "7")

    def test_tls_with_a_ca_of_ones_own(self):
        endpoint = self.emulator()
        gateway = self.docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "test").stdout.strip()
        certificate, key = self.folder / "ca.pem", self.folder / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=proxy", "-keyout", key,
             "-out", certificate, "-addext", f"subjectAltName=IP:{gateway}", "-addext", "basicConstraints=critical,CA:FALSE"],
            check=True, capture_output=True,
        )
        certificate.chmod(0o644)

        class Proxy(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
                request = urllib.request.Request(endpoint + self.path, data=body, headers=headers)
                try:
                    answer = urllib.request.urlopen(request)
                except urllib.error.HTTPError as error:
                    answer = error
                with answer:
                    content = answer.read()
                    self.send_response(answer.status)
                    for name in ("content-type", "x-amzn-errortype", "x-amzn-requestid", "x-tollgate-emulator"):
                        if answer.headers[name]:
                            self.send_header(name, answer.headers[name])
                    self.send_header("content-length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer((gateway, 0), Proxy)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        url = {"TOLLGATE_ENDPOINT_URL": f"https://{gateway}:{server.server_address[1]}"}
        self.run_container("untrusting", *self.hard, "-v", "emulator:/keys:ro", *self.settings("pod-6", **url), "tollgate-dev")
        wait("the TLS fault", lambda: "Tls" in self.probe("untrusting").stdout)
        trusting = self.settings("pod-7", AWS_CA_BUNDLE="/ca.pem", **url)
        self.run_container(
            "trusting", *self.hard, "-v", f"{certificate}:/ca.pem:ro", "-v", "emulator:/keys:ro", *trusting, "tollgate-dev"
        )
        wait("health over TLS", lambda: self.health("trusting") == "healthy")

    def compose(self, *files, first="deploy/compose.yaml", **variables):
        """Runs docker-compose with one of the project's files; everything is removed at the end of the test."""
        # A port of its own, because the file's port might be taken.
        environment = {**self.environment, "EMULATOR_PORT": "0", **variables}
        command = ["docker-compose", "-f", str(ROOT / first)]
        for file in files:
            command += ["-f", str(file)]
        self.addCleanup(subprocess.run, [*command, "down", "-v", "-t", "5"], env=environment, capture_output=True)

        def run(*arguments, background=False, **more):
            settings = {**environment, **more}
            if background:
                return subprocess.Popen([*command, *arguments], env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            done = subprocess.run([*command, *arguments], env=settings, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            return done.stdout

        return run

    def composed(self, service):
        """The name of a service's container, or None."""
        names = self.docker("ps", "-a", "--format", "{{.Names}}").stdout.split()
        return next((name for name in names if re.search(f"[-_]{service}[-_]1$", name)), None)

    def test_compose_tells_the_whole_story(self):
        compose = self.compose()
        compose("up", "-d")
        application, lock = self.composed("application"), self.composed("tollgate-await")
        wait("the application", lambda: self.inspect(application, ".State.Status") == "exited")
        self.assertEqual(self.inspect(application, ".State.ExitCode"), "0")
        self.assertEqual(json.loads(self.said(application)[-1])["state"], "entitled")
        self.assertEqual(self.inspect(lock, ".State.ExitCode"), "0")
        self.assertLess(self.inspect(lock, ".State.FinishedAt"), self.inspect(application, ".State.StartedAt"))

    def test_compose_rehearses_a_sealed_product(self):
        seller = self.folder / "seller.toml"
        seller.write_text('product_code = "your-product-code"\npublic_keys = "keys"\n')
        world = self.folder / "world.toml"
        world.write_text(subprocess.run([ROOT / "deploy/rehearsal/rehearse.sh", "world", seller], check=True, capture_output=True, text=True).stdout)
        files = {"SELLER_TOML": str(seller), "WORLD_TOML": str(world)}
        compose = self.compose(first="deploy/rehearsal/compose.yaml", PRODUCT_CODE="your-product-code", **files)
        compose("up", "-d")
        application, sidecar = self.composed("application"), self.composed("tollgate")
        wait("the application", lambda: self.inspect(application, ".State.Status") == "exited")
        self.assertEqual(json.loads(self.said(application)[-1])["state"], "entitled")
        port = self.inspect(self.composed("emulator"), '(index (index .NetworkSettings.Ports "8090/tcp") 0).HostPort')
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/_emulator/ledger") as answer:
            self.assertEqual([one["product_code"] for one in json.load(answer)["registrations"]], ["your-product-code"])
        # Settings that only the seller may set are refused.
        done = self.docker("exec", sidecar, "/tollgate", "config", "check", "--grace-period=1h", check=False)
        self.assertEqual(done.returncode, 78, done.stderr)
        self.assertIn("seller's file", done.stdout + done.stderr)

    def test_compose_bills_what_two_replicas_acknowledged(self):
        image = self.folder / "postgres"
        postgresql.write_context(image)
        self.docker("build", "--quiet", "-t", "postgres-of-debian", image)
        compose = self.compose(first="deploy/saas/compose.yaml", POSTGRES_IMAGE="postgres-of-debian", REQUESTS="1000000")
        compose("up", "-d")
        load, database = self.composed("load"), self.composed("database")

        def events():
            self.assertEqual(self.inspect(load, ".State.Status"), "running", self.docker("logs", load, check=False))
            count = ("psql", "--host", "127.0.0.1", "--username", "tollgate", "--tuples-only", "--command", "SELECT count(*) FROM tollgate.keys", "tollgate")
            return int(self.docker("exec", "-e", "PGPASSWORD=not-for-production", database, *count).stdout)

        # Under load a replica is killed, and then the database: their clients try again. The load lasts as long as that takes.
        for service in ("tollgate-1", "database"):
            before = events()
            wait("load", lambda: events() > before + 200)
            self.docker("kill", self.composed(service))
            compose("up", "-d", "--no-deps", service)
            wait(f"{service} to be back", lambda: self.health(self.composed(service)) == "healthy")
        self.docker("kill", "--signal", "TERM", load)
        wait("the load's end", lambda: self.inspect(load, ".State.Status") == "exited")
        told = self.docker("logs", load).stdout
        self.assertEqual(self.inspect(load, ".State.ExitCode"), "0", told)
        self.assertIn("as sent", told)
        print(told)

    def test_compose_starts_nothing_for_a_buyer_without_subscription(self):
        # Unhealthy within seconds instead of a minute and a half; an earlier compose file failed then.
        hasty = self.folder / "hasty.yaml"
        hasty.write_text(
            'version: "2.4"\nservices: { tollgate: { healthcheck: { interval: 200ms, start_period: 1s, retries: 1 } } }\n'
        )
        compose = self.compose(hasty)
        compose("up", "-d", "emulator")
        port = self.inspect(self.composed("emulator"), '(index (index .NetworkSettings.Ports "8090/tcp") 0).HostPort')
        wait("the emulator", lambda: self.health(self.composed("emulator")) == "healthy")
        self.admin(f"http://127.0.0.1:{port}", "customers", {"account_id": "111122223333", "subscribed": False})
        up = compose("up", "-d", background=True, POD="second")
        self.addCleanup(up.wait)
        self.addCleanup(up.kill)
        wait("a refusal", lambda: (name := self.composed("tollgate")) and self.probe(name).stdout.startswith("denied"))
        wait("ill health", lambda: self.health(self.composed("tollgate")) == "unhealthy")
        wait("the lock", lambda: (name := self.composed("tollgate-await")) and "denied: " in self.docker("logs", name).stderr)
        self.assertIsNone(up.poll(), "compose waits")
        application = self.composed("application")
        self.assertIn(application and self.inspect(application, ".State.Status"), (None, "created"))

    def test_the_application_is_stopped_before_its_sidecar(self):
        forever = self.folder / "forever.yaml"
        forever.write_text('version: "2.4"\nservices: { application: { image: product, entrypoint: ["/your-app"] } }\n')
        compose = self.compose(forever)
        compose("up", "-d")
        application, sidecar = self.composed("application"), self.composed("tollgate")
        wait("the application", lambda: "ready" in self.said(application))
        compose("stop", "-t", "20")
        self.assertEqual(self.said(application)[-1], "signal 15")
        self.assertEqual((self.inspect(application, ".State.ExitCode"), self.inspect(sidecar, ".State.ExitCode")), ("7", "0"))
        self.assertLess(self.inspect(application, ".State.FinishedAt"), self.inspect(sidecar, ".State.FinishedAt"))


if __name__ == "__main__":
    unittest.main(verbosity=2)
