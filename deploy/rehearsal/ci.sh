#!/usr/bin/env bash
# The rehearsals of a CI job in a cluster; github.yaml and gitlab.yaml call this script. Copy this folder and
# values-rehearsal.yaml as `rehearsal` to your product's repository; gate is the folder that `tollgate config init`
# wrote, chart is your chart. Write the label of your pods, and a command that uses the product once, into this script.
# NAMESPACE is an existing namespace.
set -euo pipefail
cd "$(dirname "$0")/.."

rehearsal/rehearse.sh prepare gate/seller.toml rehearsal/world.toml
helm install shop chart --namespace "$NAMESPACE" --values gate/values.yaml --values rehearsal/values-rehearsal.yaml

rehearsal/rehearse.sh not-entitled app=shop
rehearsal/rehearse.sh throttled app=shop
rehearsal/rehearse.sh day 24 kubectl --namespace "$NAMESPACE" exec deployment/shop --container app -- /your-app use 2

# What AWS would bill: one record of the dimension for each hour.
rehearsal/rehearse.sh ledger >bill.csv
hours=$(awk -F, '$6 == "requests" { print $7 }' bill.csv)
if [ "$(wc -l <<<"$hours")" != 24 ] || [ "$(sort -u <<<"$hours" | wc -l)" != 24 ]; then
    echo "ci: the bill has not one record of requests for each of 24 hours:" >&2
    cat bill.csv >&2
    exit 1
fi
echo "ci: the bill is right"
