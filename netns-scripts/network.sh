#!/usr/bin/env bash
# Two hosts and what lies between them, as network namespaces:
#
#   two-nats:  host-a -- router-a == wide area network == router-b -- host-b
#   lan:       host-a -- switch -- host-b
#   one-nat:   host-a and host-b -- router-a == wide area network == router-b
#   wire:      host-a -- router-a -- router-b -- host-b
#
# testbed.sh and the Rust tests (tests/lab/network.rs) both build their networks with this script,
# inside the bubble that testbed.sh makes. Several networks may stand side by side by name.
set -euo pipefail

usage() {
    cat <<'END'
usage: network.sh up NAME [OPTION...]
       network.sh down NAME

  --topology KIND        two-nats (default), lan, one-nat (both hosts behind router-a; router-b
                         is somebody outside) or wire (two routers and nothing between)
  --nat-a KIND[,OPTION...]
                         what router-a does; likewise --nat-b. KIND is one of
                           masquerade      iptables MASQUERADE: keeps the port (default)
                           random          MASQUERADE --random: a port for each destination
                           random-fully    MASQUERADE --random-fully
                           to-ports=LO-HI  MASQUERADE --to-ports, for TCP
                           none            no NAT: the host has a public address; no options
                           user:SPEC       a NAT in the program wan does the translating; SPEC is
                                           KEY=VALUE[,...], see below
                         The options, after commas or colons, are what it does with an
                         unsolicited SYN, one of
                           rst (default: what the kernel does), drop, reject (RST by iptables),
                           icmp (port unreachable), listener (a program on it takes the call)
                         and any of
                           syn-block       drops every SYN from outside, after tracking it
                           raw-syn-block   drops them before connection tracking
                           invalid-drop    drops what connection tracking calls INVALID
                           strict          takes up no connection in mid-stream
                           conntrack-max=N makes no further mapping when it has so many
                           upnp            maps ports when asked: miniupnpd, for PCP, NAT-PMP and
                                           UPnP-IGD; upnp=igd or upnp=pcp (and NAT-PMP) alone. The
                                           outer address that it names is 192.0.1.1, on router-b
                                           192.0.1.129; behind --outer-a it has none to name
                         For IPv6 it is a stateful firewall with the same options.
  --outer-a SPEC         a second NAT behind router-a's, as a carrier has, and a hop of its own
                         (100.64.0.1); likewise --outer-b
  --server IP[,IP...]    somebody outside with these addresses, in the namespace server
  --delay 10ms           one-way delay between the routers (default 0)
  --hops N               routers in the wide area network (default 3)
  --loss, --reorder, --duplicate PERCENT
                         what else happens there (default 0)
  --seed N               makes the chances repeatable

SPEC, in the words of RFC 4787 and RFC 5382, the default first:
  mapping=eim|adm|apdm   filtering=apdf|adf|eif
  ports=preserving|sequential|parity|block|random   pool=LO-HI[+LO-HI...]
  step=N,rate=R,first=PORT   of sequential: ports from one mapping to the next, mappings that
                         others make in a second, where it begins
  syn-in=allow|block|ignore   an inbound SYN after the inside's: block drops it when the state has
                         advanced, ignore before
  unsolicited=drop|rst|icmp|hold   hold: six seconds, then icmp
  rst-kills=yes|no       an inbound RST ends what is unanswered
  rewrite-seq=no|yes   strip-options=no|yes   loose=yes|no (an ACK makes a mapping)
  hairpin=no|yes   entries=262144

The environment's WAN_BIN is the program `wan` (cargo build --example wan).
END
}

fail() {
    echo "network.sh: $*" >&2
    exit 1
}

here=$(dirname "$(readlink -f "$0")")
source "$here/lib/topology.sh"
source "$here/lib/routers.sh"

parse_options() {
    topology=two-nats nat_a=masquerade nat_b=masquerade outer_a='' outer_b='' server=''
    wan_options=()
    while (($#)); do
        case $1 in
        --topology | --nat-a | --nat-b | --outer-a | --outer-b | --server | --delay | --hops | --loss | --reorder | --duplicate | --seed)
            (($# >= 2)) || fail "option $1 needs a value"
            ;;
        esac
        case $1 in
        --topology) topology=$2 ;;
        --nat-a) nat_a=$2 ;;
        --nat-b) nat_b=$2 ;;
        --outer-a) outer_a=$2 ;;
        --outer-b) outer_b=$2 ;;
        --server) server=$2 ;;
        --delay | --hops | --loss | --reorder | --duplicate | --seed) wan_options+=("$1" "$2") ;;
        *) fail "unknown option $1; see network.sh --help" ;;
        esac
        shift 2
    done
}

up() {
    local topology nat_a nat_b outer_a outer_b server wan_options
    parse_options "$@"
    [[ ! -e $state ]] || fail "a network named $name is up already"
    # Whatever is still being made must not outlive its removal.
    trap 'wait; down' EXIT
    mkdir -p "$state"
    [[ -z $server || $topology == two-nats || $topology == one-nat ]] ||
        fail "a $topology has no server outside"
    case $topology in
    two-nats) up_two_nats ;;
    one-nat) up_one_nat ;;
    lan | wire)
        ((${#wan_options[@]} == 0)) ||
            fail "a $topology has no wide area network for ${wan_options[0]}"
        [[ -z $outer_a$outer_b ]] || fail "a $topology has no wide area network for an outer NAT"
        "up_$topology"
        ;;
    *) fail "unknown topology $topology" ;;
    esac
    trap - EXIT
}

# Ends what up started and every process in it. What is gone already is no error.
down() {
    local pid namespace
    if [[ -s $state/wan.pid ]]; then
        read -r pid <"$state/wan.pid"
        # A number may be in use again: only our own program is ended.
        if [[ $(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline") == *"--attach $name-"* ]]; then
            kill "$pid" 2>/dev/null || true
        fi
    fi
    for namespace in /run/netns/"$name"-*; do
        case ${namespace##*/"$name"-} in
        host-[ab] | router-[ab] | server | switch)
            ip netns pids "${namespace##*/}" | xargs -r kill -KILL 2>/dev/null || true
            ip netns del "${namespace##*/}" || true
            ;;
        esac
    done
    rm -rf "$state"
}

case ${1-} in
-h | --help)
    usage
    exit
    ;;
up | down) ;;
*)
    usage >&2
    exit 2
    ;;
esac
(($# >= 2)) || fail "$1 needs a name"
command=$1 name=$2
shift 2
[[ $name =~ ^[a-zA-Z0-9_][a-zA-Z0-9_-]*$ ]] || fail "a name is letters, digits, - and _, not '$name'"
[[ ${LAB-} == 1 ]] ||
    fail "not inside the testbed's bubble, and outside it this would change the host's network; use testbed.sh"
state=/run/tcp-punch/$name
"$command" "$@"
