#!/usr/bin/env bash
# How long a worker takes from the order to start it to its first answer: spawned, forked, and from a spare, in turns.
#
#   bench/start/run.sh [--starts 50]
#
# It needs bin/portico (make build), Go, Python 3.11 or newer with venv, and root for user ids and cgroups.
set -euo pipefail

cd "$(dirname "$0")/../.."
venv=.build/bench/start-venv
python=${PYTHON:-python3}
if ! cmp -s bench/start/requirements.txt "$venv/installed.txt"; then
	"$python" -m venv --clear "$venv"
	"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r bench/start/requirements.txt
	cp bench/start/requirements.txt "$venv/installed.txt"
fi
model=.build/bench/start-model
mkdir -p "$model"
"$venv/bin/python" bench/start/train.py "$model/model.joblib"
"$venv/bin/python" -m compileall -q "$venv/lib" || true
go build -trimpath -o .build/bench/start ./bench/start
exec .build/bench/start --portico bin/portico --python "$venv/bin/python" --code bench/start/score --model "$model" "$@"
