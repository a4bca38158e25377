#!/bin/sh
# pgbouncer and strace for `make test`, where they are missing: a pooler in front of PostgreSQL, and what makes a server's disk fail. Both are
# run privately: a service that the package starts is stopped again.
set -eu
missing=""
{ command -v pgbouncer || [ -x /usr/sbin/pgbouncer ]; } >/dev/null || missing="pgbouncer"
command -v strace >/dev/null || missing="$missing strace"
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null; then
    echo "missing: $missing; install with this system's package manager" >&2
    exit 1
fi
root=""
[ "$(id -u)" = 0 ] || root=sudo
$root apt-get update -qq
# shellcheck disable=SC2086  # a list of names
$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
if command -v systemctl >/dev/null; then $root systemctl disable --now pgbouncer >/dev/null 2>&1 || true; fi
