#!/bin/sh
# The acceptance world: the main configuration must pass its gates and every control must come out as its file says.
#   world_gates.sh DIKAST OUT_DIR [all] [SEED ...]      seeds of the main run (default 0); controls run with seed 0
# all (make gates): the slower controls, too. bench/method.py runs everything over several seeds and tabulates it.
set -u
dikast=$1 out=$2
shift 2
controls="beta0 no-critique shuffled swap"
if [ "${1:-}" = all ]; then
    controls="$controls best-of-16 guard irrelevant random-pm"
    shift
fi
[ $# -gt 0 ] || set -- 0
cd "$(dirname "$0")/.." || exit 1
rm -rf "$out"
failed=0
one() {
    name=$1 conf=$2
    shift 2
    "$dikast" run "$conf" run.out="$out" --name "$name" "$@" -q
    code=$?
    [ $code -eq 0 ] && echo "ok   $name" || { echo "FAIL $name: exit $code"; failed=1; }
}
for seed in "$@"; do
    if [ "$seed" = 0 ]; then one quickstart conf/quickstart.yaml; else one "seed$seed" conf/quickstart.yaml run.seed="$seed"; fi
done
for control in $controls; do one "$control" "conf/controls/$control.yaml"; done

# What RL makes of a preference model that learnt nothing is chance, so it is judged by the mean of five shuffles; whether one
# of them has a lucky interval is not asked again.
value() { sed -n "s/^ *\"$2\": *\([-0-9.e]*\),*\$/\1/p" "$1"; }
rows=
for k in 1 2 3 4 5; do
    name=shuffled
    if [ $k -gt 1 ]; then
        name=shuffled$k
        "$dikast" run conf/controls/shuffled.yaml run.out="$out" --name $name pm.shuffle=$k -q > /dev/null 2>&1
        code=$?
        [ $code -eq 0 ] || [ $code -eq 6 ] || { echo "FAIL $name: exit $code"; failed=1; }
    fi
    dir=$(sed -n 's/.*"dir": *"\(.*\/eval-[^"]*\)".*/\1/p' "$out/runs/$name/stages.json")
    row=
    for key in reason.named harm.named harm.unnamed; do
        row="$row $(value "$dir/summary.json" "sl.$key") $(value "$dir/summary.json" "rl.$key")"
    done
    rows="$rows$row
"
done
printf '%s' "$rows" | awk '
    NF == 6 { n++; reason += $2 - $1; contrast += ($3 - $4) - ($5 - $6) }
    END {
        ok = n == 5 && reason / n <= 0.10 && contrast / n <= 0.10
        printf "%s shuffled, mean of %d: reason RL - SL %.3f <= 0.10, drop of harm named - unnamed %.3f <= 0.10\n",
               ok ? "ok  " : "FAIL", n, n ? reason / n : 0, n ? contrast / n : 0
        exit !ok
    }' || failed=1
exit $failed
