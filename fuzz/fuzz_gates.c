// layer: eval
/* Gates: any line is a comparison of finite numbers or refused with a reason. */
#include "eval/stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static double metric(void *ud, const char *name) {
    (void)ud;
    CHECK(name[0] && strlen(name) < 128, "a metric without a name, or an endless one");
    return name[0] == 'x' ? NAN : (double)strlen(name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    char *text = mem_alloc(n + 1);
    memcpy(text, data, n);
    GateResult g;
    Error err = {0};
    if (!gate_eval(&g, text, metric, NULL, &err))
        CHECK(err.code == ERR_CONFIG && err.msg[0], "a refusal says why");
    else
        CHECK(isfinite(g.value) && !isnan(g.bound), "%g against %g: %s", g.value, g.bound, text);
    CHECK(strlen(g.text) < sizeof g.text, "text not ended");
    free(text);
    return 0;
}
