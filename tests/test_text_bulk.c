// layer: text
/* Compares ids and trained merges with a peer's over whole folders of text. The folder, named by DIKAST_PEER_DIR, is
 * written by tests/peer/test_tokenizer_peer.py, which also starts this program; without it there is nothing to compare.
 *
 *   cases.json   [{"name": "gpt2"}, {"name": "t", "train": {"n_vocab", "split", "min_count", "special"}}]
 *   NAME.json    the peer's tokenizer; for a training case the one it trained
 *   NAME.bin     documents: int32 bytes, int32 ids, the bytes, the ids
 *   NAME.ours.json   written here for a training case, for the peer to load */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "base/io.h"
#include "base/json.h"
#include "text/tokenizer.h"

typedef struct {
    const char *s;
    size_t n;
    const int32_t *id;
    int n_id;
} Doc;
typedef struct {
    IoMap map;
    size_t at, n_byte;
} Docs;

/* Processor time, so that what else the machine does at the moment is not measured. */
static double cpu_s(void) { return (double)clock() / CLOCKS_PER_SEC; }

static bool next_doc(Docs *d, Doc *doc) {
    if (d->at + 8 > d->map.n) return false;
    int32_t n[2];
    memcpy(n, d->map.p + d->at, 8);
    doc->s = (const char *)d->map.p + d->at + 8;
    doc->n = (size_t)n[0];
    doc->id = (const int32_t *)(const void *)(d->map.p + d->at + 8 + doc->n); /* the script pads to 4 bytes */
    doc->n_id = n[1];
    d->at += 8 + doc->n + 4 * (size_t)n[1];
    return true;
}

static const char *next_text(void *ud, size_t *n) {
    Doc doc;
    if (!next_doc(ud, &doc)) return NULL;
    *n = doc.n;
    ((Docs *)ud)->n_byte += doc.n;
    return doc.s;
}

static void path_of(Str *out, const char *dir, const char *name, const char *suffix) {
    str_clear(out);
    str_printf(out, "%s/%s%s", dir, name, suffix);
}

static int compare_ids(const char *dir, const char *name) {
    Error err = {0};
    Str path = {0}, back = {0};
    Tokenizer *t = NULL;
    Docs docs = {0};
    Doc doc;
    path_of(&path, dir, name, ".json");
    double s0 = cpu_s();
    if (!tokenizer_open(&t, str_get(&path), &err)) fail_msg("%s", err.msg);
    double open_s = cpu_s() - s0, s = 0;
    path_of(&path, dir, name, ".bin");
    if (!io_map(&docs.map, str_get(&path), &err)) fail_msg("%s", err.msg);
    Encoder *encoder = encoder_open(t); /* one for all documents: what it remembers must not change an id */
    int n_doc = 0, n_bad = 0;
    int64_t n_byte = 0, n_id = 0;
    for (; next_doc(&docs, &doc); n_doc++) {
        TokBuf ids = {0};
        s0 = cpu_s();
        encoder_encode(encoder, doc.s, doc.n, &ids);
        s += cpu_s() - s0;
        bool same = ids.n == doc.n_id && (ids.n == 0 || memcmp(ids.id, doc.id, (size_t)ids.n * 4) == 0);
        str_clear(&back);
        tokenizer_decode(t, ids.id, ids.n, false, &back);
        same = same && back.n == doc.n && memcmp(str_get(&back), doc.s, doc.n) == 0;
        if (!same && n_bad++ < 5) {
            int i = 0;
            while (i < ids.n && i < doc.n_id && ids.id[i] == doc.id[i]) i++;
            str_clear(&back);
            tokenizer_decode(t, ids.id, i, false, &back);
            printf("  %s document %d: differs at id %d, byte %zu: ours %d, theirs %d\n", name, n_doc, i, back.n,
                   i < ids.n ? ids.id[i] : -1, i < doc.n_id ? doc.id[i] : -1);
        }
        n_byte += (int64_t)doc.n;
        n_id += ids.n;
        tokbuf_release(&ids);
    }
    printf("%-14s %6d documents %9lld bytes %8lld ids  %d differ  opened in %.3f s, encoded at %.1f MB/s\n", name,
           n_doc, (long long)n_byte, (long long)n_id, n_bad, open_s, (double)n_byte / 1e6 / s);
    io_unmap(&docs.map);
    encoder_close(encoder);
    tokenizer_close(t);
    str_release(&path);
    str_release(&back);
    return n_bad;
}

