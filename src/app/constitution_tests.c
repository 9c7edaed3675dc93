#include "app/constitution_tests.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cai/constitution_test.h"

typedef struct {
    Constitution c;
    JudgeTests tests;
    Judged *judged;
    CrossCheck cross;
    bool crossed;
    double min;
    int n_passed, n_flip, n_failed; /* tests, tests, principles */
} Testing;

static int tests_of(const Testing *t, int principle, int *passed) {
    int n = 0;
    *passed = 0;
    for (int i = 0; i < t->tests.n; i++) {
        if (t->tests.test[i].principle != principle) continue;
        n++;
        *passed += judged_pass(t->judged[i]);
    }
    return n;
}

static bool principle_fails(const Testing *t, int principle) {
    int passed, n = tests_of(t, principle, &passed);
    return n > 0 && passed < t->min * n;
}

static const char *outcome(Judged j) {
    return !j.scored ? "too long" : judged_pass(j) ? "pass" : judged_flip(j) ? "flip" : "fail";
}

static double contradiction(const Testing *t, int a, int b) {
    return t->tests.n ? (double)t->cross.opposed[a * t->cross.n + b] / t->tests.n : 0;
}

static void print_tests(const Testing *t) {
    for (int p = 0; p < t->c.n; p++) {
        int passed, n = tests_of(t, p, &passed);
        if (!n) continue;
        printf("%-4s  %-32s  %d of %d\n", principle_fails(t, p) ? "FAIL" : "ok", t->c.principle[p].id, passed, n);
        for (int i = 0; i < t->tests.n; i++) {
            Judged j = t->judged[i];
            if (t->tests.test[i].principle != p) continue;
            printf("      %-8s  margin %+.3f  (better first %+.3f, worse first %+.3f)  %.80s\n", outcome(j),
                   judged_l(j), j.l_ab, -j.l_ba, t->tests.test[i].prompt);
        }
    }
    for (int a = 0; t->crossed && a < t->c.n; a++) {
        if (!t->cross.decided[a]) printf("warning: '%s' decides none of %d pairs\n", t->c.principle[a].id, t->tests.n);
        for (int b = 0; b < a; b++)
            if (contradiction(t, a, b) > CROSS_OPPOSED)
                printf("warning: '%s' and '%s' decide opposite ways on %.0f %% of %d pairs\n", t->c.principle[a].id,
                       t->c.principle[b].id, 100 * contradiction(t, a, b), t->tests.n);
    }
    printf("%d of %d tests passed, %d flipped with the order; %d principles below %g\n", t->n_passed, t->tests.n,
           t->n_flip, t->n_failed, t->min);
}

static void cross_json(JsonOut *j, const Testing *t) {
    json_out_arr(j, "undecided");
    for (int a = 0; a < t->c.n; a++)
        if (!t->cross.decided[a]) json_out_str(j, NULL, t->c.principle[a].id);
    json_out_arr_end(j);
    json_out_arr(j, "contradictions");
    for (int a = 0; a < t->c.n; a++)
        for (int b = 0; b < a; b++) {
            if (contradiction(t, a, b) <= CROSS_OPPOSED) continue;
            json_out_obj(j, NULL);
            json_out_str(j, "principle", t->c.principle[a].id);
            json_out_str(j, "other", t->c.principle[b].id);
            json_out_num(j, "share", contradiction(t, a, b));
            json_out_obj_end(j);
        }
    json_out_arr_end(j);
}

