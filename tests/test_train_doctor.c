// layer: train
/* The doctor's questions on plain arrays: each passes what is right and names what is wrong. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "train/ppo.h"

static void test_doctor(void **state) {
    (void)state;
    Error err = {0};
    double lp[4] = {-1, -2, -0.5, -3}, other[4] = {-1, -2, -0.5, -3};
    assert_true(doctor_first_minibatch(lp, other, 4, true, &err) && doctor_equal_reference(lp, other, 4, true, &err));
    assert_true(doctor_first_values(lp, other, 4, true, &err));
    other[2] = nextafter(other[2], 0);
    assert_false(doctor_first_values(lp, other, 4, true, &err));
    assert_true(doctor_first_values(lp, other, 4, false, &err));
    assert_false(doctor_first_minibatch(lp, other, 4, true, &err));
    assert_true(err.code == ERR_STATE && strstr(err.msg, "token 2 of 4") && strstr(err.msg, "temperature"));
    assert_true(doctor_first_minibatch(lp, other, 4, false, &err));
    assert_false(doctor_equal_reference(lp, other, 4, true, &err));
    other[2] = lp[2] - 0.2;
    assert_false(doctor_first_minibatch(lp, other, 4, false, &err));
    other[2] = NAN;
    assert_false(doctor_first_minibatch(lp, other, 4, false, &err));

    int64_t off[] = {0, 1, 4};
    double kl[4] = {0.1, -0.2, 0.3, -0.1}, score[2] = {2, -1}, r[4];
    for (int fault = 0; fault < 4; fault++) { /* none; first token; every token; sign */
        for (int t = 0; t < 4; t++) r[t] = fault == 3 ? -kl[t] : kl[t];
        r[0] += 2;
        if (fault == 1)
            r[1] -= 1;
        else
            r[3] -= 1;
        if (fault == 2) r[1] -= 1, r[2] -= 1;
        assert_true(doctor_rewards(r, kl, off, score, 2, &err) == (fault == 0));
    }
    double v[4] = {0.3, -0.2, 0.5, 0.1}, adv[4], ret[4];
    int64_t one[] = {0, 4};
    ppo_gae(adv, ret, r, v, one, 1, 0.99, 0.9);
    assert_true(doctor_gae(adv, r, v, 4, 0.99, 0.9, &err));
    assert_false(doctor_gae(adv, r, v, 4, 0.99, 1, &err));
    adv[3] += 0.99 * 0.2; /* bootstrapped from a value beyond the end */
    assert_false(doctor_gae(adv, r, v, 4, 0.99, 0.9, &err));
    assert_non_null(strstr(err.msg, "bootstrapped"));

    double group[5] = {0.5, 2, -1, 4, 3}, flat[3] = {0.1, 0.1, 0.1}, a[5], tiny[3] = {1e-17, 0, 0};
    int64_t two[] = {0, 3, 5};
    for (int kind = 0; kind < 4; kind++) {
        group_advantages(a, group, two, 2, (GroupKind)kind, 1e-4);
        for (int as = 0; as < 4; as++)
            assert_true(doctor_groups(a, group, two, 2, (GroupKind)as, 1e-4, &err) == (as == kind));
        a[1] += 1e-6; /* not centred */
        assert_false(doctor_groups(a, group, two, 2, (GroupKind)kind, 1e-4, &err));
        assert_non_null(strstr(err.msg, "reply 1 of a group of 3"));
    }
    assert_false(doctor_groups(tiny, flat, two, 1, GROUP_SD, 1e-4, &err));

    whiten(group, 5, true, true);
    assert_true(doctor_whitened(group, 5, true, &err));
    assert_false(doctor_whitened(lp, 4, true, &err));
    whiten(group, 5, true, false); /* by n: larger than 1 when measured by n - 1 */
    assert_true(doctor_whitened(group, 5, false, &err) && !doctor_whitened(group, 5, true, &err));
    assert_true(doctor_finite("score", "a cause", lp, 4, &err));
    lp[2] = NAN;
    assert_false(doctor_finite("score", "a cause", lp, 4, &err));
    assert_non_null(strstr(err.msg, "score 2 of 4"));
    assert_true(doctor_counts(7, 7, 1, &err));
    assert_false(doctor_counts(6, 7, 2, &err));
    assert_non_null(strstr(err.msg, "trained 6 tokens of 7"));

    const ReplyShape first = {0.8, 20};
    assert_null(doctor_drift(first, (ReplyShape){0.5, 39}, 64));
    assert_non_null(strstr(doctor_drift(first, (ReplyShape){0.39, 20}, 64), "end by themselves"));
    assert_non_null(strstr(doctor_drift(first, (ReplyShape){0.8, 41}, 64), "twice as long"));
    assert_non_null(strstr(doctor_drift(first, (ReplyShape){0.8, 9}, 64), "half as long"));
    assert_null(doctor_drift((ReplyShape){0.1, 2}, (ReplyShape){0, 4.5}, 64)); /* where it means nothing */
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_doctor)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
