"""The chart's changes of a workload, form by form, and its refusals with their sentences.

Usage: chart_forms.py HELM3 [TEST…]
"""

import json
import re
import sys
import tomllib
import unittest

import yaml

import pod_rules
from chart_case import CLAIM, CONTRACT, FLOATING, METERED, PRODUCT_ID, ROOT, ChartCase, environment, pod_spec, setting_forms

SIMPLE = """
apiVersion: apps/v1
kind: {kind}
metadata: {{ name: x }}
spec: {{ {spec} selector: {{ matchLabels: {{ a: b }} }}, template: {{ spec: {{ {pod} containers: [{{ name: a, image: b }}] }} }} }}
"""


def simple(kind="Deployment", spec="", pod=""):
    """A vendor's workload with one field set."""
    return SIMPLE.format(kind=kind, spec=spec, pod=pod)


def named(*names, **more):
    """Products, each with an image of its own."""
    return [{"name": name, "image": {"repository": f"gate-{name}"}, "productCode": "", **more} for name in names]


class Native(ChartCase):
    def test_native_is_a_sidecar_and_behind_it_a_container_that_waits(self):
        pod = pod_spec(self.workload({"tollgate": {"productCode": "demo", "settings": {"public_keys": "/keys"}}}))
        sidecar, lock = pod["initContainers"]
        self.assertEqual((sidecar["name"], sidecar["args"], sidecar["restartPolicy"]), ("tollgate", ["run"], "Always"))
        self.assertEqual((lock["name"], lock["args"]), ("tollgate-await", ["await", "--refused-after", "30s"]))
        self.assertNotIn("restartPolicy", lock)
        self.assertEqual(environment(lock), {"TOLLGATE_POD_UID": None})
        self.assertEqual(pod["terminationGracePeriodSeconds"], 30 + 25 + 15)
        for container in (sidecar, lock):
            # From 1.35.4 on the kubelet counts a container that ran before its own restart as started.
            self.assertNotIn("startupProbe", container)
            context = container["securityContext"]
            self.assertTrue(context["readOnlyRootFilesystem"] and context["runAsNonRoot"])
            self.assertEqual(context["capabilities"], {"drop": ["ALL"]})
            self.assertNotIn("cpu", container["resources"]["limits"])
            self.assertEqual(container["terminationMessagePolicy"], "FallbackToLogsOnError")
        self.assertEqual(len(pod["containers"]), 1)

    def test_where_a_pod_is_not_restarted_the_wait_never_ends(self):
        for kind, words in (("StatefulSet", 3), ("DaemonSet", 3), ("Job", 1), ("CronJob", 1)):
            lock = pod_spec(self.workload({"kind": kind}))["initContainers"][1]
            self.assertEqual(len(lock["args"]), words, kind)

    def test_refused_fail_fails_the_job(self):
        for kind in ("Job", "CronJob"):
            document = self.workload({"kind": kind, "tollgate": {"refused": "fail"}})
            job = document["spec"]["jobTemplate"]["spec"] if kind == "CronJob" else document["spec"]
            codes = {"containerName": "tollgate-await", "operator": "In", "values": [76, 77, 78]}
            self.assertEqual(job["podFailurePolicy"], {"rules": [{"action": "FailJob", "onExitCodes": codes}]})
            self.assertEqual(pod_spec(document)["initContainers"][1]["args"], ["await", "--refused-after", "30s"])
        self.refused({"tollgate": {"refused": "fail"}}, "is for a Job or CronJob")
        self.refused({"kind": "Job", "tollgate": {"refused": "fail", "gate": "exec", "settings": {"quit": True}}}, "needs gate native")
        job = "apiVersion: batch/v1\nkind: Job\nmetadata: { name: x }\n" \
            "spec: { MORE template: { spec: { restartPolicy: POLICY, containers: [{ name: a, image: b }] } } }"
        _, error = self.of(job.replace("MORE", "").replace("POLICY", "OnFailure"), {"refused": "fail"})
        self.assertIn("needs restartPolicy: Never", error)
        _, error = self.of(job.replace("MORE", "podReplacementPolicy: TerminatingOrFailed,").replace("POLICY", "Never"), {"refused": "fail"})
        self.assertIn("needs podReplacementPolicy: Failed", error)
        theirs = "podFailurePolicy: { rules: [{ action: Ignore, onPodConditions: [{ type: DisruptionTarget, status: 'True' }] }] },"
        (document,), _ = self.of(job.replace("MORE", theirs).replace("POLICY", "Never"), {"refused": "fail"})
        self.assertEqual([rule["action"] for rule in document["spec"]["podFailurePolicy"]["rules"]], ["FailJob", "Ignore"])

    def test_it_stands_last_or_first_among_the_pods_own_init_containers(self):
        def names(values):
            (deployment,), error = self.of(simple(pod="initContainers: [{ name: one, image: i }, { name: two, image: i }],"), values)
            return [container["name"] for container in pod_spec(deployment)["initContainers"]]

        self.assertEqual(names({}), ["one", "two", "tollgate", "tollgate-await"])
        self.assertEqual(names({"position": "first"}), ["tollgate", "tollgate-await", "one", "two"])
        mixed = {"products": [*named("p", position="first"), *named("q"), *named("r", position="first")]}
        self.assertEqual(names(mixed), ["p", "p-await", "r", "r-await", "one", "two", "q", "q-await"])
        self.refused({"tollgate": {"gate": "readiness", "position": "first"}}, "position first needs gate native")

    def test_values_of_the_startup_probe_are_refused_with_a_sentence(self):
        for old in ("startupPeriodSeconds", "startupFailureThreshold"):
            self.refused({"tollgate": {"probes": {old: 2}}}, f"remove tollgate.probes.{old}: the native form has no startup probe any more")

    def test_two_products_have_two_sidecars_with_ports_of_their_own(self):
        products = [{"productCode": "one", "settings": {"public_keys": "/keys"}}, {"productCode": "two", **METERED, "name": "second"}]
        pod = pod_spec(self.workload({"tollgate": {"products": products}}))
        names = [container["name"] for container in pod["initContainers"]]
        self.assertEqual(names, ["tollgate-0", "tollgate-0-await", "second", "second-await"])
        first, lock, second, other = pod["initContainers"]
        self.assertEqual([container["ports"][0]["containerPort"] for container in (first, second)], [19180, 19190])
        self.assertEqual(other["args"][:3], ["await", "--probe-addr", "127.0.0.1:19190"])
        # Kubernetes stops native sidecars one after the other.
        self.assertEqual(pod["terminationGracePeriodSeconds"], 30 + 25 + 25 + 15)

    def test_a_products_empty_value_beats_the_common_one(self):
        values = {"region": "eu-central-1", "probes": {"sidecarReadiness": True}, "products": [{"region": ""}]}
        sidecar = pod_spec(self.workload({"tollgate": values}))["initContainers"][0]
        self.assertNotIn("AWS_REGION", environment(sidecar))

    def test_what_equals_tollgates_defaults_is_left_to_the_sellers_file(self):
        def names(values):
            return set(environment(pod_spec(self.workload({"tollgate": values}))["initContainers"][0]))

        self.assertEqual(names({}), {"TOLLGATE_POD_UID"})
        self.assertEqual(names({"state": {"type": "none"}}), {"TOLLGATE_POD_UID", "TOLLGATE_STATE_DIR"})
        self.assertEqual(names({"state": {"type": "emptyDir"}, "mode": "metered"}), {"TOLLGATE_POD_UID", "TOLLGATE_DRAIN_QUIET"})
        own = {"mode": "metered", "state": {"type": "emptyDir"}, "settings": {"drain_quiet": "1s"}}
        self.assertEqual(names(own), {"TOLLGATE_POD_UID", "TOLLGATE_DRAIN_QUIET"})
        changed = names({
            "ports": {"probe": 20000, "app": 20001}, "shutdownGrace": "1m", "productCode": "x", "region": "eu-west-1",
            "settings": {"public_keys": "/keys"},
        })
        self.assertEqual(changed - names({}), {
            "TOLLGATE_PROBE_ADDR", "TOLLGATE_APP_ADDR", "TOLLGATE_SHUTDOWN_GRACE", "TOLLGATE_PRODUCT_CODE", "TOLLGATE_MODE", "AWS_REGION",
            "TOLLGATE_PUBLIC_KEYS",
        })

    def test_guaranteed_quality_of_service_is_possible(self):
        equal = {"cpu": "100m", "memory": "64Mi"}
        resources = f"resources: {{ requests: {equal}, limits: {equal} }}".replace("'", "")
        theirs = simple().replace("image: b", f"image: b, {resources}")
        for gate in ("native", "readiness", "exec"):
            values = {"gate": gate, "command": ["/x"], "resources": {"requests": equal, "limits": equal}}
            (deployment,), error = self.of(theirs, values)
            for container in pod_rules.everyone(deployment):
                self.assertEqual(container["resources"], {"requests": equal, "limits": equal}, (gate, error))


