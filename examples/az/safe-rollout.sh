#!/usr/bin/env bash
# A safe rollout with az: a second version of a model takes over from the first, step by step, without a gap.
# It is written for az alone; `portico shim install` makes it run against Portico. Every step's outcome is checked.
set -euo pipefail
cd "$(dirname "$0")"

ENDPOINT_NAME="${ENDPOINT_NAME:-rollout-$RANDOM$RANDOM}"
export ENDPOINT_NAME

fail() {
  echo "safe-rollout: $*" >&2
  exit 1
}

# expect WHAT WANTED GOT
expect() {
  [ "$2" = "$3" ] || fail "$1 is '$3', not '$2'"
}

echo "== endpoint $ENDPOINT_NAME"
az ml online-endpoint create --name "$ENDPOINT_NAME" -f endpoint.yml --set tags.run=nightly tags.owner="$(id -un)"
expect "endpoint state" Succeeded "$(az ml online-endpoint show -n "$ENDPOINT_NAME" --query provisioning_state -o tsv)"
expect "owner tag" "$(id -un)" "$(az ml online-endpoint show -n "$ENDPOINT_NAME" --query tags.owner -o tsv)"

echo "== blue, with all traffic"
az ml online-deployment create --name blue --endpoint "$ENDPOINT_NAME" -f blue-deployment.yml --all-traffic
deploy_status=$(az ml online-deployment show --name blue --endpoint "$ENDPOINT_NAME" --query "provisioning_state" -o tsv)
expect "blue" Succeeded "$deploy_status"
expect "traffic" 100 "$(az ml online-endpoint show -n "$ENDPOINT_NAME" --query traffic.blue -o tsv)"

echo "== invoke, and curl with the fetched key"
az ml online-endpoint invoke --name "$ENDPOINT_NAME" --request-file sample-request.json
SCORING_URI=$(az ml online-endpoint show -n "$ENDPOINT_NAME" -o tsv --query scoring_uri)
KEY=$(az ml online-endpoint get-credentials -n "$ENDPOINT_NAME" -o tsv --query primaryKey)
answer=$(curl --silent --show-error --fail --request POST "$SCORING_URI" --header "Authorization: Bearer $KEY" \
  --header "Content-Type: application/json" --data @sample-request.json)
expect "curl's answer" '{"version": "1", "predictions": [3.0, 5.0, 21.0]}' "$answer"

echo "== scale blue to two instances"
az ml online-deployment update --name blue --endpoint-name "$ENDPOINT_NAME" --set instance_count=2
expect "instances" 2 "$(az ml online-deployment show -n blue -e "$ENDPOINT_NAME" --query instance_count -o tsv)"

echo "== green, without traffic"
az ml online-deployment create -n green -e "$ENDPOINT_NAME" -f green-deployment.yml
read -r blue green <<<"$(az ml online-endpoint show -n "$ENDPOINT_NAME" --query '[[traffic.blue, traffic.green]]' -o tsv)"
expect "split" "100/0" "$blue/$green"
expect "green's answer" '{"version": "2", "predictions": [3.5, 6.5, 30.5]}' \
  "$(az ml online-endpoint invoke --name "$ENDPOINT_NAME" --deployment-name green --request-file sample-request.json -o tsv)"

echo "== mirror a tenth of the traffic to green"
az ml online-endpoint update --name "$ENDPOINT_NAME" --mirror-traffic "green=10"
for _ in 1 2 3 4 5; do
  az ml online-endpoint invoke --name "$ENDPOINT_NAME" --request-file sample-request.json -o none
done
az ml online-endpoint update --name "$ENDPOINT_NAME" --mirror-traffic "green=0"

echo "== a tenth of the traffic for green, then all"
az ml online-endpoint update --name "$ENDPOINT_NAME" --traffic "blue=90 green=10"
expect "green's share" 10 "$(az ml online-endpoint show -n "$ENDPOINT_NAME" --query traffic.green -o tsv)"
az ml online-endpoint update --name "$ENDPOINT_NAME" --traffic "blue=0 green=100"
expect "the answer after the shift" '{"version": "2", "predictions": [3.5, 6.5, 30.5]}' \
  "$(az ml online-endpoint invoke -n "$ENDPOINT_NAME" -r sample-request.json -o tsv)"

echo "== logs"
az ml online-deployment get-logs --name green --endpoint "$ENDPOINT_NAME" -l 100 >green.log
grep -q "scoring 3 numbers with version 2" green.log || fail "green's log does not tell of the requests"
rm green.log

echo "== new keys"
az ml online-endpoint regenerate-keys -n "$ENDPOINT_NAME" --key-type primary
[ "$KEY" != "$(az ml online-endpoint get-credentials -n "$ENDPOINT_NAME" -o tsv --query primaryKey)" ] || fail "the key did not change"

echo "== delete"
az ml online-deployment delete --name blue --endpoint "$ENDPOINT_NAME" --yes --no-wait
az ml online-endpoint delete --name "$ENDPOINT_NAME" --yes --no-wait
echo "== done"
