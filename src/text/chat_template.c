/* chat_template.c — dialogues by a model's own template.
 *
 *   messages ── special spellings marked ── template ── text + spans ── marks out ── special ids | stretches of text ──
 * ids
 *
 * A message may spell a special token; the template's own text must. So spellings in messages are put between two
 * characters that no text holds before the template runs; what stands between them afterwards is never looked up. (A
 * template that takes such a message apart may leave one of the two: it goes, and no token reaches across its place.)
 */
#include "text/chat_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"
#include "text/jinja.h"

/* U+FDD0 and U+FDD1: noncharacters, for use inside a program; of three bytes each. */
static const char mark_open[] = "\xEF\xB7\x90", mark_close[] = "\xEF\xB7\x91";
enum { MARK = 3, MAX_CONFIG = 64 << 20, MAX_DEPTH = 64 };

typedef struct {
    char *s;
    size_t n;
    int32_t id;
} Special;

struct ChatTemplate {
    JinjaTemplate *jinja;
    Json *config, *map; /* owned; NULL when the caller keeps them */
    JsonBuild *merged;  /* what of the two holds */
    JinjaVar *var;
    int n_var;
    Special *special; /* longest first */
    int n_special;
    bool starts[256]; /* some special token starts with this byte */
    Str name;         /* for messages */
    int64_t now_s;
};

const char *chat_native_template(void) {
    return "{%- for message in messages %}"
           "{%- if message['role'] == 'assistant' %}"
           "{{- '<|assistant|>' }}"
           "{%- generation %}{{- message['content'] + '<|end|>' }}{%- endgeneration %}"
           "{%- elif message['role'] == 'user' %}"
           "{{- '<|user|>' + message['content'] + '<|end|>' }}"
           "{%- elif message['role'] == 'system' %}"
           "{{- '<|system|>' + message['content'] + '<|end|>' }}"
           "{%- else %}"
           "{{- raise_exception('expected the role system, user or assistant, found ' + message['role']) }}"
           "{%- endif %}"
           "{%- endfor %}"
           "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}";
}

/* Base models read transcripts: headings on lines of their own, so that a reply begins as a line does. The first reply
 * ends with eos_token, and so does every other. */
const char *chat_transcript_template(void) {
    return "{{- bos_token | default('') }}"
           "{%- for message in messages %}"
           "{%- if not loop.first %}{{- '\n\n' }}{%- endif %}"
           "{%- if message['role'] == 'assistant' %}"
           "{{- 'Assistant:\n' }}"
           "{%- generation %}{{- message['content'] + eos_token }}{%- endgeneration %}"
           "{%- elif message['role'] == 'user' %}"
           "{{- 'Human:\n' + message['content'] }}"
           "{%- elif message['role'] == 'system' %}"
           "{{- message['content'] }}"
           "{%- else %}"
           "{{- raise_exception('expected the role system, user or assistant, found ' + message['role']) }}"
           "{%- endif %}"
           "{%- endfor %}"
           "{%- if add_generation_prompt %}{{- '\n\nAssistant:\n' }}{%- endif %}";
}

/* ---- opening ---- */

static int longer(const void *a, const void *b) {
    const Special *p = a, *q = b;
    return p->n != q->n ? (p->n < q->n) - (p->n > q->n) : (p->id > q->id) - (p->id < q->id);
}

static void collect_special(ChatTemplate *t, const Tokenizer *tok) {
    Str text = {0};
    for (int32_t id = 0; id < tokenizer_n_vocab(tok); id++) {
        if (!tokenizer_is_special(tok, id)) continue;
        str_clear(&text);
        tokenizer_decode(tok, &id, 1, true, &text);
        if (text.n == 0) continue;
        if ((t->n_special & (t->n_special - 1)) == 0)
            t->special = mem_grow(t->special, (size_t)(t->n_special ? 2 * t->n_special : 1) * sizeof *t->special);
        t->special[t->n_special++] = (Special){mem_str(text.s), text.n, id};
        t->starts[(unsigned char)text.s[0]] = true;
    }
    str_release(&text);
    if (t->n_special) qsort(t->special, (size_t)t->n_special, sizeof *t->special, longer);
}