/* Vocabulary and merges of two files; the peer's may list merges as pairs. */
static int compare_models(const char *name, const char *ours, size_t n_ours, const char *theirs_path) {
    Error err = {0};
    Json *a, *b;
    if (!json_parse(&a, ours, n_ours, 0, "ours", 1, &err) || !json_read_file(&b, theirs_path, 0, &err))
        fail_msg("%s", err.msg);
    const Json *va = json_get(json_get(a, "model"), "vocab"), *vb = json_get(json_get(b, "model"), "vocab");
    const Json *ma = json_get(json_get(a, "model"), "merges"), *mb = json_get(json_get(b, "model"), "merges");
    int bad = abs(json_len(va) - json_len(vb)) + abs(json_len(ma) - json_len(mb));
    for (int i = 0; i < json_len(va); i++) {
        const Json *id;
        const char *key = json_key_at(va, i, &id);
        bad += json_int(id, -1) != json_int(json_get(vb, key), -2);
    }
    for (int i = 0; i < json_len(ma) && i < json_len(mb); i++) {
        Str pair = {0};
        const Json *m = json_at(mb, i);
        if (json_str(m, NULL))
            str_put(&pair, json_str(m, NULL));
        else
            str_printf(&pair, "%s %s", json_str(json_at(m, 0), NULL), json_str(json_at(m, 1), NULL));
        if (strcmp(str_get(&pair), json_str(json_at(ma, i), NULL)) != 0 && bad++ < 5)
            printf("  %s: merge %d: ours '%s', theirs '%s'\n", name, i, json_str(json_at(ma, i), NULL), str_get(&pair));
        str_release(&pair);
    }
    printf("%-14s %d tokens, %d merges: %d differ\n", name, json_len(va), json_len(ma), bad);
    json_release(a);
    json_release(b);
    return bad;
}

static int compare_training(const char *dir, const char *name, const Json *spec) {
    Error err = {0};
    Str path = {0}, json = {0};
    Docs docs = {0};
    const char *special[64];
    const Json *list = json_get(spec, "special");
    BpeTrainParams p = {.n_vocab = (int)json_int(json_get(spec, "n_vocab"), 0),
                        .split =
                            strcmp(json_str(json_get(spec, "split"), NULL), "gpt2") == 0 ? SPLIT_GPT2 : SPLIT_LLAMA3,
                        .special = special,
                        .n_special = json_len(list),
                        .min_count = (int)json_int(json_get(spec, "min_count"), 0)};
    for (int i = 0; i < p.n_special; i++) special[i] = json_str(json_at(list, i), NULL);
    path_of(&path, dir, name, ".bin");
    if (!io_map(&docs.map, str_get(&path), &err)) fail_msg("%s", err.msg);
    double s0 = cpu_s();
    if (!bpe_train(&json, &p, next_text, &docs, &err)) fail_msg("%s", err.msg);
    printf("%-14s trained on %zu bytes in %.2f s\n", name, docs.n_byte, cpu_s() - s0);
    io_unmap(&docs.map);
    path_of(&path, dir, name, ".ours.json");
    if (!io_write_file(str_get(&path), json.s, json.n, &err)) fail_msg("%s", err.msg);
    path_of(&path, dir, name, ".json");
    int bad = compare_models(name, json.s, json.n, str_get(&path));
    str_release(&path);
    str_release(&json);
    return bad;
}

static void test_peer(void **state) {
    (void)state;
    const char *dir = getenv("DIKAST_PEER_DIR");
    if (!dir) {
        print_message("skipped: DIKAST_PEER_DIR is not set (tests/peer/test_tokenizer_peer.py sets it)\n");
        skip();
    }
    Error err = {0};
    Str path = {0};
    Json *cases;
    int bad = 0;
    path_of(&path, dir, "cases", ".json");
    if (!json_read_file(&cases, str_get(&path), 0, &err)) fail_msg("%s", err.msg);
    assert_true(json_len(cases) > 0);
    for (int i = 0; i < json_len(cases); i++) {
        const char *name = json_str(json_get(json_at(cases, i), "name"), NULL);
        const Json *train = json_get(json_at(cases, i), "train");
        if (train) bad += compare_training(dir, name, train);
        bad += compare_ids(dir, name);
    }
    json_release(cases);
    str_release(&path);
    assert_int_equal(bad, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_peer)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
