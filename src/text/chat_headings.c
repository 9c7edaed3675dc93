/* chat_headings.c — critiques, verdicts, revisions and judgements of models whose vocabulary has no sentinels: in plain
 * words, as turns of the dialogue or about a transcript of it, and replies that begin with a heading.
 *
 * An answer is read as the first token in which "The answer is (A)" and "The answer is (B)" differ; all before it is
 * part of the prompt. Whatever the tokenizer makes of the bracket, that is one token, and its log-probability is the
 * answer's. */
#include <stdlib.h>
#include <string.h>

#include "text/chat_int.h"

static const char *const heading[] = {
    [HEADING_CRITIQUE] = "What is wrong:", [HEADING_REVISION] = "Better reply:", [HEADING_ANSWER] = "The answer is"};
static const char option_a[] = "The answer is (A)", option_b[] = "The answer is (B)";

static void encode(const Chat *c, const char *text, TokBuf *out) { tokenizer_encode(c->tok, text, strlen(text), out); }

static int common_prefix(const TokBuf *a, const TokBuf *b) {
    int n = 0;
    while (n < a->n && n < b->n && a->id[n] == b->id[n]) n++;
    return n;
}

bool headings_open(Chat *c, const char *name, Error *err) {
    TokBuf a = {0}, b = {0};
    encode(c, option_a, &a);
    encode(c, option_b, &b);
    int n = common_prefix(&a, &b);
    bool ok = n < a.n && n < b.n;
    c->headings = ok;
    if (ok) {
        c->id[SENT_FIRST] = c->id[SENT_YES] = a.id[n];
        c->id[SENT_SECOND] = c->id[SENT_NO] = b.id[n];
    } else {
        error_set(err, ERR_FORMAT,
                  "%s: the tokenizer writes '%s' and '%s' with the same tokens, so no answer can be read", name,
                  option_a, option_b);
    }
    tokbuf_release(&a);
    tokbuf_release(&b);
    return ok;
}

/* ---- replies that begin with a heading ---- */

static void put_heading(Sequence *s, const Chat *c, Heading h) {
    if (h != HEADING_ANSWER) {
        sequence_text(s, c, heading[h], 0);
        return;
    }
    TokBuf a = {0}, b = {0};
    encode(c, option_a, &a);
    encode(c, option_b, &b);
    int n = common_prefix(&a, &b);
    for (int i = 0; i < n; i++) sequence_put(s, a.id[i], 0);
    tokbuf_release(&a);
    tokbuf_release(&b);
}

static void join(Str *out, Heading h, const char *text) {
    str_clear(out);
    str_printf(out, "%s ", heading[h]);
    str_put(out, text);
}

/* Encoded together with the heading where its tokens stay the same; so a space before the text is what it is inside a
 * text, also for tokenizers that put one before every text. */
void headings_answer(Sequence *s, const Chat *c, Heading h, const char *text, float weight) {
    TokBuf alone = {0}, whole = {0};
    Str both = {0};
    join(&both, h, text);
    encode(c, heading[h], &alone);
    encode(c, str_get(&both), &whole);
    if (common_prefix(&alone, &whole) == alone.n) {
        for (int i = alone.n; i < whole.n; i++) sequence_put(s, whole.id[i], weight);
        chat_reply(s, c, "", weight, true);
    } else {
        chat_reply(s, c, text, weight, true);
    }
    tokbuf_release(&alone);
    tokbuf_release(&whole);
    str_release(&both);
}

/* ---- prompts ---- */

enum { MORE_TURNS = 5 };

/* D and what is said after it. */
typedef struct {
    Message *msg;
    int n;
} Talk;

static Talk talk_about(Dialogue d, const char *reply) {
    Talk t = {mem_alloc((size_t)(d.n + MORE_TURNS) * sizeof *t.msg), d.n};
    for (int i = 0; i < d.n; i++) t.msg[i] = d.msg[i];
    t.msg[t.n++] = (Message){ROLE_ASSISTANT, reply};
    return t;
}

static void talk_put(Talk *t, Role role, const char *text) { t->msg[t->n++] = (Message){role, text}; }

static void talk_end(Talk *t, Sequence *s, const Chat *c, Heading h) {
    chat_respond(s, c, (Dialogue){t->msg, t->n});
    put_heading(s, c, h);
    free(t->msg);
}

