"""The images in real containers: a dockerd of our own, the release image FROM scratch, and the stories of the documents.

Usage: containers.py CONTEXT (dist/image, made by `just image-context`). Needs root, dockerd, docker, docker-compose, openssl.
"""

import http.server
import json
import os
import pathlib
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONTEXT = pathlib.Path(sys.argv.pop(1)).resolve()
PATIENCE = 60
SIZE_MAX = 8 << 20


def wait(what, condition):
    """Until the condition holds; what it gives."""
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
        for name, file in (("tollgate", "Dockerfile"), ("tollgate-dev", "Dockerfile.dev")):
            cls.docker("build", "--quiet", "-t", name, "-f", ROOT / "deploy" / file, CONTEXT)
        cls.docker("network", "create", "test")

    @classmethod
    def docker(cls, *arguments, check=True):
        done = subprocess.run(["docker", *map(str, arguments)], env=cls.environment, capture_output=True, text=True)
        if check and done.returncode != 0:
            raise AssertionError(f"docker {arguments}: {done.stderr}")
        return done

    def run_container(self, name, *arguments):
        self.docker("run", "-d", "--name", name, "--network", "test", *arguments)
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
            # A name: it is resolved by the static binary, through the container's resolv.conf.
            "TOLLGATE_ENDPOINT_URL": "http://emulator:8090",
            "TOLLGATE_POD_UID": pod,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": pod,
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_EC2_METADATA_DISABLED": "true",
            **more,
        }
        return [part for item in values.items() for part in ("-e", "=".join(item))]

    hard = ("--read-only", "--memory", "32m", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")

    def admin(self, endpoint, path, order):
        request = urllib.request.Request(f"{endpoint}/_emulator/{path}", data=json.dumps(order).encode())
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def probe(self, name, question="startup"):
        return self.docker("exec", name, "/tollgate", "probe", question, check=False)

    def health(self, name):
        return self.inspect(name, ".State.Health.Status")

    def test_the_release_image_is_small_bare_and_labelled(self):
        image = json.loads(self.docker("image", "inspect", "tollgate").stdout)[0]
        config = image["Config"]
        self.assertEqual((config["User"], config["Entrypoint"], config["Cmd"]), ("65532:65532", ["/tollgate"], ["run"]))
        self.assertEqual(config["Healthcheck"]["Test"], ["CMD", "/tollgate", "probe", "startup"])
        self.assertEqual(config["Labels"]["org.opencontainers.image.licenses"], "Apache-2.0")
        size = image["Size"]
        print(f"release image: {size} bytes")
        self.assertLess(size, SIZE_MAX)
        # It has no emulator, and nothing but what we copied.
        done = self.docker("run", "--rm", *self.hard, "tollgate", "emulator", check=False)
        self.assertEqual(done.returncode, 64, done.stderr)
        self.docker("create", "--name", "files", "tollgate")
        self.addCleanup(self.docker, "rm", "files", check=False)
        listing = subprocess.run(
            "docker export files | tar -t", shell=True, env=self.environment, capture_output=True, text=True
        ).stdout.split()
        ours = {path.rstrip("/") for path in listing} - {".dockerenv", "dev", "dev/console", "dev/pts", "dev/shm", "etc",
            "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf", "proc", "sys"}
        self.assertEqual(ours, {
            "etc/ssl", "etc/ssl/certs", "etc/ssl/certs/ca-certificates.crt", "tollgate", "usr", "usr/share",
            "usr/share/tollgate", "var", "var/lib", "var/lib/tollgate",
        })

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

    def test_exec_is_pid_1_passes_signals_on_and_never_starts_what_is_not_entitled(self):
        endpoint = self.emulator()
        application = ["exec", "--", "/tollgate", "emulator", "--addr", "0.0.0.0:9000"]
        self.run_container(
            "app", *self.hard, "--tmpfs", "/tmp", "-v", "emulator:/keys:ro", *self.settings("pod-3"), "tollgate-dev", *application
        )
        wait("the application", lambda: self.docker(
            "exec", "app", "/tollgate", "emulator", "--ready", "--addr", "127.0.0.1:9000", check=False
        ).returncode == 0)
        commands = self.docker("top", "app", "-o", "pid,args").stdout
        self.assertIn("/tollgate emulator --addr 0.0.0.0:9000", commands)
        self.assertEqual(len(commands.strip().splitlines()), 2, "nothing stays beside it")
        began = time.monotonic()
        self.docker("stop", "-t", "30", "app")
        self.assertLess(time.monotonic() - began, 10, "SIGTERM reaches PID 1")
        self.assertEqual(self.inspect("app", ".State.ExitCode"), "0")
        self.admin(endpoint, "customers", {"account_id": "111122223333", "subscribed": False})
        done = self.docker(
            "run", "--rm", "--network", "test", *self.hard, "-v", "emulator:/keys:ro", *self.settings("pod-4"), "tollgate-dev",
            *application, check=False,
        )
        self.assertEqual(done.returncode, 77, done.stderr)

    def test_sigterm_sends_what_was_acknowledged(self):
        endpoint = self.emulator()
        token = self.folder / "token"
        token.write_text("a-token-of-some-length")
        token.chmod(0o644)
        metered = {
            "TOLLGATE_MODE": "metered", "TOLLGATE_PRODUCT_CODE": "demometered", "TOLLGATE_APP_ADDR": "0.0.0.0:19181",
            "TOLLGATE_APP_TOKEN_FILE": "/token", "TOLLGATE_PUBLIC_KEYS": "",
        }
        settings = [part for part in self.settings("pod-5", **metered) if part != "TOLLGATE_PUBLIC_KEYS="]
        settings = [p for i, p in enumerate(settings) if not (p == "-e" and i + 1 < len(settings) and settings[i + 1] == "-e")]
        if settings[-1] == "-e":
            settings.pop()
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

    def test_compose_tells_the_whole_story(self):
        compose = ["docker-compose", "-f", str(ROOT / "deploy/compose.yaml")]
        self.addCleanup(subprocess.run, [*compose, "down", "-v", "-t", "5"], env=self.environment, capture_output=True)
        done = subprocess.run([*compose, "up", "-d"], env=self.environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        names = self.docker("ps", "-a", "--format", "{{.Names}}").stdout.split()
        application = next(name for name in names if "application" in name)
        sidecar = next(name for name in names if "tollgate_tollgate" in name or "tollgate-tollgate" in name)
        wait("the application", lambda: self.inspect(application, ".State.Status") == "exited")
        self.assertEqual(self.inspect(application, ".State.ExitCode"), "0")
        log = json.loads(self.docker("inspect", "-f", "{{json .State.Health.Log}}", sidecar).stdout)
        opened = next(entry["End"] for entry in log if entry["ExitCode"] == 0)
        started = self.inspect(application, ".State.StartedAt")
        self.assertLess(opened[:19], started[:19] + "z", "the application starts after the gate has opened")


if __name__ == "__main__":
    unittest.main(verbosity=2)
