#!/usr/bin/env bash
# Everything about tcp-punch that needs a network: tests, demonstration, measurements, and a
# network to play in. See --help.
set -euo pipefail

usage() {
    cat <<'END'
usage: netns-scripts/testbed.sh [COMMAND]

  test                   install what is missing, build, run every check and test (default)
  demo                   two hosts behind two NAT routers open one connection
  bench [FIGURE...]      measure, and print the figures as a table; also to a file with
                         --json FILE or --markdown FILE
  matrix [OPTION...]     every kind of router with every kind, punched and connect()ed; see
                         matrix --help
  up [NETWORK OPTION...] make a network and leave it standing
  shell HOST [-- CMD...] a shell, or a command, in host-a, host-b, router-a or router-b of it
  down                   remove it

  up, shell and down take --name NAME, so that several networks may stand at once.
  For the network options see netns-scripts/network.sh --help.

  For work on the tests:
  lab [TEST ARGUMENT...] build, and run only the tests that need namespaces
  run CMD...             build, and run a command where network.sh works

Building is done as the user who calls, also under sudo. The rest needs root, or user namespaces
and an open /dev/net/tun. It happens in namespaces of its own that go when the command ends.
END
}

fail() {
    echo "testbed.sh: $*" >&2
    exit 1
}

here=$(dirname "$(readlink -f "$0")")
checkout=$(dirname "$here")
# Distributions keep ip and iptables where an ordinary user's PATH does not look.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

for part in bubble caller install build check beds; do
    source "$here/lib/$part.sh"
done

run_lab() {
    find_caller
    install_missing
    build_product
    build_lab
    bubble "$lab_bin" --include-ignored --test-threads=1 "$@"
}

run_demo() {
    find_caller
    install_missing
    build_product
    bubble bash "$here/lib/demo-inside.sh"
}

run_bench() {
    find_caller
    install_missing
    ! measures spray "$@" || install_missing scanners
    ! measures ebpf-cost "$@" || install_missing carriers
    ! measures clock "$@" || install_missing false_clocks
    build_product
    build_bench figures
    bubble "$bench_bin" --bench "$@"
}

run_matrix() {
    local draws=
    [[ " $*" != *" --png"* ]] || draws=yes
    find_caller
    install_missing
    build_product
    build_bench matrix
    bubble "$bench_bin" --bench "$@"
}

# measures FIGURE [BENCH ARGUMENT...]: whether the bench, called so, measures that figure.
measures() {
    local figure=$1 named=0
    shift
    while (($#)); do
        case $1 in
        "$figure") return ;;
        --json | --markdown) shift $(($# > 1)) ;;
        -*) ;;
        *) named=1 ;;
        esac
        shift
    done
    ((!named))
}

run_command() {
    (($#)) || fail "run needs a command"
    find_caller
    install_missing
    build_product
    bubble "$@"
}

command=${1-test}
(($# == 0)) || shift
case $command in
test) run_checks "$@" ;;
demo) run_demo "$@" ;;
bench) run_bench "$@" ;;
matrix) run_matrix "$@" ;;
lab) run_lab "$@" ;;
run) run_command "$@" ;;
up) bed_up "$@" ;;
shell) bed_shell "$@" ;;
down) bed_down "$@" ;;
-h | --help | help) usage ;;
*)
    usage >&2
    exit 2
    ;;
esac
