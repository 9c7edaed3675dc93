#include <math.h>
#include <stdlib.h>

#include "cai/eval_results.h"
#include "eval/detect.h"

/* Of one system: x (n) mean ratings of its items, clusters in runs. */
static int system_scores(double *x, int32_t *cluster, const Items *t, const Raters *r, int system, int *unrated) {
    int n = 0;
    *unrated = 0;
    for (int i = 0; i < t->n; i++) {
        if (t->item[i].a != system) continue;
        double v = raters_mean(r, i, true);
        if (isnan(v)) {
            ++*unrated;
            continue;
        }
        x[n] = v;
        cluster[n++] = t->item[i].cluster;
    }
    return n;
}

static void put_system(JsonOut *j, const Items *t, const Raters *r, int system) {
    double *x = mem_alloc((size_t)(t->n + 1) * sizeof *x);
    int32_t *cluster = mem_alloc((size_t)(t->n + 1) * sizeof *cluster);
    int unrated, n = system_scores(x, cluster, t, r, system, &unrated), bin[5] = {0}, good = 0;
    for (int i = 0; i < n; i++) {
        int k = (int)lround(x[i]) - 1;
        bin[k < 0 ? 0 : k > 4 ? 4 : k]++;
        good += x[i] >= 4;
    }
    json_out_obj(j, NULL);
    json_out_str(j, "system", t->set[system].system);
    answers_estimate(j, "rating", interval_cluster(x, cluster, n, (Rng){t->seed, RNG_BOOT}));
    json_out_rate(j, "share_4", good, n);
    json_out_arr(j, "histogram");
    for (int k = 0; k < 5; k++) json_out_int(j, NULL, bin[k]);
    json_out_arr_end(j);
    json_out_int(j, "unrated", unrated);
    json_out_obj_end(j);
    free(x);
    free(cluster);
}

/* The lowest and the highest rated replies: what the numbers are about. */
static void put_example(JsonOut *j, const Items *t, int i, double v) {
    const Answer *a = &t->set[t->item[i].a].item[t->item[i].at_a];
    json_out_obj(j, NULL);
    json_out_str(j, "system", t->set[t->item[i].a].system);
    json_out_str(j, "category", a->category);
    json_out_str(j, "prompt", a->prompt);
    json_out_str(j, "reply", a->reply);
    json_out_num(j, "rating", v);
    json_out_bool(j, "harmful", answer_harm_asked(a) || a->harmful == 1);
    json_out_obj_end(j);
}

static void put_examples(JsonOut *j, const Items *t, const Raters *r) {
    json_out_arr(j, "examples");
    for (int s = 0; s < t->n_set; s++) {
        int low = -1, high = -1;
        double least = INFINITY, most = -INFINITY;
        for (int i = 0; i < t->n; i++) {
            double v = t->item[i].a == s ? raters_mean(r, i, true) : NAN;
            if (v < least) least = v, low = i;
            if (v > most) most = v, high = i;
        }
        if (low >= 0) put_example(j, t, low, least);
        if (high >= 0 && high != low) put_example(j, t, high, most);
    }
    json_out_arr_end(j);
}

void rating_json(JsonOut *j, const Items *t, const Raters *r, const char *judge) {
    json_out_str(j, "kind", "rating");
    json_out_int(j, "schema", 1);
    json_out_int(j, "seed", (int64_t)t->seed);
    json_out_str(j, "judge", judge);
    json_out_arr(j, "inputs");
    for (int s = 0; s < t->n_set; s++) answers_input_json(j, &t->set[s]);
    json_out_arr_end(j);
    json_out_int(j, "harmful_left_out", t->harmful);
    json_out_arr(j, "systems");
    for (int s = 0; s < t->n_set; s++) put_system(j, t, r, s);
    json_out_arr_end(j);
    raters_json(j, r, t);
    put_examples(j, t, r);
}
