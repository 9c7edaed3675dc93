/* app/constitution_tests.h — dikast constitution test and select. */
#ifndef DIKAST_APP_CONSTITUTION_TESTS_H
#define DIKAST_APP_CONSTITUTION_TESTS_H

#include "app/open.h"

#define CONSTITUTION_TEST_FLAGS                                                                                        \
    {"--model", "DIR", "test: the judge; select: scores by it too: a model folder or a stage's output"},                                         \
        {"--tests", "FILE", "test: JSON lines {principle, prompt, better, worse} in place of the constitution's own"}, \
        {"--min", "SHARE", "test: share of its tests that a principle must pass (default 0.8)"}, {                     \
        "--cross", NULL,                                                                                               \
            "test: also every pair under every principle: which contradict each other, which decide nothing"           \
    }

bool constitution_tests(const Args *a,
                        Error *err); /* a->arg[1]: the constitution; with --json prints its object always */
bool constitution_select(const Args *a, Error *err); /* a->arg[2]: rows */
void constitution_error_json(const Error *err);      /* of a subcommand that has no object of its own */

#endif
