#!/usr/bin/env bash
# units.sh PROGRAM UNITS: runs systemd on the units of this directory, as the first process of
# namespaces of its own, and says what becomes of them. Nothing of the host's systemd is touched.
set -euo pipefail
program=$1
units=$2

inside() {
    mount --make-rprivate /
    mount -t tmpfs -o mode=755 tmpfs /run
    # What the units write, and where they look for the program.
    mkdir -p /run/bin /run/units /run/state /run/etc/upper /run/etc/work
    mount --bind /run/state /var/lib
    mount -t overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work etc /etc
    install -m 755 "$program" /run/bin/tcp-punch
    mount --bind /run/bin /usr/local/bin
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    ip link set lo up
    mkdir -p /etc/tcp-punch
    echo 'server = 127.0.0.1' >/etc/tcp-punch/config
    tcp-punch key --identity /run/stranger | sed 's/^/stranger /' >/etc/tcp-punch/peers
    # Only the units and what they are wanted by, nothing of the host's.
    cp "$units"/*.service /run/units
    local target
    for target in default basic sysinit shutdown multi-user network network-online nss-lookup; do
        printf '[Unit]\nDefaultDependencies=no\n' >"/run/units/$target.target"
    done
    export container=tcp-punch SYSTEMD_UNIT_PATH=/run/units
    # It asks the manager, which is this process in a moment.
    try_units >&3 2>&1 &
    exec /lib/systemd/systemd --system --log-target=console --show-status=no
}

try_units() {
    until systemctl is-active default.target >/dev/null 2>&1; do sleep 0.1; done
    local unit
    systemctl start tcp-punch-serve tcp-punch-expose || true
    # The server answers, and knows the one who is called.
    until metrics | grep '^tcp_punch_listening 1$'; do sleep 0.1; done
    for unit in tcp-punch-serve tcp-punch-expose; do
        systemctl show "$unit" -p ActiveState,NRestarts | sort | sed "s/^/$unit /"
        grep -E '^(Uid|CapPrm|CapBnd|NoNewPrivs|Seccomp):' \
            "/proc/$(systemctl show -P MainPID "$unit")/status" | sed "s/^/$unit /"
    done
    for unit in tcp-punch-expose tcp-punch-serve; do
        systemctl stop "$unit"
        systemctl show "$unit" -p ActiveState,Result,ExecMainStatus | sort | sed "s/^/$unit stopped /"
    done
    echo over
    systemctl --force --force poweroff
}

metrics() {
    exec 4<>/dev/tcp/127.0.0.1/9478 && printf 'GET /metrics HTTP/1.1\r\n\r\n' >&4 && cat <&4
}

[[ ${3-} != inside ]] || inside
group=/sys/fs/cgroup/unified
[[ -e $group/cgroup.procs ]] || group=/sys/fs/cgroup
group+=/tcp-punch-units-$$
mkdir "$group"
# shellcheck disable=SC2064
trap "find '$group' -depth -type d -exec rmdir {} +" EXIT
(
    echo "$BASHPID" >"$group/cgroup.procs"
    exec 3>&1
    exec timeout -s KILL 60 unshare --pid --fork --kill-child --mount --mount-proc --cgroup \
        --uts --ipc --net bash "$0" "$program" "$units" inside >&2
) || true
