/* libcurl is opened by name when somebody asks for it: it brings some twenty libraries along, which would triple the
 * time in which every other command starts. */
#include "cai/remote.h"

#include <curl/curl.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_BODY = 4 << 20, MAX_CONNECT_S = 15 };

#define CALLS(X)                                                                                                       \
    X(global_init)                                                                                                     \
    X(global_cleanup)                                                                                                  \
    X(easy_init)                                                                                                       \
    X(easy_cleanup)                                                                                                    \
    X(easy_setopt)                                                                                                     \
    X(easy_getinfo)                                                                                                    \
    X(easy_strerror)                                                                                                   \
    X(slist_append)                                                                                                    \
    X(slist_free_all)                                                                                                  \
    X(multi_init)                                                                                                      \
    X(multi_cleanup)                                                                                                   \
    X(multi_setopt)                                                                                                    \
    X(multi_add_handle)                                                                                                \
    X(multi_remove_handle)                                                                                             \
    X(multi_perform)                                                                                                   \
    X(multi_poll)                                                                                                      \
    X(multi_info_read)
typedef struct {
#define X(name) __typeof__(curl_##name) *name;
    CALLS(X)
#undef X
} Calls;

/* Left open: it cannot be taken out of a process again once it has run. */
static bool calls_open(Calls *c) {
    void *lib = dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL), *p;
    if (!lib) lib = dlopen("libcurl-gnutls.so.4", RTLD_NOW | RTLD_LOCAL);
    bool ok = lib != NULL;
#define X(call)                                                                                                        \
    p = ok ? dlsym(lib, "curl_" #call) : NULL;                                                                         \
    ok = p != NULL;                                                                                                    \
    memcpy(&c->call, &p, sizeof p);
    CALLS(X)
#undef X
    return ok;
}

typedef struct {
    CURL *easy;
    struct curl_slist *header; /* of this request: the common ones and its id */
    Str sent;
    HttpReply reply;
    bool busy, too_large;
    char detail[CURL_ERROR_SIZE];
} Slot;

struct Http {
    Calls curl;
    HttpConfig c;
    CURLM *multi;
    Slot *slot;
};

const char *http_absent(void) {
    Calls c;
    return calls_open(&c) ? NULL
                          : "libcurl 7.85 or newer is not on this machine: install it (Debian: libcurl4), or set "
                            "judge.kind to own";
}

static size_t take_body(char *p, size_t size, size_t n, void *ud) {
    Slot *s = ud;
    n *= size;
    s->too_large = s->reply.body.n + n > MAX_BODY;
    if (s->too_large) return 0; /* ends the transfer */
    str_putn(&s->reply.body, p, n);
    return n;
}

/* "name: value\r\n" -> value, cut to what out holds. */
static void take_value(char *out, size_t cap, const char *line, size_t n, const char *name) {
    size_t k = strlen(name);
    if (n <= k || strncasecmp(line, name, k) != 0 || line[k] != ':') return;
    const char *v = line + k + 1, *end = line + n;
    while (v < end && (*v == ' ' || *v == '\t')) v++;
    while (end > v && (unsigned char)end[-1] <= ' ') end--;
    snprintf(out, cap, "%.*s", (int)(end - v), v);
}

static size_t take_header(char *p, size_t size, size_t n, void *ud) {
    HttpReply *r = &((Slot *)ud)->reply;
    n *= size;
    take_value(r->retry_after, sizeof r->retry_after, p, n, "retry-after");
    take_value(r->retry_after_ms, sizeof r->retry_after_ms, p, n, "retry-after-ms");
    take_value(r->date, sizeof r->date, p, n, "date");
    take_value(r->should_retry, sizeof r->should_retry, p, n, "x-should-retry");
    return n;
}

static bool slot_open(Http *h, Slot *s) {
    const HttpConfig *c = &h->c;
    CURL *e = s->easy = h->curl.easy_init();
    __typeof__(h->curl.easy_setopt) set = h->curl.easy_setopt;
    long ms = (long)(c->timeout_s * 1000), connect = ms < MAX_CONNECT_S * 1000L ? ms : MAX_CONNECT_S * 1000L;
    return e && !set(e, CURLOPT_URL, c->url) && !set(e, CURLOPT_PROTOCOLS_STR, "http,https") &&
           !set(e, CURLOPT_FOLLOWLOCATION, 0L) && !set(e, CURLOPT_NOSIGNAL, 1L) && !set(e, CURLOPT_TIMEOUT_MS, ms) &&
           !set(e, CURLOPT_CONNECTTIMEOUT_MS, connect) && !set(e, CURLOPT_USERAGENT, "dikast/" DIKAST_VERSION) &&
           !set(e, CURLOPT_POST, 1L) && !set(e, CURLOPT_WRITEFUNCTION, take_body) && !set(e, CURLOPT_WRITEDATA, s) &&
           !set(e, CURLOPT_HEADERFUNCTION, take_header) && !set(e, CURLOPT_HEADERDATA, s) &&
           !set(e, CURLOPT_ERRORBUFFER, s->detail) && !set(e, CURLOPT_PRIVATE, s) &&
           (!c->direct || !set(e, CURLOPT_NOPROXY, "*"));
}

