/* nn/ckpt_shard.c — one rank's file: a safetensors file that any reader opens, whose metadata say which box each entry
 * is. */
#include "nn/ckpt_int.h"

#include <stdlib.h>
#include <string.h>

#include "base/crash.h"

static int64_t part_bytes(const CkptPart *p) { return box_volume(&p->box) * (int64_t)dtype_bytes(p->dtype); }

static void put_list(Str *out, const int64_t *v, int n) {
    for (int d = 0; d < n; d++) str_printf(out, "%s%lld", d ? "," : "", (long long)v[d]);
}

typedef struct {
    Heap heap;
    StOut *out;
    const char *(*meta)[2];
    int *order;
    Str head;
} Layout;

static void layout_release(Layout *l) {
    heap_release(&l->heap);
    str_release(&l->head);
    free(l->out);
    free(l->meta);
    free(l->order);
}

static bool same_tensor(const CkptPart *a, const CkptPart *b) {
    return a->kind == b->kind && !strcmp(a->name, b->name);
}

static int by_tensor(const void *a, const void *b) {
    const CkptPart *x = *(const CkptPart *const *)a, *y = *(const CkptPart *const *)b;
    if (x->kind != y->kind) return x->kind < y->kind ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Keys are kind/name; with "@o0,o1" behind it where the file holds several boxes of a tensor. */
static void layout_names(Layout *l, const CkptPart *part, int n) {
    const CkptPart **sorted = mem_alloc((size_t)(n + 1) * sizeof *sorted);
    for (int i = 0; i < n; i++) sorted[i] = &part[i];
    if (n) qsort(sorted, (size_t)n, sizeof *sorted, by_tensor);
    for (int i = 0; i < n; i++) {
        const CkptPart *p = sorted[i];
        bool several = (i > 0 && same_tensor(sorted[i - 1], p)) || (i + 1 < n && same_tensor(p, sorted[i + 1]));
        Str key = {0}, box = {0};
        str_printf(&key, "%s/%s", ckpt_kind_names[p->kind], p->name);
        if (several) str_putc(&key, '@'), put_list(&key, p->box.at, p->n_dim);
        str_put(&box, "offset "), put_list(&box, p->box.at, p->n_dim);
        str_put(&box, " of "), put_list(&box, p->shape, p->n_dim);
        int at = (int)(p - part);
        l->out[at].name = heap_strn(&l->heap, key.s, key.n);
        l->meta[i][0] = l->out[at].name;
        l->meta[i][1] = heap_strn(&l->heap, box.s, box.n);
        str_release(&key);
        str_release(&box);
    }
    free(sorted);
}

static void layout_init(Layout *l, const CkptPart *part, int n) {
    *l = (Layout){.out = mem_alloc((size_t)(n + 1) * sizeof *l->out),
                  .meta = mem_alloc((size_t)(n + 1) * sizeof *l->meta),
                  .order = mem_alloc((size_t)(n + 1) * sizeof *l->order)};
    for (int i = 0; i < n; i++) {
        StOut *o = &l->out[i];
        *o = (StOut){.dtype = dtype_name(part[i].dtype), .n_dim = part[i].n_dim, .bytes = (size_t)part_bytes(&part[i])};
        for (int d = 0; d < o->n_dim; d++) o->dim[d] = part[i].box.len[d];
    }
    layout_names(l, part, n);
    st_head(&l->head, l->order, l->out, n, (const char *const(*)[2])l->meta, n);
}

static bool put_parts(CrcWriter *w, const Layout *l, const CkptPart *part, int n, CkptFill *fill, void *ud,
                      Error *err) {
    int64_t most = 1;
    for (int i = 0; i < n; i++)
        if (part_bytes(&part[i]) > most) most = part_bytes(&part[i]);
    void *buf = malloc((size_t)most);
    if (!buf) return error_set(err, ERR_MEMORY, "no memory for a piece of %lld bytes", (long long)most);
    bool ok = crcfile_put(w, l->head.s, l->head.n, err);
    for (int i = 0; i < n && ok; i++)
        ok = fill(ud, l->order[i], buf, err) && crcfile_put(w, buf, (size_t)part_bytes(&part[l->order[i]]), err);
    free(buf);
    return ok;
}

static void describe(CkptManifest *m, const char *path, CrcSums *sums, const Layout *l, const CkptPart *part, int n) {
    CkptManifest one = {.n_file = 1, .n_tensor = n};
    const char *slash = strrchr(path, '/');
    CkptFile file = {slash ? slash + 1 : path, *sums};
    CkptBox *box = mem_alloc((size_t)(n + 1) * sizeof *box);
    one.file = &file;
    one.tensor = mem_alloc((size_t)(n + 1) * sizeof *one.tensor);
    int64_t at = (int64_t)l->head.n;
    for (int k = 0; k < n; k++) {
        const CkptPart *p = &part[l->order[k]];
        CkptTensor *t = &one.tensor[k];
        box[k] = (CkptBox){.box = p->box, .at = at, .bytes = part_bytes(p)};
        *t = (CkptTensor){
            .name = p->name, .kind = p->kind, .dtype = p->dtype, .n_dim = p->n_dim, .box = &box[k], .n_box = 1};
        memcpy(t->shape, p->shape, sizeof t->shape);
        at += box[k].bytes;
    }
    ckpt_manifest_merge(m, &one);
    ckpt_manifest_sort(m);
    free(one.tensor);
    free(box);
}

bool ckpt_shard_write(CkptManifest *m, const char *path, const CkptPart *part, int n, CkptFill *fill, void *ud,
                      int rank, int64_t step, Error *err) {
    Layout l;
    CrcSums sums = {0};
    layout_init(&l, part, n);
    bool ok = false;
    for (int attempt = 0; attempt < 2 && !ok; attempt++) {
        CrcWriter *w;
        ok = crcfile_create(&w, path, err);
        if (!ok) break;
        ok = put_parts(w, &l, part, n, fill, ud, err) && crcfile_flush(w, err);
        crash_point("ckpt.c3", rank, step);
        if (!ok) {
            crcfile_abandon(w);
            break;
        }
        /* Once more after a failed sync, into a new file; what could not be written at all is not tried again. */
        ok = crcfile_finish(w, &sums, err);
    }
    if (ok) {
        crash_point("ckpt.c4", rank, step);
        describe(m, path, &sums, &l, part, n);
    }
    crc_sums_release(&sums);
    layout_release(&l);
    return ok;
}
