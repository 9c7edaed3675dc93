/* base/asan.h — AddressSanitizer's poisoning interface, or nothing: the one place that asks which build this is. */
#ifndef DIKAST_BASE_ASAN_H
#define DIKAST_BASE_ASAN_H

#include <stddef.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) && !defined(__SANITIZE_ADDRESS__)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
static inline void asan_poison(const void *p, size_t n) { __asan_poison_memory_region(p, n); }
static inline void asan_unpoison(const void *p, size_t n) { __asan_unpoison_memory_region(p, n); }
#else
static inline void asan_poison(const void *p, size_t n) { (void)p, (void)n; }
static inline void asan_unpoison(const void *p, size_t n) { (void)p, (void)n; }
#endif

#endif
