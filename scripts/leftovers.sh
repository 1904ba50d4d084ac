#!/usr/bin/env bash
# Fails when a test left a process of the product behind. What is ending is given ten seconds.
set -u
for _ in $(seq 20); do
  left=$(pgrep -a -f 'portico (serve|host|infer) |portico-onnx|portico_worker|portico-host-(init|stage)|\.(test|race) (host|infer) ' || true)
  [ -n "$left" ] || exit 0
  sleep 0.5
done
echo "processes left behind:" >&2
echo "$left" >&2
exit 1
