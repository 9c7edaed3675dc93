/* The XML spelling, read by expat: no DTD (so no entities of one's own) and no element beyond the schema, whose depth
 * is four
 * - so the stack of places cannot overflow. Text arrives in pieces and is gathered per element; scalars and word lists
 * are attributes. */
#include <expat.h>
#include <stdlib.h>
#include <string.h>

#include "cai/constitution_int.h"

typedef enum { IN_TOP, IN_CONSTITUTION, IN_PRINCIPLE, IN_TEST, IN_TEXT } Place;

typedef struct {
    Builder *b;
    XML_Parser xml;
    Place place[4]; /* stack of elements we know */
    int depth;
    const char **text_to; /* where the element's text goes */
    bool text_may_be_empty;
    Str text;
    int text_line, text_column, principle_line, principle_column;
    PrincipleExample *example;
    PrincipleTest *test;
    int n_example, cap_example, n_test, cap_test;
    bool failed;
} Reader;

static void fail(Reader *r, const char *what) {
    if (r->failed) return;
    r->failed = true;
    builder_fail(r->b, (int)XML_GetCurrentLineNumber(r->xml), (int)XML_GetCurrentColumnNumber(r->xml) + 1, what);
    XML_StopParser(r->xml, XML_FALSE);
}

/* Where the checks of the builder found a fault at an earlier place. */
static void fail_there(Reader *r, int line, int column, const Fault *f) {
    r->failed = true;
    builder_fail(r->b, line, column, f->what);
    XML_StopParser(r->xml, XML_FALSE);
}

static void fail_unknown(Reader *r, const char *sort, const char *name, const char *in, const char *const *known) {
    Fault f;
    fault_unknown(&f, sort, name, in, known);
    fail(r, f.what);
}

/* An attribute's text. */
static const char *keep(Reader *r, const char *name, const char *s) {
    Fault f;
    const char *out = builder_text(r->b, s, strlen(s), &f);
    if (out && !out[0]) {
        fault_set(&f, NULL, "attribute '%s' is empty", name);
        out = NULL;
    }
    if (!out) fail(r, f.what);
    return out;
}

/* to: stays valid until the element closes, since what it lies in grows only between such elements. */
static void open_text(Reader *r, const char *name, const char **to, bool may_be_empty) {
    Fault f;
    if (*to) {
        fault_set(&f, NULL, "<%s> stands here for the second time", name);
        fail(r, f.what);
        return;
    }
    r->text_to = to;
    r->text_may_be_empty = may_be_empty;
    r->text_line = (int)XML_GetCurrentLineNumber(r->xml);
    r->text_column = (int)XML_GetCurrentColumnNumber(r->xml) + 1;
    str_clear(&r->text);
    r->place[r->depth++] = IN_TEXT;
}

static void no_attributes(Reader *r, const char *element, const char **attr) {
    Fault f;
    if (!attr[0]) return;
    fault_set(&f, NULL, "unknown attribute '%.60s': <%.60s> has none", attr[0], element);
    fail(r, f.what);
}

static void open_constitution(Reader *r, const char **attr) {
    static const char *const known[] = {"schema", "id", "version", "license", "language", NULL};
    Constitution *c = r->b->out;
    const char *schema = NULL;
    for (; attr[0] && !r->failed; attr += 2) {
        if (!strcmp(attr[0], "schema"))
            schema = attr[1];
        else if (!strcmp(attr[0], "id"))
            c->id = keep(r, attr[0], attr[1]);
        else if (!strcmp(attr[0], "version"))
            c->version = keep(r, attr[0], attr[1]);
        else if (!strcmp(attr[0], "license"))
            c->license = keep(r, attr[0], attr[1]);
        else if (!strcmp(attr[0], "language"))
            c->language = keep(r, attr[0], attr[1]);
        else
            fail_unknown(r, "attribute", attr[0], "<constitution>", known);
    }
    if (!schema || strcmp(schema, "dikast-constitution/1"))
        fail(r, "<constitution> needs schema=\"dikast-constitution/1\"");
    r->place[r->depth++] = IN_CONSTITUTION;
}

/* Words separated by spaces (the parser made spaces of tabs and newlines). */
static int split_words(Reader *r, const char *s, const char ***out) {
    *out = heap_alloc(&r->b->out->heap, (strlen(s) / 2 + 1) * sizeof **out);
    int n = 0;
    for (const char *p = s + strspn(s, " "); *p && !r->failed; p += strspn(p, " ")) {
        size_t len = strcspn(p, " ");
        Fault f;
        const char *word = builder_text(r->b, p, len, &f);
        if (word)
            (*out)[n++] = word;
        else
            fail(r, f.what);
        p += len;
    }
    return n;
}

static void read_weight(Reader *r, Principle *p, const char *value) {
    char *end;
    bool plain = value[0] && strspn(value, "0123456789.eE+-") == strlen(value); /* strtod reads hex, inf and nan too */
    p->weight = strtod(value, &end);
    if (!plain || *end) fail(r, "'weight' must be a number");
}

