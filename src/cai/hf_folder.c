#include "cai/hf_folder.h"

#include "base/io.h"
#include "base/json.h"
#include "text/chat.h"

static bool write_json(const char *dir, const char *file, Str *text, Error *err) {
    Str path = {0};
    str_putc(text, '\n');
    str_printf(&path, "%s/%s", dir, file);
    bool ok = io_write_file(path.s, text->s, text->n, err);
    str_release(&path);
    str_release(text);
    return ok;
}

static bool write_generation(const char *dir, const HfExtras *x, Error *err) {
    const ModelTokens *t = &x->tokens;
    Str text = {0};
    JsonOut j;
    json_out_init(&j, &text, 2);
    json_out_obj(&j, NULL);
    if (t->bos >= 0) json_out_int(&j, "bos_token_id", t->bos);
    if (t->n_eos == 1) json_out_int(&j, "eos_token_id", t->eos[0]);
    if (t->n_eos > 1) {
        json_out_arr(&j, "eos_token_id");
        for (int i = 0; i < t->n_eos; i++) json_out_int(&j, NULL, t->eos[i]);
        json_out_arr_end(&j);
    }
    if (t->pad >= 0) json_out_int(&j, "pad_token_id", t->pad);
    json_out_obj_end(&j);
    return write_json(dir, "generation_config.json", &text, err);
}

static void put_token(JsonOut *j, const char *key, const Tokenizer *tok, int id) {
    Str s = {0};
    int32_t one = id;
    if (id >= 0 && id < tokenizer_n_vocab(tok)) tokenizer_decode(tok, &one, 1, true, &s);
    if (s.n > 0) json_out_strn(j, key, s.s, s.n);
    str_release(&s);
}

/* The class is the one both generations of the library know. */
static bool write_tokenizer_config(const char *dir, const HfExtras *x, Error *err) {
    const ModelTokens *t = &x->tokens;
    Str text = {0};
    JsonOut j;
    json_out_init(&j, &text, 2);
    json_out_obj(&j, NULL);
    json_out_str(&j, "tokenizer_class", "PreTrainedTokenizerFast");
    put_token(&j, "bos_token", x->tok, t->bos);
    put_token(&j, "eos_token", x->tok, t->n_eos > 0 ? t->eos[0] : -1);
    put_token(&j, "pad_token", x->tok, t->pad);
    json_out_int(&j, "model_max_length", x->max_seq);
    json_out_bool(&j, "clean_up_tokenization_spaces", false);
    if (x->chat_template) json_out_str(&j, "chat_template", x->chat_template);
    json_out_obj_end(&j);
    return write_json(dir, "tokenizer_config.json", &text, err);
}

static bool write_template(const char *dir, const HfExtras *x, Error *err) {
    if (!x->chat_template) return true;
    Str path = {0}, text = {0};
    str_put(&text, x->chat_template);
    str_printf(&path, "%s/chat_template.jinja", dir);
    bool ok = io_write_file(path.s, str_get(&text), text.n, err);
    str_release(&path);
    str_release(&text);
    return ok;
}

bool hf_extras_write(const char *dir, const HfExtras *x, Error *err) {
    return write_generation(dir, x, err) && write_tokenizer_config(dir, x, err) && write_template(dir, x, err);
}

bool hf_template_read(Str *out, const char *dir, Error *err) {
    Str path = {0};
    str_printf(&path, "%s/chat_template.jinja", dir);
    bool ok = true, found = io_exists(path.s);
    if (found) ok = io_read_file(out, path.s, (size_t)1 << 24, err);
    str_clear(&path);
    str_printf(&path, "%s/tokenizer_config.json", dir);
    if (!found && io_exists(path.s)) {
        Json *root = NULL;
        size_t n;
        ok = json_read_file(&root, path.s, JSON_INT_AS_REAL, err);
        const char *s = ok ? chat_template_of(root, &n) : NULL;
        if (s) str_putn(out, s, n);
        json_release(root);
    }
    str_release(&path);
    return ok;
}
