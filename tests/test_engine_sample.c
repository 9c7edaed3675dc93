// layer: engine
/* The sampler against the processors it imitates (golden), and the draw against its own distribution. */
#include "base/json.h"
#include "engine/sample.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_V = 5000 };

static const SampleParams plain = {.temperature = 1.0, .top_p = 1.0, .repetition = 1.0, .max_new = 1};

static int read_floats(float *out, const Json *a) {
    int n = json_len(a);
    assert_true(n <= MAX_V);
    for (int i = 0; i < n; i++) {
        const Json *v = json_at(a, i);
        out[i] = json_kind(v) == JSON_NIL ? -INFINITY : (float)json_num(v, NAN);
    }
    return n;
}

static void test_golden_filters(void **state) {
    (void)state;
    Error err = {0};
    Json *root = NULL;
    if (!json_read_file(&root, TEST_DIR "/golden/sampler_cases.json", 0, &err)) fail_msg("%s", err.msg);
    const Json *cases = json_get(root, "cases");
    assert_int_equal(json_len(cases), 49);
    float z[256], want[256];
    int32_t ids[64];
    for (int i = 0; i < json_len(cases); i++) {
        const Json *c = json_at(cases, i);
        int n = read_floats(z, json_get(c, "logits")), n_ids = json_len(json_get(c, "ids"));
        assert_int_equal(n, read_floats(want, json_get(c, "out")));
        for (int k = 0; k < n_ids; k++) ids[k] = (int32_t)json_int(json_at(json_get(c, "ids"), k), -1);
        SampleParams p = plain;
        p.repetition = json_num(json_get(c, "penalty"), NAN);
        p.temperature = json_num(json_get(c, "temperature"), NAN);
        p.top_k = (int)json_int(json_get(c, "top_k"), -1);
        p.top_p = json_num(json_get(c, "top_p"), NAN);
        p.min_p = json_num(json_get(c, "min_p"), NAN);
        sample_filter(z, n, &p, ids, n_ids);
        for (int k = 0; k < n; k++) {
            if (isfinite(want[k]) != isfinite(z[k]))
                fail_msg("case %d: token %d: %g, expected %g", i, k, z[k], want[k]);
            if (!isfinite(want[k])) continue;
            if (fabs(z[k] - want[k]) > 1e-6 * fmax(1.0, fabs(want[k])))
                fail_msg("case %d: token %d: %.9g, expected %.9g", i, k, z[k], want[k]);
        }
    }
    json_release(root);
}

/* -- the same filters, written the slow way, on vocabularies of real size with many ties ------------------------------
 */

static const float *sort_z;

static int by_value_index(const void *a, const void *b) {
    int i = *(const int *)a, j = *(const int *)b;
    if (sort_z[i] != sort_z[j]) return sort_z[i] < sort_z[j] ? -1 : 1;
    return i < j ? -1 : 1;
}

static void slow_filter(float *z, int n, const SampleParams *p) {
    static int order[MAX_V];
    static double w[MAX_V];
    for (int i = 0; i < n; i++) z[i] /= (float)p->temperature, order[i] = i;
    sort_z = z;
    qsort(order, (size_t)n, sizeof *order, by_value_index);
    float top = z[order[n - 1]];
    if (p->top_k > 0) {
        float border = z[order[p->top_k < n ? n - p->top_k : 0]];
        for (int i = 0; i < n; i++) z[i] = z[i] < border ? -INFINITY : z[i];
    }
    double total = 0.0, sum = 0.0;
    for (int i = 0; i < n; i++) total += w[i] = exp((double)z[i] - top);
    if (p->top_p < 1.0) {
        for (int i = 0; i + 1 < n; i++) {
            sum += w[order[i]];
            if (sum / total > 1.0 - p->top_p) break;
            z[order[i]] = -INFINITY;
        }
    }
    if (p->min_p > 0.0) {
        for (int i = 0; i < n; i++) z[i] = w[i] < p->min_p ? -INFINITY : z[i];
    }
}

