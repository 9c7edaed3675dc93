/* The shapes of rows found in the wild, read into one form.
 *
 * Transcripts ("\n\nHuman: .. \n\nAssistant: ..") are cut at real turn markers only: at the very start or after a blank
 * line, never in the middle of a line. Preference rows that hold the whole dialogue twice are split at the *last*
 * assistant marker; the usual way, the longest common prefix, cuts into the replies of 19 % of the rows of the best
 * known such set, because both replies begin alike. */
#include "data/rows_int.h"

#include <stdlib.h>
#include <string.h>

/* ---- turns under construction; texts live in the rows' heap */

typedef struct {
    Message *msg;
    int n, cap;
    Heap *heap;
} Turns;

static bool space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

static void trim(const char **s, size_t *n) {
    while (*n && space(**s)) ++*s, --*n;
    while (*n && space((*s)[*n - 1])) --*n;
}

static bool is_blank(const char *s) {
    size_t n = strlen(s);
    trim(&s, &n);
    return n == 0;
}

static void turns_put(Turns *t, Role role, const char *s, size_t n) {
    const char *core = s;
    size_t n_core = n;
    trim(&core, &n_core);
    if (n_core == 0) return;
    if (t->n && t->msg[t->n - 1].role == role) {
        Message *last = &t->msg[t->n - 1];
        last->text = heap_printf(t->heap, "%s\n\n%.*s", last->text, (int)n, s);
        return;
    }
    if (t->n == t->cap) t->cap = t->cap ? 2 * t->cap : 8, t->msg = mem_grow(t->msg, sizeof *t->msg * (size_t)t->cap);
    t->msg[t->n++] = (Message){role, heap_strn(t->heap, s, n)};
}

static Dialogue turns_dialogue(const Turns *t, int n) {
    Message *m = heap_alloc(t->heap, sizeof *m * (size_t)(n + 1));
    for (int i = 0; i < n; i++) m[i] = t->msg[i];
    return (Dialogue){m, n};
}

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
static bool is_transcript(const char *s, size_t n) {
    size_t skip;
    if (marker_at(s, n, 0, &skip) != 0) return false;
    if (s[0] == '\n') return true;
    for (size_t i = 1; i < n; i++) {
        if (s[i] == '\n' && marker_at(s, n, i, &skip) >= 0) return true;
    }
    return false;
}

/* *open_reply: the text ends in an assistant marker with nothing behind, asking for the reply. */
static void read_transcript(Turns *t, const char *s, size_t n, bool *open_reply) {
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
        turns_put(t, role ? ROLE_ASSISTANT : ROLE_USER, text, n_text);
        at = to;
        role = next;
    }
}

/* ---- JSON values */

static bool missing(RowIn *in, const char *key) {
    Str keys = {0};
    for (int i = 0; i < json_len(in->j) && keys.n < 200; i++) {
        const Json *value;
        str_printf(&keys, "%s%.40s", i ? ", " : "", json_key_at(in->j, i, &value));
    }
    row_bad(in, "'%s' is missing; the row has: %s", key, keys.n ? keys.s : "no fields");
    str_release(&keys);
    return false;
}

static bool need_text(RowIn *in, const char *key, const char **out) {
    const Json *j = json_get(in->j, key);
    size_t n;
    const char *s = j ? json_str(j, &n) : NULL;
    if (!j) return missing(in, key);
    if (!s) return row_bad(in, "'%s' must be a string", key);
    *out = heap_strn(&in->rows->heap, s, n);
    return true;
}

static bool text_list(RowIn *in, const char *key, int least, const char *const **out, int *n_out) {
    const Json *list = json_get(in->j, key);
    if (!list || json_kind(list) != JSON_ARR) return row_bad(in, "'%s' must be a list of strings", key);
    int n = json_len(list);
    if (n < least) return row_bad(in, "'%s' has %d entries, expected at least %d", key, n, least);
    const char **item = heap_alloc(&in->rows->heap, sizeof *item * (size_t)n);
    for (int i = 0; i < n; i++) {
        size_t len;
        const char *s = json_str(json_at(list, i), &len);
        if (!s) return row_bad(in, "'%s' must be a list of strings: entry %d is none", key, i + 1);
        item[i] = heap_strn(&in->rows->heap, s, len);
    }
    *out = item;
    *n_out = n;
    return true;
}

