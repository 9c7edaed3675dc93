/* nn/ckpt_commit.c — c2 to c12: from bytes in host memory to a checkpoint that was read back. Runs on the writer's
 * thread, or on the caller's; knows files only. Ranks meet through files: records (shard-i.json) before the commit,
 * marks (read-i) after the read-back. */
#include "nn/ckpt_int.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/crash.h"

typedef struct {
    const CkptConfig *c;
    const CkptCommit *s;
    Str tmp, step, path; /* tmp.step-N.aK, step-N; scratch */
    CkptManifest shard, all;
    uint32_t crc; /* of the manifest */
} Save;

static double patience(const CkptConfig *c) { return c->patience_s > 0 ? c->patience_s : 60; }

static const char *at(Save *v, const char *dir, const char *name) {
    ckpt_join(&v->path, dir, name);
    return v->path.s;
}

static void nap(void) { nanosleep(&(struct timespec){0, 5000000}, NULL); }

/* -- c2 to c5: this rank's file and its record */

static bool make_tmp(Save *v, Error *err) {
    if (!io_make_dirs(v->c->dir, err)) return false;
    /* Several ranks make it at once, so that it is there is fine. */
    if (mkdir(v->tmp.s, 0777) != 0 && errno != EEXIST) return error_errno(err, "make the folder", v->tmp.s);
    crash_point("ckpt.c2", v->c->rank, v->s->step);
    return true;
}

static void identify(const Save *v, CkptManifest *m) {
    m->run = v->c->run, m->attempt = v->c->attempt;
    m->step = v->s->step, m->parent = v->s->parent, m->world = v->c->n_ranks;
}

static bool write_shard(Save *v, Error *err) {
    char name[64];
    Str text = {0};
    ckpt_shard_name(name, v->c->rank, v->c->n_ranks);
    if (!ckpt_shard_write(&v->shard, at(v, v->tmp.s, name), v->s->part, v->s->n_part, v->s->fill, v->s->ud, v->c->rank,
                          v->s->step, err))
        return false;
    identify(v, &v->shard);
    bool ok = ckpt_manifest_put(&text, &(CkptPut){&v->shard, CKPT_RECORD, NULL, NAN}, err);
    snprintf(name, sizeof name, "shard-%05d.json", v->c->rank);
    ok = ok && io_write_file(at(v, v->tmp.s, name), text.s, text.n, err);
    str_release(&text);
    if (ok) crash_point("ckpt.c5", v->c->rank, v->s->step);
    return ok;
}

/* -- c6 to c10: rank 0 */

static bool size_is(Save *v, const CkptFile *f, Error *err) {
    int64_t bytes = io_size(at(v, v->tmp.s, f->name));
    return bytes == f->sums.bytes || error_set(err, ERR_STATE, "%s: has %" PRId64 " bytes, its record says %" PRId64,
                                               v->path.s, bytes, f->sums.bytes);
}

static bool take_record(Save *v, int rank, Error *err) {
    char name[64];
    Str text = {0};
    CkptManifest m;
    snprintf(name, sizeof name, "shard-%05d.json", rank);
    bool ok = io_read_file(&text, at(v, v->tmp.s, name), CKPT_MAX_MANIFEST, err) &&
              ckpt_record_parse(&m, text.s, text.n, v->path.s, err);
    if (ok) {
        bool own = m.step == v->s->step && m.world == v->c->n_ranks && m.n_file == 1;
        ok = !own || size_is(v, &m.file[0], err);
        if (own && ok)
            ckpt_manifest_merge(&v->all, &m);
        else if (!own)
            ok = error_set(err, ERR_STATE, "%s: of step %" PRId64 " and %d ranks, expected %" PRId64 " and %d",
                           v->path.s, m.step, m.world, v->s->step, v->c->n_ranks);
        ckpt_manifest_release(&m);
    }
    str_release(&text);
    return ok;
}

/* Waits for files that the other ranks write into dir; how long counts from the last one that came. */
static bool await_files(Save *v, const char *dir, const char *form, Error *err) {
    double since = now_s();
    char name[64];
    for (int rank = 0; rank < v->c->n_ranks;) {
        snprintf(name, sizeof name, form, rank);
        if (rank == v->c->rank || io_exists(at(v, dir, name))) {
            rank++, since = now_s();
            continue;
        }
        if (now_s() - since > patience(v->c))
            return error_set(err, ERR_STATE, "rank %d did not write %s within %g s", rank, v->path.s, patience(v->c));
        nap();
    }
    return true;
}

/* Is every tensor stored once, from one end to the other? */
static bool all_there(const CkptManifest *m, Error *err) {
    for (int i = 0; i < m->n_tensor; i++) {
        const CkptTensor *t = &m->tensor[i];
        Box whole, *have = mem_alloc((size_t)t->n_box * sizeof *have);
        ReshardCopy *plan;
        int n;
        for (int b = 0; b < t->n_box; b++) have[b] = t->box[b].box;
        box_cut(&whole, t->shape, t->n_dim, 0, 0, 1);
        bool ok = reshard_plan(&plan, &n, &whole, have, t->n_box, err);
        free(plan);
        free(have);
        if (!ok) return error_wrap(err, "tensor '%s' (%s)", t->name, ckpt_kind_names[t->kind]);
    }
    return true;
}

