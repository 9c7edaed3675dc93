/* dist/supervise_conn.c — connections: who is it, and what does it say. Until HELLO names a rank of this attempt with
 * the launch's token, a connection is a stranger that may send one small frame and nothing else. */
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dist/net.h"
#include "dist/supervise_int.h"

enum { MOST_STRANGERS = 256, HELLO_MOST = 256, MOST_UNSENT = 1 << 20 };
static const double stranger_s = 10, ledger_s = 1;

void sup_conn_accept(Sup *s) {
    int fd, strangers = 0;
    for (int i = 0; i < s->n_conn; i++) strangers += s->conn[i].rank < 0;
    while (strangers++ < MOST_STRANGERS && net_accept(&fd, s->listener)) {
        if (s->n_conn == s->cap_conn) {
            s->cap_conn = s->cap_conn ? 2 * s->cap_conn : 16;
            s->conn = mem_grow(s->conn, (size_t)s->cap_conn * sizeof *s->conn);
        }
        s->conn[s->n_conn++] = (Conn){.fd = fd, .rank = -1, .since_s = now_s()};
    }
}

static void put(Sup *s, int i, FrameType type, const char *reason) {
    Conn *k = &s->conn[i];
    size_t n = reason ? strlen(reason) : 0;
    if (k->fd < 0 || k->out.n > MOST_UNSENT) return;
    if (n > FRAME_REASON_MAX) n = 0;
    frame_put(&k->out, type, reason, n);
    sup_conn_flush(s, i);
}

static void drop(Sup *s, int i) {
    Conn *k = &s->conn[i];
    if (k->fd < 0) return;
    close(k->fd);
    k->fd = -1;
    if (k->rank >= 0 && s->rank[k->rank].conn == i) {
        s->rank[k->rank].conn = -1;
        s->rank[k->rank].lost_s = now_s();
    }
}

void sup_conn_flush(Sup *s, int i) {
    Conn *k = &s->conn[i];
    if (k->fd >= 0 && !net_write(k->fd, &k->out)) drop(s, i);
}

void sup_conn_sweep(Sup *s) {
    double now = now_s();
    for (int i = 0; i < s->n_conn;) {
        Conn *k = &s->conn[i];
        if (k->fd >= 0 && ((k->rank < 0 && now - k->since_s > stranger_s) || (k->closing && k->out.n == 0))) drop(s, i);
        if (k->fd >= 0) {
            i++;
            continue;
        }
        str_release(&k->in);
        str_release(&k->out);
        *k = s->conn[--s->n_conn];
        if (i < s->n_conn && k->rank >= 0 && s->rank[k->rank].conn == s->n_conn) s->rank[k->rank].conn = i;
    }
}

void sup_conn_close_all(Sup *s) {
    for (int i = 0; i < s->n_conn; i++) {
        if (s->conn[i].fd >= 0) close(s->conn[i].fd);
        str_release(&s->conn[i].in);
        str_release(&s->conn[i].out);
    }
    s->n_conn = 0;
}

void sup_send(Sup *s, int rank, FrameType type, const char *reason) {
    if (s->rank[rank].conn >= 0) put(s, s->rank[rank].conn, type, reason);
}

void sup_send_all(Sup *s, FrameType type, const char *reason) {
    for (int r = 0; r < s->world; r++) sup_send(s, r, type, reason);
}

/* -- what they say */

static bool refuse(Sup *s, int i, const Hello *h, const char *why) {
    sup_say(s, "warning", "refused", -1, "rank %u of attempt %u (host %s, process %u) was sent away: %s", h->rank,
            h->attempt, h->host, h->pid, why);
    put(s, i, FRAME_ABORT, why);
    s->conn[i].closing = true;
    return true;
}

static bool equal_tokens(const unsigned char *a, const unsigned char *b) {
    unsigned differ = 0;
    for (int i = 0; i < 16; i++) differ |= a[i] ^ b[i];
    return differ == 0;
}

