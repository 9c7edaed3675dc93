/* dist/net.h — the few things done with sockets. None of them waits. */
#ifndef DIKAST_DIST_NET_H
#define DIKAST_DIST_NET_H

#include "base/error.h"
#include "base/str.h"

/* A connection that may still be under way: it is writable once it stands. address: "host:port" or "unix:PATH". */
bool net_connect(int *fd, const char *address, Error *err);
/* Listens on a free port of the given address (NULL: of every one); *port is which. */
bool net_listen(int *fd, int *port, const char *host, Error *err);
bool net_accept(int *fd, int listener);                 /* false: nobody waits */
bool net_read(int fd, Str *in);                         /* appends what is there, at most some MiB; false: closed or broken */
bool net_write(int fd, Str *out);                       /* sends what can go and drops it from out; false: broken */
void net_drop(Str *buf, size_t n);                      /* the first n bytes */
void net_host(char out[65]);                            /* this machine's name, as frames have it */
bool net_own_address(char out[64]);                     /* an IPv4 address of this machine that is not loopback */

#endif
