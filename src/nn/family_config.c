/* nn/family_config.c — config.json of the model families, read and written.
 *
 * Keys we do not know are somebody else's business; keys that would change the arithmetic in a way we do not compute
 * (dynamic RoPE, quantization) are refused by name. transformers 5 renamed keys (rope_parameters, dtype): both
 * spellings are read and both are written. Where a key is absent its class's default holds, as in that library. */
#include "nn/nn_int.h"

#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* -- reading --------------------------------------------------------------------------------------------------------
 */

static bool set_and_not_null(const Json *j) { return j && json_kind(j) != JSON_NIL; }

static bool need_int(const Json *root, const char *key, int *out, Error *err) {
    int64_t v = json_int(json_get(root, key), INT64_MIN);
    if (v == INT64_MIN) return error_set(err, ERR_FORMAT, "'%s' must be an integer", key);
    if (v < 1 || v > 1 << 28) return error_set(err, ERR_FORMAT, "'%s' is %lld, expected 1..2^28", key, (long long)v);
    *out = (int)v;
    return true;
}

static bool int_or(const Json *root, const char *key, int otherwise, int *out, Error *err) {
    *out = otherwise;
    return set_and_not_null(json_get(root, key)) ? need_int(root, key, out, err) : true;
}

/* absent: the class's default; null: none_means */
static bool int_or_null(const Json *root, const char *key, int absent, int none_means, int *out, Error *err) {
    return int_or(root, key, json_get(root, key) ? none_means : absent, out, err);
}

static bool number_or(const Json *root, const char *key, double otherwise, double *out, Error *err) {
    const Json *j = json_get(root, key);
    *out = json_num(j, otherwise);
    if (set_and_not_null(j) && isnan(json_num(j, NAN))) return error_set(err, ERR_FORMAT, "'%s' must be a number", key);
    return true;
}

static bool bool_or(const Json *root, const char *key, bool otherwise, bool *out, Error *err) {
    const Json *j = json_get(root, key);
    *out = json_bool(j, otherwise);
    if (set_and_not_null(j) && json_bool(j, true) != json_bool(j, false))
        return error_set(err, ERR_FORMAT, "'%s' must be true or false", key);
    return true;
}

static bool need_kind(const Json *root, const char *key, bool expected, Error *err) {
    bool v;
    if (!bool_or(root, key, expected, &v, err)) return false;
    return v == expected || error_set(err, ERR_FORMAT, "'%s' = %s is not supported", key, v ? "true" : "false");
}

static const char *const rope_names[] = {
    [ROPE_PLAIN] = "default", [ROPE_LINEAR] = "linear", [ROPE_LLAMA3] = "llama3", [ROPE_YARN] = "yarn"};

static bool positive(const Json *rope, const char *key, const char *of, double otherwise, double *out, Error *err) {
    if (!number_or(rope, key, otherwise, out, err)) return error_wrap(err, "'%s'", of);
    if (*out > 0 && *out < 1e9) return true;
    return error_set(err, ERR_FORMAT, "'%s.%s' is %s, expected a number above 0", of, key,
                     set_and_not_null(json_get(rope, key)) ? "out of range" : "missing");
}

static bool read_llama3(RopeScaling *r, const Json *rope, const char *key, Error *err) {
    if (!positive(rope, "low_freq_factor", key, 0, &r->low, err) ||
        !positive(rope, "high_freq_factor", key, 0, &r->high, err))
        return false;
    return r->high > r->low || error_set(err, ERR_FORMAT, "'%s': high_freq_factor %g must be above low_freq_factor %g",
                                         key, r->high, r->low);
}

static double yarn_growth(double factor, double scale) { return factor > 1 ? 0.1 * scale * log(factor) + 1 : 1; }

