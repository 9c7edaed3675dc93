/* Rows out of columns. A record is put together by walking the schema: each column is asked for its next triple, and
 * the levels it must have at that place are known from what was read before. So columns that do not agree about the
 * shape of a row are found out at the first triple that is out of place, and nothing is ever read twice or passed over.
 */
#include "data/parquet_int.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool parquet_bad(const Parquet *q, const PqLeaf *leaf, Error *err, const char *fmt, ...) {
    char msg[600], row[40] = "";
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    if (!leaf) return error_set(err, ERR_FORMAT, "%s: %s", q->name, msg);
    if (q->at_group >= 0) snprintf(row, sizeof row, ", row %lld", (long long)q->row + 1);
    return error_set(err, ERR_FORMAT, "%s: column '%.200s'%s: %s", q->name, leaf->path ? leaf->path : "", row, msg);
}

/* ---- opening */

bool parquet_is(const void *p, size_t n) { return n >= 4 && !memcmp(p, "PAR1", 4); }

static bool open_data(Parquet *q, const uint8_t *p, size_t n, Error *err) {
    uint32_t n_footer;
    if (n >= 4 && !memcmp(p + n - 4, "PARE", 4)) return parquet_bad(q, NULL, err, "unsupported: the file is encrypted");
    if (!parquet_is(p, n)) return parquet_bad(q, NULL, err, "is not a Parquet file: it does not begin with PAR1");
    if (n < 12 || memcmp(p + n - 4, "PAR1", 4) != 0)
        return parquet_bad(q, NULL, err,
                           "the Parquet file is cut off (it does not end in PAR1): copy or download it again");
    memcpy(&n_footer, p + n - 8, 4);
    if (n_footer > n - 12)
        return parquet_bad(q, NULL, err, "the Parquet footer claims %u bytes of a file of %zu", n_footer, n);
    q->data = p + 4;
    q->data_end = p + n - 8 - n_footer;
    q->at_group = -1;
    return parquet_footer(q, q->data_end, n_footer, err);
}

bool parquet_open_bytes(Parquet **out, const void *p, size_t n, const char *name, Error *err) {
    Parquet *q = mem_alloc(sizeof *q);
    q->name = mem_str(name);
    *out = q;
    if (open_data(q, p, n, err)) return true;
    parquet_close(q);
    *out = NULL;
    return false;
}

bool parquet_open(Parquet **out, const char *path, Error *err) {
    IoMap map;
    *out = NULL;
    if (!io_map(&map, path, err)) return false;
    if (!parquet_open_bytes(out, map.p, map.n, path, err)) {
        io_unmap(&map);
        return false;
    }
    (*out)->map = map;
    (*out)->mapped = true;
    return true;
}

void parquet_close(Parquet *q) {
    if (!q) return;
    for (int i = 0; i < q->n_leaf; i++) leaf_release(&q->leaf[i]);
    free(q->leaf);
    if (q->mapped) io_unmap(&q->map);
    heap_release(&q->heap);
    free(q->name);
    free(q);
}

int64_t parquet_rows(const Parquet *q) { return q->n_row; }

int parquet_groups(const Parquet *q) { return q->n_group; }

const char *parquet_codec(const Parquet *q) {
    Thrift t;
    int id = 0, type, codec = 0;
    if (q->n_group == 0) return "none";
    t = q->group[0];
    if (thrift_list(&t, T_LIST, T_STRUCT) == 0) return "none";
    while ((type = thrift_field(&t, &id)) != T_STOP) {
        int in_id = 0, in;
        if (id != 3 || type != T_STRUCT) {
            thrift_skip(&t, type);
            continue;
        }
        while ((in = thrift_field(&t, &in_id)) != T_STOP) {
            if (in_id == 4)
                codec = (int)thrift_int_of(&t, in, 0);
            else
                thrift_skip(&t, in);
        }
    }
    return parquet_codec_name(codec);
}

/* ---- a row */

typedef struct {
    Parquet *q;
    JsonBuild *b;
    Error *err;
} Reading;

static bool disagree(const Reading *r, const PqLeaf *l) {
    return parquet_bad(r->q, l, r->err, "its levels do not fit the schema and the columns beside it");
}

/* What comes next in the column: false on errors. *def is -1 at the end of the chunk. */
static bool peek(const Reading *r, PqLeaf *l, int *rep, int *def) {
    if (l->i_ahead == l->n_ahead && !leaf_fill(r->q, l, r->err)) return false;
    bool there = l->i_ahead < l->n_ahead;
    *rep = there ? (int)l->rep[l->i_ahead] : -1;
    *def = there ? (int)l->def[l->i_ahead] : -1;
    return true;
}

static bool count(const Reading *r, const PqLeaf *l, size_t n_bytes) {
    Parquet *q = r->q;
    q->row_values++;
    q->row_bytes += n_bytes + 1;
    q->n_bytes += (double)n_bytes + 1;
    if (q->row_values > PARQUET_ROW_VALUES || q->row_bytes > PARQUET_ROW_BYTES)
        return parquet_bad(q, l, r->err, "the row holds more than %d values or %d bytes", (int)PARQUET_ROW_VALUES,
                           (int)PARQUET_ROW_BYTES);
    double most = (double)PARQUET_FREE_BYTES + PARQUET_UNFOLD * (double)(q->data_end - q->data);
    if (q->n_bytes > most || q->n_unpacked > most)
        return parquet_bad(q, l, r->err,
                           "the file unfolds to more than %d times its size; it may be made to fill memory",
                           (int)PARQUET_UNFOLD);
    return true;
}

