/* tensor/cpu/isa.c — which compilation of the kernels runs. The compiler's cpuid helpers also ask whether the operating
 * system saves the wide registers (xgetbv). */
#include "tensor/cpu/cpu_int.h"

#include <cpuid.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx2") &&
           __builtin_cpu_supports("fma");
}

static bool has_avx512_bf16(void) { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

/* Tiles are large state: Linux (5.16) wants to be asked, once for all threads, and says no where it does not save them.
 */
static bool may_use_tiles(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

static bool has_amx(void) {
    enum { AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24 }; /* of leaf 7 */
    unsigned a, b, c, d;
    return has_avx512_bf16() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && d & AMX_BF16 && d & AMX_TILE &&
           may_use_tiles();
}

static bool has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

static bool has_c(void) { return true; }

static const Isa isas[] = {
    {"amx", &cpu_ops_avx512, cpu_spin_avx512, &cpu_half_amx, has_amx, true},
    {"avx512_bf16", &cpu_ops_avx512, cpu_spin_avx512, &cpu_half_avx512_bf16, has_avx512_bf16, false},
    {"avx512", &cpu_ops_avx512, cpu_spin_avx512, &cpu_half_avx512, has_avx512, false},
    {"avx2", &cpu_ops_avx2, cpu_spin_avx2, &cpu_half_avx2, has_avx2, false},
    {"scalar", &cpu_ops_scalar, cpu_spin_scalar, &cpu_half_scalar, has_c, false},
};

const Isa *isa_choose(const char *want, Error *err) {
    __builtin_cpu_init();
    bool any = !want || strcmp(want, "auto") == 0;
    for (int i = 0; i < COUNT_OF(isas); i++) {
        if (!any && strcmp(want, isas[i].name) != 0) continue;
        if (isas[i].usable()) return &isas[i];
        if (!any) {
            error_set(err, ERR_CONFIG, "isa '%s': this machine lacks it; use auto", want);
            return NULL;
        }
    }
    error_set(err, ERR_CONFIG, "unknown isa '%s', expected auto, amx, avx512_bf16, avx512, avx2 or scalar", want);
    return NULL;
}
