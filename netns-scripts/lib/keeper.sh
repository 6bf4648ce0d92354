#!/usr/bin/env bash
# Runs in a bubble that is to stay: makes the network, says so on descriptor 8, and waits.
set -euo pipefail

"$(dirname "$0")/../network.sh" up "$@" 8>&-
echo ready >&8
exec 8>&-
# A process of its own, so that this one still collects what is left behind in the bubble.
sleep infinity &
wait
