#!/usr/bin/env bash
# The batching benchmark: a model with a fixed cost for a call, one request at a time and in batches, side by side.
#
#   bench/batching/run.sh [--connections 32] [--max-size 32] [--max-wait-ms 5] [--duration 3s] [--rounds 3]
#
# It needs bin/portico (make build), Go and Python 3. It fails when batches are not three times as fast, or when their p99 is
# beyond its bound.
set -euo pipefail

cd "$(dirname "$0")/../.."
mkdir -p .build/bench
go build -trimpath -o .build/bench/batching ./bench/batching
exec .build/bench/batching "$@"
