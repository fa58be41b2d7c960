"""The ECS task definitions against AWS's own model, with the rules that no model holds; CloudFormation by cfn-lint.

Usage: tasks.py
"""

import json
import os
import pathlib
import subprocess
import sys
import unittest

import boto3
import botocore.validate

ROOT = pathlib.Path(__file__).resolve().parents[2]
ECS = ROOT / "deploy/ecs"


class Tasks(unittest.TestCase):
    def tasks(self):
        files = sorted(ECS.glob("task-*.json"))
        self.assertEqual(len(files), 3)
        return {path.name: json.loads(path.read_text()) for path in files}

    def test_each_fits_the_ecs_model(self):
        client = boto3.client("ecs", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
        shape = client.meta.service_model.operation_model("RegisterTaskDefinition").input_shape
        for name, task in self.tasks().items():
            report = botocore.validate.ParamValidator().validate(task, shape)
            self.assertFalse(report.has_errors(), f"{name}: {report.generate_report()}")

    def test_each_keeps_to_what_fargate_allows_and_to_our_own_advice(self):
        for name, task in self.tasks().items():
            self.assertEqual(task["networkMode"], "awsvpc", name)
            self.assertTrue(task["taskRoleArn"], name)
            for container in task["containerDefinitions"]:
                where = f"{name} {container['name']}"
                self.assertTrue(container["readonlyRootFilesystem"], where)
                self.assertEqual(container["linuxParameters"], {"capabilities": {"drop": ["ALL"]}}, where)
                # Fargate: stopTimeout and startTimeout at most 120 s.
                self.assertLessEqual(container["stopTimeout"], 120, where)
                self.assertLessEqual(container.get("startTimeout", 0), 120, where)
                check = container.get("healthCheck")
                if check:
                    self.assertLessEqual(check["startPeriod"], 300, where)
                    # `ready` would have ECS replace the task whenever the gate shuts.
                    self.assertEqual(check["command"], ["CMD", "/tollgate", "probe", "startup"], where)

    def test_cloudformation(self):
        program = os.path.join(os.path.dirname(sys.executable), "cfn-lint")
        done = subprocess.run([program, str(ECS / "service.yaml")], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_the_least_role_and_no_more(self):
        for path in (ECS / "service.yaml", ECS / "iam.tf"):
            text = path.read_text()
            actions = {part.split('"')[0].split()[0].strip(",[]") for part in text.split("aws-marketplace:")[1:]}
            self.assertEqual(actions, {"RegisterUsage", "MeterUsage"}, path)


if __name__ == "__main__":
    unittest.main(verbosity=2)
