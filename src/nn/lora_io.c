/* nn/lora_io.c — adapters in PEFT's files. What an adapter changes is read from its tensors: which modules have a pair
 * is what adapter_model.safetensors holds, whatever pattern chose them. adapter_config.json gives rank and scale, and
 * every option in it that would change the arithmetic otherwise is refused by name, because a file of another method
 * that loads without a word is the worst outcome. */
#include "nn/nn_int.h"

#include "base/json.h"
#include "nn/convert.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char prefix[] = "base_model.model.";

void lora_tensor_name(char out[PARAM_NAME_MAX], const LoraPart *p) {
    int n = snprintf(out, PARAM_NAME_MAX, "%s%s.lora_%c.weight", prefix, p->module, p->up ? 'B' : 'A');
    CHECK(n < PARAM_NAME_MAX, "'%s' is too long for a tensor", p->module);
}

static void head_name(char out[PARAM_NAME_MAX]) {
    char name[PARAM_NAME_MAX];
    family_head_name(name, HEAD_SCORE);
    snprintf(out, PARAM_NAME_MAX, "%s%.64s", prefix, name);
}

static void join(Str *out, const char *dir, const char *file) {
    str_clear(out);
    str_printf(out, "%s/%s", dir, file);
}

/* -- adapter_config.json --------------------------------------------------------------------------------------------
 */

static bool is_unset(const Json *j) {
    switch (j ? json_kind(j) : JSON_NIL) {
    case JSON_NIL:
    case JSON_NO:
        return true;
    case JSON_OBJ:
    case JSON_ARR:
        return json_len(j) == 0;
    case JSON_STR:
        return !strcmp(json_str(j, NULL), "none") || !*json_str(j, NULL);
    default:
        return false;
    }
}

/* Each changes what is computed, and what to do about it. */
static const struct {
    const char *key, *advice;
} refused[] = {{"use_dora", "merge it with PEFT's merge_and_unload and import the model"},
               {"use_qalora", "merge it with PEFT's merge_and_unload and import the model"},
               {"use_bdlora", "merge it with PEFT's merge_and_unload and import the model"},
               {"kasa_config", "merge it with PEFT's merge_and_unload and import the model"},
               {"monteclora_config", "merge it with PEFT's merge_and_unload and import the model"},
               {"arrow_config", "a choice among several adapters is not supported"},
               {"rank_pattern", "one rank for all modules is supported: merge it with PEFT's merge_and_unload"},
               {"alpha_pattern", "one alpha for all modules is supported: merge it with PEFT's merge_and_unload"},
               {"layer_replication", "merge it with PEFT's merge_and_unload and import the model"},
               {"lora_bias", "merge it with PEFT's merge_and_unload and import the model"},
               {"target_parameters", "only modules have adapters here: merge it with PEFT's merge_and_unload"},
               {"trainable_token_indices", "merge it with PEFT's merge_and_unload and import the model"},
               {"alora_invocation_tokens", "an adapter that wakes at a token is not supported"},
               {"bias", "only bias 'none' is supported: merge it with PEFT's merge_and_unload"}};

/* These change nothing in a trained adapter's arithmetic: what was trained how, and by which version. */
static const char *const known[] = {"peft_type",
                                    "r",
                                    "lora_alpha",
                                    "use_rslora",
                                    "task_type",
                                    "base_model_name_or_path",
                                    "target_modules",
                                    "exclude_modules",
                                    "layers_to_transform",
                                    "layers_pattern",
                                    "lora_dropout",
                                    "fan_in_fan_out",
                                    "modules_to_save",
                                    "init_lora_weights",
                                    "inference_mode",
                                    "auto_mapping",
                                    "revision",
                                    "peft_version",
                                    "ensure_weight_tying",
                                    "qalora_group_size",
                                    "megatron_core",
                                    "runtime_config",
                                    "loftq_config",
                                    "eva_config",
                                    "corda_config",
                                    "lora_ga_config"};

