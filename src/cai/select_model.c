#include "cai/select_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PRINCIPLES = 64 };

struct SelectModel {
    Engine *engine;
    const Chat *chat;
    const Constitution *con;
    const Selector *words;
    int max_len, candidates, width;
    int choice[MAX_PRINCIPLES], n_choice;
    float *example; /* (n_example, width), centred, of length 1 */
    int *of;        /* (n_example) principle */
    int n_example;
    double *centre; /* (width) */
};

/* -- embeddings ---------------------------------------------------------------------------------------------------- */

static void spell(Sequence *s, const Chat *c, const char *prompt, const char *reply) {
    Message m = {ROLE_USER, prompt};
    chat_respond(s, c, (Dialogue){&m, 1});
    if (reply[0]) chat_reply(s, c, reply, 0, false);
}

/* What is longer than the context is cut at its end. */
static bool embed(SelectModel *m, float *out, const SelectQuery *q, int n, Error *err) {
    Sequence *seq = mem_alloc((size_t)(n + 1) * sizeof *seq);
    Tokens *tok = mem_alloc((size_t)(n + 1) * sizeof *tok);
    for (int i = 0; i < n; i++) {
        spell(&seq[i], m->chat, q[i].prompt, q[i].reply);
        tok[i] = (Tokens){seq[i].tok.id, seq[i].tok.n < m->max_len ? seq[i].tok.n : m->max_len};
    }
    bool ok = sequences_ok(seq, n, err) && engine_embed(m->engine, tok, n, out, err);
    for (int i = 0; i < n; i++) sequence_release(&seq[i]);
    free(seq);
    free(tok);
    return ok;
}

/* Less the centre, then of length 1. */
static void direct(const SelectModel *m, float *x) {
    double sq = 0;
    for (int k = 0; k < m->width; k++) {
        x[k] = (float)((double)x[k] - m->centre[k]);
        sq += (double)x[k] * (double)x[k];
    }
    for (int k = 0; k < m->width && sq > 0; k++) x[k] = (float)((double)x[k] / sqrt(sq));
}

static bool embed_examples(SelectModel *m, Error *err) {
    int cap = 0;
    for (int i = 0; i < m->n_choice; i++) cap += m->con->principle[m->choice[i]].n_example + 1;
    SelectQuery *q = mem_alloc((size_t)cap * sizeof *q);
    m->of = mem_alloc((size_t)cap * sizeof *m->of);
    for (int i = 0; i < m->n_choice; i++) {
        const Principle *p = &m->con->principle[m->choice[i]];
        int before = m->n_example;
        for (int k = 0; k < p->n_example; k++) {
            if (!p->example[k].applies) continue;
            m->of[m->n_example] = m->choice[i];
            q[m->n_example++] = (SelectQuery){p->example[k].text, ""};
        }
        if (m->n_example > before) continue;
        m->of[m->n_example] = m->choice[i];
        q[m->n_example++] = (SelectQuery){p->text, ""};
    }
    size_t width = (size_t)m->width;
    m->example = mem_alloc((size_t)m->n_example * width * sizeof *m->example);
    bool ok = embed(m, m->example, q, m->n_example, err);
    for (int i = 0; i < m->n_example && ok; i++)
        for (size_t k = 0; k < width; k++) m->centre[k] += (double)m->example[(size_t)i * width + k] / m->n_example;
    for (int i = 0; i < m->n_example && ok; i++) direct(m, m->example + (size_t)i * width);
    free(q);
    return ok;
}

bool select_model_open(SelectModel **out, Engine *e, const Chat *chat, const Constitution *c, const Selector *s,
                       int max_len, int candidates, Error *err) {
    SelectModel *m = mem_alloc(sizeof *m);
    *m = (SelectModel){.engine = e, .chat = chat, .con = c, .words = s, .max_len = max_len, .candidates = candidates};
    m->width = engine_width(e);
    m->n_choice = selector_choices(s, m->choice);
    m->centre = mem_alloc((size_t)m->width * sizeof *m->centre);
    if (embed_examples(m, err)) {
        *out = m;
        return true;
    }
    select_model_close(m);
    *out = NULL;
    return error_wrap(err, "embedding of the principles' examples");
}

void select_model_close(SelectModel *m) {
    if (!m) return;
    free(m->example);
    free(m->of);
    free(m->centre);
    free(m);
}

static void nearest(const SelectModel *m, const float *x, double near[MAX_PRINCIPLES]) {
    for (int i = 0; i < MAX_PRINCIPLES; i++) near[i] = -INFINITY;
    for (int i = 0; i < m->n_example; i++) {
        const float *y = m->example + (size_t)i * (size_t)m->width;
        double dot = 0;
        for (int k = 0; k < m->width; k++) dot += (double)x[k] * (double)y[k];
        near[m->of[i]] = fmax(near[m->of[i]], dot);
    }
}

/* -- sums ---------------------------------------------------------------------------------------------------------- */

