/* data/augment.h — variants of a prompt that keep its meaning, by rules alone: a pure function of (rng, item, variant).
 * They widen the training prompts and make the clusters on which consistency is measured; the caller keeps the parent's
 * id and keeps a parent and its variants on one side of every split.
 *
 *   SLOTS      the question's frame:   How do I V O?  ->  What is the best way to V O?
 *   SYNONYMS   a word for its like:    buy -> purchase; only words of one part of speech and one sense
 *   WRAPPERS   politeness, persona, hypothetical and third person around the whole prompt
 *   NOISE      case, contractions, end punctuation, typing errors (at most one per 8 characters, in function words and
 * the like only: never where it could change what the question is about) ORDER      clauses:  Q if C?  ->  If C, Q? How
 * do I V O?  ->  I want to V O. What do I have to do?
 *
 * English only; a prompt to which no rule of the wanted kinds applies has no variant. */
#ifndef DIKAST_DATA_AUGMENT_H
#define DIKAST_DATA_AUGMENT_H

#include "base/rng.h"
#include "base/str.h"

enum {
    AUGMENT_SLOTS = 1,
    AUGMENT_SYNONYMS = 2,
    AUGMENT_WRAPPERS = 4,
    AUGMENT_NOISE = 8,
    AUGMENT_ORDER = 16,
    AUGMENT_ALL = 31
};

/* Replaces *out; returns the kind applied, 0 (and an empty *out) when `kinds` allow no such variant. Variants 0, 1, 2,
 * .. of an item differ from each other and from the prompt; they walk through the kinds and, inside a kind, through its
 * rules. */
unsigned augment_prompt(Str *out, const char *prompt, unsigned kinds, Rng rng, uint64_t item, uint32_t variant);
const char *augment_name(unsigned kind); /* "slots", "synonyms", "wrappers", "noise", "order"; "" otherwise */

#endif
