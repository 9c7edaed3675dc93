// layer: nn
/* config.json as the families spell it: what is read, what is refused and by which key; and numbers as files hold them.
 */
#include "nn_help.h"

#include "base/io.h"
#include "nn/convert.h"

#include <math.h>

#define DIR BUILD_DIR "/nn_config"

/* -- config.json ----------------------------------------------------------------------------------------------------
 */

#define LLAMA                                                                                                          \
    "\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":128,\"num_hidden_layers\":2,"                   \
    "\"num_attention_heads\":4,\"vocab_size\":100"
#define QWEN                                                                                                           \
    "\"model_type\":\"qwen2\",\"hidden_size\":64,\"intermediate_size\":128,\"num_hidden_layers\":2,"                   \
    "\"num_attention_heads\":4,\"num_key_value_heads\":null,\"vocab_size\":100"
#define GPT2 "\"model_type\":\"gpt2\",\"n_embd\":48,\"n_layer\":2,\"n_head\":4,\"n_positions\":32,\"vocab_size\":100"

static const struct {
    const char *json, *message; /* NULL: read */
} configs[] = {
    {"{" LLAMA "}", NULL},
    {"{" LLAMA ",\"foreign\":{\"key\":[1]},\"eos_token_id\":[7,8],\"rope_scaling\":null,\"sliding_window\":null}",
     NULL},
    {"{" LLAMA ",\"rope_theta\":10000,\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":500000}}", NULL},
    {"{" LLAMA ",\"rope_theta\":500000.0,\"rope_scaling\":{\"type\":\"default\"}}", NULL},
    {"{" LLAMA ",\"sliding_window\":4096,\"use_sliding_window\":false}", NULL},
    {"{" LLAMA ",\"sliding_window\":4096}", "'sliding_window'"},
    {"{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}", NULL},
    {"{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\"}}", "'rope_scaling.factor' is missing"},
    {"{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}}", "'rope_scaling.factor' is out of range"},
    {"{" LLAMA ",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}}", "'rope_scaling' of type 'dynamic'"},
    {"{" LLAMA ",\"rope_scaling\":{\"rope_type\":\"longrope\"}}", "'rope_scaling' of type 'longrope'"},
    {"{" LLAMA ",\"rope_parameters\":{\"rope_type\":\"proportional\"}}", "'rope_parameters' of type 'proportional'"},
    {"{" LLAMA ",\"rope_parameters\":{\"rope_type\":\"llama3\",\"factor\":8}}", "low_freq_factor' is missing"},
    {"{" LLAMA ",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}}", "differs between layers"},
    {"{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2},\"rope_parameters\":{\"rope_type\":\"default\"}}",
     "say different things"},
    {"{" LLAMA ",\"rope_theta\":5.0,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2},"
     "\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":2.0,\"rope_theta\":7}}",
     NULL},
    {"{" LLAMA ",\"rope_parameters\":{\"partial_rotary_factor\":0.5}}", "partial_rotary_factor"},
    {"{" LLAMA ",\"hidden_act\":\"gelu\"}", "'hidden_act' 'gelu'"},
    {"{" LLAMA ",\"mlp_bias\":true}", NULL},
    {"{" LLAMA ",\"mlp_bias\":1}", "'mlp_bias' must be true or false"},
    {"{" LLAMA ",\"quantization_config\":{}}", "'quantization_config'"},
    {"{" LLAMA ",\"num_key_value_heads\":3}", "n_kv_head 3"},
    {"{" LLAMA ",\"num_key_value_heads\":0}", "'num_key_value_heads'"},
    {"{" LLAMA ",\"eos_token_id\":100}", NULL},
    {"{" LLAMA ",\"rms_norm_eps\":0}", "norm_eps"},
    {"{\"model_type\":\"llama\",\"hidden_size\":\"64\"}", "'hidden_size' must be an integer"},
    {"{\"model_type\":\"phi3\"}", "'model_type' 'phi3' is not supported, only llama, gpt2, mistral, qwen2 and qwen3"},
    {"{" QWEN ",\"layer_types\":[\"full_attention\"]}", "'layer_types' must be a list of 2"},
    {"{" QWEN ",\"layer_types\":[\"full_attention\",\"sliding_attention\"]}", "there is no 'sliding_window'"},
    {"{" QWEN ",\"layer_types\":[\"full_attention\",\"chunked_attention\"]}", "'layer_types[1]' 'chunked_attention'"},
    {"{}", "'model_type' is missing"},
    {"[]", "'model_type' is missing"},
    {"{", "config.json"},
    {"{" GPT2 "}", NULL},
    {"{" GPT2 ",\"n_inner\":null,\"activation_function\":\"gelu\"}", NULL},
    {"{" GPT2 ",\"activation_function\":\"relu\"}", "'activation_function' 'relu'"},
    {"{" GPT2 ",\"scale_attn_weights\":false}", "'scale_attn_weights' = false"},
    {"{" GPT2 ",\"scale_attn_by_inverse_layer_idx\":true}", "'scale_attn_by_inverse_layer_idx' = true"},
    {"{\"model_type\":\"gpt2\",\"n_embd\":50,\"n_layer\":2,\"n_head\":4,\"n_positions\":32,\"vocab_size\":100}",
     "d_model 50"},
};

