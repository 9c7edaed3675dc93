#include "cai/judge.h"

#include <stdlib.h>

bool judge_pairs(Judged *out, Engine *e, const Chat *c, const JudgeItem *item, int n, int max_len, Error *err) {
    Sequence *seq = mem_alloc((size_t)(2 * n + 1) * sizeof *seq);
    Tokens *prompt = mem_alloc((size_t)(2 * n + 1) * sizeof *prompt);
    float *logprob = mem_alloc((size_t)(4 * n + 1) * sizeof *logprob);
    int *owner = mem_alloc((size_t)(2 * n + 1) * sizeof *owner), m = 0;
    for (int i = 0; i < n; i++) {
        const JudgeItem *it = &item[i];
        Sequence *ab = &seq[2 * i], *ba = &seq[2 * i + 1];
        chat_judge_prompt(ab, c, it->prompt, it->a, it->b, it->compare);
        chat_judge_prompt(ba, c, it->prompt, it->b, it->a, it->compare);
        out[i] = (Judged){.scored = ab->tok.n <= max_len && ba->tok.n <= max_len};
        for (int k = 0; k < 2 && out[i].scored; k++) {
            prompt[m] = (Tokens){seq[2 * i + k].tok.id, seq[2 * i + k].tok.n};
            owner[m++] = 2 * i + k;
        }
    }
    const int32_t option[] = {c->id[SENT_FIRST], c->id[SENT_SECOND]};
    bool ok = engine_options(e, prompt, m, option, 2, logprob, err);
    for (int k = 0; k < m && ok; k++) {
        double l = (double)logprob[2 * k] - (double)logprob[2 * k + 1];
        *(owner[k] & 1 ? &out[owner[k] / 2].l_ba : &out[owner[k] / 2].l_ab) = l;
    }
    for (int i = 0; i < 2 * n; i++) sequence_release(&seq[i]);
    free(seq);
    free(prompt);
    free(logprob);
    free(owner);
    return ok;
}
