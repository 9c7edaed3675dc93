/* The shapes of rows found in the wild, read into one form. One table says by which columns a shape is known and for
 * which kinds of rows it may stand; the first that fits is read. */
#include "data/rows_int.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const Json *row_get(const RowIn *in, const char *key) {
    const Json *j = columns_get(in->columns, in->j, key);
    return j && json_kind(j) != JSON_NIL ? j : NULL;
}

bool row_text(RowIn *in, const Json *j, const char *what, const char **out, size_t *n) {
    size_t len;
    const char *s = json_str(j, &len);
    if (!s) return row_bad(in, "%s must be a string", what);
    if (memchr(s, 0, len)) return row_skip(in, "NUL character in text");
    *out = heap_strn(&in->rows->heap, s, len);
    if (n) *n = len;
    return true;
}

bool row_need_text(RowIn *in, const char *key, const char **out) {
    const Json *j = row_get(in, key);
    if (!j) return row_bad(in, "'%s' is missing", key);
    return row_text(in, j, key, out, NULL);
}

static bool text_list(RowIn *in, const char *key, int least, const char *const **out, int *n_out) {
    const Json *list = row_get(in, key);
    if (!list || json_kind(list) != JSON_ARR) return row_bad(in, "%s must be a list of strings", key);
    int n = json_len(list);
    if (n < least) return row_bad(in, "%s has %d entries, expected at least %d", key, n, least);
    const char **item = heap_alloc(&in->rows->heap, sizeof *item * (size_t)n);
    for (int i = 0; i < n; i++) {
        if (!json_str(json_at(list, i), NULL))
            return row_bad(in, "%s must be a list of strings: entry %d is none", key, i + 1);
        if (!row_text(in, json_at(list, i), key, &item[i], NULL)) return false;
    }
    *out = item;
    *n_out = n;
    return true;
}

/* ---- prompts: dialogues that end with the user */

static bool starts_right(RowIn *in, const Turns *t) {
    int i = t->n && t->msg[0].role == ROLE_SYSTEM;
    if (i >= t->n) return row_skip(in, "empty prompt");
    return t->msg[i].role == ROLE_USER || row_skip(in, "dialogue starts with the assistant");
}

static bool finish_prompt(RowIn *in, const Turns *t, Row *row) {
    if (!starts_right(in, t)) return false;
    if (t->msg[t->n - 1].role != ROLE_USER) return row_skip(in, "prompt ends with the assistant");
    row->prompt = turns_dialogue(t, t->n);
    return true;
}

/* Message lists that use tools are in row->tools and row->talk as a whole; kinds of rows other than instructions have
 * no room for them. before: messages of the prompt, when list goes on from there; or NULL. */
static bool tools_ok(RowIn *in, Row *row, const Json *before, const Json *list, const char *system, const char *what) {
    bool uses = messages_use_tools(list) || messages_use_tools(before), instruction = in->kind == ROW_INSTRUCTION;
    const char *told = NULL;
    if (instruction && !row_tools(in, &told)) return false;
    if (!uses && !told) return true;
    if (!in->any && !instruction) return row_skip(in, "tool calls");
    const Json *first = before ? before : list, *more = before ? list : NULL;
    if (in->any && uses && !messages_to_json(in, first, more, system, what, &row->tools)) return false;
    if (!instruction) return true;
    row->talk_tools = told;
    int n_first;
    bool ok = messages_to_talk(in, first, more, system, what, &row->talk, &n_first);
    if (before) row->talk_from = n_first;
    return ok;
}

/* A dialogue with tools may end with a call or with what a tool says: a template writes that too. What prompt and reply
 * are then is the dialogue without it, for those who look at texts alone. */
static bool talk_is_enough(const RowIn *in, const Turns *t, Row *row) {
    if (in->any || !row->talk) return false;
    row->prompt = turns_dialogue(t, t->n);
    row->a = "";
    return true;
}

