#!/bin/bash
# A link goes down between two "hosts", which are network namespaces of this machine: found and called host or link, the ranks out of
# reach end themselves, and the run goes on - with both hosts when the link comes back, with one when it does not.
# Needs root and iproute2; exit status 77: something is missing, and is named.
. "$(dirname "$0")/lib.sh"
hosts_up

cut_case() { # NAME: cuts host 2's link while the run is going on; $sup is the supervisor
    begin "$1"
    TOY_STEP_MS=40 "$BIN/toy_launch" --via "$HERE/mpirun_netns.sh" --hosts dk1:2,dk2:2 --address 10.77.0.254 --hello 4 "$CASE" 400 \
        >>"$CASE/said" 2>&1 & sup=$!
    wait_for 30 state_at 10
    far=$(events hello | sed -n 's/.*"host":"dk2","pid":\([0-9]*\).*/\1/p')
    start=$(now)
    ip link set dkv2 down
    wait_for 10 events silent_rank
    within "$start" "$(event_time silent_rank)" 7 "found"
    said silent_rank 'host or link.*host dk2'
    wait_for 15 gone $far
    within "$start" "$(now)" 12 "the ranks out of reach were gone"
}

cut_case link_mended
ip link set dkv2 up
wait $sup || fail "exit code $?"
same_result 400
grep -q 'done: attempt 2 on 4 ranks' "$CASE/launch/STATUS" || fail "$(head -n 1 "$CASE/launch/STATUS")"

cut_case link_stays_down
wait $sup || fail "exit code $?"
same_result 400
said host_left_out 'host dk2'
grep -q 'on 2 ranks' "$CASE/launch/STATUS" || fail "$(head -n 1 "$CASE/launch/STATUS")"
echo ok
