/* dikast constitution: show, lint, test, convert, select. Reading, importing, finding faults and judging are the
 * library's; here is what people see of them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/constitution_tests.h"
#include "base/io.h"
#include "cai/constitution_import.h"
#include "cai/constitution_lint.h"

enum { SHOW = 1, LINT = 2, TEST = 4, CONVERT = 8, SELECT = 16 };

static const Flag flags[] = {
    {"--hash", NULL, "show: only the SHA-256 of the canonical JSON"},
    {"--strict", NULL, "lint: warnings fail too"},
    {"--categories", "LIST", "lint: names that must each be a tag or an id, as in privacy,hate"},
    {"--max-words", "N", "lint: longest text with avoid and both requests (default 120)"},
    {"--to", "json|xml|canonical", "convert: json (default), xml, or canonical: the bytes that are hashed"},
    {"--out", "FILE", "convert: write there, not to stdout"},
    {"--id", "ID", "convert: the constitution's id, for shapes that have none (default: the file's name)"},
    {"--exemplars", "FILE", "convert: write chats that stand beside the principles there, as JSON lines"},
    {"--top", "N", "select: print each row's N best as JSON lines, not figures"},
    {"--sources", "LIST", "select: rows of these sources only"},
    {"--fit", "LIST", "select: naive Bayes beside it, learned from rows of these sources"},
    {"--learn", "LIST",
     "select: sources of the unlabelled requests that words are learned from (default: those ranked)"},
    CONSTITUTION_TEST_FLAGS,
    MODEL_FLAGS,
    {0}};
static const int flag_of[] = {SHOW,    LINT,   LINT,          LINT,          CONVERT,       CONVERT,       CONVERT,
                              CONVERT, SELECT, SELECT,        SELECT,        SELECT,        TEST | SELECT, TEST,
                              TEST,    TEST,   TEST | SELECT, TEST | SELECT, TEST | SELECT, TEST | SELECT};
_Static_assert(COUNT_OF(flag_of) == COUNT_OF(flags) - 1, "each flag belongs to a subcommand");

static void list_out(JsonOut *j, const char *key, const char *lines) {
    json_out_arr(j, key);
    for (size_t n; (n = strcspn(lines, "\n")) > 0; lines += n + (lines[n] != 0)) json_out_strn(j, NULL, lines, n);
    json_out_arr_end(j);
}

static const char *use_word(const Principle *p) {
    return p->use == USE_CRITIQUE ? "critique" : p->use == USE_LABEL ? "label" : "critique, label";
}

static const char *category_of(const Principle *p) { return p->n_tag ? p->tag[0] : ""; }

static int count_examples(const Principle *p, bool applies) {
    int n = 0;
    for (int i = 0; i < p->n_example; i++) n += p->example[i].applies == applies;
    return n;
}

/* -- show ---------------------------------------------------------------------------------------------------------- */

/* Calls fn for each category in the order of its first principle. */
static void each_category(const Constitution *c, void (*fn)(void *, const Constitution *, const char *), void *ud) {
    for (int i = 0; i < c->n; i++) {
        const char *name = category_of(&c->principle[i]);
        bool seen = false;
        for (int k = 0; k < i; k++) seen |= !strcmp(category_of(&c->principle[k]), name);
        if (!seen) fn(ud, c, name);
    }
}

static void print_category(void *ud, const Constitution *c, const char *name) {
    int widest = *(int *)ud;
    printf("\n%s\n", name[0] ? name : "(no category)");
    for (int i = 0; i < c->n; i++) {
        const Principle *p = &c->principle[i];
        if (strcmp(category_of(p), name) != 0) continue;
        printf("  %-*s  %-9s  %6g  %-15s  %3d + %-3d  %3d  %s\n", widest, p->id, authority_word(p->authority),
               p->weight, use_word(p), count_examples(p, true), count_examples(p, false), p->n_test, p->text);
    }
}

static void print_table(const Constitution *c) {
    int widest = 9;
    for (int i = 0; i < c->n; i++)
        if ((int)strlen(c->principle[i].id) > widest) widest = (int)strlen(c->principle[i].id);
    printf("%s %s, %d principles, %s, licence %s\nsha256 %s\n\n", c->id, c->version ? c->version : "", c->n,
           c->language ? c->language : "language not given", c->license ? c->license : "not given", c->sha256);
    printf("  %-*s  %-9s  %6s  %-15s  %-9s  %3s  %s\n", widest, "principle", "authority", "weight", "use", "examples",
           "tests", "text");
    each_category(c, print_category, &widest);
}

