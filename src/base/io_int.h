/* base/io_int.h — the system calls that io.c, io_lines.c and blocks.c make, each behind the fault hook and EINTR. */
#ifndef DIKAST_BASE_IO_INT_H
#define DIKAST_BASE_IO_INT_H

#include "base/io.h"

#include <sys/types.h>

int sys_open(const char *path, int flags);           /* O_CLOEXEC, mode 0666; -1 and errno */
ssize_t sys_read(int fd, void *p, size_t n);         /* as read */
bool sys_write_all(int fd, const void *p, size_t n); /* false and errno; may have written a part */
bool sys_fsync(int fd);
bool sys_fdatasync(int fd);

#endif
