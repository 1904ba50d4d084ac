#!/usr/bin/env bash
# Fails when a test left a process of the product behind.
set -u
left=$(pgrep -a -f 'bin/portico |portico_worker' || true)
if [ -n "$left" ]; then
  echo "processes left behind:" >&2
  echo "$left" >&2
  exit 1
fi
