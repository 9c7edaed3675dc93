#include "eval/contamination.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/cell.h"
#include "eval/detect.h"
#include "eval/stats.h"
#include "text/chars.h"

typedef struct {
    uint64_t key;
    int32_t item;
    int32_t next; /* entry with the same key; -1: none */
} Entry;

typedef struct {
    const char *id;
    int set;
    bool hit, full; /* full: some text of it has n words */
    int32_t train;  /* file of the first hit */
    int line;
    const char *words;
} Item;

typedef struct {
    const char *name;
    Hash hash;
    int64_t documents, words;
} File;

struct Contamination {
    int n;
    Heap heap;
    Item *item;
    int32_t n_item, cap_item;
    Entry *entry;
    int32_t n_entry, cap_entry;
    int32_t *table; /* (mask + 1) first entry of a key, -1: none */
    uint64_t mask;
    File *set, *train;
    int n_set, n_train;
    bool length[256]; /* of n-grams in use: n, and the lengths of shorter items */
    uint64_t power[256];
    /* Of the text looked at: */
    uint64_t *prefix; /* (n_word + 1) polynomial hash of the words before */
    uint32_t *from, *to;
    int n_word, cap_word;
};

static const uint64_t BASE = 0x9E3779B97F4A7C15u;

Contamination *contamination_new(int n) {
    CHECK(n >= CONTAMINATION_LEAST && n < 256, "n-grams of %d words", n);
    Contamination *c = mem_alloc(sizeof *c);
    c->n = n;
    c->power[0] = 1;
    for (int i = 1; i < 256; i++) c->power[i] = c->power[i - 1] * BASE;
    return c;
}

void contamination_free(Contamination *c) {
    if (!c) return;
    heap_release(&c->heap);
    free(c->item);
    free(c->entry);
    free(c->table);
    free(c->set);
    free(c->train);
    free(c->prefix);
    free(c->from);
    free(c->to);
    free(c);
}

/* -- words --------------------------------------------------------------------------------------------------------- */

typedef enum { BETWEEN, IN_WORD, A_WORD } Place; /* A_WORD: of a script without spaces, where every character is one */

static Place place_of(uint32_t c) {
    if (c < 0x80) {
        bool letter = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        return letter ? IN_WORD : BETWEEN;
    }
    /* Thai, Lao, Burmese, Khmer; kana; Han */
    static const struct {
        uint32_t first, last;
    } unspaced[] = {{0x0E00, 0x0EFF}, {0x1000, 0x109F}, {0x1780, 0x17FF},  {0x3040, 0x30FF},
                    {0x3400, 0x9FFF}, {0xF900, 0xFAFF}, {0x20000, 0x3FFFF}};
    bool letter = char_is_word(c);
    for (int i = 0; i < COUNT_OF(unspaced) && letter; i++)
        if (c >= unspaced[i].first && c <= unspaced[i].last) return A_WORD;
    return letter ? IN_WORD : BETWEEN;
}

/* The character at p, and where the next one begins; a byte that is none counts as a letter of its own kind. */
static const char *next_char(const char *p, uint32_t *c) {
    unsigned char byte = (unsigned char)*p;
    *c = byte;
    if (byte < 0x80) return p + 1;
    size_t n = utf8_char((const unsigned char *)p, strnlen(p, 4), c);
    if (n > 0) return p + n;
    *c = 0xC0 + (byte & 0x1F); /* a Latin letter */
    return p + 1;
}

/* As it counts: case folded. Returns bytes; room for eight. */
static size_t put_folded(char *to, uint32_t c) {
    uint32_t low[2];
    size_t n = 0;
    if (c < 0x80) return to[0] = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c), 1;
    if (c == 0xDF || c == 0x1E9E) return to[0] = to[1] = 's', 2; /* sharp s */
    for (int i = 0, many = char_lower(c, low); i < many; i++) n += utf8_write(to + n, low[i]);
    return n;
}

/* The next word from p on, folded and cut to what `word` holds; false: there is none left. *from, *to: its place. */
static bool next_word(const char *p, const char **from, const char **to, char word[64], size_t *n) {
    uint32_t c = 0;
    const char *after = p;
    Place place = BETWEEN;
    for (; *p; p = after)
        if (after = next_char(p, &c), (place = place_of(c)) != BETWEEN) break;
    *from = p;
    *n = 0;
    if (!*p) return false;
    for (;;) {
        if (*n + 8 <= 64) *n += put_folded(word + *n, c);
        *to = p = after;
        if (place == A_WORD || !*p) return true;
        after = next_char(p, &c);
        if (place_of(c) != IN_WORD) return true;
    }
}

