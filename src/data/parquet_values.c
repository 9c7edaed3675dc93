/* Values of a page by encoding, one at a time or, where that is cheap, some ahead. */
#include "data/parquet_int.h"

#include <string.h>

/* ---- runs */

/* width bits from bit `at` of p, the lowest first; what lies behind end counts as 0. */
static uint64_t bits_at(const uint8_t *p, const uint8_t *end, uint64_t at, int width) {
    const uint8_t *b = p + at / 8;
    int shift = (int)(at % 8);
    uint64_t v = 0, high = 0;
    if (end - b >= 9) {
        memcpy(&v, b, 8);
        high = b[8];
    } else {
        for (int i = 0; i < end - b && i < 8; i++) v |= (uint64_t)b[i] << (8 * i);
        if (end - b > 8) high = b[8];
    }
    v >>= shift;
    if (shift) v |= high << (64 - shift);
    return width < 64 ? v & (((uint64_t)1 << width) - 1) : v;
}

/* The highest bit first: the old BIT_PACKED. */
static uint32_t high_bits_at(const uint8_t *p, uint64_t at, int width) {
    uint32_t v = 0;
    for (int i = 0; i < width; i++, at++) v = v << 1 | (p[at / 8] >> (7 - at % 8) & 1u);
    return v;
}

void runs_begin(PqRuns *r, const uint8_t *p, const uint8_t *end, int width) {
    *r = (PqRuns){.p = p, .end = end, .width = width};
}

/* Reads the header of the next run that is not empty. */
static bool next_run(PqRuns *r) {
    while (r->n_equal == 0 && r->n_packed == 0) {
        bool bad = false;
        uint64_t head = read_varint(&r->p, r->end, &bad);
        if (bad) return false;
        if (head & 1) {
            uint64_t n = head >> 1, have = (uint64_t)(r->end - r->p);
            if (n > UINT64_MAX / 64) return false;
            uint64_t bytes = n * (uint64_t)r->width;
            r->n_packed = n * 8;
            if (bytes > have) { /* some writers leave out the end of the last group */
                bytes = have;
                r->n_packed = have * 8 / (uint64_t)r->width;
                if (r->n_packed == 0) return false;
            }
            r->packed = r->p;
            r->bit = 0;
            r->p += bytes;
        } else {
            int bytes = (r->width + 7) / 8;
            if (r->end - r->p < bytes) return false;
            r->value = 0;
            for (int i = 0; i < bytes; i++) r->value |= (uint32_t)r->p[i] << (8 * i);
            r->p += bytes;
            r->n_equal = head >> 1;
        }
    }
    return true;
}

int runs_read(PqRuns *r, uint32_t *out, int n) {
    int got = 0;
    while (got < n && next_run(r)) {
        uint64_t left = r->n_equal ? r->n_equal : r->n_packed;
        int k = left < (uint64_t)(n - got) ? (int)left : n - got;
        if (r->n_equal) {
            for (int i = 0; i < k; i++) out[got + i] = r->value;
            r->n_equal -= (uint64_t)k;
        } else {
            uint64_t at = r->bit;
            for (int i = 0; i < k; i++, at += (uint64_t)r->width)
                out[got + i] = r->high_first ? high_bits_at(r->packed, at, r->width)
                                             : (uint32_t)bits_at(r->packed, r->end, at, r->width);
            r->bit = at;
            r->n_packed -= (uint64_t)k;
        }
        got += k;
    }
    return got;
}

/* ---- DELTA_BINARY_PACKED
 *
 *   header: values per block, miniblocks per block, values in all (varints), the first value (zigzag)
 *   block:  the least difference (zigzag), a byte per miniblock: its bits per value, the miniblocks
 *
 * Miniblocks that no value is left for are not there, their bytes of widths are. Sums wrap around. */

bool delta_begin(PqDelta *d, const uint8_t *p, const uint8_t *end) {
    bool bad = false;
    *d = (PqDelta){.p = p, .end = end, .first = true};
    d->n_block = read_varint(&d->p, end, &bad);
    d->n_mini = read_varint(&d->p, end, &bad);
    d->n_left = read_varint(&d->p, end, &bad);
    d->value = (uint64_t)unzigzag(read_varint(&d->p, end, &bad));
    if (bad || d->n_mini == 0 || d->n_block == 0 || d->n_block > (uint64_t)1 << 32 || d->n_block % d->n_mini)
        return false;
    d->per_mini = d->n_block / d->n_mini;
    d->mini = d->n_mini;
    return d->per_mini % 8 == 0 && d->n_left <= (uint64_t)1 << 40;
}

