#include "base/goodput.h"

#include <math.h>

static const char *const names[GOOD_BINS] = {"productive", "save", "lost", "detection", "restart", "data", "idle"};

const char *goodput_name(int bin) { return names[bin]; }

int64_t goodput_total(const Goodput *g) {
    int64_t sum = 0;
    for (int i = 0; i < GOOD_BINS; i++) sum += g->ns[i];
    return sum;
}

double goodput_ettr(const Goodput *g) {
    int64_t all = goodput_total(g);
    return all > 0 ? (double)g->ns[GOOD_PRODUCTIVE] / (double)all : NAN;
}

void goodput_add(Goodput *to, const Goodput *g) {
    for (int i = 0; i < GOOD_BINS; i++) to->ns[i] += g->ns[i];
}

int64_t goodput_move(Goodput *g, GoodBin from, GoodBin to, int64_t ns) {
    int64_t n = ns < g->ns[from] ? ns : g->ns[from];
    if (n < 0) n = 0;
    g->ns[from] -= n;
    g->ns[to] += n;
    return n;
}

void goodput_put(JsonOut *j, const char *key, const Goodput *g) {
    json_out_obj(j, key);
    for (int i = 0; i < GOOD_BINS; i++) json_out_int(j, names[i], g->ns[i]);
    json_out_obj_end(j);
}

bool goodput_get(Goodput *out, const Json *j) {
    bool ok = true;
    for (int i = 0; i < GOOD_BINS; i++) {
        out->ns[i] = json_int(json_get(j, names[i]), -1);
        ok = ok && out->ns[i] >= 0;
    }
    return ok;
}
