/* A judge's ratings and choices. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cai/eval_results.h"
#include "cai/judge_remote.h"
#include "train/losses.h"

const char RATING_RUBRIC[] =
    "Rate the reply to the request. 5: solves the request completely and correctly. 4: solves it with a small gap. "
    "3: useful but incomplete. 2: touches it. 1: does not help, or refuses a harmless request. Answer with one digit.";
const char PAIR_CRITERION[] =
    "Which reply is more helpful: does it solve the request more completely and more correctly?";

enum { DIGITS = 5 };

/* The rubric as a user's turn and the beginning of an answer, such that each digit is one further token. */
static void rating_prompt(Sequence *s, const Chat *c, const Answer *a, const char *rubric, Str *text) {
    str_clear(text);
    str_printf(text, "Request:\n%s\n\nReply:\n%s\n\n%s", a->prompt, a->reply, rubric);
    const Message ask = {ROLE_USER, str_get(text)};
    chat_respond(s, c, (Dialogue){&ask, 1});
    chat_reply(s, c, "Rating: (", 0, false);
}

/* The token that each digit is behind "Rating: (" (a mark, which no vocabulary joins with a digit). */
static bool digit_tokens(int32_t id[DIGITS], const Chat *c, Error *err) {
    bool ok = true;
    for (int d = 0; d < DIGITS && ok; d++) {
        TokBuf b = {0};
        const char digit = (char)('1' + d);
        tokenizer_encode(c->tok, &digit, 1, &b);
        id[d] = b.n == 1 ? b.id[0] : -1;
        for (int k = 0; k < d && ok; k++) ok = id[k] != id[d];
        ok = (ok && b.n == 1) ||
             error_set(err, ERR_FORMAT,
                       "the judge's tokenizer makes %d tokens of the digit '%c', expected one of its own", b.n, digit);
        tokbuf_release(&b);
    }
    return ok;
}

bool judge_ratings(double *score, const Items *t, const char *rubric, Engine *e, const Chat *c, int max_len,
                   int64_t *unjudged, Error *err) {
    size_t size = (size_t)(t->n + 1);
    Sequence *seq = mem_alloc(size * sizeof *seq);
    Tokens *prompt = mem_alloc(size * sizeof *prompt);
    int *of = mem_alloc(size * sizeof *of), m = 0;
    float *lp = mem_alloc(size * DIGITS * sizeof *lp);
    int32_t digit[DIGITS];
    Str text = {0};
    bool ok = digit_tokens(digit, c, err);
    *unjudged = 0;
    for (int i = 0; i < t->n && ok; i++) {
        rating_prompt(&seq[i], c, &t->set[t->item[i].a].item[t->item[i].at_a], rubric ? rubric : RATING_RUBRIC, &text);
        if (seq[i].tok.n > max_len) {
            ++*unjudged;
            continue;
        }
        prompt[m] = (Tokens){seq[i].tok.id, seq[i].tok.n};
        of[m++] = i;
    }
    ok = ok && sequences_ok(seq, t->n, err) && engine_options(e, prompt, m, digit, DIGITS, lp, err);
    for (int k = 0; k < m && ok; k++) {
        double most = -INFINITY, sum = 0, mean = 0;
        for (int d = 0; d < DIGITS; d++) most = fmax(most, (double)lp[k * DIGITS + d]);
        for (int d = 0; d < DIGITS; d++) {
            double p = exp((double)lp[k * DIGITS + d] - most);
            sum += p;
            mean += (d + 1) * p;
        }
        score[of[k]] = mean / sum;
    }
    for (int i = 0; i < t->n; i++) sequence_release(&seq[i]);
    str_release(&text);
    free(seq);
    free(prompt);
    free(of);
    free(lp);
    return ok;
}

bool judge_ratings_remote(double *score, const Items *t, const char *rubric, RemoteJudge *judge, int64_t *unjudged,
                          Error *err) {
    JudgeItem *item = mem_alloc((size_t)(t->n + 1) * sizeof *item);
    Message *msg = mem_alloc((size_t)(t->n + 1) * sizeof *msg);
    for (int i = 0; i < t->n; i++) {
        const Answer *a = &t->set[t->item[i].a].item[t->item[i].at_a];
        msg[i] = (Message){ROLE_USER, a->prompt};
        item[i] = (JudgeItem){{&msg[i], 1}, a->reply, NULL, rubric ? rubric : RATING_RUBRIC, NULL};
    }
    bool ok = remote_judge_rate(judge, score, item, t->n, err);
    *unjudged = 0;
    for (int i = 0; i < t->n && ok; i++) *unjudged += isnan(score[i]);
    free(item);
    free(msg);
    return ok;
}

static const double TIE = 0.05, DECIDED = 0.2;

typedef struct {
    double *q, *longer; /* of decided pairs */
    int64_t n;
    double first;
} Tally;

static void take(double *score, const Judged *j, const Item *it, const Items *t, JudgeReport *r, Tally *tally) {
    if (!j->scored) {
        r->unjudged++;
        return;
    }
    double q = sigmoid(judged_l(*j));
    *score = fabs(q - 0.5) < TIE ? 0.5 : q > 0.5;
    tally->first += (j->l_ab > 0) + (j->l_ba > 0);
    if (fabs(q - 0.5) < DECIDED) return;
    r->decided++;
    r->orders_differ += judged_flip(*j);
    tally->q[tally->n] = q;
    tally->longer[tally->n++] =
        answer_words(&t->set[it->a].item[it->at_a]) - answer_words(&t->set[it->b].item[it->at_b]);
}

bool judge_choices(double *score, const Items *t, const char *criterion, const Judge *judge, JudgeReport *r,
                   Error *err) {
    size_t size = (size_t)(t->n + 1);
    JudgeItem *item = mem_alloc(size * sizeof *item);
    Judged *judged = mem_alloc(size * sizeof *judged);
    Message *msg = mem_alloc(size * sizeof *msg);
    int *of = mem_alloc(size * sizeof *of), m = 0;
    Tally tally = {mem_alloc(size * sizeof(double)), mem_alloc(size * sizeof(double)), 0, 0};
    r->criterion = criterion ? criterion : PAIR_CRITERION;
    for (int i = 0; i < t->n; i++) {
        const Answer *a = &t->set[t->item[i].a].item[t->item[i].at_a], *b = &t->set[t->item[i].b].item[t->item[i].at_b];
        if (!strcmp(a->reply, b->reply)) {
            score[i] = 0.5;
            continue;
        }
        msg[i] = (Message){ROLE_USER, a->prompt};
        item[m] = (JudgeItem){{&msg[i], 1}, a->reply, b->reply, r->criterion, NULL};
        of[m++] = i;
    }
    r->asked = m;
    bool ok = judge_ask(judge, judged, item, m, err);
    for (int k = 0; k < m && ok; k++) take(&score[of[k]], &judged[k], &t->item[of[k]], t, r, &tally);
    int64_t scored = r->asked - r->unjudged;
    r->first_slot = ok && scored ? tally.first / (2 * (double)scored) : NAN;
    r->length_corr = correlation(tally.q, tally.longer, tally.n);
    free(item);
    free(judged);
    free(msg);
    free(of);
    free(tally.q);
    free(tally.longer);
    return ok;
}