/* A token in tokenizer_config.json: its spelling, or an object with it. */
static const Json *token_text(const Json *entry) {
    const Json *content = json_get(entry, "content");
    const Json *text = content ? content : entry;
    return json_str(text, NULL) ? text : NULL;
}

/* "bos_token" and the like, and the named ones of a model's own. */
static void collect_variables(ChatTemplate *t, const Json *config) {
    const Json *named = json_get(config, "extra_special_tokens"), *entry, *text;
    int n_named = named && json_kind(named) == JSON_OBJ ? json_len(named) : 0;
    t->var = mem_alloc((size_t)(json_len(config) + n_named + 1) * sizeof *t->var);
    for (int i = 0; i < json_len(config); i++) {
        const char *key = json_key_at(config, i, &entry);
        size_t n = key ? strlen(key) : 0;
        text = n > 6 && strcmp(key + n - 6, "_token") == 0 && !json_get(n_named ? named : NULL, key) ? token_text(entry)
                                                                                                     : NULL;
        if (text) t->var[t->n_var++] = (JinjaVar){key, text};
    }
    for (int i = 0; i < n_named; i++) {
        const char *key = json_key_at(named, i, &entry);
        if ((text = token_text(entry))) t->var[t->n_var++] = (JinjaVar){key, text};
    }
}

static bool template_error(const ChatTemplate *t, const JinjaError *e, Error *err) {
    return error_set(err, ERR_FORMAT, "%s:%d: the chat template %s: %.600s", str_get(&t->name), e->line,
                     e->cls == JINJA_SYNTAX   ? "cannot be read"
                     : e->cls == JINJA_RAISED ? "refuses the dialogue"
                                              : "fails",
                     str_get(&e->message));
}

static int32_t special_named(const Chat *c, const Json *config, const char *key) {
    const char *s = json_str(config ? token_text(json_get(config, key)) : NULL, NULL);
    return s ? tokenizer_special(c->tok, s) : -1;
}

/* What stands for the sentinels of documents and padding in a vocabulary that may lack them. */
static void name_places(Chat *c, const Json *config) {
    int32_t end = c->id[SENT_END], bos = special_named(c, config, "bos_token"),
            pad = special_named(c, config, "pad_token");
    c->document = c->id[SENT_ENDOFTEXT] >= 0 ? c->id[SENT_ENDOFTEXT] : bos >= 0 ? bos : end;
    c->pad = c->id[SENT_MASK];
    if (c->pad < 0 && pad != end && pad != c->document) c->pad = pad;
}

bool chat_open_template(Chat *c, const Tokenizer *t, const char *source, size_t n, const Json *config, const char *name,
                        int64_t now_s, Error *err) {
    ChatTemplate *m = mem_alloc(sizeof *m);
    JinjaError e = {0};
    *c = (Chat){.tok = t, .tmpl = m};
    str_put(&m->name, name);
    m->now_s = now_s;
    for (int s = 0; s < SENT_COUNT; s++) c->id[s] = tokenizer_special(t, sentinel_spelling((Sentinel)s));
    collect_special(m, t);
    collect_variables(m, config);
    bool ok = jinja_parse(&m->jinja, source, n, &e) || template_error(m, &e, err);
    jinja_error_release(&e);
    const char *end = json_str(config ? token_text(json_get(config, "eos_token")) : NULL, NULL);
    if (end) c->id[SENT_END] = tokenizer_special(t, end);
    if (ok && c->id[SENT_END] < 0)
        ok = error_set(
            err, ERR_FORMAT,
            "%s: which token ends a reply? 'eos_token' of tokenizer_config.json is %s%s; it must be a special "
            "token of the tokenizer",
            name, end ? end : "missing", end ? "" : ", and there is no <|end|>");
    if (ok) name_places(c, config);
    for (int s = SENT_PRINCIPLE; s <= SENT_SECOND && ok && !c->headings; s++)
        if (c->id[s] < 0) ok = headings_open(c, name, err);
    if (!ok) chat_close(c);
    return ok;
}

void chat_close(Chat *c) {
    ChatTemplate *m = c->tmpl;
    if (m) {
        for (int i = 0; i < m->n_special; i++) free(m->special[i].s);
        free(m->special);
        free(m->var);
        jinja_close(m->jinja);
        json_build_free(m->merged);
        json_release(m->config);
        json_release(m->map);
        str_release(&m->name);
        free(m);
    }
    *c = (Chat){0};
}

