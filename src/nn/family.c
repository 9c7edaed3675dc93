/* nn/family.c — how the model families of the world spell what params.def and ModelConfig say: tensor names,
 * orientation, fused matrices, and the keys of config.json. Llama's names are params.def's own; every other family is a
 * table.
 *
 * config.json: keys we do not know are somebody else's business; keys that would change the arithmetic in a way we do
 * not compute (scaled RoPE, a sliding window, quantization) are refused by name. transformers 5 renamed keys
 * (rope_parameters, dtype): both spellings are read, rope_parameters winning, and both are written. */
#include "nn/nn_int.h"

#include "base/json.h"

#include <stdio.h>
#include <string.h>

typedef struct {
    const char *name; /* NULL: the family has no such parameter */
    bool transposed;
    int part, n_part;
} NameRow;

typedef struct {
    const char *model_type, *lm_class, *score_class;
    const char *prefix, *block; /* "transformer.", "h." */
    const NameRow *row;         /* (PARAM_COUNT) or NULL: params.def's names, which include the prefix outside blocks */
    const char *const *ignored; /* suffixes of buffers in old checkpoints */
} FamilyInfo;

// clang-format off
static const NameRow gpt2_rows[PARAM_COUNT] = {
    [PARAM_attn_norm]   = {"ln_1.weight", false, 0, 1},         [PARAM_attn_norm_b] = {"ln_1.bias", false, 0, 1},
    [PARAM_wq]          = {"attn.c_attn.weight", true, 0, 3},   [PARAM_bq]          = {"attn.c_attn.bias", false, 0, 3},
    [PARAM_wk]          = {"attn.c_attn.weight", true, 1, 3},   [PARAM_bk]          = {"attn.c_attn.bias", false, 1, 3},
    [PARAM_wv]          = {"attn.c_attn.weight", true, 2, 3},   [PARAM_bv]          = {"attn.c_attn.bias", false, 2, 3},
    [PARAM_wo]          = {"attn.c_proj.weight", true, 0, 1},   [PARAM_bo]          = {"attn.c_proj.bias", false, 0, 1},
    [PARAM_mlp_norm]    = {"ln_2.weight", false, 0, 1},         [PARAM_mlp_norm_b]  = {"ln_2.bias", false, 0, 1},
    [PARAM_w_up]        = {"mlp.c_fc.weight", true, 0, 1},      [PARAM_b_up]        = {"mlp.c_fc.bias", false, 0, 1},
    [PARAM_w_down]      = {"mlp.c_proj.weight", true, 0, 1},    [PARAM_b_down]      = {"mlp.c_proj.bias", false, 0, 1},
    [PARAM_wte]         = {"wte.weight", false, 0, 1},          [PARAM_wpe]         = {"wpe.weight", false, 0, 1},
    [PARAM_norm]        = {"ln_f.weight", false, 0, 1},         [PARAM_norm_b]      = {"ln_f.bias", false, 0, 1},
};
// clang-format on
static const char *const llama_ignored[] = {".rotary_emb.inv_freq", NULL};
static const char *const gpt2_ignored[] = {".attn.bias", ".attn.masked_bias", NULL};

static const FamilyInfo families[FAMILY_COUNT] = {
    [FAMILY_LLAMA] = {"llama", "LlamaForCausalLM", "LlamaForSequenceClassification", "model.", "layers.", NULL,
                      llama_ignored},
    [FAMILY_GPT2] = {"gpt2", "GPT2LMHeadModel", "GPT2ForSequenceClassification", "transformer.", "h.", gpt2_rows,
                     gpt2_ignored},
};

/* -- tensor names ---------------------------------------------------------------------------------------------------
 */

const char *family_prefix(Family f) { return families[f].prefix; }

void family_file_name(FileName *out, Family f, const ParamSlot *slot) {
    const FamilyInfo *info = &families[f];
    NameRow row = info->row ? info->row[slot->number] : (NameRow){slot->suffix, false, 0, 1};
    CHECK(row.name, "%s has no parameter '%s'", info->model_type, slot->suffix);
    *out = (FileName){.transposed = row.transposed, .part = row.part, .n_part = row.n_part};
    if (slot->layer >= 0)
        snprintf(out->name, sizeof out->name, "%s%s%d.%s", info->prefix, info->block, slot->layer, row.name);
    else
        snprintf(out->name, sizeof out->name, "%s%s", info->row ? info->prefix : "", row.name);
}

void family_head_name(char out[PARAM_NAME_MAX], HeadKind kind) {
    snprintf(out, PARAM_NAME_MAX, "%s", kind == HEAD_LM ? "lm_head.weight" : "score.weight");
}

