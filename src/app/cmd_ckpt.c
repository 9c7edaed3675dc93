/* dikast ckpt: the saved states of training: what is there, is it whole, another cut, a model folder of it. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/command.h"
#include "base/io.h"
#include "base/pool.h"
#include "nn/ckpt.h"
#include "nn/model.h"

static const Flag flags[] = {
    {"--shards", "N", "reshard: files of the new checkpoint (default 1)"},
    {"--dim", "rows|columns", "reshard: where tensors are cut (default rows)"},
    {"--net", "NAME", "export: of the nets in the state, as ls shows them (default: the only one, or policy)"},
    {"--tokenizer", "DIR", "export: a folder whose tokenizer files are copied along"},
    {0}};

/* -- which checkpoints: a folder step-*, a folder that holds some, or a stage's folder with state/ in it */

static bool is_step(const char *dir) {
    Str path = {0};
    str_printf(&path, "%s/manifest.json", dir);
    bool yes = io_exists(path.s);
    str_clear(&path);
    str_printf(&path, "%s/ledger.json", dir); /* a stage has a manifest.json of its own */
    yes = yes && !io_exists(path.s);
    const char *slash = strrchr(dir, '/');
    yes = yes || !strncmp(slash ? slash + 1 : dir, "step-", 5);
    str_release(&path);
    return yes;
}

typedef struct {
    char **dir;
    int n;
} Found;

static void found_release(Found *f) { io_free_list(f->dir, f->n); }

static bool find(Found *f, const char *given, Error *err) {
    Str state = {0};
    char **name = NULL;
    int n = 0;
    *f = (Found){0};
    str_put(&state, given);
    while (state.n > 1 && state.s[state.n - 1] == '/') state.s[--state.n] = 0;
    if (!io_is_dir(state.s)) {
        str_release(&state);
        return error_set(err, ERR_IO, "%s: no such folder", given);
    }
    if (is_step(state.s)) {
        f->dir = mem_alloc(sizeof *f->dir);
        f->dir[f->n++] = mem_str(state.s);
        str_release(&state);
        return true;
    }
    bool ok = ckpt_list(&name, &n, state.s, err);
    if (ok && n == 0) {
        io_free_list(name, n);
        str_put(&state, "/state");
        ok = ckpt_list(&name, &n, state.s, err);
    }
    f->dir = mem_alloc((size_t)(n + 1) * sizeof *f->dir);
    for (int i = 0; i < n; i++) {
        Str path = {0};
        str_printf(&path, "%s/%s", state.s, name[i]);
        f->dir[f->n++] = str_detach(&path);
    }
    if (ok) io_free_list(name, n);
    str_release(&state);
    if (ok && f->n == 0)
        ok = error_set(err, ERR_CONFIG,
                       "%s: holds no saved state (step-* in it or in its state/); those of finished "
                       "stages stay with ckpt.keep_every or ckpt.keep_best",
                       given);
    if (!ok) found_release(f);
    return ok;
}

/* -- ls, verify */

static int64_t bytes_of(const CkptManifest *m) {
    int64_t bytes = 0;
    for (int i = 0; i < m->n_file; i++) bytes += m->file[i].sums.bytes;
    return bytes;
}

static void say_one(JsonOut *j, const Args *a, const char *dir, const Ckpt *c, bool checked, const Error *why) {
    const CkptManifest *m = c ? ckpt_manifest(c) : NULL;
    const char *word = !c ? "damaged" : checked ? "whole" : ckpt_verified(c) ? "read back" : "written";
    if (!a->json) {
        if (m)
            printf("%s  step %" PRId64 "  %d files  %d tensors  %.1f MB  %s", dir, m->step, m->n_file, m->n_tensor,
                   (double)bytes_of(m) / 1e6, word);
        else
            printf("%s  %s: %s", dir, word, why->msg);
        for (int i = 0; m && i < json_len(m->section[CKPT_NETS]); i++) {
            const Json *net;
            printf("%s%s", i ? ", " : "  ", json_key_at(m->section[CKPT_NETS], i, &net));
        }
        printf("\n");
        return;
    }
    json_out_obj(j, NULL);
    json_out_str(j, "dir", dir);
    json_out_str(j, "state", word);
    json_out_str(j, "error", c ? NULL : why->msg);
    if (m) {
        json_out_int(j, "step", m->step);
        json_out_int(j, "parent", m->parent);
        json_out_str(j, "run", m->run);
        json_out_int(j, "files", m->n_file);
        json_out_int(j, "tensors", m->n_tensor);
        json_out_int(j, "bytes", bytes_of(m));
        for (int s = 0; s < CKPT_SECTIONS; s++)
            if (s != CKPT_NETS) json_out_node(j, ckpt_section_names[s], m->section[s]);
        json_out_arr(j, "nets");
        for (int i = 0; i < json_len(m->section[CKPT_NETS]); i++) {
            const Json *net;
            json_out_str(j, NULL, json_key_at(m->section[CKPT_NETS], i, &net));
        }
        json_out_arr_end(j);
    }
    json_out_obj_end(j);
}

