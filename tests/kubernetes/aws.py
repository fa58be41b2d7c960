"""What AWS and EKS provide to a pod: the services, here by the emulator, and the webhook that gives pods their identity."""

import base64
import http.server
import json
import pathlib
import ssl
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "witness"))
import processes  # noqa: E402
from cluster import ADDRESS  # noqa: E402

WEBHOOK_PORT = 9443
TOKEN_FOLDER = "/var/run/secrets/eks.amazonaws.com/serviceaccount"
ROLE = "eks.amazonaws.com/role-arn"
SKIP = "eks.amazonaws.com/skip-containers"
BUYER = "111122223333"


class Emulator(processes.Emulator):
    """One world for each scenario, on the node's address: pods reach it as they reach AWS, over the network."""

    def __init__(self, program, keys, *arguments):
        super().__init__(program, "--keys", str(keys), *arguments, address=ADDRESS)

    def subscribe(self, subscribed):
        self.admin("customers", {"account_id": BUYER, "subscribed": subscribed})

    def fault(self, **rule):
        self.admin("faults", rule)

    def no_fault(self):
        self.admin("faults", method="DELETE")

    def advance(self, duration):
        self.admin("clock", {"advance": duration})

    def calls(self, operation):
        return [call for call in self.admin("calls")["calls"] if call["operation"] == operation]


class Webhook:
    """A stand-in for EKS's pod identity webhook, which also gives the emulator's address to every container of a pod.

    So charts and manifests are installed unchanged. Pods of a registered namespace get the emulator's address. A pod whose service account
    names a role gets a projected token, as on EKS. A container with a license token gets no more, as outside AWS. Every other container gets
    static credentials of its own.
    """

    def __init__(self, cluster):
        self.cluster = cluster
        self.worlds = {}
        webhook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                review = json.loads(self.rfile.read(int(self.headers["content-length"])))
                answer = json.dumps(webhook.answer(review)).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer((ADDRESS, WEBHOOK_PORT), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cluster.folder / "tls.pem", cluster.folder / "tls.key")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def configuration(self):
        authority = base64.b64encode((self.cluster.folder / "ca.pem").read_bytes()).decode()
        return {
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration", "metadata": {"name": "aws"},
            "webhooks": [{
                "name": "pods.aws.test", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail",
                "clientConfig": {"url": f"https://{ADDRESS}:{WEBHOOK_PORT}/", "caBundle": authority},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
            }],
        }

    def answer(self, review):
        request = review["request"]
        response = {"uid": request["uid"], "allowed": True}
        if request["namespace"] in self.worlds:
            patch = self.patch(request["namespace"], request["object"])
            response.update(patchType="JSONPatch", patch=base64.b64encode(json.dumps(patch).encode()).decode())
        return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}

    def patch(self, namespace, pod):
        spec = pod["spec"]
        account = spec.get("serviceAccountName", "default")
        annotations = self.cluster.get(f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}")["metadata"].get("annotations") or {}
        role = annotations.get(ROLE)
        skipped = (pod["metadata"].get("annotations") or {}).get(SKIP, "").split(",")
        for container in spec.get("initContainers", []) + spec["containers"]:
            given = {"AWS_REGION": "us-east-1", **self.worlds[namespace]}
            present = container.setdefault("env", [])
            names = {variable["name"] for variable in present}
            licensed = "AWS_WEB_IDENTITY_REFRESH_TOKEN_FILE" in names
            if licensed:
                given.update(AWS_EC2_METADATA_DISABLED="true")
            elif role and container["name"] not in skipped:
                given.update(AWS_ROLE_ARN=role, AWS_WEB_IDENTITY_TOKEN_FILE=f"{TOKEN_FOLDER}/token")
                mounts = container.setdefault("volumeMounts", [])
                mounts.append({"name": "aws-iam-token", "mountPath": TOKEN_FOLDER, "readOnly": True})
            elif not role:
                given.update(AWS_SECRET_ACCESS_KEY="any", AWS_EC2_METADATA_DISABLED="true")
            present += [{"name": name, "value": value} for name, value in given.items() if name not in names]
            if not (role or licensed) and "AWS_ACCESS_KEY_ID" not in names:
                # For the emulator every access key is a pod.
                present.append({"name": "AWS_ACCESS_KEY_ID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}})
        if role:
            token = {"serviceAccountToken": {"audience": "sts.amazonaws.com", "expirationSeconds": 600, "path": "token"}}
            spec.setdefault("volumes", []).append({"name": "aws-iam-token", "projected": {"sources": [token]}})
        return [{"op": "replace", "path": "/spec", "value": spec}]
