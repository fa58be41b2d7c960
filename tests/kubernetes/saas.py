"""The chart of tollgate-saas: replicas that share a PostgreSQL database are rolled and killed under load, and the bill stays exact.

The cluster's network (CNI's bridge) does not enforce NetworkPolicies. Checked is that the API server accepts the chart's, and that every
connection that a replica has under load is one that its policy allows, so that a network which enforces it cuts nothing off.
"""

import concurrent.futures
import contextlib
import http.client
import json
import pathlib
import subprocess
import sys
import threading
import time
from decimal import Decimal

import names
from cluster import wait
from scenarios import scenario
from stand import ended, name_of, ready, restarts

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/packaging"))
import postgresql  # noqa: E402

TOKEN = "a-token-of-some-length"
PASSWORD = "a-password-for-this-test"
REPLICA = {"app.kubernetes.io/name": "tollgate-saas"}
DATABASE = {"app.kubernetes.io/name": "tollgate-saas-example-database"}
CUSTOMERS = [f"11112222333{number}" for number in range(3)]


def later(minutes):
    """The hours pass for the ledger, whose time is the database's."""
    return f"""CREATE OR REPLACE FUNCTION tollgate.ledger_now() RETURNS bigint LANGUAGE sql VOLATILE AS
        $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint + {minutes} * 60 * 1000 $$"""


class Load:
    """Applications that report to the Service's ready pods: each event has an id, and is sent until it is acknowledged."""

    def __init__(self, space, clients=4, service="usage", name=""):
        self.space, self.clients, self.service, self.name = space, clients, service, name
        self.stopped = threading.Event()
        self.acknowledged, self.unanswered = {}, 0
        self.lock = threading.Lock()

    def __enter__(self):
        self.pool = concurrent.futures.ThreadPoolExecutor(self.clients)
        self.running = [self.pool.submit(self.client, number) for number in range(self.clients)]
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.pool.shutdown()

    def finish(self):
        """Ends the load; every event that was sent is acknowledged then."""
        self.stopped.set()
        for client in self.running:
            client.result()

    def count(self):
        return len(self.acknowledged)

    def client(self, number):
        sent = 0
        while not self.stopped.is_set():
            sent += 1
            events = [
                {"id": f"{self.name}{number}-{sent}-{part}", "dimension": "requests", "quantity": part, "customer": {"account_id": CUSTOMERS[(sent + part) % 3]}}
                for part in range(1, 6)
            ]
            results = self.report(events)
            assert all(result["status"] in ("accepted", "duplicate") for result in results), results
            with self.lock:
                self.acknowledged.update({event["id"]: event for event in events})

    def report(self, events):
        """Sends the events until they are acknowledged, as a client of the Service: each time to a ready pod."""
        for turn in range(600):
            addresses = names.ready(self.space.stand.cluster, self.service, self.space.name)
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                if addresses:
                    connection = http.client.HTTPConnection(addresses[turn % len(addresses)], 19181, timeout=10)
                    with contextlib.closing(connection):
                        headers = {"content-type": "application/json", "authorization": f"Bearer {TOKEN}"}
                        connection.request("POST", "/v1/usage", json.dumps(events), headers)
                        answer = connection.getresponse()
                        if answer.status == 202:
                            return json.loads(answer.read())["results"]
                        assert answer.status == 503 and answer.getheader("retry-after"), (answer.status, answer.read())
            with self.lock:
                self.unanswered += 1
            time.sleep(0.2)
        raise AssertionError("no acknowledgement for two minutes")

    def more(self, count=100):
        """Waits for acknowledgements from now on."""
        target = self.count() + count
        wait("acknowledgements", lambda: self.count() >= target)


def replicas(space):
    return [pod for pod in space.pods(**REPLICA) if "deletionTimestamp" not in pod["metadata"]]


def url(password):
    return f"postgres://tollgate:{password}@usage-example-database/tollgate?sslmode=disable"


def chart(stand, space, example=True):
    """The chart, and the file of its values, as its README has them. The Secrets exist afterwards."""
    space.kubectl("create", "secret", "generic", "usage-token", f"--from-literal=token={TOKEN}")
    space.kubectl("create", "secret", "generic", "usage-database", f"--from-literal=password={PASSWORD}", f"--from-literal=url={url(PASSWORD)}")
    values = {
        "image": {"registry": "registry.example", "repository": "your-usage", "tag": "1.0.0"},
        # As the webhook sets it in each pod; the NetworkPolicy allows its port.
        "productCode": "demosaas", "settings": {"dimensions": ["requests", "gigabytes"], "endpoint_url": space.aws.endpoint},
        "appToken": {"existingSecret": "usage-token"},
        "database": {"existingSecret": "usage-database", "example": {"enabled": example, "image": "registry.example/postgres:1"}},
    }
    file = stand.folder / f"{space.name}-{'with' if example else 'without'}-database.json"
    file.write_text(json.dumps(values))
    return ROOT / "helm/tollgate-saas", "--namespace", space.name, "--values", file


