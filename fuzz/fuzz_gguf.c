// layer: nn
/* gguf_parse on any bytes: a clean error that says where, or pairs and tensors that lie within the file, found by name;
 * then gguf_model_open: a clean error, or a model whose numbers can be read. */
#include <string.h>

#include "nn/gguf_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_pairs(const GgufFile *f, const uint8_t *data, size_t size) {
    for (int64_t i = 0; i < f->n_pair; i++) {
        const GgufPair *p = &f->pair[i];
        int64_t whole;
        double number;
        bool truth;
        GgufStr s;
        CHECK(p->value >= data && p->value <= data + size, "pair %d lies outside", (int)i);
        gguf_int(p, &whole);
        gguf_num(p, &number);
        gguf_bool(p, &truth);
        if (gguf_str(p, &s)) CHECK((const uint8_t *)s.s + s.n <= data + size, "string of pair %d", (int)i);
        if (p->type != GGUF_ARRAY) continue;
        const unsigned char *at = p->value;
        for (uint64_t k = 0; k < p->n; k++) {
            if (p->item != GGUF_STR) {
                gguf_item_int(p, k);
                continue;
            }
            s = gguf_next_str(&at);
            CHECK(at <= data + size && (const uint8_t *)s.s + s.n == at, "item of pair %d", (int)i);
        }
    }
}

static void check_tensors(const GgufFile *f, const uint8_t *data, size_t size) {
    unsigned sum = 0;
    for (int64_t i = 0; i < f->n_tensor; i++) {
        const GgufTensor *t = &f->tensor[i];
        char name[GGUF_MAX_NAME + 1];
        CHECK(t->data >= data && t->data + t->bytes <= data + size, "tensor %d lies outside", (int)i);
        for (size_t k = 0; k < t->bytes; k++) sum += t->data[k];
        memcpy(name, t->name.s, t->name.n);
        name[t->name.n] = 0;
        CHECK(strlen(name) != t->name.n || gguf_find_tensor(f, name) == t, "tensor %d is not found", (int)i);
    }
    CHECK(sum <= 255u * size * (unsigned)(f->n_tensor + 1), "sum %u", sum);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static Backend *be;
    Error err = {0};
    GgufFile f;
    Model m;
    Head h;
    CHECK(be || backend_open(&be, "ref", NULL, NULL, &err), "%s", err.msg);
    if (!gguf_parse(&f, data, size, "fuzz", &err)) {
        CHECK(err.code == ERR_FORMAT && strncmp(err.msg, "fuzz: ", 6) == 0, "error %d '%s'", err.code, err.msg);
        CHECK(f.pair == NULL && f.tensor == NULL && f.n_tensor == 0, "a refused file left %d tensors", (int)f.n_tensor);
        return 0;
    }
    check_pairs(&f, data, size);
    check_tensors(&f, data, size);
    if (gguf_model_open(&m, &h, be, &f, &err)) {
        CHECK(model_config_params(&m.cfg) <= (int64_t)size, "%d parameters of %zu bytes",
              (int)model_config_params(&m.cfg), size);
        head_release(&h);
        model_release(&m);
    } else {
        CHECK((err.code == ERR_FORMAT || err.code == ERR_CONFIG) && err.msg[0], "error %d '%s'", err.code, err.msg);
        CHECK(!m.w.block && !h.w.data, "a refused model left memory");
    }
    gguf_close(&f);
    return 0;
}
