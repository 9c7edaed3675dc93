#!/bin/bash
# A stand-in for mpirun in tests: starts ranks that are not its caller's children, ends them all when one fails, and says it is
# Open MPI. TOY_LOOSE: it cannot reach rank 0's process any more, as if that were on another host.
[ "$1" = --version ] && { echo "mpirun (Open MPI, a stand-in)"; exit 0; }
n=1
while :; do
    case $1 in
    -np) n=$2; shift 2 ;;
    -x) shift 2 ;;
    --host) shift 2 ;;
    *) break ;;
    esac
done
pids=()
for ((r = 0; r < n; r++)); do
    OMPI_COMM_WORLD_RANK=$r OMPI_COMM_WORLD_SIZE=$n setsid "$@" &
    pids+=($!)
done
[ -z "$TOY_LOOSE" ] || unset 'pids[0]'
trap 'kill -TERM "${pids[@]}" 2>/dev/null' TERM
code=0
for p in "${pids[@]}"; do
    wait -n "${pids[@]}"; rc=$?
    if [ $rc -gt 128 ] && kill -0 "${pids[@]}" 2>/dev/null; then continue; fi
    if [ $rc -ne 0 ]; then
        code=$rc
        sleep 0.2
        kill -KILL "${pids[@]}" 2>/dev/null
        break
    fi
done
exit $code
