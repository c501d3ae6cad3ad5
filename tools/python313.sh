#!/usr/bin/env bash
# Builds a folder with Python 3.13 in it, for machines whose distribution ships an older one.
#
# Debian 13 has Python 3.13. It comes from a minimal Debian 13 tree (see tools/debian13.sh) and runs without chroot, so
# that it sees this checkout and /proc: the interpreter is told to use the C library of its own tree.
# The interpreter is FOLDER/usr/bin/python3.13, good for `python3.13 -m venv`.
#
# Usage: tools/python313.sh [FOLDER]          (default: .cache/python-3.13 of this checkout)
set -euo pipefail
cd "$(dirname "$0")/.."
export DEBIAN_FRONTEND=noninteractive

root=$(realpath -m "${1:-.cache/python-3.13}")
done_mark=$root/.complete
[ -e "$done_mark" ] && exit 0

tools/debian13.sh "$root" python3.13 python3.13-venv

if ! command -v patchelf >/dev/null; then
    apt-get update -q >/dev/null
    apt-get install -y -q --no-install-recommends patchelf >/dev/null
fi
python=$root/usr/bin/python3.13
loader=$(realpath "$root$(patchelf --print-interpreter "$python")")
patchelf --set-interpreter "$loader" --force-rpath --set-rpath "$(dirname "$loader")" "$python"
# venv takes pip from where Debian keeps it.
grep -rlZ --include='*.py' /usr/share/python-wheels "$root/usr/lib/python3.13" |
    xargs -0 sed -i "s|/usr/share/python-wheels|$root/usr/share/python-wheels|g"

version=$("$python" -c 'import ssl, sqlite3, platform; print(platform.python_version())')
echo "$version" >"$done_mark"
echo "python313: Python $version is ready." >&2
