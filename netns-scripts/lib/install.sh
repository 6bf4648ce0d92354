# shellcheck shell=bash
# Installs what is missing, and asks for root only then.

# What is needed: the command, then the package that has it (or packages, by comma), by package
# manager.
tools() {
    cat <<'END'
command             apt           dnf            pacman         apk
ip                  iproute2      iproute        iproute2       iproute2
iptables-restore    iptables      iptables-nft   iptables       iptables
ip6tables-restore   iptables      iptables-nft   iptables       iptables
unshare             util-linux    util-linux     util-linux     util-linux
setpriv             util-linux    util-linux     util-linux     util-linux
nsenter             util-linux    util-linux     util-linux     util-linux
setsid              util-linux    util-linux     util-linux     util-linux
runuser             util-linux    util-linux     util-linux     util-linux
flock               util-linux    util-linux     util-linux     util-linux
cc                  gcc,libc6-dev gcc           gcc            build-base
clang               clang,linux-libc-dev clang,kernel-headers clang,linux-api-headers clang,linux-headers
ss                  iproute2      iproute        iproute2       iproute2-ss
setcap              libcap2-bin   libcap         libcap         libcap
ssh                 openssh-client openssh-clients openssh      openssh-client
sshd                openssh-server openssh-server openssh       openssh-server
socat               socat         socat          socat          socat
tcpdump             tcpdump       tcpdump        tcpdump        tcpdump
conntrack           conntrack     conntrack-tools conntrack-tools conntrack-tools
tshark              tshark        wireshark-cli  wireshark-cli  tshark
shellcheck          shellcheck    ShellCheck     shellcheck     shellcheck
turnserver          coturn        coturn         coturn         coturn
nats-server         nats-server   nats-server    nats-server    nats-server
miniupnpd           miniupnpd-iptables miniupnpd miniupnpd      miniupnpd
iptables-legacy-restore iptables  iptables-legacy iptables      iptables-legacy
END
    # A STUN client over TCP of another make; others have none in their packages. And systemd, for
    # its units: where it is not the system itself, it is not wanted.
    [[ $(package_manager) != apt-get ]] || cat <<'END'
escript             erlang-p1-stun -             -              -
/lib/systemd/systemd systemd      -             -              -
END
    # Only a picture needs it.
    [[ -z ${draws-} ]] || cat <<'END'
rsvg-convert        librsvg2-bin  librsvg2-tools librsvg        rsvg-convert
END
}

# What the figure of the spray is measured beside.
scanners() {
    cat <<'END'
command             apt           dnf            pacman         apk
masscan             masscan       masscan        masscan        masscan
zmap                zmap          zmap           zmap           zmap
hping3              hping3        hping3         hping          hping3
END
}

# What the figure of the eBPF datapath's cost is measured with.
carriers() {
    cat <<'END'
command             apt           dnf            pacman         apk
iperf3              iperf3        iperf3         iperf3         iperf3
END
}

# What sets the clock wrong whose offset is measured.
false_clocks() {
    cat <<'END'
command             apt           dnf            pacman         apk
faketime            faketime      libfaketime    libfaketime    libfaketime
END
}

# install_missing [TABLE]: what is missing of a table of this file, tools by default.
install_missing() {
    local table=${1-tools} column packages=()
    mapfile -t packages < <(missing_packages 0 "$table")
    if ((${#packages[@]})); then
        column=$(package_column) || fail "please install: ${packages[*]} (no known package manager)"
        mapfile -t packages < <(missing_packages "$column" "$table")
        echo "installing ${packages[*]}"
        # A service that cannot be registered in a container makes it fail, with all there is in place.
        install_packages "${packages[@]}" || echo "the package manager reports a failure" >&2
        mapfile -t packages < <(missing_packages 0 "$table")
        ((${#packages[@]} == 0)) || fail "still missing after installation: ${packages[*]}"
    fi
    ensure_rust
}

# missing_packages COLUMN TABLE: the packages of a column whose command is missing; column 0 names
# the commands.
missing_packages() {
    local column=$1 table=$2 row
    while read -r -a row; do
        [[ ${row[0]} != command ]] || continue
        is_usable "${row[0]}" || tr , '\n' <<<"${row[$column]}"
    done < <("$table") | sort -u
}

# BusyBox has smaller commands of the same names.
is_usable() {
    command -v "$1" >/dev/null || return 1
    case $1 in
    # The eBPF programs are compiled against the kernel's headers.
    clang) clang -target bpf -idirafter "/usr/include/$(uname -m)-linux-gnu" -x c -c -o /dev/null - \
        <<<'#include <linux/bpf.h>' 2>/dev/null ;;
    # A compiler without a C library links nothing.
    cc) cc -x c -o /dev/null - <<<'int main(void) { return 0; }' 2>/dev/null ;;
    unshare) [[ $(unshare --help 2>&1) == *--kill-child* ]] ;;
    setpriv) [[ $(setpriv --help 2>&1) == *--pdeathsig* ]] ;;
    escript) compgen -G '/usr/lib/erlang/lib/p1_stun-*' >/dev/null ;;
    nsenter) [[ $(nsenter --help 2>&1) == *--preserve-credentials* ]] ;;
    esac
}

