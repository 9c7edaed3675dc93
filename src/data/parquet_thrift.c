/* Thrift's compact protocol, read without a schema: what is not asked for is skipped. */
#include "data/parquet_int.h"

enum { THRIFT_DEPTH = 48 };

uint64_t read_varint(const uint8_t **p, const uint8_t *end, bool *bad) {
    uint64_t v = 0;
    for (int shift = 0; shift < 70; shift += 7) {
        if (*p == end) break;
        uint8_t c = *(*p)++;
        if (shift < 64) v |= (uint64_t)(c & 0x7F) << shift;
        if (c < 0x80) return v;
    }
    *bad = true;
    return 0;
}

static uint8_t byte_of(Thrift *t) {
    if (t->p < t->end) return *t->p++;
    t->bad = true;
    return 0;
}

int64_t thrift_int(Thrift *t) { return unzigzag(read_varint(&t->p, t->end, &t->bad)); }

int thrift_field(Thrift *t, int *id) {
    uint8_t b = byte_of(t);
    if (t->bad || (b & 15) == T_STOP) return T_STOP;
    if (b >> 4) {
        *id += b >> 4;
    } else {
        int64_t v = thrift_int(t);
        *id = v > 0 && v < 32768 ? (int)v : 32767;
    }
    return b & 15;
}

int64_t thrift_int_of(Thrift *t, int type, int64_t otherwise) {
    if (type >= T_I16 && type <= T_I64) return thrift_int(t);
    if (type == T_BYTE) return (int8_t)byte_of(t);
    thrift_skip(t, type);
    return otherwise;
}

bool thrift_bool_of(Thrift *t, int type, bool otherwise) {
    if (type == T_TRUE || type == T_FALSE) return type == T_TRUE;
    thrift_skip(t, type);
    return otherwise;
}

const uint8_t *thrift_bytes(Thrift *t, size_t *n) {
    uint64_t len = read_varint(&t->p, t->end, &t->bad);
    const uint8_t *p = t->p;
    *n = 0;
    if (t->bad || len > (uint64_t)(t->end - t->p)) {
        t->bad = true;
        return p;
    }
    *n = (size_t)len;
    t->p += len;
    return p;
}

static uint64_t list_head(Thrift *t, int *entry) {
    uint8_t b = byte_of(t);
    uint64_t n = b >> 4;
    if (n == 15) n = read_varint(&t->p, t->end, &t->bad);
    *entry = b & 15;
    if (n > (uint64_t)(t->end - t->p)) t->bad = true;
    return t->bad ? 0 : n;
}

/* An entry of a list: booleans are bytes there. */
static void skip_entry(Thrift *t, int type) {
    if (type == T_TRUE || type == T_FALSE)
        byte_of(t);
    else
        thrift_skip(t, type);
}

int64_t thrift_list(Thrift *t, int type, int want) {
    int entry;
    if (type != T_LIST && type != T_SET) {
        thrift_skip(t, type);
        return 0;
    }
    uint64_t n = list_head(t, &entry);
    if (entry == want || n == 0) return (int64_t)n;
    for (uint64_t i = 0; i < n && !t->bad; i++) skip_entry(t, entry);
    return 0;
}

static void skip_struct(Thrift *t) {
    int id = 0, type;
    while ((type = thrift_field(t, &id)) != T_STOP) thrift_skip(t, type);
}

static void skip_map(Thrift *t) {
    uint64_t n = read_varint(&t->p, t->end, &t->bad);
    if (n == 0 || t->bad) return;
    uint8_t types = byte_of(t);
    for (uint64_t i = 0; i < n && !t->bad; i++) {
        skip_entry(t, types >> 4);
        skip_entry(t, types & 15);
        if (t->p == t->end) t->bad = true; /* the struct around it has an end to come */
    }
}

void thrift_skip(Thrift *t, int type) {
    int entry;
    size_t n;
    if (t->depth >= THRIFT_DEPTH) t->bad = true;
    if (t->bad) return;
    t->depth++;
    switch (type) {
    case T_TRUE:
    case T_FALSE:
        break;
    case T_BYTE:
        byte_of(t);
        break;
    case T_I16:
    case T_I32:
    case T_I64:
        thrift_int(t);
        break;
    case T_DOUBLE:
        for (int i = 0; i < 8; i++) byte_of(t);
        break;
    case T_BINARY:
        thrift_bytes(t, &n);
        break;
    case T_LIST:
    case T_SET:
        for (uint64_t left = list_head(t, &entry); left > 0 && !t->bad; left--) skip_entry(t, entry);
        break;
    case T_MAP:
        skip_map(t);
        break;
    case T_STRUCT:
        skip_struct(t);
        break;
    default:
        t->bad = true;
    }
    t->depth--;
}