static void test_filters_against_sorting(void **state) {
    (void)state;
    static float z[MAX_V], want[MAX_V];
    Rng rng = {17, RNG_TEST};
    for (uint32_t k = 0; k < 200; k++) {
        int n = 1 + (int)rng_below(rng, k, 0, MAX_V);
        bool ties = rng_below(rng, k, 1, 2);
        for (int i = 0; i < n; i++) {
            double v = 3.0 * rng_normal(rng, k, (uint32_t)i + 100);
            z[i] = want[i] = (float)(ties ? round(v) : v);
        }
        SampleParams p = plain;
        p.temperature = 0.5 + rng_uniform(rng, k, 2);
        if (rng_below(rng, k, 3, 2)) p.top_k = 1 + (int)rng_below(rng, k, 4, 100);
        if (rng_below(rng, k, 5, 2)) p.top_p = rng_uniform(rng, k, 6);
        if (rng_below(rng, k, 7, 2)) p.min_p = 0.3 * rng_uniform(rng, k, 8);
        sample_filter(z, n, &p, NULL, 0);
        slow_filter(want, n, &p);
        for (int i = 0; i < n; i++) {
            if (z[i] != want[i]) {
                fail_msg("seed 17, case %u (n %d, top_k %d, top_p %g, min_p %g): token %d: %g, expected %g", k, n,
                         p.top_k, p.top_p, p.min_p, i, z[i], want[i]);
            }
        }
    }
}

/* -- draws ------------------------------------------------------------------------------------------------------------
 */

/* Chi-square of 1e5 draws against the softmax of the filtered logits; cells of less than 5 expected draws are merged.
 */
static void check_draws(const SampleParams *p, const GenRule *rule, uint64_t item, int n) {
    enum { DRAWS = 100000 };
    static float z[MAX_V], kept[MAX_V], work[MAX_V];
    static int count[MAX_V];
    Rng rng = {99, RNG_TEST};
    memset(count, 0, sizeof count);
    for (int i = 0; i < n; i++) z[i] = kept[i] = (float)(1.5 * rng_normal(rng, item, (uint32_t)i));
    SampleScratch s;
    sample_scratch_open(&s, n);
    if (rule) sample_mask(&s, kept, rule);
    sample_filter_with(&s, kept, p, NULL, 0);
    double total = 0.0, chi = 0.0, rest_expected = 0.0, rest_count = 0.0;
    for (int i = 0; i < n; i++) total += exp((double)kept[i]);
    for (uint32_t d = 0; d < DRAWS; d++) {
        memcpy(work, z, (size_t)n * sizeof *z);
        if (rule) sample_mask(&s, work, rule);
        int32_t t = sample_draw(&s, work, p, NULL, 0, rng_uniform(rng, 1000 + item, d));
        assert_in_range(t, 0, n - 1);
        count[t]++;
    }
    float top = -INFINITY;
    for (int i = 0; i < n; i++) top = fmaxf(top, kept[i]);
    for (int i = 0; i < n; i++) { /* the draw's own exp */
        double want = exp((double)(kept[i] - top));
        if (fabs(s.weight[i] - want) > 4e-7 * want) fail_msg("weight %d: %.9g, expected %.9g", i, s.weight[i], want);
    }
    int df = -1;
    for (int i = 0; i < n; i++) {
        double expected = DRAWS * exp((double)kept[i]) / total;
        if (expected == 0.0) {
            assert_int_equal(count[i], 0);
        } else if (expected < 5.0) {
            rest_expected += expected, rest_count += count[i];
        } else {
            chi += (count[i] - expected) * (count[i] - expected) / expected;
            df++;
        }
    }
    if (rest_expected > 0.0)
        chi += (rest_count - rest_expected) * (rest_count - rest_expected) / fmax(rest_expected, 1.0), df++;
    sample_scratch_release(&s);
    if (df < 1) return;
    double h = 2.0 / (9.0 * df), normal = (cbrt(chi / df) - (1.0 - h)) / sqrt(h); /* Wilson and Hilferty 1931 */
    if (normal > 3.719)
        fail_msg("case %llu: chi-square %.1f with %d degrees of freedom, p < 1e-4", (unsigned long long)item, chi, df);
}

