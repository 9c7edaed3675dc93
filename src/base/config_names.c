/* base/config_names.c — names of keys: which there are, and which one was meant by a name that is none. */
#include "base/config_int.h"

#include <stdio.h>
#include <string.h>

static const char *last_part(const char *name) {
    const char *dot = strrchr(name, '.');
    return dot ? dot + 1 : name;
}

const CfgKey *config_find(CfgTable t, const char *name) {
    for (int i = 0; i < t.n; i++) {
        if (strcmp(t.key[i].name, name) == 0) return &t.key[i];
    }
    return NULL;
}

bool config_is_section(CfgTable t, const char *name) {
    size_t n = strlen(name);
    for (int i = 0; i < t.n; i++) {
        if (n > 0 && strncmp(t.key[i].name, name, n) == 0 && t.key[i].name[n] == '.') return true;
    }
    return false;
}

/* What other programs of this field call our keys; pairs of their last part and ours, or our whole name. */
// clang-format off
static const char *const peer_names[][2] = {
    {"learning_rate", "lr"}, {"max_lr", "lr"}, {"peak_lr", "lr"}, {"lr_min", "min_lr"}, {"min_learning_rate", "min_lr"},
    {"num_epochs", "epochs"}, {"num_train_epochs", "epochs"}, {"n_epochs", "epochs"}, {"noptepochs", "epochs"},
    {"ppo_epochs", "epochs"}, {"num_ppo_epochs", "epochs"}, {"num_mini_batches", "n_minibatch"},
    {"max_steps", "steps"}, {"num_steps", "steps"}, {"total_steps", "steps"}, {"max_iters", "steps"},
    {"batch_size", "batch_tokens"}, {"global_batch_size", "batch_tokens"}, {"train_batch_size", "batch_tokens"},
    {"micro_batch_size", "micro_tokens"}, {"per_device_train_batch_size", "micro_tokens"},
    {"warmup_steps", "warmup"}, {"num_warmup_steps", "warmup"}, {"warmup_iters", "warmup"}, {"warmup_ratio", "warmup"},
    {"max_grad_norm", "clip"}, {"grad_clip", "clip"}, {"gradient_clipping", "clip"}, {"clip_grad_norm", "clip"},
    {"adam_beta1", "beta1"}, {"adam_beta2", "beta2"}, {"adam_epsilon", "eps"}, {"wd", "weight_decay"},
    {"lr_scheduler_type", "schedule"}, {"lr_scheduler", "schedule"}, {"gradient_checkpointing", "recompute"},
    {"kl_coef", "beta"}, {"init_kl_coef", "beta"}, {"kl_penalty", "beta"}, {"lam", "lambda"}, {"gae_lambda", "lambda"},
    {"cliprange", "clip_low"}, {"clip_range", "clip_low"}, {"cliprange_value", "value_clip"},
    {"vf_coef", "value_weight"}, {"target_kl", "kl_target"}, {"missing_eos_penalty", "no_end_score"},
    {"max_new_tokens", "max_new"}, {"max_tokens", "max_new"}, {"max_length", "max_new"}, {"temp", "temperature"},
    {"max_seq_len", "max_seq"}, {"max_seq_length", "max_seq"}, {"max_position_embeddings", "max_seq"},
    {"block_size", "max_seq"}, {"hidden_size", "d_model"}, {"n_embd", "d_model"}, {"intermediate_size", "d_ff"},
    {"num_hidden_layers", "n_layer"}, {"num_layers", "n_layer"}, {"num_attention_heads", "n_head"},
    {"num_key_value_heads", "n_kv_head"}, {"tie_word_embeddings", "tied"}, {"vocab_size", "vocab"},
    {"output_dir", "out"}, {"random_seed", "seed"}, {"num_threads", "threads"}, {"device", "backend"},
    {"model_name_or_path", "model.path"}, {"pretrained_model_name_or_path", "model.path"},
};
// clang-format on

