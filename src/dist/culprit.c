#include "dist/culprit.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dist/proc.h"

enum { WORD = 48 };

typedef struct { /* the call a rank is inside of */
    bool in;
    char group[WORD], op[WORD], dtype[WORD], site[96];
    int64_t seq, count, peer; /* peer: or root */
    double start;
} Call;

typedef struct {
    const HangRank *rank;
    Call *call;
    int n;
} Hang;

/* -- reading replies */

static void word(char *out, size_t n, const Json *j) {
    const char *s = json_str(j, NULL);
    out[0] = 0;
    if (s)
        snprintf(out, n, "%s", s);
    else if (j && json_kind(j) == JSON_INT)
        snprintf(out, n, "%lld", (long long)json_int(j, 0));
}

static int calls_of(const Json *dump, const Json **list) {
    *list = json_get(json_get(dump, "comm"), "records");
    return *list && json_kind(*list) == JSON_ARR ? json_len(*list) : 0;
}

static void read_call(Call *out, const Json *dump) {
    const Json *list, *c = NULL;
    *out = (Call){0};
    for (int i = calls_of(dump, &list) - 1; i >= 0 && !c; i--) {
        const Json *one = json_at(list, i);
        if (json_num(json_get(one, "t_end"), 0) == 0 && json_num(json_get(one, "t_wait"), 1) != 0) c = one;
    }
    if (!c) return;
    out->in = true;
    word(out->group, sizeof out->group, json_get(c, "group"));
    word(out->op, sizeof out->op, json_get(c, "op"));
    word(out->dtype, sizeof out->dtype, json_get(c, "dtype"));
    word(out->site, sizeof out->site, json_get(c, "site"));
    out->seq = json_int(json_get(c, "seq"), -1);
    out->count = json_int(json_get(c, "count"), 0);
    out->peer = json_int(json_get(c, "peer"), -1);
    out->start = json_num(json_get(c, "t_start"), 0);
}

/* Highest sequence number that the rank began in the group; -1: none that is remembered. */
static int64_t begun(const Hang *h, int rank, const char *group) {
    const Json *list;
    char name[WORD];
    int64_t most = -1;
    for (int i = calls_of(h->rank[rank].dump, &list) - 1; i >= 0; i--) {
        const Json *c = json_at(list, i);
        word(name, sizeof name, json_get(c, "group"));
        int64_t seq = json_int(json_get(c, "seq"), -1);
        if (!strcmp(name, group) && seq > most) most = seq;
    }
    return most;
}

static bool is_member(const Hang *h, int asked, const char *group, int rank) {
    const Json *groups = json_get(json_get(h->rank[asked].dump, "comm"), "groups");
    char name[WORD];
    for (int i = 0; groups && json_kind(groups) == JSON_ARR && i < json_len(groups); i++) {
        const Json *ranks = json_get(json_at(groups, i), "ranks");
        word(name, sizeof name, json_get(json_at(groups, i), "id"));
        if (strcmp(name, group) || !ranks || json_kind(ranks) != JSON_ARR) continue;
        for (int k = 0; k < json_len(ranks); k++)
            if (json_int(json_at(ranks, k), -1) == rank) return true;
        return false;
    }
    return true;
}

/* -- the sentence */

FORMAT(2, 3) static void say(Blame *v, const char *fmt, ...) {
    size_t n = strlen(v->text);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(v->text + n, sizeof v->text - n, fmt, ap);
    va_end(ap);
}

static void name(Blame *v, int rank) {
    if (v->n < BLAME_MAX) v->rank[v->n++] = rank;
    v->n_all++;
}

static void say_call(Blame *v, const Call *c) {
    say(v, "%s", c->op[0] ? c->op : "a call");
    if (c->count > 0) say(v, " of %lld%s%s", (long long)c->count, c->dtype[0] ? " " : "", c->dtype);
    if (c->peer >= 0) say(v, " with rank %lld", (long long)c->peer);
    say(v, " (group %s, number %lld", c->group[0] ? c->group : "?", (long long)c->seq);
    say(v, c->site[0] ? ", at %s)" : ")", c->site);
}