static void test_draws_follow_the_distribution(void **state) {
    (void)state;
    SampleParams p = plain;
    check_draws(&p, NULL, 0, 130);
    check_draws(&p, NULL, 1, 64);
    check_draws(&p, NULL, 2, 1);
    p.temperature = 0.6;
    check_draws(&p, NULL, 3, 50);
    p.top_k = 7;
    check_draws(&p, NULL, 4, 50);
    p.top_k = 0, p.top_p = 0.8;
    check_draws(&p, NULL, 5, 50);
    p.top_p = 1.0, p.min_p = 0.1;
    check_draws(&p, NULL, 6, 50);
    const int32_t allow[] = {3, 40, 11};
    uint8_t ban[50] = {0};
    ban[11] = ban[12] = 1;
    p = plain;
    check_draws(&p, &(GenRule){.force = -1, .allow = allow, .n_allow = 3}, 7, 50);
    check_draws(&p, &(GenRule){.force = -1, .ban = ban}, 8, 50);
    check_draws(&p, &(GenRule){.force = -1, .allow = allow, .n_allow = 3, .ban = ban}, 9, 50);
}

static void test_draw_edges(void **state) {
    (void)state;
    SampleParams p = plain;
    float z[200];
    for (int i = 0; i < 200; i++) z[i] = -INFINITY;
    z[70] = z[130] = 2.0f;
    assert_int_equal(sample_token(memcpy((float[200]){0}, z, sizeof z), 200, &p, NULL, NULL, 0, 0.0), 70);
    assert_int_equal(sample_token(memcpy((float[200]){0}, z, sizeof z), 200, &p, NULL, NULL, 0, 0.499999), 70);
    assert_int_equal(sample_token(memcpy((float[200]){0}, z, sizeof z), 200, &p, NULL, NULL, 0, 0.5), 130);
    assert_int_equal(sample_token(memcpy((float[200]){0}, z, sizeof z), 200, &p, NULL, NULL, 0, 1.0 - 0x1p-53), 130);
    p.temperature = 0.0; /* argmax, lowest index */
    assert_int_equal(sample_token(memcpy((float[200]){0}, z, sizeof z), 200, &p, NULL, NULL, 0, 0.9), 70);
    uint8_t ban[200] = {0};
    ban[70] = 1;
    GenRule rule = {.force = -1, .ban = ban};
    assert_int_equal(sample_token(memcpy((float[200]){0}, z, sizeof z), 200, &p, &rule, NULL, 0, 0.9), 130);
    p.repetition = 1.5; /* the penalty can move the argmax; ids repeat, the penalty does not */
    z[71] = 1.5f;
    const int32_t seen[] = {70, 130, 70, 70};
    assert_int_equal(sample_token(memcpy((float[200]){0}, z, sizeof z), 200, &p, NULL, seen, 4, 0.9), 71);
    rule = (GenRule){.force = 17};
    assert_int_equal(sample_token(z, 200, &p, &rule, NULL, 0, 0.9), 17);
}

static void test_nothing_to_draw(void **state) {
    (void)state;
    SampleParams p = plain, greedy = plain;
    greedy.temperature = 0.0;
    const float bad[] = {NAN, INFINITY};
    for (int k = 0; k < 2; k++) {
        float a[80] = {0}, b[80] = {0};
        a[37] = b[37] = bad[k];
        assert_int_equal(sample_token(a, 80, &p, NULL, NULL, 0, 0.3), -1);
        assert_int_equal(sample_token(b, 80, &greedy, NULL, NULL, 0, 0.3), -1);
    }
    uint8_t ban[3] = {1, 1, 1};
    GenRule rule = {.force = -1, .ban = ban};
    float z[3] = {1, 2, 3};
    assert_int_equal(sample_token(z, 3, &p, &rule, NULL, 0, 0.3), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_filters),
        cmocka_unit_test(test_filters_against_sorting),
        cmocka_unit_test(test_draws_follow_the_distribution),
        cmocka_unit_test(test_draw_edges),
        cmocka_unit_test(test_nothing_to_draw),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
