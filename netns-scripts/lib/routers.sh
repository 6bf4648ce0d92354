# shellcheck shell=bash
# What routers do. configure_router runs inside the router's namespace, after its interfaces are
# up: lan inside, wan outside. A kind of router is one function, router_KIND.

# configure_router KIND[:SYN]
configure_router() {
    local kind=${1%%:*} syn=rst
    [[ $1 != *:* ]] || syn=${1#*:}
    case $syn in
    rst | drop | reject) ;;
    *)
        echo "network.sh: a router answers a SYN by rst, drop or reject, not '$syn'" >&2
        return 1
        ;;
    esac
    if [[ $(type -t "router_$kind") != function ]]; then
        echo "network.sh: unknown kind of router '$kind'" >&2
        return 1
    fi
    echo 1 >/proc/sys/net/ipv4/ip_forward
    echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
    # Loose: a source must be reachable, by whichever interface. It is what distributions set.
    echo 2 >/proc/sys/net/ipv4/conf/all/rp_filter
    "router_$kind" "$syn"
}

# Plain routing, no rules and so no connection tracking.
router_none() {
    :
}

# iptables MASQUERADE for IPv4, a stateful firewall for IPv6.
router_masquerade() {
    local syn=$1
    iptables-restore <<END
*nat
-A POSTROUTING -o wan -j MASQUERADE
COMMIT
*filter
$(syn_to_router "$syn")
COMMIT
END
    firewall_v6 "$syn"
}

# The rule for a SYN to the router's own outer address. The kernel itself answers with RST.
syn_to_router() {
    case $1 in
    rst) ;;
    drop) echo '-A INPUT -i wan -p tcp -m conntrack --ctstate NEW -j DROP' ;;
    reject) echo '-A INPUT -i wan -p tcp -m conntrack --ctstate NEW -j REJECT --reject-with tcp-reset' ;;
    esac
}

# Connections from inside only, as IPv6 routers for homes do (RFC 6092).
firewall_v6() {
    local refusal='REJECT --reject-with tcp-reset'
    [[ $1 != drop ]] || refusal=DROP
    ip6tables-restore <<END
*filter
-A FORWARD -i lan -j ACCEPT
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -i wan -p tcp -j $refusal
-A FORWARD -i wan -j DROP
COMMIT
END
}
