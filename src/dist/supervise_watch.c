/* dist/supervise_watch.c — the rules by which a rank is found to be dead, silent or hanging; looked at twice a second.
 */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "dist/beat.h"
#include "dist/proc.h"
#include "dist/supervise_int.h"

/* A beat comes every second. A process that is stopped, or out of sight, is lost after lost_s; one that may only be
 * starved of processor time gets starved_s. */
static const double look_s = 3, lost_s = 5, starved_s = 10, reconnect_s = 3;
static const double fresh_s =
    1.5; /* who has not beaten since then is judged by silence, not by the age of its section */
static const double last_words_s = 0.3;
static const double pace_s = 1;         /* between judgements of speed: windows come once a second */
static const double longest_factor = 5; /* times the longest pass ever seen */
enum { FREE_PASSES = 3, SLOW_TIMES = 2 };

double sup_floor(const Sup *s, Section section) {
    static const double floor_s[SECTION_COUNT] = {
        [SECTION_DATA] = 30,  [SECTION_FWD] = 60,      [SECTION_BWD] = 60,    [SECTION_COMM] = 60, [SECTION_OPT] = 30,
        [SECTION_CKPT] = 120, [SECTION_ROLLOUT] = 120, [SECTION_SCORE] = 120, [SECTION_EVAL] = 300};
    return s->c->floor_s > 0 ? s->c->floor_s : floor_s[section];
}

static double cap(const Sup *s) { return s->c->cap_s > 0 ? s->c->cap_s : 1800; }

/* -- died */

static void rank_exit(Sup *s, int r, int code) {
    Rank *k = &s->rank[r];
    if (code == 0) return;
    if (code == EXIT_RESUMABLE && (k->bye || s->stopping)) {
        if (!s->stopping) {
            sup_say(s, "info", "stop", r, "it was asked to stop from outside, has saved and left; the others follow");
            sup_ask_checkpoint(s, "another rank was asked to stop");
        }
        return;
    }
    if (code == EXIT_RESUMABLE)
        sup_fault(s, CAUSE_EXIT, r, code, "it ended itself, having lost its supervisor");
    else
        sup_fault(s, CAUSE_EXIT, r, code, "it ended with exit code %d", code);
    if (code == 2 || code == 3 || code == 5 || code == 6) s->now.permanent = code;
}

/* Of those that ended since the last look: who was killed explains who gave up because of it. */
static void reaped(Sup *s) {
    for (int kind = 0; kind < 2; kind++)
        for (int r = 0; r < s->world; r++) {
            Rank *k = &s->rank[r];
            if (!k->reaped || k->skipped || WIFSIGNALED(k->status) != (kind == 0)) continue;
            k->skipped = true;
            if (kind == 0)
                sup_fault(s, CAUSE_DIED, r, WTERMSIG(k->status), "it was killed by signal %d (%s)", WTERMSIG(k->status),
                          strsignal(WTERMSIG(k->status)));
            else
                rank_exit(s, r, WEXITSTATUS(k->status));
        }
}

/* Ranks under a launcher are not our children: their connection ends, and their process is gone. */
static void vanished(Sup *s) {
    double now = now_s();
    for (int r = 0; r < s->world; r++) {
        Rank *k = &s->rank[r];
        if (k->child > 0 || k->reaped || !k->hello || k->skipped || k->bye) continue;
        if (k->lost_s > 0 && k->local && !proc_alive((int)k->id.pid, k->id.start)) {
            k->skipped = true;
            sup_fault(s, CAUSE_DIED, r, 0, "its process is gone");
        } else if (k->lost_s > 0 && !k->local && now - k->lost_s > reconnect_s) {
            k->skipped = true;
            sup_fault(s, CAUSE_SILENT, r, 0, "its connection ended and it did not come back");
        }
    }
    for (int r = 0; r < s->world;
         r++) { /* after those that were killed: who gave up may have done so because of them */
        Rank *k = &s->rank[r];
        if (k->child > 0 || k->reaped || !k->bye || k->skipped) continue;
        k->skipped = true;
        rank_exit(s, r, k->bye_code);
    }
}