/* to[choice] += z(from[choice]) */
static void add_z(double *to, const double *from, const int *choice, int n) {
    double mean = 0, sq = 0;
    for (int i = 0; i < n; i++) mean += from[choice[i]] / n;
    for (int i = 0; i < n; i++) sq += (from[choice[i]] - mean) * (from[choice[i]] - mean);
    double sd = sqrt(sq / n);
    for (int i = 0; i < n && sd > 1e-12; i++) to[choice[i]] += (from[choice[i]] - mean) / sd;
}

static bool embedding_scores(SelectModel *m, const SelectQuery *query, int n, double (*score)[64], Error *err) {
    float *x = mem_alloc((size_t)(n + 1) * (size_t)m->width * sizeof *x);
    Str both = {0};
    bool ok = embed(m, x, query, n, err);
    for (int i = 0; i < n && ok; i++) {
        double words[MAX_PRINCIPLES], near[MAX_PRINCIPLES];
        str_clear(&both);
        str_printf(&both, "%s %s", query[i].prompt, query[i].reply);
        selector_scores(m->words, str_get(&both), words);
        direct(m, x + (size_t)i * (size_t)m->width);
        nearest(m, x + (size_t)i * (size_t)m->width, near);
        memset(score[i], 0, sizeof score[i]);
        add_z(score[i], words, m->choice, m->n_choice);
        add_z(score[i], near, m->choice, m->n_choice);
    }
    str_release(&both);
    free(x);
    return ok;
}

/* -- odds ---------------------------------------------------------------------------------------------------------- */

typedef struct {
    Sequence *seq;
    Tokens *tok;
    float *lp;
    int (*rank)[MAX_PRINCIPLES];
    int per; /* candidates of a query */
    bool *fits;
} Odds;

static bool ask_odds(SelectModel *m, Odds *o, const SelectQuery *query, int n, Error *err) {
    Str rule = {0};
    int asked = 0;
    const int32_t option[] = {m->chat->id[SENT_YES], m->chat->id[SENT_NO]};
    for (int i = 0; i < n; i++) {
        Message msg = {ROLE_USER, query[i].prompt};
        o->fits[i] = true;
        for (int k = 0; k < o->per; k++) {
            Sequence *s = &o->seq[i * o->per + k];
            principle_text(&rule, &m->con->principle[o->rank[i][k]]);
            chat_applies_prompt(s, m->chat, (Dialogue){&msg, 1}, query[i].reply, str_get(&rule));
            o->fits[i] = o->fits[i] && s->tok.n <= m->max_len;
        }
        for (int k = 0; k < o->per && o->fits[i]; k++) {
            const Sequence *s = &o->seq[i * o->per + k];
            o->tok[asked++] = (Tokens){s->tok.id, s->tok.n};
        }
    }
    str_release(&rule);
    return sequences_ok(o->seq, n * o->per, err) && engine_options(m->engine, o->tok, asked, option, 2, o->lp, err);
}

static bool odds_scores(SelectModel *m, ScoreKind kind, const SelectQuery *query, int n, double (*score)[64],
                        Error *err) {
    Odds o = {.per = m->candidates < m->n_choice ? m->candidates : m->n_choice};
    size_t all = (size_t)n * (size_t)o.per + 1;
    o.seq = mem_alloc(all * sizeof *o.seq);
    o.tok = mem_alloc(all * sizeof *o.tok);
    o.lp = mem_alloc(2 * all * sizeof *o.lp);
    o.rank = mem_alloc((size_t)(n + 1) * sizeof *o.rank);
    o.fits = mem_alloc((size_t)(n + 1) * sizeof *o.fits);
    for (int i = 0; i < n; i++) selector_order(m->words, score[i], o.rank[i], NULL);
    bool ok = ask_odds(m, &o, query, n, err);
    int at = 0;
    for (int i = 0; i < n && ok; i++) {
        if (!o.fits[i]) continue;
        double odds[MAX_PRINCIPLES], to[MAX_PRINCIPLES];
        for (int k = 0; k < MAX_PRINCIPLES; k++) to[k] = -INFINITY;
        for (int k = 0; k < o.per; k++, at++) {
            int p = o.rank[i][k];
            odds[p] = (double)o.lp[2 * at] - (double)o.lp[2 * at + 1];
            to[p] = kind == SCORE_ODDS ? odds[p] : score[i][p];
        }
        if (kind == SCORE_FUSION) add_z(to, odds, o.rank[i], o.per);
        memcpy(score[i], to, sizeof to);
    }
    for (size_t i = 0; i < all; i++) sequence_release(&o.seq[i]);
    free(o.seq);
    free(o.tok);
    free(o.lp);
    free(o.rank);
    free(o.fits);
    return ok;
}

enum { CHUNK = 256 };

bool select_model_scores(SelectModel *m, ScoreKind kind, const SelectQuery *query, int n, double (*score)[64],
                         Error *err) {
    CHECK(score_asks_model(kind), "scores %d need no model", (int)kind);
    bool ok = true;
    for (int i = 0; i < n && ok; i += CHUNK) {
        int k = n - i < CHUNK ? n - i : CHUNK;
        ok = embedding_scores(m, query + i, k, score + i, err) &&
             (kind == SCORE_EMBEDDING || odds_scores(m, kind, query + i, k, score + i, err));
    }
    return ok;
}