void family_param_name(char out[PARAM_NAME_MAX], Family f, const ParamSlot *slot) {
    FileName file;
    family_file_name(&file, f, slot);
    static const char *const part[] = {".q", ".k", ".v"};
    snprintf(out, PARAM_NAME_MAX, "%.*s%s", PARAM_NAME_MAX - 3, file.name, file.n_part > 1 ? part[file.part] : "");
}

bool family_ignores(Family f, const char *name) {
    size_t n = strlen(name);
    for (const char *const *s = families[f].ignored; *s; s++)
        if (n >= strlen(*s) && strcmp(name + n - strlen(*s), *s) == 0) return true;
    return false;
}

/* -- what a family can express --------------------------------------------------------------------------------------
 */

bool family_check(const ModelConfig *c, Error *err) {
    if (c->family == FAMILY_LLAMA) {
        if (c->norm != NORM_RMS || c->pos != POS_ROPE || c->mlp != MLP_SWIGLU)
            return error_set(err, ERR_CONFIG, "llama: norm, pos and mlp must be RMSNorm, RoPE and SwiGLU");
        if (c->qkv_bias != c->out_bias)
            return error_set(err, ERR_CONFIG,
                             "llama: qkv_bias and out_bias are one key (attention_bias): set both or none");
        if (c->mlp_bias) return error_set(err, ERR_CONFIG, "llama: mlp_bias is not supported");
        return true;
    }
    if (c->norm != NORM_LAYER || c->pos != POS_LEARNED || c->mlp != MLP_GELU)
        return error_set(err, ERR_CONFIG, "gpt2: norm, pos and mlp must be LayerNorm, learned positions and GELU");
    if (!c->qkv_bias || !c->out_bias || !c->mlp_bias)
        return error_set(err, ERR_CONFIG,
                         "gpt2: qkv_bias, out_bias and mlp_bias must be set: its files have all of them");
    if (c->n_kv_head != c->n_head)
        return error_set(err, ERR_CONFIG, "gpt2: n_kv_head %d must equal n_head %d", c->n_kv_head, c->n_head);
    if (c->n_head * c->d_head != c->d_model)
        return error_set(err, ERR_CONFIG, "gpt2: n_head %d times d_head %d must be d_model %d", c->n_head, c->d_head,
                         c->d_model);
    return true;
}

/* -- config.json: reading -------------------------------------------------------------------------------------------
 */

static bool set_and_not_null(const Json *j) { return j && json_kind(j) != JSON_NIL; }

static bool need_int(const Json *root, const char *key, int *out, Error *err) {
    const Json *j = json_get(root, key);
    if (!j || json_kind(j) != JSON_INT) return error_set(err, ERR_FORMAT, "'%s' must be an integer", key);
    int64_t v = json_int(j, 0);
    if (v < 1 || v > 1 << 28) return error_set(err, ERR_FORMAT, "'%s' is %lld, expected 1..2^28", key, (long long)v);
    *out = (int)v;
    return true;
}

static bool int_or(const Json *root, const char *key, int otherwise, int *out, Error *err) {
    *out = otherwise;
    return set_and_not_null(json_get(root, key)) ? need_int(root, key, out, err) : true;
}

static bool need_kind(const Json *root, const char *key, bool expected, Error *err) {
    const Json *j = json_get(root, key);
    if (set_and_not_null(j) && json_bool(j, expected) != expected)
        return error_set(err, ERR_FORMAT, "'%s' = %s is not supported", key, expected ? "false" : "true");
    return true;
}

static int read_eos(const Json *root) {
    const Json *j = json_get(root, "eos_token_id");
    if (j && json_kind(j) == JSON_ARR) j = json_at(j, 0);
    int64_t id = j ? json_int(j, -1) : -1;
    return id >= 0 && id < 1 << 28 ? (int)id : -1;
}

/* Refuses anything but the plain rotation; returns theta through c. */
static bool read_rope_object(ModelConfig *c, const Json *rope, const char *key, Error *err) {
    const char *type = json_str(json_get(rope, "rope_type"), NULL);
    if (!type) type = json_str(json_get(rope, "type"), NULL);
    if (type && strcmp(type, "default") != 0)
        return error_set(err, ERR_FORMAT, "'%s' of type '%.40s' is not supported, only 'default'", key, type);
    if (json_num(json_get(rope, "partial_rotary_factor"), 1) != 1)
        return error_set(err, ERR_FORMAT, "'%s.partial_rotary_factor' other than 1 is not supported", key);
    c->rope_theta = json_num(json_get(rope, "rope_theta"), c->rope_theta);
    return true;
}