/* *plain: a string that is no transcript, so one user turn, or text to be continued. */
static bool put_prompt(RowIn *in, Turns *t, Row *row, const char *key, bool *plain) {
    const Json *j = row_get(in, key);
    const char *s;
    size_t n;
    bool open_reply;
    *plain = false;
    if (!j) return row_bad(in, "'%s' is missing", key);
    if (json_kind(j) != JSON_STR)
        return (in->kind == ROW_INSTRUCTION || tools_ok(in, row, NULL, j, NULL, key)) && read_messages(in, t, j, key);
    if (!row_text(in, j, key, &s, &n)) return false;
    *plain = !is_transcript(s, n);
    if (*plain)
        turns_put(t, ROLE_USER, s, n);
    else
        read_transcript(t, s, n, &open_reply);
    return true;
}

static bool read_prompt_of(RowIn *in, Row *row, const char *key) {
    Turns t = {.rows = in->rows};
    bool ok = put_prompt(in, &t, row, key, &row->plain) && finish_prompt(in, &t, row);
    free(t.msg);
    return ok;
}

static bool read_prompt(RowIn *in, Row *row) { return read_prompt_of(in, row, "prompt"); }

/* The first user turn of a list of turns. */
static bool read_first_turn(RowIn *in, Row *row) {
    const char *const *turn;
    int n;
    if (!text_list(in, "turns", 1, &turn, &n)) return false;
    Turns t = {.rows = in->rows};
    turns_put(&t, ROLE_USER, turn[0], strlen(turn[0]));
    bool ok = finish_prompt(in, &t, row);
    free(t.msg);
    return ok;
}

/* ---- dialogues whose last turn is the reply */

static bool finish_reply(RowIn *in, const Turns *t, Dialogue *prompt, const char **reply) {
    if (!starts_right(in, t)) return false;
    if (t->msg[t->n - 1].role != ROLE_ASSISTANT) return row_skip(in, "last turn is not from the assistant");
    *prompt = turns_dialogue(t, t->n - 1);
    *reply = t->msg[t->n - 1].text;
    return true;
}

static bool ends_with_reply(const Turns *t) { return t->n && t->msg[t->n - 1].role == ROLE_ASSISTANT; }

static bool has_assistant(const Turns *t) {
    for (int i = 0; i < t->n; i++)
        if (t->msg[i].role == ROLE_ASSISTANT) return true;
    return false;
}

static bool read_chat(RowIn *in, Row *row, const char *key) {
    Turns t = {.rows = in->rows};
    const Json *list = row_get(in, key), *system_json = row_get(in, "system");
    const char *system = NULL;
    if (in->kind == ROW_PROMPT) return read_prompt_of(in, row, key);
    if (system_json && !row_text(in, system_json, "system", &system, NULL)) return false;
    if (system) turns_put(&t, ROLE_SYSTEM, system, strlen(system));
    bool ok = tools_ok(in, row, NULL, list, system, key) && read_messages(in, &t, list, key);
    bool learn = has_assistant(&t) || (row->talk && !in->any && messages_of_assistant(list));
    if (ok && t.n && !learn) ok = row_skip(in, "no assistant turn to learn from");
    ok = ok &&
         (ends_with_reply(&t) || !talk_is_enough(in, &t, row) ? finish_reply(in, &t, &row->prompt, &row->a) : true);
    free(t.msg);
    return ok;
}

static bool read_messages_row(RowIn *in, Row *row) { return read_chat(in, row, "messages"); }
static bool read_conversations(RowIn *in, Row *row) { return read_chat(in, row, "conversations"); }

static bool read_turns(RowIn *in, Row *row) {
    Turns t = {.rows = in->rows};
    const char *const *turn;
    int n;
    if (in->kind == ROW_PROMPT) return read_first_turn(in, row);
    if (!text_list(in, "turns", 2, &turn, &n)) return false;
    for (int i = 0; i < n; i++) {
        if (text_blank(turn[i])) break; /* two turns of one role would merge */
        turns_put(&t, i % 2 ? ROLE_ASSISTANT : ROLE_USER, turn[i], strlen(turn[i]));
    }
    bool ok = t.n == n ? finish_reply(in, &t, &row->prompt, &row->a) : row_skip(in, "empty reply");
    free(t.msg);
    return ok;
}