/* Reads past the page cache: what the disk gives. */
static bool list(const Args *a, bool verify, Error *err) {
    Found f;
    Str text = {0};
    JsonOut j;
    Error first = {0};
    int bad = 0;
    if (!find(&f, a->arg[1], err)) return false;
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    json_out_arr(&j, "checkpoints");
    for (int i = 0; i < f.n; i++) {
        Ckpt *c = NULL;
        Error why = {0};
        if (!ckpt_open(&c, f.dir[i], &why) || (verify && !ckpt_check(c, true, &why))) {
            ckpt_close(c);
            c = NULL;
            if (bad++ == 0) first = why;
        }
        say_one(&j, a, f.dir[i], c, verify, &why);
        ckpt_close(c);
    }
    json_out_arr_end(&j);
    json_out_obj_end(&j);
    if (a->json) print_text(&text);
    str_release(&text);
    int n = f.n;
    found_release(&f);
    return !verify || bad == 0 || error_set(err, ERR_FORMAT, "%d of %d are damaged: %s", bad, n, first.msg);
}

/* -- reshard, export: of one checkpoint, the newest of those named */

static bool open_newest(Ckpt **c, const char *given, Error *err) {
    Found f;
    *c = NULL;
    if (!find(&f, given, err)) return false;
    bool ok = ckpt_open(c, f.dir[0], err) && ckpt_check(*c, false, err);
    found_release(&f);
    return ok;
}

static bool reshard(const Args *a, Ckpt *c, Error *err) {
    const char *dim = args_flag(a, &command_ckpt, "--dim");
    int64_t n;
    if (dim && strcmp(dim, "rows") && strcmp(dim, "columns"))
        return error_set(err, ERR_CONFIG, "--dim %s: expected rows or columns", dim);
    return args_int(a, &command_ckpt, "--shards", 1, 1, 10000, &n, err) &&
           ckpt_reshard(c, a->arg[2], (int)n, dim && strcmp(dim, "columns") == 0, err);
}

static bool pick_net(const char **name, const Json **net, const Args *a, const Ckpt *c, Error *err) {
    const Json *nets = ckpt_manifest(c)->section[CKPT_NETS];
    const char *given = args_flag(a, &command_ckpt, "--net");
    Str known = {0};
    *name = NULL;
    for (int i = 0; i < json_len(nets); i++) {
        const Json *v;
        const char *key = json_key_at(nets, i, &v);
        str_printf(&known, "%s%s", i ? ", " : "", key);
        if (given ? strcmp(key, given) == 0 : json_len(nets) == 1 || strcmp(key, "policy") == 0) *name = key, *net = v;
    }
    if (!*name)
        error_set(err, ERR_CONFIG, "--net %s: the state holds %s", given ? given : "is missing", str_get(&known));
    str_release(&known);
    return *name != NULL;
}

typedef struct {
    const char *net;
    Heap heap;
    CkptPiece *piece;
    int n;
} Pieces;

static void add_piece(void *ud, int index, const ParamInfo *p) {
    Pieces *job = ud;
    (void)index;
    job->piece = mem_grow(job->piece, (size_t)(job->n + 1) * sizeof *job->piece);
    job->piece[job->n++] =
        (CkptPiece){heap_printf(&job->heap, "%s.%s", job->net, p->name), CKPT_PARAM, p->w.rows, p->w.cols, 0, 0, p->w};
}

