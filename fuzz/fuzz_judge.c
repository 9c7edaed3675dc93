// layer: cai
/* Answers of judge services: any bytes are a verdict, a miss or broken, in both dialects and under any status; the
 * words of an error fit a message; headers that ask to wait give seconds or nothing. */
#include "cai/remote_api.h"
#include "cai/remote_rules.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void answers(const char *text, size_t n) {
    static const int status[] = {200, 400, 429, 500};
    Json *root = NULL;
    Error err = {0};
    if (!json_parse(&root, text, n, JSON_INT_AS_REAL | JSON_NUL_OK, "answer", 1, &err)) return;
    for (int api = 0; api < 2; api++)
        for (int i = 0; i < COUNT_OF(status); i++) {
            Answer a;
            answer_parse(&a, (RemoteApi)api, status[i], root);
            CHECK(a.kind <= ANSWER_BROKEN && a.tokens_in >= -1 && a.tokens_out >= -1, "kind %d", (int)a.kind);
            CHECK(!a.soft || (a.kind == ANSWER_VERDICT && isfinite(a.l)), "soft without odds");
            CHECK(i == 0 || a.kind != ANSWER_VERDICT, "an error judges");
        }
    json_release(root);
}

static void words(const char *text, size_t n) {
    Str s = {0};
    answer_error(&s, text, n);
    CHECK(s.n > 0 && s.n <= 200 && strlen(s.s) == s.n && str_utf8_valid(s.s, s.n, NULL), "%zu bytes", s.n);
    for (size_t i = 0; i < s.n; i++) CHECK((unsigned char)s.s[i] >= ' ' && s.s[i] != 127, "control character");
    str_release(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    char *text = mem_alloc(n + 1);
    if (n > 0) memcpy(text, data, n);
    answers(text, n);
    words(text, n);
    double after = retry_after_s(text, "", 1000), ms = retry_after_ms(text);
    CHECK(after == -1 || (after >= 0 && isfinite(after)), "wait %g", after);
    CHECK(ms == -1 || (ms >= 0 && isfinite(ms)), "wait %g", ms);
    int option = answer_option(text, n);
    CHECK(option >= 0 && option <= 2, "option %d", option);
    (void)request_url_refused(text, true);
    free(text);
    return 0;
}
