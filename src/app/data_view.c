#include "app/data_view.h"

#include <stdlib.h>
#include <string.h>

#include "cai/format.h"
#include "cai/stages.h"

static void put_span(View *v, bool learned) {
    size_t from = v->n ? v->span[v->n - 1].end : 0;
    if (v->text.n == from) return;
    if (v->n && v->span[v->n - 1].learned == learned) {
        v->span[v->n - 1].end = v->text.n;
        return;
    }
    if (v->n == v->cap) {
        v->cap = v->cap ? 2 * v->cap : 16;
        v->span = mem_grow(v->span, (size_t)v->cap * sizeof *v->span);
    }
    v->span[v->n++] = (Span){v->text.n, learned};
}

/* ---- with a tokenizer: the sequences of the stages */

static void decode(View *v, const Chat *c) {
    const Sequence *s = &v->s;
    for (int i = 0; i < s->tok.n;) {
        int k = i + 1;
        bool learned = i > 0 && s->weight[i] != 0; /* nothing stands before the first */
        while (k < s->tok.n && (s->weight[k] != 0) == learned) k++;
        tokenizer_decode(c->tok, s->tok.id + i, k - i, true, &v->text);
        put_span(v, learned);
        i = k;
    }
}

static void reply_sequence(View *v, const Chat *c, const Row *r, const char *reply, float weight) {
    chat_respond(&v->s, c, r->prompt);
    chat_reply(&v->s, c, reply, weight, true);
}

static void make_sequence(View *v, const Chat *c, const Row *r, const char *reply) {
    switch (r->kind) {
    case ROW_INSTRUCTION:
        if (!sequence_instruction(&v->s, c, r, true)) reply_sequence(v, c, r, reply, 1); /* without the tools */
        break;
    case ROW_TEXT:
        if (r->tok) {
            sequence_instruction(&v->s, c, r, true);
            break;
        }
        sequence_put(&v->s, c->document, 0);
        sequence_text(&v->s, c, r->a, 1);
        sequence_put(&v->s, c->document, 1);
        break;
    case ROW_FORMAT:
        format_sequence(&v->s, c, r, 0);
        break;
    case ROW_PROMPT:
        chat_respond(&v->s, c, r->prompt);
        break;
    default:
        reply_sequence(v, c, r, reply, r->kind != ROW_LABELLED);
    }
    decode(v, c);
}

/* ---- without: the same, spelled */

static void put(View *v, const char *s, bool learned) {
    str_put(&v->text, s);
    put_span(v, learned);
}

static void put_sentinel(View *v, Sentinel s, bool learned) { put(v, sentinel_spelling(s), learned); }

static void spell_prompt(View *v, const Row *r) {
    static const Sentinel opener[] = {
        [ROLE_SYSTEM] = SENT_SYSTEM, [ROLE_USER] = SENT_USER, [ROLE_ASSISTANT] = SENT_ASSISTANT};
    for (int i = 0; i < r->prompt.n; i++) {
        put_sentinel(v, opener[r->prompt.msg[i].role], false);
        put(v, r->prompt.msg[i].text, false);
        put_sentinel(v, SENT_END, false);
    }
    put_sentinel(v, SENT_ASSISTANT, false);
}

static void spell(View *v, const Row *r, const char *reply) {
    if (r->tok) {
        for (int i = 0; i < r->n_tok; i++) {
            str_printf(&v->text, "%s%d", i ? " " : "", (int)r->tok[i]);
            put_span(v, i > 0 && r->tok_weight[i] != 0);
        }
        return;
    }
    if (r->kind == ROW_TEXT) {
        put_sentinel(v, SENT_ENDOFTEXT, false);
        put(v, r->a, true);
        put_sentinel(v, SENT_ENDOFTEXT, true);
        return;
    }
    spell_prompt(v, r);
    if (r->kind == ROW_PROMPT || !reply) return;
    put(v, reply, r->kind != ROW_LABELLED);
    put_sentinel(v, SENT_END, r->kind != ROW_LABELLED);
}

/* ---- */

int view_row(View out[2], const Chat *chat, const Row *r) {
    bool pair = r->kind == ROW_PREFERENCE;
    if (r->kind == ROW_CHOICE || r->kind == ROW_PARAPHRASE || (r->kind == ROW_FORMAT && !chat)) return 0;
    for (int i = 0; i < 1 + pair; i++) {
        view_clear(&out[i]);
        out[i].name = pair ? i ? "rejected" : "chosen" : "";
        if (chat)
            make_sequence(&out[i], chat, r, i ? r->b : r->a);
        else
            spell(&out[i], r, i ? r->b : r->a);
    }
    return 1 + pair;
}

void view_clear(View *v) {
    sequence_clear(&v->s);
    str_clear(&v->text);
    v->n = 0;
}

void view_release(View *v) {
    sequence_release(&v->s);
    str_release(&v->text);
    free(v->span);
    *v = (View){0};
}

/* What could move a terminal's cursor becomes '?': C0 and C1 controls but for line feeds and tabs. */
static void put_safe(Str *out, const char *s, size_t n, const char *margin) {
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        bool c1 = c == 0xC2 && i + 1 < n && (unsigned char)s[i + 1] < 0xA0;
        str_putc(out, c1 || c == 0x7F || (c < 0x20 && c != '\n' && c != '\t') ? '?' : s[i]);
        i += c1;
        if (c == '\n') str_put(out, margin);
    }
}

void view_print(Str *out, const View *v, ViewStyle style, const char *margin, size_t limit) {
    static const char *const open[2][2] = {{"", "[["}, {"\033[2m", "\033[32m"}}, *const shut[2][2] = {
                                                                                     {"", "]]"},
                                                                                     {"\033[0m", "\033[0m"}};
    size_t at = 0, end = v->text.n;
    if (end > limit) {
        end = limit;
        while (end > 0 && ((unsigned char)v->text.s[end] & 0xC0) == 0x80) end--;
    }
    str_put(out, margin);
    for (int i = 0; i < v->n && at < end; i++) {
        size_t to = v->span[i].end < end ? v->span[i].end : end;
        str_put(out, open[style][v->span[i].learned]);
        put_safe(out, v->text.s + at, to - at, margin);
        str_put(out, shut[style][v->span[i].learned]);
        at = to;
    }
    if (end < v->text.n) str_printf(out, " ... (%zu bytes more)", v->text.n - end);
    str_putc(out, '\n');
}

size_t row_text_bytes(const Row *r) {
    const char *const field[] = {r->a, r->b, r->principle, r->critique, r->revision_request};
    size_t n = 0;
    for (int i = 0; i < r->prompt.n; i++) n += strlen(r->prompt.msg[i].text);
    for (int i = 0; i < COUNT_OF(field); i++) n += field[i] ? strlen(field[i]) : 0;
    for (int i = 0; i < r->n_list; i++) n += strlen(r->list[i]);
    return n;
}
