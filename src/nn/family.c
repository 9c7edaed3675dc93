/* nn/family.c — how the model families of the world spell what params.def and ModelConfig say: tensor names,
 * orientation, fused matrices, and which features a family can express. Llama's names are params.def's own, Mistral and
 * Qwen use them too; every other family is a table. The keys of config.json: family_config.c. */
#include "nn/nn_int.h"

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
    [FAMILY_MISTRAL] = {"mistral", "MistralForCausalLM", "MistralForSequenceClassification", "model.", "layers.", NULL,
                        llama_ignored},
    [FAMILY_QWEN2] = {"qwen2", "Qwen2ForCausalLM", "Qwen2ForSequenceClassification", "model.", "layers.", NULL,
                      llama_ignored},
    [FAMILY_QWEN3] = {"qwen3", "Qwen3ForCausalLM", "Qwen3ForSequenceClassification", "model.", "layers.", NULL,
                      llama_ignored},
};

const char *family_model_type(Family f) { return families[f].model_type; }

bool family_find(Family *f, const char *model_type, Error *err) {
    for (int i = 0; i < FAMILY_COUNT; i++) {
        *f = (Family)i;
        if (strcmp(families[i].model_type, model_type) == 0) return true;
    }
    Str known = {0};
    for (int i = 0; i < FAMILY_COUNT; i++)
        str_printf(&known, "%s%s", i == 0 ? "" : i + 1 < FAMILY_COUNT ? ", " : " and ", families[i].model_type);
    error_set(err, ERR_FORMAT, "'model_type' '%.40s' is not supported, only %s", model_type, str_get(&known));
    str_release(&known);
    return false;
}

const char *family_class(Family f, HeadKind kind) {
    return kind == HEAD_LM ? families[f].lm_class : families[f].score_class;
}

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

void family_module_name(FileName *f, Family family, const ParamSlot *slot) {
    family_file_name(f, family, slot);
    size_t n = strlen(f->name), tail = strlen(".weight");
    CHECK(n > tail && strcmp(f->name + n - tail, ".weight") == 0, "'%s' is no weight of a module", f->name);
    f->name[n - tail] = 0;
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

static bool only(bool ok, const char *family, const char *what, Error *err) {
    return ok || error_set(err, ERR_CONFIG, "%s: %s", family, what);
}

/* Llama and those that took its shape: which biases go together, who norms q and k, who has a window. */
static bool check_rope_family(const ModelConfig *c, Error *err) {
    const char *name = families[c->family].model_type;
    if (!only(c->norm == NORM_RMS && c->pos == POS_ROPE && c->mlp == MLP_SWIGLU, name,
              "norm, pos and mlp must be RMSNorm, RoPE and SwiGLU", err) ||
        !only(c->qk_norm == (c->family == FAMILY_QWEN3), name,
              c->qk_norm ? "qk_norm is Qwen3's alone" : "qk_norm must be set: its files have these norms", err) ||
        !only(!c->mlp_bias || c->family == FAMILY_LLAMA, name, "mlp_bias is Llama's alone", err))
        return false;
    switch (c->family) {
    case FAMILY_MISTRAL:
        return only(!c->qkv_bias && !c->out_bias, name, "it has no qkv_bias and no out_bias", err);
    case FAMILY_QWEN2:
        return only(c->qkv_bias && !c->out_bias, name, "qkv_bias must be set, out_bias must not", err);
    default:
        return only(c->qkv_bias == c->out_bias, name,
                    "qkv_bias and out_bias are one key (attention_bias): set both or none", err);
    }
}

bool family_check(const ModelConfig *c, Error *err) {
    if (c->family != FAMILY_GPT2) return check_rope_family(c, err);
    if (c->norm != NORM_LAYER || c->pos != POS_LEARNED || c->mlp != MLP_GELU || c->qk_norm)
        return error_set(err, ERR_CONFIG,
                         "gpt2: norm, pos and mlp must be LayerNorm, learned positions and GELU, without qk_norm");
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

int model_config_window(const ModelConfig *c, int layer) {
    return c->unwindowed[layer / 32] >> layer % 32 & 1 ? 0 : c->window;
}
