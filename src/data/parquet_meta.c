/* The footer: Thrift's compact protocol, the schema as a tree, and where the column chunks of a row group lie. Fields
 * that are not listed here are skipped, so files of newer writers stay readable. */
#include "data/parquet_int.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_LEAVES = 10000, MAX_ELEMENTS = 1 << 17, MAX_GROUPS = 1 << 20, MAX_FIXED = PARQUET_ROW_BYTES };

/* ---- schema */

typedef struct {
    const char *name;
    size_t n_name;
    int64_t type, type_len, repetition, n_child, converted, scale;
    int logical, unit; /* field of the union LogicalType, 0: none */
    bool utc, is_signed;
} Element;

typedef struct {
    Parquet *q;
    Element *el;
    int64_t n, at;
    Str path;
    Error *err;
} Schema;

enum {
    LOGICAL_MAP = 2,
    LOGICAL_LIST,
    LOGICAL_DECIMAL = 5,
    LOGICAL_DATE,
    LOGICAL_TIME,
    LOGICAL_STAMP,
    LOGICAL_INTEGER = 10,
    LOGICAL_UUID = 14,
    LOGICAL_HALF = 15
};
enum {
    CONVERTED_MAP = 1,
    CONVERTED_MAP_KEY_VALUE,
    CONVERTED_LIST,
    CONVERTED_DECIMAL = 5,
    CONVERTED_DATE,
    CONVERTED_TIME_MS,
    CONVERTED_TIME_US,
    CONVERTED_STAMP_MS,
    CONVERTED_STAMP_US,
    CONVERTED_UINT8,
    CONVERTED_UINT64 = 14
};
enum { REQUIRED, OPTIONAL, REPEATED };

/* The unit is a union again: 1 ms, 2 us, 3 ns, each an empty struct. */
static int read_unit(Thrift *t, int type) {
    int id = 0, in, unit = 0;
    if (type != T_STRUCT) {
        thrift_skip(t, type);
        return 0;
    }
    while ((in = thrift_field(t, &id)) != T_STOP) {
        if (id >= 1 && id <= 3) unit = 3 * id;
        thrift_skip(t, in);
    }
    return unit;
}

static void read_logical(Thrift *t, Element *e) {
    int kind = 0, type;
    while ((type = thrift_field(t, &kind)) != T_STOP) {
        int id = 0, in;
        if (e->logical || type != T_STRUCT) {
            thrift_skip(t, type);
            continue;
        }
        e->logical = kind;
        while ((in = thrift_field(t, &id)) != T_STOP) {
            bool timed = kind == LOGICAL_TIME || kind == LOGICAL_STAMP;
            if (kind == LOGICAL_DECIMAL && id == 1)
                e->scale = thrift_int_of(t, in, 0);
            else if (timed && id == 1)
                e->utc = thrift_bool_of(t, in, false);
            else if (timed && id == 2)
                e->unit = read_unit(t, in);
            else if (kind == LOGICAL_INTEGER && id == 2)
                e->is_signed = thrift_bool_of(t, in, true);
            else
                thrift_skip(t, in);
        }
    }
}

static void read_element(Thrift *t, Element *e) {
    int id = 0, type;
    *e = (Element){.type = -1, .converted = -1, .name = "", .is_signed = true};
    while ((type = thrift_field(t, &id)) != T_STOP) {
        int64_t *const field[] = {NULL, &e->type,    &e->type_len,  &e->repetition,
                                  NULL, &e->n_child, &e->converted, &e->scale};
        if (id == 4 && type == T_BINARY)
            e->name = (const char *)thrift_bytes(t, &e->n_name);
        else if (id == 10 && type == T_STRUCT)
            read_logical(t, e);
        else if (id < COUNT_OF(field) && field[id])
            *field[id] = thrift_int_of(t, type, *field[id]);
        else
            thrift_skip(t, type);
    }
}

static bool schema_bad(Schema *s, const char *what) {
    return parquet_bad(s->q, NULL, s->err, "schema: '%s': %s", str_get(&s->path), what);
}

