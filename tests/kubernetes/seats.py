"""Seats of a product with contract pricing, one for each pod, under restarts, evictions and too many replicas."""

from cluster import wait
from scenarios import scenario
from stand import entitlement, name_of, running, status

FLOATING = {"mode": "contract", "licenseModel": "floating", "image": {"repository": "your-contract-gate"}}
PRODUCT = "prod-democontract"
# A waiting pod asks again after a minute and some jitter; other pods start meanwhile.
PATIENCE = 240


def seats(space):
    """How many seats are taken, and the most that were taken at once."""
    licenses = space.aws.admin("licenses")["licenses"]
    [row] = [one for license in licenses for one in license["entitlements"] if one["name"] == "users"]
    return row["held"], row["held_max"]


def holders(space):
    """The number of each pod's checkout."""
    return {one["pod"]: one["checkout"] for one in space.aws.admin("licenses")["checkouts"] if one["name"] == "users"}


@scenario()
def a_sidecar_that_is_killed_finds_its_seat_again(stand):
    """A killed sidecar keeps its seat, and so does a pod after its node's reboot: one checkout; none is held after the pod has ended."""
    with stand.namespace("seat") as space:
        space.install(tollgate=FLOATING)
        pod = space.started()
        before = holders(space)
        assert list(before) == [name_of(pod)], before
        space.kill(pod, "tollgate")
        pod = space.wait_for_restart(pod, "tollgate")
        wait("the gate", lambda: (answer := entitlement(space.pod())) and answer["gate"] == "open")
        application = status(space.pod(), "app")["containerID"]
        stand.node.disturb("reboot")
        space.wait_for_pod("the application after a reboot", lambda pod: status(pod, "app")["containerID"] != application and running(pod, "app"))
        assert holders(space) == before, (holders(space), before)
        assert len(space.aws.calls("CheckoutLicense")) == 1, space.aws.calls("CheckoutLicense")
        space.kubectl("delete", "deployment", "app")
        wait("no pod", lambda: not space.pods(app="app"))
        assert seats(space) == (0, 1), seats(space)


@scenario(pods=2)
def an_evicted_pod_leaves_its_seat_to_its_successor(stand):
    """The only seat: an evicted pod gives it back, and the pod in its place takes it."""
    with stand.namespace("successor") as space:
        one = {"name": "users", "unit": "Count", "max_count": 1}
        space.aws.admin("licenses", {"product_id": PRODUCT, "entitlements": [one]})
        space.install(tollgate=FLOATING)
        first = name_of(space.started())
        space.evict(first)
        second = space.wait_for_pod("a successor that runs", lambda pod: name_of(pod) != first and running(pod, "app"), PATIENCE)
        assert list(holders(space)) == [name_of(second)], holders(space)
        assert seats(space) == (1, 1), seats(space)


@scenario(pods=13)
def twelve_replicas_share_ten_seats(stand):
    """Of twelve replicas on ten seats ten run and two wait as `exhausted`; when one ends another takes its seat; never more than ten are held."""
    with stand.namespace("crowd") as space:
        space.install(replicas=12, tollgate=FLOATING)

        def settled():
            pods = [pod for pod in space.pods(app="app") if "deletionTimestamp" not in pod["metadata"]]
            run = {name_of(pod) for pod in pods if running(pod, "app")}
            waiting = {name_of(pod) for pod in pods if (answer := entitlement(pod)) and answer["state"] == "exhausted"}
            return len(pods) == 12 and len(run) == 10 and len(waiting) == 2 and (run, waiting)

        run, waiting = wait("ten that run and two that wait", settled, PATIENCE)
        assert set(holders(space)) == run and seats(space) == (10, 10), (run, holders(space))
        gone = min(run)
        space.kubectl("delete", "pod", gone)
        after, _ = wait("ten that run again", settled, PATIENCE)
        assert set(holders(space)) == after and gone not in after and seats(space) == (10, 10), (after, holders(space))
        return f"{', '.join(sorted(after - run))} took the seat of {gone}"


@scenario(pods=4)
def a_rollout_goes_through_with_every_seat_taken(stand):
    """Three replicas on three seats are updated without a spare seat: each new pod takes the seat that an old one gave back."""
    with stand.namespace("rollout") as space:
        few = {"name": "users", "unit": "Count", "max_count": 3}
        space.aws.admin("licenses", {"product_id": PRODUCT, "entitlements": [few]})
        space.install(replicas=3, tollgate=FLOATING)
        wait("three that run", lambda: sum(running(pod, "app") for pod in space.pods(app="app")) == 3)
        before = set(holders(space))
        space.kubectl("rollout", "restart", "deployment/app")
        space.kubectl("rollout", "status", "deployment/app", f"--timeout={PATIENCE}s")
        after = set(holders(space))
        assert len(after) == 3 and not before & after and seats(space) == (3, 3), (before, after, seats(space))


@scenario()
def outside_aws_the_licenses_secret_gives_the_seat(stand):
    """Without a role or keys, `licenseSecret` is enough: with its token the pod gets credentials and a seat."""
    with stand.namespace("anywhere") as space:
        token = space.aws.admin("refresh-tokens", {})["refresh_token"]
        role = "arn:aws:iam::111122223333:role/anywhere"
        space.kubectl("create", "secret", "generic", "product-license", f"--from-literal=license_token={token}", f"--from-literal=iam_role={role}")
        space.install(tollgate={**FLOATING, "licenseSecret": "product-license"})
        space.started()
        assert len(holders(space)) == 1 and seats(space) == (1, 1), holders(space)
        assert [call["outcome"] for call in space.aws.calls("GetAccessToken")] == ["ok"], space.aws.calls("GetAccessToken")
