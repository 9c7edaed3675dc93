/* engine/score.c — how likely text is, and what a scalar head says of it: packed sequences in one pass, no cache,
 * exactly the layout of training.
 *
 * Every call is a list of sequences with a range of rows each, whose head output is wanted. Sequences are packed in
 * order until the pass is full, the head runs over the chosen rows in slices of fixed size, and each row's values go to
 * the caller's memory. A sequence longer than the pass makes the pass longer.
 *
 * Neighbours that begin alike, as replies to one prompt do, share the rows of their beginning where that saves enough.
 */
#include "engine/engine_int.h"

#include <stdlib.h>
#include <string.h>

typedef enum { WANT_LOGPROB, WANT_OPTIONS, WANT_OUTPUT, WANT_HIDDEN } Want;

typedef struct {
    Engine *e;
    Want want;
    float temp;                  /* of WANT_LOGPROB */
    const int32_t *option;       /* of WANT_OPTIONS */
    int width;                   /* values per row */
    const Tokens *prefix, *text; /* sequence i is prefix[i], then text[i]; prefix NULL: text alone */
    bool skip_last;              /* nothing reads the last token's row */
    bool last_row;               /* only the last row is chosen; else all from the last prefix token on */
    float *const *each;          /* results of sequence i, row after row; NULL: */
    float *flat;                 /* all results, one after another */
    double *sum;                 /* of WANT_HIDDEN, (n, width): over the rows of each sequence */
    bool *greedy;                /* of WANT_LOGPROB, (n) or NULL; true until a token is not the likeliest */
    bool share;                  /* of rows among neighbours */
    int room, last;              /* rows of a pass; the sequence added last */
} Score;

enum { SEEN_PER_ROW = 2 }; /* where rows are shared: attention's rows of a pass, at most, per row of it */

static int prefix_len(const Score *c, int i) { return c->prefix ? c->prefix[i].n : 0; }
static int fed(const Score *c, int i) { return prefix_len(c, i) + c->text[i].n - (c->skip_last ? 1 : 0); }
static int first_row(const Score *c, int i) {
    int from = c->prefix ? c->prefix[i].n - 1 : 0;
    return c->last_row ? fed(c, i) - 1 : from;
}

static int32_t token_of(const Score *c, int i, int p) {
    int n = prefix_len(c, i);
    return p < n ? c->prefix[i].tok[p] : c->text[i].tok[p - n];
}

/* Rows of sequence i that j's first ones can serve for: equal tokens, up to the first row whose output is wanted. */
static int common(const Score *c, int j, int i) {
    int n = first_row(c, i) < first_row(c, j) ? first_row(c, i) : first_row(c, j), p = 0;
    if (c->prefix && c->prefix[i].tok == c->prefix[j].tok && c->prefix[i].n == c->prefix[j].n) return n;
    while (p < n && token_of(c, i, p) == token_of(c, j, p)) p++;
    return p;
}

/* Is a sixth of all rows saved, when sharing costs attention a few copies? */
static bool worth_sharing(const Score *c, int n) {
    int64_t all = 0, saved = 0;
    for (int i = 0; i < n; i++) {
        all += fed(c, i);
        if (i > 0) saved += common(c, i - 1, i);
    }
    return 6 * saved >= all && saved > 0;
}

static void run_pass(Score *c);