static void principle_attribute(Reader *r, Principle *p, const char *name, const char *value) {
    static const char *const known[] = {"id", "authority", "weight", "use", "tags", NULL};
    const char **word;
    Fault f;
    if (!strcmp(name, "id"))
        p->id = keep(r, name, value);
    else if (!strcmp(name, "authority")) {
        if (!builder_authority(&p->authority, value, &f)) fail(r, f.what);
    } else if (!strcmp(name, "weight"))
        read_weight(r, p, value);
    else if (!strcmp(name, "use")) {
        p->use = 0;
        int n = split_words(r, value, &word);
        for (int i = 0; i < n; i++) {
            if (!strcmp(word[i], "critique"))
                p->use |= USE_CRITIQUE;
            else if (!strcmp(word[i], "label"))
                p->use |= USE_LABEL;
            else
                fail(r, "'use' holds something other than critique and label");
        }
    } else if (!strcmp(name, "tags")) {
        p->n_tag = split_words(r, value, &word);
        p->tag = word;
    } else
        fail_unknown(r, "attribute", name, "<principle>", known);
}

static void open_principle(Reader *r, const char **attr) {
    Principle *p = builder_principle(r->b);
    r->principle_line = p->line = (int)XML_GetCurrentLineNumber(r->xml);
    r->principle_column = (int)XML_GetCurrentColumnNumber(r->xml) + 1;
    for (; attr[0] && !r->failed; attr += 2) principle_attribute(r, p, attr[0], attr[1]);
    r->n_example = r->n_test = 0;
    r->place[r->depth++] = IN_PRINCIPLE;
}

static void open_in_principle(Reader *r, const char *name, const char **attr) {
    static const char *const known[] = {"text", "avoid", "critique", "revise", "compare", "example", "test", NULL};
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
        open_text(r, name, &r->example[r->n_example - 1].text, false);
        return;
    }
    no_attributes(r, name, attr);
    if (!strcmp(name, "text"))
        open_text(r, name, &p->text, false);
    else if (!strcmp(name, "avoid"))
        open_text(r, name, &p->avoid, false);
    else if (!strcmp(name, "critique"))
        open_text(r, name, &p->critique, true);
    else if (!strcmp(name, "revise"))
        open_text(r, name, &p->revise, true);
    else if (!strcmp(name, "compare"))
        open_text(r, name, &p->compare, true);
    else if (!strcmp(name, "test")) {
        if (r->n_test == r->cap_test) {
            r->cap_test = r->cap_test ? 2 * r->cap_test : 8;
            r->test = mem_grow(r->test, (size_t)r->cap_test * sizeof *r->test);
        }
        r->test[r->n_test++] = (PrincipleTest){0};
        r->place[r->depth++] = IN_TEST;
    } else
        fail_unknown(r, "element", name, "<principle>", known);
}

static void open_in_test(Reader *r, const char *name, const char **attr) {
    static const char *const known[] = {"prompt", "better", "worse", NULL};
    PrincipleTest *t = &r->test[r->n_test - 1];
    no_attributes(r, name, attr);
    if (!strcmp(name, "prompt"))
        open_text(r, name, &t->prompt, false);
    else if (!strcmp(name, "better"))
        open_text(r, name, &t->better, false);
    else if (!strcmp(name, "worse"))
        open_text(r, name, &t->worse, false);
    else
        fail_unknown(r, "element", name, "<test>", known);
}

static void XMLCALL on_open(void *ud, const char *name, const char **attr) {
    static const char *const at_name[] = {"the file", "<constitution>", "<principle>", "<test>", "a text"};
    static const char *const top[] = {"constitution", NULL}, *const list[] = {"principle", NULL},
                             *const none[] = {NULL};
    static const char *const *const known[] = {top, list, none, none, none};
    Reader *r = ud;
    if (r->failed) return;
    Place at = r->depth ? r->place[r->depth - 1] : IN_TOP;
    if (at == IN_TOP && !strcmp(name, "constitution"))
        open_constitution(r, attr);
    else if (at == IN_CONSTITUTION && !strcmp(name, "principle"))
        open_principle(r, attr);
    else if (at == IN_PRINCIPLE)
        open_in_principle(r, name, attr);
    else if (at == IN_TEST)
        open_in_test(r, name, attr);
    else
        fail_unknown(r, "element", name, at_name[at], known[at]);
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

static void close_text(Reader *r, const char *name) {
    Fault f;
    const char *text = builder_text(r->b, str_get(&r->text), r->text.n, &f);
    if (text && !text[0] && !r->text_may_be_empty) {
        fault_set(&f, NULL, "<%s> is empty", name);
        text = NULL;
    }
    if (!text) {
        fail_there(r, r->text_line, r->text_column, &f);
        return;
    }
    *r->text_to = text;
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
    Fault f;
    if (!builder_check_principle(r->b, &f)) fail_there(r, r->principle_line, r->principle_column, &f);
}

static void XMLCALL on_close(void *ud, const char *name) {
    Reader *r = ud;
    if (r->failed) return;
    Place at = r->place[--r->depth];
    if (at == IN_TEXT)
        close_text(r, name);
    else if (at == IN_PRINCIPLE)
        close_principle(r);
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
        builder_fail(b, (int)XML_GetCurrentLineNumber(xml), (int)XML_GetCurrentColumnNumber(xml) + 1,
                     XML_ErrorString(XML_GetErrorCode(xml)));
    XML_ParserFree(xml);
    str_release(&r.text);
    free(r.example);
    free(r.test);
    return ok;
}
