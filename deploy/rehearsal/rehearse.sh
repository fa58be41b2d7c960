#!/usr/bin/env bash
# Rehearses a product in a cluster against the emulator: see docs/REHEARSAL.md. Needs bash, kubectl and curl.
#
#   rehearse.sh prepare SELLER_TOML [WORLD_TOML]    the emulator, and the ConfigMap that values-rehearsal.yaml mounts
#   rehearse.sh not-entitled SELECTOR [PRODUCT_ID]  new pods are refused and do not start; entitled again, new pods start
#   rehearse.sh throttled SELECTOR                  AWS throttles three calls; new pods wait, and start by themselves
#   rehearse.sh day HOURS COMMAND…                  the command uses the product once an hour; every hour is billed
#   rehearse.sh ledger                              what AWS would bill, as CSV
#   rehearse.sh admin METHOD PATH [JSON]            any other order, such as: admin POST clock '{"advance": "1h"}'
#   rehearse.sh remove                              deletes the emulator and the ConfigMaps
#
# SELECTOR names the product's pods, such as app=shop; PRODUCT_ID is for contract pricing. Everything happens in the namespace
# NAMESPACE, else in that of kubectl's context. PATIENCE: seconds to wait for something, and for each answer; 180 by default.
# A rehearsal that fails or is interrupted subscribes the buyer again and removes its faults.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
patience=${PATIENCE:-180}
kubectl=(kubectl)
[ -z "${NAMESPACE:-}" ] || kubectl+=(--namespace "$NAMESPACE")
scratch=$(mktemp -d)
forward=
# The command that undoes what a rehearsal changed in the emulator.
undo=()

main() {
    local command=${1:-help}
    [ $# -eq 0 ] || shift
    case "$command" in
        prepare | remove) "$command" "$@" ;;
        not-entitled | throttled | day | ledger | admin)
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
    local seller=$1 world=${2:-$here/world.toml} folder=$scratch/seller version code
    mkdir "$folder"
    cp "$seller" "$folder/seller.toml"
    config_map tollgate-emulator --from-file=world.toml="$world"
    "${kubectl[@]}" apply --request-timeout="${patience}s" -f "$here/emulator.yaml"
    "${kubectl[@]}" rollout status deployment/tollgate-emulator --timeout="${patience}s"
    connect
    # An emulator that ran already takes the world as it is now.
    ask --show-error --fail-with-body --data-binary "@$world" --output /dev/null "$endpoint/_emulator/world"
    code=$(sed -n 's/^product_code *= *"\([^"]*\)".*/\1/p' "$seller")
    for version in 1 2 3; do
        # Only a product that registers has keys, and few have more than one.
        [ -z "$code" ] || ask --fail --output "$folder/$version.pem" "$endpoint/_emulator/public-keys/$code/$version.pem" || break
    done
    config_map tollgate-rehearsal --from-file="$folder"
    say "prepared: install the chart with values-rehearsal.yaml"
}

not_entitled() {
    local selector=$1 product=${2:-} seller
    seller=$("${kubectl[@]}" get configmap tollgate-rehearsal --output 'jsonpath={.data.seller\.toml}')
    if grep -q '^mode *= *"metered"' <<<"$seller" && ! grep -q '^entitlement_dimension *=' <<<"$seller"; then
        fail "seller.toml has no entitlement_dimension: in mode metered AWS then refuses no pod, only its first report"
    fi
    undo=(entitle true "$product")
    entitle false "$product"
    renew "$selector"
    await "refusal of every pod of $selector" all_refused "$selector"
    [ -z "$(ready "$selector")" ] || fail "a pod of $selector is ready although AWS has refused it"
    say "refused: $(pods "$selector" '{.items[0].status.initContainerStatuses[*].lastState.terminated.message}')"
    entitle true "$product"
    undo=()
    # The emulator does not change its answer to a pod; whether AWS answers a refused pod anew is
    # not documented.
    renew "$selector"
    await "ready pods of $selector" all_ready "$selector"
    say "not-entitled: refused pods did not start; entitled again, new pods did"
}

throttled() {
    local selector=$1 hits
    admin DELETE faults >/dev/null
    undo=(admin DELETE faults)
    admin POST faults '{"fault": "throttle", "count": 3}' >/dev/null
    renew "$selector"
    await "ready pods of $selector" all_ready "$selector"
    hits=$(admin GET faults | sed -n 's/.*"hits":\([0-9]*\).*/\1/p')
    [ "$hits" = 3 ] || fail "$hits calls were throttled, not 3"
    admin DELETE faults >/dev/null
    undo=()
    say "throttled: three calls were throttled; the pods waited, and started"
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

ask() { curl --silent --max-time "$patience" "$@"; }

admin() {
    ask --show-error --fail-with-body --request "$1" ${3:+--data "$3"} "$endpoint/_emulator/$2"
}

entitle() {
    if [ -n "$2" ]; then
        admin POST licenses "{\"product_id\": \"$2\", \"received\": \"$([ "$1" = true ] && echo active || echo disabled)\"}" >/dev/null
    else
        admin POST customers "{\"account_id\": \"111122223333\", \"subscribed\": $1}" >/dev/null
    fi
}

# The hours that have usage on the bill; a report of 0 proves the entitlement only.
billed_hours() { ledger | awk -F, 'NR > 1 && $9 != "0" { print $7 }' | sort -u | grep -c . || true; }
billed_at_least() { [ "$(billed_hours)" -ge "$1" ]; }

# === the pods ===

pods() { "${kubectl[@]}" get pods --request-timeout="${patience}s" --selector "$1" --output "jsonpath=$2"; }
count() { pods "$1" '{range .items[*]}{.metadata.name}{"\n"}{end}' | grep -c . || true; }
ready() { pods "$1" '{range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}' | grep True || true; }
all_ready() { [ "$(count "$1")" -gt 0 ] && [ "$(ready "$1" | grep -c .)" = "$(count "$1")" ]; }

# tollgate-await ends once, 30 s after a refusal, with 77.
refusals() { pods "$1" '{range .items[*]}{.status.initContainerStatuses[*].lastState.terminated.exitCode}{"\n"}{end}' | grep -cw 77 || true; }
all_refused() { [ "$(count "$1")" -gt 0 ] && [ "$(refusals "$1")" = "$(count "$1")" ]; }

renew() { "${kubectl[@]}" delete pods --selector "$1" --wait --timeout="${patience}s" >/dev/null; }

config_map() {
    "${kubectl[@]}" create configmap "$@" --dry-run=client --output yaml | "${kubectl[@]}" apply --request-timeout="${patience}s" -f -
}

await() {
    local what=$1 until=$((SECONDS + patience))
    shift
    until "$@"; do
        [ $SECONDS -lt $until ] || fail "no $what, within $patience s"
        sleep 0.5
    done
}

say() { printf 'rehearse: %s\n' "$*"; }
fail() {
    printf 'rehearse: %s\n' "$*" >&2
    exit 1
}

main "$@"
