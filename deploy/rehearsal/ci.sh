#!/usr/bin/env bash
# The rehearsals of a CI job in a cluster; github.yaml and gitlab.yaml call this script. docs/REHEARSAL.md says which files
# it needs beside this folder. Change what is different in your chart here, or set it in the job. NAMESPACE is an existing
# namespace.
set -euo pipefail
cd "$(dirname "$0")/.."

: "${NAMESPACE:?is not set: name an existing namespace}"

CHART=${CHART:-shop}                                 # the folder of your chart
RELEASE=${RELEASE:-shop}                             # the release's name for helm
PODS=${PODS:-app.kubernetes.io/instance=shop}        # a label of your pods
DEPLOYMENT=${DEPLOYMENT:-shop}                       # your application's Deployment
CONTAINER=${CONTAINER:-shop}                         # and its container
# For products priced by use; DIMENSION=none rehearses no day of hours.
DIMENSION=${DIMENSION:-requests}
EACH=${EACH:-2}                                      # how much one call of USE uses: a whole number
USE=${USE:-/your-app use $EACH}                      # a command in the container: words without quotes
HOURS=${HOURS:-24}

# The bill of an earlier run is not this one's.
rehearsal/rehearse.sh remove
rehearsal/rehearse.sh prepare gate/seller.toml
helm upgrade --install "$RELEASE" "$CHART" --namespace "$NAMESPACE" --values gate/values.yaml --values rehearsal/values-rehearsal.yaml

# In mode metered it needs an entitlement_dimension in seller.toml. Without one AWS refuses no pod: delete this line.
rehearsal/rehearse.sh not-entitled "$PODS"
rehearsal/rehearse.sh throttled "$PODS"
if [ "$DIMENSION" = none ]; then
    echo "ci: no DIMENSION, so no day of hours"
    exit
fi
read -ra use <<<"$USE"
rehearsal/rehearse.sh day "$HOURS" kubectl --namespace "$NAMESPACE" exec "deployment/$DEPLOYMENT" --container "$CONTAINER" -- "${use[@]}"
rehearsal/rehearse.sh ledger >bill.csv
rehearsal/rehearse.sh bill "$DIMENSION" $((HOURS * EACH))
echo "ci: the bill is right"