static const char *host_of(const Hang *h, int rank) { return h->rank[rank].host ? h->rank[rank].host : "?"; }

/* -- the rules */

static bool live(const Hang *h, int r) { return !h->rank[r].left; }

static bool silent(Blame *v, const Hang *h) {
    for (int r = 0; r < h->n; r++) {
        if (!live(h, r) || h->rank[r].dump) continue;
        name(v, r);
        if (v->n_all > 4) continue;
        say(v, "%srank %d (host %s) did not answer", v->n_all > 1 ? "; " : "", r, host_of(h, r));
        if (h->rank[r].state) say(v, ": its process is %s", proc_state_text(h->rank[r].state));
    }
    return v->n_all > 0;
}

static bool same_place(const Call *a, const Call *b) {
    return a->in && b->in && a->seq == b->seq && !strcmp(a->group, b->group);
}

static bool point_to_point(const Call *c) { return c->peer >= 0 && (!strcmp(c->op, "send") || !strcmp(c->op, "recv")); }

/* What a rank hands in to an all_to_all is its own affair. */
static bool same_call(const Call *a, const Call *b) {
    bool free_count = !strcmp(a->op, "all_to_all");
    return !strcmp(a->op, b->op) && !strcmp(a->dtype, b->dtype) && (free_count || a->count == b->count) &&
           a->peer == b->peer;
}

static int agreeing(const Hang *h, int r) {
    int n = 0;
    for (int k = 0; k < h->n; k++)
        n += live(h, k) && same_place(&h->call[r], &h->call[k]) && same_call(&h->call[r], &h->call[k]);
    return n;
}

/* The first rank that stands at r's place with another call, or -1. */
static int other_call(const Hang *h, int r) {
    for (int k = 0; k < h->n; k++)
        if (live(h, k) && same_place(&h->call[r], &h->call[k]) && !same_call(&h->call[r], &h->call[k])) return k;
    return -1;
}

static bool mismatched(Blame *v, const Hang *h) {
    int a = -1, b = -1;
    for (int r = 0; r < h->n && a < 0; r++)
        if (live(h, r) && h->call[r].in && !point_to_point(&h->call[r]) && (b = other_call(h, r)) >= 0) a = r;
    if (a < 0) return false;
    int n_a = agreeing(h, a), n_b = agreeing(h, b);
    int few = n_a < n_b ? a : b, many = n_a < n_b ? b : a;
    for (int r = 0; r < h->n; r++)
        if (live(h, r) && same_place(&h->call[r], &h->call[a]) &&
            (n_a == n_b || !same_call(&h->call[r], &h->call[many])))
            name(v, r);
    say(v, "rank %d (host %s) called ", few, host_of(h, few));
    say_call(v, &h->call[few]);
    say(v, " where %d other rank%s called ", agreeing(h, many), agreeing(h, many) == 1 ? "" : "s");
    say_call(v, &h->call[many]);
    if (n_a == n_b) say(v, "; as many did the one as the other");
    return true;
}

static bool transport(Blame *v, const Hang *h) {
    int first = -1, n = 0;
    for (int r = 0; r < h->n; r++) {
        if (!live(h, r)) return false; /* who left is missing in the call: rule 4 */
        if (!h->call[r].in || point_to_point(&h->call[r]) || !same_place(&h->call[r], &h->call[0])) return false;
        if (first < 0 || h->call[r].start < h->call[first].start) first = r;
        n++;
    }
    if (n == 0) return false;
    for (int r = 0; r < h->n; r++)
        if (h->call[r].start <= h->call[first].start) name(v, r);
    say(v, "all %d ranks are in ", n);
    say_call(v, &h->call[first]);
    say(v, " and none finishes it: the transport; rank %d (host %s) has waited longest", first, host_of(h, first));
    return true;
}

