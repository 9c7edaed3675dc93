#include "cai/remote.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_BODY = 4 << 20, MAX_CONNECT_S = 15 };

typedef struct {
    CURL *easy;
    struct curl_slist *header; /* of this request: the common ones and its id */
    Str sent;
    HttpReply reply;
    bool busy, too_large;
    char detail[CURL_ERROR_SIZE];
} Slot;

struct Http {
    HttpConfig c;
    CURLM *multi;
    Slot *slot;
};

const char *http_absent(void) { return NULL; }

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

static bool slot_open(Slot *s, const HttpConfig *c) {
    s->easy = curl_easy_init();
    if (!s->easy) return false;
    CURL *e = s->easy;
    long ms = (long)(c->timeout_s * 1000), connect = ms < MAX_CONNECT_S * 1000L ? ms : MAX_CONNECT_S * 1000L;
    return !curl_easy_setopt(e, CURLOPT_URL, c->url) && !curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https") &&
           !curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L) && !curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L) &&
           !curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, ms) && !curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, connect) &&
           !curl_easy_setopt(e, CURLOPT_USERAGENT, "dikast/" DIKAST_VERSION) &&
           !curl_easy_setopt(e, CURLOPT_POST, 1L) && !curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, take_body) &&
           !curl_easy_setopt(e, CURLOPT_WRITEDATA, s) && !curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, take_header) &&
           !curl_easy_setopt(e, CURLOPT_HEADERDATA, s) && !curl_easy_setopt(e, CURLOPT_ERRORBUFFER, s->detail) &&
           !curl_easy_setopt(e, CURLOPT_PRIVATE, s);
}

bool http_open(Http **out, const HttpConfig *c, Error *err) {
    Http *h = mem_alloc(sizeof *h);
    h->c = *c;
    h->slot = mem_alloc((size_t)c->concurrency * sizeof *h->slot);
    bool ok = curl_global_init(CURL_GLOBAL_DEFAULT) == 0; /* counted by the library; paired in http_close */
    if (ok) h->multi = curl_multi_init();
    ok = ok && h->multi && !curl_multi_setopt(h->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)c->concurrency);
    for (int i = 0; i < c->concurrency && ok; i++) ok = slot_open(&h->slot[i], c);
    *out = ok ? h : NULL;
    if (ok) return true;
    http_close(h);
    return error_set(err, ERR_NET, "libcurl %s does not start", curl_version());
}

static void slot_clear(Slot *s) {
    curl_slist_free_all(s->header);
    s->header = NULL;
    s->busy = s->too_large = false;
    str_clear(&s->sent);
}

void http_close(Http *h) {
    if (!h) return;
    for (int i = 0; i < h->c.concurrency; i++) {
        Slot *s = &h->slot[i];
        if (s->busy) curl_multi_remove_handle(h->multi, s->easy);
        curl_easy_cleanup(s->easy);
        slot_clear(s);
        str_release(&s->sent);
        str_release(&s->reply.body);
    }
    curl_multi_cleanup(h->multi);
    curl_global_cleanup();
    free(h->slot);
    free(h);
}

static bool add_header(Slot *s, const char *line) {
    struct curl_slist *more = curl_slist_append(s->header, line);
    if (more) s->header = more;
    return more != NULL;
}

bool http_post(Http *h, int slot, const char *id, const char *body, size_t n, Error *err) {
    Slot *s = &h->slot[slot];
    CHECK(slot >= 0 && slot < h->c.concurrency && !s->busy, "slot %d of %d", slot, h->c.concurrency);
    char line[128];
    snprintf(line, sizeof line, "Idempotency-Key: %.100s", id);
    slot_clear(s);
    str_putn(&s->sent, body, n);
    str_clear(&s->reply.body);
    s->reply = (HttpReply){.body = s->reply.body};
    s->detail[0] = 0;
    bool ok = add_header(s, "Content-Type: application/json") && add_header(s, line) &&
              add_header(s, "Expect:"); /* no pause for a "100 Continue" */
    for (int i = 0; i < h->c.n_header && ok; i++) ok = add_header(s, h->c.header[i]);
    ok = ok && !curl_easy_setopt(s->easy, CURLOPT_HTTPHEADER, s->header) &&
         !curl_easy_setopt(s->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)n) &&
         !curl_easy_setopt(s->easy, CURLOPT_POSTFIELDS, s->sent.s) && !curl_multi_add_handle(h->multi, s->easy);
    s->busy = ok;
    return ok || error_set(err, ERR_MEMORY, "libcurl cannot start a request (out of memory?)");
}

/* What ended, as a reply: a transfer that did not come to its end has status 0, whatever its first line said. */
static void finish(Slot *s, CURLcode code, HttpReply *reply) {
    long status = 0;
    if (code == CURLE_OK) curl_easy_getinfo(s->easy, CURLINFO_RESPONSE_CODE, &status);
    s->reply.status = (int)status;
    if (s->too_large)
        snprintf(s->reply.why, sizeof s->reply.why, "an answer of more than %d MiB", MAX_BODY >> 20);
    else if (status == 0)
        snprintf(s->reply.why, sizeof s->reply.why, "%.150s", s->detail[0] ? s->detail : curl_easy_strerror(code));
    *reply = s->reply;
    s->reply = (HttpReply){0};
    slot_clear(s);
}

static int take_ended(Http *h, HttpReply *reply) {
    int left;
    CURLMsg *m;
    while ((m = curl_multi_info_read(h->multi, &left))) {
        if (m->msg != CURLMSG_DONE) continue;
        CURLcode code = m->data.result;
        Slot *s = NULL;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&s);
        curl_multi_remove_handle(h->multi, s->easy); /* m is gone from here on */
        finish(s, code, reply);
        return (int)(s - h->slot);
    }
    return -1;
}

int http_wait(Http *h, double max_s, HttpReply *reply) {
    int running = 0;
    curl_multi_perform(h->multi, &running);
    int slot = take_ended(h, reply);
    if (slot >= 0 || max_s <= 0) return slot;
    curl_multi_poll(h->multi, NULL, 0, (int)(max_s * 1000) + 1, NULL);
    curl_multi_perform(h->multi, &running);
    return take_ended(h, reply);
}
