#!/bin/sh
# The remote shell that mpirun is given for hosts that are network namespaces (lib.sh): netns_rsh.sh [options of ssh] HOST COMMAND
while [ "${1#-}" != "$1" ]; do shift; done
host=$1; shift
exec ip netns exec "$host" unshare --uts sh -c "hostname $host; $*"