static void print_principle(const Principle *p) {
    printf("%s  %s, weight %g, %s\n", p->id, authority_word(p->authority), p->weight, use_word(p));
    printf("tags       ");
    for (int i = 0; i < p->n_tag; i++) printf("%s%s", i ? " " : "", p->tag[i]);
    printf("\ntext       %s\n", p->text);
    if (p->avoid) printf("avoid      %s\n", p->avoid);
    printf("critique   %s%s\n", principle_critique(p), p->critique ? "" : "  (generic)");
    printf("revise     %s%s\n", principle_revise(p), p->revise ? "" : "  (generic)");
    printf("compare    %s%s\n", principle_compare(p), p->compare ? "" : "  (generic)");
    for (int side = 1; side >= 0; side--) {
        if (count_examples(p, side)) printf("\n%s\n", side ? "applies to" : "does not apply to");
        for (int i = 0; i < p->n_example; i++)
            if (p->example[i].applies == (side == 1)) printf("  %s\n", p->example[i].text);
    }
    for (int i = 0; i < p->n_test; i++)
        printf("\ntest       %s\n  better   %s\n  worse    %s\n", p->test[i].prompt, p->test[i].better,
               p->test[i].worse);
}

static void category_json(void *ud, const Constitution *c, const char *name) {
    JsonOut *j = ud;
    json_out_arr(j, name);
    for (int i = 0; i < c->n; i++)
        if (!strcmp(category_of(&c->principle[i]), name)) json_out_str(j, NULL, c->principle[i].id);
    json_out_arr_end(j);
}

static void show_json(const Constitution *c, int only) {
    Str text = {0};
    JsonOut j;
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-constitution-show/1");
    json_out_str(&j, "id", c->id);
    json_out_str(&j, "version", c->version);
    json_out_str(&j, "license", c->license);
    json_out_str(&j, "language", c->language);
    json_out_str(&j, "sha256", c->sha256);
    json_out_obj(&j, "categories");
    each_category(c, category_json, &j);
    json_out_obj_end(&j);
    json_out_arr(&j, "principles");
    for (int i = 0; i < c->n; i++)
        if (only < 0 || i == only) principle_to_json(&j, &c->principle[i]);
    json_out_arr_end(&j);
    json_out_obj_end(&j);
    print_text(&text);
}

static bool show(const Args *a, Error *err) {
    Constitution c = {0};
    if (!constitution_read(&c, a->arg[1], err)) return false;
    int at = a->n_arg > 2 ? constitution_find(&c, a->arg[2]) : -1;
    bool ok = a->n_arg < 3 || at >= 0 ||
              error_set(err, ERR_CONFIG, "%s has no principle '%s'; without an id all are shown", a->arg[1], a->arg[2]);
    if (ok && args_flag(a, &command_constitution, "--hash"))
        printf("%s\n", c.sha256);
    else if (ok && a->json)
        show_json(&c, at);
    else if (ok && at >= 0)
        print_principle(&c.principle[at]);
    else if (ok)
        print_table(&c);
    constitution_release(&c);
    return ok;
}

/* -- lint ---------------------------------------------------------------------------------------------------------- */

static void lint_json(const char *file, const Constitution *c, const Lint *l, const Error *err) {
    Str text = {0};
    JsonOut j;
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-constitution-lint/1");
    json_out_str(&j, "file", file);
    json_out_str(&j, "sha256", c->sha256[0] ? c->sha256 : NULL);
    json_out_int(&j, "principles", c->n);
    json_out_int(&j, "errors", l->n_error + (c->n == 0)); /* one that cannot be read */
    json_out_int(&j, "warnings", l->n - l->n_error);
    json_out_arr(&j, "findings");
    for (int i = 0; i < l->n; i++) {
        const Finding *f = &l->finding[i];
        json_out_obj(&j, NULL);
        json_out_str(&j, "severity", f->error ? "error" : "warning");
        json_out_str(&j, "code", f->code);
        json_out_int(&j, "line", f->principle >= 0 ? c->principle[f->principle].line : 1);
        json_out_str(&j, "principle", f->principle >= 0 ? c->principle[f->principle].id : NULL);
        json_out_str(&j, "other", f->other >= 0 ? c->principle[f->other].id : NULL);
        json_out_str(&j, "key", f->key);
        json_out_str(&j, "message", f->text);
        json_out_obj_end(&j);
    }
    json_out_arr_end(&j);
    json_out_int(&j, "code", error_exit_code(err->code));
    json_out_str(&j, "error", err->code ? err->msg : NULL);
    json_out_obj_end(&j);
    print_text(&text);
}