static void read_meaning(PqLeaf *l, const Element *e) {
    int64_t c = e->logical ? -1 : e->converted;
    bool integer = l->type == PQ_INT32 || l->type == PQ_INT64;
    bool is_unsigned =
        (e->logical == LOGICAL_INTEGER && !e->is_signed) || (c >= CONVERTED_UINT8 && c <= CONVERTED_UINT64);
    bool decimal = e->logical == LOGICAL_DECIMAL || c == CONVERTED_DECIMAL;
    bool time = e->logical == LOGICAL_TIME || c == CONVERTED_TIME_MS || c == CONVERTED_TIME_US;
    bool stamp = e->logical == LOGICAL_STAMP || c == CONVERTED_STAMP_MS || c == CONVERTED_STAMP_US;
    l->unit = e->unit ? e->unit : c == CONVERTED_TIME_MS || c == CONVERTED_STAMP_MS ? 3 : 6;
    l->utc = e->logical ? e->utc : true;
    l->scale = (int)e->scale;
    if (is_unsigned && integer)
        l->meaning = PQ_UNSIGNED;
    else if (decimal && (integer || l->type == PQ_BYTES || l->type == PQ_FIXED) && e->scale >= 0 && e->scale <= 100)
        l->meaning = PQ_DECIMAL;
    else if ((e->logical == LOGICAL_DATE || c == CONVERTED_DATE) && l->type == PQ_INT32)
        l->meaning = PQ_DATE;
    else if (time && integer)
        l->meaning = PQ_TIME;
    else if ((stamp && l->type == PQ_INT64) || l->type == PQ_INT96)
        l->meaning = PQ_STAMP;
    else if (e->logical == LOGICAL_UUID && l->width == 16)
        l->meaning = PQ_UUID;
    else if (e->logical == LOGICAL_HALF && l->width == 2)
        l->meaning = PQ_HALF;
    if (l->type == PQ_INT96) l->unit = 9, l->utc = false;
}

static bool read_leaf(Schema *s, const Element *e, PqNode *out, int def, int rep) {
    static const int width[PQ_TYPE_COUNT] = {
        [PQ_INT32] = 4, [PQ_INT64] = 8, [PQ_INT96] = 12, [PQ_FLOAT] = 4, [PQ_DOUBLE] = 8};
    PqLeaf *l = &s->q->leaf[s->q->n_leaf++];
    if (e->type < 0 || e->type >= PQ_TYPE_COUNT) return schema_bad(s, "a type this reader does not know");
    l->type = (PqType)e->type;
    l->width = width[l->type];
    if (l->type == PQ_FIXED) {
        if (e->type_len <= 0 || e->type_len > MAX_FIXED) return schema_bad(s, "a length that is not possible");
        l->width = (int)e->type_len;
    }
    l->path = heap_strn(&s->q->heap, s->path.s, s->path.n);
    l->max_def = def;
    l->max_rep = rep;
    read_meaning(l, e);
    out->kind = PQ_LEAF;
    return true;
}

static bool read_node(Schema *s, PqNode *out, int def, int rep, int depth);
static bool read_content(Schema *s, const Element *e, PqNode *out, int def, int rep, int depth);

static const Element *next_element(Schema *s) {
    if (s->at < s->n) return &s->el[s->at++];
    schema_bad(s, "it ends early");
    return NULL;
}

/* Appends the name to the path; *n_before for leave(). */
static bool enter(Schema *s, const Element *e, size_t *n_before) {
    size_t bad;
    *n_before = s->path.n;
    if (!str_utf8_valid(e->name, e->n_name, &bad) || memchr(e->name, 0, e->n_name))
        return schema_bad(s, "a name that is not UTF-8 text");
    if (s->path.n) str_putc(&s->path, '.');
    str_putn(&s->path, e->name, e->n_name);
    return true;
}

static void leave(Schema *s, size_t n_before) {
    s->path.n = n_before;
    if (s->path.s) s->path.s[n_before] = 0;
}

/* An annotated list has one repeated field. It is the entry itself in the layouts of old writers, and a wrapper with
 * the entry inside in that of the others (the rules are the format description's). */
static bool read_list(Schema *s, const Element *list, PqNode *out, int def, int rep, int depth) {
    size_t n;
    const Element *r = next_element(s);
    if (!r || !enter(s, r, &n)) return false;
    bool tuple = r->n_name == list->n_name + 6 && !memcmp(r->name, list->name, list->n_name) &&
                 !memcmp(r->name + list->n_name, "_tuple", 6);
    bool itself = r->n_child != 1 || (r->n_name == 5 && !memcmp(r->name, "array", 5)) || tuple;
    out->kind = PQ_LIST;
    out->entry_def = def + 1;
    out->rep = rep + 1;
    out->n_child = 1;
    out->child = heap_alloc(&s->q->heap, sizeof *out->child);
    bool ok = itself ? read_content(s, r, out->child, def + 1, rep + 1, depth + 1)
                     : read_node(s, out->child, def + 1, rep + 1, depth + 1);
    leave(s, n);
    return ok;
}

