#include "engine/lead.h"

#include <stdlib.h>
#include <string.h>

#include "dist/agree.h"
#include "engine/engine_int.h"

enum { MOST = 64 }; /* nets and engines open at one time */

struct Lead {
    const Mesh *share;
    const char *idle;
    bool net[MOST], engine[MOST]; /* numbers in use */
};

/* -- messages: a head, then as many bytes as it says */

typedef struct {
    int64_t verb, number, of; /* LeadVerb; of a net or an engine; of the net beneath an engine */
    int64_t kind, n, n_option, bytes;
    double temp;
} Told;

static const char body_site[] = "lead.body";

static void tell(const Lead *l, Told t, const Str *body) {
    t.bytes = body ? (int64_t)body->n : 0;
    comm_broadcast(l->share->tp, &t, (int64_t)sizeof t, DTYPE_I8, 0, l->idle);
    if (t.bytes > 0) comm_broadcast(l->share->tp, body->s, t.bytes, DTYPE_I8, 0, body_site);
}

static void put_tokens(Str *s, const Tokens *t, int n) {
    for (int i = 0; i < n; i++) {
        int64_t len = t[i].n;
        str_putn(s, &len, sizeof len);
        if (len > 0) str_putn(s, t[i].tok, (size_t)len * sizeof *t[i].tok);
        if (len % 2) str_putn(s, &(int32_t){0}, sizeof(int32_t)); /* lengths stay aligned */
    }
}

static const unsigned char *get_tokens(Tokens *t, int n, const unsigned char *at) {
    for (int i = 0; i < n; i++) {
        int64_t len;
        memcpy(&len, at, sizeof len);
        at += sizeof len;
        t[i] = (Tokens){(const int32_t *)(const void *)at, (int)len};
        at += (size_t)(len + len % 2) * sizeof(int32_t);
    }
    return at;
}

/* -- rank 0 */

Lead *lead_begin(const Mesh *share, const char *idle) {
    Lead *l = mem_alloc(sizeof *l);
    *l = (Lead){.share = share, .idle = idle};
    return l;
}

void lead_end(Lead *l) {
    if (!l) return;
    tell(l, (Told){.verb = LEAD_END}, NULL);
    free(l);
}

static int take(bool *used) {
    int i = 0;
    while (i < MOST && used[i]) i++;
    CHECK(i < MOST, "more than %d nets or engines that ranks share", MOST);
    used[i] = true;
    return i;
}

static bool net_open(Model *m, Head *h, const Mesh *share, Backend *be, const char *dir, HeadKind kind,
                     const Error *broken, Error *err) {
    Error mine = *broken, none = {0};
    bool opened = mine.code == ERR_NONE && model_open_on(m, be, dir, share, false, &mine);
    if (opened && !head_open(h, m, kind, dir, false, &mine)) {
        model_release(m);
        opened = false;
    }
    if (opened) mine = none;
    if (agree(share->tp, &mine, NULL, 0, NULL, err)) return true;
    if (opened) {
        head_release(h);
        model_release(m);
    }
    return false;
}

bool lead_net_open(Lead *l, Model *m, Head *h, Backend *be, const char *dir, HeadKind kind, Error *err) {
    Str body = {0};
    const Error none = {0};
    int number = take(l->net);
    str_putn(&body, dir, strlen(dir) + 1);
    tell(l, (Told){.verb = LEAD_NET, .number = number, .kind = (int64_t)kind}, &body);
    str_release(&body);
    bool ok = net_open(m, h, l->share, be, dir, kind, &none, err);
    if (ok)
        m->part.lead = l, m->part.lead_number = number;
    else
        l->net[number] = false;
    return ok;
}

void lead_net_close(const Model *m) {
    Lead *l = m->part.lead;
    if (!l) return;
    tell(l, (Told){.verb = LEAD_NET_CLOSE, .number = m->part.lead_number}, NULL);
    l->net[m->part.lead_number] = false;
}