static void launcher_ended(Sup *s) {
    if (!s->launched || !s->launcher_reaped || s->now.cause) return;
    if (now_s() - s->launcher_end_s < last_words_s) return; /* BYEs may be on their way */
    int first = -1, left = 0, st = s->launcher_status;
    for (int r = 0; r < s->world; r++) {
        Rank *k = &s->rank[r];
        left += k->bye;
        if (k->hello && !k->bye && k->lost_s > 0 && (first < 0 || k->lost_s < s->rank[first].lost_s)) first = r;
    }
    if (left == s->world || (WIFEXITED(st) && WEXITSTATUS(st) == 0 && left > 0 && first < 0)) return;
    if (s->stopping && left > 0) return;
    if (WIFSIGNALED(st))
        sup_fault(s, CAUSE_LAUNCHER, -1, WTERMSIG(st), "%s was killed by signal %d (%s)", s->c->launcher[0],
                  WTERMSIG(st), strsignal(WTERMSIG(st)));
    else if (first >= 0)
        sup_fault(s, CAUSE_DIED, first, 0, "it ended without a word, and %s with exit code %d", s->c->launcher[0],
                  WEXITSTATUS(st));
    else
        sup_fault(s, CAUSE_LAUNCHER, -1, WEXITSTATUS(st), "%s ended with exit code %d", s->c->launcher[0],
                  WEXITSTATUS(st));
}

static void never_reported(Sup *s) {
    double limit = s->c->hello_s > 0 ? s->c->hello_s : 60, age = now_s() - s->begun_s;
    if (age < limit) return;
    for (int r = 0; r < s->world; r++)
        if (!s->rank[r].hello && !s->rank[r].reaped)
            sup_fault(s, CAUSE_HELLO, r, 0, "it has not reported %.0f s after its start", age);
}

/* -- silent */

static bool same_host(const Sup *s, int a, int b) { return !strcmp(s->rank[a].id.host, s->rank[b].id.host); }

/* How many ranks of r's host report at all, and how many of these are silent. */
static void host_silence(const Sup *s, int r, int *n, int *n_silent, bool *other_host) {
    *n = *n_silent = 0;
    *other_host = false;
    for (int k = 0; k < s->world; k++) {
        if (!sup_rank_live(s, k)) continue;
        if (!same_host(s, r, k)) {
            *other_host = true;
            continue;
        }
        ++*n;
        *n_silent += now_s() - s->rank[k].heard_s > look_s;
    }
}

static void silent_rank(Sup *s, int r, double silence, char state) {
    int n, n_silent;
    bool others;
    const Rank *k = &s->rank[r];
    host_silence(s, r, &n, &n_silent, &others);
    if (!k->local && n == n_silent)
        sup_fault(s, CAUSE_SILENT, r, 0, "host or link: no beat from any of the %d rank%s of host %s for %.1f s", n,
                  n == 1 ? "" : "s", k->id.host, silence);
    else if (state == 0)
        sup_fault(s, CAUSE_SILENT, r, 0, "no beat for %.1f s", silence);
    else if (n == n_silent && n > 1)
        sup_fault(s, CAUSE_SILENT, r, 0, "no beat from any of the %d ranks for %.1f s: its process is %s", n, silence,
                  proc_state_text(state));
    else
        sup_fault(s, CAUSE_SILENT, r, 0, "no beat for %.1f s: its process is %s", silence, proc_state_text(state));
}

static void silent(Sup *s) {
    for (int r = 0; r < s->world; r++) {
        Rank *k = &s->rank[r];
        double silence = now_s() - k->heard_s;
        uint64_t start;
        char state = 0;
        if (!sup_rank_live(s, r) || silence <= look_s) continue;
        if (k->local && (!proc_look((int)k->id.pid, &start, &state) || start != k->id.start))
            continue; /* dead: above */
        if (!k->said_silent)
            sup_say(s, "debug", "silent", r, "no beat for %.1f s%s%s", silence, state ? ": its process is " : "",
                    state ? proc_state_text(state) : "");
        k->said_silent = true;
        bool stopped = state == 'T' || state == 't' || state == 0;
        if (silence > (stopped ? lost_s : starved_s)) silent_rank(s, r, silence, state);
    }
}

/* -- hangs */

static double limit_of(const Sup *s, const Rank *k) {
    double most = cap(s), limit = longest_factor * s->longest[k->beat.section];
    if (k->beat.passes < FREE_PASSES || k->beat.section == SECTION_INIT) return most;
    if (limit < sup_floor(s, (Section)k->beat.section)) limit = sup_floor(s, (Section)k->beat.section);
    return limit < most ? limit : most;
}

static void hang_in_compute(Sup *s) {
    for (int r = 0; r < s->world && !s->now.cause; r++) {
        const Rank *k = &s->rank[r];
        char place[96];
        if (!sup_rank_live(s, r) || k->beat.section == SECTION_COMM || now_s() - k->heard_s > fresh_s) continue;
        if (sup_age(k) <= limit_of(s, k)) continue;
        sup_place(place, s, r);
        s->hang_rank = r;
        sup_fault(s, CAUSE_HANG, r, 0, "it is in %s for %.1f s; allowed %.1f s, the longest so far took %.1f s", place,
                  sup_age(k), limit_of(s, k), s->longest[k->beat.section]);
    }
}

