#!/usr/bin/env bash
# Sees to the programs that the tests start: RabbitMQ, PostgreSQL, Prometheus, what reads the files in deploy/ (nginx,
# docker-compose, systemd-analyze), what gives a process another clock (libfaketime), and a browser where one is asked
# for.
#
# The tests run private copies on free ports, in temporary folders; only the programs must be there. As root on Debian
# or Ubuntu what is missing is installed, without starting any service; elsewhere this says what to install.
#
# Usage: tools/servers.sh rabbitmq|postgres|prometheus|nginx|compose|systemd|libfaketime|chromium ...
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin" DEBIAN_FRONTEND=noninteractive

say() { echo "servers: $*" >&2; }

is_there() {
    case $1 in
        rabbitmq) compgen -G '/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server' >/dev/null || command -v rabbitmq-server >/dev/null ;;
        postgres) compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null ;;
        prometheus) command -v prometheus >/dev/null ;;
        nginx) command -v nginx >/dev/null && command -v openssl >/dev/null ;;
        compose) command -v docker-compose >/dev/null ;;
        systemd) command -v systemd-analyze >/dev/null ;;
        libfaketime) compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null ;;
        chromium) command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null ;;
        *) say "unknown server: $1"; exit 2 ;;
    esac
}

package_of() {
    case $1 in
        rabbitmq) echo rabbitmq-server ;;
        postgres) echo postgresql ;;
        nginx) echo nginx-light openssl ;;
        compose) echo docker-compose ;;
        *) echo "$1" ;;
    esac
}

missing=()
for name in "$@"; do
    is_there "$name" || read -ra missing <<<"${missing[*]} $(package_of "$name")"
done
[ ${#missing[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
    say "the tests need these programs, which are not installed: ${missing[*]} (Debian's names for them)."
    say "Install them with your system's package manager. The tests start private copies; no service needs to run."
    exit 1
elif [ "$(id -u)" -ne 0 ]; then
    say "the tests need programs that are not installed. Run this, then make again:"
    say "    sudo apt-get install --no-install-recommends ${missing[*]}"
    say "The tests start private copies; the services that the packages start may be switched off."
    exit 1
fi

# Debian starts the service of a package as it installs it, unless this file forbids it.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
fi

say "installing ${missing[*]} ..."
log=$(mktemp)
if ! { apt-get update -q && apt-get install -y -q --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
    say "apt-get failed:"
    tail -n 20 "$log" >&2
    exit 1
fi
rm -f "$log"
