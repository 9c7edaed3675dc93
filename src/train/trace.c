#include "train/trace.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"

static void add_array(Hasher *h, const int32_t *x, int64_t n) {
    hasher_add(h, &n, sizeof n);
    hasher_add(h, x, (size_t)n * sizeof *x);
}

void trace_add(TraceSum *s, const Trace *t, int64_t step, int64_t pass, const Batch *b, double loss) {
    Hasher *h = hasher_new();
    uint64_t bits[2];
    hasher_add(h, &pass, sizeof pass);
    add_array(h, b->tok, b->n_tok);
    add_array(h, b->pos, b->n_tok);
    add_array(h, b->row, b->n_row);
    s->inputs += hasher_finish(h).lo;
    memcpy(&bits[0], &pass, sizeof pass);
    memcpy(&bits[1], &loss, sizeof loss);
    s->losses += hash_bytes(bits, sizeof bits).lo;
    if (t && t->look && step == t->steps) t->look(t->ud, pass, b, loss);
}

void trace_put(JsonOut *j, const TraceSum *s) {
    char hex[17];
    snprintf(hex, sizeof hex, "%016" PRIx64, s->inputs);
    json_out_str(j, "inputs", hex);
    snprintf(hex, sizeof hex, "%016" PRIx64, s->losses);
    json_out_str(j, "losses", hex);
}

bool trace_over(const Trace *t, int64_t steps, Error *err) {
    if (!t || steps < t->steps) return false;
    if (t->done) *t->done = true;
    error_set(err, ERR_STOPPED, "replayed %" PRId64 " steps", t->steps);
    return true;
}