/* A rank that waits for a slow one is judged by the slow one's section: so only when nobody computes. */
static void hang_in_comm(Sup *s) {
    double youngest = INFINITY;
    for (int r = 0; r < s->world; r++) {
        const Rank *k = &s->rank[r];
        if (!k->hello) return;
        if (!sup_rank_live(s, r)) continue;
        if (k->beat.section != SECTION_COMM || now_s() - k->heard_s > fresh_s) return;
        if (sup_age(k) < youngest) youngest = sup_age(k);
    }
    if (!isfinite(youngest) || youngest <= sup_floor(s, SECTION_COMM)) return;
    s->hang_rank = -1;
    sup_fault(s, CAUSE_HANG, -1, 0, "nobody computes and nothing was communicated for %.1f s", youngest);
}

void sup_watch(Sup *s) {
    if (!s->now.cause) reaped(s);
    if (!s->now.cause) vanished(s);
    if (!s->now.cause) launcher_ended(s);
    double now = now_s();
    if (s->now.cause || now - s->watched_s < 0.5) return;
    s->watched_s = now;
    never_reported(s);
    if (!s->now.cause) silent(s);
    if (!s->now.cause) hang_in_compute(s);
    if (!s->now.cause) hang_in_comm(s);
    sup_pace(s);
}

/* -- stragglers: told, not stopped */

void sup_pace(Sup *s) {
    static const Section judged[] = {SECTION_DATA, SECTION_FWD, SECTION_BWD, SECTION_OPT};
    static const double least_s = 5e-3; /* shorter passes are noise */
    if (s->world < 2 || now_s() - s->paced_s < pace_s) return;
    s->paced_s = now_s();
    Pace *pace = mem_alloc((size_t)s->world * sizeof *pace);
    double *score = mem_alloc((size_t)s->world * sizeof *score);
    bool *slow = mem_alloc((size_t)s->world * sizeof *slow);
    for (int i = 0; i < COUNT_OF(judged); i++) {
        for (int r = 0; r < s->world; r++) pace[r] = s->rank[r].pace[judged[i]];
        pace_scores(score, pace, s->world);
        for (int r = 0; r < s->world; r++) {
            if (!(score[r] < HEALTH_SLOW) || pace_median(&pace[r]) < least_s) continue;
            slow[r] = true;
            if (s->rank[r].slow < SLOW_TIMES || s->rank[r].said_slow) continue;
            s->rank[r].said_slow = true;
            sup_say(s, "warning", "straggler", r,
                    "%s takes %.3g s, the fastest rank's %.3g s (score %.2f, alert below %.2f)",
                    section_name(judged[i]), pace_median(&pace[r]), score[r] * pace_median(&pace[r]), score[r],
                    HEALTH_SLOW);
        }
    }
    for (int r = 0; r < s->world; r++) {
        s->rank[r].slow = slow[r] ? s->rank[r].slow + 1 : 0;
        if (!slow[r]) s->rank[r].said_slow = false;
    }
    free(slow);
    free(score);
    free(pace);
}

/* -- the verdict on a hang */

void sup_verdict(Sup *s) {
    HangRank *hang = mem_alloc((size_t)s->world * sizeof *hang);
    Json **parsed = mem_alloc((size_t)s->world * sizeof *parsed);
    Error ignore;
    Blame v;
    for (int r = 0; r < s->world; r++) {
        const Rank *k = &s->rank[r];
        uint64_t start;
        char state = 0;
        if (k->dump.n > 0 && !json_parse(&parsed[r], k->dump.s, k->dump.n, 0, "reply", 1, &ignore)) parsed[r] = NULL;
        if (k->local && !proc_look((int)k->id.pid, &start, &state)) state = 'X';
        hang[r] = (HangRank){.dump = parsed[r],
                             .left = k->bye,
                             .state = state,
                             .section = (Section)k->beat.section,
                             .age_s = sup_age(k),
                             .step = (int64_t)k->beat.step,
                             .host = k->id.host};
    }
    culprit_find(&v, hang, s->world);
    /* A rank that computes for too long is known already, unless one does not even answer. */
    if (s->hang_rank < 0 || v.rule == 1) {
        size_t n = strlen(s->now.what);
        snprintf(s->now.what + n, sizeof s->now.what - n, "; %s", v.text);
        s->now.rank = v.n > 0 ? v.rank[0] : -1;
        if (s->now.rank >= 0) {
            const Rank *k = &s->rank[s->now.rank];
            snprintf(s->now.host, sizeof s->now.host, "%s", k->id.host);
            s->now.section = (Section)k->beat.section;
            s->now.step = (int64_t)k->beat.step;
        }
    }
    sup_say(s, "warning", "culprit", s->now.rank, "rule %d: %s", v.rule, s->now.what);
    for (int r = 0; r < s->world; r++) json_release(parsed[r]);
    free(parsed);
    free(hang);
}