static void note_host(Sup *s, const char *name) {
    for (int i = 0; i < s->n_host; i++)
        if (!strcmp(s->host[i].name, name)) return;
    if (s->n_host == LAUNCH_MAX_HOSTS) return;
    Host *h = &s->host[s->n_host++];
    *h = (Host){0};
    snprintf(h->name, sizeof h->name, "%s", name);
}

static bool on_hello(Sup *s, int i, const Frame *f, Error *err) {
    Hello h;
    if (!hello_get(&h, f, err)) return false;
    if (!equal_tokens(h.token, s->token) || h.run != s->run) return refuse(s, i, &h, "it belongs to another launch");
    if (h.attempt != (uint32_t)s->attempt) return refuse(s, i, &h, "its attempt was given up");
    if (h.world != (uint32_t)s->world)
        return refuse(s, i, &h, "it believes in another number of ranks than it was started with");
    Rank *k = &s->rank[h.rank];
    bool again = k->hello && k->id.pid == h.pid && k->id.start == h.start;
    if (k->hello && !again) return refuse(s, i, &h, "another process has this rank");
    if (k->child > 0 && k->child != (pid_t)h.pid) return refuse(s, i, &h, "it is not the process that was started");
    if (again && k->conn >= 0) drop(s, k->conn);
    s->conn[i].rank = (int)h.rank;
    k->hello = true;
    k->id = h;
    k->conn = i;
    k->lost_s = 0;
    k->heard_s = now_s();
    k->local = k->child > 0 || !strcmp(h.host, s->here);
    note_host(s, h.host);
    if (!again) sup_say(s, "debug", "hello", (int)h.rank, "host %s, process %u", h.host, h.pid);
    s->ranks_changed = true;
    if (s->phase >= PHASE_ABORT)
        put(s, i, FRAME_ABORT, s->now.what);
    else if (s->stopping)
        put(s, i, FRAME_CKPT, "the launch was asked to stop");
    return true;
}

/* A pass that went on for so long was no hang; its age at the last beat is what is known of its length. */
static void learn_length(Sup *s, const BeatMsg *before, const BeatMsg *now) {
    bool over = before->section != now->section || before->passes != now->passes || now->age_ms < before->age_ms;
    double age = 1e-3 * before->age_ms;
    if (over && before->section < SECTION_COUNT && age > s->longest[before->section]) s->longest[before->section] = age;
}

static bool on_beat(Sup *s, int r, const Frame *f, Error *err) {
    BeatMsg b;
    Rank *k = &s->rank[r];
    if (!beat_get(&b, f, err)) return false;
    if (b.section >= SECTION_COUNT) return error_set(err, ERR_FORMAT, "BEAT: section %u", b.section);
    learn_length(s, &k->beat, &b);
    if (b.flags & BEAT_NONFINITE)
        sup_say(s, "warning", "non-finite", r,
                "a loss or gradient norm was not finite, at step %llu or a little before", (unsigned long long)b.step);
    k->said_silent = false;
    k->beat = b;
    k->heard_s = now_s();
    sup_send(s, r, FRAME_PONG, NULL);
    return true;
}

static void on_checkpoint(Sup *s, int r, const Json *j) {
    const char *stage = json_str(json_get(j, "stage"), NULL);
    int64_t step = json_int(json_get(j, "step"), 0);
    if (!stage || strlen(stage) >= sizeof s->progress[0].name) return;
    Progress *p = NULL;
    for (int i = 0; i < s->n_progress && !p; i++)
        if (!strcmp(s->progress[i].name, stage)) p = &s->progress[i];
    bool fresh = !p || step > p->step;
    if (!p && s->n_progress < MAX_STAGES) {
        p = &s->progress[s->n_progress++];
        snprintf(p->name, sizeof p->name, "%s", stage);
    }
    if (p && fresh) p->step = step;
    s->progressed = s->progressed || fresh;
    if (step == PULSE_DONE)
        snprintf(s->last_checkpoint, sizeof s->last_checkpoint, "%s is done", stage);
    else
        snprintf(s->last_checkpoint, sizeof s->last_checkpoint, "%s%sstep %lld", stage, *stage ? " " : "",
                 (long long)step);
    sup_say(s, "debug", "checkpoint", r, "%s", s->last_checkpoint);
    if (now_s() - s->ledger_s > ledger_s) sup_ledger_write(s, false);
}

