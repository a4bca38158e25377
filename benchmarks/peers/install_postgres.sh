#!/bin/sh
# PostgreSQL's programs for `make test` and `make bench`, where they are missing. They are run privately: a cluster that the package makes is
# stopped again.
set -eu
command -v initdb >/dev/null && exit 0
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && exit 0
if ! command -v apt-get >/dev/null; then
    echo "postgresql is missing: install it with this system's package manager" >&2
    exit 1
fi
root=""
[ "$(id -u)" = 0 ] || root=sudo
$root apt-get update -qq
$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql >/dev/null
if command -v systemctl >/dev/null; then $root systemctl disable --now postgresql >/dev/null 2>&1 || true; fi
