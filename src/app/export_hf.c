#include <stdlib.h>
#include <string.h>

#include "app/export.h"
#include "base/io.h"
#include "cai/hf_folder.h"

static const char *const beside[] = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                                     "chat_template.jinja", "generation_config.json"};

static bool there(const char *dir, const char *file) {
    Str path = {0};
    str_printf(&path, "%s/%s", dir, file);
    bool found = io_exists(path.s);
    str_release(&path);
    return found;
}

static bool copy_one(const char *from, const char *to, const char *file, Error *err) {
    Str a = {0}, b = {0};
    str_printf(&a, "%s/%s", from, file);
    str_printf(&b, "%s/%s", to, file);
    bool ok = io_copy_file(a.s, b.s, err);
    str_release(&a);
    str_release(&b);
    return ok;
}

bool same_folder(const char *dir, const char *out) {
    char *a = realpath(dir, NULL), *b = realpath(out, NULL);
    bool same = a && b && strcmp(a, b) == 0;
    free(a);
    free(b);
    return same;
}

bool export_hf(const OpenModel *m, const char *out, const SaveOptions *o, Error *err) {
    const char *dir = str_get(&m->dir);
    if (!net_save_as(m->net, out, o, err)) return false;
    if (m->tok && !there(dir, "tokenizer_config.json")) {
        HfExtras x = {.tok = m->tok, .tokens = m->model.tokens, .max_seq = m->model.cfg.max_seq};
        if (m->has_chat && !m->chat.tmpl) x.chat_template = chat_native_template();
        if (!hf_extras_write(out, &x, err)) return false;
    }
    for (int i = 0; i < COUNT_OF(beside); i++)
        if (there(dir, beside[i]) && !copy_one(dir, out, beside[i], err)) return false;
    return true;
}
