#!/usr/bin/env bash
# Ten minutes at a fixed rate: memory, descriptors and goroutines of the server must stay flat.
#
#   bench/soak.sh [DURATION]
set -euo pipefail
cd "$(dirname "$0")/.."
PORTICO_SOAK=${1:-10m} go test -count=1 -timeout 60m -run TestSoak -v ./test/e2e
