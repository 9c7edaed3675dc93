/* engine/generate.c — continuous batching over a paged cache of keys and values.
 *
 * A slot is a request being worked on. Every pass is one net_forward over rows of all slots: one row for each that is
 * generating, then prompt pieces up to the pass's budget, old slots before new ones:
 *
 *      rows:   a b c d | e e e e e e | f f f f f f f f f f       a..d: newest token   e: rest of a prompt   f: admitted
 * now head:   a b c d             e                             chosen rows; f's prompt is not through yet
 *
 * Since every op is row invariant, what a request gets cannot depend on this arrangement.
 *
 * A request is admitted when pages for its longest possible text are free or already shared; it takes them one by one.
 * So nothing waits for a page while it holds one, and requests wait in order instead of failing. Pages are named when
 * the pass that fills them is built, not when it has run: net_forward stores the keys and values of all rows of a layer
 * before it attends, so a request admitted in the same pass may already read them.
 *
 * Beyond the last full page, where a running request's tokens still agree with a prompt, its keys and values are copied
 * once the pass that computes them has run; the copier sits that pass out. So the replies of a group cost one prompt.
 */
#include "engine/engine_int.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    Engine *e;
    const GenRequest *req;
    GenResult *res;
    int n, next; /* requests; the next to be admitted */
    int n_active, n_finished;
    int n_promised; /* pages that slots may still take */
    int first;      /* of the slice being sampled */
    bool drawn;     /* the backend drew all of it, and column has the log-probs */
    int64_t n_text;

    /* engine_options: no text, but the log-probs of these as a prompt's next token */
    int n_option; /* 0: generate */
    const int32_t *option;
    float *option_logprob; /* (n, n_option) */
} Gen;

/* -- requests ------------------------------------------------------------------------------------------------------ */

static int limit_of(const Gen *g, const GenRequest *q, StopReason *why) {
    int room = g->e->net.trunk->cfg.max_seq - q->prompt.n;
    if (g->n_option > 0) room = q->sample.max_new; /* the next token is never fed, a full context is no obstacle */
    *why = room < q->sample.max_new ? STOP_CONTEXT : STOP_LENGTH;
    int limit = room < q->sample.max_new ? room : q->sample.max_new;
    return limit > 0 ? limit : 0;
}

/* The last token of a text is never fed back, so it needs no position. */
static int pages_for(const GenRequest *q, int limit) { return (q->prompt.n + limit - 1 + KV_PAGE - 1) / KV_PAGE; }

static bool check_request(const Gen *g, const GenRequest *q, int i, Error *err) {
    const Engine *e = g->e;
    const SampleParams *p = &q->sample;
    if (q->prompt.n < 1) return error_set(err, ERR_FORMAT, "request %d has no prompt, expected at least one token", i);
    CHECK(p->temperature >= 0.0 && p->top_p >= 0.0 && p->repetition > 0.0 && p->top_k >= 0,
          "request %d: temperature %g top_p %g repetition %g top_k %d", i, p->temperature, p->top_p, p->repetition,
          p->top_k);
    StopReason why;
    int limit = limit_of(g, q, &why);
    if (limit == 0) return true;
    if (!engine_check_tokens(e, "request", i, q->prompt, err)) return false;
    if (pages_for(q, limit) <= e->pages.n_page) return true;
    size_t page = kv_page_bytes(e->net.trunk);
    return error_set(
        err, ERR_CONFIG,
        "request %d (%d prompt tokens, up to %d new) needs %zu bytes of keys and values, the engine has %zu: "
        "raise its cache or lower the lengths",
        i, q->prompt.n, limit, (size_t)pages_for(q, limit) * page, (size_t)e->pages.n_page * page);
}

static int32_t token_at(const Gen *g, const Slot *s, int position) {
    const Tokens *prompt = &g->req[s->req].prompt;
    return position < prompt->n ? prompt->tok[position] : g->res[s->req].text[position - prompt->n];
}

static void finish(Gen *g, Slot *s, StopReason why) {
    g->res[s->req].why = why;
    for (int i = 0; i < s->n_page; i++) pages_drop(&g->e->pages, s->page[i]);
    g->n_promised -= s->n_promised;
    s->n_page = s->n_promised = 0;
    s->req = -1;
    g->n_active--;
    g->n_finished++;
}

/* -- admission ----------------------------------------------------------------------------------------------------- */

