#!/usr/bin/env bash
# What a CI job rehearses in a cluster: github.yaml and gitlab.yaml call it. Copy this folder and values-rehearsal.yaml as `rehearsal` to
# your product's repository; gate is the folder that `tollgate config init` wrote, chart is your chart. Put in the label of your pods, and a
# command that uses the product once. NAMESPACE is a namespace that exists.
set -euo pipefail
cd "$(dirname "$0")/.."

rehearsal/rehearse.sh prepare gate/seller.toml rehearsal/world.toml
helm install shop chart --namespace "$NAMESPACE" --values gate/values.yaml --values rehearsal/values-rehearsal.yaml

rehearsal/rehearse.sh not-entitled app=shop
rehearsal/rehearse.sh throttled app=shop
rehearsal/rehearse.sh day 24 kubectl --namespace "$NAMESPACE" exec deployment/shop --container app -- /your-app use 2

# What AWS would bill: one record of the dimension for each hour.
rehearsal/rehearse.sh ledger >bill.csv
hours=$(grep ',requests,' bill.csv | cut -d, -f7)
[ "$(sort <<<"$hours" | uniq | wc -l)" = 24 ] && [ "$(wc -l <<<"$hours")" = 24 ]
echo "ci: the bill is right"