static bool check_options(const Json *root, Str *note, const char *path, Error *err) {
    for (int i = 0; i < COUNT_OF(refused); i++)
        if (!is_unset(json_get(root, refused[i].key)))
            return error_set(err, ERR_FORMAT, "'%s' is set: %s", refused[i].key, refused[i].advice);
    const char *init = json_str(json_get(root, "init_lora_weights"), NULL);
    static const char *const moves[] = {"pissa", "olora", "loftq", "corda", "lora_ga"};
    for (int i = 0; init && i < COUNT_OF(moves); i++)
        if (strncmp(init, moves[i], strlen(moves[i])) == 0)
            return error_set(err, ERR_FORMAT,
                             "'init_lora_weights' is '%.20s', which changes the base too: save the adapter with "
                             "path_initial_model_for_weight_conversion, or merge it with merge_and_unload",
                             init);
    const Json *saved = json_get(root, "modules_to_save");
    for (int i = 0; saved && i < json_len(saved); i++) {
        const char *s = json_str(json_at(saved, i), NULL);
        if (!s || (strcmp(s, "score") && strcmp(s, "classifier")))
            return error_set(err, ERR_FORMAT,
                             "'modules_to_save' holds '%.60s', only a scoring head is supported: merge it with PEFT's "
                             "merge_and_unload and import the model",
                             s ? s : "something that is no text");
    }
    for (int i = 0; note && i < json_len(root); i++) {
        const Json *value;
        const char *key = json_key_at(root, i, &value);
        bool is_known = is_unset(value);
        for (int k = 0; k < COUNT_OF(known) && !is_known; k++) is_known = strcmp(key, known[k]) == 0;
        for (int k = 0; k < COUNT_OF(refused) && !is_known; k++) is_known = strcmp(key, refused[k].key) == 0;
        if (!is_known) str_printf(note, "%s: '%.60s' is not known and has no effect\n", path, key);
    }
    return true;
}

typedef struct {
    LoraConfig lora;
    HeadKind head;
    Str base;
    Json *root;
} FileConfig;

static void config_release(FileConfig *c) {
    str_release(&c->base);
    json_release(c->root);
    c->root = NULL;
}

static bool read_values(FileConfig *c, const Json *root, Error *err) {
    const char *type = json_str(json_get(root, "peft_type"), NULL), *task = json_str(json_get(root, "task_type"), NULL);
    const char *base = json_str(json_get(root, "base_model_name_or_path"), NULL);
    double r = json_num(json_get(root, "r"), NAN), alpha = json_num(json_get(root, "lora_alpha"), NAN);
    double dropout = json_num(json_get(root, "lora_dropout"), 0);
    if (!type || strcmp(type, "LORA") != 0)
        return error_set(err, ERR_FORMAT, "'peft_type' is '%.40s', only LORA is supported", type ? type : "missing");
    if (!(r >= 1 && r <= 65536) || r != floor(r))
        return error_set(err, ERR_FORMAT, "'r' is %g, expected a whole number of 1..65536", r);
    if (!(alpha > 0 && alpha < 1e9)) return error_set(err, ERR_FORMAT, "'lora_alpha' is %g, expected above 0", alpha);
    if (!(dropout >= 0 && dropout < 1))
        return error_set(err, ERR_FORMAT, "'lora_dropout' is %g, expected 0 or more and less than 1", dropout);
    if (task && strcmp(task, "CAUSAL_LM") && strcmp(task, "SEQ_CLS"))
        return error_set(err, ERR_FORMAT, "'task_type' is '%.40s', expected CAUSAL_LM or SEQ_CLS", task);
    c->lora.r = (int)r, c->lora.alpha = alpha, c->lora.dropout = dropout,
    c->lora.rslora = json_bool(json_get(root, "use_rslora"), false);
    c->head = task && strcmp(task, "SEQ_CLS") == 0 ? HEAD_SCORE : HEAD_LM;
    str_put(&c->base, base ? base : "");
    c->lora.base = str_get(&c->base);
    return true;
}

