#include "cai/add_sentinels.h"

#include <string.h>

#include "base/json.h"

static void put_added(JsonOut *j, int64_t id, const char *spelling) {
    static const char *const off[] = {"single_word", "lstrip", "rstrip", "normalized"};
    json_out_obj(j, NULL);
    json_out_int(j, "id", id);
    json_out_str(j, "content", spelling);
    for (int i = 0; i < COUNT_OF(off); i++) json_out_bool(j, off[i], false);
    json_out_bool(j, "special", true);
    json_out_obj_end(j);
}

/* -1: neither an added token nor in the vocabulary; *added: its place among the added ones, or -1. */
static int64_t id_of(const Json *root, const char *spelling, int *added) {
    const Json *list = json_get(root, "added_tokens");
    for (*added = 0; *added < json_len(list); ++*added) {
        const char *s = json_str(json_get(json_at(list, *added), "content"), NULL);
        if (s && strcmp(s, spelling) == 0) return json_int(json_get(json_at(list, *added), "id"), -1);
    }
    *added = -1;
    return json_int(json_get(json_get(json_get(root, "model"), "vocab"), spelling), -1);
}

static int64_t last_id(const Json *root) {
    const Json *vocab = json_get(json_get(root, "model"), "vocab"), *list = json_get(root, "added_tokens"), *id;
    int64_t last = -1;
    for (int i = 0; i < json_len(vocab); i++) {
        json_key_at(vocab, i, &id);
        if (json_int(id, -1) > last) last = json_int(id, -1);
    }
    for (int i = 0; i < json_len(list); i++) {
        int64_t v = json_int(json_get(json_at(list, i), "id"), -1);
        if (v > last) last = v;
    }
    return last;
}

/* The old list without those that are written anew, then all sentinels. Ids ascend as readers expect. */
static void put_list(JsonOut *j, const Json *root, unsigned which, int *n_new) {
    const Json *list = json_get(root, "added_tokens");
    int64_t next = last_id(root) + 1;
    json_out_arr(j, "added_tokens");
    for (int i = 0; i < json_len(list); i++) {
        const char *s = json_str(json_get(json_at(list, i), "content"), NULL);
        bool ours = false;
        for (int k = 0; k < SENT_COUNT && s; k++)
            ours = ours || ((which >> k & 1) && strcmp(s, sentinel_spelling((Sentinel)k)) == 0);
        if (ours)
            put_added(j, json_int(json_get(json_at(list, i), "id"), -1), s);
        else
            json_out_node(j, NULL, json_at(list, i));
    }
    *n_new = 0;
    for (int k = 0; k < SENT_COUNT; k++) {
        const char *spelling = sentinel_spelling((Sentinel)k);
        int added;
        int64_t id = id_of(root, spelling, &added);
        if (added >= 0 || !(which >> k & 1)) continue;
        if (id < 0) {
            id = next++;
            ++*n_new;
        }
        put_added(j, id, spelling);
    }
    json_out_arr_end(j);
}

static bool all_there(const Json *root, unsigned which) {
    const Json *list = json_get(root, "added_tokens");
    for (int k = 0; k < SENT_COUNT; k++) {
        int added;
        if (!(which >> k & 1)) continue;
        id_of(root, sentinel_spelling((Sentinel)k), &added);
        if (added < 0 || !json_bool(json_get(json_at(list, added), "special"), false)) return false;
    }
    return true;
}

bool sentinels_there(bool *there, const Str *json, const char *name, Error *err) {
    Json *root = NULL;
    if (!json_parse(&root, str_get(json), json->n, 0, name, 1, err)) return false;
    *there = all_there(root, SENTINELS_ALL);
    json_release(root);
    return true;
}

bool add_sentinels(Str *json, unsigned which, int *n_new, const char *name, Error *err) {
    Json *root = NULL;
    if (!json_parse(&root, str_get(json), json->n, 0, name, 1, err)) return false;
    *n_new = 0;
    if (all_there(root, which)) {
        json_release(root);
        return true;
    }
    Str out = {0};
    JsonOut j;
    bool there = json_get(root, "added_tokens") != NULL, written = false;
    json_out_init(&j, &out, 0);
    json_out_obj(&j, NULL);
    for (int i = 0; i < json_len(root); i++) {
        const Json *value;
        const char *key = json_key_at(root, i, &value);
        bool here = there ? strcmp(key, "added_tokens") == 0 : strcmp(key, "model") == 0;
        if (here) put_list(&j, root, which, n_new), written = true;
        if (!here || !there) json_out_node(&j, key, value);
    }
    json_out_obj_end(&j);
    str_putc(&out, '\n');
    bool ok = written || error_set(err, ERR_FORMAT, "%s: no 'model': this is no tokenizer.json", name);
    json_release(root);
    if (ok) {
        str_release(json);
        *json = out;
    } else {
        str_release(&out);
    }
    return ok;
}