bool http_open(Http **out, const HttpConfig *c, Error *err) {
    Http *h = mem_alloc(sizeof *h);
    *out = NULL;
    if (!calls_open(&h->curl)) {
        free(h);
        return error_set(err, ERR_CONFIG, "%s", http_absent());
    }
    h->c = *c;
    h->slot = mem_alloc((size_t)c->concurrency * sizeof *h->slot);
    bool ok = h->curl.global_init(CURL_GLOBAL_DEFAULT) == 0; /* counted by the library; paired in http_close */
    if (ok) h->multi = h->curl.multi_init();
    ok = ok && h->multi && !h->curl.multi_setopt(h->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)c->concurrency);
    for (int i = 0; i < c->concurrency && ok; i++) ok = slot_open(h, &h->slot[i]);
    if (ok) {
        *out = h;
        return true;
    }
    http_close(h);
    return error_set(err, ERR_NET, "libcurl does not start (older than 7.85, or out of memory?)");
}

static void slot_clear(Http *h, Slot *s) {
    h->curl.slist_free_all(s->header);
    s->header = NULL;
    s->busy = s->too_large = false;
    str_clear(&s->sent);
}

void http_close(Http *h) {
    if (!h) return;
    for (int i = 0; i < h->c.concurrency; i++) {
        Slot *s = &h->slot[i];
        if (s->busy) h->curl.multi_remove_handle(h->multi, s->easy);
        h->curl.easy_cleanup(s->easy);
        slot_clear(h, s);
        str_release(&s->sent);
        str_release(&s->reply.body);
    }
    h->curl.multi_cleanup(h->multi);
    h->curl.global_cleanup();
    free(h->slot);
    free(h);
}

static bool add_header(Http *h, Slot *s, const char *line) {
    struct curl_slist *more = h->curl.slist_append(s->header, line);
    if (more) s->header = more;
    return more != NULL;
}

bool http_post(Http *h, int slot, const char *id, const char *body, size_t n, Error *err) {
    Slot *s = &h->slot[slot];
    CHECK(slot >= 0 && slot < h->c.concurrency && !s->busy, "slot %d of %d", slot, h->c.concurrency);
    __typeof__(h->curl.easy_setopt) set = h->curl.easy_setopt;
    char line[128];
    snprintf(line, sizeof line, "Idempotency-Key: %.100s", id);
    slot_clear(h, s);
    str_putn(&s->sent, body, n);
    str_clear(&s->reply.body);
    s->reply = (HttpReply){.body = s->reply.body};
    s->detail[0] = 0;
    bool ok = add_header(h, s, "Content-Type: application/json") && add_header(h, s, line) &&
              add_header(h, s, "Expect:"); /* no pause for a "100 Continue" */
    for (int i = 0; i < h->c.n_header && ok; i++) ok = add_header(h, s, h->c.header[i]);
    ok = ok && !set(s->easy, CURLOPT_HTTPHEADER, s->header) &&
         !set(s->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)n) && !set(s->easy, CURLOPT_POSTFIELDS, s->sent.s) &&
         !h->curl.multi_add_handle(h->multi, s->easy);
    s->busy = ok;
    return ok || error_set(err, ERR_MEMORY, "libcurl cannot start a request (out of memory?)");
}

/* What ended, as a reply: a transfer that did not come to its end has status 0, whatever its first line said. */
static void finish(Http *h, Slot *s, CURLcode code, HttpReply *reply) {
    long status = 0;
    if (code == CURLE_OK) h->curl.easy_getinfo(s->easy, CURLINFO_RESPONSE_CODE, &status);
    s->reply.status = (int)status;
    if (s->too_large)
        snprintf(s->reply.why, sizeof s->reply.why, "an answer of more than %d MiB", MAX_BODY >> 20);
    else if (status == 0)
        snprintf(s->reply.why, sizeof s->reply.why, "%.150s", s->detail[0] ? s->detail : h->curl.easy_strerror(code));
    *reply = s->reply;
    s->reply = (HttpReply){0};
    slot_clear(h, s);
}

static int take_ended(Http *h, HttpReply *reply) {
    int left;
    CURLMsg *m;
    while ((m = h->curl.multi_info_read(h->multi, &left))) {
        if (m->msg != CURLMSG_DONE) continue;
        CURLcode code = m->data.result;
        char *s = NULL;
        h->curl.easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &s);
        int slot = (int)((Slot *)(void *)s - h->slot);
        h->curl.multi_remove_handle(h->multi, h->slot[slot].easy); /* m is gone from here on */
        finish(h, &h->slot[slot], code, reply);
        return slot;
    }
    return -1;
}

int http_wait(Http *h, double max_s, HttpReply *reply) {
    int running = 0;
    h->curl.multi_perform(h->multi, &running);
    int slot = take_ended(h, reply);
    if (slot >= 0 || max_s <= 0) return slot;
    h->curl.multi_poll(h->multi, NULL, 0, (int)(max_s * 1000) + 1, NULL);
    h->curl.multi_perform(h->multi, &running);
    return take_ended(h, reply);
}