bool lead_engine_open(Engine *e, const EngineConfig *c, Error *err) {
    const ModelPart *part = &e->net.trunk->part;
    Str body = {0};
    if (!part->lead) return true;
    e->lead = part->lead;
    e->share.led = true;
    e->lead_number = take(e->lead->engine);
    str_putn(&body, c, sizeof *c);
    tell(e->lead, (Told){.verb = LEAD_ENGINE, .number = e->lead_number, .of = part->lead_number}, &body);
    str_release(&body);
    return share_agree(e, true, err);
}

void lead_engine_close(Engine *e) {
    if (!e->lead) return;
    tell(e->lead, (Told){.verb = LEAD_ENGINE_CLOSE, .number = e->lead_number}, NULL);
    e->lead->engine[e->lead_number] = false;
}

typedef struct { /* what a follower has to know of a request; behind it its stops and its prompt, as Tokens */
    uint64_t id;
    double temperature;
    int64_t max_new;
} Asked;

void lead_generate(Engine *e, const GenRequest *req, int n) {
    Str body = {0};
    if (!e->lead) return;
    for (int i = 0; i < n; i++) {
        const SampleParams *p = &req[i].sample;
        const Asked a = {req[i].id, p->temperature, p->max_new};
        const Tokens behind[] = {{p->stop, p->n_stop}, req[i].prompt};
        str_putn(&body, &a, sizeof a);
        put_tokens(&body, behind, COUNT_OF(behind));
    }
    tell(e->lead, (Told){.verb = LEAD_GENERATE, .number = e->lead_number, .n = n}, &body);
    str_release(&body);
}

void lead_score(Engine *e, LeadVerb verb, const Tokens *prefix, const Tokens *text, int n, float temp,
                const int32_t *option, int n_option) {
    Str body = {0};
    const Tokens options = {option, n_option};
    if (!e->lead) return;
    if (prefix) put_tokens(&body, prefix, n);
    put_tokens(&body, text, n);
    put_tokens(&body, &options, 1);
    Told t = {.verb = (int64_t)verb, .number = e->lead_number, .n = n, .n_option = n_option, .temp = (double)temp};
    t.kind = prefix != NULL;
    tell(e->lead, t, &body);
    str_release(&body);
}

/* -- the others */

typedef struct {
    const Mesh *share;
    Backend *be;
    const Error *broken;
    Model m[MOST];
    Head h[MOST];
    bool open[MOST];
    Engine *engine[MOST];
} Follower;

static void follow_net(Follower *f, const Told *t, const unsigned char *body) {
    Error ignore; /* rank 0 has it too, and ends what it does */
    f->open[t->number] = net_open(&f->m[t->number], &f->h[t->number], f->share, f->be, (const char *)body,
                                  (HeadKind)t->kind, f->broken, &ignore);
}

static void close_net(Follower *f, int i) {
    if (!f->open[i]) return;
    head_release(&f->h[i]);
    model_release(&f->m[i]);
    f->open[i] = false;
}

static void follow_engine(Follower *f, const Told *t, const unsigned char *body) {
    EngineConfig c;
    Error mine = {0}, ignore;
    memcpy(&c, body, sizeof c);
    Engine **e = &f->engine[t->number];
    if (engine_open(e, (Net){&f->m[t->of], &f->h[t->of], NULL}, &c, &mine)) {
        (*e)->share.led = true;
        mine = (Error){0};
    }
    agree(f->share->tp, &mine, NULL, 0, NULL,
          &ignore); /* rank 0, which has opened its own, closes it where we cannot */
}

static void follow_generate(Engine *e, const Told *t, const unsigned char *at) {
    int n = (int)t->n;
    GenRequest *req = mem_alloc((size_t)(n + 1) * sizeof *req);
    GenResult *res = mem_alloc((size_t)(n + 1) * sizeof *res);
    Error ignore;
    for (int i = 0; i < n; i++) {
        Asked a;
        Tokens behind[2];
        memcpy(&a, at, sizeof a);
        at = get_tokens(behind, 2, at + sizeof a);
        SampleParams p = {.temperature = a.temperature, .top_p = 1, .repetition = 1, .max_new = (int)a.max_new};
        p.stop = behind[0].tok, p.n_stop = behind[0].n;
        req[i] = (GenRequest){a.id, behind[1], p};
    }
    if (engine_generate(e, req, n, res, NULL, NULL, &ignore)) engine_free_results(res, n);
    free(req);
    free(res);
}

