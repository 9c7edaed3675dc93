/* tests/vec_adapter.c — conformance vectors: one JSON request per line on stdin, one JSON answer per line on stdout,
 * flushed after each. A row of `ops` answers one kind:
 *
 *   {"op":"json","bytes":BASE64}  ->  {"accept":true,"value":...} | {"accept":false}
 *   {"op":"chat","template","messages","tools","documents","variables","add_generation_prompt","now"}
 *       ->  {"text":...,"spans":[[begin,end],...]} | {"error":"raised|syntax|runtime","message":...,"line":...}
 *   safetensors: vec_safetensors.c; encode, pretoken, decode, rewrite: vec_tokenizer.h
 *   {"op":"native_template"}  ->  {"template":...}
 *   {"op":"dialogue","folder":PATH,"messages":[{"role","content"},...],"add_generation_prompt","native":BOOL}
 *       ->  {"ids":[...],"weights":[0|1,...]} | {"error":...}      by the folder's template, or natively whatever it
 * holds */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "text/chat.h"
#include "text/jinja.h"
#include "vec_base64.h"
#include "vec_safetensors.h"
#include "vec_tokenizer.h"

/* ---- json ---- */

static int depth_of(const Json *j) {
    int deepest = 0;
    for (int i = 0; i < json_len(j); i++) {
        const Json *item = json_at(j, i);
        if (!item) json_key_at(j, i, &item);
        int d = depth_of(item);
        if (d > deepest) deepest = d;
    }
    return deepest + 1;
}

enum { MAX_SHOWN = 500 }; /* the other side's reader nests less than ours */

static void op_json(const Json *q, JsonOut *o) {
    Str bytes = {0};
    Error err = {0};
    Json *j = NULL;
    size_t n;
    const char *s = json_str(json_get(q, "bytes"), &n);
    base64_decode(&bytes, s ? s : "", n);
    bool ok = json_parse(&j, str_get(&bytes), bytes.n, JSON_NUL_OK, "bytes", 1, &err);
    json_out_bool(o, "accept", ok);
    if (!ok)
        json_out_str(o, "message", err.msg);
    else if (depth_of(j) <= MAX_SHOWN)
        json_out_node(o, "value", j);
    json_release(j);
    str_release(&bytes);
}

/* ---- chat ---- */

static void put_error(JsonOut *o, const JinjaError *e) {
    json_out_str(o, "error", jinja_class_name(e->cls));
    json_out_strn(o, "message", str_get(&e->message), e->message.n);
    json_out_int(o, "line", e->line);
}

static void put_rendering(JsonOut *o, const JinjaOut *r) {
    json_out_strn(o, "text", str_get(&r->text), r->text.n);
    json_out_arr(o, "spans");
    for (int i = 0; i < r->n_span; i++) {
        json_out_arr(o, NULL);
        json_out_int(o, NULL, r->span[i].begin);
        json_out_int(o, NULL, r->span[i].end);
        json_out_arr_end(o);
    }
    json_out_arr_end(o);
}

static const Json *given(const Json *q, const char *key) {
    const Json *v = json_get(q, key);
    return v && json_kind(v) != JSON_NIL ? v : NULL;
}

static void op_chat(const Json *q, JsonOut *o) {
    JinjaVar var[256];
    JinjaChat c = {.messages = given(q, "messages"), .tools = given(q, "tools"), .documents = given(q, "documents")};
    JinjaTemplate *t = NULL;
    JinjaOut out = {0};
    JinjaError err = {0};
    size_t n;
    const char *source = json_str(json_get(q, "template"), &n);
    const Json *vars = given(q, "variables");
    c.var = var;
    for (; c.n_var < json_len(vars) && c.n_var < COUNT_OF(var); c.n_var++)
        var[c.n_var].name = json_key_at(vars, c.n_var, &var[c.n_var].value);
    c.add_generation_prompt = json_bool(json_get(q, "add_generation_prompt"), false);
    c.keep_nulls = true; /* the vectors come from the renderer itself, behind where nulls are dropped */
    c.now_s = json_int(json_get(q, "now"), (int64_t)time(NULL));
    if (jinja_parse(&t, source ? source : "", n, &err) && jinja_render(t, &c, &out, &err))
        put_rendering(o, &out);
    else
        put_error(o, &err);
    jinja_close(t);
    jinja_out_release(&out);
    jinja_error_release(&err);
}

/* ---- dialogue ---- */

