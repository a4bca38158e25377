#!/bin/sh
# Installs the servers that tests start for themselves, where they are missing. Nothing of them is left running.
set -eu
command -v redis-server >/dev/null && exit 0
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo"
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
$as_root apt-get update -qq
$as_root apt-get install -y -qq --no-install-recommends redis-server
