#!/bin/sh
# Installs the Debian 12 packages this project is built with, and those named as arguments. Does nothing when all are there.
# Optional, for ranks as processes: libopenmpi-dev openmpi-bin (docs/scale.md); without them that backend and its tests are left out.
set -eu

packages="build-essential cmake ninja-build pkg-config libjansson-dev libfyaml-dev libexpat1-dev libpcre2-dev
libutf8proc-dev zlib1g-dev libzstd-dev libxxhash-dev libssl-dev libcurl4-openssl-dev
libmicrohttpd-dev libcmocka-dev $*"

if ! command -v dpkg-query >/dev/null 2>&1; then
    echo "setup: this is not Debian or Ubuntu; install the equivalents of:" $packages >&2
    exit 0 # cmake names what is missing
fi
missing=
for p in $packages; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null || :)" = installed ] || missing="$missing $p"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -eq 0 ]; then
    root=
elif command -v sudo >/dev/null 2>&1; then
    root=sudo
else
    echo "setup: run as root:  apt-get install --no-install-recommends$missing" >&2
    exit 1
fi
echo "setup: installing$missing"
install() {
    # shellcheck disable=SC2086
    $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
}
install || { $root apt-get update -q && install; }
