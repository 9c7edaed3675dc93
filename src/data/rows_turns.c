/* Dialogues: transcripts, and lists of messages in the spellings found in the wild.
 *
 * Transcripts ("\n\nHuman: .. \n\nAssistant: ..") are cut at real turn markers only: at the very start or after a blank
 * line, never in the middle of a line. Preference rows that hold the whole dialogue twice are split at the *last*
 * assistant marker; the usual way, the longest common prefix, cuts into the replies of 19 % of the rows of the best
 * known such set, because both replies begin alike. */
#include "data/rows_int.h"

#include <stdlib.h>
#include <string.h>

static bool space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

static void trim(const char **s, size_t *n) {
    while (*n && space(**s)) ++*s, --*n;
    while (*n && space((*s)[*n - 1])) --*n;
}

bool text_blank(const char *s) {
    size_t n = strlen(s);
    trim(&s, &n);
    return n == 0;
}

void turns_put(Turns *t, Role role, const char *s, size_t n) {
    const char *core = s;
    size_t n_core = n;
    trim(&core, &n_core);
    if (n_core == 0) {
        t->rows->n_empty++;
        return;
    }
    if (t->n && t->msg[t->n - 1].role == role) {
        Message *last = &t->msg[t->n - 1];
        last->text = heap_printf(&t->rows->heap, "%s\n\n%.*s", last->text, (int)n, s);
        t->rows->n_merged++;
        return;
    }
    if (t->n == t->cap) t->cap = t->cap ? 2 * t->cap : 8, t->msg = mem_grow(t->msg, sizeof *t->msg * (size_t)t->cap);
    t->msg[t->n++] = (Message){role, heap_strn(&t->rows->heap, s, n)};
}

Dialogue turns_dialogue(const Turns *t, int n) {
    Message *m = heap_alloc(&t->rows->heap, sizeof *m * (size_t)(n + 1));
    for (int i = 0; i < n; i++) m[i] = t->msg[i];
    return (Dialogue){m, n};
}

/* ---- transcripts */

static const char *const marker[2] = {"Human:", "Assistant:"};

/* Is there a turn marker at s + at? Returns its role or -1 and *skip, the bytes up to the turn's text. */
static int marker_at(const char *s, size_t n, size_t at, size_t *skip) {
    size_t lead = at + 2 <= n && s[at] == '\n' && s[at + 1] == '\n' ? 2 : 0;
    if (lead == 0 && at > 0) return -1;
    for (int r = 0; r < 2; r++) {
        size_t k = strlen(marker[r]);
        if (at + lead + k <= n && !memcmp(s + at + lead, marker[r], k)) {
            *skip = lead + k;
            return r;
        }
    }
    return -1;
}

/* A transcript starts with a human turn; without the two newlines in front it must also have another marker. */
bool is_transcript(const char *s, size_t n) {
    size_t skip;
    if (marker_at(s, n, 0, &skip) != 0) return false;
    if (s[0] == '\n') return true;
    for (size_t i = 1; i < n; i++) {
        if (s[i] == '\n' && marker_at(s, n, i, &skip) >= 0) return true;
    }
    return false;
}

void read_transcript(Turns *t, const char *s, size_t n, bool *open_reply) {
    size_t at = 0, skip = 0;
    int role = marker_at(s, n, 0, &skip);
    while (role >= 0) {
        size_t from = at + skip, to = from;
        int next = -1;
        for (; to < n; to++) {
            if (s[to] == '\n' && (next = marker_at(s, n, to, &skip)) >= 0) break;
        }
        const char *text = s + from;
        size_t n_text = to - from;
        trim(&text, &n_text);
        *open_reply = role == 1 && n_text == 0;
        if (*open_reply && to == n) return;
        turns_put(t, role ? ROLE_ASSISTANT : ROLE_USER, text, n_text);
        at = to;
        role = next;
    }
}

/* ---- messages */

typedef enum { SAYS_SYSTEM, SAYS_USER, SAYS_ASSISTANT, SAYS_TOOL, SAYS_CALL } Says;