const char *chat_template_of(const Json *config, size_t *n) {
    const Json *j = json_get(config, "chat_template"), *text = json_get(j, "default");
    for (int i = 0; i < json_len(j) && !text; i++) {
        const Json *one = json_at(j, i);
        const char *name = json_str(json_get(one, "name"), NULL);
        if (name && strcmp(name, "default") == 0) text = json_get(one, "template");
    }
    return json_str(text ? text : j, n);
}

/* The files of a folder that a template needs. */
typedef struct {
    Json *config, *map;
    JsonBuild *merged;
    const Json *tokens; /* the two in one */
    Str template, name; /* of chat_template.jinja; what the template comes from, for messages */
    const char *source; /* NULL: there is no template */
    size_t n;
} ChatFiles;

static void files_close(ChatFiles *f) {
    json_build_free(f->merged);
    json_release(f->config);
    json_release(f->map);
    str_release(&f->template);
    str_release(&f->name);
}

static bool read_if_there(Json **out, const char *dir, const char *file, Error *err) {
    Str path = {0};
    str_printf(&path, "%s/%s", dir, file);
    bool ok = !io_exists(path.s) || json_read_file(out, path.s, JSON_INT_AS_REAL, err);
    str_release(&path);
    return ok;
}

/* Folders older than "added_tokens_decoder" say in special_tokens_map.json which tokens those are. */
static bool read_tokens(ChatFiles *f, const char *dir, Error *err) {
    const Json *value;
    f->tokens = f->config;
    if (json_get(f->config, "added_tokens_decoder")) return true;
    if (!read_if_there(&f->map, dir, "special_tokens_map.json", err)) return false;
    if (!f->map || json_kind(f->map) != JSON_OBJ) return true;
    f->merged = json_build_new();
    json_build_obj(f->merged, NULL);
    for (int i = 0; i < json_len(f->config); i++) {
        const char *key = json_key_at(f->config, i, &value);
        if (!json_get(f->map, key)) json_build_share(f->merged, key, value);
    }
    for (int i = 0; i < json_len(f->map); i++) {
        const char *key = json_key_at(f->map, i, &value);
        json_build_share(f->merged, key, value);
    }
    json_build_obj_end(f->merged);
    f->tokens = json_build_take(f->merged);
    return true;
}

static bool files_read(ChatFiles *f, const char *dir, Error *err) {
    *f = (ChatFiles){0};
    if (!read_if_there(&f->config, dir, "tokenizer_config.json", err) || !read_tokens(f, dir, err)) return false;
    str_printf(&f->name, "%s/chat_template.jinja", dir);
    if (io_exists(f->name.s)) { /* it wins */
        if (!io_read_file(&f->template, f->name.s, MAX_CONFIG, err)) return false;
        f->source = str_get(&f->template);
        f->n = f->template.n;
        return true;
    }
    f->source = chat_template_of(f->config, &f->n);
    str_clear(&f->name);
    str_printf(&f->name, "%s/tokenizer_config.json", dir);
    return true;
}

bool chat_open(Chat *c, const Tokenizer *t, const char *dir, int64_t now_s, Error *err) {
    const char *native = chat_native_template();
    ChatFiles f;
    *c = (Chat){0};
    bool ok = files_read(&f, dir, err);
    size_t bare = f.n > 0 && f.source[f.n - 1] == '\n' ? f.n - 1 : f.n; /* as templates are read */
    if (ok && (!f.source || (bare == strlen(native) && memcmp(f.source, native, bare) == 0)))
        ok = chat_init(c, t, err);
    else if (ok)
        ok = chat_open_template(c, t, f.source, f.n, f.tokens, f.name.s, now_s, err);
    if (ok && c->tmpl) { /* its variables point into them */
        c->tmpl->config = f.config, c->tmpl->map = f.map, c->tmpl->merged = f.merged;
        f.config = f.map = NULL, f.merged = NULL;
    }
    files_close(&f);
    return ok;
}

/* ---- messages ---- */

