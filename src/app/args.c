/* Command lines by the tables of commands and flags. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/command.h"
#include "base/guess.h"

const char *args_flag(const Args *a, const Command *c, const char *name) {
    for (int i = 0; c->flag && c->flag[i].name; i++)
        if (!strcmp(c->flag[i].name, name)) return a->flag[i];
    CHECK(false, "command %s has no flag %s", c->name, name);
    return NULL;
}

bool args_int(const Args *a, const Command *c, const char *name, int64_t otherwise, int64_t min, int64_t max,
              int64_t *out, Error *err) {
    const char *s = args_flag(a, c, name);
    char *end;
    *out = otherwise;
    if (!s) return true;
    errno = 0;
    *out = strtoll(s, &end, 10);
    if (end == s || *end) return error_set(err, ERR_CONFIG, "%s must be a whole number, found '%s'", name, s);
    return (errno == 0 && *out >= min && *out <= max) ||
           error_set(err, ERR_CONFIG, "%s must lie in %" PRId64 "..%" PRId64 ", found %s", name, min, max, s);
}

bool args_num(const Args *a, const Command *c, const char *name, double otherwise, double min, double max, double *out,
              Error *err) {
    const char *s = args_flag(a, c, name);
    char *end;
    *out = otherwise;
    if (!s) return true;
    *out = strtod(s, &end);
    if (end == s || *end) return error_set(err, ERR_CONFIG, "%s must be a number, found '%s'", name, s);
    return (*out >= min && *out <= max) ||
           error_set(err, ERR_CONFIG, "%s must lie in %g..%g, found %s", name, min, max, s);
}

static bool is_set(const char *s) {
    if (s[0] == '~') return true;
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_.");
    return n > 0 && s[n] == '=';
}

/* What was meant by a word that has no place: a key that is written as other programs have it. */
static void key_hint(char out[160], const Command *c, const char *s) {
    const char *name = s + strspn(s, "-");
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_.");
    out[0] = 0;
    if (!c->takes_set || n == 0 || n > 60 || !memchr(name, '.', n) || (name[n] && name[n] != '=')) return;
    snprintf(out, 160, " (a key is set by '%.*s=VALUE', without dashes or blanks)", (int)n, name);
}

static bool parse_flag(Args *a, CommonFlags *common, const Command *c, int argc, char **argv, int *i, Error *err) {
    const char *s = argv[*i], *equal = strchr(s, '=');
    size_t n = equal ? (size_t)(equal - s) : strlen(s);
    if (!strcmp(s, "--json")) return a->json = true;
    if (!strcmp(s, "-q")) return common->quiet = true;
    if (!strcmp(s, "-v")) return common->verbose = true;
    if (!strcmp(s, "--help") || !strcmp(s, "-h")) return common->help = true;
    char typed[64];
    snprintf(typed, sizeof typed, "%.*s", (int)(n < 63 ? n : 63), s);
    Guess near = {.typed = typed};
    for (int k = 0; c->flag && c->flag[k].name; k++) {
        const Flag *f = &c->flag[k];
        if (strlen(f->name) == n && !strncmp(f->name, s, n)) {
            if (!f->value && equal) return error_set(err, ERR_CONFIG, "%s takes no value, found '%s'", f->name, s);
            if (!f->value)
                a->flag[k] = "";
            else if (equal)
                a->flag[k] = equal + 1;
            else if (*i + 1 < argc)
                a->flag[k] = argv[++*i];
            else
                return error_set(err, ERR_CONFIG, "%s needs %s", f->name, f->value);
            return true;
        }
        guess_offer(&near, f->name);
    }
    for (int k = 0; common_flags[k].name; k++) guess_offer(&near, common_flags[k].name);
    char key[160];
    key_hint(key, c, s);
    return error_set(err, ERR_CONFIG, "unknown flag '%s'%s; see 'dikast %s --help'", s,
                     key[0] ? key : guess_hint(&near), c->name);
}

bool args_read(Args *a, CommonFlags *common, const Command *c, int argc, char **argv, Error *err) {
    bool only_args = false;
    for (int i = 2; i < argc; i++) {
        const char *s = argv[i];
        if (!only_args && !strcmp(s, "--"))
            only_args = true;
        else if (!only_args && s[0] == '-' && s[1]) {
            if (!parse_flag(a, common, c, argc, argv, &i, err)) return false;
        } else if (a->n_arg >= MAX_ARGS || a->n_set >= MAX_ARGS - 1) /* a command may set one more: run.name */
            return error_set(err, ERR_CONFIG, "too many arguments");
        else if (!only_args && c->takes_set && a->n_arg >= c->min_arg && is_set(s))
            a->set[a->n_set++] = s;
        else
            a->arg[a->n_arg++] = s;
    }
    if (common->help) return true;
    if (a->n_arg >= c->min_arg && a->n_arg <= c->max_arg) return true;
    if (a->n_arg > c->max_arg) {
        char key[160];
        key_hint(key, c, a->arg[c->max_arg]);
        return error_set(err, ERR_CONFIG, "unexpected argument '%s'%s; usage: dikast %s", a->arg[c->max_arg], key,
                         c->usage);
    }
    return error_set(err, ERR_CONFIG, "an argument is missing; usage: dikast %s", c->usage);
}

bool args_parse(Args *out, const Command *c, int argc, char **argv, Error *err) {
    CommonFlags ignore = {0};
    *out = (Args){0};
    return args_read(out, &ignore, c, argc, argv, err);
}
