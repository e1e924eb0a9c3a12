#!/bin/sh
# Installs what make compose-test needs besides what make test does: a Docker Engine, which the test starts by itself,
# and debootstrap. Where that is not possible the test says so, and is skipped.
set -eu
packages=
command -v dockerd >/dev/null 2>&1 || packages="$packages docker.io"
command -v debootstrap >/dev/null 2>&1 || packages="$packages debootstrap"
[ -n "$packages" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || exit 0
echo "compose-deps: installing$packages"
export DEBIAN_FRONTEND=noninteractive
# Installing docker.io starts it, where services are started at all; the test has its own.
apt-get install -qq -y --no-install-recommends $packages </dev/null || echo "compose-deps: apt-get failed" >&2
