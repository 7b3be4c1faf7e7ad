# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts beside it: where things are, and what a fresh machine lacks.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$root/build
venv=$build/venv

say() { printf '\n==> %s\n' "$*"; }

# need_debian COMMAND_OR_FILE PACKAGE: installs PACKAGE with apt-get unless COMMAND_OR_FILE is there.
need_debian() {
    if [ -e "$1" ] || command -v "$1" >/dev/null 2>&1; then return 0; fi
    say "Installing Debian package $2 (for $1)"
    local sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    if [ -z "${apt_updated:-}" ]; then $sudo apt-get update -qq; apt_updated=1; fi
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq "$2" >/dev/null
}

# make_venv FOLDER PACKAGE...: a Python environment with these packages; done again only when the list changes.
make_venv() {
    local folder=$1
    shift
    if [ "$(cat "$folder/.packages" 2>/dev/null)" = "$*" ]; then return 0; fi
    say "Installing into ${folder#"$root"/} with pip: $*"
    python3 -m venv "$folder"
    "$folder/bin/pip" install --quiet --disable-pip-version-check "$@"
    printf '%s' "$*" > "$folder/.packages"
}

require_swift() {
    if ! command -v swiftc >/dev/null 2>&1; then
        echo "swiftc is not on the PATH: install Swift 6.3 or later (https://www.swift.org/install/linux)" >&2
        exit 1
    fi
}
