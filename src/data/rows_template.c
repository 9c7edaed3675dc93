/* Prompts written as a template: {template: "how do i {verb} {object} ?", slots: {verb: [..], object: [..]}} stands for
 * a row per choice of values, the last slot changing fastest, with ids "<id>-1", "<id>-2", ... in that order. */
#include "data/rows_int.h"

#include <string.h>

enum { MAX_PIECES = 32, MAX_ROWS = 100000 };

typedef struct {
    const char *s; /* literal text before the slot */
    int n, slot;   /* -1 after the last literal */
} Piece;

typedef struct {
    Piece piece[MAX_PIECES];
    int n;
    const Json *list[MAX_PIECES]; /* values by slot, in order of the slots object */
    int n_slot;
} Template;

static int find_slot(const Json *slots, const char *name, size_t n) {
    for (int i = 0; i < json_len(slots); i++) {
        const Json *value;
        const char *key = json_key_at(slots, i, &value);
        if (strlen(key) == n && !memcmp(key, name, n)) return i;
    }
    return -1;
}

static bool read_pieces(RowIn *in, Template *t, const char *s, const Json *slots) {
    bool used[MAX_PIECES] = {false};
    while (t->n < MAX_PIECES) {
        size_t n = strcspn(s, "{}");
        Piece *p = &t->piece[t->n++];
        *p = (Piece){s, (int)n, -1};
        if (!s[n]) {
            for (int i = 0; i < t->n_slot; i++) {
                if (!used[i]) return row_bad(in, "slots has a list that the template does not use (number %d)", i + 1);
            }
            return true;
        }
        const char *name = s + n + 1, *end = strchr(name, '}');
        if (s[n] == '}' || !end) return row_bad(in, "template has a brace without its partner");
        p->slot = find_slot(slots, name, (size_t)(end - name));
        if (p->slot < 0) return row_bad(in, "template names {%.*s}, which slots lacks", (int)(end - name), name);
        used[p->slot] = true;
        s = end + 1;
    }
    return row_bad(in, "template has more than %d slots", MAX_PIECES - 1);
}

static bool read_slots(RowIn *in, Template *t, const Json *slots, int64_t *total) {
    *total = 1;
    if (!slots || json_kind(slots) != JSON_OBJ) return row_bad(in, "slots must be an object {name: [..]}");
    if (json_len(slots) >= MAX_PIECES) return row_bad(in, "slots has more than %d lists", MAX_PIECES - 1);
    for (t->n_slot = 0; t->n_slot < json_len(slots); t->n_slot++) {
        const char *key = json_key_at(slots, t->n_slot, &t->list[t->n_slot]);
        const Json *list = t->list[t->n_slot];
        int n = list ? json_len(list) : 0;
        if (json_kind(list) != JSON_ARR || n == 0) return row_bad(in, "slot '%.40s' must be a list of strings", key);
        for (int i = 0; i < n; i++) {
            const char *value;
            if (!json_str(json_at(list, i), NULL)) return row_bad(in, "slot '%.40s' must be a list of strings", key);
            if (!row_text(in, json_at(list, i), key, &value, NULL)) return false;
        }
        *total *= n;
        if (*total > MAX_ROWS) return row_bad(in, "the template stands for more than %d prompts", MAX_ROWS);
    }
    return true;
}

static void put_choice(Str *out, const Template *t, int64_t k) {
    int value[MAX_PIECES] = {0};
    for (int i = t->n_slot - 1; i >= 0; i--) {
        int n = json_len(t->list[i]);
        value[i] = (int)(k % n);
        k /= n;
    }
    str_clear(out);
    for (int i = 0; i < t->n; i++) {
        size_t n;
        str_putn(out, t->piece[i].s, (size_t)t->piece[i].n);
        if (t->piece[i].slot < 0) continue;
        const char *s = json_str(json_at(t->list[t->piece[i].slot], value[t->piece[i].slot]), &n);
        str_putn(out, s, n);
    }
}

bool row_template(RowIn *in, Row *base) {
    Template t;
    int64_t total;
    const Json *slots = row_get(in, "slots");
    const char *s;
    Heap *h = &in->rows->heap;
    Str text = {0};
    memset(&t, 0, sizeof t);
    if (!row_text(in, row_get(in, "template"), "template", &s, NULL)) return false;
    if (!*s) return row_bad(in, "template must be a string that is not empty");
    if (!read_slots(in, &t, slots, &total) || !read_pieces(in, &t, s, slots)) return false;
    for (int64_t k = 0; k < total; k++) {
        Row row = *base;
        Message *m = heap_alloc(h, sizeof *m);
        put_choice(&text, &t, k);
        *m = (Message){ROLE_USER, heap_strn(h, str_get(&text), text.n)};
        row.id = heap_printf(h, "%s-%lld", base->id, (long long)k + 1);
        row.prompt = (Dialogue){m, 1};
        rows_put(in->rows, &row);
    }
    str_release(&text);
    return in->put = true;
}
