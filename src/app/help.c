#include "app/help.h"

#include <stdio.h>
#include <string.h>

#include "base/guess.h"
#include "cai/stage.h"

const Command *command_find(const char *name, Error *err) {
    Guess near = {.typed = name};
    for (int i = 0; commands[i]; i++) {
        if (!strcmp(commands[i]->name, name)) return commands[i];
        guess_offer(&near, commands[i]->name);
    }
    guess_offer(&near, "help");
    guess_offer(&near, "version");
    error_set(err, ERR_CONFIG, "unknown command '%s'%s; 'dikast --help' lists them", name, guess_hint(&near));
    return NULL;
}

/* -- for a terminal -------------------------------------------------------------------------------------------------
 */

static void put_flags(Str *out, const Flag *f) {
    for (; f && f->name; f++) {
        char left[48];
        snprintf(left, sizeof left, "%s%s%s", f->name, f->value ? " " : "", f->value ? f->value : "");
        str_printf(out, "  %-22s %s\n", left, f->help);
    }
}

void help_text(Str *out, const Command *c) {
    if (c) {
        str_printf(out, "usage: dikast %s\n\n%s\n\nflags:\n", c->usage, c->help);
        put_flags(out, c->flag);
        put_flags(out, common_flags);
        return;
    }
    str_put(out,
            "dikast " DIKAST_VERSION ": trains a language model end to end with the Constitutional AI framework\n\n"
            "usage: dikast COMMAND [arguments]\n\ncommands:\n");
    for (int i = 0; commands[i]; i++)
        str_printf(out, "  %-16s %.*s\n", commands[i]->name, (int)strcspn(commands[i]->help, "\n"), commands[i]->help);
    str_put(out, "\nstages, in order:\n");
    for (int i = 0; stages[i]; i++) str_printf(out, "  %-16s %s\n", stages[i]->name, stages[i]->help);
    str_put(out,
            "\n'dikast COMMAND --help' tells more; 'dikast help KEY' explains configuration keys, such as 'dikast help "
            "rl'.\n");
}

static bool put_keys(Str *out, const char *prefix, Error *err) {
    char section[64];
    snprintf(section, sizeof section, "%s%s", prefix, strchr(prefix, '.') ? "" : ".");
    config_help(out, run_keys, run_key_count, section);
    if (out->n > 0) return true;
    Guess near = {.typed = prefix};
    for (int i = 0; commands[i]; i++) guess_offer(&near, commands[i]->name);
    for (int i = 0; i < run_key_count; i++) guess_offer(&near, run_keys[i].name);
    return error_set(err, ERR_CONFIG,
                     "no command and no configuration key is called '%s'%s; 'dikast --help' lists commands, "
                     "'dikast config --keys' keys",
                     prefix, guess_hint(&near));
}

/* -- for man --------------------------------------------------------------------------------------------------------
 */

/* roff reads a backslash as an escape, a dash as a hyphen, and a line that begins with . or ' as a request. */
static void put_roff(Str *out, const char *s, size_t n) {
    bool first = out->n == 0 || out->s[out->n - 1] == '\n';
    for (size_t i = 0; i < n; i++) {
        if (first && (s[i] == '.' || s[i] == '\'')) str_put(out, "\\&");
        if (s[i] == '\\')
            str_put(out, "\\e");
        else if (s[i] == '-')
            str_put(out, "\\-");
        else
            str_putc(out, s[i]);
        first = s[i] == '\n';
    }
}

static void man_flags(Str *out, const Flag *f) {
    for (; f && f->name; f++) {
        str_put(out, ".TP\n\\fB");
        put_roff(out, f->name, strlen(f->name));
        str_put(out, "\\fR");
        if (f->value) {
            str_put(out, " \\fI");
            put_roff(out, f->value, strlen(f->value));
            str_put(out, "\\fR");
        }
        str_putc(out, '\n');
        put_roff(out, f->help, strlen(f->help));
        str_putc(out, '\n');
    }
}

static void man_head(Str *out, const char *page, const char *what, size_t n) {
    str_printf(out, ".TH \"%s\" \"1\" \"\" \"dikast " DIKAST_VERSION "\"\n.SH NAME\n", page);
    put_roff(out, page, strlen(page));
    str_put(out, " \\- ");
    put_roff(out, what, n);
    str_put(out, "\n.SH SYNOPSIS\n.nf\n");
}

