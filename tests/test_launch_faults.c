// layer: dist
// label: slow
// cost: 25
// waits: yes
/* Every fault that processes of one machine can have, over toy ranks: what happened is named rightly and in time,
 * nobody is left behind, and wherever the run ends its state is the undisturbed run's. Cases wait far more than they
 * compute, so they run side by side, a thread each; bounds are counted from the fault and twice as wide where the
 * machine may be loaded. */
#include "launch_help.h"

/* Where nothing hangs: on a loaded disk a checkpoint can take longer than the two seconds in which the other cases find
 * a hang. */
#define NO_HANG "--floor 1000"

/* -- deaths */

/* One in each section, and between them a step in which a new checkpoint was made. */
static void killed_in_each_section(Case *c) {
    static const char at[] =
        "DIKAST_CRASH_AT=INIT:0:2,FWD:7:1,BWD:13:0,COMM:18:3,OPT:24:2,CKPT:30:0,DATA:32:1,ROLLOUT:40:1,"
        "SCORE:45:2,EVAL:50:3";
    static const int rank[] = {2, 1, 0, 3, 2, 0, 1, 1, 2, 3};
    need_code(c, launch(c, 60, NO_HANG, at), 0);
    need_result(c, 60);
    need(c, count_events(c, "fault") == COUNT_OF(rank), "%d faults, expected %d", count_events(c, "fault"),
         COUNT_OF(rank));
    for (int i = 0; i < COUNT_OF(rank) && !c->failed[0]; i++) {
        Event fault = event(c, "fault", i), again = event(c, "attempt", i + 1);
        need(c, fault.rank == rank[i] && strstr(fault.msg, "killed by signal 9"), "fault %d names rank %d: %s", i,
             fault.rank, fault.msg);
        need_soon(c, "found", fault.t - crash_time(c, i), 2);
        need_soon(c, "going", again.t - crash_time(c, i), 10);
    }
    need_text(c, "launch/STATUS", "done: attempt 11 on 4 ranks");
    need_text(c, "launch/STATUS", "killed by signal 9");
    need(c, ledger_s(c, "lost") > 0 && ledger_s(c, "restart") > 0 && ledger_s(c, "save") > 0, "nothing was lost");
}

static void crash_and_exit_codes(Case *c) {
    need_code(c, launch(c, 30, NO_HANG, "DIKAST_CRASH_AT=FWD:7:1:segv,FWD:13:2:exit1,FWD:18:2:exit4"), 0);
    need_result(c, 30);
    need(c, strstr(event(c, "fault", 0).msg, "Segmentation") != NULL, "%s", event(c, "fault", 0).msg);
    need(c, strstr(event(c, "fault", 1).msg, "exit code 1") != NULL, "%s", event(c, "fault", 1).msg);
}

static void final_exit_codes(Case *c) {
    char set[80];
    static const int code[] = {2, 3, 5, 6};
    for (int i = 0; i < COUNT_OF(code); i++) {
        snprintf(set, sizeof set, "TOY_ALWAYS=1\nDIKAST_CRASH_AT=FWD:2:3:exit%d", code[i]);
        need_code(c, launch(c, 30, NULL, set), code[i]);
        need(c, event(c, "attempt", i + 1).t == 0, "it was tried again after exit code %d", code[i]);
    }
}

static void crash_loop(Case *c) {
    need_code(c, launch(c, 30, NULL, "DIKAST_CRASH_AT=BWD:3:2\nTOY_ALWAYS=1"), 1);
    need(c, count_events(c, "attempt") == 3, "%d attempts, expected 3", count_events(c, "attempt"));
    need(c, count_events(c, "crash_loop") == 1, "no crash loop was reported");
    need_text(c, "launch/STATUS", "fault in attempt 1");
    need_text(c, "launch/STATUS", "fault in attempt 3");
    need_text(c, "said", "3 attempts in a row");
}

/* Two hosts of two ranks; the second one fails twice, so it is left out, and two ranks end with the same bits. */
static void half_is_lost(Case *c) {
    need_code(c, launch(c, 60, "--hosts a:2,b:2 " NO_HANG, "DIKAST_CRASH_AT=FWD:13:2,FWD:23:3\nTOY_HOSTS=a:a:b:b"), 0);
    need_result(c, 60);
    need(c, count_events(c, "host_left_out") == 1, "no host was left out");
    double all = 0;
    for (int b = 0; b < GOOD_BINS; b++) all += ledger_s(c, goodput_name(b));
    need(c, all > 2 * ledger_wall_s(c) && all < 4 * ledger_wall_s(c), "%.2f s of ranks in %.2f s", all,
         ledger_wall_s(c));
    need_text(c, "launch/STATUS", "done: attempt 3 on 2 ranks");
    need_text(c, "launch/STATUS", "host b is left out");
}

