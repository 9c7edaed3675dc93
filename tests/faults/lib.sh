# tests/faults/lib.sh — what the scripts here share: toy launches below $DIR, waiting, judging. Sourced by bash scripts whose $1 is
# the folder with toy_launch and toy_rank. A script prints what it checks; the first thing that is not as it must be ends it.
set -u
BIN=${1:?the folder with toy_launch and toy_rank}
HERE=$(cd "$(dirname "$0")" && pwd)
DIR=$(mktemp -d "${TMPDIR:-/tmp}/dikast-faults-XXXXXX")
unset DIKAST_SUP DIKAST_TOKEN

skip() { echo "$(basename "$0"): skipped: $*"; rmdir "$DIR" 2>/dev/null; exit 77; }
fail() { echo "FAIL: $*"; tail -n 20 "${CASE:-$DIR}/said" "${CASE:-$DIR}/launch/events.jsonl" 2>/dev/null; explain 2>&1; exit 1; }
explain() { :; } # what else a script has to say of a failure
now() { date +%s.%N; }
# within A B SECONDS WHAT: the time from A to B
within() { awk -v a="$1" -v b="$2" -v most="$3" 'BEGIN { exit !(b - a <= most) }' || fail "$4 after $(awk "BEGIN { print $2 - $1 }") s, allowed $3 s"; }
wait_for() { # SECONDS COMMAND...: until it succeeds
    local end=$((SECONDS + $1)); shift
    until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || fail "waited in vain for: $*"; sleep 0.05; done
}
begin() { CASE=$DIR/$1; mkdir -p "$CASE"; echo "$1"; }
events() { grep "\"event\":\"$1\"" "$CASE/launch/events.jsonl" 2>/dev/null; }
said() { events "$1" | grep -q -- "$2" || fail "no event '$1' with: $2"; }
event_time() { date -d "$(events "$1" | head -n 1 | sed 's/.*"t":"\([^"]*\)".*/\1/')" +%s.%N; }
state_at() { [ -e "$CASE/$(printf 'ckpt-%06d.bin' "$1")" ]; }
rank_pids() { events hello | sed -n "s/.*\"attempt\":${1:-1},.*\"pid\":\([0-9]*\).*/\1/p"; }
gone() { local p; for p in "$@"; do [ ! -e "/proc/$p" ] || grep -q '^State:.Z' "/proc/$p/status" 2>/dev/null || return 1; done; }
# Hosts dk1 and dk2 at 10.77.0.1 and .2: network namespaces on a bridge, where this machine is 10.77.0.254. Needs root and iproute2.
hosts_up() {
    command -v ip >/dev/null || skip "no ip (sh tools/setup.sh --cluster)"
    [ "$(id -u)" = 0 ] || skip "not root, which network namespaces need"
    ip netns add dkprobe 2>/dev/null && ip netns del dkprobe || skip "network namespaces cannot be made here"
    ip link show dkbr >/dev/null 2>&1 && skip "the bridge dkbr is in use"
    trap hosts_down EXIT
    ip link add dkbr type bridge && ip addr add 10.77.0.254/24 dev dkbr && ip link set dkbr up || skip "no bridge can be made here"
    local i
    for i in 1 2; do
        ip netns add dk$i && ip link add dkv$i type veth peer name dke$i && ip link set dkv$i master dkbr up &&
            ip link set dke$i netns dk$i && ip netns exec dk$i ip addr add 10.77.0.$i/24 dev dke$i &&
            ip netns exec dk$i ip link set dke$i up && ip netns exec dk$i ip link set lo up || skip "no link can be made here"
    done
}
hosts_down() {
    local i
    # The link first: that of a namespace goes when the last process in it has gone.
    for i in 1 2; do ip link del dkv$i; ip netns del dk$i; done
    ip link del dkbr
    rm -rf "$DIR"
} 2>/dev/null
# The bytes of one undisturbed rank.
same_result() {
    mkdir -p "$DIR/alone-$1"
    [ -e "$DIR/alone-$1/final.bin" ] || TOY_STEP_MS=0 "$BIN/toy_rank" "$DIR/alone-$1" "$1" || fail "the undisturbed run"
    cmp -s "$DIR/alone-$1/final.bin" "$CASE/final.bin" || fail "the result is not that of an undisturbed run"
}
