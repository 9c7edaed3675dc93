#include "app/complete.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "app/command.h"
#include "app/recipes.h"
#include "cai/stage.h"

typedef struct {
    Str *out;
    const char *typed, *lead; /* lead: "--to=" in front of every word */
    bool files;
} Offers;

static void offer(Offers *o, const char *word, size_t n, const char *help) {
    size_t lead = strlen(o->lead), typed = strlen(o->typed);
    char whole[200];
    if (lead + n >= sizeof whole) return;
    snprintf(whole, sizeof whole, "%s%.*s", o->lead, (int)n, word);
    if (typed <= lead + n && !strncmp(whole, o->typed, typed))
        str_printf(o->out, "%s\t%.*s\n", whole, (int)strcspn(help, "\n"), help);
}

static void offer_word(Offers *o, const char *word, const char *help) { offer(o, word, strlen(word), help); }

/* -- keys and their values */

static const CfgKey *find_key(const char *name, size_t n) {
    for (int i = 0; i < run_key_count; i++)
        if (strlen(run_keys[i].name) == n && !strncmp(run_keys[i].name, name, n)) return &run_keys[i];
    return NULL;
}

static void offer_values(Offers *o, const CfgKey *k) {
    if (k->type == CFG_BOOL) {
        offer_word(o, "true", "");
        offer_word(o, "false", "");
    }
    for (const char *at = k->def; k->type == CFG_ENUM && *at; at += *at == '|') {
        size_t n = strcspn(at, "|");
        offer(o, at, n, "");
        at += n;
    }
    o->files = o->files || k->type == CFG_STR || k->type == CFG_LIST;
}

/* "key=", or "~key" for its default; while no '.' is typed the sections, as folders are. bare: names alone. */
static void offer_keys(Offers *o, bool bare) {
    const char *equal = strchr(o->typed, '=');
    bool reset = o->typed[0] == '~', whole = strchr(o->typed, '.') != NULL;
    bare = bare || reset;
    if (equal) {
        const CfgKey *k = find_key(o->typed, (size_t)(equal - o->typed));
        char lead[128];
        if (!k || (size_t)(equal - o->typed) + 2 > sizeof lead) return;
        snprintf(lead, sizeof lead, "%s=", k->name);
        o->lead = lead;
        offer_values(o, k);
        o->lead = "";
        return;
    }
    for (int i = 0; i < run_key_count; i++) {
        const char *name = run_keys[i].name;
        char word[128];
        size_t n = whole ? strlen(name) : strcspn(name, ".") + 1;
        bool first = true;
        for (int k = 0; k < i && first && !whole; k++) first = strncmp(name, run_keys[k].name, n) != 0;
        if (!first) continue;
        snprintf(word, sizeof word, "%s%.*s%s", reset ? "~" : "", (int)n, name, whole && !bare ? "=" : "");
        offer_word(o, word, whole ? run_keys[i].help : "configuration keys");
    }
}

/* -- what a word of a usage line stands for */

static void offer_stages(Offers *o) {
    for (int i = 0; stages[i]; i++) offer_word(o, stages[i]->name, stages[i]->help);
}

static void offer_recipes(Offers *o) {
    for (int i = 0; recipes[i].name; i++) offer_word(o, recipes[i].name, recipes[i].help);
}

/* "inspect|show", "FILE|-", "STAGE": words in small letters stand for themselves. */
static void offer_meaning(Offers *o, const char *meaning, const char *help) {
    static const char *const file[] = {"CONF",    "FILE",    "FILES", "DIR",  "FOLDER", "MODEL",   "TOKENIZER",
                                       "OUT",     "PATH",    "ITEMS", "ROWS", "RUN_A",  "RUN_B",   "RUN_DIR",
                                       "PROMPTS", "REPLIES", "TASK",  "A",    "B",      "PROGRAM", "RESULTS"};
    while (*meaning) {
        char word[64];
        size_t n = strcspn(meaning, "|");
        snprintf(word, sizeof word, "%.*s", (int)n, meaning);
        meaning += n + (meaning[n] == '|');
        if (islower((unsigned char)word[0]) || isdigit((unsigned char)word[0])) offer_word(o, word, help);
        if (!strcmp(word, "STAGE")) offer_stages(o);
        if (!strcmp(word, "RECIPE")) offer_recipes(o);
        for (int i = 0; i < COUNT_OF(file); i++) o->files = o->files || !strcmp(word, file[i]);
    }
}

/* The next part of a usage line; what brackets hold is one. False at the end. */
static bool next_part(const char **at, char out[128]) {
    int depth = 0;
    size_t n = 0;
    *at += strspn(*at, " \n");
    for (; (*at)[n]; n++) {
        char c = (*at)[n];
        depth += (c == '[' || c == '(') - (c == ']' || c == ')');
        if (depth == 0 && (c == ' ' || c == '\n')) break;
    }
    snprintf(out, 128, "%.*s", (int)n, *at);
    *at += n;
    return n > 0;
}

static const Flag *find_flag(const Flag *f, const char *name, size_t n) {
    for (; f && f->name; f++)
        if (strlen(f->name) == n && !strncmp(f->name, name, n)) return f;
    return NULL;
}