static void print_findings(const char *file, const Constitution *c, const Lint *l) {
    for (int i = 0; i < l->n; i++) {
        const Finding *f = &l->finding[i];
        printf("%s:%d: %s: ", file, f->principle >= 0 ? c->principle[f->principle].line : 1,
               f->error ? "error" : "warning");
        if (f->principle >= 0) printf("principle '%s': ", c->principle[f->principle].id);
        printf("%s%s%s [%s]\n", f->key ? f->key : "", f->key ? ": " : "", f->text, f->code);
    }
    printf("%s: %d principles, %d errors, %d warnings\n", file, c->n, l->n_error, l->n - l->n_error);
}

/* "a,b" to words; they point into copy. */
static int split(char *copy, const char **word, int max, Error *err) {
    int n = 0;
    for (char *p = copy; *p && n < max; n++) {
        size_t len = strcspn(p, ",");
        word[n] = p;
        p += len;
        if (*p) *p++ = 0;
        if (!len) {
            error_set(err, ERR_CONFIG, "--categories: an empty name in the list");
            return -1;
        }
    }
    return n;
}

static bool lint(const Args *a, Error *err) {
    const Command *self = &command_constitution;
    const char *list = args_flag(a, self, "--categories"), *category[64];
    int64_t max_words;
    Constitution c = {0};
    Lint l = {0};
    char *copy = mem_str(list ? list : "");
    LintOptions o = {.category = category, .n_category = split(copy, category, COUNT_OF(category), err)};
    bool ok = o.n_category >= 0 && args_int(a, self, "--max-words", LINT_MAX_WORDS, 1, 100000, &max_words, err) &&
              constitution_read(&c, a->arg[1], err);
    if (ok) {
        o.max_words = (int)max_words;
        constitution_lint(&l, &c, &o);
        int n = args_flag(a, self, "--strict") ? l.n : l.n_error;
        if (!a->json) print_findings(a->arg[1], &c, &l);
        ok = !n || error_set(err, ERR_FORMAT, "%s: %d findings", a->arg[1], n);
    }
    if (a->json) {
        if (ok) err->code = ERR_NONE;
        lint_json(a->arg[1], &c, &l, err);
    }
    lint_release(&l);
    constitution_release(&c);
    free(copy);
    return ok;
}

/* -- convert ------------------------------------------------------------------------------------------------------- */