/* note may be NULL. */
static bool read_config(FileConfig *c, const char *dir, Str *note, Error *err) {
    Str path = {0};
    *c = (FileConfig){0};
    join(&path, dir, "adapter_config.json");
    bool ok = json_read_file(&c->root, path.s, JSON_INT_AS_REAL, err);
    if (ok) {
        ok = json_kind(c->root) == JSON_OBJ || error_set(err, ERR_FORMAT, "expected an object");
        ok = ok && read_values(c, c->root, err) && check_options(c->root, note, path.s, err);
        if (!ok) error_wrap(err, "%s", path.s);
    }
    if (!ok) config_release(c);
    str_release(&path);
    return ok;
}

bool adapter_info(AdapterInfo *out, const char *dir, Error *err) {
    FileConfig c;
    *out = (AdapterInfo){0};
    if (!read_config(&c, dir, NULL, err)) return false;
    json_release(c.root);
    *out = (AdapterInfo){c.base, c.head};
    return true;
}

/* -- reading tensors ------------------------------------------------------------------------------------------------
 */

static bool open_file(StFile *f, const char *dir, Error *err) {
    Str path = {0}, old = {0};
    join(&path, dir, "adapter_model.safetensors");
    join(&old, dir, "adapter_model.bin");
    bool ok = !io_exists(path.s) && io_exists(old.s)
                  ? error_set(err, ERR_FORMAT,
                              "%s: pickled weights are not read: save the adapter again with "
                              "save_pretrained(folder, safe_serialization=True)",
                              old.s)
                  : st_open(f, path.s, err);
    str_release(&path);
    str_release(&old);
    return ok;
}

static bool in_file(void *ud, const char *module, const ParamSlot *s) {
    LoraPart p = {.layer = s->layer};
    char name[PARAM_NAME_MAX];
    snprintf(p.module, sizeof p.module, "%s", module);
    for (int up = 0; up < 2; up++) {
        p.up = up;
        lora_tensor_name(name, &p);
        if (st_find(ud, name)) return true;
    }
    return false;
}

typedef struct {
    const StFile *file;
    bool *used; /* (file->n) */
    Backend *be;
    Str *note;
    bool store; /* false: only look */
    bool ok;
    Error *err;
} LoadJob;

static const StEntry *take(LoadJob *job, const char *name, const int64_t *dim) {
    const StEntry *e = st_find(job->file, name);
    if (!e) {
        job->ok = error_set(job->err, ERR_FORMAT, "tensor '%s' is missing", name);
        return NULL;
    }
    job->used[e - job->file->entry] = true;
    job->ok = load_check(e, dim, 2, job->err);
    return e;
}

static void load_part(void *ud, const LoraPart *p) {
    LoadJob *job = ud;
    char name[PARAM_NAME_MAX];
    if (!job->ok) return;
    lora_tensor_name(name, p);
    const StEntry *e = take(job, name, (int64_t[]){p->w.rows * p->n_part, p->w.cols});
    FileName f = {.part = p->part, .n_part = p->n_part};
    if (job->ok && job->store) load_tensor(job->be, p->w, NULL, e, &f, job->note);
}

static void load_head(LoadJob *job, const Head *h) {
    char name[PARAM_NAME_MAX];
    if (!job->ok) return;
    head_name(name);
    const StEntry *e = take(job, name, (int64_t[]){h->w.rows, h->w.cols});
    if (job->ok && job->store) load_tensor(job->be, h->w, NULL, e, &(FileName){.n_part = 1}, job->note);
}

static bool all_used(const LoadJob *job) {
    char score[PARAM_NAME_MAX];
    head_name(score);
    for (int i = 0; i < job->file->n; i++) {
        const char *name = job->file->entry[i].name;
        if (!job->used[i] && strcmp(name, score) != 0)
            return error_set(job->err, ERR_FORMAT,
                             "tensor '%.150s' has no place: only matrices of layers and a scoring head are supported: "
                             "merge it with PEFT's merge_and_unload and import the model",
                             name);
    }
    return true;
}

