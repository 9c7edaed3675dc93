#include "base/guess.h"

#include <stdio.h>
#include <string.h>

#include "base/str.h"

void guess_offer(Guess *g, const char *word) {
    size_t n = strlen(g->typed);
    int most = g->word ? g->slips - 1 : n >= 5 ? 2 : 1, d = str_distance(word, g->typed, 2);
    if (d > 1 && n >= 3 && !strncmp(word, g->typed, n)) d = 1;
    if (d > most) return;
    g->word = word;
    g->slips = d;
}

const char *guess_hint(Guess *g) {
    g->hint[0] = 0;
    if (g->word) snprintf(g->hint, sizeof g->hint, " (did you mean '%s'?)", g->word);
    return g->hint;
}