class Beside(ChartCase):
    def test_readiness_asks_by_the_sidecars_own_probe(self):
        theirs = simple().replace("image: b", "image: b, readinessProbe: { httpGet: { path: /ready, port: 8080 } }")
        for template in (simple(), theirs):
            (deployment,), _ = self.of(template, {"gate": "readiness"})
            main, sidecar = pod_spec(deployment)["containers"]
            self.assertEqual(main.get("readinessProbe"), yaml.safe_load(template)["spec"]["template"]["spec"]["containers"][0].get("readinessProbe"))
            # A pod is ready when all its containers are.
            self.assertEqual(sidecar["readinessProbe"]["httpGet"], {"path": "/readyz", "port": 19180})
        several = pod_spec(self.workload({"tollgate": {"gate": "readiness", "products": named("a", "b")}}))
        asked = [container["readinessProbe"]["httpGet"]["port"] for container in several["containers"][1:]]
        self.assertEqual(asked, [19180, 19190])

    def test_exec_puts_await_before_the_command(self):
        pod = pod_spec(self.workload({"tollgate": {"gate": "exec", "command": ["/serve", "--fast"]}}))
        command = pod["containers"][0]["command"]
        self.assertEqual(command[:2] + command[-3:], ["/opt/tollgate/tollgate", "await", "--", "/serve", "--fast"])
        self.assertEqual(pod["initContainers"][0]["args"], ["install", "/opt/tollgate"])
        # A build with the emulator is larger than the released one, and a pod above the limit is evicted.
        room = next(volume for volume in pod["volumes"] if volume["name"] == "tollgate-bin")["emptyDir"]["sizeLimit"]
        self.assertGreaterEqual(pod_rules.quantity(room), 128 * 2**20)
        # The values need no copy of the template's own command.
        self.assertEqual(pod_spec(self.workload({"tollgate": {"gate": "exec"}}))["containers"][0]["command"][-2:], ["--", "/your-app"])
        # Two products: one copy of the binary, one wait after the other, then the command.
        products = [{"name": "one"}, {**METERED, "name": "second"}]
        pod = pod_spec(self.workload({"tollgate": {"products": products, "gate": "exec", "command": ["/serve"]}}))
        wait = ["/opt/tollgate/tollgate", "await", "--probe-addr"]
        second, first = [*wait, "127.0.0.1:19190", "--"], [*wait, "127.0.0.1:19180", "--"]
        self.assertEqual(pod["containers"][0]["command"], [*second, *first, "/serve"])
        self.assertEqual([container["name"] for container in pod["initContainers"]], ["tollgate-install"])
        self.assertEqual(len(pod["containers"][0]["volumeMounts"]), 1)
        _, error = self.of(simple(), {"gate": "exec"})
        self.assertIn("must stand in tollgate.command", error)
        self.refused({"tollgate": {"gate": "exec", "container": "absent"}}, "no container named absent to gate")


