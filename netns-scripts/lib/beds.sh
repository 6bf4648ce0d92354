# shellcheck shell=bash
# Networks that stay until they are taken down: a keeper process holds the bubble open.

# Sets bed, bed_state and rest from arguments that may begin with --name NAME.
name_bed() {
    bed=bed rest=()
    while (($#)); do
        case $1 in
        --name)
            (($# >= 2)) || fail "--name needs a name"
            bed=$2
            shift
            ;;
        --)
            rest+=("$@")
            break
            ;;
        *) rest+=("$1") ;;
        esac
        shift
    done
    [[ $bed =~ ^[a-zA-Z0-9_][a-zA-Z0-9_-]*$ ]] || fail "a name is letters, digits, - and _, not '$bed'"
    bed_state=$(runtime_directory)/$bed
}

# A place of this user's alone that does not survive a reboot.
runtime_directory() {
    local directory
    if is_root; then
        directory=/run/tcp-punch-testbed
    else
        directory=${XDG_RUNTIME_DIR:-/tmp/tcp-punch-$EUID}/tcp-punch-testbed
    fi
    (umask 077 && mkdir -p "$directory")
    [[ -O $directory && -O $(dirname "$directory") ]] || fail "$directory belongs to someone else"
    echo "$directory"
}

bed_up() {
    name_bed "$@"
    ! bed_is_up || fail "$bed is already up; see shell and down"
    find_caller
    install_missing
    build_product
    lock_beds
    ! bed_is_up || fail "$bed is already up; see shell and down"

    rm -f "$bed_state.ready"
    mkfifo "$bed_state.ready"
    keep_bubble "$bed_state.log" "$bed_state.ready" bash "$here/lib/keeper.sh" "$bed" "${rest[@]}"
    local line=
    read -r -t 30 line <"$bed_state.ready" || true
    rm -f "$bed_state.ready"
    if [[ $line != ready ]]; then
        kill -KILL "$keeper" 2>/dev/null || true
        cat "$bed_state.log" >&2
        rm -f "$bed_state.log"
        fail "$bed did not come up"
    fi
    echo "$keeper $(started "$keeper") $(child_of "$keeper") ${TCP_PUNCH_BIN%/*}" >"$bed_state"
    echo "$bed is up; try: $0 shell$(name_option) host-a"
}

bed_shell() {
    name_bed "$@"
    local host=${rest[0]-} inner user=()
    [[ -n $host ]] || fail "shell needs a host: host-a, host-b, router-a or router-b"
    bed_is_up || fail "$bed is not up (for $(id -un)); run: $0 up$(name_option)"
    local command=("${rest[@]:1}")
    [[ ${command[0]-} != -- ]] || command=("${command[@]:1}")
    ((${#command[@]})) || command=(env "PS1=$host:\\w\\$ " bash --norc)
    is_root || user=(--user --preserve-credentials)
    # Entering a mount namespace also moves to its root directory.
    # shellcheck disable=SC2016 # the inner shell expands these
    inner='cd "$1" && shift && exec "$@"'
    exec nsenter --target "$bed_init" "${user[@]}" --mount --net --pid -- \
        env LAB=1 PATH="$bed_path:$PATH" \
        bash -c "$inner" bash "$PWD" ip netns exec "$bed-$host" "${command[@]}"
}

bed_down() {
    name_bed "$@"
    lock_beds
    if bed_is_up; then
        kill -KILL "$bed_keeper"
        while [[ -n $(started "$bed_init") ]]; do
            sleep 0.02
        done
    fi
    rm -f "$bed_state" "$bed_state.log"
}

# One at a time makes or removes beds. The directory itself is the lock, so none is left behind.
lock_beds() {
    exec 9<"${bed_state%/*}"
    flock 9
}

# Sets bed_keeper, bed_init and bed_path if the bed is up.
bed_is_up() {
    local since
    [[ -s $bed_state ]] && read -r bed_keeper since bed_init bed_path <"$bed_state" &&
        [[ $(started "$bed_keeper") == "$since" ]]
}

# When a process began, which tells it from a later one of the same number; nothing if it ended.
started() {
    local stat=
    { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 0
    # The second field, the program's name, may hold anything, but ends in the last parenthesis.
    read -r -a stat <<<"${stat##*) }"
    [[ ${stat[0]} == Z ]] || echo "${stat[19]}"
}

child_of() {
    grep -l "^PPid:[[:space:]]*$1\$" /proc/[0-9]*/status 2>/dev/null | cut -d/ -f3 | head -n 1
}

name_option() {
    [[ $bed == bed ]] || echo " --name $bed"
}
