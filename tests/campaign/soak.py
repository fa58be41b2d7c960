"""The soak: simulated days of metering on the emulator's clock, with restarts. Memory and files must not grow, and the bill must be exact.

Usage: soak.py PROGRAM [DAYS]

Each hour the application reports some events in two dimensions, by id; every seventh hour the sidecar is restarted, by kill -9 or by
SIGTERM in turns. Every call with a third dimension's usage gets a 500; that bad neighbour must not delay other usage. Resident
memory and the ledger's size are read each day: memory may grow by a quarter of the second day's, files by a quarter of the third's. At the
end the bill equals the acknowledged usage, to the millionth, and none of the neighbour's usage is billed or lost.
"""

import os
import re
import signal
import sys
from decimal import Decimal

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "witness"))
sys.path.insert(0, os.path.dirname(__file__))
from kill import Sidecar, get, pending, post, records, unsent, wait  # noqa: E402
from processes import Emulator  # noqa: E402
from relay import POISON, Relay, of_poison  # noqa: E402

DIMENSIONS = ["requests", "gigabytes"]
EVENTS_AN_HOUR = 400
NEIGHBOURS_EVENTS = 5
# The age of keys is counted by the running time of processes, which is not simulated: seconds for each hour here, and
# an hour for each restart. So the shortest possible window is about a simulated day.
WINDOW = "2h"


def resident(pid):
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) / 1024


def folder_bytes(folder):
    return sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder))


def main():
    program, days = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 8
    acknowledged = dict.fromkeys([*DIMENSIONS, POISON], Decimal(0))
    memory, sizes = [], []
    with Emulator(program) as emulator, Relay(emulator.endpoint, lambda call: "500" if of_poison(call) else None) as relay:
        emulator.admin("products", {"product_code": "demometered", "dimensions": list(acknowledged)})
        # Twenty past the hour: the record of the ended hour is due by then, including settling time
        # and the pod's delay.
        emulator.admin("clock", {"now": "2026-11-24T00:20:00Z"})
        folder = os.path.join(emulator.folder.name, "sidecar")
        os.mkdir(folder)

        def start():
            return Sidecar(program, "metered", emulator, folder, endpoint=relay.endpoint, TOLLGATE_IDEMPOTENCY_WINDOW=WINDOW)

        sidecar = start()
        for hour in range(24 * days):
            events = [
                {"id": f"{hour}-{index}", "dimension": DIMENSIONS[index % 2], "quantity": f"{index % 7}.{index % 1000:03}"}
                for index in range(EVENTS_AN_HOUR)
            ]
            events += [{"id": f"{hour}-bad-{index}", "dimension": POISON, "quantity": 1} for index in range(NEIGHBOURS_EVENTS)]
            status, answer = post(sidecar.app, "/v1/usage", events)
            assert status == 202 and all(result["status"] == "accepted" for result in answer["results"]), answer
            for event in events:
                acknowledged[event["dimension"]] += Decimal(event["quantity"])
            if hour % 7 == 6:
                if hour % 14 == 6:
                    sidecar.end()
                else:
                    # Half of the restarts are shutdowns: the open hour is sealed, and later usage of the reported
                    # dimensions counts to the next hour.
                    sidecar.process.send_signal(signal.SIGTERM)
                    sidecar.process.wait()
                    sidecar.end()
                sidecar = start()
            emulator.admin("clock", {"advance": "1h"})
            # A real hour is long enough to send a record; a simulated hour must wait for it.
            wait("the hour's records", lambda: unsent(sidecar)
                 or get(sidecar.app, "/v1/reconciliation")["at"] < emulator.admin("clock")["now"][:14])
            if hour % 24 == 23:
                memory.append(resident(sidecar.process.pid))
                sizes.append(folder_bytes(folder))
                print(f"day {hour // 24 + 1}: {memory[-1]:.1f} MiB resident, {sizes[-1] / 1024:.0f} KiB on disk", flush=True)
        for _ in range(3):
            emulator.admin("clock", {"advance": "75m"})
            wait("the last records", lambda: unsent(sidecar))
        wait("an empty open hour", lambda: pending(sidecar))
        dead = [record for record in records(sidecar) if record["state"] == "dead" and record["dimension"] != POISON]
        rows = {row["dimension"]: row for row in get(sidecar.app, "/v1/reconciliation")["dimensions"]}
        sidecar.end()
        billed = {key[2]: Decimal(quantity) for key, quantity in emulator.billed().items()}
    # The first two days fill the ledger's retention.
    flat = max(memory[2:], default=0) <= 1.25 * memory[1] and max(sizes[2:], default=0) <= 1.25 * sizes[2]
    exact = all(billed[name] == acknowledged[name] and Decimal(rows[name]["dead"]) == 0 for name in DIMENSIONS)
    bad = rows[POISON]
    kept = Decimal(bad["pending"]) + Decimal(bad["dead"])
    exact = exact and bad["balanced"] and kept == acknowledged[POISON] and POISON not in billed
    for name, total in acknowledged.items():
        row = rows[name]
        print(f"{name}: acknowledged {total}, billed {billed.get(name, 0)}, pending {row['pending']}, dead {row['dead']}")
    for record in dead:
        print(f"dead letter: {record}")
    print(f"the bad neighbour's calls: {len(relay.spoilt)}")
    print(f"soak: {days} days, {24 * days * EVENTS_AN_HOUR:,} events; flat {flat}, exact {exact}")
    sys.exit(0 if flat and exact else 1)


if __name__ == "__main__":
    main()
