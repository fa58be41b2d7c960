"""For all values the charts render a set that runs, or one sentence that says what to do.

Usage: chart_properties.py HELM3 TOLLGATE [TEST…]

Values and workloads are random, the same in every run (chart_values.py). Rendered by Helm 4's SDK (helm-python-sdk) and, in part, by
the real helm 3 binary, HELM3. Checked by Kubernetes' schemas, by pod_rules.py, and by TOLLGATE, a build with the emulator, which tells for
each sidecar's environment whether the sidecar would start.
"""

import collections
import copy
import pathlib
import re
import shutil
import subprocess
import sys
import unittest

import helm_python
import kubernetes_validate

import chart_values
import pod_rules
from chart_case import FLOATING, METERED, ChartCase, parsed, setting_forms, sorted_by_name

TOLLGATE = str(pathlib.Path(sys.argv[2]).resolve())
SEED = 15
# The oldest version that the charts accept, and the newest one with schemas.
VERSIONS = ["1.29", "1.37"]
CUSTOM = {"PodMonitor", "PrometheusRule"}
# Bounded settings that the sidecar reads in mode contract only.
OF_CONTRACT = ["renew_every", "license_end_grace"]
# A fault of a template, which says nothing about what to do.
FAULT = re.compile(r"nil pointer|wrong type|invalid value|can't evaluate|not a function|%!|<nil>|error converting|unexpected EOF|out of range")
# The last one, because Helm 3 shows the template's text before its sentence.
SENTENCE = re.compile(r".*tollgate: ([^\n]*)", re.S)
SCHEMA = re.compile(r"don't meet the specifications of the schema\(s\)")


