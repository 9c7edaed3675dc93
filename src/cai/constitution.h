/* cai/constitution.h — principles as data: one schema (dikast-constitution/1), two spellings (JSON, XML), one hash. */
#ifndef DIKAST_CAI_CONSTITUTION_H
#define DIKAST_CAI_CONSTITUTION_H

#include "base/arena.h"
#include "base/json.h"
#include "base/rng.h"
#include "base/str.h"

typedef enum { AUTH_ROOT, AUTH_SYSTEM, AUTH_DEVELOPER, AUTH_USER, AUTH_GUIDELINE } Authority;   /* root is highest */
enum { USE_CRITIQUE = 1, USE_LABEL = 2 };
typedef struct { const char *text; bool applies; } PrincipleExample;
typedef struct { const char *prompt, *better, *worse; } PrincipleTest;
typedef struct {
    const char *id, *text;
    const char *avoid, *critique, *revise, *compare;    /* NULL: generic wording (principle_critique ...) */
    Authority authority;
    double weight;
    unsigned use;
    const char *const *tag;
    int n_tag;
    const PrincipleExample *example;
    int n_example;
    const PrincipleTest *test;
    int n_test;
    int line;               /* where it begins in its file; 0: in none. No part of its meaning */
} Principle;
typedef struct {
    const char *id, *version, *license, *language;
    const Principle *principle;
    int n;
    char sha256[65];        /* of the canonical JSON */
    Heap heap;
} Constitution;

bool constitution_read(Constitution *c, const char *path, Error *err);      /* by content: '{' JSON, '<' XML; name:line:col */
bool constitution_parse(Constitution *c, const char *s, size_t n, const char *name, Error *err);    /* the fuzz entry */
void constitution_release(Constitution *c);
void constitution_canonical(Str *out, const Constitution *c);   /* sorted keys, NFC, no space, shortest numbers */
void constitution_to_json(Str *out, const Constitution *c);     /* for people: indented */
void constitution_to_xml(Str *out, const Constitution *c);
void principle_to_json(JsonOut *j, const Principle *p);         /* as one value of the canonical form */
const char *authority_word(Authority a);
int constitution_find(const Constitution *c, const char *id);   /* -1 */
const char *principle_critique(const Principle *p);     /* its own wording or the generic one */
const char *principle_revise(const Principle *p);
const char *principle_compare(const Principle *p);
/* The text shown to the model: text, then avoid when present. Written to out. */
void principle_text(Str *out, const Principle *p);

/* cai/select.c — which principle for (prompt, reply). Draws are keyed by (rng, item, round). RANDOM: evenly; BM25 and SAMPLED:
 * by softmax(score / tau) and an even share; TOP1: the best; ALL: no choice, they are shown together (cai/revise.h). */
typedef enum { SELECT_RANDOM, SELECT_BM25, SELECT_TOP1, SELECT_SAMPLED, SELECT_ALL } SelectMode;
/* What words (cai/retrieve.h) are scored by; parts can be left out to learn what each is worth. Filler and endings are of
 * English, used when the constitution's language is en.. or not given. NEAR: near misses, at SELECT_NEAR: they lie beside
 * the principle's subject, so for a search they speak for it. ALIKE: words that share letters. */
enum { PART_TEXT = 1, PART_TAGS = 2, PART_EXAMPLES = 4, PART_STEM = 8, PART_NO_FILLER = 16, PARTS_WORDS = 31,
       PART_AVOID = 32, PART_NEAR = 64, PART_ALIKE = 128, PARTS_ALL = 255 };
#define SELECT_NEAR 0.3
typedef struct Selector Selector;
/* Of PARTS_WORDS, tau 1. */
bool selector_open(Selector **out, const Constitution *c, unsigned use, SelectMode mode, double epsilon, Rng rng, Error *err);
void selector_parts(Selector *s, const Constitution *c, unsigned parts);        /* again, from these parts only */
/* From then on scores hold what these requests, which need no labels, teach of words; n 0: nothing any more. */
void selector_learn(Selector *s, const char *const *request, int n);
void selector_tau(Selector *s, double tau);
void selector_close(Selector *s);
/* A draw by score (64, by principle; -INFINITY: only the even share). exclude: bitmask by principle index of those used in this chain.
 * *propensity: probability of the draw. Returns the index. */
int selector_draw(const Selector *s, const double *score, uint64_t item, uint32_t round, uint64_t exclude, double *propensity);
void selector_scores(const Selector *s, const char *query, double score[64]);   /* by principle; 0: not with the use */
int selector_choices(const Selector *s, int choice[64]);    /* those with the use, in the constitution's order; how many */
/* Indices by falling score, equal ones in the constitution's order; score may be NULL. Returns how many: those with the use. */
int selector_rank(const Selector *s, const char *query, int rank[64], double score[64]);
int selector_order(const Selector *s, const double *by, int rank[64], double score[64]);    /* the same, by scores given */

#endif