/* The next miniblock, of the next block if need be. */
static bool delta_mini(PqDelta *d) {
    if (d->mini == d->n_mini) {
        bool bad = false;
        d->min_delta = (uint64_t)unzigzag(read_varint(&d->p, d->end, &bad));
        if (bad || (uint64_t)(d->end - d->p) < d->n_mini) return false;
        d->width = d->p;
        d->p += d->n_mini;
        d->mini = 0;
    }
    d->bits = d->width[d->mini++];
    d->in_mini = d->per_mini;
    d->packed = d->p;
    d->bit = 0;
    if (d->bits > 64) return false;
    uint64_t bytes = d->per_mini / 8 * (uint64_t)d->bits, have = (uint64_t)(d->end - d->p);
    /* Some writers cut the last miniblock after its last value. */
    if (bytes > have && d->n_left < d->per_mini && (d->n_left * (uint64_t)d->bits + 7) / 8 <= have) bytes = have;
    if (bytes > have) return false;
    d->p += bytes;
    return true;
}

bool delta_next(PqDelta *d, uint64_t *out) {
    if (d->n_left == 0) return false;
    if (d->first) {
        d->first = false;
    } else {
        if (d->in_mini == 0 && !delta_mini(d)) return false;
        d->value += d->min_delta + bits_at(d->packed, d->end, d->bit, d->bits);
        d->bit += (uint64_t)d->bits;
        d->in_mini--;
    }
    d->n_left--;
    *out = d->value;
    return true;
}

const uint8_t *delta_end(const PqDelta *begun) {
    PqDelta d = *begun;
    if (d.n_left > 0) d.n_left--; /* the first is in the header */
    while (d.n_left > 0) {
        if (!delta_mini(&d)) return NULL;
        d.n_left -= d.n_left < d.per_mini ? d.n_left : d.per_mini;
    }
    return d.p;
}

/* ---- a page */

static const char *encoding_name(int64_t e) {
    static const char *const name[] = {
        "PLAIN",          "GROUP_VAR_INT",       "PLAIN_DICTIONARY",        "RLE",
        "BIT_PACKED",     "DELTA_BINARY_PACKED", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY",
        "RLE_DICTIONARY", "BYTE_STREAM_SPLIT"};
    return e >= 0 && e < COUNT_OF(name) ? name[e] : "unknown";
}

static bool fits(const PqLeaf *l, int64_t encoding) {
    bool integer = l->type == PQ_INT32 || l->type == PQ_INT64;
    switch (encoding) {
    case ENC_PLAIN:
        return true;
    case ENC_PLAIN_DICTIONARY:
    case ENC_RLE_DICTIONARY:
        return l->type != PQ_BOOLEAN;
    case ENC_RLE:
        return l->type == PQ_BOOLEAN;
    case ENC_DELTA:
        return integer;
    case ENC_DELTA_LENGTH:
        return l->type == PQ_BYTES;
    case ENC_DELTA_BYTES:
        return l->type == PQ_BYTES || l->type == PQ_FIXED;
    case ENC_SPLIT:
        return integer || l->type == PQ_FLOAT || l->type == PQ_DOUBLE || l->type == PQ_FIXED;
    default:
        return false;
    }
}

/* Both kinds of byte arrays: lengths first, and before them, for DELTA_BYTES, how much is the same as before. */
static bool begin_delta_bytes(PqLeaf *l, const uint8_t *p, const uint8_t *end) {
    if (l->encoding == ENC_DELTA_BYTES) {
        if (!delta_begin(&l->delta, p, end) || !(p = delta_end(&l->delta))) return false;
        str_clear(&l->before);
    }
    if (!delta_begin(&l->lengths, p, end) || !(l->p = delta_end(&l->lengths))) return false;
    l->p_end = end;
    return true;
}

static bool begin_indices(PqLeaf *l, const uint8_t *p, const uint8_t *end) {
    int width = p < end ? *p++ : 0;
    runs_begin(&l->index, p, end, width);
    return width <= 32;
}

static bool begin_booleans(PqLeaf *l, const uint8_t *p, const uint8_t *end) {
    uint32_t n;
    if (end - p < 4) return false;
    memcpy(&n, p, 4);
    runs_begin(&l->index, p + 4, end, 1);
    return n <= (uint64_t)(end - p - 4);
}

bool page_values(const Parquet *q, PqLeaf *l, const uint8_t *p, const uint8_t *end, int64_t encoding, Error *err) {
    if (!fits(l, encoding))
        return parquet_bad(q, l, err, "unsupported encoding %s (%lld)", encoding_name(encoding), (long long)encoding);
    l->encoding = encoding == ENC_PLAIN_DICTIONARY ? ENC_RLE_DICTIONARY : (PqEncoding)encoding;
    l->p = p;
    l->p_end = end;
    l->bit = 0;
    l->n_idx = l->i_idx = 0;
    l->index = (PqRuns){0};
    l->delta = l->lengths = (PqDelta){0};
    l->n_split = 0;
    if (p == end) return true; /* no value is there; asking for one is an error */
    bool ok = true;
    switch (l->encoding) {
    case ENC_RLE_DICTIONARY:
        if (!l->dict_p) return parquet_bad(q, l, err, "a page needs a dictionary that is not there");
        ok = begin_indices(l, p, end);
        break;
    case ENC_RLE:
        ok = begin_booleans(l, p, end);
        break;
    case ENC_DELTA:
        ok = delta_begin(&l->delta, p, end);
        break;
    case ENC_DELTA_LENGTH:
    case ENC_DELTA_BYTES:
        ok = begin_delta_bytes(l, p, end);
        break;
    case ENC_SPLIT:
        l->n_split = (end - p) / l->width;
        l->i_split = 0;
        break;
    default:
        break;
    }
    return ok || parquet_bad(q, l, err, "damaged page of encoding %s", encoding_name(encoding));
}