/* Takes a triple whose repetition level must be rep and whose definition level must be in [least, most]. */
static bool take(const Reading *r, PqLeaf *l, int rep, int least, int most, int *def) {
    int at;
    if (!peek(r, l, &at, def)) return false;
    if (*def < 0) return parquet_bad(r->q, l, r->err, "the column ends early");
    if (at != rep || *def < least || *def > most) return disagree(r, l);
    l->i_ahead++;
    return true;
}

/* Nothing is there below definition level `below`: every column below the node says so. */
static bool pass_over(const Reading *r, const PqNode *node, int rep, int least, int below) {
    int def;
    for (int i = 0; i < node->n_leaf; i++) {
        PqLeaf *l = &r->q->leaf[node->leaf + i];
        if (!take(r, l, rep, least, below - 1, &def) || !count(r, l, 0)) return false;
    }
    return true;
}

static bool read_value(const Reading *r, const PqNode *node, int rep, int least, const char *key) {
    PqLeaf *l = &r->q->leaf[node->leaf];
    PqValue v;
    int def;
    if (!take(r, l, rep, least, l->max_def, &def)) return false;
    if (def < l->max_def) return json_build_null(r->b, key), count(r, l, 0);
    return leaf_value(r->q, l, &v, r->err) && count(r, l, v.n) && value_build(r->q, l, v, r->b, key, r->err);
}

static bool read_any(const Reading *r, const PqNode *node, int rep, int least, const char *key);

static bool read_members(const Reading *r, const PqNode *node, int rep, const char *key) {
    json_build_obj(r->b, key);
    for (int i = 0; i < node->n_child; i++)
        if (!read_any(r, &node->child[i], rep, node->def, node->child[i].name)) return false;
    json_build_obj_end(r->b); /* names differ: the schema was checked */
    return true;
}

static bool read_entry(const Reading *r, const PqNode *node, int rep) {
    const char *key = NULL;
    PqValue v;
    int def;
    if (node->kind == PQ_LIST) return read_any(r, &node->child[0], rep, node->entry_def, NULL);
    PqLeaf *l = &r->q->leaf[node->child[0].leaf];
    if (!take(r, l, rep, node->entry_def, l->max_def, &def)) return false;
    if (def < l->max_def) return parquet_bad(r->q, l, r->err, "a map has a key that is null");
    return leaf_value(r->q, l, &v, r->err) && count(r, l, v.n) && value_key(r->q, l, v, r->b, &key, r->err) &&
           read_any(r, &node->child[1], rep, node->entry_def, key);
}

static bool read_entries(const Reading *r, const PqNode *node, int rep, const char *key) {
    PqLeaf *guide = &r->q->leaf[node->leaf];
    int next, def;
    if (!peek(r, guide, &next, &def)) return false;
    bool map = node->kind == PQ_MAP, any = def >= node->entry_def;
    if (map)
        json_build_obj(r->b, key);
    else
        json_build_arr(r->b, key);
    if (!any && !pass_over(r, node, rep, node->def, node->entry_def)) return false;
    for (bool more = any; more; rep = node->rep) {
        if (!read_entry(r, node, rep) || !peek(r, guide, &next, &def)) return false;
        more = next == node->rep;
    }
    if (!map) return json_build_arr_end(r->b), true;
    return json_build_obj_end(r->b) || parquet_bad(r->q, guide, r->err, "a map has a key twice");
}

static bool read_any(const Reading *r, const PqNode *node, int rep, int least, const char *key) {
    int next, def;
    if (node->kind == PQ_LEAF) return read_value(r, node, rep, least, key);
    if (!peek(r, &r->q->leaf[node->leaf], &next, &def)) return false;
    if (def < node->def) {
        json_build_null(r->b, key);
        return pass_over(r, node, rep, least, node->def);
    }
    return node->kind == PQ_STRUCT ? read_members(r, node, rep, key) : read_entries(r, node, rep, key);
}

/* Nothing may be left in a row group whose rows are read. */
static bool end_group(const Reading *r) {
    Parquet *q = r->q;
    int rep, def;
    for (int i = 0; i < q->n_leaf && q->at_group >= 0; i++) {
        if (!peek(r, &q->leaf[i], &rep, &def)) return false;
        if (def >= 0) return disagree(r, &q->leaf[i]);
    }
    if (q->mapped && q->at_group >= 0) io_map_forget(q->data, (size_t)(q->data_end - q->data));
    return true;
}

bool parquet_next(Parquet *q, JsonBuild *b, const Json **row, Error *err) {
    Reading r = {q, b, err};
    *row = NULL;
    while (q->group_left == 0) {
        if (!end_group(&r)) return false;
        if (q->at_group + 1 >= q->n_group) return true;
        if (!parquet_group_begin(q, q->at_group + 1, err)) return false;
        q->group_left = q->group_rows[++q->at_group];
    }
    q->row_bytes = q->row_values = 0;
    if (!read_members(&r, &q->root, 0, NULL)) return false;
    q->group_left--;
    q->row++;
    *row = json_build_take(b);
    return true;
}