static bool read_map(Schema *s, PqNode *out, int def, int rep, int depth) {
    size_t n;
    const Element *r = next_element(s);
    if (!r || !enter(s, r, &n)) return false;
    if (r->n_child != 2) return schema_bad(s, "a map without a key and a value");
    out->kind = PQ_MAP;
    out->entry_def = def + 1;
    out->rep = rep + 1;
    out->n_child = 2;
    out->child = heap_alloc(&s->q->heap, 2 * sizeof *out->child);
    for (int i = 0; i < 2; i++)
        if (!read_node(s, &out->child[i], def + 1, rep + 1, depth + 1)) return false;
    if (out->child[0].kind != PQ_LEAF) return schema_bad(s, "a map whose key is not a single value");
    leave(s, n);
    return true;
}

static bool read_struct(Schema *s, const Element *e, PqNode *out, int def, int rep, int depth) {
    out->kind = PQ_STRUCT;
    if (e->n_child > s->n - s->at) return schema_bad(s, "it ends early");
    out->n_child = (int)e->n_child;
    out->child = heap_alloc(&s->q->heap, (size_t)e->n_child * sizeof *out->child);
    JsonBuild *names = json_build_new(); /* an object of the names finds those that come twice */
    bool ok = true;
    json_build_obj(names, NULL);
    for (int i = 0; i < out->n_child && ok; i++) {
        ok = read_node(s, &out->child[i], def, rep, depth + 1);
        if (ok) json_build_null(names, out->child[i].name);
    }
    if (!json_build_obj_end(names) && ok) ok = schema_bad(s, "two fields of one name");
    json_build_free(names);
    return ok;
}

static bool read_content(Schema *s, const Element *e, PqNode *out, int def, int rep, int depth) {
    bool one_repeated = e->n_child == 1 && s->at < s->n && s->el[s->at].repetition == REPEATED;
    bool list = e->logical ? e->logical == LOGICAL_LIST : e->converted == CONVERTED_LIST;
    bool map = e->logical ? e->logical == LOGICAL_MAP
                          : e->converted == CONVERTED_MAP || e->converted == CONVERTED_MAP_KEY_VALUE;
    bool ok;
    out->name = heap_strn(&s->q->heap, e->name, e->n_name);
    out->def = def;
    out->leaf = s->q->n_leaf;
    if (depth > PARQUET_DEPTH) return schema_bad(s, "nested too deeply");
    if (s->q->n_leaf >= MAX_LEAVES) return schema_bad(s, "more columns than this reader takes");
    if (e->n_child < 0 || (e->n_child == 0 && e->type < 0)) return schema_bad(s, "a group without fields");
    if (e->n_child == 0)
        ok = read_leaf(s, e, out, def, rep);
    else if (list && one_repeated)
        ok = read_list(s, e, out, def, rep, depth);
    else if (map && one_repeated)
        ok = read_map(s, out, def, rep, depth);
    else
        ok = read_struct(s, e, out, def, rep, depth);
    out->n_leaf = s->q->n_leaf - out->leaf;
    return ok;
}

/* A repeated field that no list is wrapped around is a list that is never null. */
static bool read_node(Schema *s, PqNode *out, int def, int rep, int depth) {
    size_t n;
    const Element *e = next_element(s);
    if (!e || !enter(s, e, &n)) return false;
    bool ok;
    if (e->repetition == REPEATED) {
        *out = (PqNode){.kind = PQ_LIST, .def = def, .entry_def = def + 1, .rep = rep + 1, .n_child = 1};
        out->name = heap_strn(&s->q->heap, e->name, e->n_name);
        out->leaf = s->q->n_leaf;
        out->child = heap_alloc(&s->q->heap, sizeof *out->child);
        ok = read_content(s, e, out->child, def + 1, rep + 1, depth + 1);
        out->n_leaf = s->q->n_leaf - out->leaf;
    } else {
        ok = read_content(s, e, out, def + (e->repetition == OPTIONAL), rep, depth);
    }
    leave(s, n);
    return ok;
}

