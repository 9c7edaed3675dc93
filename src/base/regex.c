#include "base/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 1000000, NESTED = 50 };

struct Regex {
    pcre2_code *code;
    pcre2_match_context *limits;
};

bool regex_open(Regex **out, const char *pattern, Error *err) {
    *out = NULL;
    pcre2_compile_context *ctx = pcre2_compile_context_create(NULL);
    CHECK(ctx, "out of memory");
    pcre2_set_parens_nest_limit(ctx, NESTED);
    int number;
    PCRE2_SIZE at;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_ANCHORED | PCRE2_ENDANCHORED,
                                     &number, &at, ctx);
    pcre2_compile_context_free(ctx);
    if (!code) {
        PCRE2_UCHAR why[120];
        pcre2_get_error_message(number, why, sizeof why);
        return error_set(err, ERR_CONFIG, "pattern '%.80s': %s at byte %zu", pattern, (char *)why, (size_t)at);
    }
    Regex *r = mem_alloc(sizeof *r);
    *r = (Regex){code, pcre2_match_context_create(NULL)};
    CHECK(r->limits, "out of memory");
    pcre2_set_match_limit(r->limits, STEPS);
    *out = r;
    return true;
}

void regex_close(Regex *r) {
    if (!r) return;
    pcre2_match_context_free(r->limits);
    pcre2_code_free(r->code);
    free(r);
}

bool regex_matches(const Regex *r, const char *s) {
    pcre2_match_data *m = pcre2_match_data_create(1, NULL);
    CHECK(m, "out of memory");
    int rc = pcre2_match(r->code, (PCRE2_SPTR)s, strlen(s), 0, 0, m, r->limits);
    pcre2_match_data_free(m);
    return rc >= 0;
}
