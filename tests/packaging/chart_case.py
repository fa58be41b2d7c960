"""The common base of the charts' tests: the example chart with its dependency, rendered by the real helm 3 binary.

The binary is the program's first argument. The namespace of each release is `shop`.
"""

import copy
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import helm_python
import yaml

from pod_rules import WORKLOADS, pod_template

ROOT = pathlib.Path(__file__).resolve().parents[2]
HELM3 = sys.argv[1]

METERED = {"mode": "metered", "productCode": "demo", "settings": {"dimensions": "requests"}, "state": {"type": "emptyDir"}}
PRODUCT_ID = "2205b290-19e6-4c76-9eea-377d6bf7141a"
CONTRACT = {"mode": "contract", "productId": PRODUCT_ID}
FLOATING = {**CONTRACT, "licenseModel": "floating"}
CLAIM = {**METERED, "state": {"type": "persistentVolumeClaim", "claimName": "usage"}}


def pod_spec(document):
    """The pod in a workload."""
    return pod_template(document)["spec"]


def environment(container):
    """A container's environment."""
    return {entry["name"]: entry.get("value") for entry in container["env"]}


def parsed(text):
    """The documents in a rendering."""
    return [document for document in yaml.safe_load_all(text) if document]


def sorted_by_name(documents):
    """The documents in a fixed order, because Helm sorts by kind and its SDK does not."""
    return sorted(documents, key=lambda document: (document["kind"], document["metadata"]["name"]))


def setting_forms():
    """The form of each setting in the templates."""
    text = (ROOT / "helm/tollgate/templates/_settings.tpl").read_text()
    forms = re.search(r'define "tollgate.settingForms" -\}\}\n(.*?)\{\{- end', text, re.S)[1]
    return yaml.safe_load(re.sub(r"\{\{.*?\}\}", "''", re.sub(r"(?m)^\{\{.*\n", "", forms)))


class ChartCase(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        shutil.copytree(ROOT / "helm", cls.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("charts", "Chart.lock"))
        cls.chart = cls.folder / "example"
        subprocess.run([HELM3, "dependency", "build", cls.chart], check=True, capture_output=True)
        cls.helm4 = helm_python.Chart.load(str(cls.chart))
        cls.addClassCleanup(cls.helm4.close)

    def helm3(self, values, version="1.32", chart=None):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(values, file)
            file.flush()
            command = [HELM3, "template", "shop", str(chart or self.chart), "--namespace", "shop", "--kube-version", version]
            return subprocess.run([*command, "-f", file.name], capture_output=True, text=True)

    def workload(self, values):
        """The only workload that the example renders."""
        found = [document for document in self.documents(values) if document["kind"] in WORKLOADS]
        self.assertEqual(len(found), 1)
        return found[0]

    def of(self, template, values=None, include='(list . "other")', alias=""):
        """
        Renders the example with another template: (documents, standard error). The values are those of the library, or, with an
        include or an alias of the test, all values.
        """
        whole = alias or include != '(list . "other")'
        with tempfile.TemporaryDirectory() as folder:
            chart = pathlib.Path(folder) / "chart"
            shutil.copytree(self.chart, chart)
            (chart / "values.yaml").write_text("")
            (chart / "values.schema.json").unlink()
            (chart / "templates/NOTES.txt").unlink()
            with (chart / "Chart.yaml").open("a") as described:
                described.write(alias)
            body = f'{{{{- define "other" -}}}}\n{template}\n{{{{- end -}}}}\n{{{{- include "tollgate.workload" {include} }}}}\n'
            (chart / "templates/workload.yaml").write_text(body)
            done = self.helm3(values or {} if whole else {"tollgate": values or {}}, chart=chart)
        return parsed(done.stdout), done.stderr

    def rendered(self, values):
        done = self.helm3(values)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def documents(self, values):
        return parsed(self.rendered(values))

    def documents4(self, values, chart=None):
        """The same by Helm 4's SDK, which raises one class for every refusal."""
        files = (chart or self.helm4).render(copy.deepcopy(values), name="shop", namespace="shop")
        return [document for path, text in files.items() if path.endswith(".yaml") for document in parsed(text)]

    def refused(self, values, text):
        done = self.helm3(values)
        self.assertNotEqual(done.returncode, 0, f"accepted: {values}")
        self.assertIn(text, done.stderr)
