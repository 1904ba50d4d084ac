#!/usr/bin/env bash
# The ONNX benchmark: an ONNX model behind Portico, in one process with an HTTP server, and behind MLServer;
# and a scikit-learn model of the same kind behind MLflow.
#
#   bench/onnx/run.sh [--duration 4s] [--rounds 3] [--connections 16]
#
# It needs bin/portico and bin/portico-onnx (make build) and Go. The rows of MLServer and
# MLflow need what bench/runtime/run.sh installs.
set -euo pipefail

cd "$(dirname "$0")/../.."
mkdir -p .build/bench
bin/portico runtime list --data-dir .build/onnx --query '[].state' -o tsv | grep -q installed ||
	bin/portico runtime install onnx --data-dir .build/onnx
CGO_ENABLED=0 go build -trimpath -o .build/bench/inprocess ./bench/onnx/inprocess
go build -trimpath -o .build/bench/onnx ./bench/onnx
exec .build/bench/onnx "$@"