static void op_native_template(const Json *q, JsonOut *o) {
    (void)q;
    json_out_str(o, "template", chat_native_template());
}

static bool read_messages(Message *m, const Json *list, Error *err) {
    static const char *const role[] = {[ROLE_SYSTEM] = "system", [ROLE_USER] = "user", [ROLE_ASSISTANT] = "assistant"};
    for (int i = 0; i < json_len(list); i++) {
        const char *name;
        int r = 0;
        if (!json_need_str(json_at(list, i), "role", &name, NULL, err) ||
            !json_need_str(json_at(list, i), "content", &m[i].text, NULL, err))
            return false;
        while (r < COUNT_OF(role) && strcmp(role[r], name)) r++;
        if (r == COUNT_OF(role)) return error_set(err, ERR_FORMAT, "role '%s'", name);
        m[i].role = (Role)r;
    }
    return true;
}

static void op_dialogue(const Json *q, JsonOut *o) {
    Error err = {0};
    Tokenizer *tok = NULL;
    Chat c = {0};
    Sequence s = {0};
    const char *folder = json_str(json_get(q, "folder"), NULL);
    const Json *list = given(q, "messages");
    Message *m = mem_alloc((size_t)(json_len(list) + 1) * sizeof *m);
    bool native = json_bool(json_get(q, "native"), false);
    bool ok = read_messages(m, list, &err) && tokenizer_open(&tok, folder ? folder : "", &err) &&
              (native ? chat_init(&c, tok, &err) : chat_open(&c, tok, folder, CHAT_FIXED_DAY, &err));
    if (ok) {
        Dialogue d = {m, json_len(list)};
        if (json_bool(json_get(q, "add_generation_prompt"), false))
            chat_respond(&s, &c, d);
        else
            chat_dialogue(&s, &c, d, 1);
        ok = sequence_ok(&s, &err);
    }
    if (ok) {
        json_out_arr(o, "ids");
        for (int i = 0; i < s.tok.n; i++) json_out_int(o, NULL, s.tok.id[i]);
        json_out_arr_end(o);
        json_out_arr(o, "weights");
        for (int i = 0; i < s.tok.n; i++) json_out_int(o, NULL, s.weight[i] != 0);
        json_out_arr_end(o);
    } else
        json_out_str(o, "error", err.msg);
    sequence_release(&s);
    chat_close(&c);
    if (tok) tokenizer_close(tok);
    free(m);
}

/* ---- */

/* Writes the members of the answer, or the whole answer. */
static const struct {
    const char *name;
    void (*members)(const Json *q, JsonOut *o);
    void (*answer)(const Json *q, Str *out);
} ops[] = {{"json", op_json, NULL},
           {"chat", op_chat, NULL},
           {"dialogue", op_dialogue, NULL},
           {"native_template", op_native_template, NULL},
           {"safetensors", vec_safetensors, NULL},
           {"encode", NULL, vec_encode},
           {"pretoken", NULL, vec_pretoken},
           {"decode", NULL, vec_decode},
           {"rewrite", NULL, vec_rewrite}};

static void answer(Str *out, const char *line, size_t n) {
    Error err = {0};
    Json *q = NULL;
    if (!json_parse(&q, line, n, JSON_NUL_OK, "request", 1, &err))
        json_parse(&q, line, n, JSON_NUL_OK | JSON_INT_AS_REAL, "request", 1, &err);
    const char *name = json_str(json_get(q, "op"), NULL);
    int i = 0;
    while (i < COUNT_OF(ops) && (!name || strcmp(ops[i].name, name))) i++;
    if (i < COUNT_OF(ops) && ops[i].answer)
        ops[i].answer(q, out);
    else {
        JsonOut o;
        json_out_init(&o, out, 0);
        json_out_obj(&o, NULL);
        if (i < COUNT_OF(ops))
            ops[i].members(q, &o);
        else
            json_out_str(&o, "error", q ? "not supported" : err.msg);
        json_out_obj_end(&o);
    }
    json_release(q);
}

int main(void) {
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    Str out = {0};
    while ((n = getline(&line, &cap, stdin)) > 0) {
        str_clear(&out);
        answer(&out, line, (size_t)n);
        str_putc(&out, '\n');
        fwrite(out.s, 1, out.n, stdout);
        fflush(stdout);
    }
    str_release(&out);
    free(line);
    vec_tokenizer_close();
    return 0;
}
