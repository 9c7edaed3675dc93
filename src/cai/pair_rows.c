#include "cai/pair_rows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool add_pair(void *ud, const Json *row, int line, Error *err) {
    PairRows *p = ud;
    PairRow r = {.q = NAN};
    static const char *const key[] = {"id", "prompt_id", "kind", "category", "prompt", "a", "b"};
    const char **field[] = {&r.id, &r.prompt_id, &r.kind, &r.category, &r.prompt, &r.a, &r.b};
    (void)line;
    for (int i = 0; i < COUNT_OF(key); i++) {
        const char *s;
        size_t n;
        if (!json_need_str(row, key[i], &s, &n, err)) return false;
        *field[i] = heap_strn(&p->heap, s, n);
    }
    if (p->n == p->cap) {
        p->cap = p->cap ? 2 * p->cap : 256;
        p->item = mem_grow(p->item, (size_t)p->cap * sizeof *p->item);
    }
    p->item[p->n++] = r;
    return true;
}

/* Labels stand in the order of the pairs. */
static bool add_label(void *ud, const Json *row, int line, Error *err) {
    PairRows *p = ud;
    const char *id;
    double q, weight;
    (void)line;
    if (!json_need_str(row, "id", &id, NULL, err) || !json_need_num(row, "q", &q, err) ||
        !json_need_num(row, "weight", &weight, err))
        return false;
    if (p->at >= p->n || strcmp(p->item[p->at].id, id))
        return error_set(err, ERR_STATE, "'%s' is not the pair of that line in pairs.jsonl", id);
    p->item[p->at].q = q;
    p->item[p->at++].weight = weight;
    return true;
}

bool pair_rows_read(PairRows *p, const char *pairs_dir, const char *label_dir, Error *err) {
    *p = (PairRows){0};
    if (jsonl_each(pairs_dir, "pairs.jsonl", add_pair, p, err) &&
        (!label_dir || jsonl_each(label_dir, "labels.jsonl", add_label, p, err))) {
        if (!label_dir || p->at == p->n) return true;
        error_set(err, ERR_STATE, "%s/labels.jsonl: %d labels for %d pairs", label_dir, p->at, p->n);
    }
    pair_rows_release(p);
    return false;
}

void pair_rows_release(PairRows *p) {
    free(p->item);
    heap_release(&p->heap);
    *p = (PairRows){0};
}
