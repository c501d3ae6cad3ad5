#!/usr/bin/env bash
# Builds a folder with a minimal Debian 13 and some of its packages in it, for machines of an older distribution.
#
# The tree is made by debootstrap: no container engine, no mounts, nothing installed on the machine itself but
# debootstrap. About 40 s and 500 MB. The mirror is the one this machine's apt already uses.
# tools/rabbitmq40.sh and tools/python313.sh call it and say what the tree is for.
#
# Usage: tools/debian13.sh FOLDER PACKAGE...
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin" DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

root=$(realpath -m "${1:?a folder}")
shift

say() { echo "debian13: $*" >&2; }

if [ "$(id -u)" -ne 0 ]; then
    say "the Debian 13 tree can only be built as root. Run the same with sudo."
    exit 1
fi
if ! command -v apt-get >/dev/null; then
    say "this needs Debian or Ubuntu. Elsewhere install these by your system's own means: $*"
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
chroot "$root" apt-get install -y -q --no-install-recommends "$@" >>"$log" 2>&1
chroot "$root" apt-get clean