static bool read_role(RowIn *in, const char *s, Role *role) {
    static const struct {
        const char *name;
        Role role;
    } known[] = {{"user", ROLE_USER},     {"human", ROLE_USER},    {"assistant", ROLE_ASSISTANT},
                 {"gpt", ROLE_ASSISTANT}, {"system", ROLE_SYSTEM}, {"developer", ROLE_SYSTEM}};
    for (int i = 0; i < COUNT_OF(known); i++) {
        if (!strcmp(s, known[i].name)) return *role = known[i].role, true;
    }
    return row_bad(in, "unknown role '%.40s'; known are system, user, assistant (and human, gpt)", s);
}

/* Content is a string or a list of parts {type: "text", text}. */
static bool read_content(RowIn *in, const Json *content, Str *out) {
    size_t n;
    const char *s = content ? json_str(content, &n) : NULL;
    str_clear(out);
    if (s) return str_putn(out, s, n), true;
    if (!content || json_kind(content) != JSON_ARR) return row_bad(in, "a message has no content of text");
    for (int i = 0; i < json_len(content); i++) {
        const Json *part = json_at(content, i);
        const char *type = json_str(json_get(part, "type"), NULL);
        s = json_str(json_get(part, "text"), &n);
        if (!s || (type && strcmp(type, "text") != 0))
            return row_bad(in, "only text parts are supported in a message's content");
        str_putn(out, s, n);
    }
    return true;
}

/* Message lists, in either spelling of their two keys. */
static bool read_messages(RowIn *in, Turns *t, const Json *list, const char *what) {
    Str text = {0};
    bool ok = true;
    if (json_kind(list) != JSON_ARR) return row_bad(in, "'%s' must be a string or a list of messages", what);
    for (int i = 0; ok && i < json_len(list); i++) {
        const Json *m = json_at(list, i), *content = json_get(m, "content");
        const char *role = json_str(json_get(m, "role"), NULL);
        Role r = ROLE_USER;
        if (!role) role = json_str(json_get(m, "from"), NULL), content = json_get(m, "value");
        if (!role)
            ok = row_bad(in, "'%s': entry %d has no role", what, i + 1);
        else
            ok = read_role(in, role, &r) && read_content(in, content, &text);
        if (ok && r == ROLE_SYSTEM && t->n && t->msg[t->n - 1].role != ROLE_SYSTEM)
            ok = row_bad(in, "'%s': a system message must come first", what);
        if (ok) turns_put(t, r, str_get(&text), text.n);
    }
    str_release(&text);
    return ok;
}

static bool starts_right(RowIn *in, const Turns *t) {
    int i = t->n && t->msg[0].role == ROLE_SYSTEM;
    if (i >= t->n) return row_skip(in, "empty prompt");
    return t->msg[i].role == ROLE_USER || row_skip(in, "dialogue starts with the assistant");
}

/* ---- prompts: dialogues that end with the user */

static bool finish_prompt(RowIn *in, const Turns *t, Row *row) {
    if (!starts_right(in, t)) return false;
    if (t->msg[t->n - 1].role != ROLE_USER) return row_skip(in, "prompt ends with the assistant");
    row->prompt = turns_dialogue(t, t->n);
    return true;
}

static bool read_prompt_into(RowIn *in, Turns *t, const char *key) {
    const Json *j = json_get(in->j, key);
    size_t n;
    bool open_reply;
    if (!j) return missing(in, key);
    const char *s = json_str(j, &n);
    if (!s) return read_messages(in, t, j, key);
    if (is_transcript(s, n))
        read_transcript(t, s, n, &open_reply);
    else
        turns_put(t, ROLE_USER, s, n);
    return true;
}

static bool read_prompt(RowIn *in, Row *row, const char *key) {
    Turns t = {.heap = &in->rows->heap};
    bool ok = read_prompt_into(in, &t, key) && finish_prompt(in, &t, row);
    free(t.msg);
    return ok;
}

