// layer: nn
/* A checkpoint's manifest from anywhere: the first byte says whether the text comes as it is or with its right sum put
 * behind it (else no input would get past the sum). A clean error, or a manifest whose every box lies in its tensor and
 * in its file; what reading such boxes would touch is then known to be there. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "nn/ckpt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const CkptManifest *m) {
    for (int i = 0; i < m->n_file; i++) {
        CHECK(m->file[i].sums.n == crcfile_count(m->file[i].sums.bytes), "file %d has %lld sums", i,
              (long long)m->file[i].sums.n);
        CHECK(!strchr(m->file[i].name, '/'), "file '%s' lies elsewhere", m->file[i].name);
    }
    for (int i = 0; i < m->n_tensor; i++) {
        const CkptTensor *t = &m->tensor[i];
        CHECK(ckpt_manifest_find(m, t->kind, t->name) == t, "tensor '%s' is not found", t->name);
        Box *have = mem_alloc((size_t)t->n_box * sizeof *have), whole;
        for (int b = 0; b < t->n_box; b++) {
            const CkptBox *x = &t->box[b];
            have[b] = x->box;
            CHECK(box_inside(&x->box, t->shape), "box %d of '%s'", b, t->name);
            CHECK(x->bytes == box_volume(&x->box) * (int64_t)dtype_bytes(t->dtype), "bytes of box %d", b);
            CHECK(x->file < m->n_file && x->at + x->bytes <= m->file[x->file].sums.bytes, "box %d out of its file", b);
        }
        ReshardCopy *plan;
        int n;
        Error err = {0};
        CHECK(box_cut(&whole, t->shape, t->n_dim, 0, 0, 1), "an empty tensor");
        bool ok = reshard_plan(&plan, &n, &whole, have, t->n_box, &err);
        CHECK(ok || err.code == ERR_FORMAT, "error %d '%s'", err.code, err.msg);
        free(plan);
        free(have);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Error err = {0};
    CkptManifest m;
    Str text = {0};
    if (size < 1) return 0;
    str_putn(&text, data + 1, size - 1);
    if (data[0] & 1 && text.n > 0) { /* "}" and perhaps a newline make room for the tail */
        while (text.n > 1 && (text.s[text.n - 1] == '\n' || text.s[text.n - 1] == '}')) text.n--;
        str_printf(&text, ",\"self\":\"%08" PRIx32 "\"}\n", crc32c(0, text.s, text.n));
    }
    if (ckpt_manifest_parse(&m, str_get(&text), text.n, "fuzz", &err)) {
        check(&m);
        ckpt_manifest_release(&m);
    } else {
        CHECK(err.code == ERR_FORMAT && strncmp(err.msg, "fuzz", 4) == 0, "error %d '%s'", err.code, err.msg);
        CHECK(m.tensor == NULL && m.file == NULL && m.impl == NULL, "a refused manifest left something");
    }
    str_release(&text);
    return 0;
}
