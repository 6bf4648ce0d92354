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
    local a_host a_router b_host b_router a_outer b_outer
    address_side "$nat_a" 192.168.1 198.51.100
    a_host=$host_v4 a_router=$router_v4
    address_side "$nat_b" 10.0.0 203.0.113
    b_host=$host_v4 b_router=$router_v4
    add_nats a "$nat_a" "$outer_a" 198.51.100.1
    a_outer=$outer_v4
    add_nats b "$nat_b" "$outer_b" 203.0.113.1
    b_outer=$outer_v4

    add_namespaces host-a router-a router-b host-b ${server:+server}
    [[ -z $server ]] || wan_options+=(--attach "$name-server=wan:$(as_prefixes "$server")")
    start_wan
    add_side a "$a_host" "$a_router" &
    local side_a=$!
    add_side b "$b_host" "$b_router"
    wait "$side_a"
    await_wan
    connect_router a "$a_outer" "$nat_a" &
    side_a=$!
    connect_router b "$b_outer" "$nat_b"
    [[ -z $server ]] || connect_server "$server"
    wait "$side_a"
}

# A host of the wide area network itself, with addresses that have commas between them.
connect_server() {
    local address
    {
        cat <<END
link set dev lo up
link set dev wan addrgenmode none
link set dev wan txqueuelen 10000
link set dev wan up
END
        for address in ${1//,/ }; do
            case $address in
            *:*) echo "addr add $address/128 dev wan nodad" ;;
            *) echo "addr add $address/32 dev wan" ;;
            esac
        done
        echo 'route add default dev wan'
        echo 'route add ::/0 dev wan'
    } | ip_batch "$name-server"
}

# Each address, of those that have commas between them, as a prefix of its own.
as_prefixes() {
    local address prefixes=()
    for address in ${1//,/ }; do
        case $address in
        *:*) prefixes+=("$address/128") ;;
        *) prefixes+=("$address/32") ;;
        esac
    done
    local IFS=,
    echo "${prefixes[*]}"
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

# Tells the wan of a side's NATs there, from inside to outside, and sets outer_v4, the address of
# the router's own outer interface; it has none where a NAT of the wan's stands for it.
add_nats() {
    local side=$1 nat=$2 outer=$3 public=$4
    local netns=$name-router-$side spec
    outer_v4=$public
    if [[ -n $outer ]]; then
        [[ ${nat%%:*} != none ]] || fail "--outer-$side needs a router that translates, not none"
        outer_v4=100.64.0.2
    fi
    if [[ ${nat%%:*} == user ]]; then
        spec=$(user_spec "$nat")
        wan_options+=(--nat "$netns=$outer_v4:$spec")
        outer_v4=
    fi
    if [[ -n $outer ]]; then
        spec=$(user_spec "$outer")
        wan_options+=(--nat "$netns=$public@100.64.0.1:$spec")
    fi
}

# What stands behind `user:`, which an outer router may leave out.
user_spec() {
    case $1 in
    user) ;;
    user:*) echo "${1#user:}" ;;
    *=*) echo "$1" ;;
    *) fail "'$1' is not user:KEY=VALUE[,...]" ;;
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
    [[ -x ${WAN_BIN-} ]] || fail "WAN_BIN is not the program wan: '${WAN_BIN-}'"
    mkfifo "$state/wan.ready"
    "$WAN_BIN" \
        --attach "$name-router-a=wan:198.51.100.0/24,192.0.1.0/25,2001:db8:a::/48" \
        --attach "$name-router-b=wan:203.0.113.0/24,192.0.1.128/25,2001:db8:b::/48" \
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
    [[ ${nat%%:*} != user ]] || nat=none
    # Room for what a sender offloads as one large segment many times over: a queue of the usual
    # 500 would lose packets on a network that is to lose none.
    ip_batch "$name-router-$side" <<END
link set dev wan addrgenmode none
link set dev wan txqueuelen 10000
link set dev wan up
${address:+addr add $address/32 dev wan}
route add default dev wan
route add ::/0 dev wan
END
    configure "$side" "$nat"
}

configure() {
    local side=$1 nat=$2
    # shellcheck disable=SC2016 # the inner shell expands its own arguments
    ip netns exec "$name-router-$side" bash -c '
        set -euo pipefail
        source "$1/lib/routers.sh"
        configure_router "$2" "$3"' bash "$here" "$nat" "$state/upnp-$side"
}

# Both hosts behind router-a. Router-b is there alone, as somebody outside.
up_one_nat() {
    local a_outer
    [[ ${nat_a%%:*} != none ]] || fail "one-nat needs a router that translates, not none"
    add_nats a "$nat_a" "$outer_a" 198.51.100.1
    a_outer=$outer_v4
    add_namespaces host-a host-b router-a router-b ${server:+server}
    [[ -z $server ]] || wan_options+=(--attach "$name-server=wan:$(as_prefixes "$server")")
    start_wan
    ip_batch "$name-router-a" <<END
link set dev lo up
link add lan type bridge
link set dev lan addrgenmode none
link set dev lan up
addr add 192.168.1.1/24 dev lan
addr add fe80::1/64 dev lan nodad
addr add 2001:db8:a::1/64 dev lan nodad
END
    add_lan_host a 2 router-a lan
    add_lan_host b 3 router-a lan
    local host
    for host in a b; do
        ip_batch "$name-host-$host" <<END
route add default via 192.168.1.1 dev eth0
route add ::/0 via 2001:db8:a::1 dev eth0
END
    done
    ip -n "$name-router-b" link set dev lo up
    await_wan
    connect_router a "$a_outer" "$nat_a"
    connect_router b 203.0.113.1 none
    [[ -z $server ]] || connect_server "$server"
}

# Two routers whose outer interfaces are the two ends of one wire.
up_wire() {
    local side
    for side in "$nat_a" "$nat_b"; do
        [[ ${side%%:*} != user ]] || fail "a wire has no wide area network for user:"
    done
    add_namespaces host-a router-a router-b host-b
    address_side "$nat_a" 192.168.1 198.51.100
    add_side a "$host_v4" "$router_v4"
    address_side "$nat_b" 10.0.0 203.0.113
    add_side b "$host_v4" "$router_v4"
    echo "link add wan netns $name-router-a type veth peer name wan netns $name-router-b" | ip_batch
    for side in a b; do
        ip_batch "$name-router-$side" <<END
link set dev wan addrgenmode none
link set dev wan up
END
    done
    wire_router a 198.51.100.1 1 203.0.113.1 2
    wire_router b 203.0.113.1 2 198.51.100.1 1
    configure a "$nat_a"
    configure b "$nat_b"
}

wire_router() {
    local side=$1 address=$2 number=$3 peer=$4 peer_number=$5
    ip_batch "$name-router-$side" <<END
addr add $address/32 dev wan
addr add fe80::$number/64 dev wan nodad
route add default via $peer dev wan onlink
route add ::/0 via fe80::$peer_number dev wan
END
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
        add_lan_host "$side" "$([[ $side == a ]] && echo 2 || echo 3)" switch br0
    done
}

add_lan_host() {
    local side=$1 number=$2 switch=$3 bridge=$4
    ip_batch <<END
link add eth0 netns $name-host-$side type veth peer name port-$side netns $name-$switch
END
    ip_batch "$name-$switch" <<END
link set dev port-$side addrgenmode none
link set dev port-$side master $bridge
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