static const Special *special_at(const ChatTemplate *t, const char *s, size_t n) {
    if (n == 0 || !t->starts[(unsigned char)s[0]]) return NULL;
    for (int i = 0; i < t->n_special; i++)
        if (t->special[i].n <= n && memcmp(t->special[i].s, s, t->special[i].n) == 0) return &t->special[i];
    return NULL;
}

static bool is_mark(const char *s, size_t n) {
    return n >= MARK && (memcmp(s, mark_open, MARK) == 0 || memcmp(s, mark_close, MARK) == 0);
}

static void put_marked(Str *out, const ChatTemplate *t, const char *s) {
    size_t n = strlen(s);
    for (size_t i = 0; i < n;) {
        const Special *special = special_at(t, s + i, n - i);
        if (special) {
            str_put(out, mark_open);
            str_putn(out, special->s, special->n);
            str_put(out, mark_close);
            i += special->n;
        } else if (is_mark(s + i, n - i)) /* somebody else's */
            i += MARK;
        else
            str_putc(out, s[i++]);
    }
}

/* A copy of a node, its strings and keys marked; of a message the role is left as it is. False: nested too deep. */
static bool put_marked_node(JsonBuild *b, const ChatTemplate *t, const char *key, const Json *j, int depth) {
    Str text = {0};
    bool ok = depth < MAX_DEPTH;
    JsonKind kind = json_kind(j);
    size_t n;
    if (!ok) return false;
    if (kind == JSON_OBJ) {
        json_build_obj(b, key);
        for (int i = 0; i < json_len(j) && ok; i++) {
            const Json *value;
            const char *name = json_key_at(j, i, &value);
            str_clear(&text);
            put_marked(&text, t, name);
            bool role = depth == 1 && !strcmp(name, "role") && json_str(value, &n);
            if (role)
                json_build_strn(b, name, json_str(value, NULL), n);
            else
                ok = put_marked_node(b, t, json_build_copy(b, str_get(&text), text.n), value, depth + 1);
        }
        ok = json_build_obj_end(b) && ok;
    } else if (kind == JSON_ARR) {
        json_build_arr(b, key);
        for (int i = 0; i < json_len(j) && ok; i++) ok = put_marked_node(b, t, NULL, json_at(j, i), depth + 1);
        json_build_arr_end(b);
    } else if (kind == JSON_STR) {
        put_marked(&text, t, json_str(j, NULL));
        json_build_strn(b, key, str_get(&text), text.n);
    } else
        json_build_share(b, key, j);
    str_release(&text);
    return ok;
}

/* NULL: nested too deep. n: so many of the array's items. */
static const Json *marked(JsonBuild *b, const ChatTemplate *t, const Json *list, int n) {
    bool ok = true;
    json_build_arr(b, NULL);
    for (int i = 0; i < n && ok; i++) ok = put_marked_node(b, t, NULL, json_at(list, i), 1);
    json_build_arr_end(b);
    const Json *out = json_build_take(b);
    return ok ? out : NULL;
}

static void put_messages(Str *out, const ChatTemplate *t, Dialogue d) {
    static const char *const role[] = {[ROLE_SYSTEM] = "system", [ROLE_USER] = "user", [ROLE_ASSISTANT] = "assistant"};
    JsonOut j;
    Str text = {0};
    json_out_init(&j, out, 0);
    json_out_arr(&j, NULL);
    for (int i = 0; i < d.n; i++) {
        str_clear(&text);
        put_marked(&text, t, d.msg[i].text);
        json_out_obj(&j, NULL);
        json_out_str(&j, "role", role[d.msg[i].role]);
        json_out_strn(&j, "content", str_get(&text), text.n);
        json_out_obj_end(&j);
    }
    json_out_arr_end(&j);
    str_release(&text);
}

static int n_turns(const Spoken *p) { return p->messages ? json_len(p->messages) : p->d.n; }

static bool by_assistant(const Spoken *p, int i) {
    if (!p->messages) return p->d.msg[i].role == ROLE_ASSISTANT;
    const char *role = json_str(json_get(json_at(p->messages, i), "role"), NULL);
    return role && !strcmp(role, "assistant");
}

