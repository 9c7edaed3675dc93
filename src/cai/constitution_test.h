/* cai/constitution_test.h — unit tests of principles: "better beats worse under P", asked of a judge in both orders.
 *
 * A test passes when the judge names the better reply whichever is shown first; its margin is the log-odds for the
 * better reply, averaged over the orders (cai/judge.h). Naming one slot in both orders is a flip, and a failure. */
#ifndef DIKAST_CAI_CONSTITUTION_TEST_H
#define DIKAST_CAI_CONSTITUTION_TEST_H

#include "cai/judge.h"

typedef struct {
    int principle;
    const char *prompt, *better, *worse; /* borrowed */
} JudgeTest;
typedef struct {
    JudgeTest *test;
    int n, cap;
    Heap heap; /* texts of a file */
} JudgeTests;

void judge_tests_of(JudgeTests *t, const Constitution *c); /* appends every principle's own; they borrow from c */
/* Appends the rows of a file of JSON lines {"principle": id, "prompt", "better", "worse"}. */
bool judge_tests_read(JudgeTests *t, const Constitution *c, const char *path, Error *err);
void judge_tests_release(JudgeTests *t);

/* out[i] (t->n): shown better first, then worse first. */
bool judge_tests_run(Judged *out, const JudgeTests *t, const Constitution *c, Engine *e, const Chat *chat, int max_len,
                     Error *err);
static inline bool judged_pass(Judged j) { return j.scored && j.l_ab > 0 && j.l_ba < 0; }

/* Every test's pair under every principle: what principles do to each other. A principle decides a pair when both
 * orders name one winner and |l| >= LABEL_UNDECIDED. */
typedef struct {
    int n;        /* principles */
    int *decided; /* (n) pairs it decides */
    int *opposed; /* (n, n) pairs both decide, in opposite ways */
    int n_probe;
} CrossCheck;
#define CROSS_OPPOSED 0.2 /* share of the probes from which on two principles contradict each other */
bool cross_check(CrossCheck *out, const JudgeTests *t, const Constitution *c, Engine *e, const Chat *chat, int max_len,
                 Error *err);
void cross_check_of(CrossCheck *out, const Judged *j, int n_principle, int n_probe); /* j: (n_principle, n_probe) */
void cross_check_release(CrossCheck *c);

#endif
