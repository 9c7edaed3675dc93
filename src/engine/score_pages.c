/* engine/score_pages.c — how likely texts are, by way of the cache: what texts have in common at their beginning, the
 * examples before a thousand questions, is computed once.
 *
 * Sequence i is prefix[i] and all of text[i] but its last token. They enter passes in order, cut where a pass is full:
 *
 *      pages found by name | rows computed                 rows asked for: from the last of the prefix on
 *      0 .. KV_PAGE*k      | .. first .. n-1
 *
 * A row that is asked for is always computed. Pages are named when the pass that fills them is built (see generate.c).
 * Neighbours that are fed the same tokens, as options of one token are, make one group: computed once, asked several
 * times. */
#include "engine/engine_int.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    Engine *e;
    const Tokens *prefix, *text;
    float *const *logprob;
    bool *greedy;
    int n;
    int at, n_group;     /* the group being added: sequences [at, at + n_group) */
    int n_done;          /* its positions that have keys and values, or get them in this pass */
    int n_named, n_page; /* its pages whose names `chain` covers; pages it holds */
    Hash chain;
    int32_t *page; /* (max_page) */
    int max_page;  /* of the longest sequence */
    int32_t *held; /* pages of groups that end in this pass */
    int n_held, cap_held;
    int32_t *size; /* (n) sequences in the group that begins here */
} Paged;

static int fed(const Tokens *prefix, const Tokens *text, int i) { return prefix[i].n + text[i].n - 1; }

static int32_t token_at(const Paged *s, int i, int p) {
    return p < s->prefix[i].n ? s->prefix[i].tok[p] : s->text[i].tok[p - s->prefix[i].n];
}

static bool same_prefix(const Tokens *prefix, int j, int i) {
    return prefix[i].n == prefix[j].n &&
           (prefix[i].tok == prefix[j].tok ||
            !memcmp(prefix[i].tok, prefix[j].tok, (size_t)prefix[i].n * sizeof *prefix[i].tok));
}

static bool same_fed(const Tokens *prefix, const Tokens *text, int j, int i) {
    return text[i].n == text[j].n && same_prefix(prefix, j, i) &&
           !memcmp(text[i].tok, text[j].tok, (size_t)(text[i].n - 1) * sizeof *text[i].tok);
}

/* Full pages of sequence i that may come from elsewhere: they end before the first row asked for. */
static int shareable(const Tokens *prefix, int i) { return (prefix[i].n - 1) / KV_PAGE; }

/* As if every page were still there that the neighbour before had. */
int64_t pages_rows(const Tokens *prefix, const Tokens *text, int n) {
    int64_t rows = 0;
    for (int i = 0; i < n; i++) {
        if (text[i].n < 1 || (i > 0 && text[i - 1].n > 0 && same_fed(prefix, text, i - 1, i))) continue;
        int have = 0, most = i > 0 ? (prefix[i].n < prefix[i - 1].n ? prefix[i].n : prefix[i - 1].n) : 0;
        while (have < most && prefix[i].tok[have] == prefix[i - 1].tok[have]) have++;
        int pages = have / KV_PAGE < shareable(prefix, i) ? have / KV_PAGE : shareable(prefix, i);
        rows += fed(prefix, text, i) - pages * KV_PAGE;
    }
    return rows;
}

static Hash next_name(const Paged *s) {
    int32_t tok[KV_PAGE];
    for (int i = 0; i < KV_PAGE; i++) tok[i] = token_at(s, s->at, s->n_named * KV_PAGE + i);
    return pages_next_name(s->chain, s->e->version, tok);
}

/* -- one pass ------------------------------------------------------------------------------------------------------ */

/* The next group, with the pages that exist already. False when there is none, or no room for all of its pages. */
static bool begin_group(Paged *s) {
    Engine *e = s->e;
    while (s->at < s->n && s->text[s->at].n < 1) s->at++; /* of an empty text nothing is asked */
    if (s->at >= s->n) return false;
    s->n_group = 1;
    while (s->at + s->n_group < s->n && s->text[s->at + s->n_group].n > 0 &&
           same_fed(s->prefix, s->text, s->at, s->at + s->n_group))
        s->n_group++;
    s->size[s->at] = s->n_group;
    s->n_named = s->n_page = 0;
    s->chain = (Hash){0};
    for (int most = shareable(s->prefix, s->at); s->n_named < most; s->n_named++) {
        Hash name = next_name(s);
        int32_t page = pages_find(&e->pages, name);
        if (page < 0) break;
        s->page[s->n_page++] = page;
        s->chain = name;
    }
    int need = (fed(s->prefix, s->text, s->at) + KV_PAGE - 1) / KV_PAGE - s->n_page;
    if (pages_free(&e->pages) < need) {
        for (int i = 0; i < s->n_page; i++) pages_drop(&e->pages, s->page[i]);
        s->n_group = 0;
        return false;
    }
    s->n_done = s->n_page * KV_PAGE;
    e->stats.n_shared += s->n_done;
    while (need-- > 0) s->page[s->n_page++] = pages_take(&e->pages);
    return true;
}

