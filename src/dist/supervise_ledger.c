/* dist/supervise_ledger.c — where the ranks' time went, as goodput.json in the supervisor's folder (docs/formats.md).
 *
 *      attempt |--start--|======= what the rank told =======|--?--|.. fault ..|found|---- stop, wait ----| next attempt
 *               restart    its own bins; what no durable     lost   detection         restart
 *                          state holds of them: lost
 *
 * A rank tells its ledger with every beat; what came after its last word is lost when the attempt failed, and idle when
 * it ended well. An attempt lasts until the next one begins, so for every rank number the bins add up to the wall
 * clock, to the nanosecond, whatever clocks and messages did: a rank that claims more time than there was is cut. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "dist/supervise_int.h"

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t unix_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t within(int64_t v, int64_t low, int64_t high) { return v < low ? low : v > high ? high : v; }

double sup_age(const Rank *k) { return 1e-3 * k->beat.age_ms + (now_s() - k->heard_s); }

void sup_ledger_tell(Sup *s, int rank, const Json *event) {
    PulseLedger l;
    if (!goodput_get(&l.all, json_get(event, "all")) || !goodput_get(&l.kept, json_get(event, "kept"))) return;
    s->rank[rank].ledger = l;
    s->rank[rank].told_ns = now_ns();
}

/* Since when it has been wrong: the last word of who fell silent, the beginning of a pass that hangs. */
void sup_ledger_fault(Sup *s) {
    const Fault *f = &s->now;
    double ago = 0, now = now_s();
    s->found_ns = now_ns();
    if (f->cause == CAUSE_SILENT && f->rank >= 0) ago = now - s->rank[f->rank].heard_s;
    if (f->cause == CAUSE_DIED && s->rank[f->rank].lost_s > 0) ago = now - s->rank[f->rank].lost_s;
    if (f->cause == CAUSE_HANG && f->rank >= 0) ago = sup_age(&s->rank[f->rank]);
    if (f->cause == CAUSE_HANG && f->rank < 0) {
        ago = now;
        for (int r = 0; r < s->world; r++)
            if (sup_rank_live(s, r) && sup_age(&s->rank[r]) < ago) ago = sup_age(&s->rank[r]);
    }
    s->fault_ns = within(s->found_ns - (int64_t)(1e9 * ago), s->begun_ns, s->found_ns);
}

/* What is computed and nowhere durable. */
static void lose(Goodput *bins, const PulseLedger *l) {
    static const GoodBin work[] = {GOOD_PRODUCTIVE, GOOD_DATA};
    for (int i = 0; i < COUNT_OF(work); i++)
        goodput_move(bins, work[i], GOOD_LOST, l->all.ns[work[i]] - l->kept.ns[work[i]]);
}

/* A rank's share of the attempt, up to `end`. over: the attempt is. */
static Goodput account_of(const Sup *s, const Rank *k, int64_t end, bool over) {
    static const GoodBin any[] = {GOOD_LOST, GOOD_PRODUCTIVE, GOOD_DATA,     GOOD_IDLE,
                                  GOOD_SAVE, GOOD_RESTART,    GOOD_DETECTION};
    Goodput b = k->ledger.all;
    int64_t told = k->told_ns ? within(k->told_ns, s->begun_ns, end) : s->begun_ns;
    int64_t excess = goodput_total(&b) - (told - s->begun_ns);
    for (int i = 0; i < COUNT_OF(any) && excess > 0; i++) { /* of a clock that runs faster than ours */
        int64_t n = within(excess, 0, b.ns[any[i]]);
        b.ns[any[i]] -= n;
        excess -= n;
    }
    if (over && !s->well) lose(&b, &k->ledger);
    if (excess < 0) b.ns[GOOD_RESTART] += -excess; /* before the process began */
    if (!s->found_ns) {
        b.ns[k->told_ns ? over && !s->well ? GOOD_LOST : GOOD_IDLE : GOOD_RESTART] += end - told;
        return b;
    }
    int64_t fault = within(s->fault_ns, s->begun_ns, end), found = within(s->found_ns, fault, end);
    /* It beat on while something was wrong: that time is in its bins, as work that came to nothing or as waiting. */
    for (int i = 0; i < COUNT_OF(any) - 1; i++) /* all but detection */
        if (told > fault) fault += goodput_move(&b, any[i], GOOD_DETECTION, within(told, fault, found) - fault);
    if (told < fault) {
        b.ns[k->told_ns ? GOOD_LOST : GOOD_RESTART] += fault - told;
        told = fault;
    }
    if (told < found) {
        b.ns[GOOD_DETECTION] += found - told;
        told = found;
    }
    b.ns[GOOD_RESTART] += end - told;
    return b;
}

void sup_ledger_attempt(Sup *s) {
    int64_t end = now_ns();
    for (int r = 0; r < s->world && s->rank; r++) {
        Goodput b = account_of(s, &s->rank[r], end, true);
        goodput_add(&s->account[r].bins, &b);
        s->account[r].wall_ns += end - s->begun_ns;
    }
    s->launch_ns += end - s->begun_ns;
    s->begun_ns = end;
    s->fault_ns = s->found_ns = 0;
}

