#!/bin/sh
# Reports usage of three customers to two replicas in turn. Each event has an id, and is sent until it is acknowledged,
# to the other replica where one does not answer. Then an hour passes, and the bill must be what was sent.
set -eu

token=$(cat /saas/token)
emulator=http://emulator:8090/_emulator
events=20

ask() { timeout 10 wget -q -O - --header 'content-type: application/json' "$@"; }

report() {
    number=$1 customer=11112222333$((1 + number % 3)) list="" event=1
    while [ $event -le $events ]; do
        list="$list,{\"id\":\"$number-$event\",\"dimension\":\"requests\",\"quantity\":$event,\"customer\":{\"account_id\":\"$customer\"}}"
        event=$((event + 1))
    done
    replica=$((1 + number % 2))
    until answer=$(ask --header "authorization: Bearer $token" --post-data "[${list#,}]" "http://tollgate-$replica:19181/v1/usage"); do
        replica=$((3 - replica))
        sleep 1
    done
    # Each event is in the ledger once, also where an answer was lost and the event was sent again.
    [ "$(echo "$answer" | grep -oE '"status":"(accepted|duplicate)"' | wc -l)" = $events ] || { echo "load: $answer"; exit 1; }
}

for customer in 111122223331 111122223332 111122223333; do
    ask --post-data "{\"account_id\":\"$customer\",\"subscribed\":true}" "$emulator/customers" >/dev/null
done
number=0
# SIGTERM ends the load after the request that is being made.
trap 'REQUESTS=$number' TERM
while [ "$number" -lt "$REQUESTS" ]; do
    number=$((number + 1))
    report "$number"
done
sent=$((number * events * (events + 1) / 2))
echo "load: $((number * events)) events with $sent units are acknowledged"

# An hour passes, for AWS and for the ledger, whose time is the database's.
ask --post-data '{"advance":"75m"}' "$emulator/clock" >/dev/null
psql --quiet --host database --username tollgate tollgate <<'SQL'
CREATE OR REPLACE FUNCTION tollgate.ledger_now() RETURNS bigint LANGUAGE sql VOLATILE AS
    $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint + 75 * 60 * 1000 $$;
SQL
waited=0 billed=0
while [ "$billed" != "$sent" ]; do
    [ $waited -lt 120 ] || { echo "load: the bill is $billed, not $sent"; exit 1; }
    sleep 1
    waited=$((waited + 1))
    # The ninth column is the quantity.
    billed=$(ask "$emulator/ledger?format=csv" | awk -F, 'NR > 1 { sum += $9 } END { print sum + 0 }')
done
echo "load: the bill is $billed units, as sent"
