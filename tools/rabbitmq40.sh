#!/usr/bin/env bash
# Builds a folder with RabbitMQ 4.0 in it, for machines whose distribution ships RabbitMQ 3.10.
#
# Debian 13 has RabbitMQ 4.0. A minimal Debian 13 tree is enough to run the server by chroot: see tools/debian13.sh.
#
# Usage: tools/rabbitmq40.sh [FOLDER]          (default: .cache/rabbitmq-4.0 of this checkout)
set -euo pipefail
cd "$(dirname "$0")/.."

root=$(realpath -m "${1:-.cache/rabbitmq-4.0}")
done_mark=$root/.complete
[ -e "$done_mark" ] && exit 0

tools/debian13.sh "$root" rabbitmq-server
version=$(PATH="$PATH:/usr/sbin:/sbin" chroot "$root" dpkg-query -W -f '${Version}' rabbitmq-server)
echo "$version" >"$done_mark"
echo "rabbitmq40: RabbitMQ $version is ready." >&2
