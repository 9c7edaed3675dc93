/* From documents to requests: leaf tasks, shots, contexts. */
#include <stdlib.h>
#include <string.h>

#include "eval/pyrandom.h"
#include "eval/pytext.h"
#include "eval/task_int.h"

typedef struct {
    const char *value; /* of split.by; "": all */
    int *test, n_test; /* documents, by number */
    int *pool, n_pool;
} Part;

typedef struct {
    Task *t;
    Texts *texts;
    Docs *test, *pool; /* the same where shots come from the documents themselves */
    int64_t n_shot;
    Part *part;
    int n_part;
    int64_t cap_item, cap_request;
    Str context;
} Make;

/* -- leaf tasks -----------------------------------------------------------------------------------------------------
 */

/* Value of split.by as text. */
static const char *part_of(Make *m, const Doc *d, Error *err) {
    const char *by = m->t->cfg.split.by;
    if (!by[0]) return "";
    const Json *v = json_get(d->row, by);
    const char *s = v ? json_str(v, NULL) : NULL;
    if (s) return s;
    if (v && json_kind(v) == JSON_INT) return heap_printf(&m->t->heap, "%lld", (long long)json_int(v, 0));
    doc_error(d, err, "task '%s': column '%s', which splits it, is missing or neither text nor number", m->t->cfg.name,
              by);
    return NULL;
}

static Part *find_part(Make *m, const char *value, bool add) {
    for (int i = m->n_part - 1; i >= 0; i--) /* files are mostly sorted by it */
        if (!strcmp(m->part[i].value, value)) return &m->part[i];
    if (!add) return NULL;
    m->part = mem_grow(m->part, (size_t)(m->n_part + 1) * sizeof *m->part);
    m->part[m->n_part] = (Part){.value = value};
    return &m->part[m->n_part++];
}

static void put(int **list, int *n, int value) {
    if ((*n & (*n - 1)) == 0) *list = mem_grow(*list, (size_t)(*n ? 2 * *n : 1) * sizeof **list);
    (*list)[(*n)++] = value;
}

static bool split(Make *m, Error *err) {
    for (int i = 0; i < m->test->n; i++) {
        const char *value = part_of(m, &m->test->doc[i], err);
        if (!value) return false;
        Part *p = find_part(m, value, true);
        put(&p->test, &p->n_test, i);
        if (m->pool == m->test) put(&p->pool, &p->n_pool, i);
    }
    for (int i = 0; m->pool != m->test && i < m->pool->n; i++) {
        const char *value = part_of(m, &m->pool->doc[i], err);
        if (!value) return false;
        Part *p = find_part(m, value, false);
        if (p) put(&p->pool, &p->n_pool, i);
    }
    return true;
}

/* "subject=stem" lines of split.groups. */
static const char *group_of(Make *m, const char *value) {
    const CfgList *g = &m->t->cfg.split.groups;
    for (int i = 0; i < g->n; i++) {
        size_t n = strcspn(g->item[i], "=");
        if (strlen(value) == n && !strncmp(g->item[i], value, n)) return g->item[i] + n + (g->item[i][n] == '=');
    }
    return "";
}

static void add_leaf(Make *m, const Part *p) {
    Task *t = m->t;
    bool one = !t->cfg.split.by[0];
    TaskLeaf leaf = {.name = t->cfg.name};
    if (!one) {
        leaf.name = heap_printf(&t->heap, "%s_%s", t->cfg.name, p->value);
        leaf.group = group_of(m, p->value);
    }
    t->leaf = mem_grow(t->leaf, (size_t)(t->n_leaf + 1) * sizeof *t->leaf);
    t->leaf[t->n_leaf++] = leaf;
}

/* -- one document ---------------------------------------------------------------------------------------------------
 */

static bool has_choices(const Make *m) { return m->t->cfg.type == TASK_CHOICE || m->t->cfg.type == TASK_CONTEXTS; }

