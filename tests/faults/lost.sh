#!/bin/bash
# The program itself over two hosts (network namespaces) of two ranks each and a real Open MPI, optimizer divided among all four. The daemon of
# the second host is killed: everything is stopped and goes on. Then both ranks there are killed, until the host is left out: at dp = 2 the
# run ends with the very weights of one undisturbed rank. Usage: lost.sh FOLDER_OF_TOY_PROGRAMS, beside which dikast lies; exit status 77:
# something is missing, and is named.
# In a mount namespace of its own: there /etc/hosts knows the hosts, and nowhere else.
[ -n "${DIKAST_OWN_MOUNTS:-}" ] || { unshare -m true 2>/dev/null || { echo "lost.sh: skipped: no mount namespace here"; exit 77; }; exec env DIKAST_OWN_MOUNTS=1 unshare -m "$0" "$@"; }
. "$(dirname "$0")/lib.sh"
command -v mpirun >/dev/null && mpirun --version | grep -q 'Open MPI' || skip "no Open MPI (sh tools/setup.sh --cluster)"
[ -e "$BIN/../dikast_mpi.so" ] || skip "built without MPI (sh tools/setup.sh --cluster, then configure and build again)"
hosts_up
dikast=$(realpath "$BIN/../dikast") conf=$(realpath "$HERE/../../conf/tiny.yaml")
{ cat /etc/hosts; echo "10.77.0.1 dk1"; echo "10.77.0.2 dk2"; } >"$DIR/hosts"
mount --bind "$DIR/hosts" /etc/hosts || skip "/etc/hosts cannot be covered here"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
keys="pretrain.batch_tokens=768 pretrain.micro_tokens=128 pretrain.steps=${STEPS:-1500} model.max_seq=96 run.threads=1 run.state_s=0.2"
CASE=$DIR/run
mkdir -p "$CASE"
ln -s runs/tiny/launch "$CASE/launch"
net="--mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24"
# shellcheck disable=SC2086
"$dikast" launch -n 4 --hosts dk1:2,dk2:2 --address 10.77.0.254 --via "mpirun --mca plm_rsh_agent $HERE/netns_rsh.sh $net --mca mpi_yield_when_idle 1" \
    -- run "$conf" -q --only pretrain $keys dist.zero=true run.out="$CASE" >"$CASE/said" 2>&1 & sup=$!

saved_in() { events checkpoint | grep -q "\"attempt\":$1,"; }
busy() { awk -v n="$(nproc)" '{ exit !($1 > 1.5 * n) }' /proc/loadavg; }
far() { events hello | grep "\"attempt\":$1," | sed -n 's/.*"host":"dk2","pid":\([0-9]*\).*/\1/p'; }
goes_on() { # START ATTEMPT WHAT: a new checkpoint, so it trains again
    local bound=10
    wait_for 60 saved_in "$2"
    busy && bound=20
    echo "$3: a new checkpoint after $(awk "BEGIN { print $(now) - $1 }") s"
    within "$1" "$(now)" $bound "training again"
}
wait_for 60 saved_in 1
pids=$(rank_pids 1) start=$(now)
for p in $(ip netns pids dk2); do grep -q orted "/proc/$p/comm" && daemon=$p; done
kill -9 "${daemon:?no daemon of Open MPI on dk2}"
# shellcheck disable=SC2086
wait_for 15 gone $pids
within "$start" "$(now)" 15 "ranks were gone"
goes_on "$start" 2 "daemon killed"
attempt=2
while pids=$(far $attempt) && [ -n "$pids" ]; do
    [ "$(wc -w <<<"$pids")" -eq 2 ] && [ $attempt -le 3 ] || fail "attempt $attempt: two ranks of dk2 at most twice, found: $pids"
    start=$(now)
    # shellcheck disable=SC2086
    kill -9 $pids || fail "attempt $attempt: no ranks to kill"
    attempt=$((attempt + 1))
    goes_on "$start" $attempt "two of four ranks killed"
done
wait $sup || fail "exit code $?"
said host_left_out 'host dk2'
grep -q "done: attempt $attempt on 2 ranks" "$CASE/launch/STATUS" || fail "$(head -n 1 "$CASE/launch/STATUS")"
# shellcheck disable=SC2086
"$dikast" run "$conf" -q --only pretrain $keys run.out="$DIR/alone" >"$CASE/alone" 2>&1 || fail "the undisturbed run: $(cat "$CASE/alone")"
cmp -s "$CASE"/store/pretrain-*/model/model.safetensors "$DIR"/alone/store/pretrain-*/model/model.safetensors ||
    fail "the weights are not those of an undisturbed run"
echo ok