static bool read_history(RowIn *in, Turns *t) {
    const Json *history = row_get(in, "history");
    if (!history) return true;
    if (json_kind(history) != JSON_ARR) return row_bad(in, "history must be a list of [question, answer]");
    for (int i = 0; i < json_len(history); i++) {
        for (int k = 0; k < 2; k++) {
            const Json *side = json_at(json_at(history, i), k);
            const char *s;
            if (!json_str(side, NULL))
                return row_bad(in, "history must be a list of [question, answer]: entry %d is none", i + 1);
            if (!row_text(in, side, "history", &s, NULL)) return false;
            turns_put(t, k ? ROLE_ASSISTANT : ROLE_USER, s, strlen(s));
        }
    }
    return true;
}

static bool put_alpaca(RowIn *in, Turns *t, Row *row) {
    const Json *input_json = row_get(in, "input"), *system_json = row_get(in, "system");
    const char *instruction, *input = "", *system = "";
    if (input_json && !row_text(in, input_json, "input", &input, NULL)) return false;
    if (system_json && !row_text(in, system_json, "system", &system, NULL)) return false;
    if (!row_need_text(in, "instruction", &instruction) || !row_need_text(in, "output", &row->a)) return false;
    if (system[0]) turns_put(t, ROLE_SYSTEM, system, strlen(system));
    if (!read_history(in, t)) return false;
    if (!text_blank(input)) instruction = heap_printf(&in->rows->heap, "%s\n%s", instruction, input);
    turns_put(t, ROLE_USER, instruction, strlen(instruction));
    return true;
}

static bool need_reply(RowIn *in, const Row *row) { return !text_blank(row->a) || row_skip(in, "empty reply"); }

static bool read_alpaca(RowIn *in, Row *row) {
    Turns t = {.rows = in->rows};
    bool ok = put_alpaca(in, &t, row) && finish_prompt(in, &t, row) && need_reply(in, row);
    free(t.msg);
    return ok;
}

/* The reply: a string, or messages that go on where the prompt stopped. */
static bool read_reply(RowIn *in, Row *row, const char *key) {
    const Json *j = row_get(in, key), *before = row_get(in, "prompt");
    bool text = json_len(before) == 0;
    if (!j) return row_bad(in, "'%s' is missing", key);
    /* Half text, half messages: no template is given such a dialogue. */
    if (text != (json_kind(j) == JSON_STR) && (messages_use_tools(before) || messages_use_tools(j)))
        return row_skip(in, "tool calls");
    if (json_kind(j) == JSON_STR) {
        row->plain = row->plain && !strcmp(key, "completion");
        return row_text(in, j, key, &row->a, NULL) && need_reply(in, row);
    }
    Turns t = {.rows = in->rows};
    row->plain = false;
    row->learn_from = row->prompt.n;
    for (int i = 0; i < row->prompt.n; i++)
        turns_put(&t, row->prompt.msg[i].role, row->prompt.msg[i].text, strlen(row->prompt.msg[i].text));
    bool ok = (text || tools_ok(in, row, before, j, NULL, key)) && read_messages(in, &t, j, key);
    bool enough = ok && !ends_with_reply(&t) && messages_of_assistant(j) && talk_is_enough(in, &t, row);
    if (ok && !enough && t.n == row->prompt.n) ok = row_skip(in, "empty reply");
    ok = ok && (enough || finish_reply(in, &t, &row->prompt, &row->a));
    free(t.msg);
    return ok;
}

static bool read_completion(RowIn *in, Row *row) { return read_prompt(in, row) && read_reply(in, row, "completion"); }
static bool read_response(RowIn *in, Row *row) { return read_prompt(in, row) && read_reply(in, row, "response"); }

/* ---- rows that were tokenised before */

static bool int_list(RowIn *in, const char *key, const Json **out, int n) {
    const Json *list = row_get(in, key);
    *out = list && json_kind(list) == JSON_ARR ? list : NULL; /* a column 'labels' may hold a class */
    if (*out && n >= 0 && json_len(*out) != n)
        return row_bad(in, "%s has %d entries, input_ids %d", key, json_len(*out), n);
    return true;
}