static bool find_role(const char *s, Says *says) {
    static const struct {
        const char *name;
        Says says;
    } known[] = {{"user", SAYS_USER},     {"assistant", SAYS_ASSISTANT},    {"system", SAYS_SYSTEM},
                 {"human", SAYS_USER},    {"gpt", SAYS_ASSISTANT},          {"developer", SAYS_SYSTEM},
                 {"tool", SAYS_TOOL},     {"model", SAYS_ASSISTANT},        {"observation", SAYS_TOOL},
                 {"function", SAYS_TOOL}, {"function_response", SAYS_TOOL}, {"function_call", SAYS_CALL}};
    for (int i = 0; i < COUNT_OF(known); i++) {
        if (!strcmp(s, known[i].name)) return *says = known[i].says, true;
    }
    return false;
}

typedef struct {
    Says says;
    const Json *content, *calls; /* calls: tool_calls that are not empty, or NULL */
} Said;

static const Json *not_null(const Json *j) { return j && json_kind(j) != JSON_NIL ? j : NULL; }

static const char *role_of(const Json *m, bool *from) {
    const char *role = json_str(json_get(m, "role"), NULL);
    *from = !role;
    return role ? role : json_str(json_get(m, "from"), NULL);
}

static bool read_message(RowIn *in, const Json *m, const char *what, int number, Said *out) {
    bool from;
    const char *role = role_of(m, &from);
    const Json *calls = not_null(json_get(m, "tool_calls"));
    if (!role) return row_bad(in, "%s: entry %d has no role", what, number);
    if (!find_role(role, &out->says))
        return row_bad(in, "unknown role: %.40s (known are system, user, assistant, tool, and human, gpt)", role);
    out->content = not_null(json_get(m, from ? "value" : "content"));
    out->calls = json_len(calls) > 0 ? calls : NULL;
    if (!out->content && !out->calls) return row_bad(in, "content missing in entry %d of %s", number, what);
    return true;
}

/* Content is a string or a list of parts {type: "text", text}. */
static bool read_content(RowIn *in, const Json *content, Str *out) {
    size_t n;
    const char *s = content ? json_str(content, &n) : NULL;
    str_clear(out);
    if (!content) return true;
    if (s)
        str_putn(out, s, n);
    else if (json_kind(content) != JSON_ARR)
        return row_bad(in, "a message's content must be text");
    for (int i = 0; !s && i < json_len(content); i++) {
        const Json *part = json_at(content, i);
        const char *type = json_str(json_get(part, "type"), NULL), *text = json_str(json_get(part, "text"), &n);
        if (!text || (type && strcmp(type, "text") != 0))
            return row_bad(in, "only text parts are supported in a message's content");
        str_putn(out, text, n);
    }
    return out->n == 0 || !memchr(out->s, 0, out->n) || row_skip(in, "NUL character in text");
}

bool read_messages(RowIn *in, Turns *t, const Json *list, const char *what) {
    static const Role role[] = {
        [SAYS_SYSTEM] = ROLE_SYSTEM, [SAYS_USER] = ROLE_USER, [SAYS_ASSISTANT] = ROLE_ASSISTANT};
    Str text = {0};
    bool ok = true;
    if (!list || json_kind(list) != JSON_ARR) return row_bad(in, "%s must be a string or a list of messages", what);
    for (int i = 0; ok && i < json_len(list); i++) {
        Said said;
        ok = read_message(in, json_at(list, i), what, i + 1, &said) && read_content(in, said.content, &text);
        if (!ok || said.says >= SAYS_TOOL) continue;
        if (said.says == SAYS_SYSTEM && t->n && t->msg[t->n - 1].role != ROLE_SYSTEM)
            ok = row_bad(in, "%s: a system message must come first", what);
        if (ok && !(said.calls && text.n == 0)) turns_put(t, role[said.says], str_get(&text), text.n);
    }
    str_release(&text);
    return ok;
}

/* ---- tools */

