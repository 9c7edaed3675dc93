/* The XML spelling, read by expat: no DTD (so no entities of one's own), depth at most 16. Text arrives in pieces and is
 * gathered per element; scalars and word lists are attributes. */
#include <expat.h>
#include <stdlib.h>
#include <string.h>

#include "cai/constitution_int.h"

typedef enum { IN_TOP, IN_CONSTITUTION, IN_PRINCIPLE, IN_TEST, IN_TEXT } Place;

typedef struct {
    Builder *b;
    XML_Parser xml;
    Place place[4];     /* stack of elements we know */
    int depth;
    const char **text_to;   /* where the element's text goes */
    bool text_may_be_empty;
    Str text;
    int text_line, text_column, principle_line, principle_column;
    PrincipleExample *example;
    PrincipleTest *test;
    int n_example, cap_example, n_test, cap_test;
    bool failed;
    int field;
} Reader;

enum { FIELD_DIRECT, FIELD_EXAMPLE, FIELD_PROMPT, FIELD_BETTER, FIELD_WORSE };

static void fail(Reader *r, const char *what) {
    if (r->failed) return;
    r->failed = true;
    builder_fail(r->b, (int)XML_GetCurrentLineNumber(r->xml), (int)XML_GetCurrentColumnNumber(r->xml) + 1, what);
    XML_StopParser(r->xml, XML_FALSE);
}

static void fail_name(Reader *r, const char *before, const char *name, const char *after) {
    Str what = {0};
    str_printf(&what, "%s'%.60s'%s", before, name, after);
    fail(r, str_get(&what));
    str_release(&what);
}

static const char *keep(Reader *r, const char *s) {
    const char *out = builder_text(r->b, s, strlen(s), (int)XML_GetCurrentLineNumber(r->xml), (int)XML_GetCurrentColumnNumber(r->xml) + 1);
    if (!out) {
        r->failed = true;
        XML_StopParser(r->xml, XML_FALSE);
    }
    return out;
}

static void open_text(Reader *r, int field, const char **to, bool may_be_empty) {
    if (field == FIELD_DIRECT && *to) {
        fail(r, "this element stands twice in its principle");
        return;
    }
    r->field = field;
    r->text_to = to;
    r->text_may_be_empty = may_be_empty;
    r->text_line = (int)XML_GetCurrentLineNumber(r->xml);
    r->text_column = (int)XML_GetCurrentColumnNumber(r->xml) + 1;
    str_clear(&r->text);
    r->place[r->depth++] = IN_TEXT;
}

static void no_attributes(Reader *r, const char **attr) {
    if (attr[0]) fail_name(r, "unknown attribute ", attr[0], "");
}

static void open_constitution(Reader *r, const char **attr) {
    Constitution *c = r->b->out;
    const char *schema = NULL;
    for (; attr[0]; attr += 2) {
        if (!strcmp(attr[0], "schema")) schema = attr[1];
        else if (!strcmp(attr[0], "id")) c->id = keep(r, attr[1]);
        else if (!strcmp(attr[0], "version")) c->version = keep(r, attr[1]);
        else if (!strcmp(attr[0], "license")) c->license = keep(r, attr[1]);
        else if (!strcmp(attr[0], "language")) c->language = keep(r, attr[1]);
        else fail_name(r, "unknown attribute ", attr[0], " of <constitution>");
    }
    if (!schema || strcmp(schema, "dikast-constitution/1")) fail(r, "<constitution> needs schema=\"dikast-constitution/1\"");
    r->place[r->depth++] = IN_CONSTITUTION;
}

/* Words separated by spaces. */
static int split_words(Reader *r, const char *s, const char ***out) {
    Heap *h = &r->b->out->heap;
    *out = heap_alloc(h, (strlen(s) / 2 + 1) * sizeof **out);
    int n = 0;
    for (const char *p = s + strspn(s, " "); *p; p += strspn(p, " ")) {
        size_t len = strcspn(p, " ");
        (*out)[n++] = heap_strn(h, p, len);
        p += len;
    }
    return n;
}