static void put_rule(Str *out, const char *principle, const char *request) {
    str_put(out, "Rule: ");
    str_put(out, principle);
    if (request[0]) str_put(out, "\n\n");
    str_put(out, request);
}

void headings_critique(Sequence *s, const Chat *c, Dialogue d, const char *reply, const char *principle,
                       const char *request) {
    Str rule = {0};
    Talk t = talk_about(d, reply);
    put_rule(&rule, principle, request);
    talk_put(&t, ROLE_USER, str_get(&rule));
    talk_end(&t, s, c, HEADING_CRITIQUE);
    str_release(&rule);
}

static void after_critique(Sequence *s, const Chat *c, Dialogue d, const char *reply, const char *principle,
                           const char *critique_request, const char *critique, const char *question, Heading h) {
    Str rule = {0}, wrong = {0};
    Talk t = talk_about(d, reply);
    put_rule(&rule, principle, critique_request);
    join(&wrong, HEADING_CRITIQUE, critique);
    talk_put(&t, ROLE_USER, str_get(&rule));
    talk_put(&t, ROLE_ASSISTANT, str_get(&wrong));
    talk_put(&t, ROLE_USER, question);
    talk_end(&t, s, c, h);
    str_release(&rule);
    str_release(&wrong);
}

void headings_revision(Sequence *s, const Chat *c, Dialogue d, const char *reply, const char *principle,
                       const char *critique_request, const char *critique, const char *request) {
    after_critique(s, c, d, reply, principle, critique_request, critique, request, HEADING_REVISION);
}

void chat_verdict_prompt(Sequence *s, const Chat *c, Dialogue d, const char *reply, const char *principle,
                         const char *critique_request, const char *critique, bool flip) {
    static const char *const question[] = {
        "Given this, does the reply keep to the rule?\n (A) It keeps to the rule.\n (B) It breaks the rule.",
        "Given this, does the reply keep to the rule?\n (A) It breaks the rule.\n (B) It keeps to the rule."};
    CHECK(c->headings, "a verdict is asked for in words only where there are no sentinels");
    after_critique(s, c, d, reply, principle, critique_request, critique, question[flip], HEADING_ANSWER);
}

void headings_applies(Sequence *s, const Chat *c, Dialogue d, const char *reply, const char *principle) {
    Str rule = {0};
    Talk t = talk_about(d, reply);
    put_rule(&rule, principle, "Does this rule bear on the exchange above?\n (A) It does.\n (B) It does not.");
    talk_put(&t, ROLE_USER, str_get(&rule));
    talk_end(&t, s, c, HEADING_ANSWER);
    str_release(&rule);
}

/* About the dialogue, not in it: two replies cannot both follow it. */
static void put_choice(Str *text, Dialogue d, const char *a, const char *b, const char *compare, const char *request) {
    static const char *const who[] = {[ROLE_SYSTEM] = "System", [ROLE_USER] = "Human", [ROLE_ASSISTANT] = "Assistant"};
    str_put(text, "Here is a conversation:\n\n");
    for (int i = 0; i < d.n; i++) {
        str_printf(text, "%s: ", who[d.msg[i].role]);
        str_put(text, d.msg[i].text);
        str_put(text, "\n\n");
    }
    str_put(text, "Two replies could come next:\n (A) ");
    str_put(text, a);
    str_put(text, "\n (B) ");
    str_put(text, b);
    str_put(text, "\n\n");
    put_rule(text, compare, request);
}

void headings_judge(Sequence *s, const Chat *c, Dialogue d, const char *a, const char *b, const char *compare) {
    Str text = {0};
    put_choice(&text, d, a, b, compare, "Answer with (A) or (B).");
    Message m = {ROLE_USER, str_get(&text)};
    chat_respond(s, c, (Dialogue){&m, 1});
    put_heading(s, c, HEADING_ANSWER);
    str_release(&text);
}

void headings_reason(Sequence *s, const Chat *c, Dialogue d, const char *a, const char *b, const char *compare,
                     const char *request) {
    Str text = {0};
    put_choice(&text, d, a, b, compare, request);
    Message m = {ROLE_USER, str_get(&text)};
    chat_respond(s, c, (Dialogue){&m, 1});
    str_release(&text);
}

void headings_reason_end(Sequence *s, const Chat *c) {
    sequence_text(s, c, "\n\n", 0);
    put_heading(s, c, HEADING_ANSWER);
}
