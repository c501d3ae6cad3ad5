#!/usr/bin/env bash
# Builds a folder with RabbitMQ 4.0 in it, for machines whose distribution ships RabbitMQ 3.10.
#
# Debian 13 has RabbitMQ 4.0. A minimal Debian 13 tree, made by debootstrap, is enough to run the server by chroot:
# no container engine, no mounts, nothing installed on the machine itself but debootstrap. About 40 s and 500 MB.
# The mirror is the one this machine's apt already uses.
#
# Usage: tools/rabbitmq40.sh [FOLDER]          (default: .cache/rabbitmq-4.0 of this checkout)
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin" DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

root=$(realpath -m "${1:-.cache/rabbitmq-4.0}")
done_mark=$root/.complete
[ -e "$done_mark" ] && exit 0

say() { echo "rabbitmq40: $*" >&2; }

if [ "$(id -u)" -ne 0 ]; then
    say "the Debian 13 tree can only be built as root. Run:"
    say "    sudo $0 ${1:-}"
    exit 1
fi
if ! command -v apt-get >/dev/null; then
    say "this needs Debian or Ubuntu. Elsewhere run the tests against your own RabbitMQ 4 by installing it as 'rabbitmq-server'."
    exit 1
fi

if ! command -v debootstrap >/dev/null || [ ! -e /usr/share/debootstrap/scripts/trixie ]; then
    apt-get update -q >/dev/null
    apt-get install -y -q --no-install-recommends debootstrap debian-archive-keyring >/dev/null
fi

# The first Debian mirror of this machine's own apt, in either of the two formats of its configuration.
mirror=$(
    {
        sed -n 's/^URIs:[[:space:]]*//p' /etc/apt/sources.list.d/debian.sources
        awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^https?:/) { print $i; break } }' /etc/apt/sources.list
    } 2>/dev/null | tr ' ' '\n' | grep -m1 -v security || true
)
if [ -z "$mirror" ]; then
    say "found no Debian mirror in /etc/apt; set one there first."
    exit 1
fi

# What an interrupted run left behind cannot be trusted, and debootstrap may have left /proc mounted in it.
for mounted in "$root/proc" "$root/sys"; do
    if mountpoint -q "$mounted" 2>/dev/null; then umount "$mounted"; fi
done
rm -rf --one-file-system "$root"
mkdir -p "$root"

say "building Debian 13 in $root (once, about 40 s) ..."
log=$root.log
trap 'say "failed; the end of $log:"; tail -n 20 "$log" >&2' ERR
: >"$log"
debootstrap --variant=minbase --include=ca-certificates trixie "$root" "$mirror" >>"$log" 2>&1
cp /etc/resolv.conf /etc/hosts "$root/etc/"
apt-config dump | grep -iE '^Acquire::(http|https)::Proxy' >"$root/etc/apt/apt.conf.d/90proxy" || true
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" # no package may start a service
chmod +x "$root/usr/sbin/policy-rc.d"
chroot "$root" apt-get update -q >>"$log" 2>&1
chroot "$root" apt-get install -y -q --no-install-recommends rabbitmq-server >>"$log" 2>&1
chroot "$root" apt-get clean

version=$(chroot "$root" dpkg-query -W -f '${Version}' rabbitmq-server)
echo "$version" >"$done_mark"
say "RabbitMQ $version is ready."
