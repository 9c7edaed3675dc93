/* nn/ckpt_reshard.c — the same state in another cut, from folder to folder. */
#include "nn/ckpt_int.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    Ckpt *from;
    const CkptTensor **of; /* (n) the tensor each part is of */
    const CkptPart *part;
} Cut;

static bool fill(void *ud, int part, void *out, Error *err) {
    Cut *cut = ud;
    return ckpt_read_box(cut->from, cut->of[part], &cut->part[part].box, out, err);
}

static bool write_shards(Ckpt *c, CkptManifest *all, const char *out, int n, int dim, Error *err) {
    const CkptManifest *m = ckpt_manifest(c);
    CkptPart *part = mem_alloc((size_t)(m->n_tensor + 1) * sizeof *part);
    Cut cut = {c, mem_alloc((size_t)(m->n_tensor + 1) * sizeof *cut.of), part};
    bool ok = true;
    for (int i = 0; i < n && ok; i++) {
        int n_part = 0;
        char name[64];
        Str path = {0};
        CkptManifest shard = {0};
        for (int k = 0; k < m->n_tensor; k++) {
            const CkptTensor *t = &m->tensor[k];
            CkptPart *p = &part[n_part];
            *p = (CkptPart){.name = t->name, .kind = t->kind, .dtype = t->dtype, .n_dim = t->n_dim};
            memcpy(p->shape, t->shape, sizeof p->shape);
            if (!box_cut(&p->box, t->shape, t->n_dim, dim < t->n_dim ? dim : 0, i, n)) continue;
            cut.of[n_part++] = t;
        }
        ckpt_shard_name(name, i, n);
        ckpt_join(&path, out, name);
        ok = ckpt_shard_write(&shard, path.s, part, n_part, fill, &cut, i, m->step, err);
        if (ok) ckpt_manifest_merge(all, &shard);
        ckpt_manifest_release(&shard);
        str_release(&path);
    }
    free(cut.of);
    free(part);
    return ok;
}

bool ckpt_reshard(Ckpt *c, const char *out, int n, int dim, Error *err) {
    const CkptManifest *m = ckpt_manifest(c);
    CkptManifest all = {0};
    Str path = {0}, text = {0};
    if (io_exists(out)) return error_set(err, ERR_CONFIG, "%s: is there already; name a folder that is not", out);
    bool ok = io_make_dirs(out, err) && write_shards(c, &all, out, n, dim, err);
    ckpt_manifest_sort(&all);
    all.run = m->run, all.attempt = m->attempt, all.step = m->step, all.parent = m->parent, all.world = n;
    /* The layout is of the old cut: the new one is only files. */
    for (int s = 0; s < CKPT_SECTIONS; s++) all.section[s] = s == CKPT_LAYOUT ? NULL : m->section[s];
    ckpt_join(&path, out, "manifest.json");
    ok = ok && ckpt_manifest_put(&text, &(CkptPut){&all, CKPT_FORMAT, NULL, ckpt_manifest_metric(m)}, err) &&
         io_write_file(path.s, text.s, text.n, err) && io_sync_tree(out, err);
    ckpt_manifest_release(&all);
    str_release(&path);
    str_release(&text);
    return ok;
}