/* Its first n turns. */
static bool render(JinjaOut *out, const ChatTemplate *t, const Spoken *p, int n, bool respond, Error *err) {
    Str text = {0};
    Json *messages = NULL;
    JsonBuild *b = p->messages ? json_build_new() : NULL;
    JinjaError e = {0};
    JinjaChat c = {.var = t->var, .n_var = t->n_var, .add_generation_prompt = respond, .now_s = t->now_s};
    bool ok = true;
    if (p->messages) {
        c.messages = marked(b, t, p->messages, n);
        c.tools = p->tools ? marked(b, t, p->tools, json_len(p->tools)) : NULL;
        ok = (c.messages && (c.tools || !p->tools)) ||
             error_set(err, ERR_FORMAT, "messages or tools are nested deeper than %d", (int)MAX_DEPTH);
    } else {
        put_messages(&text, t, (Dialogue){p->d.msg, n});
        ok = json_parse(&messages, text.s, text.n, 0, "messages", 1, err);
        c.messages = messages;
    }
    ok = ok && (jinja_render(t->jinja, &c, out, &e) || template_error(t, &e, err));
    json_build_free(b);
    json_release(messages);
    jinja_error_release(&e);
    str_release(&text);
    return ok;
}

/* ---- text to ids ---- */

/* A rendering without its marks. plain: what users wrote; an empty one is a place no token reaches across. */
typedef struct {
    Str text;
    SpanBuf plain, weighed;
} Rendering;

static void stretch_add(SpanBuf *b, size_t from, size_t to) {
    if (b->n == b->cap) {
        b->cap = b->cap ? 2 * b->cap : 8;
        b->at = mem_grow(b->at, (size_t)b->cap * sizeof *b->at);
    }
    b->at[b->n++] = (ByteSpan){(uint32_t)from, (uint32_t)to};
}

static void rendering_release(Rendering *r) {
    str_release(&r->text);
    spanbuf_release(&r->plain);
    spanbuf_release(&r->weighed);
}

static int by_begin(const void *a, const void *b) {
    const JinjaSpan *p = a, *q = b;
    return (p->begin > q->begin) - (p->begin < q->begin);
}

/* Takes the marks out of out->text; its spans, in code points, become byte ranges of what is left. Spans may nest. */
static void unmark(Rendering *r, JinjaOut *out) {
    const char *s = str_get(&out->text);
    size_t n = out->text.n;
    int64_t at = 0; /* code points */
    int next = 0;
    size_t *end = mem_alloc((size_t)(out->n_span + 1) * sizeof *end);
    size_t open = SIZE_MAX;
    if (out->n_span) qsort(out->span, (size_t)out->n_span, sizeof *out->span, by_begin);
    for (size_t i = 0; i <= n; at++) {
        for (; next < out->n_span && out->span[next].begin <= at; next++) {
            stretch_add(&r->weighed, r->text.n, r->text.n);
            end[r->weighed.n - 1] = SIZE_MAX;
        }
        for (int k = 0; k < r->weighed.n; k++)
            if (end[k] == SIZE_MAX && out->span[k].end <= at) {
                end[k] = r->text.n;
                r->weighed.at[k].to = (uint32_t)r->text.n;
            }
        if (i == n) break;
        size_t len = 1;
        while (i + len < n && ((unsigned char)s[i + len] & 0xC0) == 0x80) len++;
        if (len == MARK && memcmp(s + i, mark_open, MARK) == 0)
            open = r->text.n;
        else if (len == MARK && memcmp(s + i, mark_close, MARK) == 0) {
            stretch_add(&r->plain, open == SIZE_MAX ? r->text.n : open, r->text.n);
            open = SIZE_MAX;
        } else
            str_putn(&r->text, s + i, len);
        i += len;
    }
    for (int k = 0; k < r->weighed.n; k++)
        if (end[k] == SIZE_MAX) r->weighed.at[k].to = (uint32_t)r->text.n;
    free(end);
}

static bool overlaps(const SpanBuf *b, ByteSpan at) {
    for (int i = 0; i < b->n; i++)
        if (at.from < b->at[i].to && b->at[i].from < at.to) return true;
    return false;
}

/* The whole rendering at once, as every other program encodes it; a token is weighed when it overlaps a weighed
 * stretch. */
