#!/usr/bin/env bash
# The first process of a bubble: makes its /run private, then runs the command given.
set -euo pipefail

# The first process ignores signals it does not catch.
trap 'exit 130' INT
trap 'exit 143' TERM

# Names of namespaces (/run/netns) and iptables' lock become the bubble's own. Links are made anew:
# some systems have their programs behind one (/run/current-system).
links=()
for entry in /run/*; do
    [[ ! -L $entry ]] || links+=("$(readlink "$entry")" "$entry")
done
mount -t tmpfs -o mode=755 tmpfs /run
for ((i = 0; i < ${#links[@]}; i += 2)); do
    ln -s "${links[i]}" "${links[i + 1]}"
done
mkdir -p /run/netns /run/lock
ip link set dev lo up

# Programs and tests look for this before they change a network.
export LAB=1
unset XDG_RUNTIME_DIR
"$@"