static void add_sequence(Score *c, int i) {
    Engine *e = c->e;
    Batch *b = &e->b;
    int n = fed(c, i), same = c->share && b->n_tok > 0 ? common(c, c->last, i) : 0;
    int seen = b->seqs.n_seq > 0 ? e->q_off[b->seqs.n_seq] : 0;
    if (b->n_tok + n - same > c->room || (c->share && seen + n > SEEN_PER_ROW * c->room)) {
        run_pass(c);
        pass_begin(e);
        seen = same = 0;
    }
    int seq = b->seqs.n_seq++, before = seq > 0 ? e->q_off[seq - 1] : 0;
    for (int p = 0; p < n; p++) {
        if (p < same) {
            e->seen[seen + p] = e->seen[before + p];
            continue;
        }
        if (p >= first_row(c, i)) {
            e->row_owner[b->n_row] = i;
            e->row[b->n_row++] = b->n_tok;
        }
        if (c->share) {
            e->seen[seen + p] = b->n_tok;
            e->home[b->n_tok] = seen + p;
        }
        e->tok[b->n_tok] = token_of(c, i, p);
        e->pos[b->n_tok++] = p;
    }
    if (c->share) {
        b->n_seen = seen + n;
        b->seen = e->seen;
        b->home = e->home;
    }
    e->q_off[seq + 1] = seen + n;
    e->kv_len[seq] = n;
    c->last = i;
}

/* Keys and values are the pass's own rows. */
static void close_pages(Engine *e) {
    AttnSeqs *s = &e->b.seqs;
    for (int i = 0; i < s->n_seq; i++) {
        int n = (e->kv_len[i] + KV_PAGE - 1) / KV_PAGE;
        if (n > s->max_page) s->max_page = n;
    }
    engine_reserve_kv_page(e, (size_t)s->n_seq * (size_t)s->max_page);
    for (int i = 0; i < s->n_seq; i++) {
        int32_t *page = e->kv_page + (size_t)i * (size_t)s->max_page;
        for (int p = 0; p < s->max_page; p++) page[p] = p * KV_PAGE < e->kv_len[i] ? e->q_off[i] + p * KV_PAGE : 0;
    }
}

/* Values of one slice, (n, width), into e->host. */
static void slice_values(Score *c, int first, int n) {
    Engine *e = c->e;
    if (c->want == WANT_OUTPUT && e->share.divided) {
        share_outputs(e, n);
    } else if (c->want == WANT_OUTPUT) {
        tensor_get_f32(e->be, e->host, tensor_rows(e->out, 0, n));
    } else if (c->want == WANT_LOGPROB) {
        for (int i = 0; i < n; i++) e->target[i] = token_of(c, e->row_owner[first + i], e->pos[e->row[first + i]] + 1);
        if (c->greedy) pass_best(e, n);
        for (int i = 0; c->greedy && i < n; i++)
            if (e->draw.token[i] != e->target[i]) c->greedy[e->row_owner[first + i]] = false;
        pass_logprob(e, 0, n, c->temp, e->host);
    } else {
        float *column = e->column;
        for (int k = 0; k < c->width; k++) {
            for (int i = 0; i < n; i++) e->target[i] = c->option[k];
            pass_logprob(e, 0, n, 1.0f, column);
            for (int i = 0; i < n; i++) e->host[(size_t)i * (size_t)c->width + (size_t)k] = column[i];
        }
    }
}

/* Rows stand in the order of their tokens, so sums do not depend on what else is in the pass. */
static void sum_hidden(Score *c) {
    Engine *e = c->e;
    size_t width = (size_t)c->width;
    float *row = mem_alloc((size_t)e->n_slice * width * sizeof *row);
    for (int first = 0; first < e->b.n_row; first += e->n_slice) {
        int n = e->b.n_row - first < e->n_slice ? e->b.n_row - first : e->n_slice;
        tensor_get_f32(e->be, row, tensor_rows(acts_hidden(e->acts), first, n));
        for (int i = 0; i < n; i++) {
            double *to = c->sum + (size_t)e->row_owner[first + i] * width;
            for (size_t k = 0; k < width; k++) to[k] += (double)row[(size_t)i * width + k];
        }
    }
    free(row);
}