class Socket(ChartCase):
    metered = {**METERED, "appSocket": True}
    address = "unix:/run/tollgate/app.sock"

    def test_one_value_gives_sidecar_and_main_containers_the_socket(self):
        two = simple().replace("{ name: a, image: b }", "{ name: a, image: b }, { name: c, image: d, env: null, volumeMounts: null }")
        for gate in ("native", "readiness", "exec"):
            (deployment,), error = self.of(two, {**self.metered, "gate": gate, "command": ["/x"]})
            containers = {container["name"]: container for container in pod_rules.everyone(deployment)}
            folder = {"name": "tollgate-socket", "mountPath": "/run/tollgate"}
            self.assertIn(folder, containers["tollgate"]["volumeMounts"], error)
            self.assertEqual(environment(containers["tollgate"])["TOLLGATE_APP_ADDR"], self.address)
            for name in "ac":
                self.assertIn({**folder, "readOnly": True}, containers[name]["volumeMounts"])
                self.assertEqual(environment(containers[name]), {"TOLLGATE_APP_ADDR": self.address})
            for name in {"tollgate-await", "tollgate-install"} & set(containers):
                self.assertNotIn("tollgate-socket", [mount["name"] for mount in containers[name].get("volumeMounts", [])])
            pod = pod_spec(deployment)
            self.assertIn({"name": "tollgate-socket", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}, pod["volumes"])
            # The autoscaler minds volumes on the node's disk only. The socket's mode needs no common group.
            annotations = deployment["spec"]["template"]["metadata"]["annotations"]
            self.assertEqual(annotations["cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"], "tollgate-state")
            self.assertNotIn("securityContext", pod)
        self.assertEqual(self.documents({"tollgate": {**METERED, "appSocket": None}}), self.documents({"tollgate": METERED}))

    def test_what_the_vendor_says_stays(self):
        own = simple().replace("image: b", "image: b, env: [{ name: TOLLGATE_APP_ADDR, value: mine }]")
        (deployment,), _ = self.of(own, self.metered)
        self.assertEqual(environment(pod_spec(deployment)["containers"][0]), {"TOLLGATE_APP_ADDR": "mine"})
        taken = simple().replace("image: b", "image: b, volumeMounts: [{ name: v, mountPath: /run/tollgate }]")
        _, error = self.of(taken, {**self.metered, "extraVolumes": [{"name": "v", "emptyDir": {}}]})
        self.assertIn("container a of Deployment x has two volumes at /run/tollgate", error)
        self.refused({"tollgate": {**self.metered, "settings": {"dimensions": "a", "aws_door": True}}}, "an AWS SDK calls no Unix socket")

    def test_two_products_have_two_sockets_and_no_address_that_names_one(self):
        pod = pod_spec(self.workload({"tollgate": {**self.metered, "productCode": "", "products": named("one", "two")}}))
        self.assertEqual([mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]], ["/run/one", "/run/two"])
        self.assertNotIn("env", pod["containers"][0])
        told = [environment(container)["TOLLGATE_APP_ADDR"] for container in pod["initContainers"] if container["args"] == ["run"]]
        self.assertEqual(told, ["unix:/run/one/app.sock", "unix:/run/two/app.sock"])

    def test_the_port_is_free_for_the_application(self):
        theirs = simple(pod="hostNetwork: true,").replace("image: b", "image: b, ports: [{ containerPort: 19181 }]")
        _, error = self.of(theirs, METERED)
        self.assertIn("port 19181 is also that of container a", error)
        (deployment,), error = self.of(theirs, self.metered)
        ports = [port["containerPort"] for port in pod_spec(deployment)["containers"][0]["ports"]]
        self.assertEqual(ports, [19181, 19180], error)