/* labels: the id where it is learned, -100 where not; masks: 0 or 1. What attention_mask hides is padding and goes. */
static bool read_tokens(RowIn *in, Row *row) {
    static const char *const learned_by[] = {"labels", "completion_mask", "assistant_masks"};
    const Json *ids, *seen, *by[COUNT_OF(learned_by)];
    if (!int_list(in, "input_ids", &ids, -1)) return false;
    if (!ids) return row_bad(in, "input_ids must be a list of integers");
    int n = json_len(ids), n_out = 0, n_learned = 0;
    if (!int_list(in, "attention_mask", &seen, n)) return false;
    for (int k = 0; k < COUNT_OF(by); k++)
        if (!int_list(in, learned_by[k], &by[k], n)) return false;
    int32_t *tok = heap_alloc(&in->rows->heap, sizeof *tok * (size_t)(n + 1));
    float *weight = heap_alloc(&in->rows->heap, sizeof *weight * (size_t)(n + 1));
    for (int i = 0; i < n; i++) {
        int64_t id = json_int(json_at(ids, i), -1), label = by[0] ? json_int(json_at(by[0], i), -1) : id;
        if (id < 0 || id > INT32_MAX) return row_bad(in, "input_ids: entry %d is no token", i + 1);
        if (seen && json_int(json_at(seen, i), 1) == 0) continue;
        if (label != id && label != -100)
            return row_bad(in, "labels: entry %d is neither the token of input_ids at that place nor -100", i + 1);
        bool learned = label != -100;
        for (int k = 1; k < COUNT_OF(by); k++) learned = learned && (!by[k] || json_int(json_at(by[k], i), 0) != 0);
        tok[n_out] = (int32_t)id;
        weight[n_out] = learned;
        n_learned += learned && n_out > 0; /* nothing stands before the first to predict it from */
        n_out++;
    }
    row->tok = tok;
    row->tok_weight = weight;
    row->n_tok = n_out;
    row->a = "";
    row->label = -1;
    return n_learned > 0 || row_skip(in, "no token to learn");
}

/* ---- preferences */

static bool dialogues_equal(Dialogue a, Dialogue b) {
    if (a.n != b.n) return false;
    for (int i = 0; i < a.n; i++) {
        if (a.msg[i].role != b.msg[i].role || strcmp(a.msg[i].text, b.msg[i].text) != 0) return false;
    }
    return true;
}

/* What a preference row says about one reply. prompt.n 0: the reply alone. */
static bool read_side(RowIn *in, const char *key, bool prompt_given, Dialogue *prompt, const char **reply,
                      bool *plain) {
    const Json *j = row_get(in, key);
    Turns t = {.rows = in->rows};
    const char *s = NULL;
    size_t n;
    bool ok, open_reply = false;
    *plain = false;
    if (json_kind(j) == JSON_STR) {
        if (!row_text(in, j, key, &s, &n)) return false;
        if (prompt_given) return *plain = true, *reply = s, true;
        if (!is_transcript(s, n) && columns_get(in->columns, in->j, "prompt")) return row_skip(in, "prompt is null");
        if (!is_transcript(s, n))
            return row_bad(in, "no 'prompt', and '%s' is not a transcript (\\n\\nHuman: .. \\n\\nAssistant: ..)", key);
        read_transcript(&t, s, n, &open_reply);
        ok = !open_reply || row_skip(in, "empty reply");
    } else {
        ok = messages_use_tools(j) ? row_skip(in, "tool calls") : read_messages(in, &t, j, key);
    }
    if (ok && t.n == 0) ok = row_skip(in, "empty reply");
    if (ok && t.n == 1 && t.msg[0].role == ROLE_ASSISTANT && prompt_given)
        *reply = t.msg[0].text;
    else
        ok = ok && finish_reply(in, &t, prompt, reply);
    free(t.msg);
    return ok;
}

static bool read_preference(RowIn *in, Row *row) {
    bool given = row_get(in, "prompt") != NULL, plain[2];
    Dialogue prompt[2] = {{NULL, 0}, {NULL, 0}};
    const Json *margin = row_get(in, "margin");
    row->margin = margin ? json_num(margin, NAN) : NAN;
    if (margin && !isfinite(row->margin)) return row_bad(in, "margin must be a number");
    if (!read_side(in, "chosen", given, &prompt[0], &row->a, &plain[0]) ||
        !read_side(in, "rejected", given, &prompt[1], &row->b, &plain[1]))
        return false;
    if (!dialogues_equal(prompt[0], prompt[1])) return row_skip(in, "prompts differ");
    if (prompt[0].n)
        row->prompt = prompt[0];
    else if (!read_prompt(in, row))
        return false;
    row->plain = row->plain && plain[0] && plain[1];
    if (text_blank(row->a) || text_blank(row->b)) return row_skip(in, "empty reply");
    return strcmp(row->a, row->b) != 0 || row_skip(in, "chosen and rejected are equal");
}

