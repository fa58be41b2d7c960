"""The ECS task definitions, checked by AWS's own model and by rules that the model lacks; CloudFormation by cfn-lint; all files by checkov.

Usage: tasks.py CHECKOV
"""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import unittest

import boto3
import botocore.validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
ECS = ROOT / "deploy/ecs"
CHECKOV = sys.argv.pop(1)


def in_template(value):
    """A task definition's JSON in CloudFormation's spelling: names begin with a capital, except those of a log driver's options."""
    if isinstance(value, list):
        return [in_template(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name[0].upper() + name[1:]: item if name == "options" else in_template(item) for name, item in value.items()
    }


def cfn_lint(*paths):
    program = os.path.join(os.path.dirname(sys.executable), "cfn-lint")
    return subprocess.run([program, "--regions", "us-east-1", "--", *map(str, paths)], capture_output=True, text=True)


def documents(text):
    """JSON documents, one after the other: checkov prints one for each folder."""
    decoder, found = json.JSONDecoder(), []
    while text := text.lstrip():
        document, end = decoder.raw_decode(text)
        found += document if isinstance(document, list) else [document]
        text = text[end:]
    return found


class Tasks(unittest.TestCase):
    def tasks(self):
        files = sorted(ECS.glob("task-*.json"))
        self.assertEqual(len(files), 5)
        return {path.name: json.loads(path.read_text()) for path in files}

    def test_each_fits_the_ecs_model(self):
        client = boto3.client("ecs", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
        shape = client.meta.service_model.operation_model("RegisterTaskDefinition").input_shape
        for name, task in self.tasks().items():
            report = botocore.validate.ParamValidator().validate(task, shape)
            self.assertFalse(report.has_errors(), f"{name}: {report.generate_report()}")

    def test_cfn_lint_finds_nothing_and_would_find_something(self):
        # cfn-lint knows what the model does not, such as the sizes that Fargate has.
        tasks = {name.removesuffix(".json"): task for name, task in self.tasks().items()}
        with tempfile.TemporaryDirectory() as folder:
            template, broken = pathlib.Path(folder) / "tasks.json", pathlib.Path(folder) / "broken.json"

            def write(path, tasks):
                resources = {
                    re.sub(r"\W", "", name): {"Type": "AWS::ECS::TaskDefinition", "Properties": in_template(task)}
                    for name, task in tasks.items()
                }
                path.write_text(json.dumps({"Resources": resources}))

            write(template, tasks)
            done = cfn_lint(template, ECS / "service.yaml", ROOT / "deploy/events/queue.yaml")
            self.assertEqual(done.returncode, 0, done.stdout)
            write(broken, {"broken": {**tasks["task-fargate"], "memory": "513"}})
            self.assertIn("513", cfn_lint(broken).stdout)

    def test_each_keeps_to_what_ecs_allows_and_to_our_own_advice(self):
        volumes = re.findall(r'^VOLUME \["(.*)"\]', (ROOT / "deploy/Dockerfile").read_text(), re.M)
        for name, task in self.tasks().items():
            self.assertTrue(task["taskRoleArn"], name)
            fargate = "FARGATE" in task["requiresCompatibilities"]
            containers = {container["name"]: container for container in task["containerDefinitions"]}
            for container in containers.values():
                where = f"{name} {container['name']}"
                self.assertTrue(container["readonlyRootFilesystem"], where)
                self.assertEqual(container["linuxParameters"], {"capabilities": {"drop": ["ALL"]}}, where)
                if fargate:
                    self.assertLessEqual(container["stopTimeout"], 120, where)
                # ECS gives up on containers that wait for a container with a health check.
                self.assertNotIn("startTimeout", container, where)
                for mount in container.get("mountPoints", []):
                    # At other paths the volume belongs to root, and user 65532 cannot write.
                    self.assertIn(mount["containerPath"], volumes, where)
                    told = {entry["name"]: entry["value"] for entry in container["environment"]}
                    if mount.get("readOnly"):
                        # The application, which connects to the socket in it.
                        self.assertEqual(told["TOLLGATE_APP_ADDR"], f"unix:{mount['containerPath']}/app.sock", where)
                        self.assertIn({"name": "TOLLGATE_APP_ADDR", "value": told["TOLLGATE_APP_ADDR"]}, containers["tollgate"]["environment"], where)
                    else:
                        self.assertEqual(told["TOLLGATE_STATE_DIR"], mount["containerPath"], where)
            # In a bridge network one container does not reach another's loopback.
            reached = [mount for mount in containers["app"].get("mountPoints", []) if mount.get("readOnly")]
            self.assertEqual(len(reached), task["networkMode"] == "bridge", name)
            self.gate(name, task["networkMode"], containers)

    def gate(self, name, network, containers):
        """Checks on which containers the application's start depends."""
        waits = {d["containerName"]: d["condition"] for d in containers["app"].get("dependsOn", [])}
        checked = [container for container in containers.values() if "healthCheck" in container]
        # Only the gate in its own image may be the application's entry point.
        if len(containers) == 1:
            self.assertEqual((containers["app"]["command"][:3], waits), (["/tollgate", "exec", "--"], {}), name)
            # With usage tollgate stays beside the command: command_grace, then shutdown_grace.
            stays = bool(containers["app"].get("mountPoints"))
            self.assertEqual(containers["app"]["stopTimeout"] > 20 + 25, stays, name)
            return
        self.assertNotIn("command", containers["app"], name)
        if network == "bridge":
            # One container cannot reach another's loopback, so the check runs inside.
            self.assertEqual(waits, {"tollgate": "HEALTHY"}, name)
            [sidecar] = checked
            # `ready` would have ECS replace the task whenever the gate shuts.
            self.assertEqual(sidecar["healthCheck"]["command"], ["CMD", "/tollgate", "probe", "startup"], name)
            self.assertLessEqual(sidecar["healthCheck"]["startPeriod"], 300, name)
            return
        # A health check would end the wait after minutes, and with it the task.
        self.assertEqual((network, checked), ("awsvpc", []), name)
        self.assertEqual(waits, {"tollgate": "START", "tollgate-await": "SUCCESS"}, name)
        lock = containers["tollgate-await"]
        # Its success must not end the task, and it must not fail, because a failed dependency stops the task.
        self.assertEqual((lock["essential"], lock["command"]), (False, ["await"]), name)
        self.assertEqual(lock["dependsOn"], [{"containerName": "tollgate", "condition": "START"}], name)
        self.assertEqual(lock["image"], containers["tollgate"]["image"], name)

    def test_the_runbooks_task_for_doctor_is_one_that_ecs_takes(self):
        text = (ROOT / "docs/RUNBOOK.md").read_text()
        (command,) = re.findall(r"^(aws ecs run-task .*?[^\\])\n", text, re.M | re.S)
        words = shlex.split(command.replace("\\\n", ""))
        overrides = json.loads(words[words.index("--overrides") + 1])
        client = boto3.client("ecs", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
        shape = client.meta.service_model.operation_model("RunTask").input_shape.members["overrides"]
        self.assertFalse(botocore.validate.ParamValidator().validate(overrides, shape).has_errors())
        (sidecars,), in_app = overrides["containerOverrides"], json.loads(re.search(r"the override is `(.*?)`", text)[1])
        # The container exists, the task ends with it, and only its command is replaced.
        for name, task in self.tasks().items():
            override = in_app if name.startswith("task-exec") else sidecars
            (container,) = [container for container in task["containerDefinitions"] if container["name"] == override["name"]]
            self.assertTrue(container["essential"], name)
            self.assertNotIn("entryPoint", container)
            self.assertEqual(override["command"], ["/tollgate", "doctor"] if container["command"][0] == "/tollgate" else ["doctor"])
            self.assertEqual(container["command"][:len(override["command"])][:-1], override["command"][:-1])
            # ECS Exec would need a writable file system.
            self.assertTrue(container["readonlyRootFilesystem"], name)

    def test_the_template_holds_the_same_task(self):
        class Loader(yaml.SafeLoader):
            pass

        Loader.add_multi_constructor("!", lambda loader, tag, node: f"!{tag}")
        template = yaml.load((ECS / "service.yaml").read_text(), Loader)
        task = template["Resources"]["Task"]["Properties"]
        theirs = in_template(self.tasks()["task-fargate.json"])
        for ours, container in zip(task["ContainerDefinitions"], theirs["ContainerDefinitions"], strict=True):
            for name in sorted(set(ours) | set(container)):
                if name not in ("Image", "LogConfiguration", "PortMappings"):
                    self.assertEqual(ours.get(name), container.get(name), f"{container['Name']}: {name}")

    def test_the_least_role_and_no_more(self):
        # `cargo test` compares the policies with the modes' actions.
        policies = {path.stem: json.loads(path.read_text()) for path in (ROOT / "deploy/iam").glob("*.json")}
        self.assertEqual(set(policies), {"hourly", "metered", "contract", "saas"})
        needs = {}
        for mode, policy in policies.items():
            [statement] = policy["Statement"]
            self.assertEqual((statement["Effect"], statement["Resource"]), ("Allow", "*"), mode)
            needs[mode] = set(statement["Action"])
        for path, modes in ((ECS / "service.yaml", ("hourly", "metered", "contract")), (ECS / "iam.tf", needs)):
            actions = set(re.findall(r"(?:aws-marketplace|license-manager):\w+", path.read_text()))
            self.assertEqual(actions, set().union(*(needs[mode] for mode in modes)), path)

    def test_terraform_binds_audience_and_subject(self):
        text = (ECS / "iam.tf").read_text()
        irsa = text[text.index('"irsa"') : text.index('"ecs_task"')]
        self.assertIn('${local.issuer}:aud"', irsa)
        self.assertIn('"sts.amazonaws.com"', irsa)
        self.assertIn('${local.issuer}:sub"', irsa)
        self.assertIn('"system:serviceaccount:${var.namespace}:${var.service_account}"', irsa)

    def test_checkov_finds_nothing_without_a_reason(self):
        reasons = yaml.safe_load((ROOT / "tests/packaging/checkov.yaml").read_text())
        command = [CHECKOV, "--skip-download", "--quiet", "--compact", "--soft-fail", "--output", "json"]
        for folder in ("deploy", "tests/packaging/golden"):
            command += ["--directory", str(ROOT / folder)]
        command += ["--framework", "kubernetes", "cloudformation", "terraform", "dockerfile"]
        done = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        reports = documents(done.stdout)
        for kind in ("kubernetes", "cloudformation", "terraform", "dockerfile"):
            summaries = [report["summary"] for report in reports if report.get("check_type") == kind]
            self.assertGreater(sum(summary["passed"] for summary in summaries), 10, f"checkov looked at no {kind}")
            self.assertEqual(sum(summary["parsing_errors"] for summary in summaries), 0, kind)
        reports = [report for report in reports if "results" in report]
        failed = [check for report in reports for check in report["results"]["failed_checks"]]
        unexplained = [f"{c['check_id']} {c['check_name']}: {c['file_path']}" for c in failed if c["check_id"] not in reasons]
        self.assertEqual(unexplained, [])
        self.assertEqual(set(reasons) - {check["check_id"] for check in failed}, set(), "a reason for what no longer happens")


if __name__ == "__main__":
    unittest.main(verbosity=2)