static bool read_schema(Parquet *q, Element *el, int64_t n, Error *err) {
    Schema s = {.q = q, .el = el, .n = n, .at = 1, .err = err};
    int64_t n_leaf = 0;
    for (int64_t i = 1; i < n; i++) n_leaf += el[i].n_child <= 0;
    bool ok = n > 1 && el[0].n_child > 0;
    if (!ok) parquet_bad(q, NULL, err, "schema: the file has no columns");
    if (ok && n_leaf > MAX_LEAVES) ok = parquet_bad(q, NULL, err, "schema: more than %d columns", (int)MAX_LEAVES);
    if (ok) {
        q->leaf = mem_alloc((size_t)n_leaf * sizeof *q->leaf);
        ok = read_struct(&s, &el[0], &q->root, 0, 0, 0);
        q->root.n_leaf = q->n_leaf;
        if (ok && s.at != n)
            ok = parquet_bad(q, NULL, err, "schema: %lld entries are left over", (long long)(n - s.at));
    }
    str_release(&s.path);
    return ok;
}

/* ---- footer */

static void read_groups(Parquet *q, Thrift *t, int64_t n) {
    q->group = heap_alloc(&q->heap, (size_t)n * sizeof *q->group);
    q->group_rows = heap_alloc(&q->heap, (size_t)n * sizeof *q->group_rows);
    for (int64_t i = 0; i < n && !t->bad; i++) {
        int id = 0, type;
        q->group_rows[i] = -1;
        while ((type = thrift_field(t, &id)) != T_STOP) {
            if (id == 1 && type == T_LIST) q->group[i] = *t;
            if (id == 3)
                q->group_rows[i] = thrift_int_of(t, type, -1);
            else
                thrift_skip(t, type);
        }
        q->n_group++;
    }
}

bool parquet_footer(Parquet *q, const uint8_t *p, size_t n, Error *err) {
    Thrift t = {.p = p, .end = p + n};
    Element *el = NULL;
    int64_t n_el = 0, n_row = -1;
    bool ok = true, encrypted = false;
    int id = 0, type;
    while ((type = thrift_field(&t, &id)) != T_STOP) {
        if (id == 2 && !el) {
            n_el = thrift_list(&t, type, T_STRUCT);
            if (n_el > MAX_ELEMENTS) return parquet_bad(q, NULL, err, "schema: %lld entries", (long long)n_el);
            el = mem_alloc((size_t)n_el * sizeof *el + 1);
            for (int64_t i = 0; i < n_el; i++) read_element(&t, &el[i]);
        } else if (id == 3) {
            n_row = thrift_int_of(&t, type, -1);
        } else if (id == 4 && !q->group) {
            int64_t n_group = thrift_list(&t, type, T_STRUCT);
            if (n_group > MAX_GROUPS) t.bad = true;
            read_groups(q, &t, n_group <= MAX_GROUPS ? n_group : 0);
        } else {
            encrypted |= id == 8;
            thrift_skip(&t, type);
        }
    }
    if (t.bad)
        ok = parquet_bad(q, NULL, err, "the footer is damaged");
    else if (encrypted)
        ok = parquet_bad(q, NULL, err, "unsupported: the file is encrypted");
    for (int i = 0; i < q->n_group && ok; i++) {
        if (q->group_rows[i] < 0 || q->group_rows[i] > INT64_MAX / 2 - q->n_row || !q->group[i].p)
            ok = parquet_bad(q, NULL, err, "the footer is damaged: row group %d has no rows or columns", i + 1);
        q->n_row += q->group_rows[i];
    }
    if (ok && n_row != q->n_row)
        ok = parquet_bad(q, NULL, err, "the footer is damaged: it counts %lld rows, its row groups %lld",
                         (long long)n_row, (long long)q->n_row);
    ok = ok && read_schema(q, el, n_el, err);
    free(el);
    return ok;
}

/* ---- column chunks */

typedef struct {
    int64_t type, codec, n_value, n_packed, data_at, dict_at;
    bool there, elsewhere, encrypted;
} Chunk;

