# Sourced by the other scripts: a virtual environment in .venv with streamd and the extras that are asked for.
# shellcheck shell=bash

say() { printf '%s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

# apt-get where that can work: Debian or Ubuntu, and root.
apt_install() {
    command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] || return 1
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 ||
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }
}

find_python() {
    local python
    for python in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
        if [ -n "$python" ] && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$python"
            return
        fi
    done
    die "streamd needs Python 3.11 or newer and found none. Install it (Debian: apt install python3 python3-venv)," \
        "or name it: PYTHON=/path/to/python3 $0"
}

# ensure_venv [EXTRA...]: make .venv and install streamd into it, unless that is done and pyproject.toml is older.
ensure_venv() {
    local extras python stamp
    extras=$(IFS=,; printf '%s' "$*")
    stamp=".venv/.streamd-installed${extras:+-${extras//,/-}}"
    if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c '' 2>/dev/null; then
        python=$(find_python) || exit 1
        say "Making .venv with $("$python" --version) ..."
        if ! "$python" -c 'import ensurepip' 2>/dev/null; then
            apt_install python3-venv ||
                die "Python's venv module is missing. Install it: sudo apt install python3-venv"
        fi
        rm -rf .venv
        "$python" -m venv .venv || die "The virtual environment could not be made: see above."
    fi
    [ "$stamp" -nt pyproject.toml ] && return
    if [ -z "$extras" ]; then # an installation with extras is one without, too
        for stamp in .venv/.streamd-installed-*; do [ "$stamp" -nt pyproject.toml ] && return; done
        stamp=.venv/.streamd-installed
    fi
    say "Installing streamd${extras:+ with $extras} into .venv ..."
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".${extras:+[$extras]}" ||
        die "pip could not install streamd: see above. Is there a network?"
    touch "$stamp"
}
