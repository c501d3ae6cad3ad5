#!/usr/bin/env bash
# Makes a virtual environment with the oldest versions that pyproject.toml allows, on the oldest Python at hand.
#
# What our dependencies need themselves is as new as it gets: their own lower bounds are theirs to test.
#
# Usage: tools/lowest.sh [FOLDER]          (default: .cache/lowest of this checkout)
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:-.cache/lowest}
[ "$folder/.complete" -nt pyproject.toml ] && [ "$folder/.complete" -nt tools/lowest.sh ] && exit 0

python=$(command -v python3.11 || echo .venv/bin/python)
echo "lowest: making $folder with $("$python" --version) ..." >&2
"$python" -m venv --clear "$folder"
"$folder/bin/python" -m pip install --disable-pip-version-check -q uv
"$folder/bin/uv" pip install -q --python "$folder/bin/python" --resolution lowest-direct -e '.[dev]'
touch "$folder/.complete"