static void read_chunk_meta(Thrift *t, Chunk *c) {
    int id = 0, type;
    c->there = true;
    while ((type = thrift_field(t, &id)) != T_STOP) {
        switch (id) {
        case 1:
            c->type = thrift_int_of(t, type, -1);
            break;
        case 4:
            c->codec = thrift_int_of(t, type, -1);
            break;
        case 5:
            c->n_value = thrift_int_of(t, type, -1);
            break;
        case 7:
            c->n_packed = thrift_int_of(t, type, -1);
            break;
        case 9:
            c->data_at = thrift_int_of(t, type, -1);
            break;
        case 11:
            c->dict_at = thrift_int_of(t, type, -1);
            break;
        default:
            thrift_skip(t, type);
        }
    }
}

static void read_chunk(Thrift *t, Chunk *c) {
    int id = 0, type;
    size_t n;
    *c = (Chunk){.type = -1, .codec = -1, .n_value = -1, .data_at = -1, .dict_at = -1};
    while ((type = thrift_field(t, &id)) != T_STOP) {
        if (id == 3 && type == T_STRUCT && !c->there) {
            read_chunk_meta(t, c);
            continue;
        }
        if (id == 1 && type == T_BINARY) {
            thrift_bytes(t, &n);
            c->elsewhere |= n > 0;
            continue;
        }
        c->encrypted |= id == 8;
        thrift_skip(t, type);
    }
}

const char *parquet_codec_name(int codec) {
    static const char *const name[] = {"none", "snappy", "gzip", "LZO", "BROTLI", "LZ4 (of Hadoop)", "zstd", "lz4_raw"};
    return codec >= 0 && codec < COUNT_OF(name) ? name[codec] : "unknown";
}

static bool leaf_begin(Parquet *q, PqLeaf *l, const Chunk *c, int64_t n_row, Error *err) {
    static const bool known[] = {[0] = true, [1] = true, [2] = true, [6] = true, [7] = true};
    int64_t n_data = q->data_end - q->data, at = c->data_at;
    if (c->encrypted) return parquet_bad(q, l, err, "unsupported: the column is encrypted");
    if (c->elsewhere) return parquet_bad(q, l, err, "unsupported: the column lies in another file");
    if (!c->there || c->type != (int64_t)l->type || c->codec < 0 || c->n_value < 0)
        return parquet_bad(q, l, err, "the footer is damaged: the column's entry does not fit the schema");
    if (c->codec >= COUNT_OF(known) || !known[c->codec])
        return parquet_bad(q, l, err, "unsupported codec %s (%lld)", parquet_codec_name((int)(c->codec & 15)),
                           (long long)c->codec);
    if (c->dict_at > 0 && c->dict_at < at) at = c->dict_at;
    if (c->n_value > 0 && (at < 4 || at - 4 >= n_data)) return parquet_bad(q, l, err, "its pages lie outside the file");
    /* Where a chunk ends is what its pages say: old writers leave the dictionary out of this size. */
    if (c->n_value > 0 && c->n_packed > n_data - (at - 4))
        return parquet_bad(q, l, err, "its pages are said to take %lld bytes, the file ends after %lld",
                           (long long)c->n_packed, (long long)(n_data - (at - 4)));
    if (l->max_rep == 0 ? c->n_value != n_row : c->n_value < n_row)
        return parquet_bad(q, l, err, "%lld values for %lld rows", (long long)c->n_value, (long long)n_row);
    l->codec = (int)c->codec;
    l->at = c->n_value > 0 ? q->data + (at - 4) : q->data;
    l->end = q->data_end;
    l->left = c->n_value;
    l->n_dict = 0;
    l->dict_p = NULL;
    l->page_left = 0;
    l->n_ahead = l->i_ahead = 0;
    return true;
}

bool parquet_group_begin(Parquet *q, int group, Error *err) {
    Thrift t = q->group[group];
    int64_t n = thrift_list(&t, T_LIST, T_STRUCT);
    bool ok = n == q->n_leaf || parquet_bad(q, NULL, err, "row group %d has %lld columns, the schema %d", group + 1,
                                            (long long)n, q->n_leaf);
    for (int i = 0; i < q->n_leaf && ok; i++) {
        Chunk c;
        read_chunk(&t, &c);
        ok = t.bad ? parquet_bad(q, &q->leaf[i], err, "the footer is damaged")
                   : leaf_begin(q, &q->leaf[i], &c, q->group_rows[group], err);
    }
    return ok;
}