static void run_pass(Score *c) {
    Engine *e = c->e;
    close_pages(e);
    pass_forward(e, NULL);
    e->stats.n_scored += e->b.n_tok;
    if (c->want == WANT_HIDDEN) {
        sum_hidden(c);
        return;
    }
    for (int first = 0; first < e->b.n_row; first += e->n_slice) {
        int n = e->b.n_row - first < e->n_slice ? e->b.n_row - first : e->n_slice;
        pass_head(e, first, n);
        slice_values(c, first, n);
        for (int i = 0; i < n; i++) {
            int seq = e->row_owner[first + i], k = e->pos[e->row[first + i]] - first_row(c, seq);
            float *to =
                c->each ? c->each[seq] + (size_t)k * (size_t)c->width : c->flat + (size_t)seq * (size_t)c->width;
            memcpy(to, e->host + (size_t)i * (size_t)c->width, (size_t)c->width * sizeof *to);
        }
    }
}

static bool check_sequences(const Score *c, int n, Error *err) {
    const Engine *e = c->e;
    for (int i = 0; i < n; i++) {
        if (c->prefix && c->prefix[i].n < 1)
            return error_set(err, ERR_FORMAT, "sequence %d has no prefix, expected at least one token", i);
        if (!c->prefix && c->text[i].n < 1) return error_set(err, ERR_FORMAT, "sequence %d is empty", i);
        if (c->prefix && !engine_check_tokens(e, "prefix", i, c->prefix[i], err)) return false;
        if (!engine_check_tokens(e, "sequence", i, c->text[i], err)) return false;
        if (fed(c, i) <= e->net.trunk->cfg.max_seq) continue;
        return error_set(err, ERR_FORMAT, "sequence %d has %d tokens, the model's context holds %d", i, fed(c, i),
                         e->net.trunk->cfg.max_seq);
    }
    return true;
}

static bool score(Score *c, int n, Error *err) {
    Engine *e = c->e;
    e->now = e->net;
    double start = now_s();
    if (!check_sequences(c, n, err)) return false;
    int64_t all = 0, longest = 1;
    for (int i = 0; i < n; i++) {
        all += fed(c, i);
        if (fed(c, i) > longest) longest = fed(c, i);
    }
    int64_t room = all < e->cfg.max_batch_tok ? all : e->cfg.max_batch_tok;
    if (room < longest) room = longest;
    c->room = (int)room;
    c->share = worth_sharing(c, n);
    bool room_made =
        engine_reserve(e, c->room, err) && (!c->share || engine_reserve_seen(e, SEEN_PER_ROW * c->room, err));
    if (!share_agree(e, room_made, err)) return false;
    pass_begin(e);
    for (int i = 0; i < n; i++)
        if (first_row(c, i) < fed(c, i)) add_sequence(c, i); /* of an empty text nothing is asked */
    if (e->b.n_tok > 0) run_pass(c);
    e->stats.seconds += now_s() - start;
    return share_ok(e, err);
}

bool engine_score(Engine *e, const Tokens *prefix, const Tokens *text, int n, float temp, float *const *logprob,
                  Error *err) {
    CHECK(e->net.head->kind == HEAD_LM, "log-probs need a language model head");
    lead_score(e, LEAD_SCORE, prefix, text, n, temp, NULL, 0);
    Score c = {.e = e,
               .want = WANT_LOGPROB,
               .temp = temperature_of((double)temp),
               .width = 1,
               .prefix = prefix,
               .text = text,
               .skip_last = true,
               .each = logprob};
    return score(&c, n, err);
}

/* Rows that packing computes, and a quarter of those that attention sees again. */
static int64_t packed_rows(Score *c, int n) {
    int64_t rows = 0, seen_all = 0, tok = 0, seen = 0;
    int room = c->e->cfg.max_batch_tok;
    bool share = worth_sharing(c, n);
    for (int i = 0; i < n; i++) {
        int len = fed(c, i), same = share && tok > 0 ? common(c, i - 1, i) : 0;
        if (len > room) room = len;
        if (tok + len - same > room || (share && seen + len > SEEN_PER_ROW * room)) tok = seen = same = 0;
        tok += len - same;
        seen += len;
        rows += len - same;
        seen_all += same;
    }
    return rows + seen_all / 4;
}