class Writers(ChartCase):
    def test_a_claim_is_for_one_pod_at_a_time(self):
        self.assertEqual(self.workload({"tollgate": CLAIM})["spec"]["strategy"], {"type": "Recreate"})
        (deployment,), _ = self.of(simple(spec="strategy: { type: Recreate },"), CLAIM)
        self.assertEqual(deployment["spec"]["strategy"], {"type": "Recreate"})
        self.refused({"replicas": 3, "tollgate": CLAIM}, "the claim usage is for one pod at a time, and Deployment shop runs 3")
        self.refused({"replicas": 3, "kind": "StatefulSet", "tollgate": CLAIM}, "state.type volumeClaimTemplate")
        self.refused({"kind": "DaemonSet", "tollgate": CLAIM}, "one on every node")
        _, error = self.of(simple(spec="strategy: { type: RollingUpdate },"), CLAIM)
        self.assertIn("a rolling update of Deployment x waits for a second", error)
        overlapping = "apiVersion: batch/v1\nkind: CronJob\nmetadata: { name: x }\nspec: { schedule: '* * * * *', jobTemplate: { spec: " \
            "{ template: { spec: { restartPolicy: Never, containers: [{ name: a, image: b }] } } } } }"
        _, error = self.of(overlapping, CLAIM)
        self.assertIn("set its concurrencyPolicy to Forbid", error)
        hourly = {"state": CLAIM["state"]}
        self.refused({"replicas": 2, "tollgate": hourly}, "one pod at a time")
        # The second form is the one that `tollgate config init` writes.
        for name in ({}, {"claimName": ""}, {"claimName": None}):
            self.refused({"tollgate": {**METERED, "state": {"type": "persistentVolumeClaim", **name}}}, "tollgate: set tollgate.state.claimName")
        self.refused({"tollgate": {**CLAIM, "products": named("a", "b")}}, "the claim usage is used by Deployment shop, product a and by")

    def test_a_stateful_set_makes_a_volume_for_each_replica(self):
        state = {"type": "volumeClaimTemplate", "storageClassName": "gp3", "sizeLimit": "5Gi"}
        document = self.workload({"kind": "StatefulSet", "replicas": 3, "tollgate": {**METERED, "state": state}})
        (claim,) = document["spec"]["volumeClaimTemplates"]
        self.assertEqual(claim["metadata"]["name"], "tollgate-state")
        self.assertEqual(claim["spec"]["resources"], {"requests": {"storage": "5Gi"}})
        self.assertEqual((claim["spec"]["storageClassName"], claim["spec"]["accessModes"]), ("gp3", ["ReadWriteOnce"]))
        pod = pod_spec(document)
        self.assertEqual(pod["securityContext"]["fsGroup"], 65532)
        self.assertNotIn("volumes", pod)
        self.assertEqual(pod["initContainers"][0]["volumeMounts"], [{"name": "tollgate-state", "mountPath": "/var/lib/tollgate"}])
        self.refused({"tollgate": {**METERED, "state": state}}, "only a StatefulSet makes a volume for each of its pods")

    def test_one_writer_for_saas_through_updates_too(self):
        saas = {"mode": "saas", "state": {"type": "emptyDir"}}
        self.assertEqual(self.workload({"tollgate": saas})["spec"]["strategy"], {"type": "Recreate"})
        self.refused({"replicas": 3, "tollgate": saas}, "one writer")
        self.refused({"kind": "DaemonSet", "tollgate": saas}, "one writer")
        _, error = self.of(simple(spec="strategy: { type: RollingUpdate },"), saas)
        self.assertIn("one writer", error)
        parallel = "apiVersion: batch/v1\nkind: Job\nmetadata: { name: x }\n" \
            "spec: { parallelism: 2, template: { spec: { containers: [{ name: a, image: b }] } } }"
        _, error = self.of(parallel, saas)
        self.assertIn("one writer", error)

    def test_every_emptydir_has_room_for_a_ledger(self):
        # The chart does not know the image's mode, and a ledger in a small volume would get the pod evicted.
        for values in ({}, {"mode": "hourly"}, {"products": [{"mode": "hourly"}]}):
            pod = pod_spec(self.workload({"tollgate": values}))
            self.assertEqual([volume["emptyDir"] for volume in pod["volumes"]], [{"sizeLimit": "2Gi"}])
        self.refused({"tollgate": {"settings": {"ledger_bytes_max": "4GiB"}}}, "a ledger of 4GiB does not fit into a volume of 2Gi")
        self.assertNotIn("volumes", pod_spec(self.workload({"tollgate": {"state": {"type": "none"}}})))
        self.assertEqual(pod_spec(self.workload({"tollgate": METERED}))["volumes"][0]["emptyDir"], {"sizeLimit": "2Gi"})
        small = {**METERED, "state": {"type": "emptyDir", "sizeLimit": "64Mi"}}
        self.refused({"tollgate": small}, "a ledger of 1GiB does not fit into a volume of 64Mi")
        self.workload({"tollgate": {**small, "settings": {"dimensions": "a", "ledger_bytes_max": "32MiB"}}})

    def test_a_claim_gets_an_fs_group_unless_the_pod_has_one(self):
        (stateful,), _ = self.of(simple(pod="securityContext: { runAsUser: 1000660000 },"), CLAIM)
        self.assertEqual(pod_spec(stateful)["securityContext"], {"runAsUser": 1000660000, "fsGroup": 65532})
        (stateful,), _ = self.of(simple(pod="securityContext: { fsGroup: 7 },"), CLAIM)
        self.assertEqual(pod_spec(stateful)["securityContext"], {"fsGroup": 7})


    def test_one_sidecar_for_each_product_of_a_pod(self):
        for products in ([{"name": "a"}, {"name": "b"}], [{"name": name, **METERED} for name in "ab"]):
            self.refused({"tollgate": {"products": products}}, "Deployment shop has two sidecars for one product")

    def test_one_writer_for_saas_among_all_workloads(self):
        two = '(list . "other") }}\n{{ include "tollgate.workload" (list . "second"%s)'
        second = simple().replace("name: x", "name: second")
        both = f'{simple()}\n{{{{- end -}}}}\n{{{{- define "second" -}}}}\n{second}'
        saas = {"tollgate": {"mode": "saas", "state": {"type": "emptyDir"}}}
        _, error = self.of(both, include=two % "", values=saas)
        self.assertIn("is used by Deployment x, product tollgate and by Deployment second, product tollgate: run one", error)
        more = ' (dict "productCode" "another" "settings" (dict "dimensions" (list "a")))'
        documents, error = self.of(both, include=two % more, values=saas)
        self.assertEqual(len(documents), 2, error)


class Contract(ChartCase):
    def sidecar(self, values):
        return pod_spec(self.workload({"tollgate": values}))["initContainers"][0]

    def test_the_product_is_named_by_its_id(self):
        given = {**CONTRACT, "settings": {"entitlements": ["users:Count:10", "premium"]}}
        told = environment(self.sidecar(given))
        self.assertEqual(told, {
            "TOLLGATE_POD_UID": None, "TOLLGATE_MODE": "contract", "TOLLGATE_PRODUCT_ID": PRODUCT_ID,
            "TOLLGATE_ENTITLEMENTS": "users:Count:10,premium",
        })
        self.assertEqual(environment(self.sidecar(FLOATING))["TOLLGATE_LICENSE_MODEL"], "floating")
        # Settings of the seller's file in the image are not set again.
        self.assertEqual(environment(self.sidecar({"mode": "contract", "licenseModel": "floating"})), {"TOLLGATE_POD_UID": None})
        self.refused({"tollgate": {"mode": "contract", "productCode": "demo"}}, "set tollgate.productId, and leave productCode out")
        self.refused({"tollgate": {**CONTRACT, "productId": "4h9bqmt5uxk8k7p6w6n9rfwkp"}}, "productId 4h9bqmt5uxk8k7p6w6n9rfwkp is a product code")
        for name, value in (("productId", PRODUCT_ID), ("licenseModel", "floating"), ("licenseSecret", "license")):
            self.refused({"tollgate": {**METERED, name: value}}, f"{name} is for mode contract, and that of product tollgate is metered")
        twice = {"products": [{**CONTRACT, "name": name} for name in "ab"]}
        self.refused({"tollgate": twice}, f"two sidecars for one product (productId {PRODUCT_ID})")

    def test_the_checkout_has_a_folder_that_outlives_the_container(self):
        pod = pod_spec(self.workload({"tollgate": {"mode": "contract"}}))
        self.assertEqual(pod["volumes"], [{"name": "tollgate-state", "emptyDir": {"sizeLimit": "2Gi"}}])
        self.assertEqual(pod["initContainers"][0]["volumeMounts"], [{"name": "tollgate-state", "mountPath": "/var/lib/tollgate"}])
        # The application's time, then that of the check-in.
        self.assertEqual(pod["terminationGracePeriodSeconds"], 30 + 25 + 15)
        self.refused({"tollgate": {**CONTRACT, "state": {"type": "none"}}}, "so that a restart finds its seats again: leave tollgate.state.type out")
        kept = {**FLOATING, "state": {"type": "volumeClaimTemplate", "sizeLimit": "1Gi"}}
        document = self.workload({"kind": "StatefulSet", "replicas": 3, "tollgate": kept})
        self.assertEqual(document["spec"]["volumeClaimTemplates"][0]["metadata"]["name"], "tollgate-state")
        claimed = {**FLOATING, "state": CLAIM["state"]}
        self.assertEqual(self.workload({"tollgate": claimed})["spec"]["strategy"], {"type": "Recreate"})
        self.refused({"replicas": 2, "tollgate": claimed}, "one pod at a time")

    def test_a_rolling_update_waits_for_no_seat_that_an_old_pod_holds(self):
        def strategy(values, spec=""):
            (deployment,), error = self.of(simple(spec=spec), values)
            return deployment["spec"].get("strategy"), error

        ours = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "25%"}}
        self.assertEqual(strategy({"mode": "contract", "licenseModel": "floating"})[0], ours)
        self.assertEqual(strategy(FLOATING, "strategy: { type: RollingUpdate },")[0], ours)
        self.assertEqual(strategy(FLOATING, "strategy: { type: Recreate },")[0], {"type": "Recreate"})
        theirs = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 2}}
        self.assertEqual(strategy(FLOATING, "strategy: { type: RollingUpdate, rollingUpdate: { maxSurge: 2 } },")[0], theirs)
        self.assertEqual(strategy(CONTRACT)[0], None)

    def test_outside_aws_the_sidecar_gets_the_license_and_nobody_else(self):
        values = {**CONTRACT, "licenseSecret": "license"}
        pod = pod_spec(self.workload({"tollgate": values}))
        sidecar, lock = pod["initContainers"]
        self.assertEqual(environment(sidecar)["AWS_WEB_IDENTITY_REFRESH_TOKEN_FILE"], "/var/run/secrets/product-license/license_token")
        role = next(entry for entry in sidecar["env"] if entry["name"] == "AWS_ROLE_ARN")
        self.assertEqual(role["valueFrom"], {"secretKeyRef": {"name": "license", "key": "iam_role"}})
        mount = {"name": "tollgate-license", "mountPath": "/var/run/secrets/product-license", "readOnly": True}
        self.assertIn(mount, sidecar["volumeMounts"])
        secret = {"secretName": "license", "items": [{"key": "license_token", "path": "license_token"}]}
        self.assertIn({"name": "tollgate-license", "secret": secret}, pod["volumes"])
        for container in (lock, *pod["containers"]):
            self.assertNotIn("tollgate-license", [mount["name"] for mount in container.get("volumeMounts", [])])
        self.refused({"tollgate": {**values, "settings": {"license_token_file": "/x"}}}, "leave settings.license_token_file out")
        role = {"create": True, "roleArn": "arn:aws:iam::111122223333:role/app"}
        self.refused({"tollgate": {**values, "serviceAccount": role}}, "leave serviceAccount.roleArn out outside AWS")


