"""Stand-ins for the platforms that tests/live runs on: kubectl with a cluster behind it, and ECS with CloudWatch.

A container is a process here: it gets the variables that the platform gives it (a role by a web identity token, or by the agent of ECS), and
the address of the emulator. The machine's loopback takes the place of the network that containers of a pod share, so the
client is given the gate's address.

Usage, as kubectl: stand_ins.py FOLDER COMMAND… (FOLDER holds the cluster: facts.json and one file for each pod)
"""

import concurrent.futures
import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid

import jwt

ISSUER = "https://oidc.eks.us-east-1.amazonaws.com/id/EXAMPLE"
# The actions that a role without a policy may not do.
NOTHING = ["RegisterUsage", "MeterUsage", "ListReceivedLicenses", "CheckoutLicense"]
# How long DescribeTasks waits for the end of a task; boto3 gives a call up after 60 s.
LOOK_SECONDS = 30


def declare(facts, session, **members):
    """Gives the emulator the facts about a pod that it cannot know."""
    body = json.dumps({"session": session, **members}).encode()
    with urllib.request.urlopen(f"{facts['admin']}/_emulator/pods", data=body):
        pass


def start(facts, given, folder):
    """The gate's container, its log so far, and its address."""
    environment = {
        "PATH": os.environ["PATH"], "TOLLGATE_ENDPOINT_URL": facts["endpoint"], "TOLLGATE_PROBE_ADDR": "127.0.0.1:0", "TOLLGATE_APP_ADDR": "127.0.0.1:0",
        "TOLLGATE_LOG_FORMAT": "json", "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", **given, "TOLLGATE_STATE_DIR": folder,
    }
    gate = subprocess.Popen([facts["program"], "run"], env=environment, stderr=subprocess.PIPE, text=True)
    for line in gate.stderr:
        if line.startswith("{") and json.loads(line).get("event") == "started":
            address = json.loads(line)["probe_addr"]
            # Reads the rest of the log, because a full pipe would block the gate.
            threading.Thread(target=lambda: [None for _ in gate.stderr], daemon=True).start()
            return gate, address
    return gate, "127.0.0.1:1"


def run(facts, gate_given, client_command, client_given):
    """Runs both containers to the client's end; the client's log."""
    with tempfile.TemporaryDirectory() as folder:
        gate, address = start(facts, gate_given, folder)
        try:
            environment = {
                "PATH": os.environ["PATH"], "AWS_ENDPOINT_URL": facts["endpoint"], "AWS_EC2_METADATA_DISABLED": "true", **client_given,
                "TOLLGATE_PROBE_ADDR": address,
            }
            command = [sys.executable if client_command[0] == "python3" else client_command[0], *client_command[1:]]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
            return done.stdout
        finally:
            gate.terminate()
            gate.wait()
            gate.stderr.close()


# === A cluster


def environment_of(container, uid):
    given = {}
    for variable in container.get("env", []):
        field = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        given[variable["name"]] = uid if field == "metadata.uid" else variable["value"]
    return given


def apply(folder, facts, pod):
    """Runs a pod: this kubectl waits for its end. With `broken` in facts, the reason, no pod can run."""
    name, uid = pod["metadata"]["name"], str(uuid.uuid4())
    if "broken" in facts:
        (folder / f"{name}.log").write_text("")
        return
    account = facts["accounts"][pod["spec"]["serviceAccountName"]]
    now = int(time.time())
    claims = {
        "iss": ISSUER, "aud": ["sts.amazonaws.com"], "sub": f"system:serviceaccount:shop:{pod['spec']['serviceAccountName']}", "iat": now, "exp": now + 3600,
        "kubernetes.io": {"namespace": "shop", "pod": {"name": name, "uid": uid}},
    }
    token = folder / f"{name}.token"
    token.write_text(jwt.encode(claims, facts["key"], "RS256", headers={"kid": "cluster"}))
    denied = {} if account["allowed"] else {"denied": NOTHING}
    declare(facts, f"{name}.{uid[:8]}", platform=facts["platform"], **denied)
    # The part of EKS's webhook.
    identity = {"AWS_ROLE_ARN": account["role"], "AWS_WEB_IDENTITY_TOKEN_FILE": str(token)}
    (sidecar,), (client,) = pod["spec"]["initContainers"], pod["spec"]["containers"]
    assert sidecar["restartPolicy"] == "Always" and sidecar["args"] == ["run"], sidecar
    log = run(facts, {**identity, **environment_of(sidecar, uid)}, client["command"], {**identity, **environment_of(client, uid)})
    (folder / f"{name}.log").write_text(log)


def kubectl(folder, arguments):
    facts = json.loads((folder / "facts.json").read_text())
    assert arguments[:4] == ["--context", "live", "--namespace", "shop"], arguments
    command, *rest = arguments[4:]
    if command == "apply":
        apply(folder, facts, json.load(sys.stdin))
    elif command == "get":
        if not (folder / f"{rest[1]}.log").exists():
            return
        status = {"phase": "Failed", "reason": "Evicted", "message": facts["broken"]} if "broken" in facts else {"phase": "Succeeded"}
        print(status["phase"] if rest[-1] == "--output=jsonpath={.status.phase}" else json.dumps({"status": status}), end="")
    elif command == "logs":
        print((folder / f"{rest[0]}.log").read_text(), end="")
    elif command == "delete":
        names = [rest[1]] if rest[0] == "pod" else [path.stem for path in folder.glob("*.log")]
        for name in names:
            (folder / f"{name}.log").unlink(missing_ok=True)
            (folder / f"{name}.token").unlink(missing_ok=True)


