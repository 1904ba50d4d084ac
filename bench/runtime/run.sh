#!/usr/bin/env bash
# The runtime benchmark: a script or model behind Portico and behind other Python model servers, side by side.
#
#   bench/runtime/run.sh [--scripts echo,lr] [--only infer,serve,azmlinfsrv,...] [--duration 4s] [--rounds 3]
#
# It needs bin/portico (make build), Go, and Python 3.11 with venv; the first run installs the servers, some 2 GB.
set -euo pipefail

cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
for file in bench/runtime/requirements/*.txt; do
	venv=.build/bench/$(basename "$file" .txt)
	if ! cmp -s "$file" "$venv/installed.txt"; then
		echo "installing $(basename "$venv")" >&2
		"$python" -m venv --clear "$venv"
		"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$file"
		cp "$file" "$venv/installed.txt"
	fi
done
if [ ! -e .build/bench/mlflow/models/lr/MLmodel ]; then
	.build/bench/mlflow/bin/python bench/runtime/peers/mlflowsave.py .build/bench/mlflow/models >&2
fi
go build -trimpath -o .build/bench/runtime ./bench/runtime
exec .build/bench/runtime "$@"