static bool read_yarn(RopeScaling *r, const Json *rope, const char *key, Error *err) {
    double scale, scale_all, fast, slow;
    bool truncate;
    if (!number_or(rope, "beta_fast", 32, &fast, err) || !number_or(rope, "beta_slow", 1, &slow, err) ||
        !number_or(rope, "attention_factor", 0, &r->attention, err) || !number_or(rope, "mscale", 0, &scale, err) ||
        !number_or(rope, "mscale_all_dim", 0, &scale_all, err) || !bool_or(rope, "truncate", true, &truncate, err))
        return error_wrap(err, "'%s'", key);
    r->beta_fast = fast == 0 ? 32 : fast, r->beta_slow = slow == 0 ? 1 : slow, r->no_truncate = !truncate;
    if (r->beta_fast < 0 || r->beta_slow < 0 || r->attention < 0 || r->attention > 1e3)
        return error_set(err, ERR_FORMAT, "'%s': beta_fast, beta_slow and attention_factor must be positive", key);
    if (!set_and_not_null(json_get(rope, "attention_factor")) && scale != 0 && scale_all != 0)
        r->attention = yarn_growth(r->factor, scale) / yarn_growth(r->factor, scale_all);
    return r->attention >= 0 || error_set(err, ERR_FORMAT, "'%s': mscale makes a negative factor", key);
}

static bool read_rope_object(ModelConfig *c, const Json *root, const char *key, Error *err) {
    const Json *rope = json_get(root, key);
    if (json_kind(rope) != JSON_OBJ) return error_set(err, ERR_FORMAT, "'%s' must be an object or null", key);
    for (int i = 0; i < json_len(rope); i++) {
        const Json *value;
        const char *name = json_key_at(rope, i, &value);
        if (json_kind(value) == JSON_OBJ)
            return error_set(err, ERR_FORMAT, "'%s.%.40s': RoPE that differs between layers is not supported", key,
                             name);
    }
    const char *type = json_str(json_get(rope, "rope_type"), NULL);
    if (!type) type = json_str(json_get(rope, "type"), NULL);
    if (!type) type = "default";
    int kind = COUNT_OF(rope_names);
    while (kind-- > 0 && strcmp(rope_names[kind], type) != 0)
        ;
    if (kind < 0)
        return error_set(err, ERR_FORMAT,
                         "'%s' of type '%.40s' is not supported, only default, linear, llama3 and yarn", key, type);
    if (json_num(json_get(rope, "partial_rotary_factor"), 1) != 1)
        return error_set(err, ERR_FORMAT, "'%s.partial_rotary_factor' other than 1 is not supported", key);
    RopeScaling *r = &c->rope;
    *r = (RopeScaling){.kind = (RopeKind)kind};
    if (!number_or(rope, "rope_theta", c->rope_theta, &c->rope_theta, err)) return error_wrap(err, "'%s'", key);
    if (kind == ROPE_PLAIN) return true;
    if (kind != ROPE_LINEAR) {
        const Json *outside = json_get(root, "original_max_position_embeddings"); /* wins where there is one */
        if (!positive(set_and_not_null(outside) ? root : rope, "original_max_position_embeddings", key, c->max_seq,
                      &r->original, err))
            return false;
    }
    double ratio = kind == ROPE_YARN && json_get(rope, "factor") ? c->max_seq / r->original : 0;
    if (!positive(rope, "factor", key, ratio, &r->factor, err)) return false;
    if (kind == ROPE_LLAMA3) return read_llama3(r, rope, key, err);
    return kind == ROPE_LINEAR || read_yarn(r, rope, key, err);
}

static bool same_rope(const ModelConfig *a, const ModelConfig *b) {
    const RopeScaling *x = &a->rope, *y = &b->rope;
    return a->rope_theta == b->rope_theta && x->kind == y->kind && x->no_truncate == y->no_truncate &&
           x->factor == y->factor && x->original == y->original && x->low == y->low && x->high == y->high &&
           x->beta_fast == y->beta_fast && x->beta_slow == y->beta_slow && x->attention == y->attention;
}

/* rope_parameters (5) holds everything; before, rope_theta stood outside and rope_scaling only where there was any.
 * Files may hold both: a theta in rope_parameters wins, two scalings that differ are an error. */
static bool read_rope(ModelConfig *c, const Json *root, Error *err) {
    if (json_num(json_get(root, "partial_rotary_factor"), 1) != 1)
        return error_set(err, ERR_FORMAT, "'partial_rotary_factor' other than 1 is not supported");
    if (!number_or(root, "rope_theta", 10000, &c->rope_theta, err)) return false;
    ModelConfig old = *c;
    const Json *scaling = json_get(root, "rope_scaling");
    bool is_new = set_and_not_null(json_get(root, "rope_parameters")), is_old = set_and_not_null(scaling);
    if (is_new && !read_rope_object(c, root, "rope_parameters", err)) return false;
    if (is_old && json_kind(scaling) == JSON_OBJ && json_len(scaling) == 0) is_old = false;
    if (is_old && is_new && !json_get(scaling, "rope_theta")) old.rope_theta = c->rope_theta;
    if (is_old && !read_rope_object(&old, root, "rope_scaling", err)) return false;
    if (is_old && is_new && !same_rope(c, &old))
        return error_set(err, ERR_FORMAT, "'rope_parameters' and 'rope_scaling' say different things: remove one");
    if (is_old) *c = old;
    return true;
}

