#!/bin/bash
# The supervisor over ranks that a real mpirun starts: deaths, a mismatched collective, SIGSTOP; mpirun killed; the supervisor killed;
# SIGTERM. Usage: mpi.sh FOLDER_OF_TOY_PROGRAMS; exit status 77: no mpirun here.
. "$(dirname "$0")/lib.sh"
command -v mpirun >/dev/null || skip "no mpirun (sh tools/setup.sh --cluster, or mpich)"
trap 'rm -rf "$DIR"' EXIT
MPIRUN=mpirun
if mpirun --version | grep -q 'Open MPI'; then
    MPIRUN="mpirun --oversubscribe --bind-to none"
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
launch() { "$BIN/toy_launch" --via "$MPIRUN" "$CASE" "$1" >>"$CASE/said" 2>&1; }

begin faults
DIKAST_CRASH_AT=FWD:13:2,COMM:22:1:mismatch,BWD:30:3:stop launch 60 || fail "exit code $?"
same_result 60
said fault '"rank":2.*process is gone'
said culprit '"rank":1.*rule 2'
said silent_rank '"rank":3.*stopped (SIGSTOP)'

begin mpirun_killed
launch 80 & sup=$!
wait_for 30 state_at 10
pids=$(rank_pids 1) mpirun=$(pgrep -P "$(pgrep -P $sup || echo $sup)" -f oversubscribe || pgrep -P $sup mpirun)
start=$(now)
kill -9 $mpirun || fail "no mpirun below $sup"
wait_for 15 gone $pids
within "$start" "$(now)" 15 "ranks were gone"
wait $sup || fail "exit code $?"
said fault 'mpirun was killed by signal 9'
same_result 80

begin supervisor_killed
"$BIN/toy_launch" --floor 1000 --via "$MPIRUN" "$CASE" 2000 >>"$CASE/said" 2>&1 & sup=$!
wait_for 30 state_at 10
pids=$(rank_pids 1) start=$(now)
kill -9 $sup
wait_for 15 gone $pids
within "$start" "$(now)" 12 "ranks were gone"

begin sigterm
"$BIN/toy_launch" --via "$MPIRUN" "$CASE" 2000 >>"$CASE/said" 2>&1 & sup=$!
wait_for 30 state_at 10
kill -TERM $sup
wait $sup; rc=$?
[ $rc -eq 75 ] || fail "exit code $rc, expected 75"
echo ok