def install(stand, space):
    """Installs the chart with its example of a database."""
    space.helm("4.3.1", "install", "usage", *chart(stand, space), "--wait", "--timeout", "120s")


def psql(space, statement, password=PASSWORD):
    """Runs a statement in the example's database, from the node; returns its rows."""
    address = space.pod(**DATABASE)["status"]["podIP"]
    command = [postgresql.programs() / "psql", "--quiet", "--no-align", "--tuples-only", "--host", address, "--username", "tollgate", "--command", statement]
    done = subprocess.run([*command, "tollgate"], capture_output=True, text=True, env={"PGPASSWORD": password})
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


def connections(space, pod):
    """The TCP connections of a replica: whether the other side began it, and the port that was called."""
    process = space.process(pod, "tollgate-saas")
    rows = [line.split() for line in pathlib.Path(f"/proc/{process}/net/tcp").read_text().splitlines()[1:]]
    port = {row[0]: [int(row[side].rpartition(":")[2], 16) for side in (1, 2)] for row in rows}
    listening, established = "0A", "01"
    served = {port[row[0]][0] for row in rows if row[3] == listening}
    return {(local in served, local if local in served else remote) for local, remote in (port[row[0]] for row in rows if row[3] == established)}


def allowed(policy, pod):
    """The connections that the policy allows with some peer, in the form of `connections`."""
    named = {port["name"]: port["containerPort"] for container in pod["spec"]["containers"] for port in container.get("ports", [])}
    found = set()
    for comes, rules in ((True, policy["spec"]["ingress"]), (False, policy["spec"]["egress"])):
        for port in (port for rule in rules for port in rule["ports"] if port["protocol"] == "TCP"):
            found.add((comes, named.get(port["port"], port["port"])))
    return found


def within_policy(space):
    """Every connection of each replica is one that the chart's NetworkPolicy allows; returns what they are, of all."""
    policy = space.get("networkpolicies/usage", "/apis/networking.k8s.io/v1")
    seen = set()
    for pod in replicas(space):
        held = connections(space, pod)
        assert held <= allowed(policy, pod), (held, allowed(policy, pod))
        seen |= held
    return seen


@scenario(pods=5)
def replicas_that_share_a_database_bill_what_they_acknowledged(stand):
    """Two replicas of the chart, rolled, killed, and without their database for a moment, all under load: the bill is what was acknowledged."""
    with stand.namespace("saas-replicas") as space:
        for account in CUSTOMERS:
            space.aws.admin("customers", {"account_id": account, "subscribed": True})
        install(stand, space)
        assert len(replicas(space)) == 2, space.pods(**REPLICA)
        with Load(space) as load:
            load.more()
            # Of the emulator, whose connections are reused, of the database, and from the node.
            seen = within_policy(space)
            assert (False, 5432) in seen, seen
            began = time.monotonic()
            space.kubectl("rollout", "restart", "deployment/usage")
            space.kubectl("rollout", "status", "deployment/usage", "--timeout=120s")
            rolled = time.monotonic() - began
            load.more()
            for pod in replicas(space):
                space.kill(pod, "tollgate-saas")
                space.wait_for_restart(pod, "tollgate-saas")
                load.more()
            # A pod that is gone at once, with whatever it was doing.
            space.kubectl("delete", "pod", name_of(replicas(space)[0]), "--grace-period=0", "--force")
            load.more()
            wait("two ready replicas", lambda: len(pods := replicas(space)) == 2 and all(map(ready, pods)))
            before = {name_of(pod): restarts(pod, "tollgate-saas") for pod in replicas(space)}
            database = space.pod(**DATABASE)
            space.kill(database, "postgresql")
            space.wait_for_restart(database, "postgresql")
            load.more()
            after = {name_of(pod): restarts(pod, "tollgate-saas") for pod in replicas(space)}
            assert before == after and all(map(ready, replicas(space))), (before, after)
            load.finish()
        expected = sum((Decimal(event["quantity"]) for event in load.acknowledged.values()), Decimal(0))
        space.aws.advance("75m")
        psql(space, later(75))

        def billed():
            return sum((Decimal(quantity) for quantity in space.aws.billed().values()), Decimal(0))

        wait("the bill", lambda: billed() >= expected)
        wait("nothing more to send", lambda: space.aws.admin("ledger") and billed() == expected)
        return f"{load.count()} events, {load.unanswered} tries again; {expected} of {expected} billed, rolled in {rolled:.0f} s"


def told(space, pod):
    """What a container said when it ended."""
    states = [one.get("state", {}) | one.get("lastState", {}) for one in pod["status"].get("containerStatuses", [])]
    return " ".join(state["terminated"].get("message", "") for state in states if "terminated" in state)


