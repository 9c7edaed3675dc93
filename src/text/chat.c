/* chat.c — dialogues, critiques and judgements as token sequences. */
#include "text/chat_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *sentinel_spelling(Sentinel s) {
    static const char *const spelling[SENT_COUNT] = {
#define X(name, text) [SENT_##name] = text,
        SENTINELS(X)
#undef X
    };
    CHECK(s >= 0 && s < SENT_COUNT, "no sentinel %d", (int)s);
    return spelling[s];
}

bool chat_init(Chat *c, const Tokenizer *t, Error *err) {
    Str missing = {0};
    *c = (Chat){.tok = t};
    for (int s = 0; s < SENT_COUNT; s++) {
        c->id[s] = tokenizer_special(t, sentinel_spelling((Sentinel)s));
        if (c->id[s] < 0) str_printf(&missing, " %s", sentinel_spelling((Sentinel)s));
    }
    c->document = c->id[SENT_ENDOFTEXT];
    c->pad = c->id[SENT_MASK];
    bool ok = missing.n == 0;
    if (!ok)
        error_set(err, ERR_FORMAT,
                  "the tokenizer lacks the special tokens%s; add them to its added_tokens or train one", missing.s);
    str_release(&missing);
    return ok;
}

/* ---- sequences ---- */

void sequence_release(Sequence *s) {
    tokbuf_release(&s->tok);
    free(s->weight);
    encoder_close(s->encoder);
    free(s->failed);
    *s = (Sequence){0};
}

void sequence_clear(Sequence *s) { s->tok.n = 0; }

bool sequence_ok(const Sequence *s, Error *err) { return !s->failed || error_set(err, ERR_FORMAT, "%s", s->failed); }

bool sequences_ok(const Sequence *s, int n, Error *err) {
    for (int i = 0; i < n; i++)
        if (!sequence_ok(&s[i], err)) return false;
    return true;
}

void sequence_fail(Sequence *s, const char *why) {
    if (!s->failed) s->failed = mem_str(why);
}

static void weigh_from(Sequence *s, int first, float weight) {
    if (s->cap_weight < s->tok.cap) {
        s->weight = mem_grow(s->weight, (size_t)s->tok.cap * sizeof *s->weight);
        s->cap_weight = s->tok.cap;
    }
    for (int i = first; i < s->tok.n; i++) s->weight[i] = weight;
}

void sequence_put(Sequence *s, int32_t id, float weight) {
    if (s->failed) return;
    tokbuf_put(&s->tok, id);
    weigh_from(s, s->tok.n - 1, weight);
}

/* Thousands of sequences may be held at a time, each of a page of text; an encoder's memory is for the one that has
 * seen more. */
enum { ENCODER_FROM_BYTES = 1 << 14 };

/* The encoder this sequence has by now, or NULL: it has not seen enough text. */
static Encoder *encoder_of(Sequence *s, const Chat *c, size_t n) {
    s->n_encoded += n;
    if (s->encoder && encoder_tokenizer(s->encoder) != c->tok) {
        encoder_close(s->encoder);
        s->encoder = NULL;
    }
    if (!s->encoder && s->n_encoded > ENCODER_FROM_BYTES) s->encoder = encoder_open(c->tok);
    return s->encoder;
}

void sequence_textn(Sequence *s, const Chat *c, const char *text, size_t n, float weight) {
    int first = s->tok.n;
    if (s->failed) return;
    Encoder *e = encoder_of(s, c, n);
    if (e)
        encoder_encode(e, text, n, &s->tok);
    else
        tokenizer_encode(c->tok, text, n, &s->tok);
    weigh_from(s, first, weight);
}

void sequence_encode(Sequence *s, const Chat *c, const char *text, size_t n, const EncodeOpts *o, SpanBuf *spans) {
    int first = s->tok.n;
    if (s->failed) return;
    Encoder *e = encoder_of(s, c, n), *own = e ? NULL : encoder_open(c->tok);
    encoder_encode_opts(e ? e : own, text, n, o, &s->tok, spans);
    encoder_close(own);
    weigh_from(s, first, 0);
}

void sequence_text(Sequence *s, const Chat *c, const char *text, float weight) {
    sequence_textn(s, c, text, strlen(text), weight);
}

