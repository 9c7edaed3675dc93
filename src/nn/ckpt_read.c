/* nn/ckpt_read.c — opening, checking and loading. Nothing that is read is used before its block's sum was right. */
#include "nn/ckpt_int.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct Ckpt {
    Str dir;
    CkptManifest m;
    bool verified;
    CrcReader **file; /* (n_file) opened when needed */
};

const CkptManifest *ckpt_manifest(const Ckpt *c) { return &c->m; }
const char *ckpt_dir(const Ckpt *c) { return c->dir.s; }
bool ckpt_verified(const Ckpt *c) { return c->verified; }

void ckpt_close(Ckpt *c) {
    if (!c) return;
    for (int i = 0; i < c->m.n_file && c->file; i++) crcfile_close(c->file[i]);
    free(c->file);
    ckpt_manifest_release(&c->m);
    str_release(&c->dir);
    free(c);
}

/* VERIFIED is not needed, but a wrong one says that something happened to the folder. */
static bool read_verified(Ckpt *c, Str *path, Error *err) {
    Str text = {0};
    char want[16];
    ckpt_join(path, c->dir.s, "VERIFIED");
    if (!io_exists(path->s)) return true;
    snprintf(want, sizeof want, "%08" PRIx32 "\n", c->m.crc);
    bool ok = io_read_file(&text, path->s, 64, err);
    if (ok && (text.n != strlen(want) || memcmp(text.s, want, text.n) != 0))
        ok = error_set(err, ERR_FORMAT, "%s: is not of this manifest.json", path->s);
    c->verified = ok;
    str_release(&text);
    return ok;
}

static bool read_manifest(Ckpt *c, Str *path, Error *err) {
    Str text = {0};
    ckpt_join(path, c->dir.s, "manifest.json");
    if (!io_exists(path->s)) return error_set(err, ERR_FORMAT, "%s: is missing", path->s);
    bool ok = io_read_file(&text, path->s, CKPT_MAX_MANIFEST, err) &&
              ckpt_manifest_parse(&c->m, text.s, text.n, path->s, err);
    str_release(&text);
    return ok;
}

static bool check_sizes(Ckpt *c, Str *path, Error *err) {
    for (int i = 0; i < c->m.n_file; i++) {
        const CkptFile *f = &c->m.file[i];
        ckpt_join(path, c->dir.s, f->name);
        int64_t bytes = io_size(path->s);
        if (bytes < 0) return error_set(err, ERR_FORMAT, "%s: is missing", path->s);
        if (bytes != f->sums.bytes)
            return error_set(err, ERR_FORMAT, "%s: has %" PRId64 " bytes, expected %" PRId64, path->s, bytes,
                             f->sums.bytes);
    }
    return true;
}

bool ckpt_open(Ckpt **out, const char *dir, Error *err) {
    Str path = {0};
    Ckpt *c = mem_alloc(sizeof *c);
    str_put(&c->dir, dir);
    bool ok = read_manifest(c, &path, err) && read_verified(c, &path, err) && check_sizes(c, &path, err);
    str_release(&path);
    *out = NULL;
    if (!ok) {
        ckpt_close(c);
        return false;
    }
    c->file = mem_alloc((size_t)(c->m.n_file + 1) * sizeof *c->file);
    *out = c;
    return true;
}

bool ckpt_check(const Ckpt *c, bool past_cache, Error *err) {
    Str path = {0};
    bool ok = true;
    for (int i = 0; i < c->m.n_file && ok; i++) {
        ckpt_join(&path, c->dir.s, c->m.file[i].name);
        ok = crcfile_check(path.s, &c->m.file[i].sums, past_cache, err);
    }
    str_release(&path);
    return ok;
}

/* -- boxes */

static bool file_at(Ckpt *c, int i, Error *err) {
    if (c->file[i]) return true;
    Str path = {0};
    ckpt_join(&path, c->dir.s, c->m.file[i].name);
    bool ok = crcfile_open(&c->file[i], path.s, &c->m.file[i].sums, err);
    str_release(&path);
    return ok;
}

typedef struct {
    CrcReader *file;
    int64_t at;
    size_t size;
    unsigned char *out;
    Error *err;
} RunJob;

static bool read_run(void *ud, int64_t from, int64_t to, int64_t n) {
    RunJob *job = ud;
    int64_t size = (int64_t)job->size;
    return crcfile_read(job->file, job->out + to * size, job->at + from * size, n * size, job->err);
}

bool ckpt_read_box(Ckpt *c, const CkptTensor *t, const Box *want, void *out, Error *err) {
    Box *have = mem_alloc((size_t)t->n_box * sizeof *have);
    ReshardCopy *plan;
    int n;
    for (int b = 0; b < t->n_box; b++) have[b] = t->box[b].box;
    bool ok = reshard_plan(&plan, &n, want, have, t->n_box, err);
    for (int i = 0; i < n && ok; i++) {
        const CkptBox *b = &t->box[plan[i].have];
        RunJob job = {.at = b->at, .size = dtype_bytes(t->dtype), .out = out, .err = err};
        ok = file_at(c, b->file, err);
        job.file = c->file[b->file];
        ok = ok && reshard_runs(&plan[i], read_run, &job);
    }
    free(plan);
    free(have);
    return ok || error_wrap(err, "tensor '%s' (%s)", t->name, ckpt_kind_names[t->kind]);
}