static bool write_net(Ckpt *c, Backend *be, const char *name, const Json *net, const char *out, Error *err) {
    Str text = {0};
    JsonOut j;
    ModelConfig cfg;
    Model m = {0};
    Head h = {0};
    Pieces p = {.net = name};
    const char *kind = json_str(json_get(net, "head"), NULL);
    int64_t outputs = json_int(json_get(net, "outputs"), 0);
    json_out_init(&j, &text, 0);
    json_out_node(&j, NULL, json_get(net, "config"));
    bool score = kind && strcmp(kind, "score") == 0;
    bool ok = model_config_parse(&cfg, str_get(&text), text.n, "nets", err) &&
              ((outputs > 0 && outputs < 1 << 24) || error_set(err, ERR_FORMAT, "net '%s' has no 'outputs'", name)) &&
              model_init(&m, be, &cfg, 0, false, err) &&
              head_init(&h, &m, score ? HEAD_SCORE : HEAD_LM, (int)outputs, 0, false, err);
    if (ok) {
        Net n = {&m, &h, NULL};
        net_visit(n, add_piece, &p);
        ok = ckpt_load(c, be, p.piece, p.n, false, err) && net_save(n, out, err);
    }
    heap_release(&p.heap);
    free(p.piece);
    head_release(&h);
    model_release(&m);
    str_release(&text);
    return ok;
}

/* The backend whose tensors are what was saved. */
static bool open_backend(Backend **be, Pool *pool, const Ckpt *c, const char *net, Error *err) {
    const CkptManifest *m = ckpt_manifest(c);
    bool wide = false, half = false;
    for (int i = 0; i < m->n_tensor; i++) {
        const CkptTensor *t = &m->tensor[i];
        if (t->kind != CKPT_PARAM || strncmp(t->name, net, strlen(net)) || t->name[strlen(net)] != '.') continue;
        wide = wide || t->dtype == DTYPE_F64, half = half || t->dtype == DTYPE_BF16;
    }
    return backend_open(be, wide ? "ref" : "cpu", pool, NULL, err) &&
           (!half || backend_set_dtype(*be, DTYPE_BF16, err));
}

static bool copy_tokenizer(const char *from, const char *out, Error *err) {
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                                        "chat_template.jinja", "generation_config.json"};
    Str a = {0}, b = {0};
    bool ok = true;
    for (int i = 0; i < COUNT_OF(names) && ok && from; i++) {
        str_clear(&a), str_clear(&b);
        str_printf(&a, "%s/%s", from, names[i]);
        str_printf(&b, "%s/%s", out, names[i]);
        if (i == 0 || io_exists(a.s)) ok = io_copy_file(a.s, b.s, err);
    }
    str_release(&a);
    str_release(&b);
    return ok;
}

static bool export_net(const Args *a, Ckpt *c, Error *err) {
    const char *name;
    const Json *net;
    Pool *pool = NULL;
    Backend *be = NULL;
    if (!pick_net(&name, &net, a, c, err)) return false;
    const Json *adapter = json_get(net, "adapter");
    if (adapter && json_kind(adapter) == JSON_OBJ)
        return error_set(err, ERR_CONFIG,
                         "net '%s' is an adapter over a model that lies elsewhere; let the stage finish, "
                         "then: dikast export --to lora",
                         name);
    bool ok = pool_open(&pool, 1, err) && open_backend(&be, pool, c, name, err) &&
              write_net(c, be, name, net, a->arg[2], err) &&
              copy_tokenizer(args_flag(a, &command_ckpt, "--tokenizer"), a->arg[2], err);
    backend_close(be);
    pool_close(pool);
    return ok;
}

static bool run(const Args *a, Error *err) {
    const char *verb = a->arg[0];
    bool two = a->n_arg == 2, to = !strcmp(verb, "reshard") || !strcmp(verb, "export");
    if (!to && strcmp(verb, "ls") && strcmp(verb, "verify"))
        return error_set(err, ERR_CONFIG, "ckpt %s: expected ls, verify, reshard or export", verb);
    if (to == two) return error_set(err, ERR_CONFIG, "usage: dikast ckpt %s DIR%s", verb, to ? " OUT" : "");
    if (!to) return list(a, !strcmp(verb, "verify"), err);
    Ckpt *c;
    bool ok =
        open_newest(&c, a->arg[1], err) && (!strcmp(verb, "reshard") ? reshard(a, c, err) : export_net(a, c, err));
    ckpt_close(c);
    return ok;
}

const Command command_ckpt = {
    .name = "ckpt",
    .usage = "ckpt ls|verify DIR | reshard|export DIR OUT [flags]",
    .help =
        "saved training states: list, verify, cut anew, export\n\n"
        "DIR is a checkpoint (step-*), a folder of some, or a stage's folder. ls reads manifests and sizes; verify "
        "reads "
        "every\nblock from the disk and ends with 3 when one is damaged. reshard writes the newest one to OUT in other "
        "files;\nexport writes one of its nets as a model folder.",
    .flag = flags,
    .min_arg = 2,
    .max_arg = 3,
    .run = run};