/* ---- dialogues whose last turn is the reply */

static bool finish_reply(RowIn *in, const Turns *t, Dialogue *prompt, const char **reply) {
    if (!starts_right(in, t)) return false;
    if (t->msg[t->n - 1].role != ROLE_ASSISTANT) return row_skip(in, "last turn is not the assistant's");
    *prompt = turns_dialogue(t, t->n - 1);
    *reply = t->msg[t->n - 1].text;
    return true;
}

static bool read_chat(RowIn *in, Row *row, const char *key) {
    Turns t = {.heap = &in->rows->heap};
    size_t n = 0;
    const Json *system = json_get(in->j, "system"), *list = json_get(in->j, key);
    const char *s = system ? json_str(system, &n) : NULL;
    if (s) turns_put(&t, ROLE_SYSTEM, s, n);
    bool ok = read_messages(in, &t, list, key) && finish_reply(in, &t, &row->prompt, &row->a);
    free(t.msg);
    return ok;
}

static bool read_turns(RowIn *in, Row *row) {
    Turns t = {.heap = &in->rows->heap};
    const char *const *turn;
    int n;
    if (!text_list(in, "turns", 2, &turn, &n)) return false;
    for (int i = 0; i < n; i++) {
        if (is_blank(turn[i])) break; /* two turns of one role would merge */
        turns_put(&t, i % 2 ? ROLE_ASSISTANT : ROLE_USER, turn[i], strlen(turn[i]));
    }
    bool ok = t.n == n ? finish_reply(in, &t, &row->prompt, &row->a) : row_skip(in, "empty reply");
    free(t.msg);
    return ok;
}

static bool read_history(RowIn *in, Turns *t) {
    const Json *history = json_get(in->j, "history");
    if (!history || json_kind(history) == JSON_NIL) return true;
    if (json_kind(history) != JSON_ARR) return row_bad(in, "'history' must be a list of [question, answer]");
    for (int i = 0; i < json_len(history); i++) {
        for (int k = 0; k < 2; k++) {
            size_t n;
            const char *s = json_str(json_at(json_at(history, i), k), &n);
            if (!s) return row_bad(in, "'history' must be a list of [question, answer]: entry %d is none", i + 1);
            turns_put(t, k ? ROLE_ASSISTANT : ROLE_USER, s, n);
        }
    }
    return true;
}

static bool read_alpaca(RowIn *in, Row *row) {
    Turns t = {.heap = &in->rows->heap};
    Str ask = {0};
    size_t n = 0, n_input = 0;
    const char *system = json_str(json_get(in->j, "system"), &n), *instruction = NULL;
    const Json *input = json_get(in->j, "input");
    const char *s = input ? json_str(input, &n_input) : NULL;
    bool ok = true;
    if (input && !s && json_kind(input) != JSON_NIL) ok = row_bad(in, "'input' must be a string");
    if (ok && system) turns_put(&t, ROLE_SYSTEM, system, n);
    ok = ok && need_text(in, "instruction", &instruction) && need_text(in, "output", &row->a) && read_history(in, &t);
    if (ok) {
        str_put(&ask, instruction);
        if (n_input && !is_blank(s)) {
            str_putc(&ask, '\n');
            str_putn(&ask, s, n_input);
        }
        turns_put(&t, ROLE_USER, str_get(&ask), ask.n);
        ok = finish_prompt(in, &t, row);
    }
    str_release(&ask);
    free(t.msg);
    return ok;
}

/* One assistant message, as a string or a list that holds just it. */
static bool read_reply(RowIn *in, const char *key, const char **out) {
    const Json *j = json_get(in->j, key);
    if (!j || json_kind(j) == JSON_STR) return need_text(in, key, out);
    Turns t = {.heap = &in->rows->heap};
    bool ok = read_messages(in, &t, j, key);
    if (ok && t.n == 0) ok = row_skip(in, "empty reply");
    if (ok && (t.n != 1 || t.msg[0].role != ROLE_ASSISTANT))
        ok = row_bad(in, "'%s' must hold one assistant message", key);
    if (ok) *out = t.msg[0].text;
    free(t.msg);
    return ok;
}