/* Name of the slot's next page, if its tokens were the last ones: a chain over all tokens up to its end. */
static Hash next_name(const Gen *g, const Slot *s) {
    int32_t tok[KV_PAGE];
    for (int i = 0; i < KV_PAGE; i++) tok[i] = token_at(g, s, s->n_named * KV_PAGE + i);
    return pages_next_name(s->chain, g->e->version, tok);
}

/* Holds the full pages that begin this prompt and exist already. At least one token is left to compute: its hidden
 * state is what the first new token is drawn from. */
static void share_prefix(Gen *g, Slot *s) {
    while ((s->n_named + 1) * KV_PAGE < g->req[s->req].prompt.n) {
        Hash name = next_name(g, s);
        int32_t page = pages_find(&g->e->pages, name);
        if (page < 0) return;
        s->page[s->n_page++] = page;
        s->chain = name;
        s->n_named++;
    }
}

static int at_most(int a, int b) { return a < b ? a : b; }

/* The running request that agrees longest with this prompt beyond its full pages; the copy has to save at least half of
 * what is left, for it costs the wait of a pass. The prompt's last token is always computed. */
static void find_donor(Gen *g, Slot *s) {
    Engine *e = g->e;
    const Tokens *prompt = &g->req[s->req].prompt;
    int from = s->n_page * KV_PAGE, to = at_most(from + KV_PAGE, prompt->n - 1);
    for (int i = 0; i < e->cfg.max_slots; i++) {
        const Slot *d = &e->slot[i];
        if (d == s || d->req < 0 || d->n_done <= from + s->n_copy) continue;
        int p = 0, end = at_most(to, d->n_done);
        while (p < end && token_at(g, d, p) == prompt->tok[p]) p++;
        if (p - from <= s->n_copy) continue;
        s->donor = i;
        s->n_copy = p - from;
    }
    if (2 * s->n_copy < prompt->n - from) s->n_copy = 0;
}

/* Before anything is sampled, while donors still hold their pages. */
static void copy_pages(Gen *g) {
    Engine *e = g->e;
    for (int i = 0; i < e->cfg.max_slots; i++) {
        Slot *s = &e->slot[i];
        if (s->req < 0 || s->n_copy == 0) continue;
        int32_t page = pages_take(&e->pages), to = page * e->kv.page_rows;
        int32_t from = e->slot[s->donor].page[s->n_page] * e->kv.page_rows;
        for (int l = 0; l < e->kv.n_layer; l++) {
            e->be->op->copy(e->be, tensor_rows(e->kv.k[l], to, s->n_copy), tensor_rows(e->kv.k[l], from, s->n_copy));
            e->be->op->copy(e->be, tensor_rows(e->kv.v[l], to, s->n_copy), tensor_rows(e->kv.v[l], from, s->n_copy));
        }
        s->page[s->n_page++] = page;
        s->n_promised--;
        g->n_promised--;
        s->n_done += s->n_copy;
        e->stats.n_copied += s->n_copy;
        s->n_copy = 0;
    }
}

static Slot *free_slot(Engine *e) {
    for (int i = 0; i < e->cfg.max_slots; i++) {
        if (e->slot[i].req < 0) return &e->slot[i];
    }
    return NULL;
}

static void open_result(GenResult *r, const GenRequest *q, int limit) {
    *r = (GenResult){.id = q->id, .odds = NAN};
    r->text = mem_alloc((size_t)(limit > 0 ? limit : 1) * sizeof *r->text);
    r->logprob = mem_alloc((size_t)(limit > 0 ? limit : 1) * sizeof *r->logprob);
}

/* The next request's slot, or NULL: none left, or it has to wait. */
static Slot *admit(Gen *g) {
    Engine *e = g->e;
    for (; g->next < g->n; g->next++) {
        const GenRequest *q = &g->req[g->next];
        StopReason why;
        int limit = limit_of(g, q, &why);
        if (limit == 0) {
            open_result(&g->res[g->next], q, 0);
            g->res[g->next].why = why;
            g->n_finished++;
            continue;
        }
        Slot *s = free_slot(e);
        if (!s) return NULL;
        *s = (Slot){.req = g->next, .limit = limit, .page = s->page, .seen = s->seen};
        if (e->cfg.share_prefix) share_prefix(g, s);
        int need = pages_for(q, limit) - s->n_page;
        if (pages_free(&e->pages) - g->n_promised < need) {
            for (int i = 0; i < s->n_page; i++) pages_drop(&e->pages, s->page[i]);
            s->req = -1;
            return NULL;
        }
        s->n_promised = need;
        g->n_promised += need;
        s->n_done = s->n_page * KV_PAGE;
        e->stats.n_shared += s->n_done;
        if (e->cfg.share_prefix) find_donor(g, s);
        open_result(&g->res[g->next], q, limit);
        if (q->sample.repetition != 1.0) memcpy(s->seen, q->prompt.tok, (size_t)q->prompt.n * sizeof *s->seen);
        g->next++;
        g->n_active++;
        return s;
    }
    return NULL;
}