/* Looks at everything before it stores anything. head: NULL, or one that has to be there. */
static bool load_file(const StFile *f, const Adapter *a, const Head *h, Str *note, Error *err) {
    LoadJob job = {.file = f, .be = a->be, .note = note, .ok = true, .err = err};
    job.used = mem_alloc((size_t)f->n * sizeof *job.used + 1);
    for (int store = 0; store < 2 && job.ok; store++) {
        job.store = store;
        lora_visit(a, load_part, &job);
        if (h) load_head(&job, h);
        job.ok = job.ok && all_used(&job);
    }
    free(job.used);
    return job.ok;
}

/* No tensor is of a pair: what are they? */
static void name_first(const StFile *f, Error *err) {
    LoadJob job = {.file = f, .err = err};
    job.used = mem_alloc((size_t)f->n * sizeof *job.used + 1);
    if (all_used(&job)) error_set(err, ERR_FORMAT, "adapter_model.safetensors holds no pair of matrices");
    free(job.used);
}

/* Before anything of that size is allocated: adapter_config.json may claim a rank that no tensor has. */
static bool check_rank(const StFile *f, int r, Error *err) {
    static const char *const end[] = {".lora_A.weight", ".lora_B.weight"};
    for (int i = 0; i < f->n; i++)
        for (int up = 0; up < 2; up++) {
            const StEntry *e = &f->entry[i];
            size_t n = strlen(e->name), k = strlen(end[up]);
            int64_t dim[2] = {1, 1};
            if (n < k || strcmp(e->name + n - k, end[up]) != 0) continue;
            if (e->n_dim == 2) dim[0] = e->dim[0], dim[1] = e->dim[1];
            dim[up] = r;
            if (!load_check(e, dim, 2, err)) return false;
        }
    return true;
}

static bool number_among(const Json *numbers, double x) {
    bool found = json_kind(numbers) != JSON_ARR && json_num(numbers, -1) == x;
    for (int i = 0; i < json_len(numbers) && !found; i++) found = json_num(json_at(numbers, i), -1) == x;
    return found;
}

/* A list's names end a module's at a dot. */
static bool module_among(const Json *names, const char *module, size_t n) {
    for (int i = 0; i < json_len(names); i++) {
        size_t k = 0;
        const char *s = json_str(json_at(names, i), &k);
        if (s && k <= n && !memcmp(module + n - k, s, k) && (k == n || module[n - k - 1] == '.')) return true;
    }
    return false;
}

static double layer_of(const char *module, size_t n) {
    for (size_t i = 1; i < n; i++)
        if (module[i - 1] == '.' && module[i] >= '0' && module[i] <= '9') return atof(module + i);
    return -1;
}

/* Where the configuration tells by lists which modules have pairs, PEFT passes over those of others: a file that has
 * some is not what it says. Patterns are not looked at. */
static bool check_targets(const StFile *f, const Json *root, Error *err) {
    static const char end[] = ".lora_A.weight", bad[] = "tensor '%.150s' is there, but '%s' leaves its module out";
    const Json *target = json_get(root, "target_modules"), *not = json_get(root, "exclude_modules");
    const Json *layers = json_get(root, "layers_to_transform");
    for (int i = 0; i < f->n; i++) {
        const char *name = f->entry[i].name, *module = name + strlen(prefix);
        size_t n = strlen(name), out = strlen(prefix) + strlen(end);
        if (n <= out || strncmp(name, prefix, strlen(prefix)) || strcmp(name + n - strlen(end), end)) continue;
        if (json_len(target) > 0 && json_kind(target) == JSON_ARR && !module_among(target, module, n - out))
            return error_set(err, ERR_FORMAT, bad, name, "target_modules");
        if (module_among(not, module, n - out)) return error_set(err, ERR_FORMAT, bad, name, "exclude_modules");
        if (!is_unset(layers) && !number_among(layers, layer_of(module, n - out)))
            return error_set(err, ERR_FORMAT, bad, name, "layers_to_transform");
    }
    return true;
}

