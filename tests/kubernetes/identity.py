"""IAM roles for service accounts: projected tokens of this API server, verified by the emulator's STS."""

import base64
import json

from cluster import API, run, wait
from scenarios import scenario
from stand import entitlement, name_of, running

ROLE = "arn:aws:iam::111122223333:role/your-app"
# tollgate renews credentials 10 minutes before their end.
SHORT = "10m20s"


@scenario()
def a_role_reaches_the_sidecar_and_is_renewed(stand):
    """IRSA: tokens verified against the API server's keys open the gate; credentials are renewed before their end, with the current token."""
    keys = stand.folder / "jwks.json"
    keys.write_text(stand.cluster.kubectl("get", "--raw", "/openid/v1/jwks").stdout)
    with stand.namespace("role", "--web-identity-jwks", keys, "--web-identity-issuer", API) as space:
        space.aws.fault(fault="short-lived", delay=SHORT)
        space.install(tollgate={
            "mode": "metered", "image": {"repository": "your-metered-gate"}, "state": {"type": "emptyDir"},
            "serviceAccount": {"roleArn": ROLE},
        })
        pod = space.started()
        account = json.loads(space.kubectl("get", "pod", name_of(pod), "-o", "json").stdout)["spec"]["serviceAccountName"]
        volume = stand.cluster.folder / f"kubelet/pods/{pod['metadata']['uid']}/volumes/kubernetes.io~projected/aws-iam-token/token"
        first = volume.read_text()

        def assumed():
            return [call for call in space.aws.calls("AssumeRoleWithWebIdentity") if call["outcome"] == "ok"]

        wait("credentials that were renewed", lambda: len(assumed()) >= 2)
        # A kubelet projects a new token when it starts, long before the old one ends.
        stand.node.disturb("kubelet restart")
        wait("a new token", lambda: volume.read_text() != first, patience=180)
        before = len(assumed())
        wait("credentials by the new token", lambda: len(assumed()) > before)
        assert running(space.pod(), "app") and entitlement(space.pod())["gate"] == "open"
        return f"{account}: {len(assumed())} sets of credentials"


@scenario()
def a_token_of_another_cluster_opens_nothing(stand):
    """IRSA: with another cluster's keys STS refuses, the gate stays shut, and describe names STS."""
    with stand.namespace("foreign", "--web-identity-jwks", foreign_keys(stand), "--web-identity-issuer", API) as space:
        space.install(tollgate={"serviceAccount": {"roleArn": ROLE}})
        pod = space.wait_for_pod("a reason", lambda pod: (answer := entitlement(pod)) and answer["reason"])
        reason = entitlement(pod)["reason"]
        assert "STS" in json.dumps(reason), reason
        wait("the reason in describe", lambda: reason["code"] in space.describe(pod), patience=60)
        assert not running(space.pod(), "app")
        return reason["code"]


def foreign_keys(stand):
    """The API server's key set with another key under the same name."""
    folder = stand.folder
    run("openssl", "genrsa", "-out", folder / "foreign.key", "2048")
    modulus = run("openssl", "rsa", "-in", folder / "foreign.key", "-noout", "-modulus").strip().partition("=")[2]
    keys = json.loads(stand.cluster.kubectl("get", "--raw", "/openid/v1/jwks").stdout)
    keys["keys"][0]["n"] = base64.urlsafe_b64encode(bytes.fromhex(modulus)).decode().rstrip("=")
    path = folder / "foreign.json"
    path.write_text(json.dumps(keys))
    return path