package_manager() {
    local manager
    for manager in apt-get dnf pacman apk; do
        if command -v "$manager" >/dev/null; then
            echo "$manager"
            return
        fi
    done
    return 1
}

package_column() {
    case $(package_manager) in
    apt-get) echo 1 ;;
    dnf) echo 2 ;;
    pacman) echo 3 ;;
    apk) echo 4 ;;
    *) return 1 ;;
    esac
}

install_packages() {
    case $(package_manager) in
    apt-get)
        # An image often comes without package lists.
        apt_install "$@" || { as_root apt-get update && apt_install "$@"; }
        ;;
    dnf) as_root dnf install -y "$@" ;;
    pacman) as_root pacman -Sy --needed --noconfirm "$@" ;;
    apk) as_root apk add "$@" ;;
    *) return 1 ;;
    esac
}

# What comes as a service with a package.
services() {
    case $1 in
    coturn | iperf3 | nats-server) echo "$1" ;;
    erlang-p1-stun) echo epmd.socket epmd.service ;;
    esac
}

apt_install() (
    local policy=/usr/sbin/policy-rc.d package unwanted=()
    # Debian starts a server when it is installed and at every boot. STUN server and bus are wanted
    # as programs that tests run, never as services that answer the world.
    for package in "$@"; do
        read -r -a unwanted <<<"${unwanted[*]} $(services "$package")"
    done
    if ((${#unwanted[@]})) && [[ ! -e $policy ]]; then
        trap 'as_root rm -f "$policy"' EXIT
        as_root install -m 755 /dev/stdin "$policy" <<<$'#!/bin/sh\nexit 101'
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-remove \
        --no-install-recommends "$@" || exit
    for package in "${unwanted[@]}"; do
        if [[ -e /etc/init.d/$package ]]; then
            as_root update-rc.d "$package" disable || exit
        # Without systemd nothing starts what has a unit alone.
        elif command -v systemctl >/dev/null; then
            as_root systemctl disable "$package" || exit
        fi
    done
)

as_root() {
    if is_root; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "this needs root: $*"
    fi
}

# A toolchain that Cargo.toml accepts, with clippy and rustfmt.
ensure_rust() {
    local wanted
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$checkout/Cargo.toml")
    rust_suffices "$wanted" && return
    as_caller sh -c 'command -v rustup || command -v rustup-init' >/dev/null ||
        install_packages rustup || true
    if as_caller sh -c 'command -v rustup' >/dev/null; then
        as_caller rustup toolchain install stable --profile minimal -c clippy -c rustfmt
        # The user's default stays what it is.
        as_caller+=(RUSTUP_TOOLCHAIN=stable)
    elif as_caller sh -c 'command -v rustup-init' >/dev/null; then
        as_caller rustup-init -y --profile minimal -c clippy -c rustfmt
    fi
    rust_suffices "$wanted" || fail "Rust $wanted or newer is needed, with clippy and rustfmt:" \
        "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y"
}

rust_suffices() {
    local wanted=$1 present
    present=$(as_caller rustc --version 2>/dev/null | cut -d' ' -f2) || return 1
    [[ -n $present && $(printf '%s\n' "$wanted" "$present" | sort -V | head -n 1) == "$wanted" ]] &&
        as_caller cargo clippy --version &>/dev/null &&
        as_caller cargo fmt --version &>/dev/null
}