static bool write_manifest(Save *v, Error *err) {
    Str text = {0};
    char name[64];
    CkptManifest back;
    bool ok = true;
    if (v->c->n_ranks == 1)
        ckpt_manifest_merge(&v->all, &v->shard);
    else
        ok = await_files(v, v->tmp.s, "shard-%05d.json", err);
    for (int r = 0; r < v->c->n_ranks && ok && v->c->n_ranks > 1; r++) ok = take_record(v, r, err);
    if (ok) ckpt_manifest_sort(&v->all);
    identify(v, &v->all);
    ok = ok && all_there(&v->all, err) &&
         ckpt_manifest_put(&text, &(CkptPut){&v->all, CKPT_FORMAT, v->s->section, v->s->metric}, err) &&
         ckpt_manifest_parse(&back, text.s, text.n, "the new manifest", err); /* no reader will refuse it */
    if (ok) {
        v->crc = back.crc;
        ckpt_manifest_release(&back);
        ok = io_write_file(at(v, v->tmp.s, "manifest.json"), text.s, text.n, err);
    }
    str_release(&text);
    if (ok) crash_point("ckpt.c6", 0, v->s->step);
    for (int r = 0; r < v->c->n_ranks && ok; r++) { /* what they said is in the manifest */
        snprintf(name, sizeof name, "shard-%05d.json", r);
        ok = io_remove_tree(at(v, v->tmp.s, name), err);
    }
    return ok;
}

static bool publish(Save *v, Error *err) {
    char name[33];
    if (!io_sync(v->tmp.s, err)) return false;
    crash_point("ckpt.c7", 0, v->s->step);
    if (!io_rename_new(v->tmp.s, v->step.s, err)) return false;
    crash_point("ckpt.c8", 0, v->s->step);
    if (!io_sync(v->c->dir, err)) return false;
    crash_point("ckpt.c9", 0, v->s->step);
    ckpt_step_name(name, v->s->step);
    strcat(name, "\n");
    Error hint; /* nobody needs LATEST */
    if (!io_write_file(at(v, v->c->dir, "LATEST"), name, strlen(name), &hint))
        log_event(v->c->log, "ckpt_latest", "%s", hint.msg);
    crash_point("ckpt.c10", 0, v->s->step);
    return true;
}

/* -- c11 */

/* The other ranks learn from the folder that the checkpoint is there. */
static bool await_step(Save *v, Error *err) {
    double since = now_s();
    while (!io_exists(at(v, v->step.s, "manifest.json"))) {
        if (now_s() - since > patience(v->c) * 2)
            return error_set(err, ERR_STATE, "rank 0 did not finish %s", v->step.s);
        nap();
    }
    return true;
}

static bool read_back(Save *v, Error *err) {
    char name[64];
    snprintf(name, sizeof name, "read-%05d", v->c->rank);
    if (!crcfile_check(at(v, v->step.s, v->shard.file[0].name), &v->shard.file[0].sums, true, err)) return false;
    if (v->c->rank > 0) return io_write_file(at(v, v->step.s, name), "", 0, err);
    if (v->c->n_ranks > 1 && !await_files(v, v->step.s, "read-%05d", err)) return false;
    char crc[16];
    snprintf(crc, sizeof crc, "%08" PRIx32 "\n", v->crc);
    if (!io_write_file(at(v, v->step.s, "VERIFIED"), crc, strlen(crc), err)) return false;
    for (int r = 1; r < v->c->n_ranks; r++) {
        Error ignore;
        snprintf(name, sizeof name, "read-%05d", r);
        io_remove_tree(at(v, v->step.s, name), &ignore);
    }
    crash_point("ckpt.c11", 0, v->s->step);
    return true;
}

/* What was written is not what is there: it must not be taken for the newest. */
static bool verify(Save *v, Error *err) {
    if (read_back(v, err)) return true;
    char name[32];
    ckpt_step_name(name, v->s->step);
    if (v->c->rank == 0 && err->code == ERR_FORMAT) ckpt_set_aside(v->c->dir, name, err->msg, v->c->log);
    return error_wrap(err, "reading back");
}

bool ckpt_commit(const CkptConfig *c, const CkptCommit *s, int64_t *bytes, Error *err) {
    Save v = {.c = c, .s = s};
    char name[32];
    ckpt_step_name(name, s->step);
    str_printf(&v.step, "%s/%s", c->dir, name);
    str_printf(&v.tmp, "%s/tmp.%s.a%d", c->dir, name, c->attempt);
    bool ok = make_tmp(&v, err) && write_shard(&v, err);
    ok = ok && (!s->first || appender_sync(s->first, err));
    ok = ok && (c->rank > 0 ? await_step(&v, err) : write_manifest(&v, err) && publish(&v, err));
    *bytes = 0;
    for (int i = 0; i < v.shard.n_file; i++) *bytes += v.shard.file[i].sums.bytes;
    Error ignore;
    if (!ok && c->rank == 0) io_remove_tree(v.tmp.s, &ignore); /* of a full disk, too */
    ok = ok && verify(&v, err);
    if (ok && c->rank == 0) ckpt_retain(c);
    ckpt_manifest_release(&v.shard);
    ckpt_manifest_release(&v.all);
    str_release(&v.step);
    str_release(&v.tmp);
    str_release(&v.path);
    return ok;
}
