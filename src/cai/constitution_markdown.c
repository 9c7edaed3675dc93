/* Markdown: a heading "## Title {#id authority=level}" begins a principle; its first paragraph is the text; every
 * <comparison> block with GOOD and BAD replies gives tests. Headings without an authority are prose for people. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cai/constitution_int.h"

enum { MAX_REPLIES = 8 };

typedef struct {
    Importer *w;
    const char *s, *end;
    int line;
    bool in_principle;
    PrincipleTest *test;
    int n_test, cap_test;
} Markdown;

typedef struct {
    const char *s;
    size_t n;
} Span;

static Span next_line(Markdown *m) {
    Span l = {m->s, 0};
    const char *nl = memchr(m->s, '\n', (size_t)(m->end - m->s));
    l.n = (size_t)((nl ? nl : m->end) - m->s);
    m->s = nl ? nl + 1 : m->end;
    m->line++;
    while (l.n && strchr(" \t\r", l.s[l.n - 1])) l.n--;
    while (l.n && (l.s[0] == ' ' || l.s[0] == '\t')) l.s++, l.n--;
    return l;
}

static bool begins(Span l, const char *with) { return l.n >= strlen(with) && !memcmp(l.s, with, strlen(with)); }

static bool holds(Span l, const char *what, size_t *at) {
    size_t n = strlen(what);
    for (size_t i = 0; i + n <= l.n; i++)
        if (!memcmp(l.s + i, what, n)) {
            *at = i + n;
            return true;
        }
    return false;
}

/* {.. key value ..}: the word behind key, up to a blank or brace. */
static Span attribute(Span l, const char *key) {
    size_t at;
    Span none = {NULL, 0};
    if (!holds(l, key, &at)) return none;
    size_t n = 0;
    while (at + n < l.n && l.s[at + n] != ' ' && l.s[at + n] != '}') n++;
    return (Span){l.s + at, n};
}

static void close_principle(Markdown *m) {
    if (m->in_principle && m->n_test) {
        Principle *p = &m->w->b->principle[m->w->b->n - 1];
        PrincipleTest *t = heap_alloc(&m->w->b->out->heap, (size_t)m->n_test * sizeof *t);
        memcpy(t, m->test, (size_t)m->n_test * sizeof *t);
        p->test = t;
        p->n_test = m->n_test;
    }
    m->n_test = 0;
    m->in_principle = false;
}

static bool paragraph(Markdown *m, Principle *p) {
    Str text = {0};
    while (m->s < m->end) {
        Markdown before = *m;
        Span l = next_line(m);
        if (begins(l, "#") || begins(l, "<comparison>")) { /* no paragraph: theirs to read */
            *m = before;
            break;
        }
        if (!l.n && text.n) break;
        if (!l.n) continue;
        if (text.n) str_putc(&text, ' ');
        str_putn(&text, l.s, l.n);
    }
    m->w->at = m->line;
    bool ok = text.n ? import_clean(m->w, &p->text, text.s, text.n)
                     : import_fail(m->w, "a heading with an authority, but no paragraph follows");
    str_release(&text);
    return ok && import_check(m->w);
}

static bool heading(Markdown *m, Span l) {
    char name[64], level[24];
    Fault f;
    Span id = attribute(l, "{#"), authority = attribute(l, "authority=");
    size_t skip = 0;
    while (skip < l.n && (l.s[skip] == '#' || l.s[skip] == ' ')) skip++;
    size_t brace, title = l.n - skip;
    if (holds((Span){l.s + skip, title}, "{#", &brace)) title = brace - 2;
    Span of = id.n ? id : (Span){l.s + skip, title};
    snprintf(name, sizeof name, "%.*s", (int)(of.n < 60 ? of.n : 60), of.s);
    close_principle(m);
    m->w->at = m->line;
    m->w->who = NULL;
    if (!authority.n) {
        import_note(m->w, name, "no authority, skipped");
        return true;
    }
    Principle *p = builder_principle(m->w->b);
    p->id = NULL;
    p->id = import_id(m->w, name, "heading");
    m->w->who = p->id;
    m->in_principle = true;
    snprintf(level, sizeof level, "%.*s", (int)(authority.n < 20 ? authority.n : 20), authority.s);
    if (!builder_authority(&p->authority, level, &f)) return import_fail(m->w, f.what);
    return paragraph(m, p);
}

