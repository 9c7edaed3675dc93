/* cai/revise.h — critique and revision of one's own replies, round by round, for a batch of dialogues.
 *
 *   reply y  ->  [principle -> critique c -> verdict v -> revision y' -> filters -> judge gate]*  ->  revised | kept | rejected
 *
 * Structure cannot fail: critique, verdict and revision are one generation in which reserved ids are masked and the seams are
 * forced (states CRITIQUE, VERDICT, REVISION). Two-call mode ends the first call at the verdict; only the second sees the
 * revision request. A rejected revision may be asked for again (revise.retries); a chain ends after two verdicts "ok" in a row.
 * With constitution.select: all the rule of every round is the joint one: all principles' texts under one request. */
#ifndef DIKAST_CAI_REVISE_H
#define DIKAST_CAI_REVISE_H

#include "cai/filters.h"
#include "cai/judge.h"
#include "cai/select_model.h"
#include "cai/stages.h"

enum { MAX_ROUNDS = 4, MAX_CANDIDATES = 8 };
typedef enum { OUTCOME_KEPT, OUTCOME_REVISED, OUTCOME_REJECTED } Outcome;
typedef struct {
    int principle;              /* con->n: the joint one */
    double propensity;
    int candidate[MAX_CANDIDATES], n_candidate; /* principles the selector scored best, falling; none of an even draw */
    int n_retry;                /* attempts before this one */
    double score[MAX_CANDIDATES];
    float verdict_odds;         /* log p(ok) - log p(violates) at T 1 */
    bool violates, truncated;
    int n_forced;
    char *critique, *revision;  /* revision NULL: verdict ok */
    Reject reject;              /* of the revision */
    double gate_p;              /* P(revision better), NaN: not judged */
} Round;
typedef struct {
    const Prompt *prompt;
    char *id, *reply;           /* first reply */
    char *current;              /* reply after the accepted revisions; aliases reply or a round's revision */
    bool reply_truncated;
    Round round[MAX_ROUNDS];
    int n_round, n_ok_in_row;
    uint64_t used;              /* principles used, bitmask */
    Outcome outcome;
    Reject reject;
    bool active, again;         /* again: its last round is to be made once more */
} Chain;

typedef struct {
    const StageCtx *ctx;
    Engine *engine;
    RemoteJudge *remote;        /* judges in the gate; NULL: the engine does */
    const StageText *text;
    const Constitution *con;
    Selector *selector;
    SelectModel *by_model;      /* NULL: words alone score */
    Principle joint;            /* of constitution.select: all */
    Heap heap;                  /* joint's text */
    int max_len;                /* context */
    GramSet *eval_grams;
    int n_accepted, n_evasive;
} Reviser;

bool revise_replies(Reviser *r, Chain *chain, int n, Error *err);   /* first replies */
bool revise_round(Reviser *r, Chain *chain, int n, Error *err);     /* one round over the active chains */
void chain_release(Chain *c);
const Principle *round_principle(const Reviser *r, const Round *q);

/* revise_pick.c. Opens selector and by_model as the configuration says; request (n): the run's prompts, for words to learn from. */
bool revise_pick_open(Reviser *r, const char *const *request, int n, Error *err);
void revise_pick_close(Reviser *r);
bool revise_pick(Reviser *r, Chain *chain, int n, Error *err);      /* begins a round of every active chain: its principle */

/* revise_audit.c. rejects.jsonl: revise.audit rejects per code, drawn by their ids; rejects.json: counts by code, principle and
 * round. */
bool revise_audit(const Reviser *r, const Chain *chain, int n, Error *err);

/* The rule of the critique generation, for tests: budgets in tokens; ban arrays over the vocabulary. */
typedef struct {
    const Chat *chat;
    const uint8_t *ban_critique, *ban_revision;     /* reserved ids; critique: without <|verdict|>; revision: without <|end|> */
    const uint8_t *ban_all;                         /* every reserved id */
    int critique_tokens, reply_tokens;
    int32_t verdict_choice[2];
    bool two_calls;                                 /* stop after the verdict */
} CritiqueRule;
void critique_rule(void *ud, uint64_t id, const int32_t *text, int n, GenRule *rule);   /* a GenHook; ud: CritiqueRule */


void reply_rule(void *ud, uint64_t id, const int32_t *text, int n, GenRule *rule);      /* replies: only ban_revision */

#endif
