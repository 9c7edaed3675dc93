/* The model of a constitution and its two ways out. Reading is in constitution_json.c and constitution_xml.c; both fill
 * a Builder, so the checks (ids, empty texts, duplicates, characters) stand here once. */
#include "cai/constitution.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/guess.h"
#include "base/hash.h"
#include "base/io.h"
#include "base/json.h"
#include "cai/constitution_int.h"

static const char *const authority_name[] = {"root", "system", "developer", "user", "guideline"};

const char *authority_word(Authority a) { return authority_name[a]; }

static const char CRITIQUE[] =
    "Look only at the last reply. Quote the words that conflict with this rule and say in one or two sentences why. "
    "If nothing conflicts, say that nothing does.";
static const char REVISE[] =
    "Rewrite the reply so that the rule is met. Keep what was useful, stay calm, give the reason in one clause and "
    "offer a "
    "safe way towards the same need if there is one. Do not mention the rule or the rewriting.";
static const char COMPARE[] =
    "Which reply follows this rule better? Helping without breaking the rule is better than only declining.";

const char *principle_critique(const Principle *p) { return p->critique ? p->critique : CRITIQUE; }
const char *principle_revise(const Principle *p) { return p->revise ? p->revise : REVISE; }
const char *principle_compare(const Principle *p) { return p->compare ? p->compare : COMPARE; }

void principle_text(Str *out, const Principle *p) {
    str_clear(out);
    str_put(out, p->text);
    if (p->avoid) str_printf(out, " %s", p->avoid);
}

int constitution_find(const Constitution *c, const char *id) {
    for (int i = 0; i < c->n; i++)
        if (!strcmp(c->principle[i].id, id)) return i;
    return -1;
}

void constitution_release(Constitution *c) {
    heap_release(&c->heap);
    *c = (Constitution){0};
}

/* -- checks shared by both spellings --------------------------------------------------------------------------------
 */
bool builder_fail(Builder *b, int line, int column, const char *what) {
    return error_set(b->err, ERR_FORMAT, "%s:%d:%d: %s", b->name, line, column, what);
}

bool fault_set(Fault *f, const char *key, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vsnprintf(f->what, sizeof f->what, fmt, args);
    va_end(args);
    f->key = key;
    return false;
}

bool fault_unknown(Fault *f, const char *sort, const char *name, const char *in, const char *const *known) {
    Guess near = {.typed = name};
    for (int i = 0; known[i]; i++) guess_offer(&near, known[i]);
    return fault_set(f, NULL, "unknown %s '%.60s' in %s%s", sort, name, in, guess_hint(&near));
}

static bool id_valid(const char *s) {
    size_t n = strlen(s);
    if (n < 2 || n > 32 || s[0] < 'a' || s[0] > 'z') return false;
    return strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == n;
}

/* Trimmed, CRLF to LF, NFC; characters XML cannot carry are refused in JSON too, so that each spelling can say all the
 * other can. */