static void principle_attribute(Reader *r, Principle *p, const char *name, const char *value) {
    const char **word;
    if (!strcmp(name, "id")) p->id = keep(r, value);
    else if (!strcmp(name, "authority")) {
        if (!builder_authority(&p->authority, value)) fail(r, "'authority' must be one of root, system, developer, user, guideline");
    } else if (!strcmp(name, "weight")) {
        char *end;
        p->weight = strtod(value, &end);
        if (end == value || *end) fail(r, "'weight' must be a number");
    } else if (!strcmp(name, "use")) {
        p->use = 0;
        int n = split_words(r, value, &word);
        for (int i = 0; i < n; i++) {
            if (!strcmp(word[i], "critique")) p->use |= USE_CRITIQUE;
            else if (!strcmp(word[i], "label")) p->use |= USE_LABEL;
            else fail(r, "'use' holds something other than critique and label");
        }
    } else if (!strcmp(name, "tags")) {
        p->n_tag = split_words(r, value, &word);
        p->tag = word;
    } else fail_name(r, "unknown attribute ", name, " of <principle>");
}

static void open_principle(Reader *r, const char **attr) {
    Principle *p = builder_principle(r->b);
    r->principle_line = (int)XML_GetCurrentLineNumber(r->xml);
    r->principle_column = (int)XML_GetCurrentColumnNumber(r->xml) + 1;
    for (; attr[0] && !r->failed; attr += 2) principle_attribute(r, p, attr[0], attr[1]);
    r->n_example = r->n_test = 0;
    r->place[r->depth++] = IN_PRINCIPLE;
}

static void open_in_principle(Reader *r, const char *name, const char **attr) {
    Principle *p = &r->b->principle[r->b->n - 1];
    if (!strcmp(name, "example")) {
        bool yes = attr[0] && !strcmp(attr[0], "applies") && !strcmp(attr[1], "true");
        bool no = attr[0] && !strcmp(attr[0], "applies") && !strcmp(attr[1], "false");
        if ((!yes && !no) || attr[2]) {
            fail(r, "<example> needs applies=\"true\" or \"false\" and nothing else");
            return;
        }
        if (r->n_example == r->cap_example) {
            r->cap_example = r->cap_example ? 2 * r->cap_example : 8;
            r->example = mem_grow(r->example, (size_t)r->cap_example * sizeof *r->example);
        }
        r->example[r->n_example++] = (PrincipleExample){NULL, yes};
        open_text(r, FIELD_EXAMPLE, NULL, false);
        return;
    }
    no_attributes(r, attr);
    if (!strcmp(name, "text")) open_text(r, FIELD_DIRECT, &p->text, false);
    else if (!strcmp(name, "avoid")) open_text(r, FIELD_DIRECT, &p->avoid, false);
    else if (!strcmp(name, "critique")) open_text(r, FIELD_DIRECT, &p->critique, true);
    else if (!strcmp(name, "revise")) open_text(r, FIELD_DIRECT, &p->revise, true);
    else if (!strcmp(name, "compare")) open_text(r, FIELD_DIRECT, &p->compare, true);
    else if (!strcmp(name, "test")) {
        if (r->n_test == r->cap_test) {
            r->cap_test = r->cap_test ? 2 * r->cap_test : 8;
            r->test = mem_grow(r->test, (size_t)r->cap_test * sizeof *r->test);
        }
        r->test[r->n_test++] = (PrincipleTest){0};
        r->place[r->depth++] = IN_TEST;
    } else fail_name(r, "unknown element ", name, " in a principle");
}

static void open_in_test(Reader *r, const char *name, const char **attr) {
    no_attributes(r, attr);
    if (!strcmp(name, "prompt")) open_text(r, FIELD_PROMPT, NULL, false);
    else if (!strcmp(name, "better")) open_text(r, FIELD_BETTER, NULL, false);
    else if (!strcmp(name, "worse")) open_text(r, FIELD_WORSE, NULL, false);
    else fail_name(r, "unknown element ", name, " in a test");
}

static void XMLCALL on_open(void *ud, const char *name, const char **attr) {
    Reader *r = ud;
    if (r->failed) return;
    Place at = r->depth ? r->place[r->depth - 1] : IN_TOP;
    if (at == IN_TOP && !strcmp(name, "constitution")) open_constitution(r, attr);
    else if (at == IN_CONSTITUTION && !strcmp(name, "principle")) open_principle(r, attr);
    else if (at == IN_PRINCIPLE) open_in_principle(r, name, attr);
    else if (at == IN_TEST) open_in_test(r, name, attr);
    else fail_name(r, "unexpected element ", name, "");
}

