#include "dist/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "dist/frame.h"

static bool refuse(int *fd, const char *what, const char *address, Error *err) {
    int e = errno;
    if (*fd >= 0) close(*fd);
    *fd = -1;
    return error_set(err, ERR_NET, "%s: cannot %s: %s", address, what, strerror(e));
}

static bool connect_to(int *fd, const struct sockaddr *to, socklen_t n, const char *address, Error *err) {
    *fd = socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (*fd < 0) return refuse(fd, "make a socket", address, err);
    int one = 1;
    if (to->sa_family != AF_UNIX) setsockopt(*fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(*fd, to, n) < 0 && errno != EINPROGRESS) return refuse(fd, "connect", address, err);
    return true;
}

bool net_connect(int *fd, const char *address, Error *err) {
    char host[160];
    struct addrinfo want = {.ai_socktype = SOCK_STREAM}, *found;
    *fd = -1;
    if (!strncmp(address, "unix:", 5)) {
        struct sockaddr_un to = {.sun_family = AF_UNIX};
        if (strlen(address + 5) >= sizeof to.sun_path)
            return error_set(err, ERR_CONFIG, "%s: the path is too long", address);
        strcpy(to.sun_path, address + 5);
        return connect_to(fd, (struct sockaddr *)&to, sizeof to, address, err);
    }
    const char *colon = strrchr(address, ':');
    if (!colon || colon == address || (size_t)(colon - address) >= sizeof host)
        return error_set(err, ERR_CONFIG, "'%s': expected HOST:PORT or unix:PATH", address);
    snprintf(host, sizeof host, "%.*s", (int)(colon - address), address);
    int e = getaddrinfo(host, colon + 1, &want, &found);
    if (e) return error_set(err, ERR_NET, "%s: %s", address, gai_strerror(e));
    bool ok = connect_to(fd, found->ai_addr, found->ai_addrlen, address, err);
    freeaddrinfo(found);
    return ok;
}

bool net_listen(int *fd, int *port, const char *host, Error *err) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_ANY)}};
    const char *name = host ? host : "any address";
    *fd = -1;
    if (host) {
        struct addrinfo want = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;
        int e = getaddrinfo(host, NULL, &want, &found);
        if (e) return error_set(err, ERR_NET, "%s: %s", host, gai_strerror(e));
        memcpy(&at, found->ai_addr, sizeof at);
        freeaddrinfo(found);
    }
    socklen_t n = sizeof at;
    *fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (*fd < 0 || bind(*fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(*fd, 512) < 0 ||
        getsockname(*fd, (struct sockaddr *)&at, &n) < 0)
        return refuse(fd, "listen", name, err);
    *port = ntohs(at.sin_port);
    return true;
}

bool net_accept(int *fd, int listener) {
    int one = 1;
    do *fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    while (*fd < 0 && errno == EINTR);
    if (*fd >= 0) setsockopt(*fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return *fd >= 0;
}

bool net_read(int fd, Str *in) {
    char chunk[16384];
    for (int i = 0; i < 256; i++) {
        ssize_t n = recv(fd, chunk, sizeof chunk, 0);
        if (n > 0) str_putn(in, chunk, (size_t)n);
        if (n == 0) return false;
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno == EAGAIN || errno == EWOULDBLOCK;
    }
    return true;
}

bool net_write(int fd, Str *out) {
    size_t at = 0;
    bool ok = true;
    while (at < out->n) {
        ssize_t n = send(fd, out->s + at, out->n - at, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            ok = errno == EAGAIN || errno == EWOULDBLOCK;
            break;
        }
        at += (size_t)n;
    }
    net_drop(out, at);
    return ok;
}

void net_drop(Str *buf, size_t n) {
    if (n == 0) return;
    memmove(buf->s, buf->s + n, buf->n - n);
    buf->n -= n;
    buf->s[buf->n] = 0;
}

void net_host(char out[65]) {
    if (gethostname(out, FRAME_HOST_MAX + 1) != 0) strcpy(out, "unknown");
    out[FRAME_HOST_MAX] = 0;
    for (char *p = out; *p; p++)
        if (!((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') || strchr(".-_", *p)))
            *p = '_';
    if (!out[0]) strcpy(out, "unknown");
}

bool net_own_address(char out[64]) {
    struct ifaddrs *all, *i;
    bool found = false;
    if (getifaddrs(&all) != 0) return false;
    for (i = all; i && !found; i = i->ifa_next) {
        if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET || (i->ifa_flags & IFF_LOOPBACK) ||
            !(i->ifa_flags & IFF_UP))
            continue;
        found = getnameinfo(i->ifa_addr, sizeof(struct sockaddr_in), out, 64, NULL, 0, NI_NUMERICHOST) == 0;
    }
    freeifaddrs(all);
    return found;
}
