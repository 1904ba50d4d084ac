#!/usr/bin/env bash
# An endpoint from nothing to a prediction and away again, with curl alone, as Azure's REST samples do it.
#
#   curl.sh MANAGEMENT_URL        in the environment that `portico env` prints
#
# Python is used to take JSON apart, as the samples use jq.
set -euo pipefail

management=$1
version="api-version=2022-05-01"
subscription=00000000-0000-0000-0000-000000000001
workspace=$management/subscriptions/$subscription/resourceGroups/portico/providers/Microsoft.MachineLearningServices/workspaces/default
id=${workspace#"$management"}
endpoint=$workspace/onlineEndpoints/curl-endpoint

# field PATH: the member at a.b.c of the document on standard input.
field() {
	python3 -c 'import functools, json, sys
print(functools.reduce(lambda o, k: o[k], sys.argv[1].split("."), json.load(sys.stdin)))' "$1"
}

token=$(curl -sS --fail -H "X-IDENTITY-HEADER: $IDENTITY_HEADER" \
	"$IDENTITY_ENDPOINT?api-version=2019-08-01&resource=https://management.azure.com" | field access_token)

# arm METHOD URL [BODY]: one request to the management API; its body goes to standard output, its header to $headers.
headers=$(mktemp)
trap 'rm -f "$headers"' EXIT
arm() {
	local data=(-H "Content-Length: 0")
	[ $# -lt 3 ] || data=(-H "Content-Type: application/json" --data-binary "$3")
	curl -sS --fail-with-body -D "$headers" -X "$1" -H "Authorization: Bearer $token" "${data[@]}" "$2"
}

header() { sed -n "s/^$1: *//Ip" "$headers" | tr -d '\r' | tail -1; }

# wait_for URL: polls an operation to its end, which must be Succeeded.
wait_for() {
	local status
	while :; do
		status=$(arm GET "$1" | field status)
		case $status in
		Succeeded) return ;;
		Failed | Canceled) arm GET "$1" >&2; return 1 ;;
		esac
		sleep 0.5
	done
}

echo "create the endpoint"
arm PUT "$endpoint?$version" '{
  "location": "eastus", "identity": {"type": "systemAssigned"},
  "properties": {"authMode": "Key", "description": "made by curl"}
}' >/dev/null
wait_for "$(header Azure-AsyncOperation)"

echo "upload the code"
pending=$(arm POST "$workspace/codes/curl-code/versions/1/startPendingUpload?$version" '{"pendingUploadType": "TemporaryBlobReference"}')
sas=$(field blobReferenceForConsumption.credential.sasUri <<<"$pending")
blob=$(field blobReferenceForConsumption.blobUri <<<"$pending")
curl -sS --fail-with-body -X PUT -H "x-ms-blob-type: BlockBlob" -H "If-None-Match: *" --data-binary @- \
	"${sas%%\?*}/src/score.py?${sas#*\?}" <<'PYTHON'
import json

def init():
    print("init of the script that curl sent")

def run(raw_data):
    return {"total": sum(json.loads(raw_data)["features"])}
PYTHON
arm PUT "$workspace/codes/curl-code/versions/1?$version" '{"properties": {"codeUri": "'"$blob"'/src"}}' >/dev/null
arm PUT "$workspace/environments/curl-environment/versions/1?$version" \
	'{"properties": {"condaFile": "name: plain\ndependencies:\n  - python\n"}}' >/dev/null

echo "deploy"
state=$(arm PUT "$endpoint/deployments/blue?$version" '{
  "location": "eastus", "sku": {"name": "Default", "capacity": 1},
  "properties": {
    "endpointComputeType": "Managed", "instanceType": "Standard_DS3_v2", "scaleSettings": {"scaleType": "Default"},
    "codeConfiguration": {"codeId": "'"$id"'/codes/curl-code/versions/1", "scoringScript": "score.py"},
    "environmentId": "'"$id"'/environments/curl-environment/versions/1"
  }
}')
# Azure's samples poll the address in the resource itself.
wait_for "$(field properties.properties.AzureAsyncOperationUri <<<"$state")"
arm PUT "$endpoint?$version" '{
  "location": "eastus", "properties": {"authMode": "Key", "traffic": {"blue": 100}}
}' >/dev/null
wait_for "$(header Azure-AsyncOperation)"

echo "score"
uri=$(arm GET "$endpoint?$version" | field properties.scoringUri)
key=$(arm POST "$endpoint/listKeys?$version" | field primaryKey)
total=$(curl -sS --fail-with-body -H "Authorization: Bearer $key" -H "Content-Type: application/json" \
	-d '{"features": [20, 20, 2]}' "$uri" | field total)
[ "$total" = 42 ] || { echo "the answer is $total" >&2; exit 1; }
refused=$(curl -sS -o /dev/null -w '%{http_code}' -H "Authorization: Bearer not-the-key" -d '{}' "$uri")
[ "$refused" = 401 ] || { echo "a wrong key is answered with $refused" >&2; exit 1; }

echo "logs"
arm POST "$endpoint/deployments/blue/getLogs?$version" '{"containerType": "InferenceServer", "tail": 100}' |
	field content | grep -q "init of the script that curl sent"

echo "a path in other case, another version"
name=$(arm GET "$(sed 's/resourceGroups/resourcegroups/; s/onlineEndpoints/ONLINEENDPOINTS/' <<<"$endpoint")?api-version=2099-01-01" | field name)
[ "$name" = curl-endpoint ] || exit 1

echo "delete"
arm DELETE "$endpoint?$version" >/dev/null
grep -q '^HTTP/1.1 202' "$headers" || { cat "$headers" >&2; exit 1; }
wait_for "$(header Azure-AsyncOperation)"
gone=$(curl -sS -o /dev/null -w '%{http_code}' -H "Authorization: Bearer $token" "$endpoint?$version")
[ "$gone" = 404 ] || { echo "the deleted endpoint is answered with $gone" >&2; exit 1; }