/* -- one pass ------------------------------------------------------------------------------------------------------ */

/* Appends the slot's next n known tokens to the pass. */
static void add_rows(Gen *g, Slot *s, int n) {
    Engine *e = g->e;
    Batch *b = &e->b;
    int known = g->req[s->req].prompt.n + g->res[s->req].n, seq = b->seqs.n_seq++;
    for (int i = 0; i < n; i++) {
        int p = s->n_done++, row = b->n_tok++;
        if (p % KV_PAGE == 0) {
            s->page[s->n_page++] = pages_take(&e->pages);
            s->n_promised--;
            g->n_promised--;
        }
        e->tok[row] = token_at(g, s, p);
        e->pos[row] = p;
        e->kv_row[row] = s->page[p / KV_PAGE] * e->kv.page_rows + p % KV_PAGE;
    }
    e->q_off[seq + 1] = b->n_tok;
    e->kv_len[seq] = s->n_done;
    int32_t *page = e->kv_page + (size_t)seq * (size_t)e->max_page;
    for (int i = 0; i < s->n_page; i++) page[i] = s->page[i] * e->kv.page_rows;
    while (e->cfg.share_prefix && (s->n_named + 1) * KV_PAGE <= s->n_done) {
        s->chain = next_name(g, s);
        pages_name(&e->pages, s->page[s->n_named++], s->chain);
    }
    if (s->n_done == known) {
        e->row_owner[b->n_row] = (int)(s - e->slot);
        e->row[b->n_row++] = b->n_tok - 1;
    }
}

static void build_pass(Gen *g) {
    Engine *e = g->e;
    pass_begin(e);
    e->b.seqs.max_page = e->max_page;
    for (int i = 0; i < e->cfg.max_slots; i++) {
        Slot *s = &e->slot[i];
        if (s->req < 0 || s->n_done < g->req[s->req].prompt.n) continue;
        add_rows(g, s, 1);
        e->stats.n_decode++;
    }
    int n_decode = e->b.n_tok, left = e->cfg.max_batch_tok - n_decode;
    for (int i = 0; i < e->cfg.max_slots && left > 0; i++) {
        Slot *s = &e->slot[i];
        if (s->req < 0 || s->n_copy > 0 || s->n_done >= g->req[s->req].prompt.n) continue;
        int n = at_most(left, g->req[s->req].prompt.n - s->n_done);
        add_rows(g, s, n);
        left -= n;
    }
    for (Slot *s; left > 0 && (s = admit(g));) {
        if (s->n_copy > 0) continue;
        int n = at_most(left, g->req[s->req].prompt.n - s->n_done);
        add_rows(g, s, n);
        left -= n;
    }
    e->stats.n_prefill += e->b.n_tok - n_decode;
}

/* -- sampling ------------------------------------------------------------------------------------------------------ */

static Slot *slot_of_row(const Gen *g, int i) { return &g->e->slot[g->e->row_owner[g->first + i]]; }

static float *host_row(const Engine *e, int i) { return e->host + (size_t)i * (size_t)e->n_out; }

/* Of divided outputs this rank's rows are there. */
static void fetch_row(Engine *e, int i) {
    if (!e->share.divided) tensor_get_f32(e->be, host_row(e, i), tensor_rows(e->out, i, 1));
}

static bool draws_row(const Engine *e, int i) { return i >= e->share.first && i < e->share.end; }