static void nothing_fits(Case *c) {
    need_code(
        c, launch(c, 60, "--hosts a:2,b:2 --group 4 " NO_HANG, "TOY_HOSTS=a:a:b:b\nDIKAST_CRASH_AT=FWD:13:2,FWD:23:3"),
        0);
    need(c, count_events(c, "host_left_out") == 0, "a host was left out though no world fits without it");
    need_text(c, "launch/STATUS", "on 4 ranks");
}

/* -- silence */

static void stopped_rank(Case *c) {
    need_code(c, launch(c, 40, NULL, "DIKAST_CRASH_AT=BWD:20:3:stop"), 0);
    need_result(c, 40);
    Event e = event(c, "silent_rank", 0);
    need(c, e.rank == 3 && strstr(e.msg, "stopped (SIGSTOP)"), "rank %d: %s", e.rank, e.msg);
    need_soon(c, "found", e.t - crash_time(c, 0), 7);
    /* Four ranks waited from its last beat, at most a second before the fault, until it was found. */
    double waited = 4 * (e.t - crash_time(c, 0)), detection = ledger_s(c, "detection");
    need(c, detection > waited - 5 && detection < waited + 5, "detection %.1f s of ranks, expected about %.1f",
         detection, waited);
}

static void all_stopped(Case *c) {
    need_code(c, launch(c, 40, NULL, "DIKAST_CRASH_AT=BWD:20:0:stopall"), 0);
    need_result(c, 40);
    Event e = event(c, "silent_rank", 0);
    need(c, strstr(e.msg, "any of the 4 ranks") && strstr(e.msg, "stopped (SIGSTOP)"), "%s", e.msg);
    need_soon(c, "found", e.t - crash_time(c, 0), 7);
}

/* -- hangs */

static Event hang(Case *c, const char *fault) {
    char set[80];
    snprintf(set, sizeof set, "DIKAST_CRASH_AT=%s", fault);
    need_code(c, launch(c, 60, NULL, set), 0);
    need_result(c, 60);
    Event e = event(c, "culprit", 0);
    if (strcmp(strrchr(fault, ':'), ":mismatch")) need_soon(c, "found", e.t - crash_time(c, 0), 2 + 3);
    need_text(c, "launch/hang-1/rank-0.json", "\"records\"");
    return e;
}

static void endless_loop(Case *c) {
    Event e = hang(c, "FWD:20:1:hang");
    need(c, e.rank == 1 && strstr(e.msg, "FWD of step 20"), "rank %d: %s", e.rank, e.msg);
    need_text(c, "launch/hang-1/rank-1.json", "toy_rank(");
}

static void missed_collective(Case *c) {
    Event e = hang(c, "COMM:20:2:miss");
    need(c, e.rank == 2 && strstr(e.msg, "rule 2"), "rank %d: %s", e.rank, e.msg);
}

static void mismatched_collective(Case *c) {
    Event e = hang(c, "COMM:20:2:mismatch");
    need(c, e.rank == 2 && strstr(e.msg, "rule 2") && strstr(e.msg, "of 33 f64"), "rank %d: %s", e.rank, e.msg);
}

static void crossed_order(Case *c) {
    Event e = hang(c, "COMM:20:1:cross");
    need(c, e.rank < 2 && strstr(e.msg, "rule 4") && strstr(e.msg, "ordering deadlock"), "rank %d: %s", e.rank, e.msg);
}

/* -- numbers */

static void not_finite(Case *c) {
    need_code(c, launch(c, 40, NO_HANG, "DIKAST_CRASH_AT=BWD:20:3:nan"), 0);
    need(c, count_events(c, "attempt") == 1, "a step that is skipped is no reason to start again");
    need(c, count_events(c, "non-finite") == 1 && event(c, "non-finite", 0).rank == 3,
         "%d reports, the first by rank %d", count_events(c, "non-finite"), event(c, "non-finite", 0).rank);
    Case skipping = {.name = "not_finite_reference"};
    begin(&skipping);
    need_code(c, launch(&skipping, 40, NULL, "TOY_SKIP=20"), 0);
    need(c, same_result(c, &skipping), "the result is not that of a run which skips the step");
    finish(&skipping);
}

static void flipped_bit(Case *c) {
    need_code(c, launch(c, 40, NO_HANG, "DIKAST_CRASH_AT=OPT:22:1:flip"), 0);
    need_result(c, 40);
    Event e = event(c, "fault", 0);
    need(c, e.rank == 1 && strstr(e.msg, "at step 25"), "rank %d: %s", e.rank, e.msg);
    need_text(c, "launch/STATUS", "from the last checkpoint (toy step 20)");
}

