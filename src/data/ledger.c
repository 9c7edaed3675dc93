#include "data/ledger.h"
#include "base/io.h"
#include "base/json.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    LedgerBin bin;
    const char *reason; /* owned copy, NULL for trained and masked */
    int64_t n_sample, n_tok;
} Entry;

struct Ledger {
    pthread_mutex_t lock;
    int64_t in_sample, in_tok;
    Entry *entry;
    int n, cap;
};

static const char *const bin_name[LEDGER_COUNT] = {"trained", "masked", "truncated", "dropped"};

Ledger *ledger_new(void) {
    Ledger *l = mem_alloc(sizeof *l);
    CHECK(pthread_mutex_init(&l->lock, NULL) == 0, "mutex");
    return l;
}

void ledger_free(Ledger *l) {
    if (!l) return;
    for (int i = 0; i < l->n; i++) free((char *)l->entry[i].reason);
    free(l->entry);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

void ledger_in(Ledger *l, int64_t n_sample, int64_t n_tok) {
    CHECK(n_sample >= 0 && n_tok >= 0, "ledger: %lld samples, %lld tokens came in", (long long)n_sample,
          (long long)n_tok);
    pthread_mutex_lock(&l->lock);
    l->in_sample += n_sample;
    l->in_tok += n_tok;
    pthread_mutex_unlock(&l->lock);
}

static Entry *find(Ledger *l, LedgerBin bin, const char *reason) {
    for (int i = 0; i < l->n; i++) {
        Entry *e = &l->entry[i];
        if (e->bin == bin && (e->reason ? reason && !strcmp(e->reason, reason) : !reason)) return e;
    }
    if (l->n == l->cap)
        l->cap = l->cap ? 2 * l->cap : 16, l->entry = mem_grow(l->entry, sizeof *l->entry * (size_t)l->cap);
    l->entry[l->n] = (Entry){.bin = bin, .reason = mem_str(reason)};
    return &l->entry[l->n++];
}

void ledger_add(Ledger *l, LedgerBin bin, const char *reason, int64_t n_sample, int64_t n_tok) {
    CHECK(bin >= 0 && bin < LEDGER_COUNT && n_sample >= 0 && n_tok >= 0, "ledger: bin %d", (int)bin);
    CHECK(reason || bin < LEDGER_TRUNCATED, "ledger: %s needs a reason", bin_name[bin]);
    pthread_mutex_lock(&l->lock);
    Entry *e = find(l, bin, reason);
    e->n_sample += n_sample;
    e->n_tok += n_tok;
    pthread_mutex_unlock(&l->lock);
}

static int by_bin(const void *a, const void *b) {
    const Entry *x = a, *y = b;
    if (x->bin != y->bin) return x->bin < y->bin ? -1 : 1;
    if (!x->reason || !y->reason) return (x->reason != NULL) - (y->reason != NULL);
    return strcmp(x->reason, y->reason);
}

/* Entries in fixed order: threads may have added them in any. */
static void write_json(Str *out, const Ledger *l) {
    JsonOut j;
    json_out_init(&j, out, 1);
    json_out_obj(&j, NULL);
    json_out_obj(&j, "in");
    json_out_int(&j, "samples", l->in_sample);
    json_out_int(&j, "tokens", l->in_tok);
    json_out_obj_end(&j);
    json_out_arr(&j, "bins");
    for (int i = 0; i < l->n; i++) {
        json_out_obj(&j, NULL);
        json_out_str(&j, "bin", bin_name[l->entry[i].bin]);
        if (l->entry[i].reason) json_out_str(&j, "reason", l->entry[i].reason);
        json_out_int(&j, "samples", l->entry[i].n_sample);
        json_out_int(&j, "tokens", l->entry[i].n_tok);
        json_out_obj_end(&j);
    }
    json_out_arr_end(&j);
    json_out_obj_end(&j);
    str_putc(out, '\n');
}

static bool check_lost(const Ledger *l, double max_lost, Error *err) {
    const Entry *worst = NULL;
    int64_t lost = 0;
    for (int i = 0; i < l->n; i++) {
        const Entry *e = &l->entry[i];
        if (e->bin < LEDGER_TRUNCATED) continue;
        lost += e->n_tok;
        if (!worst || e->n_tok > worst->n_tok) worst = e;
    }
    if ((double)lost <= max_lost * (double)l->in_tok) return true;
    return error_set(
        err, ERR_GATE,
        "ledger: %.1f %% of the tokens were truncated or dropped, allowed are %.1f %%; most of them (%lld tokens of "
        "%lld samples): %s, %s. Raise the limit that cuts them, or data.max_lost",
        100 * (double)lost / (double)l->in_tok, 100 * max_lost, (long long)worst->n_tok, (long long)worst->n_sample,
        bin_name[worst->bin], worst->reason);
}

bool ledger_check(Ledger *l, double max_lost, Error *err) {
    pthread_mutex_lock(&l->lock);
    bool ok = check_lost(l, max_lost, err);
    pthread_mutex_unlock(&l->lock);
    return ok;
}

bool ledger_close(Ledger *l, double max_lost, const char *path, Error *err) {
    int64_t n_sample = 0, n_tok = 0;
    Str text = {0};
    pthread_mutex_lock(&l->lock);
    if (l->n) qsort(l->entry, (size_t)l->n, sizeof *l->entry, by_bin);
    for (int i = 0; i < l->n; i++) n_sample += l->entry[i].n_sample, n_tok += l->entry[i].n_tok;
    bool ok = n_sample == l->in_sample && n_tok == l->in_tok;
    if (!ok)
        error_set(err, ERR_STATE, "ledger: %lld samples (%lld tokens) came in, but the bins hold %lld (%lld)",
                  (long long)l->in_sample, (long long)l->in_tok, (long long)n_sample, (long long)n_tok);
    ok = ok && check_lost(l, max_lost, err);
    write_json(&text, l);
    pthread_mutex_unlock(&l->lock);
    /* Written in either case: whoever has to find out what was lost needs it most when closing fails. */
    Error io = {ERR_NONE, ""};
    if (!io_write_file(path, text.s, text.n, &io) && ok) {
        *err = io;
        ok = false;
    }
    str_release(&text);
    return ok;
}