/* Hooks run one after another on this thread and what they point to is used up before the next is asked. */
static void ask_hook(Gen *g, int i) {
    Engine *e = g->e;
    Slot *s = slot_of_row(g, i);
    const SampleParams *p = &g->req[s->req].sample;
    GenResult *r = &g->res[s->req];
    e->target[i] = -1;
    e->row_ready[i] = false;
    if (!p->hook) return;
    GenRule rule = {.force = -1};
    p->hook(p->hook_ud, r->id, r->text, r->n, &rule);
    if (rule.force >= 0) {
        CHECK(rule.force < e->n_out, "forced token %d outside 0..%d", rule.force, e->n_out - 1);
        e->target[i] = rule.force;
        r->n_forced++;
        return;
    }
    if ((rule.n_allow == 0 && !rule.ban) || !draws_row(e, i)) return;
    fetch_row(e, i);
    float *z = host_row(e, i);
    if (rule.n_allow == 2) e->odds[i] = z[rule.allow[0]] - z[rule.allow[1]];
    sample_mask(&e->scratch[0], z, &rule);
    e->row_ready[i] = true;
}

/* Nothing but a temperature between the logits and the draw: then the backend may draw where they are. */
static bool plain(const SampleParams *p) {
    return p->top_k == 0 && p->top_p >= 1.0 && p->min_p <= 0.0 && p->repetition == 1.0;
}

static double uniform(const Gen *g, int i) {
    const GenRequest *q = &g->req[slot_of_row(g, i)->req];
    return rng_uniform(q->sample.rng, q->id, (uint32_t)g->res[slot_of_row(g, i)->req].n);
}

/* Logits on a device: draws there, or fetches, from this thread, what the host has to draw from. */
static void draw_on_device(Gen *g, int n) {
    Engine *e = g->e;
    for (int i = 0; i < n; i++) {
        double t = g->req[slot_of_row(g, i)->req].sample.temperature;
        e->draw.temp[i] = t > 0 ? (float)t : 0.0f;
        e->draw.u[i] = uniform(g, i);
    }
    e->be->op->draw(e->be, e->draw.token, e->column, tensor_rows(e->out, 0, n), e->draw.temp, e->draw.u);
    g->drawn = true;
    for (int i = 0; i < n; i++) {
        bool here = e->target[i] < 0 && !e->row_ready[i] && plain(&g->req[slot_of_row(g, i)->req].sample);
        g->drawn = g->drawn && here;
        if (e->target[i] >= 0 || e->row_ready[i]) continue;
        e->row_ready[i] = true;
        if (here)
            e->target[i] = e->draw.token[i] >= 0 ? e->draw.token[i] : NO_TOKEN;
        else
            fetch_row(e, i);
    }
}

static void draw_tile(void *ud, int64_t tile, int thread) {
    Gen *g = ud;
    Engine *e = g->e;
    int i = e->share.first + (int)tile;
    if (e->target[i] != -1) return;
    Slot *s = slot_of_row(g, i);
    const GenRequest *q = &g->req[s->req];
    const GenResult *r = &g->res[s->req];
    if (!e->row_ready[i]) fetch_row(e, i);
    e->target[i] =
        sample_draw(&e->scratch[thread], host_row(e, i), &q->sample, s->seen, q->prompt.n + r->n, uniform(g, i));
}

/* Log-probs of the slice's tokens, by the op every loss uses: one call for each run of equal temperatures.
 * Of divided outputs ranks say what they have of each run, and tell each other once. */
static void slice_logprob(Gen *g, int n, float *out) {
    Engine *e = g->e;
    for (int i = 0, end; i < n; i = end) {
        double t = g->req[slot_of_row(g, i)->req].sample.temperature;
        for (end = i + 1; end < n && g->req[slot_of_row(g, end)->req].sample.temperature == t;) end++;
        if (e->share.divided)
            row_parts_say(&e->share.parts, e->be, i, tensor_rows(e->out, i, end - i), e->target + i, temperature_of(t),
                          false);
        else
            pass_logprob(e, i, end - i, temperature_of(t), out + i);
    }
    if (e->share.divided) share_logprob(e, n, out);
}

static bool is_stop(const SampleParams *p, int32_t token) {
    for (int i = 0; i < p->n_stop; i++) {
        if (p->stop[i] == token) return true;
    }
    return false;
}

static void append(Gen *g, Slot *s, int32_t token, float logprob) {
    const GenRequest *q = &g->req[s->req];
    GenResult *r = &g->res[s->req];
    if (q->sample.repetition != 1.0) s->seen[q->prompt.n + r->n] = token;
    r->text[r->n] = token;
    r->logprob[r->n++] = logprob;
    g->n_text++;
    StopReason why;
    limit_of(g, q, &why);
    if (is_stop(&q->sample, token)) {
        finish(g, s, STOP_TOKEN);
    } else if (r->n == s->limit) {
        finish(g, s, why);
    }
}