static void hold(Paged *s) {
    if (s->n_held + s->n_page > s->cap_held) {
        s->cap_held = 2 * (s->n_held + s->n_page);
        s->held = mem_grow(s->held, (size_t)s->cap_held * sizeof *s->held);
    }
    memcpy(s->held + s->n_held, s->page, (size_t)s->n_page * sizeof *s->page);
    s->n_held += s->n_page;
}

/* The group's next rows, as many as fit. */
static void add_rows(Paged *s) {
    Engine *e = s->e;
    Batch *b = &e->b;
    int n = fed(s->prefix, s->text, s->at), first = s->prefix[s->at].n - 1, seq = b->seqs.n_seq++;
    for (; s->n_done < n && b->n_tok < e->cap_tok; s->n_done++) {
        int p = s->n_done, row = b->n_tok++;
        e->tok[row] = token_at(s, s->at, p);
        e->pos[row] = p;
        e->kv_row[row] = s->page[p / KV_PAGE] * e->kv.page_rows + p % KV_PAGE;
        if (p < first) continue;
        e->row_owner[b->n_row] = s->at;
        e->row[b->n_row++] = row;
    }
    e->q_off[seq + 1] = b->n_tok;
    e->kv_len[seq] = s->n_done;
    int32_t *page = e->kv_page + (size_t)seq * (size_t)s->max_page;
    for (int i = 0; i < s->max_page; i++) page[i] = i < s->n_page ? s->page[i] * e->kv.page_rows : 0;
    while ((s->n_named + 1) * KV_PAGE <= s->n_done) {
        s->chain = next_name(s);
        pages_name(&e->pages, s->page[s->n_named++], s->chain);
    }
    if (s->n_done < n) return;
    hold(s);
    s->at += s->n_group;
    s->n_group = 0;
}

static void slice_values(Paged *s, int first, int n) {
    Engine *e = s->e;
    pass_head(e, first, n);
    pass_best(e, n);
    int most = 1;
    for (int i = 0; i < n; i++)
        if (s->size[e->row_owner[first + i]] > most) most = s->size[e->row_owner[first + i]];
    for (int k = 0; k < most; k++) {
        for (int i = 0; i < n; i++) {
            int seq = e->row_owner[first + i];
            e->target[i] = k < s->size[seq] ? token_at(s, seq + k, e->pos[e->row[first + i]] + 1) : 0;
        }
        pass_logprob(e, 0, n, 1.0f, e->column);
        for (int i = 0; i < n; i++) {
            int seq = e->row_owner[first + i];
            if (k >= s->size[seq]) continue;
            s->logprob[seq + k][e->pos[e->row[first + i]] - (s->prefix[seq].n - 1)] = e->column[i];
            if (e->draw.token[i] != e->target[i]) s->greedy[seq + k] = false;
        }
    }
}

static void run_pass(Paged *s) {
    Engine *e = s->e;
    pass_forward(e, &e->kv);
    e->stats.n_scored += e->b.n_tok;
    for (int first = 0; first < e->b.n_row; first += e->n_slice)
        slice_values(s, first, e->b.n_row - first < e->n_slice ? e->b.n_row - first : e->n_slice);
    for (int i = 0; i < s->n_held; i++) pages_drop(&e->pages, s->held[i]);
    s->n_held = 0;
}

static bool run(Paged *s, Error *err) {
    Engine *e = s->e;
    while (s->at < s->n) {
        pass_begin(e);
        e->b.seqs.max_page = s->max_page;
        while (e->b.n_tok < e->cap_tok && (s->n_group > 0 || begin_group(s))) add_rows(s);
        if (e->b.n_tok == 0) break;
        run_pass(s);
    }
    if (s->at >= s->n) return share_ok(e, err);
    return error_set(err, ERR_CONFIG,
                     "sequence %d of %d tokens needs more keys and values than the engine's %d pages hold: raise its "
                     "cache or shorten the text",
                     s->at, fed(s->prefix, s->text, s->at), e->pages.n_page);
}

bool pages_score(Engine *e, const Tokens *prefix, const Tokens *text, int n, float *const *logprob, bool *greedy,
                 Error *err) {
    double start = now_s();
    Paged s = {.e = e, .prefix = prefix, .text = text, .n = n, .logprob = logprob, .greedy = greedy};
    if (!share_agree(e, gen_open_cache(e, err) && engine_reserve(e, e->cfg.max_batch_tok, err), err)) return false;
    e->now = e->net;
    for (int i = 0; i < n; i++) {
        int pages = (fed(prefix, text, i) + KV_PAGE - 1) / KV_PAGE;
        if (pages > s.max_page) s.max_page = pages;
    }
    engine_reserve_kv_page(e, (size_t)e->cap_tok * (size_t)s.max_page);
    s.page = mem_alloc((size_t)(s.max_page + 1) * sizeof *s.page);
    s.size = mem_alloc((size_t)(n + 1) * sizeof *s.size);
    bool ok = run(&s, err);
    free(s.page);
    free(s.size);
    free(s.held);
    e->stats.seconds += now_s() - start;
    return ok;
}