class Settings(ChartCase):
    def told(self, settings, sentence):
        """Expects the sentence for a setting that the schema does not check."""
        _, error = self.of(simple(), include=f'(list . "other" (dict "settings" (dict {settings})))')
        self.assertIn(f"tollgate: settings.{sentence}", error)

    def test_the_templates_know_the_settings_of_the_schema(self):
        schema = json.loads((ROOT / "helm/tollgate/values.schema.json").read_text())["definitions"]["settings"]["properties"]
        forms = setting_forms()
        self.assertEqual(set(forms), set(schema))
        for name, form in forms.items():
            with self.subTest(name):
                pattern = schema[name].get("pattern")
                self.assertEqual(form.get("list", False), "array" in schema[name].get("type", []))
                if "enum" in schema[name]:
                    self.assertEqual(set(form["words"]), {value for value in schema[name]["enum"] if isinstance(value, str)})
                elif "most" in form:
                    self.assertEqual((form.get("closes", False), "[0-9]+ms" in pattern), ("close-after" in pattern, True))
                elif name != "log_filter":
                    self.assertEqual(form.get("pattern"), pattern)

    def test_a_list_is_joined_and_a_dict_refused(self):
        listed = {**METERED, "settings": {"dimensions": ["requests", "gigabytes"]}}
        sidecar = pod_spec(self.workload({"tollgate": listed}))["initContainers"][0]
        self.assertEqual(environment(sidecar)["TOLLGATE_DIMENSIONS"], "requests,gigabytes")
        include = '(list . "other" (dict "settings" (dict "dimensions" (list "a" "b"))))'
        (deployment,), error = self.of(simple(), include=include, values={"tollgate": {**METERED, "settings": {}}})
        self.assertEqual(environment(pod_spec(deployment)["initContainers"][0])["TOLLGATE_DIMENSIONS"], "a,b", error)
        self.told('"dimensions" (dict "a" "b")', "dimensions takes one value, and not a list or a dict")
        self.told('"dimension" (list "a")', "dimension takes one value, and not a list or a dict")
        self.told('"dimension" (dict "heartbeat" 1)', "dimension.heartbeat is no dict: name the dimension")
        self.told('"dimension" "heartbeat = 1"', "dimension is heartbeat = 1; write a dict of dicts")

    def test_the_rules_of_dimensions_become_one_inline_table(self):
        rules = {"node hours": {"heartbeat": 0.5, "rounding": {"mode": "up", "digits": 0}, "scale": None}, "a<b": {"per_pod": True, "scale": 1000000}}
        priced = {**METERED, "settings": {"dimensions": ["node hours", "a<b"], "dimension": rules}}
        for documents in (self.documents({"tollgate": priced}), self.documents4({"tollgate": priced})):
            (deployment,) = [document for document in documents if document["kind"] == "Deployment"]
            text = environment(pod_spec(deployment)["initContainers"][0])["TOLLGATE_DIMENSION"]
            rules["node hours"].pop("scale", None)
            self.assertEqual(tomllib.loads(f"rules = {text}")["rules"], rules)
        given = {**METERED, "settings": {"dimensions": "a", "dimension": "{ a = { heartbeat = 1 } }"}}
        sidecar = pod_spec(self.workload({"tollgate": given}))["initContainers"][0]
        self.assertEqual(environment(sidecar)["TOLLGATE_DIMENSION"], "{ a = { heartbeat = 1 } }")
        for wrong in (
            {"heartbeat": 0}, {"scale": "bytes:GX"}, {"scale": 0}, {"scale": "0.0000001"}, {"aggregation": "avg"}, {"per_pod": "yes"}, {"price": 1},
            {"rounding": "up"}, {"rounding": {"digits": 0}}, {"rounding": {"mode": "up", "digits": 7}}, {"rounding": {"mode": "down", "digits": 0}},
        ):
            with self.subTest(wrong):
                self.refused({"tollgate": {**METERED, "settings": {"dimensions": "a", "dimension": {"a": wrong}}}}, "dimension")
        self.told('"on_lapse" (list "keep")', "on_lapse takes one value")
        self.told('"dimensions" (list "a" " ")', 'dimensions holds " ", which is no name')
        self.told('"dimensions" (list "a" 1)', "dimensions holds 1, which is no name")

    def test_a_setting_of_an_include_is_judged_as_one_of_the_values(self):
        for given, sentence in (
            ('"onUnsent" "keep"', "onUnsent is no setting that the chart passes on: write on_unsent"),
            ('"on-unsent" "keep"', "on-unsent is no setting that the chart passes on: write on_unsent"),
            ('"product_code" "x"', "product_code is no setting that the chart passes on: docs/CONFIGURATION.md"),
            ('"quit" "yes"', "quit is yes; give one of true, false, on, off"),
            ('"settle" 120', "settle is 120; write a duration, such as 1h30m"),
            ('"settle" ""', "settle is ; choose between 0s and 59m"),
            ('"docs_url" "x"', "docs_url is x; write an address"),
            ('"log_filter" "inof"', "log_filter is inof; write off, error, warn"),
        ):
            self.told(given, sentence)
        for state, sentence in (
            ('"sizelimit" "2Gi"', "state has sizelimit, which is none of type, claimName"), ('"type" "emptydir"', "state.type is emptydir; give one of none"),
            ('"sizeLimit" "2 GB"', "state.sizeLimit is 2 GB"), ('"claimName" 7', "state.claimName must be a string"),
        ):
            _, error = self.of(simple(), include=f'(list . "other" (dict "state" (dict {state})))')
            self.assertIn(f"option {sentence}", error)
        _, error = self.of(simple(), include='(list . "other" (dict "region" "Europe"))')
        self.assertIn("option region is Europe, which is no AWS region", error)

    def test_values_that_the_sidecar_refuses_are_refused(self):
        for settings, sentence in (
            ({"settle": "1h"}, "settle is 1h; choose between 0s and 59m"), ({"on_unsent": "close-after:90m"}, "on_unsent is close-after:90m; choose between 2h"),
            ({"on_unsent": "close-after:"}, "on_unsent is close-after:; choose"), ({"idempotency_window": "1h"}, "choose between 2h and 30d"),
            ({"grace_period": "367d"}, "choose between 0s and 366d"), ({"ledger_bytes_max": "8MiB"}, "ledger_bytes_max is 8MiB; choose 16MiB or more"),
            ({"renew_every": "30s"}, "renew_every is 30s; choose between 1m and 12h"),
            ({"log_filter": "info,"}, "log_filter is info,; write off"), ({"drain_quiet": "61m"}, "choose between 0s and 1h"),
        ):
            self.refused({"tollgate": {"settings": settings}}, sentence)
        self.refused({"tollgate": {"shutdownGrace": "61m"}}, "shutdownGrace is at most 1h")
        good = {"log_filter": "Info,tollgate::registration=debug", "on_lapse": "close-after:0s", "settle": "59m", "idempotency_window": "30d"}
        self.workload({"tollgate": {"settings": good}})

    def test_null_in_settings_and_products_is_the_default(self):
        product = {"name": "tollgate", "image": {"tag": None, "registry": None}, "settings": {"settle": None, "quit": None}, "state": {"type": None}, "gate": None}
        product.update(ports={"probe": None}, mode=None, extraEnv=None, command=None, resources={"limits": {"memory": None}}, proxy=None, shutdownGrace=None)
        self.assertEqual(self.documents({"tollgate": {"products": [product]}}), self.documents({}))
        self.assertEqual(self.documents({"tollgate": {"products": [None]}}), self.documents({}))
        self.assertEqual(self.documents({"tollgate": {"settings": {"settle": None, "dimensions": None, "on_denied": None}}}), self.documents({}))


