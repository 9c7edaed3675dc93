/* tok_help.h — the tokenizer files of golden/tok_cases.json. Included after cmocka.h; open_root and close_root are a group's
 * setup and teardown. */
#ifndef DIKAST_TESTS_TOK_HELP_H
#define DIKAST_TESTS_TOK_HELP_H

#include "base/json.h"
#include "text/text_int.h"

static Json *root;

static inline int open_root(void **state) {
    (void)state;
    Error err = {0};
    if (!json_read_file(&root, TEST_DIR "/golden/tok_cases.json", JSON_NUL_OK, &err)) fail_msg("%s", err.msg);
    return 0;
}

static inline int close_root(void **state) {
    (void)state;
    json_release(root);
    return 0;
}

/* The tokenizer.json of an entry: its components around the model it names. */
static inline void put_file(Str *out, const Json *file) {
    static const char *const part[] = {"added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder"};
    const Json *base = json_get(json_get(root, "models"), json_str(json_get(file, "base"), NULL));
    const Json *flags = json_get(file, "flags"), *v;
    JsonOut j;
    json_out_init(&j, out, 0);
    json_out_obj(&j, NULL);
    for (int i = 0; i < COUNT_OF(part); i++) json_out_node(&j, part[i], json_get(file, part[i]));
    json_out_obj(&j, "model");
    for (int i = 0; i < json_len(flags); i++) {
        const char *key = json_key_at(flags, i, &v);
        json_out_node(&j, key, v);
    }
    json_out_node(&j, "vocab", json_get(base, "vocab"));
    json_out_node(&j, "merges", json_get(base, "merges"));
    json_out_obj_end(&j);
    json_out_obj_end(&j);
}

static inline Tokenizer *open_file(const Json *file) {
    Str s = {0};
    Error err = {0};
    Tokenizer *t;
    put_file(&s, file);
    if (!tokenizer_parse(&t, s.s, s.n, json_str(json_get(file, "name"), NULL), &err)) fail_msg("%s", err.msg);
    str_release(&s);
    return t;
}

static inline Tokenizer *open_named(const char *name) {
    const Json *files = json_get(root, "files");
    for (int i = 0; i < json_len(files); i++)
        if (strcmp(json_str(json_get(json_at(files, i), "name"), NULL), name) == 0) return open_file(json_at(files, i));
    fail_msg("no file '%s' in tok_cases.json", name);
    return NULL;
}

#endif