/* Where the words are, and H_k = sum over words before k of hash(word) BASE^(k-1-i): the hash of any window is then
 * H_(k+L) - H_k BASE^L. */
static void split_words(Contamination *c, const char *s) {
    char word[64];
    const char *start, *end;
    size_t n;
    c->n_word = 0;
    for (const char *p = s;; p = end) {
        if (c->n_word + 1 >= c->cap_word) {
            c->cap_word = c->cap_word * 2 + 256;
            c->prefix = mem_grow(c->prefix, (size_t)c->cap_word * sizeof *c->prefix);
            c->from = mem_grow(c->from, (size_t)c->cap_word * sizeof *c->from);
            c->to = mem_grow(c->to, (size_t)c->cap_word * sizeof *c->to);
        }
        if (c->n_word == 0) c->prefix[0] = 0;
        if (!next_word(p, &start, &end, word, &n)) return;
        c->from[c->n_word] = (uint32_t)(start - s);
        c->to[c->n_word] = (uint32_t)(end - s);
        c->prefix[c->n_word + 1] = c->prefix[c->n_word] * BASE + hash_bytes(word, n).lo;
        c->n_word++;
    }
}

static uint64_t window(const Contamination *c, int at, int len) {
    uint64_t h = c->prefix[at + len] - c->prefix[at] * c->power[len];
    h ^= (uint64_t)len << 56;
    h *= 0xFF51AFD7ED558CCDu;
    return h ^ (h >> 33);
}

/* -- items --------------------------------------------------------------------------------------------------------- */

void contamination_set(Contamination *c, const char *name, Hash hash) {
    c->set = mem_grow(c->set, (size_t)(c->n_set + 1) * sizeof *c->set);
    c->set[c->n_set++] = (File){heap_printf(&c->heap, "%s", name), hash, 0, 0};
}

static void rehash(Contamination *c) {
    uint64_t size = c->mask ? (c->mask + 1) * 2 : 1024;
    free(c->table);
    c->table = mem_alloc((size_t)size * sizeof *c->table);
    c->mask = size - 1;
    for (uint64_t i = 0; i < size; i++) c->table[i] = -1;
    for (int32_t i = 0; i < c->n_entry; i++) {
        uint64_t at = c->entry[i].key & c->mask;
        while (c->table[at] >= 0 && c->entry[c->table[at]].key != c->entry[i].key) at = (at + 1) & c->mask;
        c->entry[i].next = c->table[at];
        c->table[at] = i;
    }
}

static void put_entry(Contamination *c, uint64_t key, int32_t item) {
    if ((uint64_t)c->n_entry * 2 >= c->mask) rehash(c);
    if (c->n_entry == c->cap_entry)
        c->entry = mem_grow(c->entry, (size_t)(c->cap_entry = c->cap_entry * 2 + 1024) * sizeof *c->entry);
    uint64_t at = key & c->mask;
    while (c->table[at] >= 0 && c->entry[c->table[at]].key != key) at = (at + 1) & c->mask;
    c->entry[c->n_entry] = (Entry){key, item, c->table[at]};
    c->table[at] = c->n_entry++;
}

void contamination_item(Contamination *c, const char *id, const char *const *text, int n_text) {
    CHECK(c->n_set > 0, "an item of no set");
    if (c->n_item == c->cap_item)
        c->item = mem_grow(c->item, (size_t)(c->cap_item = c->cap_item * 2 + 256) * sizeof *c->item);
    Item *x = &c->item[c->n_item];
    *x = (Item){.id = heap_printf(&c->heap, "%s", id), .set = c->n_set - 1};
    for (int t = 0; t < n_text; t++) {
        if (!text[t]) continue;
        split_words(c, text[t]);
        int len = c->n_word < c->n ? c->n_word : c->n;
        x->full |= len == c->n;
        if (len < CONTAMINATION_LEAST) continue;
        c->length[len] = true;
        for (int at = 0; at + len <= c->n_word; at++) put_entry(c, window(c, at, len), c->n_item);
    }
    c->n_item++;
}

/* -- training texts ------------------------------------------------------------------------------------------------ */

void contamination_train(Contamination *c, const char *name, Hash hash) {
    c->train = mem_grow(c->train, (size_t)(c->n_train + 1) * sizeof *c->train);
    c->train[c->n_train++] = (File){heap_printf(&c->heap, "%s", name), hash, 0, 0};
}

