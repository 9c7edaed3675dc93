/* app/complete.h — what may stand next on a command line, read from the tables of commands, stages, recipes and keys; the
 * scripts of 'dikast completion' ask it at every press of the key, so nothing of it stands in them. */
#ifndef DIKAST_APP_COMPLETE_H
#define DIKAST_APP_COMPLETE_H

#include "base/str.h"

/* word[0..n): what stands behind the program's name, the last one as far as it is typed ("" when nothing is). One line for
 * each word it may become, whole, a tab and what it is for, in the order of the tables. A word that goes on behind what is
 * offered ends in '=' (a key) or '.' (a section of keys). A line ":files" behind them: or the name of a file, of which
 * what stands behind the last '=' is typed. Words that make no sense are followed by nothing. */
void complete(Str *out, const char *const *word, int n);

#endif
