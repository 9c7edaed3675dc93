// layer: nn
/* A real model: the 260k-parameter TinyStories Llama in llama2.c's format, decoded greedily through the KV cache, must
 * tell the story llama2.c tells, to the byte. Needs stories260K.bin, tok512.bin and the expected text in weights/ of
 * the data folder (DIKAST_DATA, else ../shared/data/quickstart beside the source tree); skipped without. */
#include "nn_help.h"

#include "base/io.h"

enum { STEPS = 200, BOS = 1 };

static const char *data_dir(void) {
    const char *dir = getenv("DIKAST_DATA");
    return dir && *dir ? dir : TEST_DIR "/../../shared/data/quickstart";
}

static const char *const weights_files[] = {"stories260K.bin", "tok512.bin", "stories260K_expected_greedy200.txt"};

static void weights_path(char out[1024], const char *name) { snprintf(out, 1024, "%s/weights/%s", data_dir(), name); }

static void read_weights_file(Str *out, const char *name) {
    char path[1024];
    Error err = {0};
    weights_path(path, name);
    OK(io_read_file(out, path, 1 << 24, &err));
}

/* -- llama2.c's model file: seven int32, then F32 tensors, each kind for all layers at once
 * ------------------------------ */

typedef struct {
    Backend *be;
    const float *at, *end;
} Reader;

static const float *take(Reader *r, int64_t n) {
    const float *p = r->at;
    assert_true(r->end - p >= n);
    r->at += n;
    return p;
}

static void load(Reader *r, Tensor w) { tensor_set_f32(r->be, w, take(r, tensor_count(w))); }

/* llama2.c turns neighbours (2i, 2i+1), we turn halves (i, i + D/2): the rows of each head are reordered. */
static void load_rotated(Reader *r, Tensor w, int d_head) {
    const float *p = take(r, tensor_count(w));
    double *one = mem_alloc((size_t)w.cols * sizeof *one);
    for (int64_t row = 0; row < w.rows; row++) {
        int64_t head = row / d_head, j = row % d_head, half = d_head / 2;
        int64_t from = head * d_head + (j < half ? 2 * j : 2 * (j - half) + 1);
        for (int64_t i = 0; i < w.cols; i++) one[i] = p[from * w.cols + i];
        tensor_set_row(r->be, w, row, one);
    }
    free(one);
}

static void load_model(Model *m, Backend *be, const Str *file) {
    int32_t h[7];
    Error err = {0};
    assert_true(file->n > sizeof h && (file->n - sizeof h) % sizeof(float) == 0);
    memcpy(h, file->s, sizeof h);
    ModelConfig c = {.family = FAMILY_LLAMA,
                     .d_model = h[0],
                     .d_ff = h[1],
                     .n_layer = h[2],
                     .n_head = h[3],
                     .n_kv_head = h[4],
                     .d_head = h[0] / h[3],
                     .n_vocab = h[5],
                     .max_seq = h[6],
                     .norm = NORM_RMS,
                     .pos = POS_ROPE,
                     .mlp = MLP_SWIGLU,
                     .tied = true,
                     .rope_theta = 10000,
                     .norm_eps = 1e-5,
                     .eos_id = 2};
    OK(model_init(m, be, &c, 0, false, &err));
    size_t n = (file->n - sizeof h) / sizeof(float);
    float *values = mem_alloc(n * sizeof *values);
    memcpy(values, file->s + sizeof h, n * sizeof *values);
    Reader r = {be, values, values + n};
    BlockParams *b = m->w.block;
    load(&r, m->w.wte);
    for (int l = 0; l < c.n_layer; l++) load(&r, b[l].attn_norm);
    for (int l = 0; l < c.n_layer; l++) load_rotated(&r, b[l].wq, c.d_head);
    for (int l = 0; l < c.n_layer; l++) load_rotated(&r, b[l].wk, c.d_head);
    for (int l = 0; l < c.n_layer; l++) load(&r, b[l].wv);
    for (int l = 0; l < c.n_layer; l++) load(&r, b[l].wo);
    for (int l = 0; l < c.n_layer; l++) load(&r, b[l].mlp_norm);
    for (int l = 0; l < c.n_layer; l++) load(&r, b[l].w_gate);
    for (int l = 0; l < c.n_layer; l++) load(&r, b[l].w_down);
    for (int l = 0; l < c.n_layer; l++) load(&r, b[l].w_up);
    load(&r, m->w.norm);
    take(&r, (int64_t)c.max_seq * c.d_head); /* cosines and sines, which we compute */
    assert_true(r.at == r.end);
    free(values);
}

