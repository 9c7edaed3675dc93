#!/bin/sh
# Installs the Debian 12 packages this project is built with, and those that are asked for. Does nothing when all are there.
#   sh tools/setup.sh [--cluster] [--shells] [PACKAGE...]
#   --cluster   ranks as processes (Open MPI), and what tests make a cluster of on one machine: Slurm, network namespaces. Without them
#               dikast_mpi.so is not built, and the tests mpi_runs and faults_* are skipped, each saying what it misses.
#               MPICH instead of Open MPI: sh tools/setup.sh mpich libmpich-dev
#   --shells    zsh and fish: completion is tested in those that are there
# Exit status: 0 all are there, 1 they could not be installed, 2 no such option.
set -eu

packages="build-essential cmake ninja-build pkg-config libjansson-dev libfyaml-dev libexpat1-dev libpcre2-dev
libutf8proc-dev zlib1g-dev libzstd-dev libxxhash-dev libssl-dev libcurl4-openssl-dev
libmicrohttpd-dev libcmocka-dev"
for wanted; do
    case $wanted in
    --cluster) packages="$packages libopenmpi-dev openmpi-bin slurmctld slurmd slurm-client munge iproute2 procps" ;;
    --shells) packages="$packages zsh fish" ;;
    -*)
        echo "setup: no option is called $wanted; expected --cluster, --shells or names of packages" >&2
        exit 2
        ;;
    *) packages="$packages $wanted" ;;
    esac
done

if ! command -v dpkg-query >/dev/null 2>&1; then
    # shellcheck disable=SC2086
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