static bool read_instruction(RowIn *in, Row *row) {
    bool ok;
    if (json_get(in->j, "messages"))
        ok = read_chat(in, row, "messages");
    else if (json_get(in->j, "conversations"))
        ok = read_chat(in, row, "conversations");
    else if (json_get(in->j, "turns"))
        ok = read_turns(in, row);
    else if (json_get(in->j, "instruction"))
        ok = read_alpaca(in, row);
    else
        ok = read_prompt(in, row, "prompt") &&
             read_reply(in, json_get(in->j, "completion") ? "completion" : "response", &row->a);
    return ok && (!is_blank(row->a) || row_skip(in, "empty reply"));
}

/* ---- preferences */

static bool dialogues_equal(Dialogue a, Dialogue b) {
    if (a.n != b.n) return false;
    for (int i = 0; i < a.n; i++) {
        if (a.msg[i].role != b.msg[i].role || strcmp(a.msg[i].text, b.msg[i].text) != 0) return false;
    }
    return true;
}

/* A whole dialogue under key: transcript or messages. *has_prompt: it held more than the reply. */
static bool read_side(RowIn *in, const char *key, bool prompt_given, Dialogue *prompt, const char **reply,
                      bool *has_prompt) {
    const Json *j = json_get(in->j, key);
    Turns t = {.heap = &in->rows->heap};
    size_t n = 0;
    bool ok = true, open_reply = false;
    *has_prompt = false;
    if (!j) return missing(in, key);
    const char *s = json_str(j, &n);
    if (s && prompt_given) return need_text(in, key, reply);
    if (s && !is_transcript(s, n))
        return row_bad(in, "no 'prompt', and '%s' is not a transcript (\\n\\nHuman: .. \\n\\nAssistant: ..)", key);
    if (s)
        read_transcript(&t, s, n, &open_reply);
    else
        ok = read_messages(in, &t, j, key);
    if (ok && open_reply) ok = row_skip(in, "empty reply");
    if (ok && t.n == 1 && t.msg[0].role == ROLE_ASSISTANT && prompt_given)
        *reply = t.msg[0].text;
    else if (ok)
        ok = finish_reply(in, &t, prompt, reply), *has_prompt = ok;
    free(t.msg);
    return ok;
}

static bool read_preference(RowIn *in, Row *row) {
    bool given = json_get(in->j, "prompt") != NULL, inside[2] = {false, false};
    Dialogue prompt[2] = {{NULL, 0}, {NULL, 0}};
    if (!read_side(in, "chosen", given, &prompt[0], &row->a, &inside[0])) return false;
    if (!read_side(in, "rejected", given, &prompt[1], &row->b, &inside[1])) return false;
    if (inside[0] != inside[1] || (inside[0] && !dialogues_equal(prompt[0], prompt[1])))
        return row_skip(in, "prompts differ");
    if (inside[0])
        row->prompt = prompt[0];
    else if (!read_prompt(in, row, "prompt"))
        return false;
    if (is_blank(row->a) || is_blank(row->b)) return row_skip(in, "empty reply");
    return strcmp(row->a, row->b) != 0 || row_skip(in, "equal replies");
}

/* ---- the others */

static bool read_bare_prompt(RowIn *in, Row *row) {
    const char *const *turn;
    int n;
    if (json_get(in->j, "prompt")) return read_prompt(in, row, "prompt");
    if (json_get(in->j, "messages")) return read_prompt(in, row, "messages");
    if (!json_get(in->j, "turns")) return missing(in, "prompt");
    if (!text_list(in, "turns", 1, &turn, &n)) return false;
    Turns t = {.heap = &in->rows->heap};
    turns_put(&t, ROLE_USER, turn[0], strlen(turn[0]));
    bool ok = finish_prompt(in, &t, row);
    free(t.msg);
    return ok;
}

