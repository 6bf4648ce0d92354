# shellcheck shell=bash
# The bubble: a process tree with network, process and mount namespaces of its own. Whatever way it
# ends, kill -9 included, the kernel removes every namespace, process, interface and rule in it. Two
# bubbles cannot meet, and nothing of the host's is touched.

bubble_namespaces=(--mount --net --pid --fork --kill-child --mount-proc)

# bubble COMMAND...: runs it in a bubble that ends with the command, and with this shell.
bubble() {
    local user=()
    enter_user_namespace user
    # Two links: this shell's death kills unshare, and unshare's kills the first process inside. It
    # comes after the user namespace, entering which would undo it.
    "${user[@]}" setpriv --pdeathsig KILL unshare "${bubble_namespaces[@]}" \
        bash "$here/lib/bubble-init.sh" "$@"
}

# keep_bubble LOG FIFO COMMAND...: likewise, but it outlives this shell, and the command's
# descriptor 8 leads to the fifo. Sets keeper to its process.
keep_bubble() {
    local log=$1 fifo=$2 user=()
    shift 2
    enter_user_namespace user
    setsid "${user[@]}" unshare "${bubble_namespaces[@]}" \
        bash "$here/lib/bubble-init.sh" "$@" </dev/null >"$log" 2>&1 8>"$fifo" 9>&- &
    keeper=$!
    disown
}

# Puts into array $1 what must stand before a command that needs root in its own namespaces.
enter_user_namespace() {
    local -n prefix=$1
    if is_root; then
        prefix=()
        unshare "${bubble_namespaces[@]}" true 2>/dev/null ||
            fail "this root may not make namespaces (a container without CAP_SYS_ADMIN?)"
    else
        prefix=(unshare --user --map-root-user)
        user_namespace_works || fail "this needs root: run it with sudo" \
            "(user namespaces are restricted here, or /dev/net/tun is not open to this user)"
    fi
}

# Some systems make user namespaces but grant nothing in them, so the test is to use one.
user_namespace_works() {
    [[ -r /dev/net/tun && -w /dev/net/tun ]] &&
        unshare --user --map-root-user --net --mount \
            sh -c 'ip link set dev lo up && mount -t tmpfs tmpfs /run' 2>/dev/null
}

is_root() {
    ((EUID == 0))
}
