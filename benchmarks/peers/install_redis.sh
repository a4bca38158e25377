#!/bin/sh
# redis-server for `make test` and `make bench-peers`, where it is missing. It is run privately: a service that the package starts is stopped again.
set -eu
command -v redis-server >/dev/null && exit 0
if ! command -v apt-get >/dev/null; then
    echo "redis-server is missing: install it with this system's package manager" >&2
    exit 1
fi
root=""
[ "$(id -u)" = 0 ] || root=sudo
$root apt-get update -qq
$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-server >/dev/null
if command -v systemctl >/dev/null; then $root systemctl disable --now redis-server >/dev/null 2>&1 || true; fi