static void straggler(Case *c) {
    need_code(c, launch(c, 25, NO_HANG, "DIKAST_CRASH_AT=FWD:1:2:slow\nTOY_STEP_MS=200"), 0);
    need_result(c, 25);
    bool named = false;
    for (int i = 0; i < count_events(c, "straggler"); i++) {
        Event e = event(c, "straggler", i);
        named = named || (e.rank == 2 && e.step <= 20 && strstr(e.msg, "FWD"));
    }
    need(c, named, "rank 2 was not named within 20 steps");
    need(c, count_events(c, "attempt") == 1, "a slow rank is no reason to start again");
}

/* -- signals */

static void asked_to_stop(Case *c, int sig, int to_rank) {
    pid_t p = launch_start(c, 2000, NULL, "");
    wait_steps(c, 10);
    double start = now_s();
    kill(to_rank < 0 ? p : rank_pid(c, to_rank), sig);
    need_code(c, launch_wait(c, p), 75);
    need_soon(c, "gone", now_s() - start, 2);
    need(c, count_events(c, "fault") == 0, "it was taken for a fault: %s", event(c, "fault", 0).msg);
    need_text(c, "launch/STATUS", "stopped: ");
    need_code(c, launch(c, (int)last_state(c) + 10, NULL, ""), 0);
    need_result(c, (int)last_state(c));
}

static void sigterm(Case *c) { asked_to_stop(c, SIGTERM, -1); }
static void sigusr1(Case *c) { asked_to_stop(c, SIGUSR1, -1); }
static void sigterm_to_a_rank(Case *c) { asked_to_stop(c, SIGTERM, 2); }

static void second_signal(Case *c) {
    pid_t p = launch_start(c, 2000, NULL, "TOY_STEP_MS=4000"); /* no step ends soon */
    wait_rank(c, 3);
    kill(p, SIGTERM);
    wait_event(c, "stop");
    double start = now_s();
    kill(p, SIGTERM);
    need_code(c, launch_wait(c, p), 1000 + SIGTERM);
    need_soon(c, "gone", now_s() - start, 1);
    need_nobody(c, 2);
}

/* -- supervisors */

static void supervisor_killed(Case *c) {
    pid_t p = launch_start(c, 2000, NO_HANG, "DIKAST_CRASH_AT=FWD:10:1:hang"); /* so none can save and leave */
    wait_crash(c, 0);
    int rank[4];
    for (int r = 0; r < 4; r++) rank[r] = rank_pid(c, r);
    double start = now_s();
    kill(p, SIGKILL);
    need_code(c, launch_wait(c, p), 1000 + SIGKILL);
    for (int r = 0; r < 4; r++) need_code(c, adopted_wait(c, rank[r], 24), 75);
    need_soon(c, "gone", now_s() - start, 12);
    double away = now_s() - start;
    need_code(c, launch(c, 30, NULL, ""), 0);
    need_result(c, 30);
    /* Numbers go on: an old rank must not pass for a new one. */
    need(c, count_events(c, "attempt") == 2 && event(c, "attempt", 1).attempt == 2, "attempt %d, expected 2",
         event(c, "attempt", 1).attempt);
    need(c, ledger_s(c, "restart") > 4 * (away - 1), "restart %.1f s of ranks, nobody trained for %.1f s",
         ledger_s(c, "restart"), away);
}

/* What a killed supervisor left is ended by the next one, though it is stopped and so can do nothing itself. */
static void leftovers(Case *c) {
    pid_t p = launch_start(c, 30, NO_HANG, "DIKAST_CRASH_AT=FWD:10:1:stopall");
    wait_crash(c, 3);
    wait_rank(c, 3);
    kill(p, SIGKILL);
    need_code(c, launch_wait(c, p), 1000 + SIGKILL);
    int left = rank_pid(c, 2);
    need_code(c, launch(c, 30, NULL, ""), 0);
    need_code(c, adopted_wait(c, left, 1), 1000 + SIGKILL);
    need(c, count_events(c, "leftover") == 4, "%d leftovers", count_events(c, "leftover"));
    need_result(c, 30);
}

/* Stopped for longer than a beat may be late, but not for so long that the ranks end themselves. */
static void supervisor_stopped(Case *c) {
    pid_t p = launch_start(c, 500, NULL, "");
    wait_steps(c, 10);
    kill(p, SIGSTOP);
    nap(6);
    kill(p, SIGCONT);
    need_code(c, launch_wait(c, p), 0);
    need(c, count_events(c, "attempt") == 1, "%s", event(c, "silent_rank", 0).msg);
    need(c, count_events(c, "slept") == 1, "it did not notice");
    need_result(c, 500);
}

