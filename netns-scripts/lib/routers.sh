# shellcheck shell=bash
# What routers do. configure_router runs inside the router's namespace, after its interfaces are
# up: lan inside, wan outside. A kind of router is how it numbers its mappings; what else it does is
# an option. Every kind but none translates IPv4 by iptables' MASQUERADE and is a stateful firewall
# for IPv6, with the same options.

# Where the program of the option listener listens on the router.
listener_port=9

# configure_router KIND[,OPTION...] FOLDER: what the router's programs write goes to the folder.
configure_router() {
    local kind answer='' syns='' invalid='' strict='' most='' upnp='' folder=$2
    parse_router "$1"
    echo 1 >/proc/sys/net/ipv4/ip_forward
    echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
    # Loose: a source must be reachable, by whichever interface. It is what distributions set.
    echo 2 >/proc/sys/net/ipv4/conf/all/rp_filter
    # Without rules there is no connection tracking either.
    [[ $kind != none ]] || return 0
    [[ $answer != listener ]] || start_listener
    rules_v4 | iptables-restore
    rules_v6 | ip6tables-restore
    [[ -z $upnp ]] || start_upnp
    # The setting is there when the rules have brought connection tracking.
    [[ -z $strict ]] || echo 0 >/proc/sys/net/netfilter/nf_conntrack_tcp_loose
}

not_a_router() {
    echo "network.sh: $*" >&2
    return 1
}

# Sets the variables of configure_router.
parse_router() {
    local words word
    IFS=,: read -r -a words <<<"$1"
    kind=${words[0]-}
    case $kind in
    none | masquerade | random | random-fully) ;;
    to-ports=*)
        is_port_range "${kind#*=}" ||
            not_a_router "to-ports needs a range of ports such as 40000-40063, not '${kind#*=}'" || return
        ;;
    *) not_a_router "unknown kind of router '$kind'" || return ;;
    esac
    for word in "${words[@]:1}"; do
        [[ $kind != none ]] ||
            not_a_router "a router without NAT tracks no connections and cannot '$word'" || return
        case $word in
        rst | drop | reject | icmp | listener)
            [[ -z $answer ]] || not_a_router "a router answers a SYN by $answer or by $word" || return
            answer=$word
            ;;
        syn-block | raw-syn-block)
            [[ -z $syns ]] || not_a_router "a router blocks SYNs by $syns or by $word" || return
            syns=$word
            ;;
        invalid-drop) invalid=drop ;;
        strict) strict=yes ;;
        upnp | upnp=igd | upnp=pcp) upnp=$word ;;
        conntrack-max=*)
            most=${word#*=}
            [[ $most =~ ^[1-9][0-9]{0,6}$ ]] ||
                not_a_router "conntrack-max needs a number from 1 on, not '$most'" || return
            ;;
        *)
            not_a_router "a router answers a SYN by rst, drop, reject, icmp or listener, and may" \
                "syn-block, raw-syn-block, invalid-drop, be strict, have a conntrack-max=N or upnp," \
                "not '$word'" ||
                return
            ;;
        esac
    done
    [[ $syns != raw-syn-block || ${answer:-drop} == drop ]] ||
        not_a_router "no SYN gets through raw-syn-block that $answer could answer"
}

is_port_range() {
    local low=${1%-*} high=${1#*-}
    [[ $1 =~ ^[1-9][0-9]{0,4}-[1-9][0-9]{0,4}$ ]] && ((low <= high && high <= 65535))
}

rules_v4() {
    [[ $syns != raw-syn-block ]] || block_untracked_syns
    echo '*nat'
    [[ $answer != listener ]] ||
        echo "-A PREROUTING -i wan -p tcp --syn -j REDIRECT --to-ports $listener_port"
    case $kind in
    random | random-fully) echo "-A POSTROUTING -o wan -j MASQUERADE --$kind" ;;
    # A range of ports has to be named with its protocol.
    to-ports=*) echo "-A POSTROUTING -o wan -p tcp -j MASQUERADE --to-ports ${kind#*=}" ;;&
    *) echo '-A POSTROUTING -o wan -j MASQUERADE' ;;
    esac
    echo COMMIT
    echo '*filter'
    drop_what_is_invalid
    local fresh='-A INPUT -i wan -p tcp -m conntrack --ctstate NEW'
    # The kernel itself answers with RST, and where the listener is, nothing is refused.
    case $answer in
    drop) echo "$fresh -j DROP" ;;
    reject) echo "$fresh -j REJECT --reject-with tcp-reset" ;;
    icmp) echo "$fresh -j REJECT --reject-with icmp-port-unreachable" ;;
    esac
    # Connection tracking has seen it by then.
    [[ $syns != syn-block ]] || echo '-A FORWARD -i wan -p tcp --syn -j DROP'
    limit_entries
    echo COMMIT
}