static bool waits_for(const Hang *h, int r, int m) {
    const Call *c = &h->call[r], *peer = &h->call[m];
    if (r == m || !live(h, r) || !c->in) return false;
    if (point_to_point(c))
        return c->peer == m && !(peer->in && point_to_point(peer) && peer->peer == r && strcmp(peer->op, c->op));
    if (!is_member(h, r, c->group, m)) return false;
    return h->rank[m].left || begun(h, m, c->group) < c->seq;
}

static int first_waited_for(const Hang *h, int r) {
    for (int m = 0; m < h->n; m++)
        if (waits_for(h, r, m)) return m;
    return -1;
}

static void say_place(Blame *v, const Hang *h, int r) {
    const HangRank *k = &h->rank[r];
    if (k->left)
        say(v, "rank %d (host %s) has left already", r, host_of(h, r));
    else
        say(v, "rank %d (host %s) is in %s of step %lld for %.1f s", r, host_of(h, r), section_name(k->section),
            (long long)k->step, k->age_s);
}

/* Ranks that wait for nobody: outside any call first, then those that left, then those whose call has everybody in it.
 * wanted: only such that somebody waits for; the others are busy with what is theirs. */
static bool find_sinks(Blame *v, const Hang *h, bool wanted) {
    for (int kind = 0; kind < 3 && v->n_all == 0; kind++)
        for (int r = 0; r < h->n; r++) {
            bool is[3] = {live(h, r) && !h->call[r].in, !live(h, r),
                          live(h, r) && h->call[r].in && first_waited_for(h, r) < 0};
            bool waited = !wanted;
            for (int k = 0; k < h->n && !waited; k++) waited = waits_for(h, k, r);
            if (!is[kind] || !waited) continue;
            name(v, r);
            if (v->n_all > 4) continue;
            if (v->n_all > 1) say(v, "; ");
            say_place(v, h, r);
        }
    if (v->n_all == 0) return false;
    for (int r = 0; r < h->n; r++)
        if (live(h, r) && waits_for(h, r, v->rank[0])) {
            say(v, "; rank %d waits for it in ", r);
            say_call(v, &h->call[r]);
            break;
        }
    return true;
}

static bool sinks(Blame *v, const Hang *h) { return find_sinks(v, h, true); }
static bool busy(Blame *v, const Hang *h) { return find_sinks(v, h, false); }

static bool cycle(Blame *v, const Hang *h) {
    int at = -1;
    for (int r = 0; r < h->n && at < 0; r++)
        if (live(h, r) && h->call[r].in) at = r;
    for (int i = 0; i < h->n && at >= 0; i++) at = first_waited_for(h, at); /* by now it is on a cycle */
    if (at < 0) return false;
    say(v, "ordering deadlock: ");
    int r = at;
    do {
        name(v, r);
        int next = first_waited_for(h, r);
        say(v, "%srank %d (host %s) in ", r == at ? "" : ", ", r, host_of(h, r));
        say_call(v, &h->call[r]);
        say(v, " waits for rank %d", next);
        r = next;
    } while (r != at && r >= 0);
    return true;
}

void culprit_find(Blame *out, const HangRank *rank, int n) {
    static bool (*const rule[])(Blame *, const Hang *) = {silent, mismatched, transport, sinks, cycle, busy};
    static const int number[] = {1, 2, 3, 4, 4, 4};
    Hang h = {rank, mem_alloc((size_t)(n > 0 ? n : 1) * sizeof(Call)), n};
    for (int r = 0; r < n; r++)
        if (rank[r].dump && !rank[r].left) read_call(&h.call[r], rank[r].dump);
    *out = (Blame){0};
    for (int i = 0; i < COUNT_OF(rule) && out->rule == 0; i++) {
        *out = (Blame){0};
        if (rule[i](out, &h)) out->rule = number[i];
    }
    if (out->rule == 0) snprintf(out->text, sizeof out->text, "nobody computes, and no rank can be named");
    free(h.call);
}