bool adapter_open(Adapter **out, Model *m, const char *dir, bool grads, Error *err) {
    FileConfig c;
    StFile f;
    *out = NULL;
    if (!read_config(&c, dir, &m->note, err)) return false;
    bool ok = open_file(&f, dir, err);
    if (ok) {
        ok = check_targets(&f, c.root, err) && check_rank(&f, c.lora.r, err) &&
             lora_place(out, m, &c.lora, grads, in_file, &f, err);
        if (!ok && err->code == ERR_CONFIG) name_first(&f, err);
        if (ok && !load_file(&f, *out, NULL, &m->note, err)) {
            adapter_close(*out);
            *out = NULL;
            ok = false;
        }
        st_close(&f);
    }
    config_release(&c);
    return ok || error_wrap(err, "%s", dir);
}

bool adapter_load(Net n, const char *dir, Error *err) {
    FileConfig c;
    StFile f;
    const LoraConfig *own = &n.adapter->cfg;
    if (!read_config(&c, dir, NULL, err)) return false;
    bool ok = c.lora.r == own->r && c.lora.alpha == own->alpha && c.lora.rslora == own->rslora;
    if (!ok)
        error_set(err, ERR_FORMAT, "an adapter of rank %d and alpha %g, expected %d and %g", c.lora.r, c.lora.alpha,
                  own->r, own->alpha);
    ok = ok && open_file(&f, dir, err);
    if (ok) {
        const Head *h = n.head && n.head->kind == HEAD_SCORE ? n.head : NULL;
        ok = check_targets(&f, c.root, err) && load_file(&f, n.adapter, h, &n.trunk->note, err);
        st_close(&f);
        if (ok) n.trunk->version++;
    }
    config_release(&c);
    return ok || error_wrap(err, "%s", dir);
}

bool adapter_head_open(Head *h, Model *m, const char *dir, bool grads, Error *err) {
    StFile f;
    char name[PARAM_NAME_MAX];
    *h = (Head){0};
    head_name(name);
    if (!open_file(&f, dir, err)) return error_wrap(err, "%s", dir);
    const StEntry *e = st_find(&f, name);
    bool ok = e != NULL;
    if (!ok)
        error_set(err, ERR_FORMAT,
                  "tensor '%s' is missing: a scoring adapter is saved with its head (task_type SEQ_CLS)", name);
    if (ok) {
        int64_t dim[2] = {e->n_dim == 2 && e->dim[0] > 0 && e->dim[0] < 1 << 20 ? e->dim[0] : 1, m->cfg.d_model};
        ok = load_check(e, dim, 2, err) && head_params_open(h, m, HEAD_SCORE, (int)dim[0], grads, err);
        if (ok) load_tensor(m->be, h->w, NULL, e, &(FileName){.n_part = 1}, &m->note);
    }
    st_close(&f);
    return ok || error_wrap(err, "%s", dir);
}

/* -- writing --------------------------------------------------------------------------------------------------------
 */

typedef struct {
    Backend *be;
    Heap heap;
    StOut *out;
    int n, cap;
} SaveJob;

static void put_tensor(SaveJob *job, const char *name, Tensor w, int n_part) {
    if (job->n == job->cap) {
        job->cap = job->cap ? 2 * job->cap : 64;
        job->out = mem_grow(job->out, (size_t)job->cap * sizeof *job->out);
    }
    bool half = w.dtype == DTYPE_BF16;
    size_t bytes = (size_t)tensor_count(w) * (half ? 2 : 4);
    StOut *o = &job->out[job->n++];
    *o = (StOut){.name = heap_strn(&job->heap, name, strlen(name)), .dtype = half ? "BF16" : "F32", .n_dim = 2};
    o->dim[0] = w.rows * n_part, o->dim[1] = w.cols, o->bytes = bytes * (size_t)n_part;
    o->data = heap_alloc(&job->heap, o->bytes);
}

static void fill_part(SaveJob *job, StOut *o, Tensor w, int part) {
    int64_t n = tensor_count(w);
    Element type = element_of(o->dtype);
    float *host = mem_alloc((size_t)n * sizeof *host);
    tensor_get_f32(job->be, host, w);
    element_store((unsigned char *)(uintptr_t)o->data + (size_t)part * (size_t)n * element_bytes(type), host, type, n);
    free(host);
}