/* -- windows -- */

static void unwindow(ModelConfig *c, int layer) { c->unwindowed[layer / 32] |= (uint32_t)1 << layer % 32; }

static bool read_layer_types(ModelConfig *c, const Json *types, Error *err) {
    if (json_kind(types) != JSON_ARR || json_len(types) != c->n_layer)
        return error_set(err, ERR_FORMAT, "'layer_types' must be a list of %d names, one a layer", c->n_layer);
    for (int l = 0; l < c->n_layer; l++) {
        const char *type = json_str(json_at(types, l), NULL);
        bool full = type && strcmp(type, "full_attention") == 0;
        if (!full && (!type || strcmp(type, "sliding_attention") != 0))
            return error_set(err, ERR_FORMAT,
                             "'layer_types[%d]' '%.40s' is not supported, only full_attention and sliding_attention", l,
                             type ? type : "");
        if (!full && c->window == 0)
            return error_set(err, ERR_FORMAT,
                             "'layer_types[%d]' is sliding_attention, but there is no 'sliding_window'", l);
        if (full && c->window > 0) unwindow(c, l);
    }
    return true;
}

static bool some_unwindowed(const ModelConfig *c, bool unwindowed) {
    for (int l = 0; l < c->n_layer; l++)
        if ((model_config_window(c, l) == 0) == unwindowed) return true;
    return false;
}

/* No window, and all layers without it, are one thing. */
static void settle_window(ModelConfig *c) {
    if (!some_unwindowed(c, false)) c->window = 0;
    if (c->window == 0) memset(c->unwindowed, 0, sizeof c->unwindowed);
}

static bool read_qwen_window(ModelConfig *c, const Json *root, Error *err) {
    bool use;
    int first;
    const Json *types = json_get(root, "layer_types");
    if (!bool_or(root, "use_sliding_window", false, &use, err) ||
        !int_or_null(root, "sliding_window", 4096, 0, &c->window, err))
        return false;
    if (!use) c->window = 0;
    if (set_and_not_null(types)) {
        if (!read_layer_types(c, types, err)) return false;
    } else {
        double from = json_num(json_get(root, "max_window_layers"), 28);
        first = from < 0 ? 0 : from > c->n_layer ? c->n_layer : (int)from;
        for (int l = 0; c->window > 0 && l < first; l++) unwindow(c, l);
    }
    settle_window(c);
    return true;
}

/* With layer_types transformers takes the folder for a Ministral's: the same arithmetic, but for windows of some
 * layers. */
static bool read_mistral_window(ModelConfig *c, const Json *root, Error *err) {
    const Json *types = json_get(root, "layer_types");
    if (!int_or_null(root, "sliding_window", 4096, 0, &c->window, err)) return false;
    if (set_and_not_null(types) && !read_layer_types(c, types, err)) return false;
    settle_window(c);
    return true;
}

static bool read_window(ModelConfig *c, const Json *root, Error *err) {
    const Json *window = json_get(root, "sliding_window"), *types = json_get(root, "layer_types");
    if (c->family == FAMILY_QWEN2 || c->family == FAMILY_QWEN3) return read_qwen_window(c, root, err);
    if (c->family == FAMILY_MISTRAL) return read_mistral_window(c, root, err);
    if (set_and_not_null(types) && !read_layer_types(c, types, err)) return false;
    if (set_and_not_null(window) && json_bool(json_get(root, "use_sliding_window"), true))
        return error_set(err, ERR_FORMAT,
                         "'sliding_window' is not supported with model_type llama, only with mistral, "
                         "qwen2 and qwen3");
    return true;
}

/* -- families -- */

typedef struct {   /* what a class takes where config.json is silent */
    int n_kv_head; /* 0: n_head */
    int d_head;    /* 0: d_model / n_head */
    int max_seq;
} Defaults;

