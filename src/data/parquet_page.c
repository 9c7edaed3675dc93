/* Pages of one column chunk: headers, checksums, unpacking, the dictionary, and the levels, which are read PQ_AHEAD at
 * a time so that a run of a million equal ones takes no more memory than one. */
#include "data/parquet_int.h"
#include "data/unpack.h"

#include <stdlib.h>
#include <string.h>

enum { PAGE_DATA, PAGE_INDEX, PAGE_DICTIONARY, PAGE_DATA_V2 };
#define MAX_PAGE ((int64_t)1 << 30)

typedef struct {
    int64_t type, n_unpacked, n_packed, crc;
    bool has_crc, packed;
    int64_t n_value, encoding, def_encoding, rep_encoding, n_def, n_rep; /* n_def, n_rep: bytes, v2 */
} Header;

static void read_kind(Thrift *t, Header *h, int kind) {
    int id = 0, type;
    int64_t *const v1[] = {NULL, &h->n_value, &h->encoding, &h->def_encoding, &h->rep_encoding};
    int64_t *const v2[] = {NULL, &h->n_value, NULL, NULL, &h->encoding, &h->n_def, &h->n_rep};
    int64_t *const *field = kind == 8 ? v2 : v1;
    int n = kind == 8 ? COUNT_OF(v2) : kind == 7 ? 3 : COUNT_OF(v1);
    while ((type = thrift_field(t, &id)) != T_STOP) {
        if (kind == 8 && id == 7)
            h->packed = thrift_bool_of(t, type, true);
        else if (id < n && field[id])
            *field[id] = thrift_int_of(t, type, *field[id]);
        else
            thrift_skip(t, type);
    }
}

static void read_header(Thrift *t, Header *h) {
    int id = 0, type;
    *h = (Header){.type = -1, .n_unpacked = -1, .n_packed = -1, .n_value = -1, .encoding = -1, .packed = true};
    int64_t *const field[] = {NULL, &h->type, &h->n_unpacked, &h->n_packed, &h->crc};
    while ((type = thrift_field(t, &id)) != T_STOP) {
        if ((id == 5 || id == 7 || id == 8) && type == T_STRUCT) {
            read_kind(t, h, id);
        } else if (id < COUNT_OF(field)) {
            h->has_crc |= id == 4;
            *field[id] = thrift_int_of(t, type, *field[id]);
        } else {
            thrift_skip(t, type);
        }
    }
}

/* What a codec can make of n bytes at most; claims beyond are not even tried. */
static bool plausible(int codec, int64_t n, int64_t n_out) {
    static const int most[] = {1, 32, 1100, 0, 0, 0, 40000, 256};
    return n_out <= n * most[codec] + 64;
}

/* n bytes of memory for an unpacked page, what was there before is gone. */
static uint8_t *room(Parquet *q, uint8_t **buf, size_t *cap, size_t n) {
    size_t most = ((size_t)1 << 30) + 4 * (size_t)(q->data_end - q->data);
    if (n <= *cap && *buf) return *buf;
    if (n > most || q->n_held - *cap > most - n) return NULL;
    size_t want = *cap + *cap / 2 > n ? *cap + *cap / 2 : n;
    if (want > most - (q->n_held - *cap)) want = n;
    q->n_held += want - *cap;
    free(*buf);
    *cap = want;
    *buf = mem_grow(NULL, want + 1);
    return *buf;
}

/* *p, *n: in, packed; out, unpacked into *buf, or as they are. */
static bool unpack(Parquet *q, const PqLeaf *l, uint8_t **buf, size_t *cap, const uint8_t **p, size_t *n, size_t n_out,
                   Error *err) {
    if (l->codec == 0 || (*n == 0 && n_out == 0)) return true;
    if (!plausible(l->codec, (int64_t)*n, (int64_t)n_out))
        return parquet_bad(q, l, err, "a page of %zu bytes claims to hold %zu", *n, n_out);
    q->n_unpacked += (double)n_out;
    uint8_t *out = room(q, buf, cap, n_out);
    if (!out) return parquet_bad(q, l, err, "the pages unfold to too much memory (%zu bytes are in use)", q->n_held);
    bool ok = false;
    switch (l->codec) {
    case 1:
        ok = unpack_snappy(out, n_out, *p, *n);
        break;
    case 2:
        ok = io_unpack_gzip(out, n_out, *p, *n);
        break;
    case 6:
        ok = io_unpack_zstd(out, n_out, *p, *n);
        break;
    case 7:
        ok = unpack_lz4(out, n_out, *p, *n);
        break;
    }
    *p = out;
    *n = n_out;
    return ok || parquet_bad(q, l, err, "damaged %s data", parquet_codec_name(l->codec));
}