class Properties(ChartCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # Files in the sidecar's container: a key, a token, a certificate.
        keys = cls.folder / "keys"
        keys.mkdir()
        private, certificate = cls.folder / "private.pem", cls.folder / "ca.crt"
        made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-keyout", private, "-out", certificate]
        subprocess.run(made, check=True, capture_output=True)
        subprocess.run(["openssl", "rsa", "-in", private, "-pubout", "-out", keys / "1.pem"], check=True, capture_output=True)
        shutil.copy(keys / "1.pem", keys / "2.pem")
        shutil.copy(keys / "1.pem", keys / "3.pem")
        token = cls.folder / "token"
        token.write_text("0123456789abcdef" * 4)
        token.chmod(0o600)
        license_token = cls.folder / "license"
        license_token.write_text("eyJhbGciOiJQUzM4NCJ9.eyJhdWQiOiJhcm46YXdzOmxpY2Vuc2UtbWFuYWdlciJ9.c2lnbmF0dXJl")
        cls.paths = {
            "TOLLGATE_PUBLIC_KEYS": keys, "TOLLGATE_APP_TOKEN_FILE": token, "AWS_CA_BUNDLE": certificate,
            "TOLLGATE_LICENSE_TOKEN_FILE": license_token, "AWS_WEB_IDENTITY_REFRESH_TOKEN_FILE": license_token,
        }

    def rendered4(self, values, chart=None):
        """(documents, None), or (None, Helm 4's message)."""
        try:
            return self.documents4(values, chart), None
        except Exception as error:  # The SDK has one class for all errors.
            return None, str(error)

    def rendered3(self, values):
        """The same by Helm 3."""
        done = self.helm3(values)
        return (None, done.stderr) if done.returncode else (parsed(done.stdout), None)

    def sentence(self, error):
        """The sentence of a refusal; a fault of a template fails the test."""
        self.assertIsNone(FAULT.search(error), error)
        found = SENTENCE.match(error)
        return found[1].rstrip("'") if found and not SCHEMA.search(error) else self.schema(error)

    def schema(self, error):
        # Helm itself refuses `tollgate: null`, before it renders a chart.
        self.assertRegex(error, rf"{SCHEMA.pattern}|type mismatch on|cannot be null|got null", error)
        return "schema"

    def judge(self, documents):
        """Fails unless the set is valid and runs; returns the number of sidecars' environments that were checked."""
        self.assertEqual(pod_rules.set_violations(documents), [])
        for document in documents:
            if document["kind"] not in CUSTOM:
                for version in VERSIONS:
                    kubernetes_validate.validate(document, version, strict=True)
        environments = [
            pod_rules.values_of(container)
            for document in documents if document["kind"] in pod_rules.WORKLOADS
            for container in pod_rules.everyone(document) if pod_rules.role(container) == "run"
        ]
        # If the values name no product, the seller's file in the image has the missing settings.
        judged = [values for values in environments if {"TOLLGATE_PRODUCT_CODE", "TOLLGATE_PRODUCT_ID"} & set(values)]
        for values in judged:
            known = {name: value for name, value in values.items() if value is not None}
            ours = {name: str(path) for name, path in self.paths.items() if name in known}
            environment = {**known, **ours, "TOLLGATE_POD_UID": "uid", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
            done = subprocess.run([TOLLGATE, "config", "check"], env=environment, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, f"the sidecar refuses it: {done.stderr}")
        return len(judged)

    def test_any_values_render_what_runs_or_say_what_to_do(self):
        rendered = judged = 0
        refused = collections.Counter()
        for number, values in enumerate(chart_values.combinations(SEED, 400)):
            with self.subTest(number=number, values=values):
                documents, error = self.rendered4(values)
                if error:
                    refused[self.sentence(error).split(",")[0].split(":")[0]] += 1
                else:
                    rendered += 1
                    judged += self.judge(documents)
        print(f"{rendered} sets render, {judged} environments start, {sum(refused.values())} are refused by {len(refused)} sentences")
        # If almost all or almost no values were refused, the test would prove little.
        self.assertGreater(rendered, 160)
        self.assertGreater(judged, 50)
        self.assertGreater(len(refused), 25)

    def test_helm_3_makes_the_same_of_them(self):
        alike = collections.Counter()
        for number, values in enumerate(chart_values.combinations(SEED, 60)):
            with self.subTest(number=number, values=values):
                (documents, error), (theirs, other) = self.rendered3(values), self.rendered4(values)
                self.assertEqual(error is None, other is None, error or other)
                if error:
                    self.assertEqual(self.sentence(error), self.sentence(other))
                else:
                    self.assertEqual(sorted_by_name(documents), sorted_by_name(theirs))
                alike[error is None] += 1
        self.assertTrue(alike[True] > 15 and alike[False] > 5, alike)

    def test_any_workload_of_a_vendor_runs_or_is_told_what_to_do(self):
        folder = self.folder / "vendor"
        shutil.copytree(self.chart, folder)
        (folder / "values.schema.json").unlink()
        template = '{{- define "theirs" -}}\n{{ .Values.manifest | toYaml }}\n{{- end -}}\n'
        template += '{{- include "tollgate.workload" (list . "theirs" .Values.options) }}\n'
        (folder / "templates/workload.yaml").write_text(template)
        chart = helm_python.Chart.load(str(folder))
        self.addCleanup(chart.close)
        rendered, refused = 0, collections.Counter()
        for number, (manifest, options, values) in enumerate(chart_values.workloads(SEED, 300)):
            with self.subTest(number=number, manifest=manifest, options=options, values=values):
                documents, error = self.rendered4({"manifest": manifest, "options": options, "tollgate": values}, chart)
                if error:
                    refused[self.sentence(error).split(",")[0].split(":")[0]] += 1
                    continue
                rendered += 1
                self.judge(documents)
                theirs = {container["name"] for container in pod_rules.everyone(manifest)}
                kept = [container["name"] for container in pod_rules.everyone(documents[0]) if container["name"] in theirs]
                self.assertEqual(kept, [container["name"] for container in pod_rules.everyone(manifest)], "their order")
        print(f"{rendered} workloads render, {sum(refused.values())} are refused by {len(refused)} sentences")
        self.assertGreater(rendered, 90)
        self.assertGreater(len(refused), 15)

    def test_the_bounds_of_the_templates_are_the_sidecars(self):
        def refused(name, value):
            """Whether the sidecar calls this setting too long or too short."""
            known = {"TOLLGATE_MODE": "metered", "TOLLGATE_PRODUCT_CODE": "demo", "TOLLGATE_DIMENSIONS": "a"}
            if name in OF_CONTRACT:
                known = {"TOLLGATE_MODE": "contract", "TOLLGATE_PRODUCT_ID": "prod-demo"}
            known["TOLLGATE_STATE_DIR"] = str(self.folder)
            environment = {**known, "TOLLGATE_POD_UID": "uid", f"TOLLGATE_{name.upper()}": value}
            done = subprocess.run([TOLLGATE, "config", "check"], env=environment, capture_output=True, text=True)
            return re.search(rf"{name}.*(longer than|shorter than|less than)", done.stdout + done.stderr, re.I) is not None

        beyond = {"2h": "1h59m59s999ms", "1m": "59s999ms"}
        bounded = {name: form for name, form in setting_forms().items() if "most" in form}
        self.assertGreater(len(bounded), 7)
        for name, form in bounded.items():
            start = "close-after:" if form.get("closes") else ""
            with self.subTest(name):
                self.assertEqual([refused(name, start + form[bound]) for bound in ("least", "most")], [False, False])
                self.assertTrue(refused(name, f"{start}{form['most']}1ms"))
                if form["least"] != "0s":
                    self.assertTrue(refused(name, start + beyond[form["least"]]))

    def test_the_rules_find_what_they_are_for(self):
        """Each mutation of a valid set breaks a rule."""
        sound = self.documents4({"tollgate": METERED})
        self.assertEqual(pod_rules.set_violations(sound), [])
        place = next(n for n, document in enumerate(sound) if document["kind"] == "Deployment")

        def pod(documents):
            return documents[place]["spec"]["template"]["spec"]

        mutations = {
            "startup probe": lambda d: pod(d)["initContainers"][0].update(startupProbe={"exec": {"command": ["x"]}}),
            "no lock": lambda d: pod(d)["initContainers"].pop(),
            "lock first": lambda d: pod(d)["initContainers"].reverse(),
            "two locks": lambda d: pod(d)["initContainers"].append({**pod(d)["initContainers"][1], "name": "again"}),
            "lock that ends never": lambda d: pod(d)["initContainers"][1].update(args=["await"]),
            "no sidecar": lambda d: pod(d).update(initContainers=[]),
            "two names": lambda d: pod(d)["containers"].append(pod(d)["containers"][0]),
            "claim and rolling update": lambda d: pod(d).update(volumes=[{"name": "tollgate-state", "persistentVolumeClaim": {"claimName": "c"}}]),
            "mount without volume": lambda d: pod(d).update(volumes=[]),
            "killed too early": lambda d: pod(d).update(terminationGracePeriodSeconds=20),
            "another account": lambda d: pod(d).update(serviceAccountName="other"),
            "hostNetwork": lambda d: pod(d).update(hostNetwork=True),
            "a variable twice": lambda d: pod(d)["initContainers"][0]["env"].append({"name": "TOLLGATE_MODE", "value": "saas"}),
            "two documents": lambda d: d.append(d[place]),
        }
        for name, mutate in mutations.items():
            with self.subTest(name):
                broken = copy.deepcopy(sound)
                mutate(broken)
                self.assertNotEqual(pod_rules.set_violations(broken), [])
        floating = self.documents4({"tollgate": {**FLOATING, "licenseSecret": "license"}})
        self.assertEqual(pod_rules.set_violations(floating), [])
        mutations = {
            "no folder": lambda d: pod(d)["initContainers"][0]["volumeMounts"].pop(0),
            "no license": lambda d: pod(d)["initContainers"][0]["volumeMounts"].pop(1),
            "a product code": lambda d: pod(d)["initContainers"][0]["env"].append({"name": "TOLLGATE_PRODUCT_CODE", "value": "demo"}),
            "a new pod before the old one": lambda d: d[place]["spec"].pop("strategy"),
        }
        for name, mutate in mutations.items():
            with self.subTest(name):
                broken = copy.deepcopy(floating)
                mutate(broken)
                self.assertNotEqual(pod_rules.set_violations(broken), [])
        socket = self.documents4({"tollgate": {**METERED, "appSocket": True}})
        self.assertEqual(pod_rules.set_violations(socket), [])
        mutations = {
            "no folder": lambda d: pod(d)["initContainers"][0]["volumeMounts"].pop(),
            "not mounted": lambda d: pod(d)["containers"][0].pop("volumeMounts"),
            "replaceable": lambda d: pod(d)["containers"][0]["volumeMounts"][0].pop("readOnly"),
            "no address": lambda d: pod(d)["containers"][0].pop("env"),
            "the door": lambda d: pod(d)["initContainers"][0]["env"].append({"name": "TOLLGATE_AWS_DOOR", "value": "on"}),
        }
        for name, mutate in mutations.items():
            with self.subTest(name):
                broken = copy.deepcopy(socket)
                mutate(broken)
                self.assertNotEqual(pod_rules.set_violations(broken), [])


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=2)
