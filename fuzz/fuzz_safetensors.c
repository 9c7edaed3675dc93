// layer: nn
/* st_parse on any bytes: a clean error that says where, or tensors that tile the bytes after the header, each of the
 * size its shape asks for, which st_find finds by name. */
#include <string.h>

#include "nn/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Error err = {0};
    StFile f;
    if (!st_parse(&f, data, size, "fuzz", &err)) {
        CHECK(err.code == ERR_FORMAT && strncmp(err.msg, "fuzz", 4) == 0, "error %d '%s'", err.code, err.msg);
        CHECK(f.entry == NULL && f.n == 0 && f.impl == NULL, "a refused file left %d tensors", f.n);
        return 0;
    }
    const unsigned char *end = data + size;
    for (int i = f.n; i-- > 0;) {
        const StEntry *e = &f.entry[i];
        CHECK(e->data + e->bytes == end, "tensor '%s' does not end where the next begins", e->name);
        end = e->data;
        CHECK(st_find(&f, e->name) == e, "tensor '%s' is not found", e->name);
        int64_t count = 1;
        for (int d = 0; d < e->n_dim; d++) count *= e->dim[d];
        if (strcmp(e->dtype, "F32") == 0)
            CHECK((uint64_t)count * 4 == e->bytes, "tensor '%s' of %zu bytes", e->name, e->bytes);
        unsigned sum = 0;
        for (size_t k = 0; k < e->bytes; k++) sum += e->data[k]; /* the bytes are there */
        CHECK(sum <= 255u * e->bytes, "sum %u", sum);
    }
    CHECK(end >= data + 8, "tensors reach into the header");
    st_close(&f);
    return 0;
}
