// layer: nn
/* model_config_parse on any bytes: a clean error, or a configuration that is written and read back as itself and whose
 * rotation is finite. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "nn/nn_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_rope(const ModelConfig *c) {
    if (c->pos != POS_ROPE) return;
    double *freq = mem_alloc((size_t)(c->d_head / 2) * sizeof *freq);
    rope_frequencies(freq, c);
    for (int j = 0; j < c->d_head / 2; j++) CHECK(isfinite(freq[j]), "frequency %d is %g", j, freq[j]);
    CHECK(isfinite(rope_attention(c)), "attention %g", rope_attention(c));
    free(freq);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Error err = {0};
    ModelConfig c, again;
    ModelTokens t;
    Str text = {0}, second = {0};
    if (!model_config_parse(&c, (const char *)data, size, "fuzz", &err)) {
        CHECK((err.code == ERR_FORMAT || err.code == ERR_CONFIG) && strncmp(err.msg, "fuzz", 4) == 0, "error %d '%s'",
              err.code, err.msg);
        return 0;
    }
    check_rope(&c);
    model_tokens_init(&t, c.eos_id);
    family_config_write(&text, &c, &t, "F32", HEAD_LM, 0);
    CHECK(model_config_parse(&again, text.s, text.n, "again", &err), "%s\n%s", err.msg, text.s);
    family_config_write(&second, &again, &t, "F32", HEAD_LM, 0);
    CHECK(strcmp(text.s, second.s) == 0, "written and read back it is another one:\n%s\n%s", text.s, second.s);
    CHECK(model_config_params(&c) == model_config_params(&again), "the number of parameters changed");
    str_release(&text);
    str_release(&second);
    return 0;
}
