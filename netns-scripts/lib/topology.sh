# shellcheck shell=bash
# The topologies of network.sh.
#
# No interface makes a link-local address of its own (addrgenmode none), and none is checked for
# duplicates (nodad): every address works at once, where the kernel would take a second or two.

# ip_batch [NAMESPACE]: ip commands from standard input, all in one process.
ip_batch() {
    ip ${1:+-n "$1"} -batch -
}

add_namespaces() {
    local namespace
    for namespace in "$@"; do
        echo "netns add $name-$namespace"
    done | ip_batch
}

up_two_nats() {
    [[ -x ${WAN_BIN-} ]] || fail "WAN_BIN is not the program wan: '${WAN_BIN-}'"
    local a_host a_router b_host b_router
    address_side "$nat_a" 192.168.1 198.51.100
    a_host=$host_v4 a_router=$router_v4
    address_side "$nat_b" 10.0.0 203.0.113
    b_host=$host_v4 b_router=$router_v4

    add_namespaces host-a router-a router-b host-b
    start_wan
    add_side a "$a_host" "$a_router" &
    local side_a=$!
    add_side b "$b_host" "$b_router"
    wait "$side_a"
    await_wan
    connect_router a 198.51.100.1 "$nat_a" &
    side_a=$!
    connect_router b 203.0.113.1 "$nat_b"
    wait "$side_a"
}

# Sets host_v4 and router_v4, the two ends of a side's inner network. Without NAT it has no prefix
# of its own: a public address is routed to the host, as a provider does.
address_side() {
    local nat=$1 private=$2 public=$3
    case ${nat%%:*} in
    none) host_v4=$public.2/32 router_v4=$public.1/32 ;;
    *) host_v4=$private.2/24 router_v4=$private.1/24 ;;
    esac
}

# A host and the inner interface of its router.
add_side() {
    local side=$1 host_v4=$2 router_v4=$3
    ip_batch <<END
link add eth0 netns $name-host-$side type veth peer name lan netns $name-router-$side
END
    ip_batch "$name-host-$side" <<END
link set dev lo up
link set dev eth0 addrgenmode none
link set dev eth0 up
addr add $host_v4 dev eth0
route add default via ${router_v4%/*} dev eth0 onlink
addr add fe80::2/64 dev eth0 nodad
addr add 2001:db8:$side::2/64 dev eth0 nodad
route add ::/0 via 2001:db8:$side::1 dev eth0
END
    ip_batch "$name-router-$side" <<END
link set dev lo up
link set dev lan addrgenmode none
link set dev lan up
addr add $router_v4 dev lan
route add ${host_v4%/*}/32 dev lan
addr add fe80::1/64 dev lan nodad
addr add 2001:db8:$side::1/64 dev lan nodad
END
}

# The one process in the middle. It opens its interfaces while the sides are made.
start_wan() {
    mkfifo "$state/wan.ready"
    "$WAN_BIN" \
        --attach "$name-router-a=wan:198.51.100.0/24,2001:db8:a::/48" \
        --attach "$name-router-b=wan:203.0.113.0/24,2001:db8:b::/48" \
        "${wan_options[@]}" \
        </dev/null >"$state/wan.ready" 2>"$state/wan.log" &
    echo $! >"$state/wan.pid"
    disown
}

await_wan() {
    local line=
    read -r -t 10 line <"$state/wan.ready" || true
    [[ $line == ready ]] || fail "the wide area network did not start: $(<"$state/wan.log")"
}

# The outer interface of a router, and what the router does.
connect_router() {
    local side=$1 address=$2 nat=$3
    # Room for what a sender offloads as one large segment many times over: a queue of the usual
    # 500 would lose packets on a network that is to lose none.
    ip_batch "$name-router-$side" <<END
link set dev wan addrgenmode none
link set dev wan txqueuelen 10000
link set dev wan up
addr add $address/32 dev wan
route add default dev wan
route add ::/0 dev wan
END
    # shellcheck disable=SC2016 # the inner shell expands its own arguments
    ip netns exec "$name-router-$side" bash -c '
        set -euo pipefail
        source "$1/lib/routers.sh"
        configure_router "$2"' bash "$here" "$nat"
}

up_lan() {
    local side
    add_namespaces host-a switch host-b
    ip_batch "$name-switch" <<END
link add br0 type bridge
link set dev br0 addrgenmode none
link set dev br0 up
END
    for side in a b; do
        add_lan_host "$side" "$([[ $side == a ]] && echo 2 || echo 3)"
    done
}

add_lan_host() {
    local side=$1 number=$2
    ip_batch <<END
link add eth0 netns $name-host-$side type veth peer name port-$side netns $name-switch
END
    ip_batch "$name-switch" <<END
link set dev port-$side addrgenmode none
link set dev port-$side master br0
link set dev port-$side up
END
    ip_batch "$name-host-$side" <<END
link set dev lo up
link set dev eth0 addrgenmode none
link set dev eth0 up
addr add 192.168.1.$number/24 dev eth0
addr add fe80::$number/64 dev eth0 nodad
addr add 2001:db8:a::$number/64 dev eth0 nodad
END
}
