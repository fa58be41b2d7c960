#!/usr/bin/env bash
# Rehearses a product in a cluster against the emulator: see docs/REHEARSAL.md. Needs bash, kubectl and curl.
#
#   rehearse.sh prepare SELLER_TOML [WORLD_TOML]    the emulator, and the ConfigMap that values-rehearsal.yaml mounts
#   rehearse.sh not-entitled SELECTOR               new pods are refused and do not start; entitled again, new pods start
#   rehearse.sh throttled SELECTOR                  AWS throttles three calls; new pods wait, and start by themselves
#   rehearse.sh day HOURS COMMAND…                  the command uses the product once an hour; every hour is billed
#   rehearse.sh bill DIMENSION QUANTITY             compares all that AWS would bill of a dimension with what you used
#   rehearse.sh ledger                              what AWS would bill, as CSV
#   rehearse.sh admin METHOD PATH [JSON]            any other order, such as: admin POST clock '{"advance": "1h"}'
#   rehearse.sh remove                              deletes the emulator and the ConfigMaps
#   rehearse.sh world SELLER_TOML                   prints the marketplace that prepare makes without WORLD_TOML
#
# SELECTOR names the product's pods, such as app.kubernetes.io/instance=shop. Everything happens in the namespace NAMESPACE,
# else in that of kubectl's context. PATIENCE: seconds to wait for something, and for each answer; 180 by default.
# A rehearsal that fails or is interrupted subscribes the buyer again and removes its faults.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
patience=${PATIENCE:-180}
kubectl=(kubectl)
[ -z "${NAMESPACE:-}" ] || kubectl+=(--namespace "$NAMESPACE")
scratch=$(mktemp -d)
forward=
# The account that the pods belong to.
buyer=111122223333
# The product's pods, whose state is told when something does not happen to them.
selector=
# The command that undoes what a rehearsal changed in the emulator.
undo=()

main() {
    local command=${1:-help}
    [ $# -eq 0 ] || shift
    case "$command" in
        prepare | remove | world) "$command" "$@" ;;
        not-entitled | throttled | day | bill | ledger | admin)
            connect
            "${command//-/_}" "$@"
            ;;
        *)
            awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"
            [ "$command" = help ]
            ;;
    esac
}

