#!/usr/bin/env bash
# The demonstration, inside the bubble: the commands of the README on two hosts behind two NATs.
set -euo pipefail

network=$(dirname "$0")/../network.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
PATH=${TCP_PUNCH_BIN%/*}:$PATH

in_host() {
    local host=$1
    shift
    ip netns exec "demo-$host" "$@"
}

# punch HOST PEER: what a user types there, with a line to send on standard input.
punch() {
    local host=$1 peer=$2
    echo "hello from $host" |
        in_host "$host" tcp-punch --peer "$peer:40000" --at every:2s \
            --report "$work/$host.json" >"$work/$host.out" 2>"$work/$host.err"
}

# Both must mean the same multiple of two seconds. It is the first that is at least a second away, so
# neither may start shortly before that second begins.
avoid_the_turn() {
    local milliseconds=$(($(date +%s%N) / 1000000 % 2000))
    ((milliseconds < 500 || milliseconds >= 1000)) || sleep 0.6
}

print_side() {
    local host=$1
    echo
    echo "$host:"
    sed 's/^/    /' "$work/$host.err"
    sed 's/^/    received: /' "$work/$host.out"
}

"$network" up demo --delay 10ms --hops 3
cat <<'END'
  host-a            router-a           wide area network        router-b            host-b
  192.168.1.2 ----- 198.51.100.1 ===== 3 hops, 10 ms ========== 203.0.113.1 ------- 10.0.0.2
                    iptables MASQUERADE                         iptables MASQUERADE

  host-a$ echo "hello from host-a" | tcp-punch --peer 203.0.113.1:40000 --at every:2s
  host-b$ echo "hello from host-b" | tcp-punch --peer 198.51.100.1:40000 --at every:2s
END
avoid_the_turn
status=0
punch host-a 203.0.113.1 &
punch host-b 198.51.100.1 || status=$?
wait $! || status=$?
print_side host-a
print_side host-b
if ! grep -qx "hello from host-b" "$work/host-a.out" ||
    ! grep -qx "hello from host-a" "$work/host-b.out"; then
    echo "the lines did not arrive" >&2
    ((status)) || status=1
fi
echo
echo "What left and came, in milliseconds from the instant (tcp-punch wrote it with --report):"
echo
tcp-punch ladder "$work/host-a.json" "$work/host-b.json"
exit "$status"