static void two_supervisors(Case *c) {
    pid_t p = launch_start(c, 2000, NULL, "");
    wait_steps(c, 5);
    need_code(c, launch(c, 30, NULL, ""), 2);
    need_text(c, "said", "another supervisor is at work");
    kill(p, SIGTERM);
    need_code(c, launch_wait(c, p), 75);
}

/* -- launchers: a stand-in for mpirun, whose ranks are not the supervisor's children */

#define FAKE "--via " TEST_DIR "/mpirun_fake.sh"

static void under_a_launcher(Case *c) {
    need_code(c, launch(c, 40, FAKE, "DIKAST_CRASH_AT=FWD:13:2,COMM:22:1:mismatch,CKPT:30:0"), 0);
    need_result(c, 40);
    Event e = event(c, "fault", 0);
    need(c, e.rank == 2 && strstr(e.msg, "process is gone"), "rank %d: %s", e.rank, e.msg);
    need_soon(c, "found", e.t - crash_time(c, 0), 2);
    need(c, event(c, "culprit", 0).rank == 1, "%s", event(c, "culprit", 0).msg);
}

static void launcher_killed(Case *c) {
    pid_t p = launch_start(c, 60, FAKE, "");
    wait_steps(c, 10);
    int rank[4], mpirun = child_of(p);
    for (int r = 0; r < 4; r++) rank[r] = rank_pid(c, r);
    double start = now_s();
    kill(mpirun, SIGKILL);
    for (int r = 0; r < 4; r++) adopted_wait(c, rank[r], 24);
    need_soon(c, "gone", now_s() - start, 15);
    need_code(c, launch_wait(c, p), 0);
    need(c, strstr(event(c, "fault", 0).msg, "mpirun_fake.sh was killed by signal 9") != NULL, "%s",
         event(c, "fault", 0).msg);
    need_result(c, 60);
}

/* A rank on another host, out of reach, sleeps just before it writes; the run goes on without it. Waking up, it must
 * not write. */
static void stale_attempt(Case *c) {
    pid_t p = launch_start(c, 60, FAKE, "DIKAST_CRASH_AT=CKPT:20:0:stop\nTOY_HOSTS=x:x:x:x\nTOY_LOOSE=1");
    wait_rank(c, 0);
    int stale = rank_pid(c, 0);
    wait_crash(c, 0);
    Event lost = wait_event(c, "silent_rank");
    need(c, strstr(lost.msg, "host or link") == NULL && lost.rank == 0, "rank %d: %s", lost.rank, lost.msg);
    need_code(c, launch_wait(c, p), 0);
    need_result(c, 60);
    char *before = text_of(c, "writes.log");
    kill(stale, SIGCONT);
    need_code(c, adopted_wait(c, stale, 14), 75);
    char *after = text_of(c, "writes.log");
    need(c, !strcmp(before, after), "it wrote after it had been replaced:\n%s", after);
    free(before);
    free(after);
}

static Case cases[] = {
    {.name = "killed_in_each_section", .run = killed_in_each_section},
    {.name = "crash_and_exit_codes", .run = crash_and_exit_codes},
    {.name = "final_exit_codes", .run = final_exit_codes},
    {.name = "crash_loop", .run = crash_loop},
    {.name = "half_is_lost", .run = half_is_lost},
    {.name = "nothing_fits", .run = nothing_fits},
    {.name = "stopped_rank", .run = stopped_rank},
    {.name = "all_stopped", .run = all_stopped},
    {.name = "endless_loop", .run = endless_loop},
    {.name = "missed_collective", .run = missed_collective},
    {.name = "mismatched_collective", .run = mismatched_collective},
    {.name = "crossed_order", .run = crossed_order},
    {.name = "not_finite", .run = not_finite},
    {.name = "flipped_bit", .run = flipped_bit},
    {.name = "straggler", .run = straggler},
    {.name = "sigterm", .run = sigterm},
    {.name = "sigusr1", .run = sigusr1},
    {.name = "sigterm_to_a_rank", .run = sigterm_to_a_rank},
    {.name = "second_signal", .run = second_signal},
    {.name = "supervisor_killed", .run = supervisor_killed},
    {.name = "leftovers", .run = leftovers},
    {.name = "supervisor_stopped", .run = supervisor_stopped},
    {.name = "two_supervisors", .run = two_supervisors},
    {.name = "under_a_launcher", .run = under_a_launcher},
    {.name = "launcher_killed", .run = launcher_killed},
    {.name = "stale_attempt", .run = stale_attempt},
};

int main(int argc, char **argv) { return run_cases(cases, COUNT_OF(cases), argc > 1 ? argv[1] : NULL); }