static void follow_score(Engine *e, const Told *t, const unsigned char *at) {
    int n = (int)t->n;
    Tokens *prefix = mem_alloc(2 * (size_t)(n + 1) * sizeof *prefix), *text = prefix + n + 1, option;
    size_t all = 1;
    Error ignore;
    if (t->kind) at = get_tokens(prefix, n, at);
    at = get_tokens(text, n, at);
    get_tokens(&option, 1, at);
    for (int i = 0; i < n; i++) all += (size_t)text[i].n;
    size_t wide = (size_t)(engine_width(e) > e->n_out ? engine_width(e) : e->n_out);
    float *flat = mem_alloc((all + (size_t)n * (wide + (size_t)t->n_option)) * sizeof *flat), *next = flat;
    float **each = mem_alloc((size_t)(n + 1) * sizeof *each);
    bool *greedy = mem_alloc((size_t)n + 1);
    for (int i = 0; i < n; i++, next += text[i - 1].n) each[i] = next;
    switch ((LeadVerb)t->verb) {
    case LEAD_SCORE:
        engine_score(e, prefix, text, n, (float)t->temp, each, &ignore);
        break;
    case LEAD_SCORE_GREEDY:
        engine_score_greedy(e, prefix, text, n, each, greedy, &ignore);
        break;
    case LEAD_OPTIONS:
        engine_options(e, text, n, option.tok, option.n, flat, &ignore);
        break;
    case LEAD_SCORE_LAST:
        engine_score_last(e, text, n, flat, &ignore);
        break;
    case LEAD_SCORE_ALL:
        engine_score_all(e, text, n, each, &ignore);
        break;
    case LEAD_EMBED:
        engine_embed(e, text, n, flat, &ignore);
        break;
    case LEAD_LOGITS:
        engine_logits(e, text[0], flat, &ignore);
        break;
    default:
        CHECK(false, "verb %d", (int)t->verb);
    }
    free(prefix);
    free(flat);
    free(each);
    free(greedy);
}

static void follow_one(Follower *f, const Told *t, const unsigned char *body) {
    int i = (int)t->number;
    switch ((LeadVerb)t->verb) {
    case LEAD_END:
        break;
    case LEAD_NET:
        follow_net(f, t, body);
        break;
    case LEAD_NET_CLOSE:
        close_net(f, i);
        break;
    case LEAD_ENGINE:
        follow_engine(f, t, body);
        break;
    case LEAD_ENGINE_CLOSE:
        engine_close(f->engine[i]);
        f->engine[i] = NULL;
        break;
    case LEAD_GENERATE:
        follow_generate(f->engine[i], t, body);
        break;
    default:
        follow_score(f->engine[i], t, body);
    }
}

bool lead_follow(const Mesh *share, Backend *be, const Error *broken, double timeout_s, const char *idle, Error *err) {
    Follower *f = mem_alloc(sizeof *f);
    Told t;
    *f = (Follower){.share = share, .be = be, .broken = broken};
    do {
        double was = comm_deadline(share->tp, 0);
        t = (Told){.verb = LEAD_END};
        comm_broadcast(share->tp, &t, (int64_t)sizeof t, DTYPE_I8, 0, idle);
        comm_deadline(share->tp, timeout_s);
        bool there = comm_ok(share->tp, err);
        unsigned char *body = there && t.bytes > 0 ? mem_alloc((size_t)t.bytes) : NULL;
        if (body) comm_broadcast(share->tp, body, t.bytes, DTYPE_I8, 0, body_site);
        if (comm_ok(share->tp, err)) follow_one(f, &t, body);
        comm_deadline(share->tp, was);
        free(body);
    } while (t.verb != LEAD_END && comm_ok(share->tp, err));
    for (int i = 0; i < MOST; i++) engine_close(f->engine[i]);
    for (int i = 0; i < MOST; i++) close_net(f, i);
    free(f);
    return comm_ok(share->tp, err);
}