@scenario(pods=5)
def a_ledger_moves_and_the_databases_password_changes(stand):
    """The Job moves a replica's ledger into the database, which several go on with; its password changes in the Secret, and nothing restarts."""
    with stand.namespace("saas-moves") as space:
        for account in CUSTOMERS:
            space.aws.admin("customers", {"account_id": account, "subscribed": True})
        # One replica with a volume, as deploy/kubernetes/saas.yaml has it.
        space.kubectl("create", "serviceaccount", "tollgate")
        space.kubectl("create", "secret", "generic", "tollgate-token", f"--from-literal=token={TOKEN}")
        stand.volume(space, "usage-tollgate-0")
        manifest = (ROOT / "deploy/kubernetes/saas.yaml").read_text()
        space.kubectl("apply", "-f", "-", text=manifest.replace("registry.example/your-gate:", "registry.example/your-saas-gate:"))
        space.wait_for_pod("readiness", ready, app="tollgate")
        with Load(space, service="tollgate") as before:
            before.more()
            before.finish()
        space.kubectl("scale", "statefulset/tollgate", "--replicas=0")
        wait("the end of the single replica", lambda: not space.pods(app="tollgate"))

        # The database, and not yet the chart.
        command = chart(stand, space)
        example = space.helm("4.3.1", "template", "usage", *command, "--show-only", "templates/example-database.yaml").stdout
        space.kubectl("apply", "-f", "-", text=example)
        space.wait_for_pod("the database", ready, **DATABASE)
        move = (ROOT / "deploy/saas/move.yaml").read_text()
        move = move.replace("registry.example/tollgate-saas:0.2.0", "registry.example/your-usage:1.0.0").replace("tollgate-saas-database", "usage-database")
        space.kubectl("apply", "-f", "-", text=move)
        job = space.wait_for_pod("the end of the move", ended, app="tollgate-move")
        logs = space.logs(job, "move")
        assert job["status"]["phase"] == "Succeeded" and "every dimension has the balance that it had" in logs, logs
        assert f" {before.count()} idempotency keys" in logs, (before.count(), logs)

        values = json.loads(command[-1].read_text())
        values["database"]["example"]["enabled"] = False
        command[-1].write_text(json.dumps(values))
        space.helm("4.3.1", "install", "usage", *command, "--wait", "--timeout", "120s")
        with Load(space, name="later-") as load:
            # What the single replica acknowledged is known.
            events = list(before.acknowledged.values())
            for start in range(0, len(events), 500):
                results = load.report(events[start:start + 500])
                assert all(result["status"] == "duplicate" for result in results), results
            load.more()
            # The old ledger does not open again.
            space.kubectl("scale", "statefulset/tollgate", "--replicas=1")
            ended_pod = space.wait_for_pod("the old replica to refuse", lambda pod: "was moved to" in told(space, pod), app="tollgate")
            space.kubectl("scale", "statefulset/tollgate", "--replicas=0")

            held = {name_of(pod): restarts(pod, "tollgate-saas") for pod in replicas(space)}
            fresh = PASSWORD + "-2"
            psql(space, f"ALTER ROLE tollgate PASSWORD '{fresh}'")
            data = json.dumps({"stringData": {"url": url(fresh), "password": fresh}})
            space.kubectl("patch", "secret", "usage-database", "--type=merge", "--patch", data)
            load.more()
            # Open connections stay open. Without them each replica has to read the file again, which the kubelet updates later.
            began = time.monotonic()
            psql(space, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = 'tollgate'", fresh)
            connected = "SELECT count(DISTINCT client_addr) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND application_name <> 'psql' AND usename = 'tollgate'"
            wait("both replicas in the database", lambda: psql(space, connected, fresh) == ["2"], patience=180)
            took = time.monotonic() - began
            load.more()
            after = {name_of(pod): restarts(pod, "tollgate-saas") for pod in replicas(space)}
            assert held == after and all(map(ready, replicas(space))), (held, after)
            load.finish()
        acknowledged = before.acknowledged | load.acknowledged
        expected = sum((Decimal(event["quantity"]) for event in acknowledged.values()), Decimal(0))
        # The single replica sealed its slots when it stopped, so later usage of them is carried to the hour after, and billed at its end.
        first = psql(space, "SELECT min(hour) FROM tollgate.sums", fresh)[0]
        space.aws.advance("75m")
        psql(space, later(75), fresh)
        wait("usage in the next hour", lambda: psql(space, f"SELECT min(hour) > {first} FROM tollgate.sums", fresh) == ["t"])
        space.aws.advance("75m")
        psql(space, later(150), fresh)
        wait("the bill", lambda: space.aws.billed() and sum(map(Decimal, space.aws.billed().values())) >= expected)
        billed = sum(map(Decimal, space.aws.billed().values()))
        assert billed == expected, (billed, expected)
        return f"{before.count()} events moved, {load.count()} after it; {billed} billed; connected with the new password after {took:.0f} s, {name_of(ended_pod)} refused"