static bool read_llama(ModelConfig *c, const Json *root, Error *err) {
    static const Defaults defaults[FAMILY_COUNT] = {[FAMILY_LLAMA] = {0, 0, 2048},
                                                    [FAMILY_MISTRAL] = {8, 0, 131072},
                                                    [FAMILY_QWEN2] = {32, 0, 32768},
                                                    [FAMILY_QWEN3] = {32, 128, 32768}};
    const Defaults *d = &defaults[c->family];
    c->norm = NORM_RMS, c->pos = POS_ROPE, c->mlp = MLP_SWIGLU;
    if (!need_int(root, "hidden_size", &c->d_model, err) || !need_int(root, "intermediate_size", &c->d_ff, err) ||
        !need_int(root, "num_hidden_layers", &c->n_layer, err) ||
        !need_int(root, "num_attention_heads", &c->n_head, err) || !need_int(root, "vocab_size", &c->n_vocab, err) ||
        !int_or_null(root, "num_key_value_heads", d->n_kv_head ? d->n_kv_head : c->n_head, c->n_head, &c->n_kv_head,
                     err) ||
        !int_or(root, "head_dim", d->d_head ? d->d_head : c->d_model / c->n_head, &c->d_head, err) ||
        !int_or(root, "max_position_embeddings", d->max_seq, &c->max_seq, err) ||
        !number_or(root, "rms_norm_eps", 1e-6, &c->norm_eps, err))
        return false;
    if (c->n_layer > MODEL_MAX_LAYER)
        return error_set(err, ERR_FORMAT, "'num_hidden_layers' is %d, expected 1..%d", c->n_layer, MODEL_MAX_LAYER);
    const char *act = json_str(json_get(root, "hidden_act"), NULL);
    if (act && strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
        return error_set(err, ERR_FORMAT, "'hidden_act' '%.40s' is not supported, only 'silu'", act);
    c->qk_norm = c->family == FAMILY_QWEN3, c->qkv_bias = c->family == FAMILY_QWEN2;
    if (c->family == FAMILY_LLAMA && !bool_or(root, "mlp_bias", false, &c->mlp_bias, err)) return false;
    if (c->family == FAMILY_LLAMA || c->family == FAMILY_QWEN3) {
        if (!bool_or(root, "attention_bias", false, &c->qkv_bias, err)) return false;
        c->out_bias = c->qkv_bias;
    }
    return bool_or(root, "tie_word_embeddings", false, &c->tied, err) && read_window(c, root, err) &&
           read_rope(c, root, err);
}

/* One of two names, which the library takes for one. */
static bool need_either(const Json *root, const char *key, const char *other, int *out, Error *err) {
    int second;
    if (!set_and_not_null(json_get(root, other))) return need_int(root, key, out, err);
    if (!need_int(root, other, &second, err) || !int_or(root, key, second, out, err)) return false;
    return *out == second ||
           error_set(err, ERR_FORMAT, "'%s' is %d, but '%s' %d: remove one", key, *out, other, second);
}

static bool read_gpt2(ModelConfig *c, const Json *root, Error *err) {
    c->norm = NORM_LAYER, c->pos = POS_LEARNED, c->mlp = MLP_GELU;
    if (!need_either(root, "n_embd", "hidden_size", &c->d_model, err) ||
        !need_either(root, "n_layer", "num_hidden_layers", &c->n_layer, err) ||
        !need_either(root, "n_head", "num_attention_heads", &c->n_head, err) ||
        !need_either(root, "n_positions", "max_position_embeddings", &c->max_seq, err) ||
        !need_int(root, "vocab_size", &c->n_vocab, err) || !int_or(root, "n_inner", 4 * c->d_model, &c->d_ff, err) ||
        !number_or(root, "layer_norm_epsilon", 1e-5, &c->norm_eps, err))
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
    return bool_or(root, "tie_word_embeddings", true, &c->tied, err);
}

static int64_t id_at(const Json *j) { return json_int(j, -1); }

static bool read_config(ModelConfig *c, const Json *root, Error *err) {
    const char *type = json_str(json_get(root, "model_type"), NULL);
    if (!type) return error_set(err, ERR_FORMAT, "'model_type' is missing");
    if (set_and_not_null(json_get(root, "quantization_config")))
        return error_set(err, ERR_FORMAT, "'quantization_config' is not supported");
    if (!family_find(&c->family, type, err)) return false;
    if (!(c->family == FAMILY_GPT2 ? read_gpt2(c, root, err) : read_llama(c, root, err))) return false;
    const Json *eos = json_get(root, "eos_token_id");
    int64_t id = id_at(eos && json_kind(eos) == JSON_ARR ? json_at(eos, 0) : eos);
    c->eos_id = id >= 0 && id < c->n_vocab ? (int)id : -1;
    if (model_config_check(c, err)) return true;
    err->code = ERR_FORMAT; /* what a file says, not what a user asked for */
    return false;
}

static const ModelConfig unread = {.eos_id = -1, .rope_theta = 10000};

bool model_config_parse(ModelConfig *c, const char *json, size_t n, const char *name, Error *err) {
    *c = unread;
    Json *root = NULL;
    if (!json_parse(&root, json, n, JSON_INT_AS_REAL, name, 1, err)) return false;
    bool ok = read_config(c, root, err) || error_wrap(err, "%s", name);
    json_release(root);
    return ok;
}

bool model_config_read(ModelConfig *c, const char *dir, Error *err) {
    *c = unread;
    Str path = {0}, text = {0};
    str_printf(&path, "%s/config.json", dir);
    bool ok =
        io_read_file(&text, path.s, (size_t)1 << 28, err) && model_config_parse(c, str_get(&text), text.n, path.s, err);
    str_release(&text);
    str_release(&path);
    return ok;
}

bool model_head_kind(HeadKind *kind, const char *dir, Error *err) {
    Str path = {0};
    Json *j;
    str_printf(&path, "%s/config.json", dir);
    bool ok = json_read_file(&j, str_get(&path), JSON_INT_AS_REAL, err);
    if (ok) {
        const char *name = json_str(json_at(json_get(j, "architectures"), 0), NULL);
        bool score = name ? strstr(name, "ForSequenceClassification") != NULL : json_get(j, "num_labels") != NULL;
        *kind = score ? HEAD_SCORE : HEAD_LM;
        json_release(j);
    }
    str_release(&path);
    return ok;
}

/* -- ids ------------------------------------------------------------------------------------------------------------
 */

void model_tokens_init(ModelTokens *t, int eos) {
    *t = (ModelTokens){.bos = -1, .pad = -1, .n_eos = eos >= 0};
    t->eos[0] = eos;
}

static int one_id(const Json *j, const char *what, const char *path, int n_vocab, Str *note) {
    int64_t id = id_at(j);
    if (id >= 0 && id < n_vocab) return (int)id;
    if (id >= 0)
        str_printf(note, "%s: '%s' %lld is not in the vocabulary of %d: taken as none\n", path, what, (long long)id,
                   n_vocab);
    return -1;
}

static void read_ids(ModelTokens *t, const Json *root, const char *path, int n_vocab, Str *note) {
    const Json *bos = json_get(root, "bos_token_id"), *pad = json_get(root, "pad_token_id");
    const Json *eos = json_get(root, "eos_token_id");
    if (bos) t->bos = one_id(bos, "bos_token_id", path, n_vocab, note);
    if (pad) t->pad = one_id(pad, "pad_token_id", path, n_vocab, note);
    if (!set_and_not_null(eos)) return;
    bool many = json_kind(eos) == JSON_ARR;
    t->n_eos = 0;
    for (int i = 0; i < (many ? json_len(eos) : 1) && t->n_eos < MODEL_MAX_EOS; i++) {
        int id = one_id(many ? json_at(eos, i) : eos, "eos_token_id", path, n_vocab, note);
        if (id >= 0) t->eos[t->n_eos++] = id;
    }
}

bool model_tokens_read(ModelTokens *t, Str *note, const char *dir, int n_vocab, Error *err) {
    static const char *const file[] = {"config.json", "generation_config.json"};
    model_tokens_init(t, -1);
    Str path = {0};
    bool ok = true;
    for (int i = 0; i < COUNT_OF(file) && ok; i++) {
        Json *root = NULL;
        str_clear(&path);
        str_printf(&path, "%s/%s", dir, file[i]);
        if (i > 0 && !io_exists(path.s)) continue;
        ok = json_read_file(&root, path.s, JSON_INT_AS_REAL, err);
        if (ok) read_ids(t, root, path.s, n_vocab, note);
        json_release(root);
    }
    str_release(&path);
    return ok;
}

/* -- writing --------------------------------------------------------------------------------------------------------
 */

static void write_rope_object(JsonOut *j, const char *key, const ModelConfig *c, bool theta) {
    const RopeScaling *r = &c->rope;
    json_out_obj(j, key);
    json_out_str(j, "rope_type", rope_names[r->kind]);
    if (theta) json_out_num(j, "rope_theta", c->rope_theta);
    if (r->kind != ROPE_PLAIN) json_out_num(j, "factor", r->factor);
    if (r->original > 0 && r->original == floor(r->original))
        json_out_int(j, "original_max_position_embeddings", (int64_t)r->original);
    else if (r->original > 0)
        json_out_num(j, "original_max_position_embeddings", r->original);
    if (r->kind == ROPE_LLAMA3) {
        json_out_num(j, "low_freq_factor", r->low);
        json_out_num(j, "high_freq_factor", r->high);
    }
    if (r->kind == ROPE_YARN) {
        json_out_num(j, "beta_fast", r->beta_fast);
        json_out_num(j, "beta_slow", r->beta_slow);
        if (r->no_truncate) json_out_bool(j, "truncate", false);
        if (r->attention > 0) json_out_num(j, "attention_factor", r->attention);
    }
    json_out_obj_end(j);
}

static void write_window(JsonOut *j, const ModelConfig *c) {
    bool qwen = c->family == FAMILY_QWEN2 || c->family == FAMILY_QWEN3;
    if (!qwen && c->family != FAMILY_MISTRAL) return;
    if (qwen) json_out_bool(j, "use_sliding_window", c->window > 0);
    if (c->window > 0)
        json_out_int(j, "sliding_window", c->window);
    else
        json_out_str(j, "sliding_window", NULL);
    if (!qwen && (c->window == 0 || !some_unwindowed(c, true))) return;
    int first = 0;
    while (first < c->n_layer && model_config_window(c, first) == 0) first++;
    if (qwen) json_out_int(j, "max_window_layers", first);
    json_out_arr(j, "layer_types");
    for (int l = 0; l < c->n_layer; l++)
        json_out_str(j, NULL, model_config_window(c, l) > 0 ? "sliding_attention" : "full_attention");
    json_out_arr_end(j);
}

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
    if (c->rope.kind == ROPE_PLAIN)
        json_out_str(j, "rope_scaling", NULL);
    else
        write_rope_object(j, "rope_scaling", c, false);
    write_rope_object(j, "rope_parameters", c, true);
    write_window(j, c);
    if (c->family == FAMILY_LLAMA || c->family == FAMILY_QWEN3) json_out_bool(j, "attention_bias", c->qkv_bias);
    if (c->family == FAMILY_LLAMA) json_out_bool(j, "mlp_bias", c->mlp_bias);
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

static void write_id(JsonOut *j, const char *key, int id) { /* absent would mean the library's own default */
    if (id >= 0)
        json_out_int(j, key, id);
    else
        json_out_str(j, key, NULL);
}

static void write_ids(JsonOut *j, const ModelTokens *t) {
    write_id(j, "bos_token_id", t->bos);
    if (t->n_eos > 1) {
        json_out_arr(j, "eos_token_id");
        for (int i = 0; i < t->n_eos; i++) json_out_int(j, NULL, t->eos[i]);
        json_out_arr_end(j);
    } else {
        write_id(j, "eos_token_id", t->n_eos == 1 ? t->eos[0] : -1);
    }
    write_id(j, "pad_token_id", t->pad);
}

void family_config_write(Str *out, const ModelConfig *c, const ModelTokens *t, const char *dtype, HeadKind kind,
                         int n_out) {
    const char *name = strcmp(dtype, "BF16") == 0 ? "bfloat16" : strcmp(dtype, "F16") == 0 ? "float16" : "float32";
    JsonOut j;
    json_out_init(&j, out, 2);
    json_out_obj(&j, NULL);
    json_out_arr(&j, "architectures");
    json_out_str(&j, NULL, family_class(c->family, kind));
    json_out_arr_end(&j);
    json_out_str(&j, "model_type", family_model_type(c->family));
    if (c->family == FAMILY_GPT2)
        write_gpt2(&j, c);
    else
        write_llama(&j, c);
    json_out_bool(&j, "tie_word_embeddings", c->tied);
    write_ids(&j, t);
    json_out_str(&j, "dtype", name);
    json_out_str(&j, "torch_dtype", name);
    if (kind == HEAD_SCORE) write_labels(&j, n_out);
    json_out_obj_end(&j);
    str_putc(out, '\n');
}