/* prompt delimiter answer separator. */
static const char *shot_text(Make *m, Doc *d, Error *err) {
    const TaskConfig *c = &m->t->cfg;
    if (d->shot) return d->shot;
    int n = 0, right = 0;
    const char **choice = NULL, *prompt = texts_make(m->texts, TEXT_PROMPT, d, err), *target = "";
    if (!prompt) return NULL;
    if (has_choices(m) &&
        (!(choice = texts_choices(m->texts, d, &n, err)) || !texts_answer(m->texts, d, choice, n, &right, err)))
        return NULL;
    if (c->type != TASK_CHOICE && !(target = texts_make(m->texts, TEXT_TARGET, d, err))) return NULL;
    if (c->type == TASK_CHOICE) target = choice[right];
    const char *more = c->type == TASK_CONTEXTS ? choice[right] : "";
    d->shot = heap_printf(&m->t->heap, "%s%s%s%s%s", prompt, more, c->delimiter, target, c->separator);
    return d->shot;
}

static bool same_row(const Doc *a, const Doc *b) {
    if (a->row == b->row) return true;
    Str x = {0}, y = {0};
    JsonOut j;
    json_out_init(&j, &x, 0);
    json_out_node(&j, NULL, a->row);
    json_out_init(&j, &y, 0);
    json_out_node(&j, NULL, b->row);
    bool same = x.n == y.n && !memcmp(str_get(&x), str_get(&y), x.n);
    str_release(&x);
    str_release(&y);
    return same;
}

/* Numbers of the shots of document `of`. In a pool of its own kind one more is drawn, and itself left out. */
static bool choose_shots(Make *m, const Part *p, const Doc *of, PyRandom *random, int *shot, Error *err) {
    int n = (int)m->n_shot, have = 0;
    bool own = m->pool == m->test, drawn = m->t->cfg.shots.sampler == SHOTS_RANDOM;
    if (n == 0) return true;
    if (p->n_pool < n + own)
        return doc_error(of, err, "task '%s'%s%s: %d examples to choose from, %d are needed", m->t->cfg.name,
                         p->value[0] ? ", " : "", p->value, p->n_pool - own, n);
    int k = drawn ? n + own : p->n_pool;
    int *order = mem_alloc((size_t)(k + 1) * sizeof *order);
    for (int i = 0; i < k; i++) order[i] = i;
    if (drawn) pyrandom_sample(random, order, p->n_pool, k);
    for (int i = 0; i < k && have < n; i++) {
        const Doc *d = &m->pool->doc[p->pool[order[i]]];
        if (!own || !same_row(d, of)) shot[have++] = p->pool[order[i]];
    }
    if (drawn && have < n) { /* copies of itself were drawn too: again, from the others */
        int rest = 0, *other = mem_alloc((size_t)(p->n_pool + 1) * sizeof *other);
        for (int i = 0; i < p->n_pool; i++)
            if (!same_row(&m->pool->doc[p->pool[i]], of)) other[rest++] = p->pool[i];
        if (rest >= n) {
            int *at = mem_alloc((size_t)(n + 1) * sizeof *at);
            pyrandom_sample(random, at, rest, n);
            for (have = 0; have < n; have++) shot[have] = other[at[have]];
            free(at);
        }
        free(other);
    }
    free(order);
    return have == n || doc_error(of, err, "task '%s': only %d of %d examples differ from the document itself",
                                  m->t->cfg.name, have, n);
}

static void add_request(Make *m, const char *ctx, const char *cont) {
    Task *t = m->t;
    if (t->n_request == m->cap_request) {
        m->cap_request = m->cap_request ? 2 * m->cap_request : 1024;
        t->request = mem_grow(t->request, (size_t)m->cap_request * sizeof *t->request);
    }
    t->request[t->n_request++] = (LikelihoodRequest){.ctx = ctx, .cont = cont};
}

static TaskItem *add_item(Make *m, int leaf, int doc) {
    Task *t = m->t;
    if (t->n_item == m->cap_item) {
        m->cap_item = m->cap_item ? 2 * m->cap_item : 256;
        t->item = mem_grow(t->item, (size_t)m->cap_item * sizeof *t->item);
    }
    t->item[t->n_item] = (TaskItem){.leaf = leaf, .doc = doc, .first = t->n_request, .n = 1};
    return &t->item[t->n_item++];
}

