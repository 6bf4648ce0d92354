# shellcheck shell=bash
# Builds, as the calling user, and tells what runs in the bubble where the programs are.

# One profile for all: what measures needs it, and a second one would be built in addition.
profile=(--release)

cargo() {
    as_caller cargo "$@"
}

# The product and the wide area network.
build_product() {
    local messages
    messages=$(cargo build "${profile[@]}" --bins --example wan \
        --message-format=json-render-diagnostics --manifest-path "$checkout/Cargo.toml")
    export TCP_PUNCH_BIN WAN_BIN CHECKOUT=$checkout
    TCP_PUNCH_BIN=$(executable tcp-punch <<<"$messages")
    WAN_BIN=$(executable wan <<<"$messages")
}

# The tests, of which the bubble runs lab. Sets test_targets to the names of the others in tests/.
build_lab() {
    local messages
    messages=$(cargo test "${profile[@]}" --no-run --message-format=json-render-diagnostics \
        --manifest-path "$checkout/Cargo.toml")
    lab_bin=$(executable lab <<<"$messages")
    mapfile -t test_targets < <(
        sed -n 's/.*"kind":\["test"\].*"name":"\([^"]*\)","src_path".*"executable":"\/.*/\1/p' <<<"$messages" |
            grep -vx lab
    )
}

# build_bench TARGET: what measures; sets bench_bin.
build_bench() {
    local messages
    messages=$(cargo bench --no-run --bench "$1" --message-format=json-render-diagnostics \
        --manifest-path "$checkout/Cargo.toml")
    bench_bin=$(executable "$1" <<<"$messages")
}

# executable TARGET: the path of what cargo built, from cargo's messages.
executable() {
    local path
    path=$(sed -n 's/.*"name":"'"$1"'","src_path".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
    [[ -n $path ]] || fail "cargo built no program $1"
    echo "$path"
}