static void put_sentinel(Sequence *s, const Chat *c, Sentinel which, float weight) {
    if (c->id[which] < 0) {
        char why[160];
        snprintf(why, sizeof why, "the tokenizer has no special token %s, which this use of the model needs",
                 sentinel_spelling(which));
        sequence_fail(s, why);
    }
    sequence_put(s, c->id[which], weight);
}

static void put_turn(Sequence *s, const Chat *c, Sentinel opener, const char *text, float weight) {
    put_sentinel(s, c, opener, 0);
    sequence_text(s, c, text, weight);
    put_sentinel(s, c, SENT_END, weight);
}

void chat_learn(Sequence *s, const Chat *c, Dialogue d, int learn_from, float weight_assistant) {
    static const Sentinel opener[] = {
        [ROLE_SYSTEM] = SENT_SYSTEM, [ROLE_USER] = SENT_USER, [ROLE_ASSISTANT] = SENT_ASSISTANT};
    if (c->tmpl) {
        template_dialogue(s, c, &(Spoken){.d = d}, learn_from, weight_assistant, false);
        return;
    }
    for (int i = 0; i < d.n; i++) {
        const Message *m = &d.msg[i];
        bool learned = m->role == ROLE_ASSISTANT && i >= learn_from;
        put_turn(s, c, opener[m->role], m->text, learned ? weight_assistant : 0);
    }
}

void chat_dialogue(Sequence *s, const Chat *c, Dialogue d, float weight_assistant) {
    chat_learn(s, c, d, 0, weight_assistant);
}

void chat_tools(Sequence *s, const Chat *c, const Json *messages, const Json *tools, int learn_from,
                float weight_assistant) {
    if (c->tmpl)
        template_dialogue(s, c, &(Spoken){.messages = messages, .tools = tools}, learn_from, weight_assistant, false);
    else
        sequence_fail(s, "a dialogue with tools needs a chat template that writes them");
}

void chat_respond(Sequence *s, const Chat *c, Dialogue d) {
    if (c->tmpl) {
        template_dialogue(s, c, &(Spoken){.d = d}, 0, 0, true);
        return;
    }
    chat_dialogue(s, c, d, 0);
    put_sentinel(s, c, SENT_ASSISTANT, 0);
}

int chat_stops(const Chat *c, const int *eos, int n_eos, int32_t *stop) {
    int n = 0;
    stop[n++] = c->id[SENT_END];
    for (int i = 0; i < n_eos; i++)
        if (eos[i] != c->id[SENT_END]) stop[n++] = eos[i];
    return n;
}

void chat_reply(Sequence *s, const Chat *c, const char *text, float weight, bool end) {
    sequence_text(s, c, text, weight);
    if (end) put_sentinel(s, c, SENT_END, weight);
}

/* The principle and what is asked about it are sentences of one text, encoded together: one space between them. */
static void put_principle(Sequence *s, const Chat *c, const char *const *part, int n) {
    Str text = {0};
    for (int i = 0; i < n; i++) {
        if (text.n > 0 && part[i][0]) str_putc(&text, ' ');
        str_put(&text, part[i]);
    }
    put_sentinel(s, c, SENT_PRINCIPLE, 0);
    sequence_textn(s, c, str_get(&text), text.n, 0);
    str_release(&text);
}

void chat_critique_prompt(Sequence *s, const Chat *c, Dialogue d, const char *reply, const char *principle,
                          const char *critique_request, const char *revision_request) {
    if (c->headings) {
        headings_critique(s, c, d, reply, principle, critique_request);
        return;
    }
    chat_respond(s, c, d);
    chat_reply(s, c, reply, 0, true);
    put_principle(s, c, (const char *const[]){principle, critique_request, revision_request}, 3);
    put_sentinel(s, c, SENT_CRITIQUE, 0);
}

void chat_critique_answer(Sequence *s, const Chat *c, const char *critique, const char *revision, float weight) {
    if (c->headings) {
        headings_answer(s, c, HEADING_CRITIQUE, critique, weight);
        return;
    }
    sequence_text(s, c, critique, weight);
    put_sentinel(s, c, SENT_VERDICT, weight);
    put_sentinel(s, c, revision ? SENT_VIOLATES : SENT_OK, weight);
    if (revision) {
        put_sentinel(s, c, SENT_REVISION, weight);
        sequence_text(s, c, revision, weight);
    }
    put_sentinel(s, c, SENT_END, weight);
}

