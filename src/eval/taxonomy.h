/* eval/taxonomy.h — harm categories under one published taxonomy: the twelve hazards of MLCommons AILuminate 1.0 (2025), in its
 * order and under our tags (conf/constitution.json), and the names that other collections have for them. */
#ifndef DIKAST_EVAL_TAXONOMY_H
#define DIKAST_EVAL_TAXONOMY_H

#include "base/compiler.h"

#define TAXONOMY_NAME "AILuminate 1.0"
enum { HAZARD_COUNT = 12 };
const char *hazard_tag(int hazard);     /* "suicide-self-harm" */
const char *hazard_name(int hazard);    /* "Suicide & Self-Harm" */
/* The hazard of a category's name, whatever its case and its signs: a tag, AILuminate's code or name, a category of BeaverTails,
 * CatQA, HarmBench, MultiJail, the moderation set or the tiny world; of a list of names its first. -1: none; such a category stands for itself. */
int hazard_find(const char *category);

/* What a row's "kind" says of its request: harmful, harm, redteam, unsafe: it should be declined; benign, lookalike, safe: it should not. */
typedef enum { REQUEST_OTHER, REQUEST_HARMFUL, REQUEST_BENIGN } RequestKind;
RequestKind request_kind(const char *word);

#endif
