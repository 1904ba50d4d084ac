#!/usr/bin/env bash
# The demo: two real models behind one URL, from nothing to a traffic split and back.
#
#   scripts/demo.sh           runs in a temporary directory and stops everything
#   KEEP=1 scripts/demo.sh    leaves the server running and says how to go on
#
# It needs Go (only when bin/portico is not built yet) and Python 3 with venv.
set -euo pipefail

cd "$(dirname "$0")/.."
root=$PWD
portico=$root/bin/portico
example=$root/examples/breast-cancer
venv=$root/.build/demo/venv
python=${PYTHON:-python3}
requests=${DEMO_REQUESTS:-400} # for the traffic split

work=$(mktemp -d "${TMPDIR:-/tmp}/portico-demo.XXXXXX")
export PORTICO_DATA_DIR=$work/data
# The demo's own server and workspace, whatever this user has set up.
unset PORTICO_URL PORTICO_TOKEN PORTICO_CA_FILE PORTICO_WORKSPACE PORTICO_RESOURCE_GROUP PORTICO_SUBSCRIPTION
export XDG_CONFIG_HOME=$work/config
server=
failed_at="the start"

step() {
	failed_at=$1
	printf '\n\033[1m== %s\033[0m\n' "$1"
}

# run shows a command as a person would type it, then runs it.
run() {
	local line='$' word
	for word in "$@"; do
		case $word in *' '*) word="\"$word\"" ;; esac
		line="$line $word"
	done
	line=${line//"$root/"/}
	line=${line//"$work/"/}
	echo "${line/bin\/portico/portico}"
	"$@"
}

# left lists the processes that were started for this demo and still run: the server, its host, its workers.
left() {
	if [ -d /proc/self ]; then
		# A process may end while it is looked at.
		for p in /proc/[0-9]*; do
			[ "${p#/proc/}" = $$ ] && continue
			{ tr '\0' ' ' <"$p/cmdline" | grep -F "$work"; } 2>/dev/null || true
		done
	else
		pgrep -f "$work" || true
	fi
}

stop() {
	local code=$?
	trap - EXIT
	if [ "$code" -eq 0 ] && [ "${KEEP:-}" = 1 ]; then
		exit 0
	fi
	if [ "$code" -ge 130 ]; then
		printf '\nStopped at: %s\n' "$failed_at" >&2
	elif [ "$code" -ne 0 ]; then
		printf '\nThe demo failed at: %s\nThe end of the server'"'"'s log:\n' "$failed_at" >&2
		tail -n 40 "$work/server.log" >&2 || true
	fi
	if [ -n "$server" ] && kill -TERM "$server" 2>/dev/null && ! wait "$server" && [ "$code" -eq 0 ]; then
		code=1
		echo "The server did not stop cleanly:" >&2
		tail -n 20 "$work/server.log" >&2
	fi
	for _ in $(seq 50); do
		[ -z "$(left)" ] && break
		sleep 0.2
	done
	if [ -n "$(left)" ]; then
		echo "These processes are left:" >&2
		left >&2
		code=1
	fi
	rm -rf "$work"
	exit "$code"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ ! -x "$portico" ]; then
	step "Build portico"
	CGO_ENABLED=0 go build -trimpath -o "$portico" ./cmd/portico
fi

step "Train two models on the data set that ships inside scikit-learn"
# The environment is kept for the next run, and made again when what it holds has changed.
stamp=$venv/.requirements
if ! cmp -s "$example/requirements.txt" "$stamp"; then
	rm -rf "$venv"
	mkdir -p "$(dirname "$venv")"
	if command -v uv >/dev/null; then
		uv venv -q --python "$python" "$venv"
		VIRTUAL_ENV=$venv uv pip install -q -r "$example/requirements.txt"
	else
		"$python" -m venv "$venv" || {
			echo "Python's venv module is missing; on Debian: apt install python3-venv" >&2
			exit 1
		}
		"$venv/bin/python" -m pip install -q --disable-pip-version-check -r "$example/requirements.txt"
	fi
	cp "$example/requirements.txt" "$stamp"
fi
run "$venv/bin/python" "$example/train.py" --out "$work/models" --request "$work/request.json"

step "Start a server"
echo '$ portico serve --management 127.0.0.1:0 --scoring 127.0.0.1:0 --ready-file ready.json'
set -m # a process group of its own: Ctrl-C reaches this script only, which then stops the server in order
"$portico" serve --management 127.0.0.1:0 --scoring 127.0.0.1:0 --ready-file "$work/ready.json" >"$work/server.log" 2>&1 &
server=$!
set +m
for _ in $(seq 600); do
	[ -e "$work/ready.json" ] && break
	kill -0 "$server" 2>/dev/null || { echo "the server ended" >&2; exit 1; }
	sleep 0.1
done
[ -e "$work/ready.json" ] || { echo "the server is not ready after 60 s" >&2; exit 1; }
cat "$work/ready.json"

step "Create the endpoint"
run "$portico" ml online-endpoint create -f "$example/endpoint.yml" -o table

step "Deploy blue: the environment is built once, then the instances start"
run "$portico" ml online-deployment create -f "$example/blue-deployment.yml" --set "model.path=$work/models/blue.joblib" --all-traffic -o table

step "Ask blue about three biopsies"
run "$portico" ml online-endpoint invoke -n breast-cancer -r "$work/request.json"

step "Deploy green beside it, with the same environment and no traffic yet"
run "$portico" ml online-deployment create -f "$example/green-deployment.yml" --set "model.path=$work/models/green.joblib" -o table
run "$portico" ml online-endpoint invoke -n breast-cancer -r "$work/request.json" --deployment-name green

step "Move 10 % of the traffic to green, and count who answers $requests requests"
run "$portico" ml online-endpoint update -n breast-cancer --traffic "blue=90 green=10" -o none
uri=$("$portico" ml online-endpoint show -n breast-cancer --query scoring_uri -o tsv)
key=$("$portico" ml online-endpoint get-credentials -n breast-cancer --query primaryKey -o tsv)
ca=$("$venv/bin/python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["ca_file"])' "$work/ready.json")
# count N URI CA REQUEST: sends N requests on one connection and prints how many each deployment answered. The key
# comes through the environment, so that no list of processes shows it.
count() {
	SCORING_KEY=$key "$venv/bin/python" - "$@" <<'PYTHON'
import collections, http.client, os, ssl, sys, urllib.parse

n, uri, ca, request = int(sys.argv[1]), urllib.parse.urlsplit(sys.argv[2]), sys.argv[3], open(sys.argv[4]).read()
connection = http.client.HTTPSConnection(uri.netloc, context=ssl.create_default_context(cafile=ca), timeout=60)
headers = {"Authorization": "Bearer " + os.environ["SCORING_KEY"], "Content-Type": "application/json"}
seen = collections.Counter()
for _ in range(n):
    connection.request("POST", uri.path, request, headers)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        sys.exit(f"the endpoint answered {answer.status}: {body.decode(errors='replace')}")
    seen[answer.headers["azureml-model-deployment"]] += 1
for name, hits in sorted(seen.items()):
    print(f"  {name:6} {hits:4}  {100 * hits / n:5.1f} %  {'#' * round(50 * hits / n)}")
expected = set(sys.argv[5].split(","))
if set(seen) != expected:
    sys.exit(f"answers came from {sorted(seen)}, not from {sorted(expected)}")
PYTHON
}
count "$requests" "$uri" "$ca" "$work/request.json" blue,green
run "$portico" ml online-endpoint metrics -n breast-cancer -o table

step "Roll back: all traffic to blue again"
run "$portico" ml online-endpoint update -n breast-cancer --traffic "blue=100" -o none
count 50 "$uri" "$ca" "$work/request.json" blue

step "Any HTTP client will do"
cat <<CURL
curl --cacert $ca \\
     -H "Authorization: Bearer \$(portico ml online-endpoint get-credentials -n breast-cancer --query primaryKey -o tsv)" \\
     -H "Content-Type: application/json" \\
     -d @request.json $uri
CURL
if command -v curl >/dev/null; then
	printf 'header = "Authorization: Bearer %s"\n' "$key" |
		curl -sS --fail --cacert "$ca" -K - -H "Content-Type: application/json" -d "@$work/request.json" "$uri"
	echo
fi

if [ "${KEEP:-}" = 1 ]; then
	cat <<KEPT

The server runs on as process $server. To go on in this shell:
  export PORTICO_DATA_DIR=$PORTICO_DATA_DIR
  $portico ml online-endpoint invoke -n breast-cancer -r $work/request.json
To stop it and remove everything:
  kill $server; while kill -0 $server 2>/dev/null; do sleep 0.2; done; rm -rf $work
KEPT
	disown "$server"
else
	step "Stop everything"
fi