bool messages_use_tools(const Json *list) {
    for (int i = 0; i < json_len(list); i++) {
        const Json *m = json_at(list, i);
        bool from;
        const char *role = role_of(m, &from);
        Says says = SAYS_USER;
        if (json_len(json_get(m, "tool_calls")) > 0 || (role && find_role(role, &says) && says >= SAYS_TOOL))
            return true;
    }
    return false;
}

static void put_call(JsonOut *j, const Json *name, const Json *arguments) {
    json_out_obj(j, NULL);
    json_out_str(j, "type", "function");
    json_out_obj(j, "function");
    json_out_node(j, "name", name);
    json_out_node(j, "arguments", arguments);
    json_out_obj_end(j);
    json_out_obj_end(j);
}

/* Calls written as text, {"name": .., "arguments": {..}} or a list of those. */
static bool put_spelled_calls(RowIn *in, JsonOut *j, const char *s, size_t n) {
    Json *call;
    Error err = {0};
    bool ok = true;
    if (!json_parse(&call, s, n, 0, in->file, in->line, &err))
        return row_bad(in, "a function_call is not JSON: %s", err.msg);
    int n_call = json_kind(call) == JSON_ARR ? json_len(call) : 1;
    for (int i = 0; i < n_call && ok; i++) {
        const Json *c = json_kind(call) == JSON_ARR ? json_at(call, i) : call;
        ok = json_str(json_get(c, "name"), NULL) != NULL;
        if (ok) put_call(j, json_get(c, "name"), json_get(c, "arguments"));
    }
    json_release(call);
    return ok || row_bad(in, "a function_call has no name");
}

/* tool_calls: [{function: {name, arguments}}], where the arguments may be JSON inside a string. */
static bool put_calls(RowIn *in, JsonOut *j, const Json *calls) {
    for (int i = 0; i < json_len(calls); i++) {
        const Json *call = json_at(calls, i), *f = json_get(call, "function");
        if (!f) f = call;
        const Json *arguments = json_get(f, "arguments");
        Json *parsed = NULL;
        Error err = {0};
        size_t n;
        const char *s = json_str(arguments, &n);
        if (!json_str(json_get(f, "name"), NULL)) return row_bad(in, "a tool call has no name");
        if (s && !json_parse(&parsed, s, n, 0, in->file, in->line, &err))
            return row_bad(in, "the arguments of a tool call are not JSON: %s", err.msg);
        put_call(j, json_get(f, "name"), parsed ? parsed : arguments);
        json_release(parsed);
    }
    return true;
}

static const char *const role_name[] = {[SAYS_SYSTEM] = "system",
                                        [SAYS_USER] = "user",
                                        [SAYS_ASSISTANT] = "assistant",
                                        [SAYS_TOOL] = "tool",
                                        [SAYS_CALL] = "assistant"};

static void put_system(JsonOut *j, const char *text) {
    json_out_obj(j, NULL);
    json_out_str(j, "role", "system");
    json_out_str(j, "content", text);
    json_out_obj_end(j);
}

/* {role, content, tool_calls?} */
static bool put_normal(RowIn *in, JsonOut *j, const Json *m, const char *what, int number) {
    Said said;
    Str content = {0};
    bool ok = read_message(in, m, what, number, &said) && read_content(in, said.content, &content);
    if (ok) {
        bool call = said.says == SAYS_CALL;
        json_out_obj(j, NULL);
        json_out_str(j, "role", role_name[said.says]);
        json_out_str(j, "content", call ? "" : str_get(&content));
        if (call || said.calls) {
            json_out_arr(j, "tool_calls");
            ok = call ? put_spelled_calls(in, j, str_get(&content), content.n) : put_calls(in, j, said.calls);
            json_out_arr_end(j);
        }
        json_out_obj_end(j);
    }
    str_release(&content);
    return ok;
}

