#include "tensor/backend_int.h"

bool backend_cpu_open(Backend *be, const char *isa, Error *err) {
    (void)be;
    (void)isa;
    return error_set(err, ERR_CONFIG, "this build has no CPU kernels, expected backend ref");
}

void backend_cpu_close(Backend *be) { (void)be; }

const char *backend_cpu_isa(const Backend *be) {
    (void)be;
    return "none";
}