/* The parts of one matrix come one after another. */
static void save_part(void *ud, const LoraPart *p) {
    SaveJob *job = ud;
    char name[PARAM_NAME_MAX];
    lora_tensor_name(name, p);
    if (p->part == 0) put_tensor(job, name, p->w, p->n_part);
    fill_part(job, &job->out[job->n - 1], p->w, p->part);
}

/* The names of target_modules: short ones when every layer has the same pairs, else every module by its whole name. */
typedef struct {
    const Adapter *a;
    JsonOut *j;
    bool uniform;
} TargetJob;

static bool same_in_all_layers(const Adapter *a) {
    for (int l = 1; l < a->model.n_layer; l++)
        for (int k = 0; k < PARAM_COUNT; k++)
            if (tensor_empty(lora_pair(a, l, (ParamNumber)k)->b) != tensor_empty(lora_pair(a, 0, (ParamNumber)k)->b))
                return false;
    return true;
}

static void put_target(void *ud, const LoraPart *p) {
    TargetJob *job = ud;
    if (p->up || (job->uniform && p->layer > 0)) return;
    json_out_str(job->j, NULL, job->uniform ? lora_short_name(&job->a->model, p->module) : p->module);
}

static void put_config(Str *text, const Adapter *a, bool scores) {
    JsonOut j;
    json_out_init(&j, text, 2);
    json_out_obj(&j, NULL);
    json_out_str(&j, "base_model_name_or_path", str_get(&a->base));
    json_out_str(&j, "bias", "none");
    json_out_bool(&j, "fan_in_fan_out", a->model.family == FAMILY_GPT2);
    json_out_bool(&j, "inference_mode", true);
    json_out_bool(&j, "init_lora_weights", true);
    if (a->cfg.alpha == floor(a->cfg.alpha))
        json_out_int(&j, "lora_alpha", (int64_t)a->cfg.alpha);
    else
        json_out_num(&j, "lora_alpha", a->cfg.alpha);
    json_out_num(&j, "lora_dropout", a->cfg.dropout);
    if (scores) {
        json_out_arr(&j, "modules_to_save");
        json_out_str(&j, NULL, "classifier");
        json_out_str(&j, NULL, "score");
        json_out_arr_end(&j);
    } else {
        json_out_str(&j, "modules_to_save", NULL);
    }
    json_out_str(&j, "peft_type", "LORA");
    json_out_int(&j, "r", a->cfg.r);
    json_out_arr(&j, "target_modules");
    TargetJob targets = {.a = a, .j = &j, .uniform = same_in_all_layers(a)};
    lora_visit(a, put_target, &targets);
    json_out_arr_end(&j);
    json_out_str(&j, "task_type", scores ? "SEQ_CLS" : "CAUSAL_LM");
    json_out_bool(&j, "use_dora", false);
    json_out_bool(&j, "use_rslora", a->cfg.rslora);
    json_out_obj_end(&j);
    str_putc(text, '\n');
}

bool adapter_save(Net n, const char *dir, Error *err) {
    const Adapter *a = n.adapter;
    CHECK(a, "a net without an adapter is saved as one");
    bool scores = n.head && n.head->kind == HEAD_SCORE;
    SaveJob job = {.be = a->be};
    lora_visit(a, save_part, &job);
    if (scores) {
        char name[PARAM_NAME_MAX];
        head_name(name);
        put_tensor(&job, name, n.head->w, 1);
        fill_part(&job, &job.out[job.n - 1], n.head->w, 0);
    }
    Str path = {0}, config = {0};
    join(&path, dir, "adapter_model.safetensors");
    bool ok = io_make_dirs(dir, err) && st_write(path.s, job.out, job.n, err);
    put_config(&config, a, scores);
    join(&path, dir, "adapter_config.json");
    ok = ok && io_write_file(path.s, config.s, config.n, err);
    str_release(&path);
    str_release(&config);
    heap_release(&job.heap);
    free(job.out);
    return ok;
}