static void mark(Contamination *c, uint64_t key, const char *text, int at, int len, int line) {
    uint64_t slot = key & c->mask;
    while (c->table[slot] >= 0 && c->entry[c->table[slot]].key != key) slot = (slot + 1) & c->mask;
    for (int32_t e = c->table[slot]; e >= 0; e = c->entry[e].next) {
        Item *x = &c->item[c->entry[e].item];
        if (x->hit) continue;
        x->hit = true;
        x->train = c->n_train - 1;
        x->line = line;
        x->words = heap_strn(&c->heap, text + c->from[at], c->to[at + len - 1] - c->from[at]);
    }
}

void contamination_text(Contamination *c, const char *text, int line, bool first_of_document) {
    CHECK(c->n_train > 0, "a text of no file");
    File *f = &c->train[c->n_train - 1];
    split_words(c, text);
    f->documents += first_of_document;
    f->words += c->n_word;
    for (int len = CONTAMINATION_LEAST; len <= c->n && c->mask; len++)
        for (int at = 0; c->length[len] && at + len <= c->n_word; at++)
            mark(c, window(c, at, len), text, at, len, line);
}

/* -- files of rows ------------------------------------------------------------------------------------------------- */

static bool read_rows(Rows *rows, Hash *hash, const char *file, Pool *pool, Error *err) {
    *rows = (Rows){0};
    if (!hash_file(hash, file, err)) return false;
    if (rows_read_pool(rows, file, ROW_ANY, NULL, pool, err)) return true;
    rows_release(rows);
    return false;
}

bool contamination_set_file(Contamination *c, const char *file, Pool *pool, Error *err) {
    Rows rows;
    Hash hash;
    if (!read_rows(&rows, &hash, file, pool, err)) return false;
    contamination_set(c, file, hash);
    Str choice = {0};
    for (int i = 0; i < rows.n; i++) {
        const Row *r = &rows.row[i];
        const char *prompt = r->prompt.n ? dialogue_last_user(r->prompt) : r->a;
        if (r->kind == ROW_PARAPHRASE) {
            contamination_item(c, r->id, r->list, r->n_list);
            continue;
        }
        if (r->kind == ROW_CHOICE && r->label >= 0 && r->label < r->n_list) {
            str_clear(&choice);
            str_printf(&choice, "%s %s", prompt, r->list[r->label]);
            prompt = str_get(&choice);
        }
        contamination_item(c, r->id, &prompt, 1);
    }
    str_release(&choice);
    rows_release(&rows);
    return true;
}

bool contamination_train_file(Contamination *c, const char *file, Pool *pool, Error *err) {
    Rows rows;
    Hash hash;
    if (!read_rows(&rows, &hash, file, pool, err)) return false;
    contamination_train(c, file, hash);
    for (int i = 0; i < rows.n; i++) {
        const Row *r = &rows.row[i];
        const char *more[] = {r->a, r->b, r->critique, r->talk, r->tools};
        bool first = true;
        for (int k = 0; k < r->prompt.n; k++, first = false)
            contamination_text(c, r->prompt.msg[k].text, r->line, first);
        for (int k = 0; k < COUNT_OF(more); k++) {
            if (!more[k]) continue;
            contamination_text(c, more[k], r->line, first);
            first = false;
        }
        for (int k = 0; k < r->n_list; k++, first = false) contamination_text(c, r->list[k], r->line, first);
    }
    rows_release(&rows);
    return true;
}

bool contamination_train_list(Contamination *c, const char *files, Pool *pool, Error *err) {
    for (const char *s = files; *s;) {
        size_t n = strcspn(s, ",");
        Str file = {0};
        str_putn(&file, s, n);
        bool ok = n == 0 || contamination_train_file(c, str_get(&file), pool, err);
        str_release(&file);
        if (!ok) return false;
        s += n + (s[n] != 0);
    }
    return true;
}

/* -- tasks --------------------------------------------------------------------------------------------------------- */

/* What stands behind the last separator: a prompt of one piece as a whole, of several its last piece. */
static const char *own_part(const char *ctx, const char *separator) {
    const char *last = ctx;
    size_t n = strlen(separator);
    for (const char *at = n ? strstr(ctx, separator) : NULL; at; at = strstr(at + n, separator))
        if (at[n]) last = at + n;
    return last;
}