/* ---- labels */

/* 0 or 1, also as a boolean; -1 if allowed. */
static bool label_value(const Json *j, int least, int *label) {
    JsonKind k = j ? json_kind(j) : JSON_NIL;
    int64_t v = k == JSON_YES ? 1 : k == JSON_NO ? 0 : k == JSON_INT || k == JSON_REAL ? json_int(j, -2) : -2;
    *label = (int)(v >= least && v <= 1 ? v : -2);
    return *label != -2;
}

static bool read_label(RowIn *in, const char *key, int least, int *label) {
    return label_value(row_get(in, key), least, label) ||
           row_bad(in, "%s must be %s0 or 1", key, least < 0 ? "-1, " : "");
}

/* An empty reply is a reply too when the task is to say whether it does harm. */
static bool read_labelled(RowIn *in, Row *row) {
    return read_prompt(in, row) && row_need_text(in, "response", &row->a) && read_label(in, "harmful", 0, &row->label);
}

static bool read_unpaired(RowIn *in, Row *row) {
    const Json *label = row_get(in, "label");
    if (!label) label = row_get(in, "kto_tag");
    if (!(row_get(in, "messages") ? read_chat(in, row, "messages") : read_completion(in, row))) return false;
    if (!need_reply(in, row)) return false;
    label_value(label, 0, &row->label);
    return in->kind == ROW_UNPAIRED || row->label == 1 || row_skip(in, "labelled as not wanted");
}

/* ---- critiques, judgements */

static bool read_critique(RowIn *in, Row *row) {
    row->label = -1;
    if (!read_prompt(in, row) || !row_need_text(in, "response", &row->a)) return false;
    if (!row_need_text(in, "principle", &row->principle) || !row_need_text(in, "critique", &row->critique))
        return false;
    return !row_get(in, "revision") || row_need_text(in, "revision", &row->b);
}

static bool read_judge(RowIn *in, Row *row) {
    return read_prompt(in, row) && row_need_text(in, "a", &row->a) && row_need_text(in, "b", &row->b) &&
           row_need_text(in, "principle", &row->principle);
}

static bool read_gold(RowIn *in, Row *row) { return read_judge(in, row) && read_label(in, "better", -1, &row->label); }

/* Whether a principle bears on an exchange. */
static bool read_applies(RowIn *in, Row *row) {
    return read_prompt(in, row) && row_need_text(in, "response", &row->a) &&
           row_need_text(in, "principle", &row->principle) && read_label(in, "applies", 0, &row->label);
}

static bool read_kind(RowIn *in, Row *row) {
    const char *kind, *answer;
    if (!row_need_text(in, "kind", &kind)) return false;
    if (!strcmp(kind, "critique")) return read_critique(in, row);
    if (!strcmp(kind, "applies")) return read_applies(in, row);
    if (strcmp(kind, "judge") != 0)
        return row_bad(in, "kind is '%.40s', expected 'critique', 'judge' or 'applies'", kind);
    if (!read_judge(in, row) || !row_need_text(in, "answer", &answer)) return false;
    if (strcmp(answer, "first") != 0 && strcmp(answer, "second") != 0)
        return row_bad(in, "answer is '%.40s', expected 'first' or 'second'", answer);
    row->label = strcmp(answer, "second") == 0;
    return !row_get(in, "reason") || row_need_text(in, "reason", &row->critique);
}