/* -- loading */

typedef struct {
    const CkptPiece *piece;
    const CkptTensor *t;
    int file; /* where its first box lies: pieces are read in the order of the files */
    int64_t at;
} Wanted;

static int by_file(const void *a, const void *b) {
    const Wanted *x = a, *y = b;
    if (x->file != y->file) return x->file - y->file;
    return (x->at > y->at) - (x->at < y->at);
}

static bool match(Wanted *w, const CkptManifest *m, const CkptPiece *p, Error *err) {
    const CkptTensor *t = ckpt_manifest_find(m, p->kind, p->name);
    if (!t) return error_set(err, ERR_STATE, "tensor '%s' (%s) is missing", p->name, ckpt_kind_names[p->kind]);
    if (t->n_dim != 2 || t->shape[0] != p->rows || t->shape[1] != p->cols || t->dtype != p->t.dtype)
        return error_set(err, ERR_STATE,
                         "tensor '%s' (%s) is %s of %" PRId64 " x %" PRId64 ", expected %s of %" PRId64 " x %" PRId64,
                         p->name, ckpt_kind_names[p->kind], dtype_name(t->dtype), t->shape[0],
                         t->n_dim > 1 ? t->shape[1] : 1, dtype_name(p->t.dtype), p->rows, p->cols);
    *w = (Wanted){p, t, t->box[0].file, t->box[0].at};
    return true;
}

static bool store(Ckpt *c, Backend *be, const Wanted *w, Error *err) {
    const CkptPiece *p = w->piece;
    Box want = {2, {p->row, p->col}, {p->t.rows, p->t.cols}};
    void *host = mem_alloc((size_t)tensor_count(p->t) * dtype_bytes(p->t.dtype));
    bool ok = ckpt_read_box(c, w->t, &want, host, err);
    if (ok) tensor_set_rows(be, p->t, host);
    free(host);
    return ok;
}

/* Tensors that pieces name; several pieces may be of one. */
static int count_named(const CkptManifest *m, const Wanted *w, int n) {
    bool *named = mem_alloc((size_t)(m->n_tensor + 1) * sizeof *named);
    int count = 0;
    for (int i = 0; i < n; i++) named[w[i].t - m->tensor] = true;
    for (int i = 0; i < m->n_tensor; i++) count += named[i];
    free(named);
    return count;
}

bool ckpt_load(Ckpt *c, Backend *be, const CkptPiece *piece, int n, bool exact, Error *err) {
    Wanted *w = mem_alloc((size_t)(n + 1) * sizeof *w);
    bool ok = true;
    for (int i = 0; i < n && ok; i++) ok = match(&w[i], &c->m, &piece[i], err);
    int named = ok && exact ? count_named(&c->m, w, n) : 0;
    if (ok && exact && named != c->m.n_tensor)
        ok = error_set(err, ERR_STATE, "holds %d tensors, %d are expected: the state of another net", c->m.n_tensor,
                       named);
    if (n) qsort(w, (size_t)n, sizeof *w, by_file);
    for (int i = 0; i < n && ok; i++) ok = store(c, be, &w[i], err);
    free(w);
    return ok || error_wrap(err, "%s", c->dir.s);
}

/* -- which one */

static bool usable(Ckpt **out, const char *dir, const char *run, Error *err) {
    if (!ckpt_open(out, dir, err)) return false;
    bool ok = true;
    if (run && strcmp(run, (*out)->m.run) != 0)
        ok = error_set(err, ERR_FORMAT, "%s: belongs to run '%.80s', not to '%.80s'", dir, (*out)->m.run, run);
    int64_t step;
    const char *slash = strrchr(dir, '/');
    if (ok && (!ckpt_step_number(&step, slash ? slash + 1 : dir) || step != (*out)->m.step))
        ok = error_set(err, ERR_FORMAT, "%s: holds step %" PRId64, dir, (*out)->m.step);
    ok = ok && ckpt_check(*out, false, err);
    if (!ok) {
        ckpt_close(*out);
        *out = NULL;
    }
    return ok;
}

bool ckpt_newest(Ckpt **out, const char *state_dir, const char *run, Log *log, Error *err) {
    char **name;
    int n;
    *out = NULL;
    if (!ckpt_list(&name, &n, state_dir, err)) return false;
    Str path = {0};
    bool ok = true;
    for (int i = 0; i < n && ok && !*out; i++) {
        Error why = {0};
        ckpt_join(&path, state_dir, name[i]);
        if (usable(out, path.s, run, &why)) break;
        if (why.code == ERR_MEMORY) {
            *err = why;
            ok = false;
        } else {
            ckpt_set_aside(state_dir, name[i], why.msg, log);
        }
    }
    io_free_list(name, n);
    str_release(&path);
    return ok;
}