# === ECS


class Ecs(http.server.BaseHTTPRequestHandler):
    """As many operations of ECS and of CloudWatch Logs as a run needs, in the protocol of both."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        _, _, operation = self.headers.get("x-amz-target", "").partition(".")
        if not operation:
            # STS for an account that is not the emulator's.
            self.reply(200, "text/xml", (
                "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult><Arn>a</Arn>"
                "<UserId>u</UserId><Account>999988887777</Account></GetCallerIdentityResult></GetCallerIdentityResponse>"
            ))
            return
        answer = getattr(self.server, operation)(json.loads(body))
        if operation in self.server.lost:
            self.server.lost.remove(operation)
            self.close_connection = True
        elif answer is None:
            self.reply(400, "application/x-amz-json-1.1", json.dumps({"__type": "ResourceNotFoundException", "message": "no such stream"}))
        else:
            self.reply(200, "application/x-amz-json-1.1", json.dumps(answer))

    def reply(self, status, kind, text):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


class Account(http.server.ThreadingHTTPServer):
    """An account with a cluster. Tasks run in the background, as at AWS; a call that describes a task waits for its end."""

    def __init__(self, facts):
        super().__init__(("127.0.0.1", 0), Ecs)
        self.facts, self.definitions, self.tasks, self.streams, self.log_reads = facts, {}, {}, {}, 0
        # The task that each client token has started; operations whose next answer is lost.
        self.started, self.lost = {}, set()
        self.pool = concurrent.futures.ThreadPoolExecutor()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def arn(self, rest):
        return f"arn:aws:ecs:us-east-1:{self.facts['account']}:{rest}"

    def RegisterTaskDefinition(self, asked):
        arn = self.arn(f"task-definition/{asked['family']}:1")
        self.definitions[arn] = asked
        return {"taskDefinition": {"taskDefinitionArn": arn, "status": "ACTIVE"}}

    def RunTask(self, asked):
        """Starts a task, unless a task was started with the same client token."""
        token = asked["clientToken"]
        if token not in self.started:
            task = self.started[token] = self.arn(f"task/live/{uuid.uuid4().hex}")
            self.tasks[task] = self.pool.submit(self.run_task, self.definitions[asked["taskDefinition"]], task.rpartition("/")[2])
        return {"tasks": [{"taskArn": self.started[token], "lastStatus": "PENDING"}], "failures": []}

    def run_task(self, definition, name):
        """What DescribeTasks returns of the task after its end."""
        sidecar, client = definition["containerDefinitions"]
        assert client["dependsOn"] == [{"containerName": "tollgate", "condition": "START"}] and client["essential"], client
        if "broken" in self.facts:
            return {"stoppedReason": "Task failed to start", "containers": [{"name": "client", "reason": self.facts["broken"]}]}
        denied = {"denied": NOTHING} if definition["taskRoleArn"] == self.facts["denied_role"] else {}
        declare(self.facts, name, platform="ecs-fargate", **denied)
        # The agent of ECS.
        given = {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{self.facts['endpoint']}/v2/credentials/{name}",
            "ECS_CONTAINER_METADATA_URI_V4": f"{self.facts['endpoint']}/v4/{name}",
        }
        of_gate, of_client = ({variable["name"]: variable["value"] for variable in container["environment"]} for container in (sidecar, client))
        log = run(self.facts, {**given, **of_gate}, [*client["entryPoint"], *client["command"]], {**given, **of_client})
        prefix = client["logConfiguration"]["options"]["awslogs-stream-prefix"]
        self.streams[f"{prefix}/client/{name}"] = log
        return {"stoppedReason": "Essential container in task exited", "containers": [{"name": "client", "exitCode": 0}]}

    def DescribeTasks(self, asked):
        return {"tasks": [{"taskArn": task, **self.look(self.tasks[task])} for task in asked["tasks"]]}

    @staticmethod
    def look(task):
        try:
            return {"lastStatus": "STOPPED", **task.result(LOOK_SECONDS)}
        except TimeoutError:
            return {"lastStatus": "RUNNING"}

    def StopTask(self, asked):
        return {"task": {"taskArn": asked["task"]}}

    def ListTasks(self, asked):
        return {"taskArns": []}

    def ListTaskDefinitions(self, asked):
        return {"taskDefinitionArns": list(self.definitions)}

    def DeregisterTaskDefinition(self, asked):
        return {"taskDefinition": {"taskDefinitionArn": asked["taskDefinition"], "status": "INACTIVE"}}

    def DeleteTaskDefinitions(self, asked):
        for arn in asked["taskDefinitions"]:
            del self.definitions[arn]
        return {"taskDefinitions": [], "failures": []}

    def GetLogEvents(self, asked):
        self.log_reads += 1
        log = self.streams.get(asked["logStreamName"])
        return None if log is None else {"events": [{"message": line, "timestamp": 1} for line in log.splitlines()]}


if __name__ == "__main__":
    kubectl(pathlib.Path(sys.argv[1]), sys.argv[2:])
