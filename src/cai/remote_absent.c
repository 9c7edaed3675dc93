/* Builds without libcurl: there is no remote judge, and whoever asks for one is told how to get it. */
#include "cai/remote.h"

const char *http_absent(void) {
    return "this build has no remote judge: install libcurl (Debian: libcurl4-openssl-dev), configure and build again; "
           "or "
           "set judge.kind to own";
}

bool http_open(Http **out, const HttpConfig *c, Error *err) {
    (void)c;
    *out = NULL;
    return error_set(err, ERR_CONFIG, "%s", http_absent());
}

void http_close(Http *h) { CHECK(h == NULL, "nobody can have opened this"); }

bool http_post(Http *h, int slot, const char *id, const char *body, size_t n, Error *err) {
    (void)h, (void)slot, (void)id, (void)body, (void)n;
    return error_set(err, ERR_CONFIG, "%s", http_absent());
}

int http_wait(Http *h, double max_s, HttpReply *reply) {
    (void)h, (void)max_s, (void)reply;
    return -1;
}