static void on_times(Sup *s, int r, const Json *j) {
    Section section;
    const Json *v;
    for (int i = 0; i < json_len(j); i++) {
        const char *name = json_key_at(j, i, &v);
        if (!section_find(&section, name) || json_kind(v) != JSON_ARR || json_len(v) != 2) continue;
        double n = json_num(json_at(v, 0), 0), seconds = json_num(json_at(v, 1), 0);
        if (!(n > 0) || !(seconds >= 0)) continue;
        double mean = seconds / n;
        pace_add(&s->rank[r].pace[section], mean);
        if (mean > s->longest[section]) s->longest[section] = mean;
    }
}

static bool on_event(Sup *s, int r, const Frame *f, Error *err) {
    Json *j;
    if (!json_parse(&j, (const char *)f->p, f->n, 0, "event", 1, err)) return false;
    const char *event = json_str(json_get(j, "event"), NULL), *msg = json_str(json_get(j, "msg"), NULL);
    int64_t named = json_int(json_get(j, "rank"), r);
    if (!event) {
        json_release(j);
        return error_set(err, ERR_FORMAT, "an event without a name");
    }
    if (!strcmp(event, "checkpoint"))
        on_checkpoint(s, r, j);
    else if (!strcmp(event, "times"))
        on_times(s, r, j);
    else if (!strcmp(event, "ledger"))
        sup_ledger_tell(s, r, j);
    else
        sup_say_from(s, r, j);
    if (!strcmp(event, "corrupt"))
        sup_fault(s, CAUSE_CORRUPT, named >= 0 && named < s->world ? (int)named : r, 0, "its parameters differ: %.300s",
                  msg ? msg : "no word why");
    json_release(j);
    return true;
}

static bool on_bye(Sup *s, int r, const Frame *f, Error *err) {
    uint32_t code;
    if (!bye_get(&code, f, err)) return false;
    s->rank[r].bye = true;
    s->rank[r].bye_code = (int)code;
    sup_say(s, "debug", "bye", r, "exit code %u", code);
    return true;
}

static bool on_frame(Sup *s, int i, const Frame *f, Error *err) {
    int r = s->conn[i].rank;
    if (r < 0)
        return f->type == FRAME_HELLO ? on_hello(s, i, f, err) : error_set(err, ERR_FORMAT, "HELLO must be first");
    switch (f->type) {
    case FRAME_BEAT:
        return on_beat(s, r, f, err);
    case FRAME_EVENT:
        return on_event(s, r, f, err);
    case FRAME_BYE:
        return on_bye(s, r, f, err);
    case FRAME_DUMP_REPLY:
        str_clear(&s->rank[r].dump);
        str_putn(&s->rank[r].dump, f->p, f->n);
        return true;
    default:
        return error_set(err, ERR_FORMAT, "a frame of type %d is not a rank's to send", (int)f->type);
    }
}

void sup_conn_read(Sup *s, int i) {
    Error err = {0};
    Frame f;
    size_t used, at = 0;
    Conn *k = &s->conn[i];
    if (k->fd < 0) return;
    bool open = net_read(k->fd, &k->in), good = true;
    while (!k->closing && k->fd >= 0 && k->in.n > at) {
        size_t most = k->rank < 0 ? HELLO_MOST : FRAME_MAX;
        good = frame_parse(&f, &used, k->in.s + at, k->in.n - at, most, &err);
        if (!good || used == 0) break;
        at += used;
        good = on_frame(s, i, &f, &err);
        if (!good) break;
    }
    net_drop(&k->in, at);
    if (!good) sup_say(s, "warning", "bad_frame", k->rank, "a connection was closed: %s", err.msg);
    if (!good || !open) drop(s, i);
}