static void put_rendering(Sequence *s, const Chat *c, const Rendering *r, float weight) {
    EncodeOpts o = {.special = true, .plain = r->plain.at, .n_plain = r->plain.n};
    SpanBuf spans = {0};
    int first = s->tok.n;
    bool weigh = weight != 0 && r->weighed.n > 0;
    if (r->text.n > tokenizer_most_bytes(c->tok)) {
        sequence_fail(s, "the dialogue is longer than the tokenizer takes at once");
        return;
    }
    sequence_encode(s, c, str_get(&r->text), r->text.n, &o, weigh ? &spans : NULL);
    for (int i = first; weigh && i < s->tok.n; i++)
        if (overlaps(&r->weighed, spans.at[i - first])) s->weight[i] = weight;
    spanbuf_release(&spans);
}

/* ---- dialogues ---- */

static size_t chars(const char *s, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((unsigned char)s[i] & 0xC0) != 0x80;
    return count;
}

static bool begins(const JinjaOut *whole, const JinjaOut *part) {
    return part->text.n <= whole->text.n && memcmp(str_get(&whole->text), str_get(&part->text), part->text.n) == 0;
}

static bool not_prefix(const ChatTemplate *t, int turns, const char *marks, Error *err) {
    return error_set(
        err, ERR_FORMAT,
        "%s: %s, and what the template writes up to turn %d is not how it writes the whole dialogue: nobody "
        "can say which tokens to train on",
        str_get(&t->name), marks, turns);
}

/* The spans of a template that marks none: what each assistant's turn adds. */
static bool grow_spans(JinjaOut *whole, const ChatTemplate *t, const Spoken *p, int learn_from, Error *err) {
    JinjaOut before = {0}, after = {0};
    bool ok = true;
    for (int i = learn_from; i < n_turns(p) && ok; i++) {
        if (!by_assistant(p, i)) continue;
        ok = render(&before, t, p, i, true, err) && render(&after, t, p, i + 1, false, err);
        if (!ok) break;
        if (!begins(whole, &before) || !begins(whole, &after) || after.text.n < before.text.n) {
            ok = not_prefix(t, i + 1, "the template marks no assistant turns with {% generation %}", err);
            break;
        }
        whole->span = mem_grow(whole->span, (size_t)(whole->n_span + 1) * sizeof *whole->span);
        whole->span[whole->n_span++] = (JinjaSpan){(int64_t)chars(str_get(&before.text), before.text.n),
                                                   (int64_t)chars(str_get(&after.text), after.text.n)};
    }
    jinja_out_release(&before);
    jinja_out_release(&after);
    return ok;
}

/* Of a template that marks them: those that turns from learn_from on have added. */
static bool drop_spans(JinjaOut *whole, const ChatTemplate *t, const Spoken *p, int learn_from, Error *err) {
    JinjaOut before = {0};
    bool ok = render(&before, t, p, learn_from, false, err);
    if (ok && !begins(whole, &before)) ok = not_prefix(t, learn_from, "the first turns are context", err);
    int64_t from = ok ? (int64_t)chars(str_get(&before.text), before.text.n) : 0;
    int n = 0;
    for (int i = 0; i < whole->n_span && ok; i++)
        if (whole->span[i].begin >= from) whole->span[n++] = whole->span[i];
    whole->n_span = n;
    jinja_out_release(&before);
    return ok;
}

void template_dialogue(Sequence *s, const Chat *c, const Spoken *p, int learn_from, float weight_assistant,
                       bool respond) {
    const ChatTemplate *t = c->tmpl;
    Error err = {0};
    JinjaOut out = {0};
    Rendering r = {0};
    if (s->failed) return;
    bool ok = render(&out, t, p, n_turns(p), respond, &err), marks = jinja_has_generation(t->jinja);
    if (ok && weight_assistant != 0 && !marks) ok = grow_spans(&out, t, p, learn_from, &err);
    if (ok && weight_assistant != 0 && marks && learn_from > 0) ok = drop_spans(&out, t, p, learn_from, &err);
    if (ok) {
        unmark(&r, &out);
        put_rendering(s, c, &r, weight_assistant);
    } else
        sequence_fail(s, err.msg);
    rendering_release(&r);
    jinja_out_release(&out);
}