void contamination_task(Contamination *c, const Task *t) {
    Str text = {0}, id = {0};
    contamination_set(c, t->cfg.name, t->data);
    for (int64_t i = 0; i < t->n_item; i++) {
        const TaskItem *x = &t->item[i];
        int answer = t->cfg.type == TASK_CHOICE || t->cfg.type == TASK_CONTEXTS ? x->answer : 0;
        const LikelihoodRequest *r = &t->request[x->first + (answer >= 0 && answer < x->n ? answer : 0)];
        str_clear(&text);
        str_clear(&id);
        str_put(&text, own_part(r->ctx, t->cfg.separator));
        if (r->cont) str_put(&text, r->cont);
        str_printf(&id, "%s %d", t->leaf[x->leaf].name, x->doc);
        const char *one = str_get(&text);
        contamination_item(c, str_get(&id), &one, 1);
    }
    str_release(&text);
    str_release(&id);
}

/* -- results ------------------------------------------------------------------------------------------------------- */

int contamination_sets(const Contamination *c) { return c->n_set; }

ContaminationCount contamination_count(const Contamination *c, int set) {
    ContaminationCount out = {.name = c->set[set].name};
    for (int32_t i = 0; i < c->n_item; i++) {
        if (c->item[i].set != set) continue;
        out.items++;
        out.small += !c->item[i].full;
        out.hits += c->item[i].hit;
    }
    return out;
}

static void put_examples(JsonOut *j, const Contamination *c, int set) {
    Str where = {0};
    int n = 0;
    json_out_arr(j, "examples");
    for (int32_t i = 0; i < c->n_item && n < CONTAMINATION_EXAMPLES; i++) {
        const Item *x = &c->item[i];
        if (x->set != set || !x->hit) continue;
        n++;
        str_clear(&where);
        str_printf(&where, "%s:%d", c->train[x->train].name, x->line);
        json_out_obj(j, NULL);
        json_out_str(j, "item", x->id);
        json_out_str(j, "words", x->words);
        json_out_str(j, "train", str_get(&where));
        json_out_obj_end(j);
    }
    json_out_arr_end(j);
    str_release(&where);
}

void contamination_out(JsonOut *j, const char *key, const Contamination *c, double seconds) {
    char hash[33];
    json_out_obj(j, key);
    json_out_str(j, "kind", "contamination");
    json_out_int(j, "schema", 1);
    json_out_int(j, "n", c->n);
    if (!isnan(seconds)) json_out_num(j, "seconds", round(seconds * 10) / 10);
    json_out_arr(j, "train");
    for (int i = 0; i < c->n_train; i++) {
        json_out_obj(j, NULL);
        json_out_str(j, "file", c->train[i].name);
        hash_hex(hash, c->train[i].hash);
        json_out_str(j, "hash", hash);
        json_out_int(j, "documents", c->train[i].documents);
        json_out_int(j, "words", c->train[i].words);
        json_out_obj_end(j);
    }
    json_out_arr_end(j);
    json_out_arr(j, "sets");
    for (int s = 0; s < c->n_set; s++) {
        ContaminationCount n = contamination_count(c, s);
        json_out_obj(j, NULL);
        json_out_str(j, "set", n.name);
        hash_hex(hash, c->set[s].hash);
        json_out_str(j, "hash", hash);
        json_out_int(j, "items", n.items);
        json_out_int(j, "short", n.small);
        json_out_rate(j, "contaminated", (double)n.hits, n.items);
        put_examples(j, c, s);
        json_out_obj_end(j);
    }
    json_out_arr_end(j);
    json_out_obj_end(j);
}

void contamination_table(Str *out, const Contamination *c) {
    int64_t words = 0;
    for (int i = 0; i < c->n_train; i++) words += c->train[i].words;
    str_printf(out, "%d training file%s, %lld words; an item is contaminated by %d words in a row\n%-44s %8s %8s  %s\n",
               c->n_train, c->n_train == 1 ? "" : "s", (long long)words, c->n, "evaluation items", "n", "short",
               "contaminated, %");
    for (int s = 0; s < c->n_set; s++) {
        ContaminationCount n = contamination_count(c, s);
        Interval v = interval_wilson((double)n.hits, n.items);
        str_cell(out, n.name, 44, 44);
        str_printf(out, " %8lld %8lld  %.2f [%.2f, %.2f]  (%lld)\n", (long long)n.items, (long long)n.small,
                   100 * v.mean, 100 * v.lo, 100 * v.hi, (long long)n.hits);
    }
}