bool messages_to_json(RowIn *in, const Json *list, const Json *more, const char *system, const char *what,
                      const char **out) {
    Str text = {0};
    JsonOut j;
    bool ok = true;
    json_out_init(&j, &text, 0);
    json_out_arr(&j, NULL);
    if (system) put_system(&j, system);
    for (int i = 0; ok && i < json_len(list); i++) ok = put_normal(in, &j, json_at(list, i), what, i + 1);
    for (int i = 0; ok && i < json_len(more); i++) ok = put_normal(in, &j, json_at(more, i), what, i + 1);
    json_out_arr_end(&j);
    if (ok) *out = heap_strn(&in->rows->heap, text.s, text.n);
    str_release(&text);
    return ok;
}

/* ---- for templates */

/* {role, content, ..} as it stands, its role under the name that templates know. */
static bool put_as_is(RowIn *in, JsonOut *j, const Json *m, const char *what, int number) {
    Said said;
    if (!read_message(in, m, what, number, &said)) return false;
    json_out_obj(j, NULL);
    for (int i = 0; i < json_len(m); i++) {
        const Json *value;
        const char *key = json_key_at(m, i, &value);
        if (!strcmp(key, "role") && said.says != SAYS_SYSTEM) /* templates tell "developer" from "system" */
            json_out_str(j, key, role_name[said.says]);
        else
            json_out_node(j, key, value);
    }
    json_out_obj_end(j);
    return true;
}

static bool put_list(RowIn *in, JsonOut *j, const Json *list, const char *what) {
    bool ok = true;
    for (int i = 0; ok && i < json_len(list); i++) {
        bool from;
        const Json *m = json_at(list, i);
        role_of(m, &from);
        ok = from ? put_normal(in, j, m, what, i + 1) : put_as_is(in, j, m, what, i + 1);
    }
    return ok;
}

bool messages_to_talk(RowIn *in, const Json *list, const Json *more, const char *system, const char *what,
                      const char **out, int *n_first) {
    Str text = {0};
    JsonOut j;
    json_out_init(&j, &text, 0);
    json_out_arr(&j, NULL);
    if (system) put_system(&j, system);
    bool ok = put_list(in, &j, list, what) && put_list(in, &j, more, what);
    json_out_arr_end(&j);
    *n_first = json_len(list) + (system != NULL);
    /* It will be read back, where no string may hold NUL. */
    Json *check = NULL;
    Error err = {0};
    if (ok && !json_parse(&check, text.s, text.n, 0, in->file, in->line, &err))
        ok = row_skip(in, "NUL character in text");
    json_release(check);
    if (ok) *out = heap_strn(&in->rows->heap, text.s, text.n);
    str_release(&text);
    return ok;
}

bool messages_of_assistant(const Json *list) {
    for (int i = 0; i < json_len(list); i++) {
        bool from;
        Says says = SAYS_USER;
        const char *role = role_of(json_at(list, i), &from);
        if (role && find_role(role, &says) && (says == SAYS_ASSISTANT || says == SAYS_CALL)) return true;
    }
    return false;
}

bool row_tools(RowIn *in, const char **out) {
    const Json *j = row_get(in, "tools");
    Json *parsed = NULL;
    Error err = {0};
    size_t n = 0;
    const char *s = j ? json_str(j, &n) : NULL;
    *out = NULL;
    if (!j || (s && n == 0)) return true;
    if (s && !json_parse(&parsed, s, n, 0, in->file, in->line, &err))
        return row_bad(in, "tools is a string that is not JSON: %s", err.msg);
    if (parsed) j = parsed;
    bool none = json_kind(j) == JSON_NIL, ok = none || json_kind(j) == JSON_ARR;
    if (ok && json_len(j) > 0) {
        Str text = {0};
        JsonOut o;
        Json *check = NULL;
        json_out_init(&o, &text, 0);
        json_out_node(&o, NULL, j);
        bool read = json_parse(&check, text.s, text.n, 0, in->file, in->line, &err);
        if (read) *out = heap_strn(&in->rows->heap, text.s, text.n);
        json_release(check);
        json_release(parsed);
        str_release(&text);
        return read || row_skip(in, "NUL character in text");
    }
    json_release(parsed);
    return ok || row_bad(in, "tools must be a list of functions, or such a list as JSON inside a string");
}