/* Every option's log-prob at temperature 1; then the requests are done. */
static void options_slice(Gen *g, int n) {
    Engine *e = g->e;
    float *column = e->column;
    for (int k = 0; k < g->n_option; k++) {
        for (int i = 0; i < n; i++) e->target[i] = g->option[k];
        pass_logprob(e, 0, n, 1.0f, column);
        for (int i = 0; i < n; i++) {
            g->option_logprob[(size_t)slot_of_row(g, i)->req * (size_t)g->n_option + (size_t)k] = column[i];
        }
    }
    for (int i = 0; i < n; i++) finish(g, slot_of_row(g, i), STOP_LENGTH);
}

static bool sample_slice(Gen *g, int n, const Stop *stop, Error *err) {
    Engine *e = g->e;
    float *logprob = e->column;
    pass_head(e, g->first, n);
    if (g->n_option > 0) {
        options_slice(g, n);
        return true;
    }
    share_rows(e, n);
    for (int i = 0; i < n; i++) {
        e->odds[i] = g->res[slot_of_row(g, i)->req].odds;
        ask_hook(g, i);
    }
    g->drawn = false;
    if (e->be->op->draw && !e->share.divided) draw_on_device(g, n);
    pool_for(e->be->pool, e->share.end - e->share.first, draw_tile, g);
    if (!share_tell(e, n, e->odds, stop_requested(stop), err)) return false;
    for (int i = 0; i < n; i++) {
        if (e->target[i] >= 0) continue;
        return error_set(err, ERR_DIVERGED,
                         "request %d: no token can be drawn: the logits are not finite, or all are banned",
                         slot_of_row(g, i)->req);
    }
    if (!g->drawn) slice_logprob(g, n, logprob);
    for (int i = 0; i < n; i++) {
        g->res[slot_of_row(g, i)->req].odds = e->odds[i];
        append(g, slot_of_row(g, i), e->target[i], logprob[i]);
    }
    return true;
}

/* -- the call ------------------------------------------------------------------------------------------------------ */

static bool open_cache(Engine *e, Error *err) {
    if (e->kv_ready) return true;
    const ModelConfig *m = &e->net.trunk->cfg;
    size_t n_page = e->cfg.kv_bytes / kv_page_bytes(e->net.trunk);
    if (n_page < 1) n_page = 1;
    size_t most = (size_t)INT32_MAX / (2 * (size_t)m->n_layer * KV_PAGE); /* rows are numbered in 32 bits */
    if (n_page > most) n_page = most;
    if (e->cfg.weights != DTYPE_F32 && !light_open(&e->light, e->net, e->cfg.weights, err)) return false;
    if (!kv_open(&e->kv, e->net.trunk, (int)n_page, err)) {
        light_release(&e->light);
        return error_wrap(err, "engine: keys and values");
    }
    pages_init(&e->pages, (int)n_page);
    size_t slots = (size_t)e->cfg.max_slots, threads = (size_t)pool_threads(e->be->pool);
    e->slot = mem_alloc(slots * sizeof *e->slot);
    e->slot_page = mem_alloc(slots * (size_t)e->max_page * sizeof *e->slot_page);
    e->slot_seen = mem_alloc(slots * (size_t)m->max_seq * sizeof *e->slot_seen);
    e->row_ready = mem_alloc((size_t)e->n_slice * sizeof *e->row_ready);
    e->odds = mem_alloc((size_t)e->n_slice * sizeof *e->odds);
    e->scratch = mem_alloc(threads * sizeof *e->scratch);
    for (size_t i = 0; i < threads; i++) sample_scratch_open(&e->scratch[i], e->n_out);
    for (size_t i = 0; i < slots; i++) {
        e->slot[i] = (Slot){
            .req = -1, .page = e->slot_page + i * (size_t)e->max_page, .seen = e->slot_seen + i * (size_t)m->max_seq};
    }
    engine_reserve_kv_page(e, slots * (size_t)e->max_page);
    e->version = e->net.trunk->version;
    e->kv_ready = true;
    return true;
}

bool gen_open_cache(Engine *e, Error *err) {
    if (!open_cache(e, err)) return false;
    if (e->version != e->net.trunk->version) {
        pages_forget(&e->pages);
        e->version = e->net.trunk->version;
    }
    return true;
}