class Surroundings(ChartCase):
    workload_with_a_past = """
apiVersion: v1
kind: Service
metadata: { name: front }
spec: { ports: [{ port: 80 }] }
---
apiVersion: apps/v1
kind: StatefulSet
metadata: { name: data }
spec:
  serviceName: front
  selector: { matchLabels: { a: b } }
  template:
    metadata:
      labels: { a: b }
      annotations:
        cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes: scratch
        traffic.sidecar.istio.io/excludeOutboundPorts: "5432"
    spec:
      automountServiceAccountToken: true
      terminationGracePeriodSeconds: 300
      securityContext: { runAsUser: 1000660000 }
      initContainers: [{ name: migrate, image: "migrate:1" }]
      containers: [{ name: db, image: "db:1", args: ["on", "0644", "1e3"] }]
      volumes: [{ name: scratch, emptyDir: {} }]
"""

    def test_what_a_workload_had_it_keeps(self):
        values = {**METERED, "mesh": "istio", "products": named("one", "two")}
        (service, stateful), _ = self.of(self.workload_with_a_past, values)
        self.assertEqual(service["spec"], {"ports": [{"port": 80}]})
        template = stateful["spec"]["template"]
        self.assertEqual(template["metadata"]["annotations"], {
            "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes": "scratch,one-state,two-state",
            "traffic.sidecar.istio.io/excludeOutboundPorts": "5432,443,53",
            "traffic.sidecar.istio.io/excludeInboundPorts": "19180,19190",
            "sidecar.istio.io/nativeSidecar": "true",
            "eks.amazonaws.com/skip-containers": "one-await,two-await",
        })
        pod = template["spec"]
        self.assertTrue(pod["automountServiceAccountToken"])
        self.assertEqual(pod["terminationGracePeriodSeconds"], 300 + 25 + 25 + 15)
        # No fsGroup: it would change the group of the application's own volumes.
        self.assertEqual(pod["securityContext"], {"runAsUser": 1000660000})
        self.assertEqual(pod["containers"], [{"name": "db", "image": "db:1", "args": ["on", "0644", "1e3"]}])
        self.assertEqual([container["name"] for container in pod["initContainers"]], ["migrate", "one", "one-await", "two", "two-await"])
        self.assertEqual(pod["volumes"][0], {"name": "scratch", "emptyDir": {}})

    def test_a_template_without_workload_or_yaml_is_refused(self):
        _, error = self.of("apiVersion: v1\nkind: Service\nmetadata: { name: front }")
        self.assertIn("renders nothing to gate", error)
        _, error = self.of("apiVersion: [")
        self.assertIn("other is no YAML", error)

    def test_null_is_the_default_wherever_it_stands(self):
        self.assertEqual(self.documents({"tollgate": {"resources": {"limits": None}, "state": None, "ports": None, "mesh": None}}), self.documents({}))
        values = {"settings": None, "products": None, "proxy": {"https": None}, "probes": None, "extraEnv": None, "image": {"digest": None}}
        self.assertEqual(self.documents({"tollgate": values}), self.documents({}))
        nothing = simple(pod="initContainers: null, volumes: null, securityContext: null, terminationGracePeriodSeconds: null,")
        nothing = nothing.replace("template: {", "template: { metadata: { annotations: null },").replace("image: b", "image: b, ports: null, env: null")
        (deployment,), error = self.of(nothing, METERED)
        self.assertEqual([container["name"] for container in pod_rules.everyone(deployment)], ["tollgate", "tollgate-await", "a"], error)
        for broken in ("spec: null", "spec: { template: null }", "spec: { template: { spec: { containers: null } } }"):
            _, error = self.of(f"apiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: x }}\n{broken}")
            self.assertIn("tollgate: the pod template of Deployment x has no containers to gate", error)

    def test_the_defaults_in_the_templates_are_the_file_of_values(self):
        text = (ROOT / "helm/tollgate/templates/_values.tpl").read_text()
        defaults = re.search(r'define "tollgate.defaults" -\}\}\n(.*?)\{\{- end', text, re.S)[1]
        self.assertEqual(yaml.safe_load(defaults), yaml.safe_load((ROOT / "helm/tollgate/values.yaml").read_text()))

    def test_an_alias_is_named_in_the_include(self):
        alias = "    alias: gate\n"
        without, error = self.of(simple(), alias=alias, values={"gate": {}})
        self.assertEqual(without, [])
        self.assertIn("tollgate: the chart has no values under tollgate: where Chart.yaml gives the dependency an alias, name it", error)
        include = '(list . "other" (dict "alias" "gate"))'
        (deployment,), error = self.of(simple(), alias=alias, include=include, values={"gate": {"ports": {"probe": 20000}}})
        self.assertEqual(pod_spec(deployment)["initContainers"][0]["ports"][0]["containerPort"], 20000, error)

    def test_a_workload_has_values_of_its_own(self):
        include = '(list . "other" (dict "gate" "exec" "mode" "metered" "command" (list "/worker") "state" (dict "type" "emptyDir")))'
        (deployment,), error = self.of(simple(), include=include, values={"tollgate": {"gate": "native"}})
        pod = pod_spec(deployment)
        self.assertEqual(pod["containers"][0]["command"][-2:], ["--", "/worker"], error)
        self.assertEqual(pod["volumes"][-1], {"name": "tollgate-state", "emptyDir": {"sizeLimit": "2Gi"}})
        for option, sentence in (
            ('"gat" "exec"', "option gat is none of alias, gate"), ('"gate" "exce"', "option gate is exce; give one of native"),
            ('"command" "/x"', "option command must be a list"), ('"state" "none"', "option state must be a dict"),
        ):
            _, error = self.of(simple(), include=f'(list . "other" (dict {option}))')
            self.assertIn(sentence, error)

    def test_the_options_know_the_words_of_the_schema(self):
        schema = json.loads((ROOT / "helm/tollgate/values.schema.json").read_text())["definitions"]
        for option in ("gate", "position", "refused", "mode", "licenseModel"):
            _, error = self.of(simple(), include=f'(list . "other" (dict "{option}" "else"))')
            self.assertIn(f"option {option} is else; give one of {', '.join(filter(None, schema[option]['enum']))}", error)

    def test_two_workloads_share_neither_claim_nor_names(self):
        two = '(list . "other") }}\n{{ include "tollgate.workload" (list . "second")'
        second = simple().replace("name: x", "name: second")
        both = f'{simple()}\n{{{{- end -}}}}\n{{{{- define "second" -}}}}\n{second}'
        _, error = self.of(both, include=two, values={"tollgate": CLAIM})
        self.assertIn("the claim usage is used by Deployment x, product tollgate and by Deployment second, product tollgate: give each its own", error)
        documents, error = self.of(both, include=two, values={"tollgate": METERED})
        self.assertEqual([document["metadata"]["name"] for document in documents], ["x", "second"], error)
        resources = '(list . "other") }}\n{{ include "tollgate.resources" (list . (dict "a" "b")) }}\n{{ include "tollgate.resources" (list . (dict "c" "d")%s)'
        values = {"tollgate": {"serviceAccount": {"create": True}, "networkPolicy": {"enabled": True}, "prometheusRule": {"enabled": True}}}
        _, error = self.of(simple(), include=resources % "", values=values)
        self.assertIn("the name shop-tollgate is used by one tollgate.resources", error)
        documents, error = self.of(simple(), include=resources % ' (dict "name" "worker")', values=values)
        self.assertEqual(pod_rules.repeated((document["kind"], document["metadata"]["name"]) for document in documents), [], error)
        kinds = sorted(document["kind"] for document in documents)
        self.assertEqual(kinds, ["Deployment", "NetworkPolicy", "NetworkPolicy", "PrometheusRule", "ServiceAccount"])

    def test_the_account_is_named_by_the_release(self):
        def account(values):
            documents = self.documents({"tollgate": {"serviceAccount": values}})
            made = [document["metadata"]["name"] for document in documents if document["kind"] == "ServiceAccount"]
            pod = next(pod_spec(document) for document in documents if document["kind"] == "Deployment")
            return made, pod.get("serviceAccountName")

        self.assertEqual(account({"create": True}), (["shop"], "shop"))
        self.assertEqual(account({"create": True, "name": "mine"}), (["mine"], "mine"))
        self.assertEqual(account({"create": False, "name": "theirs"}), ([], "theirs"))
        self.assertEqual(account({"create": False}), ([], None))
        role = "arn:aws:iam::111122223333:role/app"
        self.refused({"tollgate": {"serviceAccount": {"create": False, "roleArn": role}}}, "set tollgate.serviceAccount.create, or leave roleArn out")
        self.refused({"tollgate": {"serviceAccount": {"name": "default"}}}, "every namespace has the account default already")
        _, error = self.of(simple(pod="serviceAccountName: theirs,"), {"serviceAccount": {"create": True}})
        self.assertIn("Deployment x has the account theirs", error)

    def test_kubernetes_token_is_withheld_only_where_asked(self):
        def automount(values, pod=""):
            (deployment,), _ = self.of(simple(pod=pod), {"serviceAccount": values})
            return pod_spec(deployment).get("automountServiceAccountToken")

        self.assertEqual(automount({"automountToken": True}), None)
        self.assertEqual(automount({"automountToken": False}), False)
        self.assertEqual(automount({"automountToken": False}, "automountServiceAccountToken: true,"), True)

    def test_eks_gives_the_role_to_those_that_need_it(self):
        def skipped(values):
            annotations = self.workload({"tollgate": values})["spec"]["template"]["metadata"]["annotations"]
            return annotations.get("eks.amazonaws.com/skip-containers")

        self.assertEqual(skipped({}), "tollgate-await")
        self.assertEqual(skipped({"gate": "exec"}), "tollgate-install")
        self.assertEqual(skipped({"gate": "readiness"}), None)
        self.assertEqual(skipped({"serviceAccount": {"onlyTollgate": True}}), "tollgate-await,app")

    def test_on_the_nodes_network_the_ports_are_declared(self):
        (deployment,), error = self.of(simple(pod="hostNetwork: true,"))
        declared = [(port["containerPort"], port["hostPort"]) for port in pod_spec(deployment)["containers"][0]["ports"]]
        # On a main container, because before 1.34 the scheduler ignores ports of init containers.
        self.assertEqual(declared, [(19180, 19180), (19181, 19181)], error)
        # A port may be declared only once among the main containers, or the API server refuses the
        # pod.
        (deployment,), error = self.of(simple(pod="hostNetwork: true,"), {"gate": "readiness"})
        main, sidecar = pod_spec(deployment)["containers"]
        self.assertEqual(([port["containerPort"] for port in sidecar["ports"]], "ports" in main), ([19180, 19181], False), error)
        taken = simple().replace("image: b", "image: b, ports: [{ containerPort: 19181 }]")
        _, error = self.of(taken)
        self.assertIn("port 19181 is also that of container a: set tollgate.ports", error)

    def test_istio_lets_names_and_aws_through(self):
        annotations = self.workload({"tollgate": {"mesh": "istio", "proxy": {"https": "https://proxy"}}})["spec"]["template"]["metadata"]["annotations"]
        self.assertEqual(annotations["traffic.sidecar.istio.io/excludeOutboundPorts"], "443,53")
        self.assertEqual(annotations["traffic.sidecar.istio.io/excludeInboundPorts"], "19180")
        self.assertEqual(annotations["sidecar.istio.io/nativeSidecar"], "true")

    def test_what_cannot_work_is_refused_with_what_to_do(self):
        for values, sentence in (
            ({"mode": "metered"}, "set tollgate.state.type"),
            ({**METERED, "settings": {}}, "set tollgate.settings.dimensions"),
            ({"productCode": "demo"}, "set tollgate.settings.public_keys"),
            ({"products": [*named("a"), {"name": "a", "ports": {"probe": 1025, "app": 1026}}]}, "have the name a"),
            ({"products": named("app", "b")}, "two containers of the pod have the name app"),
            ({"products": [*named("a"), *named("b", ports={"probe": 19180, "app": 19185})]}, "port 19180 is also that of product a"),
            ({"ports": {"probe": 19181}}, "probe server and application server of product tollgate have the same port"),
            ({"ports": {"probe": 65530, "app": 65531}, "products": named("a", "b")}, "65540 is no port"),
            ({"state": {"type": "none"}, "settings": {"grace_period": "10m"}}, "grace_period is counted on disk"),
            ({"image": {"tag": ""}}, "set tollgate.image.tag"),
            ({"image": {"repository": ""}}, "set tollgate.image.repository to that of your gate"),
            ({"shutdownGrace": "4s"}, "shutdownGrace is at least 5s"),
            ({**METERED, "settings": {"dimensions": "a", "drain_quiet": "1m"}}, "leaves nothing of shutdownGrace"),
            ({"settings": {"aws_door": True, "app_token_file": "/token"}}, "aws_door cannot be used with app_token_file"),
            ({"resources": {"requests": {"memory": "64Mi"}}}, "resources.requests.memory (64Mi) is above resources.limits.memory (32Mi)"),
            ({"resources": {"requests": {"cpu": 1}, "limits": {"cpu": "900m"}}}, "resources.requests.cpu (1) is above"),
            ({"resources": {"requests": {"memory": "1Mi"}, "limits": {"memory": "8Mi"}}}, "less than the sidecar needs"),
            ({"extraEnv": [{"name": "TOLLGATE_POD_UID", "value": "x"}]}, "TOLLGATE_POD_UID is set twice"),
            ({"extraEnv": [{"name": "AWS_ENDPOINT_URL", "value": "x"}]}, "the sidecar refuses AWS_ENDPOINT_URL"),
            ({"extraVolumeMounts": [{"name": "absent", "mountPath": "/x"}]}, "mounts the volume absent, which Deployment shop does not have"),
            ({"extraVolumes": [{"name": "tollgate-state", "secret": {"secretName": "x"}}]}, "two volumes of the name tollgate-state"),
            ({"proxy": {"https": "http://proxy:70000"}}, "70000 is no port"),
        ):
            with self.subTest(sentence):
                self.refused({"tollgate": values}, sentence)
        self.refused({"kind": "Job", "tollgate": {"gate": "readiness"}}, "use gate native")
        self.workload({"tollgate": {"state": {"type": "none"}, "settings": {"grace_period": "0s"}}})
        self.assertIn("kubeVersion", self.helm3({}, version="1.28").stderr)
        _, error = self.of(simple(pod="os: { name: windows },"))
        self.assertIn("tollgate is a Linux program", error)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]], verbosity=2)