static void convert_json(const Args *a, const Constitution *c, const Import *im, const char *to, const Str *text) {
    const char *out = args_flag(a, &command_constitution, "--out");
    Str s = {0};
    JsonOut j;
    json_out_init(&j, &s, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-constitution-convert/1");
    json_out_str(&j, "file", a->arg[1]);
    json_out_str(&j, "shape", im->shape);
    json_out_str(&j, "to", to);
    json_out_str(&j, "sha256", c->sha256);
    json_out_int(&j, "principles", c->n);
    json_out_int(&j, "exemplars", im->n_exemplar);
    list_out(&j, "notes", str_get(&im->note));
    json_out_str(&j, "out", out);
    json_out_str(&j, "text", out ? NULL : str_get(text));
    json_out_obj_end(&j);
    print_text(&s);
}

static bool write_out(const Args *a, const Constitution *c, const Import *im, const char *to, Error *err) {
    const Command *self = &command_constitution;
    const char *out = args_flag(a, self, "--out"), *exemplars = args_flag(a, self, "--exemplars");
    Str text = {0};
    if (!strcmp(to, "xml"))
        constitution_to_xml(&text, c);
    else if (!strcmp(to, "canonical"))
        constitution_canonical(&text, c);
    else
        constitution_to_json(&text, c);
    bool ok = (!out || io_write_file(out, text.s, text.n, err)) &&
              (!exemplars || io_write_file(exemplars, str_get(&im->exemplar), im->exemplar.n, err));
    if (ok && a->json)
        convert_json(a, c, im, to, &text);
    else if (ok && !out)
        fwrite(text.s, 1, text.n, stdout);
    str_release(&text);
    return ok;
}

static bool convert(const Args *a, Error *err) {
    const Command *self = &command_constitution;
    const char *to = args_flag(a, self, "--to"), *id = args_flag(a, self, "--id"), *note;
    Constitution c = {0};
    Import im = {0};
    Str file = {0};
    if (!to) to = "json";
    if (strcmp(to, "json") != 0 && strcmp(to, "xml") != 0 && strcmp(to, "canonical") != 0)
        return error_set(err, ERR_CONFIG, "--to must be json, xml or canonical, found '%s'", to);
    if (id && !id[0]) return error_set(err, ERR_CONFIG, "--id is empty");
    bool ok = io_read_file(&file, a->arg[1], (size_t)16 << 20, err) &&
              constitution_import(&c, &im, str_get(&file), file.n, a->arg[1], id, err) &&
              write_out(a, &c, &im, to, err);
    note = str_get(&im.note);
    for (size_t n; ok && (n = strcspn(note, "\n")) > 0; note += n + (note[n] != 0))
        log_info(a->log, "%s: %.*s", a->arg[1], (int)n, note);
    import_release(&im);
    constitution_release(&c);
    str_release(&file);
    return ok;
}

/* -- which --------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    int bit, max_arg;
    bool own_json; /* its object tells of errors too */
    bool (*run)(const Args *a, Error *err);
} sub[] = {{"show", SHOW, 3, false, show},
           {"lint", LINT, 2, true, lint},
           {"test", TEST, 2, true, constitution_tests},
           {"convert", CONVERT, 2, false, convert},
           {"select", SELECT, 3, false, constitution_select}};

/* The subcommand, -1 with an error. */
static int which(const Args *a, Error *err) {
    int at = -1;
    for (int i = 0; i < COUNT_OF(sub); i++)
        if (!strcmp(a->arg[0], sub[i].name)) at = i;
    if (at < 0) {
        error_set(err, ERR_CONFIG, "constitution: '%s' is none of show, lint, test, convert and select", a->arg[0]);
        return -1;
    }
    if (a->n_arg > sub[at].max_arg) {
        error_set(err, ERR_CONFIG, "constitution %s: unexpected argument '%s'", a->arg[0], a->arg[sub[at].max_arg]);
        return -1;
    }
    for (int i = 0; i < COUNT_OF(flag_of); i++)
        if (a->flag[i] && !(flag_of[i] & sub[at].bit)) {
            error_set(err, ERR_CONFIG, "constitution %s takes no %s; see 'dikast constitution --help'", a->arg[0],
                      flags[i].name);
            return -1;
        }
    return at;
}

static bool run(const Args *a, Error *err) {
    int at = which(a, err);
    bool ok = at >= 0 && sub[at].run(a, err);
    if (!ok && a->json && (at < 0 || !sub[at].own_json)) constitution_error_json(err);
    return ok;
}

const Command command_constitution = {
    .name = "constitution",
    .usage = "constitution show FILE [ID] | lint FILE | test FILE --model DIR | convert FILE | select FILE ROWS",
    .help =
        "show, lint, test or convert a constitution, select its principles\n\n"
        "FILE is JSON or XML; both spellings of a constitution have one hash.\n"
        "show: its principles by category (the first tag), or one with its examples.\n"
        "lint: near-duplicates, missing examples and tests, contradictions in words, empty categories; errors exit 3.\n"
        "test: \"better beats worse under this principle\" asked of a model in both orders; exit 6 when a principle "
        "fails.\n"
        "convert: into the other spelling and back without a byte changed; also imports lists of principles as others\n"
        "publish them: critique and revision requests, choices, named principles, definitions, traits, markdown.\n"
        "select: which principle the selector finds for the prompts of ROWS, and how often it is the one their "
        "category\n"
        "names (id or tag), with each part of the selector left out in turn; with --model, scores of that model too.",
    .flag = flags,
    .min_arg = 2,
    .max_arg = 3,
    .says_error = true,
    .run = run};
