#!/usr/bin/env bash
# Makes the virtual environment .venv of this checkout and installs the package into it.
#
# Usage: tools/venv.sh run|dev|bench
#   run    what a user gets: the package with all of its extras
#   dev    and what the tests and the gate need
#   bench  and the libraries that the benchmarks compare with
# make calls it when pyproject.toml is newer than the stamp that the last success left. VENV names another folder.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}

say() { echo "venv: $*" >&2; }

find_python() { # the first Python that is new enough
    local candidate
    for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11 python; do
        if command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    say "no Python of version 3.11 or newer was found (tried: ${PYTHON:-} python3, python3.11 to python3.14, python)."
    say "Install one, or name it: make PYTHON=/path/to/python3"
    return 1
}

see_to_venv_module() { # Debian and Ubuntu ship venv apart from Python
    local python=$1 package
    "$python" -c 'import ensurepip, venv' 2>/dev/null && return
    case $(basename "$python") in
        python3.*) package=$(basename "$python")-venv ;;
        *) package=python3-venv ;;
    esac
    if ! command -v apt-get >/dev/null; then
        say "$python cannot make virtual environments: its modules venv and ensurepip are missing. Install them, then run make again."
        return 1
    elif [ "$(id -u)" -ne 0 ]; then
        say "$python cannot make virtual environments yet. Run this, then make again:"
        say "    sudo apt-get install $package"
        return 1
    fi
    say "installing $package ..."
    local log
    log=$(mktemp)
    if ! { apt-get update -q &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$package"; } >"$log" 2>&1 </dev/null; then
        say "apt-get failed:"
        tail -n 20 "$log" >&2
        return 1
    fi
    rm -f "$log"
}

if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then # missing, half made, or made by a Python that is gone
    python=$(find_python)
    see_to_venv_module "$python"
    say "making $venv with $("$python" --version) ..."
    "$python" -m venv --clear "$venv"
fi

what=${1:?run, dev or bench}
case $what in
    run) target='.[all]' ;;
    dev) target='.[dev]' ;;
    bench) target='.[dev,bench]' ;;
    *) say "unknown: $what"; exit 2 ;;
esac
say "installing $target ..."
"$venv/bin/python" -m pip install --disable-pip-version-check -q -e "$target"
touch "$venv/.stamp-$what"
