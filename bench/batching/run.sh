#!/usr/bin/env bash
# The batching benchmark: models with a fixed cost for a call, one request at a time and in batches, side by side.
#
#   bench/batching/run.sh [--connections 32] [--max-size 32] [--max-wait-ms 5] [--duration 3s] [--rounds 3]
#
# It needs bin/portico and bin/portico-onnx (make build), Go and Python 3. It fails when batches are not three times as fast, or when their p99 is
# beyond its bound.
set -euo pipefail

cd "$(dirname "$0")/../.."
mkdir -p .build/bench
bin/portico runtime list --data-dir .build/onnx --query '[].state' -o tsv | grep -q installed ||
	bin/portico runtime install onnx --data-dir .build/onnx
go build -trimpath -o .build/bench/batching ./bench/batching
exec .build/bench/batching "$@"