/* ---- a value; false: there is none or it is damaged */

static bool plain_value(PqLeaf *l, PqValue *v) {
    size_t have = (size_t)(l->p_end - l->p), n = (size_t)l->width;
    if (l->type == PQ_BOOLEAN) {
        if (have == 0) return false;
        l->scratch[0] = *l->p >> l->bit & 1;
        l->p += l->bit == 7;
        l->bit = (l->bit + 1) % 8;
        *v = (PqValue){l->scratch, 1};
        return true;
    }
    if (l->type == PQ_BYTES) {
        uint32_t len;
        if (have < 4) return false;
        memcpy(&len, l->p, 4);
        l->p += 4;
        have -= 4;
        n = len;
    }
    if (n > have) return false;
    *v = (PqValue){l->p, n};
    l->p += n;
    return true;
}

static bool next_index(PqLeaf *l, uint32_t *i) {
    if (l->i_idx == l->n_idx) {
        l->n_idx = runs_read(&l->index, l->idx, PQ_AHEAD);
        l->i_idx = 0;
        if (l->n_idx == 0) return false;
    }
    *i = l->idx[l->i_idx++];
    return true;
}

static bool dictionary_value(PqLeaf *l, PqValue *v) {
    uint32_t i, len;
    if (!next_index(l, &i) || i >= l->n_dict) return false;
    if (l->width) {
        *v = (PqValue){l->dict_p + (size_t)i * (size_t)l->width, (size_t)l->width};
        return true;
    }
    const uint8_t *at = l->dict_p + l->dict_off[i];
    memcpy(&len, at, 4);
    *v = (PqValue){at + 4, len};
    return true;
}

static bool delta_value(PqLeaf *l, PqValue *v) {
    uint64_t x;
    if (!delta_next(&l->delta, &x)) return false;
    memcpy(l->scratch, &x, 8);
    *v = (PqValue){l->scratch, (size_t)l->width};
    return true;
}

static bool delta_length_value(PqLeaf *l, PqValue *v) {
    uint64_t n;
    if (!delta_next(&l->lengths, &n) || n > (uint64_t)(l->p_end - l->p)) return false;
    *v = (PqValue){l->p, (size_t)n};
    l->p += n;
    return true;
}

static bool delta_bytes_value(PqLeaf *l, PqValue *v) {
    uint64_t same;
    if (!delta_next(&l->delta, &same) || !delta_length_value(l, v) || same > l->before.n) return false;
    if (same + v->n > PARQUET_ROW_BYTES) return false;
    l->before.n = (size_t)same;
    str_putn(&l->before, v->s, v->n);
    *v = (PqValue){(const uint8_t *)str_get(&l->before), l->before.n};
    return l->type == PQ_BYTES || v->n == (size_t)l->width;
}

/* Byte k of all values, then byte k + 1. */
static bool split_value(PqLeaf *l, PqValue *v) {
    uint8_t *out = l->scratch;
    if (l->i_split >= l->n_split) return false;
    if (l->width > (int)sizeof l->scratch) {
        str_clear(&l->before);
        for (int k = 0; k < l->width; k++) str_putc(&l->before, 0);
        out = (uint8_t *)l->before.s;
    }
    for (int k = 0; k < l->width; k++) out[k] = l->p[k * l->n_split + l->i_split];
    l->i_split++;
    *v = (PqValue){out, (size_t)l->width};
    return true;
}

bool leaf_value(const Parquet *q, PqLeaf *l, PqValue *v, Error *err) {
    bool ok = false;
    uint32_t bit;
    if (l->p_end != NULL) {
        switch (l->encoding) {
        case ENC_PLAIN:
            ok = plain_value(l, v);
            break;
        case ENC_RLE_DICTIONARY:
            ok = l->dict_p && dictionary_value(l, v);
            break;
        case ENC_RLE:
            ok = next_index(l, &bit);
            l->scratch[0] = ok && bit & 1;
            *v = (PqValue){l->scratch, 1};
            break;
        case ENC_DELTA:
            ok = delta_value(l, v);
            break;
        case ENC_DELTA_LENGTH:
            ok = delta_length_value(l, v);
            break;
        case ENC_DELTA_BYTES:
            ok = delta_bytes_value(l, v);
            break;
        case ENC_SPLIT:
            ok = split_value(l, v);
            break;
        default:
            break;
        }
    }
    return ok || parquet_bad(q, l, err, "a page of encoding %s is damaged or ends early", encoding_name(l->encoding));
}