# Connections from inside only, as IPv6 routers for homes do (RFC 6092).
rules_v6() {
    local refusal='REJECT --reject-with tcp-reset' inside
    case $answer in
    drop) refusal=DROP ;;
    icmp) refusal='REJECT --reject-with icmp6-port-unreachable' ;;
    esac
    [[ $syns != raw-syn-block ]] || block_untracked_syns
    if [[ $answer == listener ]]; then
        # Not REDIRECT: the outer interface has no IPv6 address of its own.
        inside=$(ip -6 -o addr show dev lan scope global | awk '{ sub("/.*", "", $4); print $4 }')
        echo '*nat'
        echo "-A PREROUTING -i wan -p tcp --syn -j DNAT --to-destination [$inside]:$listener_port"
        echo COMMIT
    fi
    echo '*filter'
    drop_what_is_invalid
    # A SYN that nobody asked for is refused below, as other routers' are.
    [[ $syns != syn-block ]] ||
        echo '-A FORWARD -i wan -p tcp --syn -m conntrack ! --ctstate NEW -j DROP'
    limit_entries
    cat <<END
-A FORWARD -i lan -j ACCEPT
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -i wan -p tcp -j $refusal
-A FORWARD -i wan -j DROP
COMMIT
END
}

block_untracked_syns() {
    printf '%s\n' '*raw' '-A PREROUTING -i wan -p tcp --syn -j DROP' COMMIT
}

drop_what_is_invalid() {
    local chain
    [[ -n $invalid ]] || return 0
    for chain in INPUT FORWARD OUTPUT; do
        echo "-A $chain -m conntrack --ctstate INVALID -j DROP"
    done
}

# nf_conntrack_max is the whole machine's and cannot be written in a namespace. What a full table
# does, the packet that needs a new entry is dropped and no entry made, connlimit does as well. A
# repeated SYN is NEW, too, but its entry is confirmed.
limit_entries() {
    [[ -z $most ]] ||
        echo "-A FORWARD -i lan -m conntrack ! --ctstatus CONFIRMED -m connlimit" \
            "--connlimit-above $most --connlimit-mask 0 -j DROP"
}

# A program on the router that takes every connection and says nothing. It is one of the
# namespace's processes, which end with the network.
start_listener() {
    socat -u "TCP6-LISTEN:$listener_port,ipv6only=0,reuseaddr,fork,backlog=1024" /dev/null \
        </dev/null >/dev/null 2>&1 &
    disown
    local _
    for _ in {1..250}; do
        [[ -z $(ss -ltnH "sport = :$listener_port") ]] || return 0
        sleep 0.02
    done
    not_a_router "nothing listens on port $listener_port of the router"
}

# miniupnpd, one of the namespace's processes too. Debian's is built for iptables' own rules in the
# kernel, not for those of nftables that iptables makes there today; both apply.
start_upnp() {
    local outer public='' igd=yes pcp=yes
    case $upnp in
    upnp=igd) pcp=no ;;
    upnp=pcp) igd=no ;;
    esac
    outer=$(ip -4 -o addr show dev wan | awk '{ sub("/.*", "", $4); print $4; exit }')
    # It calls itself unreachable where its outer address is reserved, be it for documentation.
    case $outer in
    198.51.100.*) public=192.0.1.1 ;;
    203.0.113.*) public=192.0.1.129 ;;
    esac
    [[ -z $public ]] || ip addr add "$public/32" dev wan
    iptables-legacy-restore <<'END'
*nat
:MINIUPNPD -
:MINIUPNPD-POSTROUTING -
-A PREROUTING -i wan -j MINIUPNPD
-A POSTROUTING -o wan -j MINIUPNPD-POSTROUTING
COMMIT
*mangle
:MINIUPNPD -
-A PREROUTING -i wan -j MINIUPNPD
COMMIT
*filter
:MINIUPNPD -
-A FORWARD -i wan -j MINIUPNPD
COMMIT
END
    mkdir "$folder"
    cat >"$folder/conf" <<END
ext_ifname=wan
${public:+ext_ip=$public}
listening_ip=lan
http_port=5000
enable_upnp=$igd
enable_natpmp=$pcp
ipv6_disable=yes
secure_mode=yes
uuid=6c1a2f9e-3f0b-4f5e-8a57-0d6f1b1c2a3d
lease_file=$folder/leases
allow 1024-65535 0.0.0.0/0 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
END
    miniupnpd -d -f "$folder/conf" -P "$folder/pid" </dev/null >"$folder/log" 2>&1 &
    disown
    local _
    for _ in {1..250}; do
        if { [[ $pcp == no || -n $(ss -lunH 'sport = :5351') ]] &&
            [[ $igd == no || -n $(ss -lunH 'sport = :1900') && -n $(ss -ltnH 'sport = :5000') ]]; }; then
            return 0
        fi
        sleep 0.02
    done
    not_a_router "miniupnpd did not start: $(<"$folder/log")"
}