/* A dialogue of critique and revision: as a demonstration of those, or with the revision as the reply. */
static bool read_revision(RowIn *in, Row *row) {
    row->label = -1;
    if (!read_prompt_of(in, row, "init_prompt") || !row_need_text(in, "init_response", &row->a) ||
        !row_need_text(in, "critic_prompt", &row->principle) || !row_need_text(in, "critic_response", &row->critique) ||
        !row_need_text(in, "revision_prompt", &row->revision_request) ||
        !row_need_text(in, "revision_response", &row->b))
        return false;
    row->plain = false;
    if (in->kind != ROW_INSTRUCTION) return !text_blank(row->b) || row_skip(in, "empty reply");
    row->a = row->b;
    row->b = row->principle = row->critique = row->revision_request = NULL;
    return need_reply(in, row);
}

/* ---- the others */

static bool read_contexts(RowIn *in, Row *row) {
    (void)row;
    return row_skip(in, "choice of contexts");
}

static bool read_choice(RowIn *in, Row *row) {
    const Json *gold = row_get(in, "gold");
    const char *task;
    if (!row_need_text(in, "task", &task) || !read_prompt(in, row)) return false;
    if (!text_list(in, "choices", 2, &row->list, &row->n_list)) return false;
    int64_t k = gold && json_kind(gold) == JSON_INT ? json_int(gold, -1) : -1;
    if (k < 0 || k >= row->n_list) return row_bad(in, "gold must be an index of choices (0..%d)", row->n_list - 1);
    row->label = (int)k;
    if (!row->category[0]) row->category = task;
    return true;
}

static bool read_paraphrase(RowIn *in, Row *row) { return text_list(in, "prompts", 2, &row->list, &row->n_list); }

static bool read_text(RowIn *in, Row *row) {
    row->label = -1;
    return row_need_text(in, "text", &row->a) && (!text_blank(row->a) || row_skip(in, "empty text"));
}

/* ---- which shape */

typedef struct {
    const char *name, *need[7]; /* columns that must be there */
    RowKind kind;               /* what it is by itself */
    unsigned serves;            /* kinds it may be asked for as */
    bool flag;                  /* and 'label' or 'kto_tag', true or false */
    bool (*read)(RowIn *in, Row *row);
} Shape;

#define AS(k) (1u << ROW_##k)
// clang-format off
static const Shape shapes[] = {
    {"input_ids", {"input_ids"}, ROW_INSTRUCTION, AS(INSTRUCTION) | AS(TEXT), false, read_tokens},
    {"kind", {"kind", "principle"}, ROW_FORMAT, AS(FORMAT), false, read_kind},
    {"better", {"prompt", "a", "b", "principle", "better"}, ROW_FORMAT, AS(FORMAT), false, read_gold},
    {"critique and revision", {"init_prompt", "init_response", "critic_prompt", "critic_response", "revision_prompt", "revision_response"},
     ROW_FORMAT, AS(FORMAT) | AS(INSTRUCTION), false, read_revision},
    {"prompt, chosen, rejected", {"prompt", "chosen", "rejected"}, ROW_PREFERENCE, AS(PREFERENCE), false, read_preference},
    {"chosen, rejected", {"chosen", "rejected"}, ROW_PREFERENCE, AS(PREFERENCE), false, read_preference},
    {"messages, label", {"messages"}, ROW_UNPAIRED, AS(UNPAIRED) | AS(INSTRUCTION), true, read_unpaired},
    {"prompt, completion, label", {"prompt", "completion"}, ROW_UNPAIRED, AS(UNPAIRED) | AS(INSTRUCTION), true, read_unpaired},
    {"template, slots", {"template", "slots"}, ROW_PROMPT, AS(PROMPT), false, row_template},
    {"prompt, response, harmful", {"prompt", "response", "harmful"}, ROW_LABELLED, AS(LABELLED), false, read_labelled},
    {"contexts", {"context_options"}, ROW_CHOICE, AS(CHOICE), false, read_contexts},
    {"choices", {"task", "prompt", "choices", "gold"}, ROW_CHOICE, AS(CHOICE), false, read_choice},
    {"prompts", {"prompts"}, ROW_PARAPHRASE, AS(PARAPHRASE), false, read_paraphrase},
    {"messages", {"messages"}, ROW_INSTRUCTION, AS(INSTRUCTION), false, read_messages_row},
    {"conversations", {"conversations"}, ROW_INSTRUCTION, AS(INSTRUCTION), false, read_conversations},
    {"turns", {"turns"}, ROW_INSTRUCTION, AS(INSTRUCTION), false, read_turns},
    {"instruction, output", {"instruction", "output"}, ROW_INSTRUCTION, AS(INSTRUCTION), false, read_alpaca},
    {"prompt, completion", {"prompt", "completion"}, ROW_INSTRUCTION, AS(INSTRUCTION), false, read_completion},
    {"prompt, response", {"prompt", "response"}, ROW_INSTRUCTION, AS(INSTRUCTION), false, read_response},
    {"prompt", {"prompt"}, ROW_PROMPT, AS(PROMPT), false, read_prompt},
    {"messages", {"messages"}, ROW_PROMPT, AS(PROMPT), false, read_messages_row},
    {"turns", {"turns"}, ROW_PROMPT, AS(PROMPT), false, read_turns},
    {"text", {"text"}, ROW_TEXT, AS(TEXT), false, read_text},
};
// clang-format on