static bool choice_requests(Make *m, TaskItem *it, const Doc *d, const char *prompt, Error *err) {
    const TaskConfig *c = &m->t->cfg;
    Heap *heap = &m->t->heap;
    const char **choice = texts_choices(m->texts, d, &it->n, err), *target = NULL;
    if (!choice || !texts_answer(m->texts, d, choice, it->n, &it->answer, err)) return false;
    if (c->type == TASK_CONTEXTS && !(target = texts_make(m->texts, TEXT_TARGET, d, err))) return false;
    it->len = heap_alloc(heap, (size_t)it->n * sizeof *it->len);
    it->bytes = heap_alloc(heap, (size_t)it->n * sizeof *it->bytes);
    if (c->labels[0]) {
        it->label = heap_alloc(heap, (size_t)it->n * sizeof *it->label);
        if (!texts_labels(m->texts, d, it->n, it->label, err)) return false;
    }
    const char *ctx = NULL, *cont = NULL;
    if (target) cont = heap_printf(heap, "%s%s", c->delimiter, target);
    if (!target) ctx = heap_printf(heap, "%s%s", str_get(&m->context), prompt);
    for (int i = 0; i < it->n; i++) {
        size_t n = strlen(choice[i]);
        it->len[i] = (int)py_len(choice[i], n);
        it->bytes[i] = (int)n;
        if (target) ctx = heap_printf(heap, "%s%s%s", str_get(&m->context), prompt, choice[i]);
        add_request(m, ctx, target ? cont : heap_printf(heap, "%s%s", c->delimiter, choice[i]));
    }
    return true;
}

static bool text_requests(Make *m, TaskItem *it, const Doc *d, const char *prompt, Error *err) {
    const TaskConfig *c = &m->t->cfg;
    const char *target = texts_make(m->texts, TEXT_TARGET, d, err);
    if (!target) return false;
    if (c->type == TASK_TEXT) {
        add_request(m, heap_printf(&m->t->heap, "%s%s", str_get(&m->context), prompt), target);
        return true;
    }
    const char *counted = c->count[0] ? texts_make(m->texts, TEXT_COUNT, d, err) : target;
    if (!counted) return false;
    it->words = py_words(counted, strlen(counted));
    it->n_bytes = (int64_t)strlen(counted);
    add_request(m, target, NULL);
    return true;
}

static bool add_doc(Make *m, int leaf, const Part *p, int number, PyRandom *random, Error *err) {
    Doc *d = &m->test->doc[p->test[number]];
    int *shot = mem_alloc((size_t)(m->n_shot + 1) * sizeof *shot);
    const char *head = texts_make(m->texts, TEXT_DESCRIPTION, d, err);
    bool ok = head && choose_shots(m, p, d, random, shot, err);
    str_clear(&m->context);
    str_put(&m->context, head ? head : "");
    for (int i = 0; i < m->n_shot && ok; i++) {
        const char *s = shot_text(m, &m->pool->doc[shot[i]], err);
        ok = s != NULL;
        if (ok) str_put(&m->context, s);
    }
    free(shot);
    const char *prompt = ok ? texts_make(m->texts, TEXT_PROMPT, d, err) : NULL;
    if (!prompt) return false;
    TaskItem *it = add_item(m, leaf, number);
    return has_choices(m) ? choice_requests(m, it, d, prompt, err) : text_requests(m, it, d, prompt, err);
}

bool task_requests(Task *t, Texts *texts, Docs *test, Docs *pool, const TaskOptions *o, Error *err) {
    Make m = {.t = t, .texts = texts, .test = test, .pool = pool ? pool : test};
    m.n_shot = o->shots >= 0 ? o->shots : t->cfg.shots.n;
    bool ok = split(&m, err);
    for (int k = 0; k < m.n_part && ok; k++) {
        const Part *p = &m.part[k];
        PyRandom random;
        pyrandom_seed(&random, (uint64_t)t->cfg.shots.seed);
        add_leaf(&m, p);
        int n = o->limit > 0 && o->limit < p->n_test ? (int)o->limit : p->n_test;
        for (int i = 0; i < n && ok; i++) ok = add_doc(&m, k, p, i, &random, err);
    }
    for (int k = 0; k < m.n_part; k++) {
        free(m.part[k].test);
        free(m.part[k].pool);
    }
    free(m.part);
    str_release(&m.context);
    return ok;
}
