/* serve/endpoint.h — one page of text at http://HOST:PORT/metrics, for programs that scrape. Hides libmicrohttpd. Its thread only
 * hands out what was published last; GET and HEAD, anything else is refused. */
#ifndef DIKAST_SERVE_ENDPOINT_H
#define DIKAST_SERVE_ENDPOINT_H

#include "base/error.h"

typedef struct Endpoint Endpoint;
const char *endpoint_absent(void);      /* NULL, or why this build has none */
/* port 0: a free one, see endpoint_port. host: an address of this machine, "127.0.0.1". ERR_NET when it cannot be had. */
bool endpoint_open(Endpoint **out, const char *host, int port, Error *err);
int endpoint_port(const Endpoint *e);
void endpoint_publish(Endpoint *e, const char *text, size_t n);     /* copied */
void endpoint_close(Endpoint *e);       /* NULL is fine */

#endif
