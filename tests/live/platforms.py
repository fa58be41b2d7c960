"""Where the containers run: a pod on EKS, by kubectl, or a task on ECS with Fargate, by boto3.

Both run the same two containers: `tollgate`, the seller's own gate image, and `client`, which gets tests/live/steps.py as its command.
Everything that is made here has the run's name, and is removed at the run's end, also after a failure; `clean` removes the objects of a run
that was killed.
"""

import contextlib
import json
import pathlib
import subprocess
import time

import boto3
import botocore.exceptions

STEPS = (pathlib.Path(__file__).parent / "steps.py").read_text()
LABEL = "tollgate-live"
# A container that needs longer has no image or no node.
PATIENCE_SECONDS = 600
POD_STEP_SECONDS = 2
# CloudWatch shows the last lines of a container some seconds after its end.
LOG_TRIES = 12
LOG_STEP_SECONDS = 5
LINE = "live: "


class Failed(Exception):
    """The containers did not run to their end."""


def lines(log):
    """The output of a client's container, and whether it ran to its end."""
    said = [json.loads(line.removeprefix(LINE)) for line in log.splitlines() if line.startswith(LINE)]
    return said, any(line["step"] == "end" for line in said)


class Eks:
    """Pods in an existing namespace, with existing service accounts: one with the product's role, one whose role has no permission."""

    def __init__(self, settings, run):
        self.settings, self.run, self.name = settings, run, "eks-fargate" if settings.get("fargate") else "eks"
        self.roles = {"product": settings["service_account"], "denied": settings["denied_service_account"]}
        # Names that the transcript hides.
        self.private = [settings["context"]]

    def kubectl(self, *arguments, given=None, check=True):
        command = [self.settings.get("kubectl", "kubectl"), "--context", self.settings["context"], "--namespace", self.settings["namespace"], *arguments]
        try:
            done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=PATIENCE_SECONDS + 60)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Failed(f"kubectl {arguments[0]}: {error}") from None
        if check and done.returncode:
            raise Failed(f"kubectl {arguments[0]}: {done.stderr.strip()}")
        return done

    def manifest(self, name, role, gate, environment):
        restricted = {
            "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True, "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }

        def container(name, image, user, memory, **more):
            resources = {"requests": {"cpu": "10m", "memory": memory}, "limits": {"memory": memory}}
            return {"name": name, "image": image, "resources": resources, "securityContext": {**restricted, "runAsUser": user}, **more}

        variables = [{"name": key, "value": value} for key, value in gate.get("environment", {}).items()]
        variables.append({"name": "TOLLGATE_POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}})
        mounts = [{"name": "state", "mountPath": "/var/lib/tollgate"}]
        sidecar = container("tollgate", gate["image"], 65532, "32Mi", args=["run"], env=variables, restartPolicy="Always", volumeMounts=mounts)
        client = container(
            "client", self.settings["client_image"], 10001, "256Mi", command=["python3", "-c", STEPS],
            env=[{"name": key, "value": value} for key, value in environment.items()],
        )
        return {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": LABEL, f"{LABEL}/run": self.run}},
            "spec": {
                "serviceAccountName": self.roles[role], "automountServiceAccountToken": False, "restartPolicy": "Never",
                "securityContext": {"runAsNonRoot": True, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
                "initContainers": [sidecar], "containers": [client], "volumes": [{"name": "state", "emptyDir": {"sizeLimit": "64Mi"}}],
            },
        }

    def perform(self, part, role, gate, environment):
        """The output of the client's container."""
        name = f"{LABEL}-{self.run}-{part}"
        try:
            self.kubectl("apply", "--filename", "-", given=json.dumps(self.manifest(name, role, gate, environment)))
            self.wait_for_the_end(name)
            said, ended = lines(self.kubectl("logs", name, "--container", "client", check=False).stdout)
            if not ended:
                raise Failed(f"pod {name}: {self.state(name)}")
            return said
        finally:
            self.kubectl("delete", "pod", name, "--ignore-not-found", "--wait=false", check=False)

    def wait_for_the_end(self, name):
        """Waits until the pod succeeded, failed or was deleted. `kubectl wait` waits for one phase only."""
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            looked = self.kubectl("get", "pod", name, "--ignore-not-found", "--output=jsonpath={.status.phase}", check=False)
            # A failed call is repeated, because a run that is given up costs money too.
            if looked.returncode == 0 and looked.stdout not in ("Pending", "Running", "Unknown"):
                return
            time.sleep(POD_STEP_SECONDS)

    def state(self, name):
        """The reason why a pod has not ended. A transcript shows it, so it contains no nodes, addresses, roles and variables."""
        looked = self.kubectl("get", "pod", name, "--ignore-not-found", "--output", "json").stdout
        if not looked:
            return "somebody deleted it"
        status = json.loads(looked)["status"]
        said = [status[member] for member in ("phase", "reason", "message") if member in status]
        said += [one["message"] for one in status.get("conditions", []) if one["status"] != "True" and "message" in one]
        for container in status.get("initContainerStatuses", []) + status.get("containerStatuses", []):
            said.append(f"{container['name']}: {json.dumps(container.get('state'))}, before {json.dumps(container.get('lastState'))}")
        return "; ".join(said)

    def clean(self):
        """Removes the pods of every run."""
        self.kubectl("delete", "pods", "--selector", f"app.kubernetes.io/part-of={LABEL}", "--wait=true")


class Ecs:
    """Tasks on Fargate in a cluster, with existing roles and an existing log group."""

    def __init__(self, settings, run):
        self.settings, self.run, self.name = settings, run, "ecs-fargate"
        self.roles = {"product": settings["task_role_arn"], "denied": settings["denied_task_role_arn"]}
        self.private = [settings["cluster"], *settings["subnets"], *settings["security_groups"], settings["execution_role_arn"], *self.roles.values()]
        self.ecs, self.logs = (boto3.client(name, region_name=settings["region"]) for name in ("ecs", "logs"))

    def definition(self, family, role, gate, environment):
        def container(name, image, memory, variables, **more):
            options = {"awslogs-group": self.settings["log_group"], "awslogs-region": self.settings["region"], "awslogs-stream-prefix": family}
            return {
                "name": name, "image": image, "memory": memory, "environment": [{"name": key, "value": value} for key, value in variables.items()],
                "readonlyRootFilesystem": True, "linuxParameters": {"capabilities": {"drop": ["ALL"]}},
                "logConfiguration": {"logDriver": "awslogs", "options": options}, **more,
            }

        folder = "/var/lib/tollgate-task"
        variables = {**gate.get("environment", {}), "TOLLGATE_STATE_DIR": folder, "TOLLGATE_DRAIN_QUIET": "0s"}
        mounts = [{"sourceVolume": "state", "containerPath": folder}]
        sidecar = container("tollgate", gate["image"], 64, variables, command=["run"], essential=False, user="65532:65532", stopTimeout=60, mountPoints=mounts)
        client = container(
            "client", self.settings["client_image"], 256, environment, entryPoint=["python3"], command=["-c", STEPS], essential=True,
            dependsOn=[{"containerName": "tollgate", "condition": "START"}],
        )
        return {
            "family": family, "networkMode": "awsvpc", "requiresCompatibilities": ["FARGATE"], "cpu": "256", "memory": "512",
            "taskRoleArn": self.roles[role], "executionRoleArn": self.settings["execution_role_arn"], "volumes": [{"name": "state"}],
            "containerDefinitions": [sidecar, client], "tags": [{"key": LABEL, "value": self.run}],
        }

    def perform(self, part, role, gate, environment):
        """The output of the client's container."""
        family, task = f"{LABEL}-{self.run}-{part}", None
        registered = self.ecs.register_task_definition(**self.definition(family, role, gate, environment))["taskDefinition"]["taskDefinitionArn"]
        network = {
            "subnets": self.settings["subnets"], "securityGroups": self.settings["security_groups"],
            "assignPublicIp": "ENABLED" if self.settings.get("public_ip") else "DISABLED",
        }
        try:
            # boto3 adds a client token, so AWS starts no second task if boto3 repeats the call.
            started = self.ecs.run_task(
                cluster=self.settings["cluster"], taskDefinition=registered, launchType="FARGATE", count=1, startedBy=f"{LABEL}-{self.run}"[:36],
                networkConfiguration={"awsvpcConfiguration": network},
            )
            if not started["tasks"]:
                raise Failed(f"task {family}: {started['failures']}")
            task = started["tasks"][0]["taskArn"]
            waiting = {"Delay": 6, "MaxAttempts": PATIENCE_SECONDS // 6}
            self.ecs.get_waiter("tasks_stopped").wait(cluster=self.settings["cluster"], tasks=[task], WaiterConfig=waiting)
            return self.said(family, task)
        except botocore.exceptions.WaiterError as error:
            raise Failed(f"task {family}: {error}") from None
        finally:
            if task:
                with contextlib.suppress(botocore.exceptions.ClientError):
                    self.ecs.stop_task(cluster=self.settings["cluster"], task=task, reason="the run has ended")
            self.ecs.deregister_task_definition(taskDefinition=registered)
            self.ecs.delete_task_definitions(taskDefinitions=[registered])

    def said(self, family, task):
        (stopped,) = self.ecs.describe_tasks(cluster=self.settings["cluster"], tasks=[task])["tasks"]
        containers = stopped.get("containers", [])
        reasons = [stopped.get("stoppedReason"), *(f"{one['name']}: {one['reason']}" for one in containers if "reason" in one)]
        failed = Failed(f"task {family}: {'; '.join(filter(None, reasons))}")
        # A container that never ran has no exit code, and no log will come.
        if not any(one["name"] == "client" and "exitCode" in one for one in containers):
            raise failed
        stream = f"{family}/client/{task.rsplit('/', 1)[1]}"
        for attempt in range(LOG_TRIES):
            with contextlib.suppress(self.logs.exceptions.ResourceNotFoundException):
                events = self.logs.get_log_events(logGroupName=self.settings["log_group"], logStreamName=stream, startFromHead=True)["events"]
                said, ended = lines("\n".join(event["message"] for event in events))
                if ended:
                    return said
            if attempt + 1 < LOG_TRIES:
                time.sleep(LOG_STEP_SECONDS)
        raise failed

    def clean(self):
        """Stops the tasks of every run, and removes their definitions."""
        for page in self.ecs.get_paginator("list_task_definitions").paginate(status="ACTIVE"):
            for arn in page["taskDefinitionArns"]:
                if arn.rsplit("/", 1)[1].startswith(f"{LABEL}-"):
                    self.remove(arn)

    def remove(self, arn):
        family = arn.rsplit("/", 1)[1].partition(":")[0]
        for task in self.ecs.list_tasks(cluster=self.settings["cluster"], family=family)["taskArns"]:
            self.ecs.stop_task(cluster=self.settings["cluster"], task=task, reason="left by a run")
        self.ecs.deregister_task_definition(taskDefinition=arn)
        self.ecs.delete_task_definitions(taskDefinitions=[arn])
