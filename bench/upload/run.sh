#!/bin/sh
# Sends a 1 GiB model to a server of its own and says what memory the server needed (see bench/README.md).
set -eu
cd "$(dirname "$0")/../.."
exec go run ./bench/upload -portico "${PORTICO:-bin/portico}" "$@"
