#!/bin/bash
# A three-node Slurm cluster on this machine loses a node under a supervised job: the job is back in the queue in 45 s and goes on with the two
# that are left; then a job whose time is nearly over is warned, saves, ends with 75, is put back and goes on.
# Needs root and what tools/setup.sh --cluster installs; exit status 77: something is missing, and is named.
. "$(dirname "$0")/lib.sh"
for p in slurmctld slurmd sbatch munged ss pgrep; do
    command -v $p >/dev/null || skip "no $p (sh tools/setup.sh --cluster)"
done
[ "$(id -u)" = 0 ] || skip "not root, which Slurm's daemons need here"

S=$DIR/slurm host=$(hostname -s)
export SLURM_CONF=$S/slurm.conf
end() { [ -s "$1" ] && kill "-${2:-TERM}" "$(cat "$1")" 2>/dev/null; }
down() {
    scancel --state=RUNNING,PENDING -u root 2>/dev/null
    for i in 1 2 3; do end "$S/slurmd.n$i.pid" KILL; done
    end "$S/ctld.pid"
    end "$S/munge/pid"
    sleep 1
    rm -rf "$DIR"
}
explain() { scontrol show job; sinfo -N; tail -n 30 "$S/log/ctld.log"; }
trap down EXIT
mkdir -p "$S"/{munge,state,log,spool/n{1,2,3},tmp/n{1,2,3}}
chmod 0755 "$DIR" "$S" "$S/munge"
dd if=/dev/urandom of="$S/munge/key" bs=128 count=1 status=none && chmod 0400 "$S/munge/key"
cat >"$SLURM_CONF" <<CONF
ClusterName=dikast3
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$S/munge/sock
StateSaveLocation=$S/state
SlurmdSpoolDir=$S/spool/%n
SlurmctldPidFile=$S/ctld.pid
SlurmdPidFile=$S/slurmd.%n.pid
SlurmctldLogFile=$S/log/ctld.log
SlurmdLogFile=$S/log/slurmd.%n.log
TmpFS=$S/tmp/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=10
KillWait=3
InactiveLimit=0
JobRequeue=1
RequeueExit=75
MpiDefault=none
SlurmctldPort=16817
PropagateResourceLimits=NONE
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=2 State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=2 State=UNKNOWN
NodeName=n3 NodeHostname=$host NodeAddr=127.0.0.1 Port=17003 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
munged --force --key-file="$S/munge/key" --socket="$S/munge/sock" --pid-file="$S/munge/pid" --log-file="$S/munge/log" ||
    skip "munged does not start here"
slurmctld || skip "slurmctld does not start here"
for i in 1 2 3; do slurmd -N n$i || skip "slurmd does not start here"; done
idle() { [ "$(sinfo -h -t idle -o %D)" = "$1" ]; }
wait_for 30 idle 3

job() { # STEPS FLAGS...: the supervisor is what Slurm's shell becomes
    local steps=$1; shift
    cat >"$CASE/job.sh" <<JOB
#!/bin/bash
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=$CASE/said
exec "$BIN/toy_launch" -n "\$SLURM_NTASKS" --via "srun --mpi=none --kill-on-bad-exit=1" --address 127.0.0.1 "$CASE" $steps
JOB
    id=$(TOY_STEP_MS=100 sbatch --parsable "$@" "$CASE/job.sh") || fail "sbatch"
}
state() { [ "$(squeue -h -j "$id" -o %T)" = "$1" ]; }
restarted() { state RUNNING && [ "$(scontrol show job "$id" | sed -n 's/.*Restarts=\([0-9]*\).*/\1/p')" -ge 1 ]; }
# Put back, it would wait two minutes more, and is held where a node still had it when it was to start there. It is told not to, but three
# seconds late: a node knows what it has ended by the second, so a job that starts again within it is refused there as revoked, and fails;
# what is said before it is quite put back is forgotten; and every change of a job puts off the pass of the scheduler that would start it.
hurry() {
    state PENDING && sleep 3 && state PENDING && scontrol release "$id" && scontrol update JobId="$id" StartTime=now TimeLimit=10
}
resumed() { restarted || { hurry; restarted; }; }
# Asked of the job itself: squeue says nothing, too, where the controller has no time to answer.
over() { scontrol show job "$id" 2>/dev/null | grep -q 'JobState=\(COMPLETED\|FAILED\|CANCELLED\|TIMEOUT\|NODE_FAIL\) '; }
ended() { over || { hurry; over; }; }

begin node_lost
job 350 --nodes=2-3
wait_for 60 state_at 20
start=$(now)
# Of node 2: the daemon, the step daemons (owners of the sockets in its spool folder), and their tasks.
end "$S/slurmd.n2.pid" KILL
for p in $(ss -xlpH | grep "$S/spool/n2/" | grep -o 'pid=[0-9]*' | cut -d= -f2 | sort -u); do
    tasks=$(pgrep -P "$p")
    kill -9 $p $tasks 2>/dev/null
done
wait_for 90 resumed
within "$start" "$(now)" 45 "running again"
wait_for 120 ended
same_result 350
grep -q 'done: attempt [23] on 2 ranks' "$CASE/launch/STATUS" || fail "$(head -n 1 "$CASE/launch/STATUS")"

begin warned
job 1500 --nodes=2 --signal=B:USR1@50 --time=1 # which Slurm sends some time in the first minute and a half
wait_for 60 test -s "$CASE/launch/STATUS"
wait_for 150 grep -q '^stopped' "$CASE/launch/STATUS"
wait_for 60 resumed
wait_for 250 ended
grep -q '^done: attempt 2 on 2 ranks' "$CASE/launch/STATUS" || fail "$(head -n 1 "$CASE/launch/STATUS")"
same_result 1500
echo ok