/* Our key for a peer's name: in the section it was written in, else the only one that ends so. */
static const CfgKey *peer_key(CfgTable t, const char *name) {
    const char *last = last_part(name), *ours = NULL;
    for (int i = 0; i < COUNT_OF(peer_names) && !ours; i++) {
        if (strcmp(peer_names[i][0], last) == 0) ours = peer_names[i][1];
    }
    if (!ours) return NULL;
    if (strchr(ours, '.')) return config_find(t, ours);
    char want[200];
    snprintf(want, sizeof want, "%.*s%s", (int)(last - name), name, ours);
    const CfgKey *k = config_find(t, want);
    for (int i = 0; i < t.n && !k; i++) {
        if (strcmp(last_part(t.key[i].name), ours) != 0) continue;
        for (int j = i + 1; j < t.n; j++) {
            if (strcmp(last_part(t.key[j].name), ours) == 0) return NULL;
        }
        k = &t.key[i];
    }
    return k;
}

/* " (it needs its section: 'pm.lr', 'rl.lr' and 7 more)" for the bare last part of several keys, else "". */
static void sections_of(char *out, size_t n_out, CfgTable t, const char *name) {
    int n = 0, at = 0;
    out[0] = 0;
    for (int i = 0; i < t.n && !strchr(name, '.'); i++) {
        if (strcmp(last_part(t.key[i].name), name) != 0) continue;
        if (n++ < 3)
            at += snprintf(out + at, n_out - (size_t)at, "%s'%s'",
                           n > 1 ? ", " : " (it needs its section: ", t.key[i].name);
    }
    if (n > 3) at += snprintf(out + at, n_out - (size_t)at, " and %d more", n - 3);
    if (n > 0) snprintf(out + at, n_out - (size_t)at, ")");
}

/* The nearest key: fewest edits (at most 2), else the only one that begins so, else the only one with this last part.
 */
static const CfgKey *near_key(CfgTable t, const char *name) {
    int limit = strlen(last_part(name)) <= 3 ? 1 : 2, best = limit + 1;
    const CfgKey *found = NULL;
    for (int i = 0; i < t.n; i++) {
        int d = str_distance(name, t.key[i].name, limit);
        if (d < best) best = d, found = &t.key[i];
    }
    if (found) return found;
    int n_prefix = 0, n_last = 0;
    const CfgKey *prefix = NULL, *last = NULL;
    size_t n = strlen(name);
    for (int i = 0; i < t.n; i++) {
        if (n > 0 && strncmp(t.key[i].name, name, n) == 0) prefix = &t.key[i], n_prefix++;
        if (strcmp(last_part(t.key[i].name), last_part(name)) == 0) last = &t.key[i], n_last++;
    }
    return n_prefix == 1 ? prefix : n_last == 1 ? last : NULL;
}

void config_note_section(ConfigReport *r, CfgTable t, const char *name) {
    r->of_keys = true;
    if (!config_is_section(t, "rl")) r->other = t;
    size_t n = strcspn(name, ".");
    char section[sizeof r->section];
    if (r->section[0] || n >= sizeof section) return;
    snprintf(section, sizeof section, "%.*s", (int)n, name);
    if (config_is_section(t, section)) snprintf(r->section, sizeof r->section, "%s", section);
}

void config_unknown_key(ConfigReport *r, CfgTable t, const ConfigSource *src, ConfigPlace at, const char *name) {
    config_note_section(r, t, name);
    if (name[0] && config_is_section(t, name)) {
        config_report(r, src, at, "'%s' is a section: expected keys below it", name);
        return;
    }
    for (const char *dot = strchr(name, '.'); dot; dot = strchr(dot + 1, '.')) {
        char above[200];
        snprintf(above, sizeof above, "%.*s", (int)(dot - name), name);
        if (!config_find(t, above)) continue;
        config_report(r, src, at, "unknown key '%s': '%s' takes a value, not keys", name, above);
        return;
    }
    const CfgKey *k = peer_key(t, name);
    if (k) {
        config_report(r, src, at, "unknown key '%s' (here it is '%s')", name, k->name);
    } else if ((k = near_key(t, name)) != NULL) {
        config_report(r, src, at, "unknown key '%s' (did you mean '%s'?)", name, k->name);
    } else {
        char sections[512];
        sections_of(sections, sizeof sections, t, name);
        config_report(r, src, at, "unknown key '%s'%s", name, sections);
    }
}
