#!/usr/bin/env bash
# The gateway benchmark: an echo script behind Portico and behind Flask + gunicorn, side by side.
#
#   bench/gateway/run.sh [--duration 10s] [--connections 16] [--rounds 3] [--rate 500] [--workers N]
#
# It needs bin/portico (make build), Go, and Python 3 with venv; the first run installs Flask and gunicorn.
set -euo pipefail

cd "$(dirname "$0")/../.."
venv=.build/bench/venv
python=${PYTHON:-python3}
if ! cmp -s bench/gateway/requirements.txt "$venv/installed.txt"; then
	"$python" -m venv --clear "$venv"
	"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r bench/gateway/requirements.txt
	cp bench/gateway/requirements.txt "$venv/installed.txt"
fi
go build -trimpath -o .build/bench/gateway ./bench/gateway
exec .build/bench/gateway --portico bin/portico --python "$venv/bin/python" --source bench/gateway "$@"
