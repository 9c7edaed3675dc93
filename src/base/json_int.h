/* base/json_int.h — what json.c (reading), json_scan.c (the quick way through text), json_build.c and json_out.c share. */
#ifndef DIKAST_BASE_JSON_INT_H
#define DIKAST_BASE_JSON_INT_H

#include "base/arena.h"
#include "base/json.h"

typedef struct {
    const char **key;
    Json *value;
    uint32_t *slot; /* entry number + 1, open addressing; NULL for small objects */
    uint32_t mask;
} Members;

struct Json {
    JsonKind kind;
    size_t n; /* bytes, items or entries */
    union {
        int64_t i;
        double r;
        const char *s;
        Json *item;
        Members *members;
    } u;
};

typedef struct { Json node; const char *key; } Built;
struct JsonBuild {
    Heap heap;
    Built *done;                /* finished values, those of each open level behind those of the one around it */
    size_t n, cap;
    size_t *open;               /* where the values of each open level begin; behind its own entry in done */
    size_t depth, cap_depth;
};
void json_build_release(JsonBuild *b);      /* one that is not json_build_new's; zeroed is valid and empty */
Json *json_build_value(JsonBuild *b, const char *key, JsonKind kind);   /* a finished value, to be filled in at once */

uint32_t json_key_slot(const char *key);
bool json_index(Members *m, size_t n, Heap *h);     /* of an object that has its keys. False when two are equal */

/* The quick way: b, which is empty, gets the one value that s[0..n) holds. False, with b in any state, where this reader does not
 * vouch for the text: it is wrong, or unusual (more than SCAN_DEPTH levels, integers of more than 18 digits, numbers of more than
 * 40 characters). json_parse then asks jansson, whose verdict and message count; what is true here has jansson's tree. */
enum { SCAN_DEPTH = 64 };
bool json_scan(JsonBuild *b, const char *s, size_t n, int flags);

bool json_parse_jansson(Json **out, const char *s, size_t n, int flags, const char *name, int first_line, Error *err);

#endif