const char *builder_text(Builder *b, const char *s, size_t n, Fault *f) {
    while (n && strchr(" \t\r\n", s[0])) s++, n--;
    while (n && strchr(" \t\r\n", s[n - 1])) n--;
    char *clean = mem_alloc(n + 1);
    size_t m = 0;
    bool ok = true;
    for (size_t i = 0; i < n && ok; i++) {
        unsigned char ch = (unsigned char)s[i];
        if (ch == '\r' && i + 1 < n && s[i + 1] == '\n') continue;
        if (ch < 0x20 && ch != '\t' && ch != '\n')
            ok = fault_set(f, NULL, "a text holds the control character U+%04X (allowed: tab and newline)", ch);
        if (ch == 0xEF && i + 2 < n && (unsigned char)s[i + 1] == 0xBF && (unsigned char)s[i + 2] >= 0xBE)
            ok = fault_set(f, NULL, "a text holds U+FFFE or U+FFFF, which no text may");
        clean[m++] = (char)ch;
    }
    const char *out = NULL;
    if (ok) {
        utf8proc_uint8_t *nfc = NULL;
        utf8proc_ssize_t len = utf8proc_map((const utf8proc_uint8_t *)clean, (utf8proc_ssize_t)m, &nfc,
                                            UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        if (len < 0)
            fault_set(f, NULL, "a text is not valid UTF-8");
        else
            out = heap_strn(&b->out->heap, (const char *)nfc, (size_t)len);
        free(nfc);
    }
    free(clean);
    return out;
}

bool builder_authority(Authority *out, const char *s, Fault *f) {
    for (int i = 0; i < COUNT_OF(authority_name); i++)
        if (!strcmp(s, authority_name[i])) {
            *out = (Authority)i;
            return true;
        }
    return fault_set(f, "authority", "'authority' is '%.40s'; expected root, system, developer, user or guideline", s);
}

Principle *builder_principle(Builder *b) {
    if (b->n == b->cap) {
        b->cap = b->cap ? 2 * b->cap : 16;
        b->principle = mem_grow(b->principle, (size_t)b->cap * sizeof *b->principle);
    }
    b->principle[b->n] = (Principle){.authority = AUTH_SYSTEM, .weight = 1, .use = USE_CRITIQUE | USE_LABEL};
    return &b->principle[b->n++];
}

bool builder_check_principle(Builder *b, Fault *f) {
    const Principle *p = &b->principle[b->n - 1];
    if (b->n > CONSTITUTION_MAX_PRINCIPLES)
        return fault_set(f, NULL, "more than %d principles; split the file", (int)CONSTITUTION_MAX_PRINCIPLES);
    if (!p->id) return fault_set(f, NULL, "a principle has no id");
    if (!id_valid(p->id)) return fault_set(f, "id", "id '%.60s' does not match [a-z][a-z0-9-]{1,31}", p->id);
    for (int i = 0; i < b->n - 1; i++)
        if (!strcmp(b->principle[i].id, p->id)) return fault_set(f, "id", "duplicate id '%s'", p->id);
    if (!p->text || !p->text[0]) return fault_set(f, "text", "principle '%s' has no text", p->id);
    if (!(p->weight > 0 && p->weight <= 10))
        return fault_set(f, "weight", "principle '%s': weight %g is not in (0, 10]", p->id, p->weight);
    if (!p->use) return fault_set(f, "use", "principle '%s': use names neither critique nor label", p->id);
    return true;
}

bool builder_finish(Builder *b) {
    Constitution *c = b->out;
    if (!c->id || !c->id[0]) return builder_fail(b, 1, 1, "the constitution has no id");
    if (b->n == 0) return builder_fail(b, 1, 1, "the constitution has no principles");
    Principle *p = heap_alloc(&c->heap, (size_t)b->n * sizeof *p);
    memcpy(p, b->principle, (size_t)b->n * sizeof *p);
    c->principle = p;
    c->n = b->n;
    Str canonical = {0};
    constitution_canonical(&canonical, c);
    sha256_hex(c->sha256, canonical.s, canonical.n);
    str_release(&canonical);
    return true;
}

/* -- reading ---------------------------------------------------------------------------------------------------------
 */
/* By content; UTF-16 is for XML, whose parser knows it. */
static bool read_by_content(Builder *b, const char *s, size_t n) {
    if (n > CONSTITUTION_MAX_BYTES) return builder_fail(b, 1, 1, "larger than 16 MiB; expected a constitution");
    if (n >= 2 && (!memcmp(s, "\xFF\xFE", 2) || !memcmp(s, "\xFE\xFF", 2))) return constitution_read_xml(b, s, n);
    if (n && memchr(s, 0, n)) return builder_fail(b, 1, 1, "the file holds NUL bytes; expected JSON or XML text");
    size_t mark = n >= 3 && !memcmp(s, "\xEF\xBB\xBF", 3) ? 3 : 0, at = mark;
    while (at < n && strchr(" \t\r\n", s[at])) at++;
    if (at == n) return builder_fail(b, 1, 1, "the file is empty; expected a constitution in JSON or XML");
    if (s[at] == '{') return constitution_read_json(b, s + mark, n - mark);
    if (s[at] == '<') return constitution_read_xml(b, s, n);
    return builder_fail(b, 1, 1, "neither JSON ('{') nor XML ('<')");
}

bool constitution_parse(Constitution *c, const char *s, size_t n, const char *name, Error *err) {
    *c = (Constitution){0};
    Builder b = {.out = c, .name = name, .err = err};
    bool ok = read_by_content(&b, s, n) && builder_finish(&b);
    free(b.principle);
    if (!ok) constitution_release(c);
    return ok;
}

bool constitution_read(Constitution *c, const char *path, Error *err) {
    Str text = {0};
    *c = (Constitution){0};
    bool ok = io_read_file(&text, path, CONSTITUTION_MAX_BYTES, err) &&
              constitution_parse(c, str_get(&text), text.n, path, err);
    str_release(&text);
    return ok;
}

/* -- writing ---------------------------------------------------------------------------------------------------------
 */
static void use_json(JsonOut *j, const Principle *p) {
    json_out_arr(j, "use");
    if (p->use & USE_CRITIQUE) json_out_str(j, NULL, "critique");
    if (p->use & USE_LABEL) json_out_str(j, NULL, "label");
    json_out_arr_end(j);
}

static void tags_json(JsonOut *j, const Principle *p) {
    json_out_arr(j, "tags");
    for (int i = 0; i < p->n_tag; i++) json_out_str(j, NULL, p->tag[i]);
    json_out_arr_end(j);
}

/* Keys in sorted order; absent optional members are left out. The same order serves people well enough, so it is the
 * only one written. */
void principle_to_json(JsonOut *j, const Principle *p) {
    json_out_obj(j, NULL);
    json_out_str(j, "authority", authority_name[p->authority]);
    if (p->avoid) json_out_str(j, "avoid", p->avoid);
    if (p->compare) json_out_str(j, "compare", p->compare);
    if (p->critique) json_out_str(j, "critique", p->critique);
    if (p->n_example) {
        json_out_arr(j, "examples");
        for (int i = 0; i < p->n_example; i++) {
            json_out_obj(j, NULL);
            json_out_bool(j, "applies", p->example[i].applies);
            json_out_str(j, "text", p->example[i].text);
            json_out_obj_end(j);
        }
        json_out_arr_end(j);
    }
    json_out_str(j, "id", p->id);
    if (p->revise) json_out_str(j, "revise", p->revise);
    if (p->n_tag) tags_json(j, p);
    if (p->n_test) {
        json_out_arr(j, "tests");
        for (int i = 0; i < p->n_test; i++) {
            json_out_obj(j, NULL);
            json_out_str(j, "better", p->test[i].better);
            json_out_str(j, "prompt", p->test[i].prompt);
            json_out_str(j, "worse", p->test[i].worse);
            json_out_obj_end(j);
        }
        json_out_arr_end(j);
    }
    json_out_str(j, "text", p->text);
    use_json(j, p);
    if (p->weight == (double)(int)p->weight)
        json_out_int(j, "weight", (int)p->weight);
    else
        json_out_num(j, "weight", p->weight);
    json_out_obj_end(j);
}

static void write_json(Str *out, const Constitution *c, int indent) {
    JsonOut j;
    str_clear(out);
    json_out_init(&j, out, indent);
    json_out_obj(&j, NULL);
    json_out_str(&j, "id", c->id);
    if (c->language) json_out_str(&j, "language", c->language);
    if (c->license) json_out_str(&j, "license", c->license);
    json_out_arr(&j, "principles");
    for (int i = 0; i < c->n; i++) principle_to_json(&j, &c->principle[i]);
    json_out_arr_end(&j);
    json_out_str(&j, "schema", "dikast-constitution/1");
    if (c->version) json_out_str(&j, "version", c->version);
    json_out_obj_end(&j);
}

void constitution_canonical(Str *out, const Constitution *c) { write_json(out, c, 0); }

void constitution_to_json(Str *out, const Constitution *c) {
    write_json(out, c, 1);
    str_putc(out, '\n');
}

static void xml_escape(Str *out, const char *s, bool attribute) {
    for (; *s; s++) {
        if (*s == '&')
            str_put(out, "&amp;");
        else if (*s == '<')
            str_put(out, "&lt;");
        else if (*s == '>')
            str_put(out, "&gt;");
        else if (*s == '"' && attribute)
            str_put(out, "&quot;");
        else if ((*s == '\n' || *s == '\t') && attribute)
            str_printf(out, "&#%d;", *s); /* would be read as a space */
        else
            str_putc(out, *s);
    }
}

static void xml_attribute(Str *out, const char *name, const char *value) {
    if (!value) return;
    str_printf(out, " %s=\"", name);
    xml_escape(out, value, true);
    str_putc(out, '"');
}

static void xml_element(Str *out, const char *indent, const char *name, const char *text) {
    if (!text) return;
    str_printf(out, "%s<%s>", indent, name);
    xml_escape(out, text, false);
    str_printf(out, "</%s>\n", name);
}

static void principle_xml(Str *out, const Principle *p) {
    char weight[32];
    json_format_num(weight, p->weight);
    if (p->weight == (double)(int)p->weight) snprintf(weight, sizeof weight, "%d", (int)p->weight);
    str_put(out, "  <principle");
    xml_attribute(out, "id", p->id);
    xml_attribute(out, "authority", authority_name[p->authority]);
    xml_attribute(out, "weight", weight);
    xml_attribute(out, "use",
                  p->use == (USE_CRITIQUE | USE_LABEL) ? "critique label"
                  : p->use & USE_CRITIQUE              ? "critique"
                                                       : "label");
    if (p->n_tag) {
        Str tags = {0};
        for (int i = 0; i < p->n_tag; i++) str_printf(&tags, "%s%s", i ? " " : "", p->tag[i]);
        xml_attribute(out, "tags", str_get(&tags));
        str_release(&tags);
    }
    str_put(out, ">\n");
    xml_element(out, "    ", "text", p->text);
    xml_element(out, "    ", "avoid", p->avoid);
    xml_element(out, "    ", "critique", p->critique);
    xml_element(out, "    ", "revise", p->revise);
    xml_element(out, "    ", "compare", p->compare);
    for (int i = 0; i < p->n_example; i++) {
        str_printf(out, "    <example applies=\"%s\">", p->example[i].applies ? "true" : "false");
        xml_escape(out, p->example[i].text, false);
        str_put(out, "</example>\n");
    }
    for (int i = 0; i < p->n_test; i++) {
        str_put(out, "    <test>\n");
        xml_element(out, "      ", "prompt", p->test[i].prompt);
        xml_element(out, "      ", "better", p->test[i].better);
        xml_element(out, "      ", "worse", p->test[i].worse);
        str_put(out, "    </test>\n");
    }
    str_put(out, "  </principle>\n");
}

void constitution_to_xml(Str *out, const Constitution *c) {
    str_clear(out);
    str_put(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<constitution schema=\"dikast-constitution/1\"");
    xml_attribute(out, "id", c->id);
    xml_attribute(out, "version", c->version);
    xml_attribute(out, "license", c->license);
    xml_attribute(out, "language", c->language);
    str_put(out, ">\n");
    for (int i = 0; i < c->n; i++) principle_xml(out, &c->principle[i]);
    str_put(out, "</constitution>\n");
}
