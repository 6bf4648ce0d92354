# shellcheck shell=bash
# The user who calls: whoever ran sudo, or the present user. Everything that writes into the
# checkout runs as that user.

# Fills as_caller, what stands before a command of the caller's.
find_caller() {
    caller=$(id -un)
    as_caller=(env)
    local behind=${SUDO_USER-${DOAS_USER-}}
    if is_root && [[ -n $behind && $behind != root ]]; then
        caller=$behind
        become "$caller"
    else
        as_caller+=("PATH=$(with_cargo "$PATH" "${CARGO_HOME-$HOME/.cargo}")")
    fi
}

# sudo replaces PATH and drops CARGO_HOME and RUSTUP_HOME: a login shell knows the user's own.
become() {
    local user=$1 home login=()
    home=$(getent passwd "$user" | cut -d: -f6)
    # A login shell may greet, hence the mark before each value.
    # shellcheck disable=SC2016 # the login shell expands these
    mapfile -t login < <(
        runuser -l "$user" -c 'printf "\n@%s\n@%s\n@%s\n" "$PATH" "$CARGO_HOME" "$RUSTUP_HOME"' \
            </dev/null 2>/dev/null | sed -n 's/^@//p'
    )
    local path=${login[0]-} cargo_home=${login[1]-} rustup_home=${login[2]-}
    as_caller=(
        runuser -u "$user" -- env
        "HOME=$home" "USER=$user" "LOGNAME=$user"
        "PATH=$(with_cargo "${path:-$PATH}" "${cargo_home:-$home/.cargo}")"
    )
    [[ -z $cargo_home ]] || as_caller+=("CARGO_HOME=$cargo_home")
    [[ -z $rustup_home ]] || as_caller+=("RUSTUP_HOME=$rustup_home")
}

with_cargo() {
    local path=$1 cargo_home=$2
    case :$path: in
    *":$cargo_home/bin:"*) echo "$path" ;;
    *) echo "$cargo_home/bin:$path" ;;
    esac
}

as_caller() {
    "${as_caller[@]}" "$@"
}