/* 0 or 1, also as a boolean; -1 if allowed. */
static bool read_label(RowIn *in, const char *key, int least, int *label) {
    const Json *j = json_get(in->j, key);
    JsonKind k = j ? json_kind(j) : JSON_NIL;
    int64_t v = k == JSON_YES ? 1 : k == JSON_NO ? 0 : k == JSON_INT ? json_int(j, -2) : -2;
    if (v < least || v > 1) return row_bad(in, "'%s' must be %s0 or 1", key, least < 0 ? "-1, " : "");
    *label = (int)v;
    return true;
}

/* An empty reply is a reply too when the task is to say whether it does harm. */
static bool read_labelled(RowIn *in, Row *row) {
    return read_prompt(in, row, "prompt") && need_text(in, "response", &row->a) &&
           read_label(in, "harmful", 0, &row->label);
}

static bool read_critique(RowIn *in, Row *row) {
    const Json *revision = json_get(in->j, "revision");
    row->label = -1;
    if (!read_prompt(in, row, "prompt") || !need_text(in, "response", &row->a)) return false;
    if (!need_text(in, "principle", &row->principle) || !need_text(in, "critique", &row->critique)) return false;
    return !revision || json_kind(revision) == JSON_NIL || need_text(in, "revision", &row->b);
}

static bool read_judge(RowIn *in, Row *row, bool gold) {
    const char *answer;
    if (!read_prompt(in, row, "prompt") || !need_text(in, "a", &row->a) || !need_text(in, "b", &row->b)) return false;
    if (!need_text(in, "principle", &row->principle)) return false;
    if (gold) return read_label(in, "better", -1, &row->label);
    if (!need_text(in, "answer", &answer)) return false;
    if (strcmp(answer, "first") != 0 && strcmp(answer, "second") != 0)
        return row_bad(in, "'answer' is '%.40s', expected 'first' or 'second'", answer);
    row->label = strcmp(answer, "second") == 0;
    return true;
}

static bool read_format(RowIn *in, Row *row) {
    const char *kind;
    if (!json_get(in->j, "kind") && json_get(in->j, "better")) return read_judge(in, row, true);
    if (!need_text(in, "kind", &kind)) return false;
    if (!strcmp(kind, "critique")) return read_critique(in, row);
    if (!strcmp(kind, "judge")) return read_judge(in, row, false);
    return row_bad(in, "'kind' is '%.40s', expected 'critique' or 'judge'", kind);
}

static bool read_choice(RowIn *in, Row *row) {
    const Json *gold = json_get(in->j, "gold");
    const char *task;
    if (json_get(in->j, "context_options")) return row_skip(in, "choice of contexts");
    if (!need_text(in, "task", &task) || !read_prompt(in, row, "prompt")) return false;
    if (!text_list(in, "choices", 2, &row->list, &row->n_list)) return false;
    int64_t k = gold && json_kind(gold) == JSON_INT ? json_int(gold, -1) : -1;
    if (k < 0 || k >= row->n_list) return row_bad(in, "'gold' must be an index of 'choices' (0..%d)", row->n_list - 1);
    row->label = (int)k;
    if (!row->category[0]) row->category = task;
    return true;
}

static bool read_paraphrase(RowIn *in, Row *row) { return text_list(in, "prompts", 2, &row->list, &row->n_list); }

static bool read_text(RowIn *in, Row *row) {
    row->label = -1;
    return need_text(in, "text", &row->a) && (!is_blank(row->a) || row_skip(in, "empty text"));
}

bool row_shape(RowIn *in, Row *row, RowKind kind) {
    switch (kind) {
    case ROW_INSTRUCTION:
        return read_instruction(in, row);
    case ROW_PREFERENCE:
        return read_preference(in, row);
    case ROW_PROMPT:
        return read_bare_prompt(in, row);
    case ROW_LABELLED:
        return read_labelled(in, row);
    case ROW_TEXT:
        return read_text(in, row);
    case ROW_FORMAT:
        return read_format(in, row);
    case ROW_CHOICE:
        return read_choice(in, row);
    case ROW_PARAPHRASE:
        return read_paraphrase(in, row);
    }
    CHECK(false, "row kind %d", (int)kind);
    return false;
}
