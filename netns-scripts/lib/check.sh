# shellcheck shell=bash
# Every check and test, then a summary as cargo test prints one.

# Modules of the lab in which nothing is caught for a punch.
without_punch=(binding:: nat:: portmap:: routers:: routers_user:: spray:: wan::)

run_checks() {
    find_caller
    install_missing
    cd "$checkout" || exit
    outcomes=() failures=0
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT

    check rustfmt cargo fmt --check
    check clippy cargo clippy --quiet --all-targets -- -D warnings
    check shellcheck shellcheck netns-scripts/*.sh netns-scripts/lib/*.sh tests/lab/*.sh .ci/run
    heading "building"
    build_product
    build_lab
    check tests cargo test "${profile[@]}" --lib --bins --examples "${test_targets[@]/#/--test=}"
    check docs cargo rustdoc --quiet "${profile[@]}" --lib -- -D warnings --document-private-items
    check doctests cargo test "${profile[@]}" --doc
    check_lab packet --skip ebpf:: --skip in_kernel:: "$@"
    # In a user namespace nobody may load a program. What does not punch need not be seen twice.
    ! is_root || check_lab ebpf "${without_punch[@]/#/--skip=}" "$@"
    summary
}

# check_lab DATAPATH [TEST ARGUMENT...]: what needs namespaces, punching by that.
check_lab() {
    local -x LAB_DATAPATH=$1
    shift
    check "lab, $LAB_DATAPATH" bubble "$lab_bin" --include-ignored --test-threads=1 "$@"
}

# check NAME COMMAND...: goes on after a failure, so that one run shows them all.
check() {
    local name=$1 output tee
    shift
    heading "$name"
    # No pipe: the bubble must be this very shell's child, to end with it.
    exec {output}> >(tee -a "$log")
    tee=$!
    if "$@" >&"$output" 2>&1; then
        outcomes+=("test $name ... ok")
    else
        outcomes+=("test $name ... FAILED")
        failures=$((failures + 1))
    fi
    exec {output}>&-
    wait "$tee"
}

heading() {
    printf '\n== %s\n' "$1"
}

summary() {
    local word=ok passed failed ignored
    read -r passed failed ignored < <(
        awk '/^test result:/ {
            for (i = 1; i < NF; i++) {
                if ($(i + 1) == "passed;") passed += $i
                if ($(i + 1) == "failed;") failed += $i
                if ($(i + 1) == "ignored;") ignored += $i
            }
        } END { print passed + 0, failed + 0, ignored + 0 }' "$log"
    )
    ((failures == 0)) || word=FAILED
    heading summary
    printf '%s\n' "${outcomes[@]}"
    printf '\ntest result: %s. %d passed; %d failed; %d ignored; finished in %ds\n' \
        "$word" "$passed" "$failed" "$ignored" "$SECONDS"
    ((failures == 0))
}
