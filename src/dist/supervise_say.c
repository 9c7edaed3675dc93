/* dist/supervise_say.c — what the supervisor leaves for people and scripts: events.jsonl, STATUS, hang-<attempt>/,
 * ranks. */
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "dist/proc.h"
#include "dist/supervise_int.h"

static const double leftover_s = 5;

void sup_time(char out[40]) {
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    size_t n = strftime(out, 40, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + n, 40 - n, ".%03dZ", (int)(now.tv_nsec / 1000000));
}

void sup_place(char out[96], const Sup *s, int r) {
    const BeatMsg *b = &s->rank[r].beat;
    snprintf(out, 96, "%s of step %" PRIu64, section_name((Section)b->section), b->step);
}

/* -- events.jsonl */

static void event_begin(JsonOut *j, Str *line, const Sup *s, const char *level, const char *event, int rank) {
    char t[40];
    sup_time(t);
    json_out_init(j, line, 0);
    json_out_obj(j, NULL);
    json_out_str(j, "t", t);
    json_out_str(j, "level", level);
    json_out_str(j, "event", event);
    json_out_int(j, "attempt", s->attempt);
    if (rank < 0) return;
    const Rank *k = &s->rank[rank];
    json_out_int(j, "rank", rank);
    if (k->hello) json_out_str(j, "host", k->id.host);
    if (k->id.pid) json_out_int(j, "pid", k->id.pid);
    if (k->hello) json_out_str(j, "section", section_name((Section)k->beat.section));
    if (k->hello) json_out_int(j, "step", (int64_t)k->beat.step);
}

/* A disk that is full must not end a run that may yet free it. */
static void event_end(JsonOut *j, Str *line, Sup *s) {
    Error err = {0};
    json_out_obj_end(j);
    if (!appender_line(s->events, line->s, line->n, &err)) log_warn(s->log, "events.jsonl: %s", err.msg);
    str_release(line);
}

void sup_say(Sup *s, const char *level, const char *event, int rank, const char *fmt, ...) {
    char text[1200];
    Str line = {0};
    JsonOut j;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    event_begin(&j, &line, s, level, event, rank);
    json_out_str(&j, "msg", text);
    event_end(&j, &line, s);
    char who[24] = "";
    if (rank >= 0) snprintf(who, sizeof who, "rank %d: ", rank);
    if (!strcmp(level, "warning"))
        log_warn(s->log, "%s%s", who, text);
    else if (strcmp(level, "debug"))
        log_info(s->log, "%s%s", who, text);
    else
        log_debug(s->log, "%s: %s%s", event, who, text);
}

void sup_say_from(Sup *s, int rank, const Json *event) {
    Str line = {0};
    JsonOut j;
    const char *name = json_str(json_get(event, "event"), NULL);
    event_begin(&j, &line, s, "info", name ? name : "event", rank);
    json_out_node(&j, "said", event);
    event_end(&j, &line, s);
    log_debug(s->log, "rank %d: %s", rank, name ? name : "event");
}

/* -- STATUS */

static const char *who_text(char out[200], const Fault *f) {
    if (f->rank < 0)
        snprintf(out, 200, "%s", f->host[0] ? f->host : "no one rank");
    else
        snprintf(out, 200, "rank %d%s%s", f->rank, f->host[0] ? " on host " : "", f->host);
    return out;
}

void sup_status(Sup *s, const char *state) {
    char now[40], who[200];
    Str text = {0}, path = {0};
    Error err = {0};
    int64_t step = 0;
    sup_time(now);
    for (int r = 0; r < s->world && s->rank; r++)
        if ((int64_t)s->rank[r].beat.step > step) step = (int64_t)s->rank[r].beat.step;
    str_printf(&text, "%s: attempt %d on %d rank%s, step %" PRId64 ", last checkpoint: %s, %d fault%s (%s)\n", state,
               s->attempt, s->world, s->world == 1 ? "" : "s", step,
               s->last_checkpoint[0] ? s->last_checkpoint : "none yet", s->result->faults,
               s->result->faults == 1 ? "" : "s", now);
    for (int i = 0; i < s->n_host; i++)
        if (s->host[i].out)
            str_printf(&text, "host %s is left out after %d faults\n", s->host[i].name, s->host[i].failures);
    for (int i = 0; i < s->n_fault; i++) {
        const Fault *f = &s->fault[i];
        str_printf(&text,
                   "\nfault in attempt %d\n  who   %s\n  what  %s\n  where %s of step %" PRId64
                   "\n  when  %s\n  done  %s\n",
                   f->attempt, who_text(who, f), f->what, section_name(f->section), f->step, f->when, f->done);
    }
    str_printf(&path, "%s/STATUS", s->c->dir);
    if (!io_write_file(path.s, text.s, text.n, &err)) log_warn(s->log, "%s", err.msg);
    s->said_s = now_s();
    sup_ledger_write(s, false);
    str_release(&path);
    str_release(&text);
}

/* -- the ranks that were started, for a successor */

void sup_write_ranks(Sup *s) {
    Str text = {0}, path = {0};
    Error err = {0};
    for (int r = 0; r < s->world; r++)
        if (s->rank[r].local && s->rank[r].id.pid)
            str_printf(&text, "%s %u %" PRIu64 "\n", s->here, s->rank[r].id.pid, s->rank[r].id.start);
    s->ranks_changed = false;
    s->ranks_s = now_s();
    str_printf(&path, "%s/ranks", s->c->dir);
    if (!io_write_file(path.s, str_get(&text), text.n, &err)) log_warn(s->log, "%s", err.msg);
    str_release(&path);
    str_release(&text);
}

static int kill_listed(Sup *s, const char *text, bool tell) {
    int alive = 0;
    for (const char *p = text; *p;) {
        char host[FRAME_HOST_MAX + 1];
        int pid;
        uint64_t start;
        if (sscanf(p, "%64s %d %" SCNu64, host, &pid, &start) == 3 && !strcmp(host, s->here) &&
            proc_alive(pid, start)) {
            alive++;
            if (tell)
                sup_say(s, "warning", "leftover", -1, "process %d of an earlier launch still ran: it is ended", pid);
            proc_signal(pid, start, SIGKILL);
        }
        p += strcspn(p, "\n");
        p += *p == '\n';
    }
    return alive;
}

void sup_end_leftovers(Sup *s) {
    Str path = {0}, text = {0};
    Error ignore = {0};
    str_printf(&path, "%s/ranks", s->c->dir);
    if (io_exists(path.s) && io_read_file(&text, path.s, 1 << 20, &ignore)) {
        double end = now_s() + leftover_s;
        for (bool tell = true; kill_listed(s, str_get(&text), tell) > 0 && now_s() < end; tell = false)
            nanosleep(&(struct timespec){0, 20000000}, NULL);
    }
    str_release(&path);
    str_release(&text);
}

/* -- hang-<attempt>/ */

void sup_write_dumps(Sup *s) {
    Str path = {0};
    Error err = {0};
    bool ok = true;
    str_printf(&path, "%s/hang-%d", s->c->dir, s->attempt);
    ok = io_make_dirs(path.s, &err);
    for (int r = 0; r < s->world && ok; r++) {
        const Str *dump = &s->rank[r].dump;
        if (dump->n == 0) continue;
        str_clear(&path);
        str_printf(&path, "%s/hang-%d/rank-%d.json", s->c->dir, s->attempt, r);
        ok = io_write_file(path.s, dump->s, dump->n, &err);
    }
    if (!ok) log_warn(s->log, "%s", err.msg);
    str_release(&path);
}