bool engine_score_greedy(Engine *e, const Tokens *prefix, const Tokens *text, int n, float *const *logprob,
                         bool *greedy, Error *err) {
    CHECK(e->net.head->kind == HEAD_LM, "log-probs need a language model head");
    lead_score(e, LEAD_SCORE_GREEDY, prefix, text, n, 1, NULL, 0);
    Score c = {.e = e,
               .want = WANT_LOGPROB,
               .temp = 1.0f,
               .width = 1,
               .prefix = prefix,
               .text = text,
               .skip_last = true,
               .each = logprob,
               .greedy = greedy};
    for (int i = 0; i < n; i++) greedy[i] = true;
    bool cached = e->cfg.share_prefix && e->cfg.weights == DTYPE_F32; /* else the cache is of other weights */
    if (!cached || pages_rows(prefix, text, n) >= packed_rows(&c, n)) return score(&c, n, err);
    return check_sequences(&c, n, err) && pages_score(e, prefix, text, n, logprob, greedy, err);
}

bool engine_options(Engine *e, const Tokens *prompt, int n, const int32_t *option, int n_option, float *logprob,
                    Error *err) {
    CHECK(e->net.head->kind == HEAD_LM, "options need a language model head");
    CHECK(n_option > 0 && n_option <= e->n_out, "%d options, vocabulary %d", n_option, e->n_out);
    for (int k = 0; k < n_option; k++)
        CHECK(option[k] >= 0 && option[k] < e->n_out, "option %d outside 0..%d", option[k], e->n_out - 1);
    lead_score(e, LEAD_OPTIONS, NULL, prompt, n, 1, option, n_option);
    if (e->cfg.share_prefix) return gen_options(e, prompt, n, option, n_option, logprob, err);
    Score c = {.e = e,
               .want = WANT_OPTIONS,
               .option = option,
               .width = n_option,
               .text = prompt,
               .last_row = true,
               .flat = logprob};
    return score(&c, n, err);
}

bool engine_score_last(Engine *e, const Tokens *seq, int n, float *out, Error *err) {
    CHECK(e->net.head->kind == HEAD_SCORE, "scores need a score head");
    lead_score(e, LEAD_SCORE_LAST, NULL, seq, n, 1, NULL, 0);
    Score c = {.e = e, .want = WANT_OUTPUT, .width = e->n_out, .text = seq, .last_row = true, .flat = out};
    return score(&c, n, err);
}

bool engine_score_all(Engine *e, const Tokens *seq, int n, float *const *out, Error *err) {
    CHECK(e->net.head->kind == HEAD_SCORE && e->n_out == 1, "scores of every token need a score head of one output");
    lead_score(e, LEAD_SCORE_ALL, NULL, seq, n, 1, NULL, 0);
    Score c = {.e = e, .want = WANT_OUTPUT, .width = 1, .text = seq, .each = out};
    return score(&c, n, err);
}

bool engine_embed(Engine *e, const Tokens *seq, int n, float *out, Error *err) {
    int width = e->net.trunk->cfg.d_model;
    lead_score(e, LEAD_EMBED, NULL, seq, n, 1, NULL, 0);
    double *sum = mem_alloc((size_t)(n + 1) * (size_t)width * sizeof *sum);
    Score c = {.e = e, .want = WANT_HIDDEN, .width = width, .text = seq, .sum = sum};
    bool ok = score(&c, n, err);
    for (int i = 0; i < n && ok; i++)
        for (int k = 0; k < width; k++)
            out[(size_t)i * (size_t)width + (size_t)k] = (float)(sum[(size_t)i * (size_t)width + (size_t)k] / seq[i].n);
    free(sum);
    return ok;
}

bool engine_logits(Engine *e, Tokens prompt, float *logits, Error *err) {
    CHECK(e->net.head->kind == HEAD_LM, "logits need a language model head");
    lead_score(e, LEAD_LOGITS, NULL, &prompt, 1, 1, NULL, 0);
    Score c = {.e = e, .want = WANT_OUTPUT, .width = e->n_out, .text = &prompt, .last_row = true, .flat = logits};
    return score(&c, 1, err);
}
