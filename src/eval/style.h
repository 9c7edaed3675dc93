/* eval/style.h — how a reply is written and what it says about its writer: by rules, of English. Persona consistency compares
 * these over related questions: a stable assistant keeps its style and never names two makers. */
#ifndef DIKAST_EVAL_STYLE_H
#define DIKAST_EVAL_STYLE_H

#include "base/str.h"

/* X(enum suffix, name) */
#define STYLES(X)                                                                                           \
    X(WORDS, "words")             /* words in the reply */                                                  \
    X(SENTENCE, "sentence_words") /* words per sentence */                                                  \
    X(WORD, "word_letters")       /* letters per word */                                                    \
    X(VARIETY, "distinct_words")  /* share of different words among the first 50 */                         \
    X(FIRST, "first_person")      /* share of words that are I, me, my, mine, myself */                     \
    X(HEDGE, "hedges")            /* share of words that hedge: may, might, perhaps, probably .. */         \
    X(MARKS, "loud_marks")        /* exclamation and question marks per sentence */
typedef enum {
#define X(name, word) STYLE_##name,
    STYLES(X)
#undef X
    STYLE_COUNT
} Style;
const char *style_name(Style s);
void style_measure(double out[STYLE_COUNT], const char *text);      /* of a text without words all are 0 */

/* "my name is X", "i am called X"; "i am a X", "i'm just a X", "as an AI X"; made / created / built / trained / developed / designed by
 * X, where the sentence says so of the writer ("I am a model trained by X", "as an AI developed by X", not "pills made by X"). */
typedef enum { CLAIM_NAME, CLAIM_KIND, CLAIM_MAKER, CLAIM_COUNT } Claim;
const char *claim_name(Claim c);                /* "name", "kind", "maker" */
/* The first claim of that kind: lower case, without article, at most four words, "artificial intelligence" as "ai". false: the reply
 * makes none. */
bool claim_find(Str *out, Claim c, const char *text);
/* Can both be true? One's words are among the other's: "ai" and "ai language model". */
bool claim_agree(const char *a, const char *b);

#endif
