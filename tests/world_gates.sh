#!/bin/sh
# The acceptance world: the main configuration must pass its gates and every control must come out as its file says.
#   world_gates.sh DIKAST OUT_DIR [SEED ...]      seeds of the main run (default 0); controls run with seed 0
set -u
dikast=$1 out=$2
shift 2
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
for control in conf/controls/*.yaml; do one "$(basename "$control" .yaml)" "$control"; done
exit $failed