/* Whether given is one of the words in small letters; a part in capitals fits everything. */
static bool fits(const char *part, const char *given) {
    size_t n = strlen(given);
    if (!islower((unsigned char)part[0])) return true;
    for (; *part; part += *part == '|') {
        size_t len = strcspn(part, "|");
        if (len == n && !strncmp(part, given, n)) return true;
        part += len;
    }
    return false;
}

/* The place behind the given arguments, in every alternative of the usage line that they fit. */
static void offer_place(Offers *o, const Command *c, const char *const *given, int n_given) {
    const char *at = c->usage + strlen(c->name);
    char part[128];
    int place = 0;
    bool fitting = true;
    while (next_part(&at, part)) {
        char *word = part + (part[0] == '[');
        size_t n = strcspn(word, "]");
        bool repeats = n > 3 && !strncmp(word + n - 3, "...", 3);
        word[repeats ? n - 3 : n] = 0;
        if (!strcmp(part, "|")) {
            place = 0;
            fitting = true;
        } else if (!strcmp(part, "--")) {
            if (fitting && place == n_given) offer_word(o, "--", "the command to launch");
            return; /* its line: complete_command */
        } else if (word[0] == '-' && part[0] != '[') {
            const Flag *f = find_flag(c->flag, word, strlen(word));
            if (f && f->value) next_part(&at, part);
        } else if (word[0] != '-' && word[0] != '(' && !strchr(word, '=') && strcmp(word, "flags") &&
                   (place > 0 || strcmp(word, c->name))) {
            if (place < n_given) fitting = fitting && fits(word, given[place]);
            if (fitting && (place == n_given || (repeats && place < n_given))) offer_meaning(o, word, c->help);
            place++;
        }
    }
}

/* -- a command's line */

static void offer_flags(Offers *o, const Flag *f) {
    for (; f && f->name; f++) offer_word(o, f->name, f->help);
}

/* Values that a flag's row does not list, and the key that does. */
static void offer_flag_value(Offers *o, const Flag *f) {
    static const char *const same[][2] = {{"--device", "run.backend"}, {"--isa", "run.isa"}};
    for (int i = 0; i < COUNT_OF(same); i++)
        if (!strcmp(f->name, same[i][0])) {
            offer_values(o, find_key(same[i][1], strlen(same[i][1])));
            return;
        }
    offer_meaning(o, f->value, f->help);
}

static void complete_line(Offers *o, const char *const *word, int n);

static void complete_command(Offers *o, const Command *c, const char *const *word, int n) {
    const char *given[MAX_ARGS];
    const Flag *open = NULL; /* whose value the next word is */
    int n_given = 0;
    bool only_args = false;
    for (int i = 0; i + 1 < n; i++) {
        const Flag *f = word[i][0] == '-' && !only_args ? find_flag(c->flag, word[i], strlen(word[i])) : NULL;
        if (open) {
            open = NULL;
        } else if (!only_args && !strcmp(word[i], "--")) {
            if (strstr(c->usage, " -- ")) {
                complete_line(o, word + i + 1, n - i - 1);
                return;
            }
            only_args = true;
        } else if (f && f->value) {
            open = f;
        } else if ((only_args || word[i][0] != '-' || !word[i][1]) && n_given < MAX_ARGS &&
                   !(c->takes_set && n_given >= c->min_arg && (strchr(word[i], '=') || word[i][0] == '~'))) {
            given[n_given++] = word[i];
        }
    }
    const char *equal = strchr(o->typed, '=');
    if (open) {
        offer_flag_value(o, open);
    } else if (o->typed[0] == '-' && !only_args && equal) {
        char lead[64];
        const Flag *f = find_flag(c->flag, o->typed, (size_t)(equal - o->typed));
        if (!f || !f->value) return;
        snprintf(lead, sizeof lead, "%s=", f->name);
        o->lead = lead;
        offer_flag_value(o, f);
        o->lead = "";
    } else if (o->typed[0] == '-' && !only_args) {
        offer_flags(o, c->flag);
        offer_flags(o, common_flags);
    } else {
        bool keys = c->takes_set && n_given >= c->min_arg && strstr(c->usage, "CONF");
        if (keys) offer_keys(o, false);
        if (!keys || (!equal && o->typed[0] != '~')) offer_place(o, c, given, n_given);
    }
}

static void complete_line(Offers *o, const char *const *word, int n) {
    static const char *const other[][2] = {{"help", "of a command, or of configuration keys"},
                                           {"version", "of dikast"}};
    for (int i = 0; commands[i]; i++) {
        if (n > 1 && !strcmp(commands[i]->name, word[0])) {
            complete_command(o, commands[i], word + 1, n - 1);
            return;
        }
        if (n == 1 || (n == 2 && !strcmp(word[0], "help"))) offer_word(o, commands[i]->name, commands[i]->help);
    }
    for (int i = 0; i < COUNT_OF(other) && n == 1; i++) offer_word(o, other[i][0], other[i][1]);
    if (n == 2 && !strcmp(word[0], "help")) offer_keys(o, true);
}

void complete(Str *out, const char *const *word, int n) {
    if (n == 0) return;
    Offers o = {.out = out, .typed = word[n - 1], .lead = ""};
    complete_line(&o, word, n);
    if (o.files) str_put(out, ":files\n");
}