static bool read_llama(ModelConfig *c, const Json *root, Error *err) {
    c->norm = NORM_RMS, c->pos = POS_ROPE, c->mlp = MLP_SWIGLU;
    if (!need_int(root, "hidden_size", &c->d_model, err) || !need_int(root, "intermediate_size", &c->d_ff, err) ||
        !need_int(root, "num_hidden_layers", &c->n_layer, err) ||
        !need_int(root, "num_attention_heads", &c->n_head, err) || !need_int(root, "vocab_size", &c->n_vocab, err) ||
        !int_or(root, "num_key_value_heads", c->n_head, &c->n_kv_head, err) ||
        !int_or(root, "head_dim", c->d_model / c->n_head, &c->d_head, err) ||
        !int_or(root, "max_position_embeddings", 2048, &c->max_seq, err))
        return false;
    const char *act = json_str(json_get(root, "hidden_act"), NULL);
    if (act && strcmp(act, "silu") != 0)
        return error_set(err, ERR_FORMAT, "'hidden_act' '%.40s' is not supported, only 'silu'", act);
    if (!need_kind(root, "mlp_bias", false, err)) return false;
    if (set_and_not_null(json_get(root, "sliding_window")) && json_bool(json_get(root, "use_sliding_window"), true))
        return error_set(err, ERR_FORMAT, "'sliding_window' is not supported");
    c->rope_theta = json_num(json_get(root, "rope_theta"), 10000);
    const Json *v5 = json_get(root, "rope_parameters"), *v4 = json_get(root, "rope_scaling");
    if (set_and_not_null(v5)) {
        if (!read_rope_object(c, v5, "rope_parameters", err)) return false;
    } else if (set_and_not_null(v4)) {
        if (!read_rope_object(c, v4, "rope_scaling", err)) return false;
    }
    c->qkv_bias = c->out_bias = json_bool(json_get(root, "attention_bias"), false);
    c->tied = json_bool(json_get(root, "tie_word_embeddings"), false);
    c->norm_eps = json_num(json_get(root, "rms_norm_eps"), 1e-6);
    return true;
}

static bool read_gpt2(ModelConfig *c, const Json *root, Error *err) {
    c->norm = NORM_LAYER, c->pos = POS_LEARNED, c->mlp = MLP_GELU;
    if (!need_int(root, "n_embd", &c->d_model, err) || !need_int(root, "n_layer", &c->n_layer, err) ||
        !need_int(root, "n_head", &c->n_head, err) || !need_int(root, "vocab_size", &c->n_vocab, err) ||
        !need_int(root, "n_positions", &c->max_seq, err) || !int_or(root, "n_inner", 4 * c->d_model, &c->d_ff, err))
        return false;
    c->n_kv_head = c->n_head;
    c->d_head = c->d_model / c->n_head;
    const char *act = json_str(json_get(root, "activation_function"), NULL);
    if (!act || strcmp(act, "gelu_new") == 0 || strcmp(act, "gelu_pytorch_tanh") == 0)
        c->gelu = GELU_TANH;
    else if (strcmp(act, "gelu") == 0)
        c->gelu = GELU_ERF;
    else
        return error_set(err, ERR_FORMAT, "'activation_function' '%.40s' is not supported, only gelu_new and gelu",
                         act);
    if (!need_kind(root, "scale_attn_weights", true, err) ||
        !need_kind(root, "scale_attn_by_inverse_layer_idx", false, err) ||
        !need_kind(root, "add_cross_attention", false, err))
        return false;
    c->qkv_bias = c->out_bias = c->mlp_bias = true;
    c->tied = json_bool(json_get(root, "tie_word_embeddings"), true);
    c->norm_eps = json_num(json_get(root, "layer_norm_epsilon"), 1e-5);
    return true;
}

static bool read_config(ModelConfig *c, const Json *root, Error *err) {
    const char *type = json_str(json_get(root, "model_type"), NULL);
    if (!type) return error_set(err, ERR_FORMAT, "'model_type' is missing");
    if (set_and_not_null(json_get(root, "quantization_config")))
        return error_set(err, ERR_FORMAT, "'quantization_config' is not supported");
    c->family = FAMILY_COUNT;
    for (int f = 0; f < FAMILY_COUNT; f++)
        if (strcmp(families[f].model_type, type) == 0) c->family = (Family)f;
    if (c->family == FAMILY_COUNT)
        return error_set(err, ERR_FORMAT, "'model_type' '%.40s' is not supported, only llama and gpt2", type);
    c->eos_id = read_eos(root);
    bool ok = c->family == FAMILY_LLAMA ? read_llama(c, root, err) : read_gpt2(c, root, err);
    if (ok && c->eos_id >= c->n_vocab)
        return error_set(err, ERR_FORMAT, "'eos_token_id' %d is not in the vocabulary of %d", c->eos_id, c->n_vocab);
    return ok && model_config_check(c, err);
}

