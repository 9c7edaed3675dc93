/* base/compiler.h — the few compiler facts the sources need, for C and C++. */
#ifndef DIKAST_BASE_COMPILER_H
#define DIKAST_BASE_COMPILER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FORMAT(fmt, args) __attribute__((format(printf, fmt, args)))
#define NORETURN __attribute__((noreturn))

#define COUNT_OF(array) ((int)(sizeof(array) / sizeof((array)[0])))

#endif
