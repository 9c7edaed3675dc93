// layer: nn
/* config.json of every family, in both spellings: what is read, what is refused and how the message names it. */
#include "nn/nn_int.h"
#include "nn_help.h"

#include "base/io.h"

#define DIR BUILD_DIR "/nn_config"

#define LLAMA                                                                                                          \
    "\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":128,\"num_hidden_layers\":2,"                   \
    "\"num_attention_heads\":4,\"vocab_size\":100"
#define QWEN                                                                                                           \
    "\"model_type\":\"qwen2\",\"hidden_size\":64,\"intermediate_size\":128,\"num_hidden_layers\":2,"                   \
    "\"num_attention_heads\":4,\"num_key_value_heads\":null,\"vocab_size\":100"
#define MISTRAL                                                                                                        \
    "\"model_type\":\"mistral\",\"hidden_size\":64,\"intermediate_size\":128,\"num_hidden_layers\":2,"                 \
    "\"num_attention_heads\":4,\"vocab_size\":100,\"num_key_value_heads\":2,\"head_dim\":12"
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
    {"{" LLAMA ",\"layer_types\":[\"full_attention\",\"full_attention\"]}", NULL},
    {"{" LLAMA ",\"layer_types\":[\"full_attention\",\"sliding_attention\"]}", "'layer_types[1]' is sliding_attention"},
    {"{" LLAMA ",\"layer_types\":[\"chunked_attention\",\"chunked_attention\"]}",
     "'layer_types[0]' 'chunked_attention'"},
    {"{" MISTRAL ",\"sliding_window\":null,\"layer_types\":[\"sliding_attention\",\"full_attention\"]}",
     "there is no 'sliding_window'"},
    {"{" MISTRAL ",\"layer_types\":[\"full_attention\"]}", "'layer_types' must be a list of 2"},
    {"{\"model_type\":\"gpt2\",\"hidden_size\":48,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
     "\"max_position_embeddings\":32,\"vocab_size\":100}",
     NULL},
    {"{" GPT2 ",\"hidden_size\":48,\"num_attention_heads\":null}", NULL},
    {"{" GPT2 ",\"num_attention_heads\":2}", "'n_head' is 4, but 'num_attention_heads' 2"},
    {"{" GPT2 ",\"hidden_size\":\"48\"}", "'hidden_size' must be an integer"},
    {"{\"model_type\":\"gpt2\",\"n_embd\":48,\"n_layer\":2,\"n_positions\":32,\"vocab_size\":100}", "'n_head' must be"},
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
    OK(io_make_dirs(DIR, &err));
    for (int i = 0; i < COUNT_OF(configs); i++) {
        OK(io_write_file(DIR "/config.json", configs[i].json, strlen(configs[i].json), &err));
        bool ok = model_config_read(&c, DIR, &err);
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

static void test_head_kind(void **state) {
    static const struct {
        const char *json;
        HeadKind kind;
    } row[] = {{"{\"architectures\":[\"LlamaForCausalLM\"],\"num_labels\":2}", HEAD_LM},
               {"{\"architectures\":[\"GPT2ForSequenceClassification\"]}", HEAD_SCORE},
               {"{\"architectures\":[],\"num_labels\":1}", HEAD_SCORE},
               {"{\"num_labels\":3}", HEAD_SCORE},
               {"{}", HEAD_LM}};
    (void)state;
    Error err = {0};
    OK(io_make_dirs(DIR, &err));
    for (int i = 0; i < COUNT_OF(row); i++) {
        HeadKind kind;
        OK(io_write_file(DIR "/config.json", row[i].json, strlen(row[i].json), &err));
        OK(model_head_kind(&kind, DIR, &err));
        if (kind != row[i].kind) fail_msg("%s: kind %d", row[i].json, (int)kind);
    }
    HeadKind kind;
    assert_false(model_head_kind(&kind, BUILD_DIR "/absent", &err));
    assert_int_equal(err.code, ERR_IO);
}

static void read_text(ModelConfig *c, const char *json) {
    Error err = {0};
    OK(model_config_parse(c, json, strlen(json), "test", &err));
}

/* A Mistral's windows of some layers: read, and written so that they are read again; the list only where it says more
 * than the window. */
static void test_layer_types(void **state) {
    (void)state;
    ModelConfig c, again;
    ModelTokens t;
    Str text = {0};
    model_tokens_init(&t, -1);
    for (int all = 0; all < 2; all++) {
        read_text(&c, all ? "{" MISTRAL ",\"sliding_window\":6}"
                          : "{" MISTRAL
                            ",\"layer_types\":[\"sliding_attention\",\"full_attention\"],\"sliding_window\":6}");
        assert_int_equal(model_config_window(&c, 0), 6);
        assert_int_equal(model_config_window(&c, 1), all ? 6 : 0);
        str_clear(&text);
        family_config_write(&text, &c, &t, "F32", HEAD_LM, 0);
        assert_int_equal(strstr(text.s, "layer_types") == NULL, all);
        assert_null(strstr(text.s, "max_window_layers"));
        read_text(&again, text.s);
        assert_int_equal(model_config_window(&again, 0), 6);
        assert_int_equal(model_config_window(&again, 1), all ? 6 : 0);
    }
    read_text(&c, "{" MISTRAL ",\"layer_types\":[\"full_attention\",\"full_attention\"]}");
    assert_int_equal(c.window, 0);
    str_release(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_configs), cmocka_unit_test(test_head_kind),
                                       cmocka_unit_test(test_layer_types)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