bool model_config_read(ModelConfig *c, const char *dir, Error *err) {
    *c = (ModelConfig){.eos_id = -1, .rope_theta = 10000};
    Str path = {0};
    str_printf(&path, "%s/config.json", dir);
    Json *root = NULL;
    bool ok = json_read_file(&root, path.s, 0, err);
    if (ok) ok = read_config(c, root, err) || error_wrap(err, "%s", path.s);
    json_release(root);
    str_release(&path);
    return ok;
}

/* -- config.json: writing -------------------------------------------------------------------------------------------
 */

static void write_llama(JsonOut *j, const ModelConfig *c) {
    json_out_int(j, "hidden_size", c->d_model);
    json_out_int(j, "intermediate_size", c->d_ff);
    json_out_int(j, "num_hidden_layers", c->n_layer);
    json_out_int(j, "num_attention_heads", c->n_head);
    json_out_int(j, "num_key_value_heads", c->n_kv_head);
    json_out_int(j, "head_dim", c->d_head);
    json_out_int(j, "vocab_size", c->n_vocab);
    json_out_int(j, "max_position_embeddings", c->max_seq);
    json_out_str(j, "hidden_act", "silu");
    json_out_num(j, "rms_norm_eps", c->norm_eps);
    json_out_num(j, "rope_theta", c->rope_theta);
    json_out_str(j, "rope_scaling", NULL);
    json_out_obj(j, "rope_parameters");
    json_out_str(j, "rope_type", "default");
    json_out_num(j, "rope_theta", c->rope_theta);
    json_out_obj_end(j);
    json_out_bool(j, "attention_bias", c->qkv_bias);
    json_out_bool(j, "mlp_bias", false);
}

static void write_gpt2(JsonOut *j, const ModelConfig *c) {
    json_out_int(j, "n_embd", c->d_model);
    json_out_int(j, "n_inner", c->d_ff);
    json_out_int(j, "n_layer", c->n_layer);
    json_out_int(j, "n_head", c->n_head);
    json_out_int(j, "n_positions", c->max_seq);
    json_out_int(j, "n_ctx", c->max_seq);
    json_out_int(j, "vocab_size", c->n_vocab);
    json_out_str(j, "activation_function", c->gelu == GELU_TANH ? "gelu_new" : "gelu");
    json_out_num(j, "layer_norm_epsilon", c->norm_eps);
    json_out_bool(j, "scale_attn_weights", true);
}

/* The number of labels is stored as id2label; num_labels is for readers who look for it by that name. */
static void write_labels(JsonOut *j, int n_out) {
    char label[32], id[16];
    json_out_int(j, "num_labels", n_out);
    json_out_obj(j, "id2label");
    for (int i = 0; i < n_out; i++) {
        snprintf(label, sizeof label, "LABEL_%d", i);
        snprintf(id, sizeof id, "%d", i);
        json_out_str(j, id, label);
    }
    json_out_obj_end(j);
    json_out_obj(j, "label2id");
    for (int i = 0; i < n_out; i++) {
        snprintf(label, sizeof label, "LABEL_%d", i);
        json_out_int(j, label, i);
    }
    json_out_obj_end(j);
}

void family_config_write(Str *out, const ModelConfig *c, DType dtype, HeadKind kind, int n_out) {
    const char *name = dtype == DTYPE_BF16 ? "bfloat16" : "float32";
    const FamilyInfo *info = &families[c->family];
    CHECK(c->window == 0, "config.json of %s has no key for a window", info->model_type);
    JsonOut j;
    json_out_init(&j, out, 2);
    json_out_obj(&j, NULL);
    json_out_arr(&j, "architectures");
    json_out_str(&j, NULL, kind == HEAD_LM ? info->lm_class : info->score_class);
    json_out_arr_end(&j);
    json_out_str(&j, "model_type", info->model_type);
    if (c->family == FAMILY_LLAMA)
        write_llama(&j, c);
    else
        write_gpt2(&j, c);
    json_out_bool(&j, "tie_word_embeddings", c->tied);
    json_out_str(&j, "bos_token_id", NULL); /* absent would mean the library's own default */
    if (c->eos_id >= 0)
        json_out_int(&j, "eos_token_id", c->eos_id);
    else
        json_out_str(&j, "eos_token_id", NULL);
    json_out_str(&j, "dtype", name);
    json_out_str(&j, "torch_dtype", name);
    if (kind == HEAD_SCORE) write_labels(&j, n_out);
    json_out_obj_end(&j);
    str_putc(out, '\n');
}