/* -- the file */

static void put_rank(JsonOut *j, const Sup *s, int r, int64_t now, Account *total) {
    Account a = s->account[r];
    Goodput unsaved = {{0}};
    if (s->rank && r < s->world) {
        const Rank *k = &s->rank[r];
        Goodput b = account_of(s, k, now, false);
        goodput_add(&a.bins, &b);
        a.wall_ns += now - s->begun_ns;
        lose(&b, &k->ledger);
        unsaved.ns[GOOD_LOST] = b.ns[GOOD_LOST];
    }
    json_out_obj(j, NULL);
    json_out_int(j, "rank", r);
    json_out_int(j, "wall_ns", a.wall_ns);
    json_out_int(j, "unsaved_ns", unsaved.ns[GOOD_LOST]);
    goodput_put(j, "bins_ns", &a.bins);
    json_out_obj_end(j);
    total->wall_ns += a.wall_ns;
    goodput_add(&total->bins, &a.bins);
}

void sup_ledger_write(Sup *s, bool over) {
    Str text = {0}, path = {0};
    JsonOut j;
    Error err = {0};
    Account total = {0};
    int64_t now = now_ns();
    json_out_init(&j, &text, 1);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-goodput/1");
    json_out_bool(&j, "over", over);
    json_out_int(&j, "until_unix_ns", unix_ns());
    json_out_int(&j, "attempts", s->attempt);
    json_out_int(&j, "faults", s->faults_before + s->result->faults);
    json_out_int(&j, "world", s->world);
    json_out_int(&j, "wall_ns", s->launch_ns + (s->rank ? now - s->begun_ns : 0));
    json_out_arr(&j, "ranks");
    for (int r = 0; r < s->c->n; r++)
        if (s->account[r].wall_ns > 0 || (s->rank && r < s->world)) put_rank(&j, s, r, now, &total);
    json_out_arr_end(&j);
    json_out_int(&j, "rank_ns", total.wall_ns);
    goodput_put(&j, "bins_ns", &total.bins);
    json_out_num(&j, "ettr", goodput_ettr(&total.bins));
    json_out_obj_end(&j);
    str_putc(&text, '\n');
    str_printf(&path, "%s/goodput.json", s->c->dir);
    if (!io_write_file(path.s, text.s, text.n, &err)) log_warn(s->log, "%s", err.msg);
    s->ledger_s = now_s();
    str_release(&path);
    str_release(&text);
}

/* A launch that did not end in order was killed: from its last word to now nobody trained, and what was not saved is
 * lost. */
static void take_rank(Sup *s, const Json *j, bool over, int world, int64_t gap) {
    int64_t r = json_int(json_get(j, "rank"), -1), unsaved = json_int(json_get(j, "unsaved_ns"), 0);
    Account a = {.wall_ns = json_int(json_get(j, "wall_ns"), -1)};
    if (r < 0 || r >= s->c->n || !goodput_get(&a.bins, json_get(j, "bins_ns")) || goodput_total(&a.bins) != a.wall_ns)
        return;
    if (!over) {
        unsaved -= goodput_move(&a.bins, GOOD_PRODUCTIVE, GOOD_LOST, unsaved);
        goodput_move(&a.bins, GOOD_DATA, GOOD_LOST, unsaved);
    }
    if (!over && r < world) {
        a.bins.ns[GOOD_RESTART] += gap;
        a.wall_ns += gap;
    }
    s->account[r] = a;
}

void sup_ledger_open(Sup *s) {
    Str path = {0};
    Json *j = NULL;
    Error bad = {0};
    s->account = mem_alloc((size_t)s->c->n * sizeof *s->account);
    s->begun_ns = now_ns();
    str_printf(&path, "%s/goodput.json", s->c->dir);
    if (io_exists(path.s) && !json_read_file(&j, path.s, 0, &bad))
        log_warn(s->log, "the ledger begins anew: %s", bad.msg);
    if (j) {
        const Json *ranks = json_get(j, "ranks"), *over = json_get(j, "over");
        bool ended = over && json_kind(over) == JSON_YES;
        int64_t gap = unix_ns() - json_int(json_get(j, "until_unix_ns"), INT64_MAX),
                attempts = json_int(json_get(j, "attempts"), 0);
        if (gap < 0 || ended) gap = 0;
        s->attempt = s->attempts_before = attempts > 0 && attempts < 1 << 30 ? (int)attempts : 0;
        s->faults_before = (int)within(json_int(json_get(j, "faults"), 0), 0, 1 << 30);
        s->launch_ns = within(json_int(json_get(j, "wall_ns"), 0), 0, INT64_MAX / 4) + gap;
        for (int i = 0; i < json_len(ranks); i++)
            take_rank(s, json_at(ranks, i), ended, (int)json_int(json_get(j, "world"), 0), gap);
    }
    json_release(j);
    str_release(&path);
}

void sup_ledger_release(Sup *s) { free(s->account); }
