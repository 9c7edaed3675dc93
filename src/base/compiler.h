/* base/compiler.h — the few compiler facts the sources need, for C and C++. */
#ifndef DIKAST_BASE_COMPILER_H
#define DIKAST_BASE_COMPILER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FORMAT(fmt, args) __attribute__((format(printf, fmt, args)))
#define NORETURN __attribute__((noreturn))

/* Tells the core that this is a spin loop. */
#if defined(__x86_64__) || defined(__i386__)
#define CPU_RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define CPU_RELAX() __asm__ volatile("yield")
#else
#define CPU_RELAX() ((void)0)
#endif

#define COUNT_OF(array) ((int)(sizeof(array) / sizeof((array)[0])))

#endif
