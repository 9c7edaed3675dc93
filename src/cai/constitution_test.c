#include "cai/constitution_test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void put(JudgeTests *t, JudgeTest one) {
    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 32;
        t->test = mem_grow(t->test, (size_t)t->cap * sizeof *t->test);
    }
    t->test[t->n++] = one;
}

void judge_tests_of(JudgeTests *t, const Constitution *c) {
    for (int i = 0; i < c->n; i++)
        for (int k = 0; k < c->principle[i].n_test; k++) {
            const PrincipleTest *x = &c->principle[i].test[k];
            put(t, (JudgeTest){i, x->prompt, x->better, x->worse});
        }
}

void judge_tests_release(JudgeTests *t) {
    free(t->test);
    heap_release(&t->heap);
    *t = (JudgeTests){0};
}

typedef struct {
    JudgeTests *t;
    const Constitution *c;
} Reading;

static bool row(void *ud, const Json *j, int line, Error *err) {
    static const char *const key[] = {"principle", "prompt", "better", "worse"};
    Reading *r = ud;
    (void)line; /* the caller names it */
    const char *s[4];
    for (int i = 0; i < 4; i++) {
        size_t n;
        if (!json_need_str(j, key[i], &s[i], &n, err)) return false;
        if (!n) return error_set(err, ERR_FORMAT, "'%s' is empty", key[i]);
        s[i] = heap_strn(&r->t->heap, s[i], n);
    }
    int at = constitution_find(r->c, s[0]);
    if (at < 0) return error_set(err, ERR_FORMAT, "the constitution '%s' has no principle '%.60s'", r->c->id, s[0]);
    put(r->t, (JudgeTest){at, s[1], s[2], s[3]});
    return true;
}

bool judge_tests_read(JudgeTests *t, const Constitution *c, const char *path, Error *err) {
    Reading r = {t, c};
    return jsonl_each(".", path, row, &r, err);
}

enum { CHUNK = 128 }; /* pairs judged together: bounds the memory of the prompts */

static bool judge_all(Judged *out, const JudgeTests *t, const int *under, const Constitution *c, Engine *e,
                      const Chat *chat, int max_len, Error *err) {
    Message *msg = mem_alloc(CHUNK * sizeof *msg);
    JudgeItem *item = mem_alloc(CHUNK * sizeof *item);
    bool ok = true;
    for (int at = 0; ok && at < t->n; at += CHUNK) {
        int n = t->n - at < CHUNK ? t->n - at : CHUNK;
        for (int i = 0; i < n; i++) {
            const JudgeTest *x = &t->test[at + i];
            msg[i] = (Message){ROLE_USER, x->prompt};
            const Principle *p = &c->principle[under ? *under : x->principle];
            item[i] = (JudgeItem){{&msg[i], 1}, x->better, x->worse, principle_compare(p), p->text};
        }
        ok = judge_pairs(out + at, e, chat, item, n, max_len, err);
    }
    free(msg);
    free(item);
    return ok;
}

bool judge_tests_run(Judged *out, const JudgeTests *t, const Constitution *c, Engine *e, const Chat *chat, int max_len,
                     Error *err) {
    return judge_all(out, t, NULL, c, e, chat, max_len, err);
}

static int decision(Judged j) {
    double l = judged_l(j);
    return j.scored && !judged_flip(j) && fabs(l) >= LABEL_UNDECIDED ? (l > 0 ? 1 : -1) : 0;
}

void cross_check_of(CrossCheck *out, const Judged *j, int n_principle, int n_probe) {
    int n = n_principle;
    *out = (CrossCheck){.n = n, .n_probe = n_probe};
    out->decided = mem_alloc((size_t)(n + 1) * sizeof *out->decided);
    out->opposed = mem_alloc(((size_t)n * (size_t)n + 1) * sizeof *out->opposed);
    for (int a = 0; a < n; a++)
        for (int i = 0; i < n_probe; i++) {
            int d = decision(j[a * n_probe + i]);
            out->decided[a] += d != 0;
            for (int b = 0; b < n && d; b++) out->opposed[a * n + b] += decision(j[b * n_probe + i]) == -d;
        }
}

bool cross_check(CrossCheck *out, const JudgeTests *t, const Constitution *c, Engine *e, const Chat *chat, int max_len,
                 Error *err) {
    Judged *j = mem_alloc(((size_t)c->n * (size_t)t->n + 1) * sizeof *j);
    bool ok = true;
    for (int p = 0; ok && p < c->n; p++) ok = judge_all(j + p * t->n, t, &p, c, e, chat, max_len, err);
    if (ok) cross_check_of(out, j, c->n, t->n);
    free(j);
    return ok;
}

void cross_check_release(CrossCheck *c) {
    free(c->decided);
    free(c->opposed);
    *c = (CrossCheck){0};
}

int judge_keep_tested(const Judge *j, const Constitution *con, int *principle, int n, double least, double *passed,
                      Error *err) {
    JudgeTests t = {0};
    judge_tests_of(&t, con);
    Message *msg = mem_alloc((size_t)(t.n + 1) * sizeof *msg);
    JudgeItem *item = mem_alloc((size_t)(t.n + 1) * sizeof *item);
    Judged *out = mem_alloc((size_t)(t.n + 1) * sizeof *out);
    int *tests = mem_alloc((size_t)(con->n + 1) * sizeof *tests), kept = 0;
    for (int i = 0; i < t.n; i++) {
        const Principle *p = &con->principle[t.test[i].principle];
        msg[i] = (Message){ROLE_USER, t.test[i].prompt};
        item[i] = (JudgeItem){{&msg[i], 1}, t.test[i].better, t.test[i].worse, principle_compare(p), p->text};
    }
    bool ok = judge_ask(j, out, item, t.n, err);
    for (int p = 0; p < con->n; p++) passed[p] = 0;
    for (int i = 0; i < t.n && ok; i++) {
        tests[t.test[i].principle]++;
        passed[t.test[i].principle] += judged_pass(out[i]);
    }
    for (int p = 0; p < con->n; p++) passed[p] = tests[p] ? passed[p] / tests[p] : NAN;
    for (int i = 0; i < n && ok; i++)
        if (!(passed[principle[i]] < least)) principle[kept++] = principle[i];
    judge_tests_release(&t);
    free(msg);
    free(item);
    free(out);
    free(tests);
    return ok ? kept : -1;
}