static bool read_dictionary(Parquet *q, PqLeaf *l, const Header *h, const uint8_t *p, size_t n, Error *err) {
    if (l->dict_p) return parquet_bad(q, l, err, "a second dictionary");
    if (h->encoding != ENC_PLAIN && h->encoding != ENC_PLAIN_DICTIONARY)
        return parquet_bad(q, l, err, "unsupported encoding of the dictionary (%lld)", (long long)h->encoding);
    if (l->type == PQ_BOOLEAN) return parquet_bad(q, l, err, "unsupported: a dictionary of booleans");
    if (h->n_value < 0) return parquet_bad(q, l, err, "damaged page header");
    if (!unpack(q, l, &l->dict, &l->dict_cap, &p, &n, (size_t)h->n_unpacked, err)) return false;
    size_t least = l->width ? (size_t)l->width : 4;
    if ((uint64_t)h->n_value > n / least) return parquet_bad(q, l, err, "the dictionary ends early");
    l->dict_p = p;
    l->dict_n = n;
    l->n_dict = (uint32_t)h->n_value;
    if (l->width) return true;
    size_t off_bytes = l->n_dict * sizeof *l->dict_off;
    if (!room(q, (uint8_t **)&l->dict_off, &l->off_cap, off_bytes))
        return parquet_bad(q, l, err, "the dictionaries take too much memory");
    size_t at = 0;
    for (uint32_t i = 0; i < l->n_dict; i++) {
        uint32_t len;
        if (n - at < 4) return parquet_bad(q, l, err, "the dictionary ends early");
        memcpy(&len, p + at, 4);
        if (len > n - at - 4) return parquet_bad(q, l, err, "the dictionary ends early");
        l->dict_off[i] = (uint32_t)at;
        at += 4 + (size_t)len;
    }
    return true;
}

static int bits_of(int max) {
    int n = 0;
    for (; max; max >>= 1) n++;
    return n;
}

/* The levels that stand in front of a v1 page's values; moves *p behind them. */
static bool levels_v1(const Parquet *q, const PqLeaf *l, PqRuns *r, int max, int64_t encoding, int64_t n_value,
                      const uint8_t **p, const uint8_t *end, Error *err) {
    uint64_t n;
    int width = bits_of(max);
    if (max == 0) return true;
    if (encoding == ENC_BIT_PACKED) {
        n = ((uint64_t)n_value * (uint64_t)width + 7) / 8;
    } else if (encoding == ENC_RLE) {
        uint32_t len;
        if (end - *p < 4) return parquet_bad(q, l, err, "a page ends inside its levels");
        memcpy(&len, *p, 4);
        *p += 4;
        n = len;
    } else {
        return parquet_bad(q, l, err, "unsupported encoding of levels (%lld)", (long long)encoding);
    }
    if (n > (uint64_t)(end - *p)) return parquet_bad(q, l, err, "a page ends inside its levels");
    runs_begin(r, *p, *p + n, width);
    if (encoding == ENC_BIT_PACKED) {
        r->high_first = true;
        r->packed = *p;
        r->p = r->end;
        r->n_packed = (uint64_t)n_value;
    }
    *p += n;
    return true;
}