static void XMLCALL on_text(void *ud, const char *s, int n) {
    Reader *r = ud;
    if (r->failed) return;
    if (r->depth && r->place[r->depth - 1] == IN_TEXT) {
        str_putn(&r->text, s, (size_t)n);
        return;
    }
    for (int i = 0; i < n; i++)
        if (!strchr(" \t\r\n", s[i])) {
            fail(r, "text outside an element that holds text");
            return;
        }
}

static void close_text(Reader *r) {
    const char *text = builder_text(r->b, str_get(&r->text), r->text.n, r->text_line, r->text_column);
    if (!text || (!text[0] && !r->text_may_be_empty)) {
        if (text) builder_fail(r->b, r->text_line, r->text_column, "this element is empty");
        r->failed = true;
        XML_StopParser(r->xml, XML_FALSE);
        return;
    }
    PrincipleTest *t = r->n_test ? &r->test[r->n_test - 1] : NULL;
    const char **to = r->field == FIELD_EXAMPLE  ? &r->example[r->n_example - 1].text
                      : r->field == FIELD_PROMPT ? &t->prompt
                      : r->field == FIELD_BETTER ? &t->better
                      : r->field == FIELD_WORSE  ? &t->worse
                                                 : r->text_to;
    *to = text;
}

static void close_principle(Reader *r) {
    Principle *p = &r->b->principle[r->b->n - 1];
    Heap *h = &r->b->out->heap;
    if (r->n_example) {
        PrincipleExample *e = heap_alloc(h, (size_t)r->n_example * sizeof *e);
        memcpy(e, r->example, (size_t)r->n_example * sizeof *e);
        p->example = e;
        p->n_example = r->n_example;
    }
    if (r->n_test) {
        PrincipleTest *t = heap_alloc(h, (size_t)r->n_test * sizeof *t);
        memcpy(t, r->test, (size_t)r->n_test * sizeof *t);
        p->test = t;
        p->n_test = r->n_test;
    }
    if (builder_check_principle(r->b, r->principle_line, r->principle_column)) return;
    r->failed = true;
    XML_StopParser(r->xml, XML_FALSE);
}

static void XMLCALL on_close(void *ud, const char *name) {
    Reader *r = ud;
    (void)name;
    if (r->failed) return;
    Place at = r->place[--r->depth];
    if (at == IN_TEXT) close_text(r);
    else if (at == IN_PRINCIPLE) close_principle(r);
    else if (at == IN_TEST) {
        const PrincipleTest *t = &r->test[r->n_test - 1];
        if (!t->prompt || !t->better || !t->worse) fail(r, "a test needs <prompt>, <better> and <worse>");
    }
}

static void XMLCALL on_doctype(void *ud, const char *name, const char *sysid, const char *pubid, int internal) {
    (void)name, (void)sysid, (void)pubid, (void)internal;
    fail(ud, "a document type (DTD) is not allowed in a constitution; remove it and write entities out");
}

bool constitution_read_xml(Builder *b, const char *s, size_t n) {
    XML_Parser xml = XML_ParserCreate(NULL);
    if (!xml) return error_set(b->err, ERR_MEMORY, "no memory for an XML parser");
    Reader r = {.b = b, .xml = xml};
    XML_SetUserData(xml, &r);
    XML_SetElementHandler(xml, on_open, on_close);
    XML_SetCharacterDataHandler(xml, on_text);
    XML_SetStartDoctypeDeclHandler(xml, on_doctype);
    bool ok = XML_Parse(xml, s, (int)n, 1) == XML_STATUS_OK && !r.failed;
    if (!ok && !r.failed)
        builder_fail(b, (int)XML_GetCurrentLineNumber(xml), (int)XML_GetCurrentColumnNumber(xml) + 1, XML_ErrorString(XML_GetErrorCode(xml)));
    XML_ParserFree(xml);
    str_release(&r.text);
    free(r.example);
    free(r.test);
    return ok;
}