prepare() {
    local seller=$1 world=${2:-$scratch/world.toml} folder=$scratch/seller version code
    mkdir "$folder"
    cp "$seller" "$folder/seller.toml"
    if [ $# -lt 2 ]; then world "$seller" >"$world"; fi
    config_map tollgate-emulator --from-file=world.toml="$world"
    "${kubectl[@]}" apply --request-timeout="${patience}s" -f "$here/emulator.yaml"
    "${kubectl[@]}" rollout status deployment/tollgate-emulator --timeout="${patience}s"
    connect
    # An emulator that ran already takes the world as it is now.
    ask --show-error --fail-with-body --data-binary "@$world" --output /dev/null "$endpoint/_emulator/world"
    code=$(setting product_code <"$seller")
    for version in 1 2 3; do
        # Only a product that registers has keys, and few have more than one.
        [ -z "$code" ] || ask --fail --output "$folder/$version.pem" "$endpoint/_emulator/public-keys/$code/$version.pem" || break
    done
    config_map tollgate-rehearsal --from-file="$folder"
    say "prepared: install the chart with values-rehearsal.yaml"
}

# The product of seller.toml, and a buyer.
world() {
    local seller=$1 mode code product list
    mode=$(setting mode <"$seller")
    code=$(setting product_code <"$seller")
    product=$(setting product_id <"$seller")
    if [ "$mode" = contract ]; then
        [ -n "$product" ] || fail "$seller has no line product_id: write it, or name a WORLD_TOML"
        list=$(setting entitlements <"$seller" | entitlements)
        # Without the setting the product takes what the license holds.
        [ -n "$list" ] || list='{ name = "access", max_count = 10 }'
        printf '[[licenses]]\nproduct_id = "%s"\naccount_id = "%s"\n' "$product" $buyer
        printf 'entitlements = [%s]\n' "$list"
    else
        [ -n "$code" ] || fail "$seller has no line product_code: write it, or name a WORLD_TOML"
        printf '[[products]]\nproduct_code = "%s"\npricing = "%s"\n' "$code" "${mode:-hourly}"
        list=$({
            setting dimensions <"$seller"
            setting entitlement_dimension <"$seller"
        } | awk '!seen[$0]++ { print "\"" $0 "\"" }' | paste -sd ,)
        [ -z "$list" ] || printf 'dimensions = [%s]\n' "$list"
        printf '\n[[customers]]\naccount_id = "%s"\nsubscribed = true\n' $buyer
    fi
}

not_entitled() {
    local seller product
    pods_of "$1"
    seller=$("${kubectl[@]}" get configmap tollgate-rehearsal --output 'jsonpath={.data.seller\.toml}')
    if [ "$(setting mode <<<"$seller")" = metered ] && [ -z "$(setting entitlement_dimension <<<"$seller")" ]; then
        fail "seller.toml has no entitlement_dimension: in mode metered AWS then refuses no pod, only its first report"
    fi
    product=$(setting product_id <<<"$seller")
    undo=(entitle true "$product")
    entitle false "$product"
    renew
    await "refusal of every pod of $selector" all_refused
    [ -z "$(ready)" ] || fail "a pod of $selector is ready although AWS has refused it"
    say "refused: $(pods '{.items[0].status.initContainerStatuses[*].lastState.terminated.message}')"
    entitle true "$product"
    undo=()
    # The emulator does not change its answer to a pod; whether AWS answers a refused pod anew is
    # not documented.
    renew
    await "ready pods of $selector" all_ready
    say "not-entitled: refused pods did not start; entitled again, new pods did"
}

throttled() {
    local hits restarts
    pods_of "$1"
    admin DELETE faults >/dev/null
    undo=(admin DELETE faults)
    admin POST faults '{"fault": "throttle", "count": 3}' >/dev/null
    renew
    await "ready pods of $selector" all_ready
    restarts=$(restarts)
    [ "$restarts" = 0 ] || fail "throttled: $restarts restarts of tollgate's containers, not 0"
    hits=$(admin GET faults | sed -n 's/.*"hits":\([0-9]*\).*/\1/p')
    [ "$hits" = 3 ] || fail "$hits calls were throttled, not 3"
    admin DELETE faults >/dev/null
    undo=()
    say "throttled: 3 calls throttled, 0 restarts; the pods waited, and started"
}

day() {
    local hours=$1 hour before minute
    shift
    # Half past an hour is far from the hour's end, and after the two minutes in which an ended hour still takes usage.
    minute=$(admin GET clock | sed -n 's/.*T[0-9]*:\([0-9]*\):.*/\1/p')
    admin POST clock "{\"advance\": \"$(((90 - 10#$minute) % 60))m\"}" >/dev/null
    before=$(billed_hours)
    for hour in $(seq "$hours"); do
        "$@" >/dev/null || fail "hour $hour: the command failed: $*"
        admin POST clock '{"advance": "1h"}' >/dev/null
        await "bill for hour $hour" billed_at_least $((before + hour))
    done
    say "day: $hours hours are billed"
}

# Quantities as millionths, because awk's numbers are exact to 2^53. A pod's hour may be on the bill once.
bill() {
    local dimension=$1 quantity=$2
    [[ $quantity =~ ^[0-9]+(\.[0-9]{1,6})?$ ]] || fail "$quantity is no quantity, such as 48 or 12.5"
    ledger | awk -F, -v dimension="$dimension" -v quantity="$quantity" '
        function millionths(text, part) { split(text, part, "."); return part[1] * 1000000 + substr(part[2] "000000", 1, 6) }
        function units(number, text) {
            text = sprintf("%d.%06d", int(number / 1000000), number % 1000000)
            sub(/\.?0*$/, "", text)
            return text
        }
        NR == 1 || $6 != dimension { next }
        { sum += millionths($9); hours += !seen[$7]++; twice += known[$2, $3, $4, $5, $7]++ > 0 }
        END {
            told = sprintf("rehearse: bill: %d hours, %s %s: ", hours, sum ? units(sum) : 0, dimension)
            if (twice) { print told twice " of them billed twice" >"/dev/stderr"; exit 1 }
            if (sum != millionths(quantity)) { print told "not " quantity >"/dev/stderr"; exit 1 }
            print told "as reported"
        }'
}

ledger() { admin GET 'ledger?format=csv'; }

remove() {
    "${kubectl[@]}" delete --ignore-not-found --timeout="${patience}s" -f "$here/emulator.yaml"
    "${kubectl[@]}" delete --ignore-not-found --timeout="${patience}s" configmap tollgate-emulator tollgate-rehearsal
}

# === the emulator ===

# One connection to the emulator's pod for the whole run; kubectl prints the port that it chose.
connect() {
    touch "$scratch/forward"
    # It gets a process group of its own, because Ctrl-C must not end it before `undo` has run.
    set -m
    "${kubectl[@]}" port-forward service/tollgate-emulator :8090 >"$scratch/forward" 2>&1 &
    forward=$!
    set +m
    await "way to the emulator: run rehearse.sh prepare in this namespace" forwards
    endpoint=http://$(sed -n 's/^Forwarding from \(127[^ ]*\) .*/\1/p' "$scratch/forward")
}

forwards() {
    grep -q '^Forwarding' "$scratch/forward" || kill -0 "$forward" 2>/dev/null || fail "$(cat "$scratch/forward")"
    grep -q '^Forwarding' "$scratch/forward"
}

end() {
    if [ ${#undo[@]} -gt 0 ]; then
        "${undo[@]}" >/dev/null ||
            printf 'rehearse: the emulator is not as it was before: run rehearse.sh remove, then rehearse.sh prepare\n' >&2
    fi
    [ -z "$forward" ] || kill "$forward" 2>/dev/null || true
    rm -rf "$scratch"
}
trap end EXIT
# Without these traps bash ignores a Ctrl-C that ends a command inside a condition.
trap 'exit 130' INT
trap 'exit 143' TERM

# A setting of a seller.toml on standard input: a line for each item, none if it is not set. An array may have several lines.
setting() {
    awk -v key="$1" '
        { sub(/#.*/, "") }
        array { print; array = !/\]/; next }
        /^[ \t]*\[/ { exit } # a table
        $0 ~ "^[ \t]*" key "[ \t]*=" { sub(/^[^=]*=/, ""); print; array = /\[/ && !/\]/ }' |
        tr ',' '\n' | sed "s/^[][ \"'\t]*//; s/[][ \"'\t\r]*\$//; /^\$/d"
}

# The license's entitlements, of lines such as users:Count:10.
entitlements() {
    awk -F: '{
        amount = $2 == "None" ? "value = \"Enabled\"" : "max_count = " ($3 ? $3 : 10)
        printf "%s{ name = \"%s\", unit = \"%s\", %s }", (NR == 1 ? "" : ", "), $1, ($2 ? $2 : "Count"), amount
    }'
}

ask() { curl --silent --max-time "$patience" "$@"; }

admin() {
    ask --show-error --fail-with-body --request "$1" ${3:+--data "$3"} "$endpoint/_emulator/$2"
}

entitle() {
    if [ -n "$2" ]; then
        admin POST licenses "{\"product_id\": \"$2\", \"received\": \"$([ "$1" = true ] && echo active || echo disabled)\"}" >/dev/null
    else
        admin POST customers "{\"account_id\": \"$buyer\", \"subscribed\": $1}" >/dev/null
    fi
}

# The hours that have usage on the bill; a report of 0 proves the entitlement only.
billed_hours() { ledger | awk -F, 'NR > 1 && $9 != "0" { print $7 }' | sort -u | grep -c . || true; }
billed_at_least() { [ "$(billed_hours)" -ge "$1" ]; }

# === the pods ===

pods() { "${kubectl[@]}" get pods --request-timeout="${patience}s" --selector "$selector" --output "jsonpath=$1"; }
names() { pods '{range .items[*]}{.metadata.name}{"\n"}{end}'; }
count() { names | grep -c . || true; }
ready() { pods '{range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}' | grep True || true; }
all_ready() { [ "$(count)" -gt 0 ] && [ "$(ready | grep -c .)" = "$(count)" ]; }

# tollgate-await ends once, 30 s after a refusal, with 77.
refusals() { pods '{range .items[*]}{.status.initContainerStatuses[*].lastState.terminated.exitCode}{"\n"}{end}' | grep -cw 77 || true; }
all_refused() { [ "$(count)" -gt 0 ] && [ "$(refusals)" = "$(count)" ]; }

# Of the sidecar and tollgate-await, which are init containers or, in some forms of the gate, containers.
restarts() {
    local each='{.name} {.restartCount}{"\n"}{end}'
    pods "{range .items[*].status.initContainerStatuses[*]}$each{range .items[*].status.containerStatuses[*]}$each" |
        awk '$1 ~ /^tollgate/ { sum += $2 } END { print sum + 0 }'
}

# Later a wrong label would look like pods that do not start. A chart that was just installed has its pods in a moment.
pods_of() {
    local until=$((SECONDS + 5))
    selector=$1
    until [ "$(count)" -gt 0 ]; do
        [ $SECONDS -lt $until ] || fail "no pod in this namespace has the label $selector; kubectl get pods --show-labels prints the labels"
        sleep 0.5
    done
}

renew() { "${kubectl[@]}" delete pods --selector "$selector" --wait --timeout="${patience}s" >/dev/null; }

# The pods as they are, and what tollgate-await said last in each.
tell_pods() {
    local pod
    "${kubectl[@]}" get pods --request-timeout="${patience}s" --selector "$selector"
    for pod in $(names); do
        printf '%s: tollgate-await: ' "$pod"
        "${kubectl[@]}" logs --request-timeout="${patience}s" --tail 1 --container tollgate-await "$pod" || true
    done
}

config_map() {
    "${kubectl[@]}" create configmap "$@" --dry-run=client --output yaml | "${kubectl[@]}" apply --request-timeout="${patience}s" -f -
}

await() {
    local what=$1 until=$((SECONDS + patience))
    shift
    until "$@"; do
        if [ $SECONDS -ge $until ]; then
            [ -z "$selector" ] || tell_pods >&2 || true
            fail "no $what, within $patience s"
        fi
        sleep 0.5
    done
}

say() { printf 'rehearse: %s\n' "$*"; }
fail() {
    printf 'rehearse: %s\n' "$*" >&2
    exit 1
}

main "$@"
