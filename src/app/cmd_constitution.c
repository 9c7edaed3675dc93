/* dikast constitution: reads either spelling, writes either, and the hash both share. */
#include <stdio.h>
#include <string.h>

#include "app/command.h"
#include "cai/constitution.h"

static const Flag flags[] = {{"--xml", NULL, "the XML spelling"},
                             {"--canonical", NULL, "the canonical JSON that is hashed"},
                             {"--hash", NULL, "SHA-256 of the canonical JSON"},
                             {0}};

static void print_summary(const Constitution *c) {
    static const char *const rank[] = {"root", "system", "developer", "user", "guideline"};
    int widest = 2;
    for (int i = 0; i < c->n; i++)
        if ((int)strlen(c->principle[i].id) > widest) widest = (int)strlen(c->principle[i].id);
    printf("%s %s, %d principles, %s, licence %s\nsha256 %s\n\n", c->id, c->version ? c->version : "", c->n,
           c->language ? c->language : "language not given", c->license ? c->license : "not given", c->sha256);
    for (int i = 0; i < c->n; i++) {
        const Principle *p = &c->principle[i];
        const char *use = p->use == USE_CRITIQUE ? "critique" : p->use == USE_LABEL ? "label" : "critique, label";
        printf("%-*s  %-9s  weight %g  %s\n    %s\n", widest, p->id, rank[p->authority], p->weight, use, p->text);
    }
}

static bool run(const Args *a, Error *err) {
    const Command *self = &command_constitution;
    bool xml = args_flag(a, self, "--xml"), canonical = args_flag(a, self, "--canonical"),
         hash = args_flag(a, self, "--hash");
    if (xml + canonical + hash + a->json > 1)
        return error_set(err, ERR_CONFIG, "choose one of --json, --xml, --canonical and --hash");
    Constitution c = {0};
    Str text = {0};
    if (!constitution_read(&c, a->arg[0], err)) return false;
    if (a->json)
        constitution_to_json(&text, &c);
    else if (xml)
        constitution_to_xml(&text, &c);
    else if (canonical)
        constitution_canonical(&text, &c);
    else if (hash)
        str_put(&text, c.sha256);
    else
        print_summary(&c);
    print_text(&text);
    constitution_release(&c);
    return true;
}

const Command command_constitution = {
    .name = "constitution",
    .usage = "constitution FILE [--json | --xml | --canonical | --hash]",
    .help = "show, convert or hash a constitution\n\n"
            "FILE is JSON or XML; both spellings of a constitution have one hash. Without a flag: its principles.",
    .flag = flags,
    .min_arg = 1,
    .max_arg = 1,
    .run = run};
