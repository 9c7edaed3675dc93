#!/bin/sh
# The program itself, its ranks as threads and (where there is one) over a real MPI, with what goes wrong quietly: a loss that is not
# finite, a weight that changes by itself, a rank that is slow. Each is named with its rank in the run's events.jsonl; a step with such a loss is
# skipped by all ranks; changed weights end the run, and under dikast launch it goes on from the last checkpoint to the same bytes.
# Usage: health_runs.sh DIKAST CONF DIR [MPI: 1 or 0]
set -u
dikast=$1 conf=$2 dir=$3 mpi=${4:-0}
rm -rf "$dir"
mkdir -p "$dir"
keys="pretrain.batch_tokens=768 pretrain.micro_tokens=128 pretrain.steps=24 model.max_seq=96 run.threads=1 ckpt.every=4 dist.check_every=5 rl.kl_stop=0"
unset OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_SIZE PMI_RANK PMI_SIZE SLURM_PROCID SLURM_STEP_NUM_TASKS RANK WORLD_SIZE
over=
mpirun --version 2>/dev/null | grep -q 'Open MPI' && over='--oversubscribe --allow-run-as-root --bind-to none'

fail() { echo "health_runs: $*"; exit 1; }
# run FAULT OUT RANKS STAGE [key=value ...]: RANKS is tN (threads) or pN (processes)
run() {
    fault=$1 out=$2 ranks=$3 stage=$4
    shift 4
    cmd="$dikast run $conf --only $stage $keys run.out=$dir/$out"
    case $ranks in
    t*) cmd="timeout -k 5 120 $cmd dist.ranks=${ranks#t}" ;;
    p*) cmd="timeout -k 5 120 mpirun $over -np ${ranks#p} $cmd" ;;
    esac
    DIKAST_CRASH_AT=$fault $cmd "$@" >"$dir/said" 2>&1
}
model() { sha256sum <"$(echo "$dir/$1/store/$2"-*/model/model.safetensors)"; }
same() { [ "$(model "$1" "$3")" = "$(model "$2" "$3")" ] || fail "$1 and $2 trained different models in $3"; }
event() { # OUT EVENT PATTERN
    grep "\"event\":\"$2\"" "$dir/$1/runs/tiny/events.jsonl" | grep -q -- "$3" ||
        fail "$1: no event '$2' with: $3; $(cat "$dir/$1/runs/tiny/events.jsonl" "$dir/said")"
}

[ "$mpi" -eq 1 ] && kinds="t2 p2" || kinds="t2"
run none plain t1 pretrain || fail "undisturbed: $(cat "$dir/said")"
run train.skip:*:7 skip t1 pretrain || fail "told to skip: $(cat "$dir/said")"
[ "$(model plain pretrain)" != "$(model skip pretrain)" ] || fail "the step was not skipped"
for k in $kinds; do
    # Six micro-batches, of which the second rank of two has 3 to 5; it meets the first of them.
    run train.nan:1:7 "nan-$k" $k pretrain || fail "$k, NaN: $(cat "$dir/said")"
    event "nan-$k" non_finite 'step 7: the loss of micro-batch 3 on rank 1 is not finite (1 of 6 micro-batches)'
    grep -q 'step 7: the loss of micro-batch 3 on rank 1' "$dir/said" || fail "no warning names the rank: $(cat "$dir/said")"
    same "nan-$k" skip pretrain

    # Found at the next comparison: step 12, before a save.
    run train.flip:1:11 "flip-$k" $k pretrain && fail "$k: nobody minded that a weight had changed"
    event "flip-$k" corrupt "step 12: the replicas' weights differ, from bucket 0"
    grep -q 'run again to go on from there' "$dir/said" || fail "$k: $(cat "$dir/said")"
    run none "flip-$k" $k pretrain || fail "$k, after a changed weight: $(cat "$dir/said")"
    same "flip-$k" plain pretrain

    run train.slow:1 "slow-$k" $k pretrain || fail "$k, slow: $(cat "$dir/said")"
    event "slow-$k" straggler 'rank 1 is a straggler'
    step=$(grep '"event":"straggler"' "$dir/slow-$k/runs/tiny/events.jsonl" | head -n 1 | sed 's/.*step \([0-9]*\):.*/\1/')
    [ "$step" -le 20 ] || fail "$k: the straggler was named at step $step"
    [ "$(grep -c '"event":"straggler"' "$dir/slow-$k/runs/tiny/events.jsonl")" -eq 1 ] || fail "$k: a straggler is not said once"
    same "slow-$k" plain pretrain
done

# Of four, the one that differs is known; PPO's two nets are compared too.
run train.flip:2:11 four t4 pretrain && fail "four ranks: nobody minded"
event four corrupt 'step 12: the weights of rank 2 differ from the other'
run train.nan:1:2 rl-nan t2 rl rl.micro_tokens=96 || fail "rl, NaN: $(cat "$dir/said")"
event rl-nan non_finite 'step 2: the loss of micro-batch'
run train.skip:*:2 rl-skip t2 rl rl.micro_tokens=96 || fail "rl, told to skip: $(cat "$dir/said")"
same rl-nan rl-skip rl
run train.flip:1:2 rl-flip t2 rl ckpt.every=1 && fail "rl: nobody minded"
event rl-flip corrupt "step 2: the replicas' weights differ"

[ "$mpi" -eq 1 ] || { echo "health_runs: threads; no MPI (sh tools/setup.sh --cluster)"; exit 0; }
# Under the supervisor: back to the last checkpoint, in attempt 2 the fault does not come again. Saved in front, so that step 8's is there.
DIKAST_CRASH_AT=train.flip:1:11:1 timeout -k 5 120 "$dikast" launch -n 2 --via "mpirun $over" -- run "$conf" --only pretrain $keys \
    ckpt.async=false run.out="$dir/launch" >"$dir/said" 2>&1 || fail "launch: $(cat "$dir/said")"
grep -q "its parameters differ: step 12: the replicas' weights differ" "$dir/launch/runs/tiny/launch/STATUS" || fail "$(cat "$dir/launch/runs/tiny/launch/STATUS")"
grep -q 'from the last checkpoint (pretrain step 8)' "$dir/launch/runs/tiny/launch/STATUS" || fail "$(cat "$dir/launch/runs/tiny/launch/STATUS")"
same launch plain pretrain
rm -rf "$dir"
echo "health_runs: threads, processes, launch"