void chat_revision_prompt(Sequence *s, const Chat *c, Dialogue d, const char *reply, const char *principle,
                          const char *critique_request, const char *critique, const char *revision_request) {
    if (c->headings) {
        headings_revision(s, c, d, reply, principle, critique_request, critique, revision_request);
        return;
    }
    chat_critique_prompt(s, c, d, reply, principle, critique_request, revision_request);
    sequence_text(s, c, critique, 0);
    put_sentinel(s, c, SENT_VERDICT, 0);
    put_sentinel(s, c, SENT_VIOLATES, 0);
    put_sentinel(s, c, SENT_REVISION, 0);
}

void chat_revision_answer(Sequence *s, const Chat *c, const char *revision, float weight) {
    if (c->headings)
        headings_answer(s, c, HEADING_REVISION, revision, weight);
    else
        chat_reply(s, c, revision, weight, true);
}

void chat_judge_prompt(Sequence *s, const Chat *c, Dialogue d, const char *a, const char *b, const char *compare) {
    if (c->headings) {
        headings_judge(s, c, d, a, b, compare);
        return;
    }
    chat_dialogue(s, c, d, 0);
    put_turn(s, c, SENT_OPTION, a, 0);
    put_turn(s, c, SENT_OPTION, b, 0);
    put_principle(s, c, &compare, 1);
    put_sentinel(s, c, SENT_JUDGE, 0);
}

void chat_reason_prompt(Sequence *s, const Chat *c, Dialogue d, const char *a, const char *b, const char *compare) {
    static const char request[] = "Say what each reply does under the rule, then decide.";
    if (c->headings) {
        headings_reason(s, c, d, a, b, compare, request);
        return;
    }
    const char *const asked[] = {compare, request};
    chat_dialogue(s, c, d, 0);
    put_turn(s, c, SENT_OPTION, a, 0);
    put_turn(s, c, SENT_OPTION, b, 0);
    put_principle(s, c, asked, COUNT_OF(asked));
    put_sentinel(s, c, SENT_JUDGE, 0);
}

void chat_reason_end(Sequence *s, const Chat *c, float weight) {
    if (c->headings)
        headings_reason_end(s, c);
    else
        put_sentinel(s, c, SENT_VERDICT, weight);
}

void chat_applies_prompt(Sequence *s, const Chat *c, Dialogue d, const char *reply, const char *principle) {
    if (c->headings) {
        headings_applies(s, c, d, reply, principle);
        return;
    }
    chat_respond(s, c, d);
    chat_reply(s, c, reply, 0, true);
    put_principle(s, c, &principle, 1);
    put_sentinel(s, c, SENT_APPLIES, 0);
}

/* ---- parsing ---- */

static int skip_text(const Chat *c, const int32_t *id, int n, int at) {
    while (at < n && !tokenizer_is_special(c->tok, id[at])) at++;
    return at;
}

/* c <|verdict|> <|ok|> [<|end|>]  or  c <|verdict|> <|violates|> <|revision|> y' [<|end|>]. Without the last <|end|> a
 * revision was cut off; a verdict of ok is complete as soon as it is said. */
bool chat_critique_parse(const Chat *c, const int32_t *id, int n, CritiqueParse *out) {
    *out = (CritiqueParse){0};
    int at = skip_text(c, id, n, 0);
    out->n_critique = at;
    if (n - at < 2 || id[at] != c->id[SENT_VERDICT]) return false;
    int32_t verdict = id[at + 1];
    at += 2;
    if (verdict == c->id[SENT_OK]) return at == n || (at + 1 == n && id[at] == c->id[SENT_END]);
    if (verdict != c->id[SENT_VIOLATES] || at == n || id[at] != c->id[SENT_REVISION]) return false;
    out->violates = true;
    out->revision = at + 1;
    at = skip_text(c, id, n, at + 1);
    out->n_revision = at - out->revision;
    out->truncated = at == n;
    return at == n || (at + 1 == n && id[at] == c->id[SENT_END]);
}