static void tests_json(const Args *a, const Testing *t, const Error *err) {
    Str s = {0};
    JsonOut j;
    json_out_init(&j, &s, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-constitution-test/1");
    json_out_str(&j, "file", a->arg[1]);
    json_out_str(&j, "sha256", t->c.sha256[0] ? t->c.sha256 : NULL);
    json_out_num(&j, "min", t->min);
    int n = t->judged ? t->tests.n : 0;
    json_out_int(&j, "tests", n);
    json_out_int(&j, "passed", t->n_passed);
    json_out_int(&j, "flips", t->n_flip);
    json_out_arr(&j, "failed");
    for (int p = 0; n && p < t->c.n; p++)
        if (principle_fails(t, p)) json_out_str(&j, NULL, t->c.principle[p].id);
    json_out_arr_end(&j);
    json_out_arr(&j, "results");
    for (int i = 0; i < n; i++) {
        const JudgeTest *x = &t->tests.test[i];
        json_out_obj(&j, NULL);
        json_out_str(&j, "principle", t->c.principle[x->principle].id);
        json_out_str(&j, "prompt", x->prompt);
        json_out_str(&j, "outcome", outcome(t->judged[i]));
        json_out_num(&j, "margin", judged_l(t->judged[i]));
        json_out_num(&j, "better_first", t->judged[i].l_ab);
        json_out_num(&j, "worse_first", -t->judged[i].l_ba);
        json_out_obj_end(&j);
    }
    json_out_arr_end(&j);
    if (t->crossed) cross_json(&j, t);
    json_out_int(&j, "code", error_exit_code(err->code));
    json_out_str(&j, "error", err->code ? err->msg : NULL);
    json_out_obj_end(&j);
    print_text(&s);
}

void constitution_error_json(const Error *err) {
    Str s = {0};
    JsonOut j;
    json_out_init(&j, &s, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-constitution-error/1");
    json_out_int(&j, "code", error_exit_code(err->code));
    json_out_str(&j, "error", err->msg);
    json_out_obj_end(&j);
    print_text(&s);
}

static void count(Testing *t) {
    for (int i = 0; i < t->tests.n; i++) {
        t->n_passed += judged_pass(t->judged[i]);
        t->n_flip += t->judged[i].scored && judged_flip(t->judged[i]);
    }
    for (int p = 0; p < t->c.n; p++) t->n_failed += principle_fails(t, p);
}

/* A model can judge when its vocabulary has the sentinels of the judge format. */
static bool need_judge(const OpenModel *m, Error *err) {
    static const Sentinel need[] = {SENT_OPTION, SENT_PRINCIPLE, SENT_JUDGE, SENT_FIRST, SENT_SECOND};
    if (!m->has_chat) {
        *err = m->no_chat;
        return false;
    }
    for (int i = 0; i < COUNT_OF(need); i++)
        if (m->chat.id[need[i]] < 0)
            return error_set(err, ERR_FORMAT,
                             "%s: the tokenizer has no %s, so the model cannot judge; a run adds the "
                             "sentinels and trains them (stage helpful)",
                             str_get(&m->dir), sentinel_spelling(need[i]));
    return true;
}

static bool judge(Testing *t, const Args *a, Error *err) {
    const Command *self = &command_constitution;
    const char *model = args_flag(a, self, "--model");
    OpenModel m = {0};
    Args with = *a;
    if (!model) return error_set(err, ERR_CONFIG, "constitution test needs --model DIR: the judge");
    with.arg[0] = model;
    if (!open_model(&m, &with, self, err)) return false;
    int max = m.model.cfg.max_seq;
    bool ok = open_model_need(&m, HEAD_LM, err) && need_judge(&m, err);
    if (ok) {
        t->judged = mem_alloc((size_t)(t->tests.n + 1) * sizeof *t->judged);
        ok = judge_tests_run(t->judged, &t->tests, &t->c, m.engine, &m.chat, max, err);
    }
    if (ok && args_flag(a, self, "--cross"))
        ok = t->crossed = cross_check(&t->cross, &t->tests, &t->c, m.engine, &m.chat, max, err);
    open_model_close(&m);
    return ok;
}

bool constitution_tests(const Args *a, Error *err) {
    const Command *self = &command_constitution;
    const char *file = args_flag(a, self, "--tests");
    Testing t = {0};
    bool ok = args_num(a, self, "--min", 0.8, 0, 1, &t.min, err) && constitution_read(&t.c, a->arg[1], err);
    if (ok && file)
        ok = judge_tests_read(&t.tests, &t.c, file, err);
    else if (ok)
        judge_tests_of(&t.tests, &t.c);
    if (ok && !t.tests.n) ok = error_set(err, ERR_FORMAT, "%s: no tests", file ? file : a->arg[1]);
    ok = ok && judge(&t, a, err);
    if (ok) {
        count(&t);
        if (!a->json) print_tests(&t);
        ok = !t.n_failed || error_set(err, ERR_GATE, "%s: %d principles pass less than %g of their tests", a->arg[1],
                                      t.n_failed, t.min);
        if (ok) err->code = ERR_NONE;
    }
    if (a->json) tests_json(a, &t, err);
    if (t.crossed) cross_check_release(&t.cross);
    free(t.judged);
    judge_tests_release(&t.tests);
    constitution_release(&t.c);
    return ok;
}
