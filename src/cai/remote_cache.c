#include "cai/remote_cache.h"

#include <string.h>

#include "base/io.h"

enum { MAX_BYTES = 32 << 20 };

Hash cache_key(const char *url, const char *body, size_t n, int vote) {
    Hasher *h = hasher_new();
    hasher_add_str(h, url);
    hasher_add(h, &n, sizeof n);
    hasher_add(h, body, n);
    hasher_add(h, &vote, sizeof vote);
    return hasher_finish(h);
}

static void entry_path(Str *out, const char *dir, const char *hex) {
    str_clear(out);
    str_printf(out, "%s/%.2s/%s.json", dir, hex, hex);
}

bool cache_get(Json **root, const Json **answer, int *status, const char *dir, Hash key) {
    char hex[33];
    Str path = {0}, text = {0};
    Error ignore = {0};
    hash_hex(hex, key);
    entry_path(&path, dir, hex);
    *root = NULL;
    bool ok = io_exists(str_get(&path)) && io_read_file(&text, str_get(&path), MAX_BYTES, &ignore) &&
              json_parse(root, str_get(&text), text.n, JSON_INT_AS_REAL | JSON_NUL_OK, str_get(&path), 1, &ignore);
    if (ok) {
        const char *named = json_str(json_get(*root, "request"), NULL);
        *status = (int)json_int(json_get(*root, "status"), 0);
        *answer = json_get(*root, "answer");
        ok = named && !strcmp(named, hex) && *answer && *status > 0;
    }
    if (!ok) {
        json_release(*root);
        *root = NULL;
    }
    str_release(&path);
    str_release(&text);
    return ok;
}

void hide_secret(char *text, const char *secret) {
    size_t n = secret ? strlen(secret) : 0;
    char with = n > 0 && strspn(secret, "0123456789") == n ? '1' : '*';
    for (char *at = text; n > 0 && (at = strstr(at, secret)); at += n) memset(at, with, n);
}

bool cache_put(const char *dir, Hash key, int status, const Json *answer, const char *secret, Error *err) {
    char hex[33];
    Str path = {0}, text = {0};
    JsonOut o;
    hash_hex(hex, key);
    json_out_init(&o, &text, 0);
    json_out_obj(&o, NULL);
    json_out_str(&o, "schema", "dikast-answer/1");
    json_out_str(&o, "request", hex);
    json_out_int(&o, "status", status);
    json_out_node(&o, "answer", answer);
    json_out_obj_end(&o);
    str_putc(&text, '\n');
    hide_secret(text.s, secret);
    str_printf(&path, "%s/%.2s", dir, hex);
    bool ok = io_make_dirs(str_get(&path), err);
    entry_path(&path, dir, hex);
    ok = ok && io_write_file(str_get(&path), text.s, text.n, err);
    str_release(&path);
    str_release(&text);
    return ok;
}
