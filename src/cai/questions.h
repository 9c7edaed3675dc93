/* cai/questions.h — prompts to ask systems, as rows, and prompts made of prompts: paraphrases, personas, talk before the question.
 *
 *   {"id", "prompt" | "messages", "kind"?, "category"?, "parent"?, "made"?, "persona"?, "turns"?}
 *
 * messages end with the user's question; "prompt" is that question's text. What a row says of itself is carried into the replies
 * (cai/answers.h), so that statistics find what belongs together. */
#ifndef DIKAST_CAI_QUESTIONS_H
#define DIKAST_CAI_QUESTIONS_H

#include "base/arena.h"
#include "base/json.h"
#include "base/rng.h"
#include "engine/engine.h"
#include "text/chat.h"

typedef struct {
    const char *id, *prompt, *kind, *category, *parent, *made, *persona;    /* "" when absent */
    int turns;                  /* -1: not said */
    Dialogue dialogue;          /* ends with the user's prompt */
} Question;
typedef struct { Question *item; int n, cap; Heap heap; } Questions;

bool questions_read(Questions *q, const char *path, Error *err);           /* ids are unique, or it is an error */
void questions_release(Questions *q);
void question_json(JsonOut *j, const Question *q);                          /* as members of an open object; messages when there are several */
/* Appends a copy; strings are borrowed from where they were. Returns it, valid until the next one. */
Question *questions_add(Questions *q, const Question *like);

/* Variants of the first n questions behind them, per of each, "parent" set and "made": "rule" (data/augment.h). Fewer where no
 * rule applies. Returns how many came. */
int questions_by_rule(Questions *q, int n, int per, Rng rng);
/* The same by a model, at temperature 0.9: one that repeats the prompt, is more than twice as long or less than half, or shares
 * less than 0.4 of its content words with it (Jaccard) is dropped; a drop is not asked again. */
bool questions_by_model(Questions *q, int n, int per, Engine *e, const Chat *c, const Tokenizer *tok, uint64_t seed, Log *log,
                        int *made, Error *err);
/* The first n questions under each of PERSONAS system messages and, without one, after each number of filler turns. */
enum { PERSONAS = 5, FILLER_TURNS = 8 };
void questions_personas(Questions *q, int n, const int *turns, int n_turns);

/* Jaccard of content words (four letters and more, lower case). */
double content_overlap(const char *a, const char *b);

#endif
