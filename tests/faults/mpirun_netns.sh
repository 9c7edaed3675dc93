#!/bin/bash
# A stand-in for mpirun over network namespaces (netns.sh): --host dk1:2,dk2:2 puts ranks there, in order. It reaches no rank any
# more when it is told to end, as if the link were down for it too.
[ "$1" = --version ] && { echo "mpirun (Open MPI, a stand-in)"; exit 0; }
hosts=
while :; do
    case $1 in
    -np) n=$2; shift 2 ;;
    -x) shift 2 ;;
    --host) hosts=$2; shift 2 ;;
    *) break ;;
    esac
done
r=0 pids=()
for h in ${hosts//,/ }; do
    for ((k = 0; k < ${h#*:} && r < n; k++, r++)); do
        OMPI_COMM_WORLD_RANK=$r OMPI_COMM_WORLD_SIZE=$n setsid ip netns exec "${h%:*}" unshare --uts \
            sh -c "hostname ${h%:*}; exec \"\$@\"" sh "$@" &
        pids+=($!)
    done
done
wait "${pids[@]}"
for p in "${pids[@]}"; do wait "$p" || exit $?; done