/* -- llama2.c's tokenizer file: longest piece, then per id a float score, an int32 length, the bytes
 * ---------------------- */

static void put_piece(Str *out, const Str *tok, int id, int prev) {
    const char *p = tok->s + 4, *end = tok->s + tok->n;
    int32_t n = 0;
    for (int i = 0; i <= id; i++) {
        if (i) p += n;
        assert_true(end - p >= 8);
        memcpy(&n, p + 4, 4);
        p += 8;
        assert_true(n >= 0 && end - p >= n);
    }
    unsigned byte;
    char bracket;
    char piece[8] = {0};
    memcpy(piece, p, n < 7 ? (size_t)n : 7);
    if (n == 6 && sscanf(piece, "<0x%02X%c", &byte, &bracket) == 2 && bracket == '>')
        str_putc(out, (char)byte);
    else if (prev == BOS && *p == ' ')
        str_putn(out, p + 1, (size_t)n - 1);
    else
        str_putn(out, p, (size_t)n);
}

static int argmax(Backend *be, Tensor logits) {
    double *z = mem_alloc((size_t)logits.cols * sizeof *z);
    int best = 0;
    tensor_get(be, z, logits);
    for (int i = 1; i < logits.cols; i++)
        if (z[i] > z[best]) best = i;
    free(z);
    return best;
}

static void tell(Backend *be, const Str *file, const Str *tok, const Str *expected, const char *what) {
    Error err = {0};
    Model m;
    Head head;
    Acts *a;
    KvCache kv;
    Str story = {0};
    enum { PAGES = (STEPS + KV_PAGE - 1) / KV_PAGE };
    load_model(&m, be, file);
    OK(head_init(&head, &m, HEAD_LM, m.cfg.n_vocab, 0, false, &err));
    OK(acts_open(&a, &m, 1, 1, KEEP_NONE, &err));
    OK(kv_open(&kv, &m, PAGES, &err));
    int32_t page[PAGES];
    for (int p = 0; p < PAGES; p++) page[p] = (PAGES - 1 - p) * kv.page_rows;
    Tensor logits = own_matrix(be, 1, m.cfg.n_vocab);
    int32_t id = BOS;
    for (int32_t pos = 0; pos < STEPS; pos++) {
        int32_t len = pos + 1, kv_row = page[pos / KV_PAGE] + pos % KV_PAGE;
        Batch b = {.n_tok = 1, .tok = &id, .pos = &pos, .kv_row = &kv_row, .n_row = 1, .row = (const int32_t[]){0}};
        b.seqs = (AttnSeqs){1, PAGES, (const int32_t[]){0, 1}, &len, page, true, 0};
        net_forward((Net){&m, &head, NULL}, a, &b, &kv);
        head_forward((Net){&m, &head, NULL}, a, 0, logits);
        int32_t next = argmax(be, logits);
        if (next == BOS) break;
        put_piece(&story, tok, next, id);
        id = next;
    }
    size_t n = expected->n;
    while (n > 0 && expected->s[n - 1] == '\n') n--;
    while (story.n > 0 && story.s[story.n - 1] == '\n') story.n--;
    if (story.n != n || memcmp(story.s, expected->s, n) != 0)
        fail_msg("%s told: %.*s", what, (int)story.n, str_get(&story));
    own_matrix_free(be, logits);
    str_release(&story);
    kv_release(&kv);
    acts_close(a);
    head_release(&head);
    model_release(&m);
}

static void test_story(void **state) {
    (void)state;
    Str file = {0}, tok = {0}, expected = {0};
    read_weights_file(&file, weights_files[0]);
    read_weights_file(&tok, weights_files[1]);
    read_weights_file(&expected, weights_files[2]);
    for (int i = 0; i < N_REAL; i++) {
        Machine mc;
        if (!machine_open_at(&mc, i, 1)) continue;
        tell(mc.be, &file, &tok, &expected, every_backend[i].isa ? every_backend[i].isa : "ref");
        machine_close(&mc);
    }
    str_release(&file), str_release(&tok), str_release(&expected);
}

int main(void) {
    for (int i = 0; i < COUNT_OF(weights_files); i++) {
        char path[1024];
        weights_path(path, weights_files[i]);
        if (io_exists(path)) continue;
        printf("skipped test_story: %s is absent\n", path);
        return 77;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_story)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