static bool data_v1(Parquet *q, PqLeaf *l, const Header *h, const uint8_t *p, size_t n, Error *err) {
    if (!unpack(q, l, &l->buf, &l->buf_cap, &p, &n, (size_t)h->n_unpacked, err)) return false;
    const uint8_t *end = p + n;
    return levels_v1(q, l, &l->reps, l->max_rep, h->rep_encoding, h->n_value, &p, end, err) &&
           levels_v1(q, l, &l->defs, l->max_def, h->def_encoding, h->n_value, &p, end, err) &&
           page_values(q, l, p, end, h->encoding, err);
}

/* Levels are never packed in v2, and their lengths stand in the header. */
static bool data_v2(Parquet *q, PqLeaf *l, const Header *h, const uint8_t *p, size_t n, Error *err) {
    int64_t n_level = h->n_rep + h->n_def;
    if (h->n_rep < 0 || h->n_def < 0 || n_level > (int64_t)n || n_level > h->n_unpacked)
        return parquet_bad(q, l, err, "damaged page header");
    runs_begin(&l->reps, p, p + h->n_rep, bits_of(l->max_rep));
    runs_begin(&l->defs, p + h->n_rep, p + n_level, bits_of(l->max_def));
    p += n_level;
    n -= (size_t)n_level;
    if (h->packed && !unpack(q, l, &l->buf, &l->buf_cap, &p, &n, (size_t)(h->n_unpacked - n_level), err)) return false;
    return page_values(q, l, p, p + n, h->encoding, err);
}

/* Reads one page: a dictionary, data, or one to pass over. */
static bool next_page(Parquet *q, PqLeaf *l, Error *err) {
    Thrift t = {.p = l->at, .end = l->end};
    Header h;
    read_header(&t, &h);
    if (t.bad || h.n_unpacked < 0 || h.n_unpacked > MAX_PAGE || h.n_packed < 0)
        return parquet_bad(q, l, err, "damaged page header");
    if (h.n_packed > l->end - t.p)
        return parquet_bad(q, l, err, "a page of %lld bytes ends outside the file", (long long)h.n_packed);
    const uint8_t *p = t.p;
    size_t n = (size_t)h.n_packed;
    l->at = p + n;
    if (h.has_crc && io_crc32(p, n) != (uint32_t)h.crc) return parquet_bad(q, l, err, "a page's checksum is wrong");
    if (h.type == PAGE_DICTIONARY) return read_dictionary(q, l, &h, p, n, err);
    if (h.type != PAGE_DATA && h.type != PAGE_DATA_V2) return true;
    if (h.n_value < 0 || h.n_value > l->left) return parquet_bad(q, l, err, "damaged page header");
    l->left -= h.n_value;
    l->page_left = h.n_value;
    if (h.n_value == 0) return true;
    return h.type == PAGE_DATA ? data_v1(q, l, &h, p, n, err) : data_v2(q, l, &h, p, n, err);
}

static bool read_levels(const Parquet *q, const PqLeaf *l, PqRuns *r, uint32_t *out, int n, int max, Error *err) {
    if (max == 0) return true; /* out is all 0 */
    if (runs_read(r, out, n) != n) return parquet_bad(q, l, err, "a page ends inside its levels");
    for (int i = 0; i < n; i++)
        if (out[i] > (uint32_t)max) return parquet_bad(q, l, err, "a level of %u, at most %d is possible", out[i], max);
    return true;
}

bool leaf_fill(Parquet *q, PqLeaf *l, Error *err) {
    while (l->i_ahead == l->n_ahead) {
        l->i_ahead = l->n_ahead = 0;
        if (l->page_left == 0) {
            if (l->left == 0) return true;
            if (!next_page(q, l, err)) return false;
            continue;
        }
        int n = l->page_left < PQ_AHEAD ? (int)l->page_left : PQ_AHEAD;
        if (!read_levels(q, l, &l->reps, l->rep, n, l->max_rep, err) ||
            !read_levels(q, l, &l->defs, l->def, n, l->max_def, err))
            return false;
        l->page_left -= n;
        l->n_ahead = n;
    }
    return true;
}

void leaf_release(PqLeaf *l) {
    free(l->dict);
    free(l->dict_off);
    free(l->buf);
    str_release(&l->before);
}