void gen_release(Engine *e) {
    if (!e->kv_ready) return;
    for (int i = 0; i < pool_threads(e->be->pool); i++) sample_scratch_release(&e->scratch[i]);
    light_release(&e->light);
    free(e->scratch);
    free(e->row_ready);
    free(e->odds);
    free(e->slot_seen);
    free(e->slot_page);
    free(e->slot);
    pages_release(&e->pages);
    kv_release(&e->kv);
    e->kv_ready = false;
}

static bool prepare(Gen *g, Error *err) {
    Engine *e = g->e;
    e->share.stopped = false;
    CHECK(e->net.head->kind == HEAD_LM, "generation needs a language model head");
    if (!gen_open_cache(e, err)) return false;
    e->now = e->net;
    if (e->cfg.weights != DTYPE_F32) {
        light_update(&e->light, e->net);
        e->now = light_net(&e->light);
    }
    int64_t n_tok = 0;
    for (int i = 0; i < g->n; i++) {
        if (!check_request(g, &g->req[i], i, err)) return false;
        n_tok += g->req[i].prompt.n;
    }
    return engine_reserve(e, n_tok < e->cfg.max_batch_tok ? (int)n_tok : e->cfg.max_batch_tok, err);
}

static bool run(Gen *g, Log *log, const Stop *stop, Error *err) {
    Engine *e = g->e;
    while (g->n_finished < g->n) {
        if (e->share.divided ? e->share.stopped : stop_requested(stop)) {
            return error_set(err, ERR_STOPPED, "generation stopped, %d of %d requests finished", g->n_finished, g->n);
        }
        build_pass(g);
        if (e->b.n_tok == 0) continue; /* the last requests had no room */
        pass_forward(e, &e->kv);
        copy_pages(g);
        for (g->first = 0; g->first < e->b.n_row; g->first += e->n_slice) {
            if (!sample_slice(g, at_most(e->n_slice, e->b.n_row - g->first), stop, err)) return false;
        }
        if (!share_ok(e, err)) return false;
        log_progress(log, g->n_finished, g->n, (double)g->n_text, "tok", "%d running", g->n_active);
    }
    return true;
}

/* Whatever the outcome, no slot and no page is held afterwards. */
static bool run_all(Gen *g, Log *log, const Stop *stop, Error *err) {
    Engine *e = g->e;
    double start = now_s();
    for (int i = 0; i < g->n; i++) g->res[i] = (GenResult){.id = g->req[i].id, .odds = NAN};
    bool ok = g->n == 0 || (share_agree(e, prepare(g, err), err) && run(g, log, stop, err));
    for (int i = 0; e->kv_ready && i < e->cfg.max_slots; i++) {
        if (e->slot[i].req >= 0) finish(g, &e->slot[i], STOP_LENGTH);
    }
    log_progress_end(log);
    e->stats.seconds += now_s() - start;
    return ok;
}

bool engine_generate(Engine *e, const GenRequest *req, int n, GenResult *out, Log *log, const Stop *stop, Error *err) {
    lead_generate(e, req, n);
    Gen g = {.e = e, .req = req, .res = out, .n = n};
    if (run_all(&g, log, stop, err)) return true;
    engine_free_results(out, n);
    return false;
}

bool gen_options(Engine *e, const Tokens *prompt, int n, const int32_t *option, int n_option, float *logprob,
                 Error *err) {
    GenRequest *req = mem_alloc((size_t)(n + 1) * sizeof *req);
    GenResult *res = mem_alloc((size_t)(n + 1) * sizeof *res);
    const SampleParams one = {.temperature = 1.0, .top_p = 1.0, .repetition = 1.0, .max_new = 1};
    for (int i = 0; i < n; i++) req[i] = (GenRequest){.id = (uint64_t)i, .prompt = prompt[i], .sample = one};
    Gen g = {.e = e, .req = req, .res = res, .n = n, .n_option = n_option, .option = option, .option_logprob = logprob};
    bool ok = run_all(&g, NULL, NULL, err);
    engine_free_results(res, n);
    free(res);
    free(req);
    return ok;
}

void engine_free_results(GenResult *r, int n) {
    for (int i = 0; i < n; i++) {
        free(r[i].text);
        free(r[i].logprob);
        r[i].text = NULL;
        r[i].logprob = NULL;
        r[i].n = 0;
    }
}
