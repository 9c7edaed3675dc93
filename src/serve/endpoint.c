#include "serve/endpoint.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"

struct Endpoint {
    struct MHD_Daemon *daemon;
    pthread_mutex_t lock;
    Str text;
};

const char *endpoint_absent(void) { return NULL; }

static enum MHD_Result answer(struct MHD_Connection *c, unsigned status, const char *text, size_t n) {
    struct MHD_Response *r = MHD_create_response_from_buffer(n, (void *)text, MHD_RESPMEM_MUST_COPY);
    if (!r) return MHD_NO;
    MHD_add_response_header(r, "Content-Type", "text/plain; version=0.0.4; charset=utf-8");
    enum MHD_Result result = MHD_queue_response(c, status, r);
    MHD_destroy_response(r);
    return result;
}

static enum MHD_Result serve(void *ud, struct MHD_Connection *c, const char *url, const char *method,
                             const char *version, const char *upload, size_t *n_upload, void **state) {
    static const char absent[] = "there is /metrics\n", wrong[] = "GET only\n";
    Endpoint *e = ud;
    (void)version, (void)upload, (void)n_upload, (void)state;
    if (strcmp(method, "GET") && strcmp(method, "HEAD")) return answer(c, 405, wrong, sizeof wrong - 1);
    if (strcmp(url, "/metrics")) return answer(c, 404, absent, sizeof absent - 1);
    pthread_mutex_lock(&e->lock);
    enum MHD_Result r = answer(c, 200, str_get(&e->text), e->text.n);
    pthread_mutex_unlock(&e->lock);
    return r;
}

bool endpoint_open(Endpoint **out, const char *host, int port, Error *err) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    *out = NULL;
    if (inet_pton(AF_INET, host, &at.sin_addr) != 1)
        return error_set(err, ERR_CONFIG, "'%s' is no IPv4 address of this machine, such as 127.0.0.1", host);
    Endpoint *e = mem_alloc(sizeof *e);
    pthread_mutex_init(&e->lock, NULL);
    errno = 0;
    e->daemon = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD, (uint16_t)port, NULL, NULL, serve, e,
                                 MHD_OPTION_SOCK_ADDR, (struct sockaddr *)&at, MHD_OPTION_CONNECTION_TIMEOUT, 10u,
                                 MHD_OPTION_CONNECTION_LIMIT, 64u, MHD_OPTION_END);
    if (!e->daemon) {
        error_set(err, ERR_NET, "cannot listen at %s:%d: %s", host, port, errno ? strerror(errno) : "in use?");
        endpoint_close(e);
        return false;
    }
    *out = e;
    return true;
}

int endpoint_port(const Endpoint *e) {
    const union MHD_DaemonInfo *i = MHD_get_daemon_info(e->daemon, MHD_DAEMON_INFO_BIND_PORT);
    return i ? i->port : 0;
}

void endpoint_publish(Endpoint *e, const char *text, size_t n) {
    pthread_mutex_lock(&e->lock);
    str_clear(&e->text);
    str_putn(&e->text, text, n);
    pthread_mutex_unlock(&e->lock);
}

void endpoint_close(Endpoint *e) {
    if (!e) return;
    if (e->daemon) MHD_stop_daemon(e->daemon);
    pthread_mutex_destroy(&e->lock);
    str_release(&e->text);
    free(e);
}