static bool serves(const RowIn *in, const Shape *s) { return in->any || (s->serves >> in->kind & 1u); }

/* Columns of the shape that are there; *null: one that is there but null. */
static int n_there(const RowIn *in, const Shape *s, int *n_need, const char **null, const char **absent) {
    int n = 0;
    *null = *absent = NULL;
    for (*n_need = 0; *n_need < COUNT_OF(s->need) && s->need[*n_need]; ++*n_need) {
        const char *name = s->need[*n_need];
        if (row_get(in, name))
            n++;
        else if (columns_get(in->columns, in->j, name))
            *null = name;
        else if (!*absent)
            *absent = name;
    }
    return n;
}

static bool flag_there(const RowIn *in) {
    int label;
    const Json *j = row_get(in, "label");
    if (!j) j = row_get(in, "kto_tag");
    return j && label_value(j, 0, &label);
}

static const char *column_list(RowIn *in) {
    Str names = {0};
    for (int i = 0; i < json_len(in->j) && names.n < 300; i++) {
        const Json *value;
        str_printf(&names, "%s%.60s", i ? ", " : "", json_key_at(in->j, i, &value));
    }
    const char *out = heap_strn(&in->rows->heap, str_get(&names), names.n);
    str_release(&names);
    return out;
}

/* "; a row of kind prompt has: template, slots | prompt | ..." */
static const char *wanted(RowIn *in) {
    Str names = {0};
    for (int i = 0; i < COUNT_OF(shapes) && !in->any; i++)
        if (serves(in, &shapes[i])) str_printf(&names, "%s%s", names.n ? " | " : "", shapes[i].name);
    const char *out =
        in->any ? ""
                : heap_printf(&in->rows->heap, "; a row of kind %s has: %s", row_kind_name(in->kind), str_get(&names));
    str_release(&names);
    return out;
}

/* Why no shape fits: a column that is null, one that is missing beside others of its shape, or nothing that is known.
 */
static bool no_shape(RowIn *in) {
    const char *best = NULL;
    int most = 0;
    for (int i = 0; i < COUNT_OF(shapes); i++) {
        int n_need;
        const char *null, *absent;
        if (!serves(in, &shapes[i]) || shapes[i].flag) continue;
        int n = n_there(in, &shapes[i], &n_need, &null, &absent);
        if (null && !absent) return row_skip(in, heap_printf(&in->rows->heap, "%s is null", null));
        int fit = n > 0 ? 16 * n - n_need : 0; /* the most columns, of those the shape that lacks the fewest */
        if (fit > most) most = fit, best = absent;
    }
    if (best) return row_bad(in, "'%s' is missing; the row has: %s", best, column_list(in));
    return row_bad(in, "unknown columns: %s; map them in the data section (data.columns)%s", column_list(in),
                   wanted(in));
}

bool row_shape(RowIn *in, Row *row) {
    for (int i = 0; i < COUNT_OF(shapes); i++) {
        const Shape *s = &shapes[i];
        int n_need;
        const char *null, *absent;
        if (!serves(in, s) || n_there(in, s, &n_need, &null, &absent) < n_need || (s->flag && !flag_there(in)))
            continue;
        if (in->any) in->kind = s->kind;
        row->kind = in->kind;
        row->shape = s->name;
        return s->read(in, row);
    }
    return no_shape(in);
}
