/* The GPU part of `dikast doctor`: what backend cuda finds on this machine, or why this build has none; then the
 * self-test on the GPU that --device names, else on the first one if there is one. */
#include <string.h>

#include "app/doctor.h"

static void say(void *ud, int state, const char *what, const char *fix, const char *value) {
    static const CheckState of[] = {CHECK_OK, CHECK_WARN, CHECK_FAIL};
    doctor_say(ud, of[state], what, fix, "%s", value);
}

void doctor_gpu(Doctor *d, const char *device) {
    bool asked = device && !strncmp(device, "cuda", 4);
    const char *absent = backend_absent("cuda");
    if (absent) {
        doctor_say(d, asked ? CHECK_FAIL : CHECK_OK, "cuda", "use such a build, or --device cpu", "%s", absent);
        return;
    }
    backend_probe("cuda", say, d);
    Backend *be = NULL;
    Error err = {0};
    if (backend_open(&be, asked ? device : "cuda", d->machine.pool, NULL, &err)) {
        if (backend_set_dtype(be, DTYPE_BF16, &err)) backend_tell(be, say, d);
        backend_set_dtype(be, be->real, &err);
        doctor_self_device(d, be, asked ? device : "cuda");
        backend_close(be);
    } else if (asked)
        doctor_say(d, CHECK_FAIL, device, "mend what the lines above warn of, or use --device cpu", "%s", err.msg);
}
