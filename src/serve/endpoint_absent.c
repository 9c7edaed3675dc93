/* Builds without libmicrohttpd. */
#include "serve/endpoint.h"

const char *endpoint_absent(void) {
    return "this build has no endpoint: install libmicrohttpd (Debian: libmicrohttpd-dev), configure and build again";
}

bool endpoint_open(Endpoint **out, const char *host, int port, Error *err) {
    (void)host, (void)port;
    *out = NULL;
    return error_set(err, ERR_CONFIG, "%s", endpoint_absent());
}

int endpoint_port(const Endpoint *e) {
    (void)e;
    return 0;
}

void endpoint_publish(Endpoint *e, const char *text, size_t n) { (void)e, (void)text, (void)n; }

void endpoint_close(Endpoint *e) { CHECK(e == NULL, "nobody can have opened this"); }
