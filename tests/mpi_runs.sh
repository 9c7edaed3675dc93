#!/bin/sh
# Real processes: `mpirun -np N dikast run` gives the models of one rank, whole, in stages and with divided optimizer state; a signal stops
# all ranks with a state that any number of them goes on from; an error is said once and ends the job with its exit code.
# Usage: mpi_runs.sh DIKAST CONF DIR
set -u
dikast=$1 conf=$2 dir=$3
rm -rf "$dir"
mkdir -p "$dir"
keys="pretrain.batch_tokens=768 pretrain.micro_tokens=128 pretrain.steps=20 helpful.micro_tokens=128 helpful.steps=20
sl.micro_tokens=104 pm.micro_tokens=128 rl.micro_tokens=96 model.max_seq=96 rl.kl_stop=0 run.threads=1"
unset OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_SIZE PMI_RANK PMI_SIZE SLURM_PROCID SLURM_STEP_NUM_TASKS RANK WORLD_SIZE
over=
mpirun --version 2>/dev/null | grep -q 'Open MPI' && over='--oversubscribe --allow-run-as-root'

fail() { echo "mpi_runs: $*"; exit 1; }
run() { # OUT NP [key=value ...]
    out=$1 np=$2
    shift 2
    # shellcheck disable=SC2086
    if [ "$np" -eq 1 ]; then
        timeout -k 5 300 "$dikast" run "$conf" -q --only rl $keys run.out="$dir/$out" "$@" 2>"$dir/said"
    else
        timeout -k 5 300 mpirun $over -np "$np" "$dikast" run "$conf" -q --only rl $keys run.out="$dir/$out" "$@" 2>"$dir/said"
    fi
}
sums() { (cd "$dir/$1/store" && for s in pretrain helpful sl pm rl; do sha256sum "$s"-*/model/model.safetensors; done); }

run one 1 || fail "one rank: $(cat "$dir/said")"
sums one >"$dir/want"
[ "$(wc -l <"$dir/want")" -eq 5 ] || fail "one rank left no five models"
for np in 2 4; do
    [ $np -eq 4 ] && how='dist.zero=2 dist.overlap=true' || how='dist.zero=true'
    # shellcheck disable=SC2086
    run "np$np" $np $how || fail "$np ranks: $(cat "$dir/said")"
    sums "np$np" >"$dir/got"
    cmp -s "$dir/want" "$dir/got" || fail "$np ranks trained other models: $(diff "$dir/want" "$dir/got")"
done

# Three layers in two stages of a pipeline, and two such pipelines of one replica each.
run stages1 1 model.n_layer=3 || fail "one rank, three layers: $(cat "$dir/said")"
sums stages1 >"$dir/want"
run stages4 4 model.n_layer=3 dist.pp=2 dist.zero=2 dist.overlap=true || fail "two stages, four ranks: $(cat "$dir/said")"
sums stages4 >"$dir/got"
cmp -s "$dir/want" "$dir/got" || fail "two stages, four ranks, trained other models: $(diff "$dir/want" "$dir/got")"

# Rows divided over two ranks: bits follow from that, not from what moves them, nor from replicas beside them.
rows() { # OUT SUMS COMMAND ...
    out=$1 to=$2
    shift 2
    # shellcheck disable=SC2086
    timeout -k 5 300 "$@" -q --only pretrain $keys run.out="$dir/$out" dist.cp=2 2>"$dir/said" || fail "$out: $(cat "$dir/said")"
    (cd "$dir/$out/store" && sha256sum pretrain-*/model/model.safetensors) >"$dir/$to"
}
rows rows2 want "$dikast" run "$conf" dist.ranks=2
# shellcheck disable=SC2086
rows rows4 got mpirun $over -np 4 "$dikast" run "$conf" dist.zero=true
cmp -s "$dir/want" "$dir/got" || fail "rows of four processes trained another model than rows of two threads"

# Stopped in the middle, by whatever reaches the ranks, and gone on with by another number of them. mpirun passes USR1 on.
timeout -k 5 300 mpirun $over -np 2 "$dikast" run "$conf" -q --only rl $keys run.out="$dir/stop" \
    pretrain.steps=1500 2>"$dir/said" &
job=$!
for i in $(seq 100); do
    [ -s "$(echo "$dir"/stop/store/pretrain-*/metrics.jsonl)" ] && break
    sleep 0.1
done
kill -USR1 "$(pgrep -P $job mpirun || echo $job)"
wait $job
code=$?
[ $code -eq 75 ] || fail "a stopped run ended with $code, not 75: $(cat "$dir/said")"
[ -d "$(echo "$dir"/stop/store/pretrain-*/state)" ] || fail "a stopped run left no state"
run stop 4 pretrain.steps=1500 dist.zero=true || fail "going on with 4 ranks: $(cat "$dir/said")"
run whole 1 pretrain.steps=1500 || fail "one rank: $(cat "$dir/said")"
sums stop >"$dir/got"
sums whole >"$dir/want"
cmp -s "$dir/want" "$dir/got" || fail "stopped and resumed by ranks: $(diff "$dir/want" "$dir/got")"

# Errors: of a key, before anything begins; of a rank's file, while it runs.
run bad 2 dist.ranks=3 && fail "3 ranks were asked for, 2 started, and nobody minded"
grep -q 'dist.ranks 3, but 2 were started' "$dir/said" || fail "wrong number of ranks: $(cat "$dir/said")"
timeout -k 5 60 mpirun $over -np 2 "$dikast" run "$conf" -q run.out="$dir/bad" data.source=files data.dir="$dir/nowhere" 2>"$dir/said"
code=$?
[ $code -eq 3 ] || fail "a missing file ended the job with $code, not 3: $(cat "$dir/said")"
[ "$(grep -c 'no such file' "$dir/said")" -eq 1 ] || fail "an error is not said once: $(cat "$dir/said")"
rm -rf "$dir"
echo "mpi_runs: 2 and 4 processes, stages of a pipeline, stop and resume, errors: as one"