/* The text between this line and the closing tag of its element. */
static Span inner(Markdown *m, const char *close) {
    const char *from = m->s, *to = m->s;
    while (m->s < m->end) {
        to = m->s;
        Markdown before = *m;
        Span l = next_line(m);
        if (begins(l, close)) return (Span){from, (size_t)(to - from)};
        if (begins(l, "</comparison>") || begins(l, "#")) { /* never closed */
            *m = before;
            return (Span){from, (size_t)(to - from)};
        }
    }
    return (Span){from, (size_t)(m->end - from)};
}

static bool put_test(Markdown *m, Span prompt, Span better, Span worse) {
    PrincipleTest t;
    if (m->n_test == m->cap_test) {
        m->cap_test = m->cap_test ? 2 * m->cap_test : 8;
        m->test = mem_grow(m->test, (size_t)m->cap_test * sizeof *m->test);
    }
    if (!import_clean(m->w, &t.prompt, prompt.s, prompt.n) || !import_clean(m->w, &t.better, better.s, better.n) ||
        !import_clean(m->w, &t.worse, worse.s, worse.n))
        return false;
    if (t.prompt[0] && t.better[0] && t.worse[0])
        m->test[m->n_test++] = t;
    else
        import_note(m->w, m->w->who, "a comparison with an empty text, skipped");
    return true;
}

static bool comparison(Markdown *m) {
    Span user = {NULL, 0}, good[MAX_REPLIES], bad[MAX_REPLIES];
    int n_good = 0, n_bad = 0, n_turn = 0;
    size_t at;
    bool ok = true;
    m->w->at = m->line;
    while (m->s < m->end) {
        Markdown before = *m;
        Span l = next_line(m);
        if (begins(l, "</comparison>")) break;
        if (begins(l, "#")) {
            *m = before;
            break;
        }
        if (begins(l, "<user>"))
            user = inner(m, "</user>"), n_turn++;
        else if (begins(l, "<system>"))
            inner(m, "</system>"), n_turn++;
        else if (begins(l, "<developer>"))
            inner(m, "</developer>"), n_turn++;
        else if (begins(l, "<assistant>")) {
            Span reply = inner(m, "</assistant>");
            if (holds(l, "GOOD", &at) && n_good < MAX_REPLIES)
                good[n_good++] = reply;
            else if (holds(l, "BAD", &at) && n_bad < MAX_REPLIES)
                bad[n_bad++] = reply;
            else
                n_turn++;
        }
    }
    if (!m->in_principle) return true;
    if (!user.s || !n_good || !n_bad) {
        import_note(m->w, m->w->who, "a comparison without a user's turn, a GOOD and a BAD reply, skipped");
        return true;
    }
    if (n_turn > 1) import_note(m->w, m->w->who, "a comparison's earlier turns were left out of its test");
    for (int i = 0; ok && i < (n_good > n_bad ? n_good : n_bad); i++)
        ok = put_test(m, user, good[i < n_good ? i : n_good - 1], bad[i < n_bad ? i : n_bad - 1]);
    return ok;
}

bool import_markdown(Importer *w, const char *s, size_t n) {
    Markdown m = {.w = w, .s = s, .end = s + n};
    bool ok = true;
    while (ok && m.s < m.end) {
        Span l = next_line(&m);
        if (begins(l, "#"))
            ok = heading(&m, l);
        else if (begins(l, "<comparison>"))
            ok = comparison(&m);
    }
    close_principle(&m);
    free(m.test);
    return ok;
}