static void man_command(Str *out, const Command *c) {
    char page[64];
    size_t head = strcspn(c->help, "\n");
    snprintf(page, sizeof page, "dikast-%s", c->name);
    man_head(out, page, c->help, head);
    str_put(out, "dikast ");
    put_roff(out, c->usage, strlen(c->usage));
    str_put(out, "\n.fi\n");
    const char *more = c->help + head + strspn(c->help + head, "\n");
    if (*more) {
        str_put(out, ".SH DESCRIPTION\n.nf\n");
        put_roff(out, more, strlen(more));
        str_put(out, "\n.fi\n");
    }
    str_put(out, ".SH OPTIONS\n");
    man_flags(out, c->flag);
    man_flags(out, common_flags);
    str_put(out, ".SH SEE ALSO\n.BR dikast (1)\n");
}

static void man_row(Str *out, const char *name, const char *what, size_t n) {
    str_put(out, ".TP\n.B ");
    put_roff(out, name, strlen(name));
    str_putc(out, '\n');
    put_roff(out, what, n);
    str_putc(out, '\n');
}

/* What every command has in common, of ux: exit statuses are those of base/error.h. */
static void man_program(Str *out) {
    static const char *const status[][2] = {
        {"0", "done"},
        {"1", "failed"},
        {"2", "usage or configuration"},
        {"3", "data are invalid"},
        {"4", "environment: device, disk, memory, network"},
        {"5", "diverged"},
        {"6", "a gate, threshold or limit was not met"},
        {"75", "stopped, its state saved: the same command goes on"},
    };
    static const char what[] = "trains a language model end to end with the Constitutional AI framework";
    man_head(out, "dikast", what, sizeof what - 1);
    str_put(out, "dikast COMMAND [arguments]\n.fi\n.SH COMMANDS\n");
    for (int i = 0; commands[i]; i++)
        man_row(out, commands[i]->name, commands[i]->help, strcspn(commands[i]->help, "\n"));
    str_put(out, ".SH STAGES\nOf \\fBdikast run\\fR, in order.\n");
    for (int i = 0; stages[i]; i++) man_row(out, stages[i]->name, stages[i]->help, strlen(stages[i]->help));
    str_put(out, ".SH EXIT STATUS\n");
    for (int i = 0; i < COUNT_OF(status); i++) man_row(out, status[i][0], status[i][1], strlen(status[i][1]));
    str_put(out,
            ".SH ENVIRONMENT\n.TP\n.B DIKAST_SET_section__key\nsets a configuration key, after the file and before "
            "the command line\n.SH SEE ALSO\n");
    for (int i = 0; commands[i]; i++) {
        str_put(out, ".BR dikast\\-");
        put_roff(out, commands[i]->name, strlen(commands[i]->name));
        str_printf(out, " (1)%s\n", commands[i + 1] ? "," : "");
    }
}

void help_man(Str *out, const Command *c) {
    if (c)
        man_command(out, c);
    else
        man_program(out);
}

bool help_run(int argc, char **argv, Error *err) {
    const char *topic = NULL;
    bool man = false, list = false;
    for (int i = 2; i < argc; i++) {
        if (!strcmp(argv[i], "--man"))
            man = true;
        else if (!strcmp(argv[i], "--commands"))
            list = true;
        else if (topic || (argv[i][0] == '-' && argv[i][1] && strcmp(argv[i], "--help") && strcmp(argv[i], "-h")))
            return error_set(err, ERR_CONFIG,
                             "unexpected argument '%s'; usage: dikast help [COMMAND|KEY] [--man | --commands]",
                             argv[i]);
        else if (argv[i][0] != '-')
            topic = argv[i];
    }
    Str text = {0};
    Error unknown = {0};
    const Command *c = topic ? command_find(topic, &unknown) : NULL;
    bool ok = true;
    if (topic && !c)
        ok = put_keys(&text, topic, err);
    else if (list)
        for (int i = 0; commands[i]; i++) str_printf(&text, "%s\n", commands[i]->name);
    else if (man)
        help_man(&text, c);
    else
        help_text(&text, c);
    if (ok) fputs(str_get(&text), stdout);
    str_release(&text);
    return ok;
}
