/* app/help.h — the texts made from the tables of commands, stages and keys. */
#ifndef DIKAST_APP_HELP_H
#define DIKAST_APP_HELP_H

#include "app/command.h"

const Command *command_find(const char *name, Error *err); /* NULL: ERR_CONFIG with the nearest name */
void help_text(Str *out, const Command *c);                /* NULL: of the program */
void help_man(Str *out, const Command *c);                 /* the same as a page for man(1): dikast-run.1; NULL: dikast.1 */
/* dikast help [COMMAND|KEY] [--man | --commands], the last: names, one a line */
bool help_run(int argc, char **argv, Error *err);

#endif
