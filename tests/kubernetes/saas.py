"""The chart of tollgate-saas: replicas that share a PostgreSQL database are rolled and killed under load, and the bill stays exact."""

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
from stand import name_of, ready, restarts

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/packaging"))
import postgresql  # noqa: E402

TOKEN = "a-token-of-some-length"
PASSWORD = "a-password-for-this-test"
REPLICA = {"app.kubernetes.io/name": "tollgate-saas"}
DATABASE = {"app.kubernetes.io/name": "tollgate-saas-example-database"}
CUSTOMERS = [f"11112222333{number}" for number in range(3)]
# The hour passes for the ledger, whose time is the database's.
LATER = """CREATE OR REPLACE FUNCTION tollgate.ledger_now() RETURNS bigint LANGUAGE sql VOLATILE AS
    $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint + 75 * 60 * 1000 $$"""


class Load:
    """Applications that report to the Service's ready pods: each event has an id, and is sent until it is acknowledged."""

    def __init__(self, space, clients=4):
        self.space, self.clients = space, clients
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
                {"id": f"{number}-{sent}-{part}", "dimension": "requests", "quantity": part, "customer": {"account_id": CUSTOMERS[(sent + part) % 3]}}
                for part in range(1, 6)
            ]
            results = self.report(events)
            assert all(result["status"] in ("accepted", "duplicate") for result in results), results
            with self.lock:
                self.acknowledged.update({event["id"]: event for event in events})

    def report(self, events):
        """Sends the events until they are acknowledged, as a client of the Service: each time to a ready pod."""
        for turn in range(600):
            addresses = names.ready(self.space.stand.cluster, "usage", self.space.name)
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


def install(stand, space):
    """Installs the chart with its example of a database, as its README says."""
    url = f"postgres://tollgate:{PASSWORD}@usage-example-database/tollgate?sslmode=disable"
    space.kubectl("create", "secret", "generic", "usage-token", f"--from-literal=token={TOKEN}")
    space.kubectl("create", "secret", "generic", "usage-database", f"--from-literal=password={PASSWORD}", f"--from-literal=url={url}")
    values = {
        "image": {"registry": "registry.example", "repository": "your-usage", "tag": "1.0.0"},
        "productCode": "demosaas", "settings": {"dimensions": ["requests", "gigabytes"]},
        "appToken": {"existingSecret": "usage-token"},
        "database": {"existingSecret": "usage-database", "example": {"enabled": True, "image": "registry.example/postgres:1"}},
    }
    file = stand.folder / f"{space.name}.json"
    file.write_text(json.dumps(values))
    space.helm("4.3.1", "install", "usage", ROOT / "helm/tollgate-saas", "--namespace", space.name, "--values", file, "--wait", "--timeout", "120s")


def psql(space, statement):
    """Runs a statement in the example's database, from the node."""
    address = space.pod(**DATABASE)["status"]["podIP"]
    command = [postgresql.programs() / "psql", "--quiet", "--host", address, "--username", "tollgate", "--command", statement, "tollgate"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PGPASSWORD": PASSWORD})
    assert done.returncode == 0, done.stderr


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
        psql(space, LATER)

        def billed():
            return sum((Decimal(quantity) for quantity in space.aws.billed().values()), Decimal(0))

        wait("the bill", lambda: billed() >= expected)
        wait("nothing more to send", lambda: space.aws.admin("ledger") and billed() == expected)
        return f"{load.count()} events, {load.unanswered} tries again; {expected} of {expected} billed, rolled in {rolled:.0f} s"