static void test_configs(void **state) {
    (void)state;
    Error err = {0};
    ModelConfig c;
    OK(io_make_dirs(DIR "_config", &err));
    for (int i = 0; i < COUNT_OF(configs); i++) {
        OK(io_write_file(DIR "_config/config.json", configs[i].json, strlen(configs[i].json), &err));
        bool ok = model_config_read(&c, DIR "_config", &err);
        if (ok != !configs[i].message) fail_msg("%s: %s", configs[i].json, ok ? "accepted" : err.msg);
        if (!ok && !strstr(err.msg, configs[i].message))
            fail_msg("'%s' does not say '%s'", err.msg, configs[i].message);
        if (!ok) continue;
        assert_int_equal(c.d_head, c.family == FAMILY_LLAMA ? 16 : 12);
        if (i == 1) assert_int_equal(c.eos_id, 7);
        if (i == 2 || i == 3) assert_true(c.rope_theta == 500000);
        if (strstr(configs[i].json, ":5.0")) assert_true(c.rope_theta == 7 && c.rope.factor == 2);
        if (strstr(configs[i].json, "_id\":100")) assert_int_equal(c.eos_id, -1);
        if (c.family == FAMILY_LLAMA) assert_true(!c.tied && c.norm_eps == 1e-6 && c.n_kv_head == 4 && !c.qkv_bias);
        if (c.family == FAMILY_GPT2) assert_true(c.tied && c.norm_eps == 1e-5 && c.d_ff == 192 && c.mlp_bias);
    }
    assert_false(model_config_read(&c, BUILD_DIR "/absent", &err));
    assert_int_equal(err.code, ERR_IO);
}

/* Every kind of number a file may hold, at odd addresses. */
static void test_convert(void **state) {
    (void)state;
    static const double values[] = {0, 1, 2, 100, 127, 3};
    unsigned char bytes[64 + 1];
    float out[8], back;
    for (int e = 0; e < ELEM_COUNT; e++) {
        size_t size = element_bytes((Element)e);
        for (int i = 0; i < 6; i++) {
            float f = (float)values[i];
            double d = values[i];
            int64_t k = (int64_t)values[i];
            unsigned char *to = bytes + 1 + size * (size_t)i;
            if (e == ELEM_F64)
                memcpy(to, &d, size);
            else if (e <= ELEM_F16)
                assert_int_equal(element_store(to, &f, (Element)e, 1), 0);
            else
                memcpy(to, &k, size);
        }
        element_load(out, bytes + 1, (Element)e, 6);
        for (int i = 0; i < 6; i++) assert_true((double)out[i] == (e == ELEM_BOOL ? values[i] != 0 : values[i]));
        assert_int_equal(element_of(element_name((Element)e)), e);
    }
    /* every half there is, both ways; and rounding to nearest even */
    for (uint32_t h = 0; h < 65536; h++) {
        uint16_t half = (uint16_t)h, again;
        element_load(&back, (const unsigned char *)&half, ELEM_F16, 1);
        double expected = h >> 10 & 31 ? ldexp(1024 + (h & 1023), (int)(h >> 10 & 31) - 25) : ldexp(h & 1023, -24);
        if ((h >> 10 & 31) == 31) expected = h & 1023 ? (double)NAN : INFINITY;
        if (h & 0x8000) expected = -expected;
        assert_true(isnan(expected) ? isnan(back) : (double)back == expected && !signbit(back) == !(h & 0x8000));
        element_store((unsigned char *)&again, &back, ELEM_F16, 1);
        assert_true(isnan(back) ? (again & 0x7fff) > 0x7c00 : again == half);
    }
    static const struct {
        float x;
        uint16_t half;
    } round[] = {{1.00048828125f, 0x3c00},
                 {1.00146484375f, 0x3c02},
                 {65519.0f, 0x7bff},
                 {65520.0f, 0x7c00},
                 {0x1p-25f, 0},
                 {0x1.8p-25f, 1},
                 {0x1.8p-24f, 2},
                 {0x1.ffap-15f, 0x03ff},
                 {0x1.fffp-15f, 0x0400},
                 {-0x1p-14f, 0x8400},
                 {1e-30f, 0}};
    for (int i = 0; i < COUNT_OF(round); i++) {
        uint16_t half;
        int64_t lost = element_store((unsigned char *)&half, &round[i].x, ELEM_F16, 1);
        if (half != round[i].half) fail_msg("%a became %04x, expected %04x", (double)round[i].x, half, round[i].half);
        assert_int_equal(lost, half == 0x7c00);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_configs), cmocka_unit_test(test_convert)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
