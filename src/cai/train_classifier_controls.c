/* Controls of a trained classifier, on the same rows. Three linear models over n-grams, with the classifier's C: of the
 * requests alone, which tells how far a topic gives the label away; of the replies alone; of everything, but with the
 * labels of training shuffled among its rows, which must not do better than chance. And the classifier as it is where
 * every test row has another row's reply: what it still finds it reads in requests. */
#include <stdlib.h>
#include <string.h>

#include "cai/train_classifier_int.h"

static NgramText text_of(const Labelled *x) { return (NgramText){classifier_request(x->row->prompt), x->row->a}; }

/* What of a row control k sees. */
static void cut(NgramRow *row, int k) {
    if (k == CONTROL_REQUEST || k == CONTROL_REPLY) ngram_row_only(row, k == CONTROL_REQUEST);
}

static void linear_control(ClassifierRun *r, int k, const NgramText *text) {
    int n_train = r->n_part[PART_TRAIN], n = r->rows.n;
    NgramRow *row = mem_alloc((size_t)(n + 1) * sizeof *row);
    float *label = mem_alloc((size_t)(n_train + 1) * sizeof *label);
    int64_t *from = mem_alloc((size_t)(n_train + 1) * sizeof *from);
    Rng rng = {r->ctx.seed, RNG_SHUFFLE};
    if (k == CONTROL_LABELS)
        rng_shuffle(rng_derive(rng, "labels"), 0, from, n_train);
    else
        for (int i = 0; i < n_train; i++) from[i] = i;
    for (int i = 0; i < n_train; i++) label[i] = (float)r->item[from[i]].harmful;
    NgramModel *m = ngram_new(text, label, n_train, 1);
    for (int i = 0; i < n; i++) {
        ngram_row(&row[i], m, text[i]);
        cut(&row[i], k);
    }
    ngram_fit(m, row, label, n_train, 1, r->ngram_c[NGRAM_APART], rng, NULL);
    double *z = r->control[k].z = mem_alloc((size_t)(n - n_train + 1) * sizeof *z);
    for (int i = n_train; i < n; i++) ngram_score(m, &row[i], &z[i - n_train]);
    for (int i = 0; i < n; i++) ngram_row_release(&row[i]);
    ngram_free(m);
    free(row);
    free(label);
    free(from);
}

/* Test rows in a circle drawn from the seed: each has the reply of the next. */
static bool other_replies(ClassifierRun *r, ClassifierControl *c, Error *err) {
    int n = r->n_part[PART_TEST], n_valid = r->n_part[PART_VALID];
    const Labelled *test = r->item + r->first[PART_TEST], *valid = r->item + r->first[PART_VALID];
    int64_t *order = mem_alloc((size_t)(n + 1) * sizeof *order);
    ClassifierText *text = mem_alloc((size_t)(n + 1) * sizeof *text);
    float *trunk = mem_alloc(((size_t)n * (size_t)r->n_label + 1) * sizeof *trunk);
    double *z = mem_alloc((size_t)r->n_label * sizeof *z);
    c->m = 2 * r->n_label;
    c->z = mem_alloc((size_t)(n_valid + n + 1) * (size_t)c->m * sizeof *c->z);
    for (int i = 0; i < n_valid; i++) memcpy(c->z + i * c->m, valid[i].z, (size_t)c->m * sizeof *c->z);
    rng_shuffle(rng_derive((Rng){r->ctx.seed, RNG_SHUFFLE}, "replies"), 0, order, n);
    for (int i = 0; i < n; i++)
        text[order[i]] = (ClassifierText){test[order[i]].row->prompt, test[order[(i + 1) % n]].row->a};
    bool ok = classifier_trunk(r, text, n, trunk, err);
    for (int i = 0; i < n && ok; i++) {
        double *to = c->z + (n_valid + i) * c->m;
        for (int k = 0; k < r->n_label; k++) to[2 * k] = (double)trunk[(int64_t)i * r->n_label + k];
        if (!r->ngrams) continue;
        NgramRow row;
        ngram_row(&row, r->ngrams, (NgramText){classifier_request(text[i].prompt), text[i].reply});
        ngram_score(r->ngrams, &row, z);
        ngram_row_release(&row);
        for (int k = 0; k < r->n_label; k++) to[2 * k + 1] = z[k];
    }
    free(order);
    free(text);
    free(trunk);
    free(z);
    return ok;
}

bool classifier_controls(ClassifierRun *r, Error *err) {
    static const ClassifierControl control[CONTROLS] = {{"request_only", "n-grams of requests alone", true, 1, NULL},
                                                        {"reply_only", "n-grams of replies alone", true, 1, NULL},
                                                        {"shuffled_labels", "n-grams, labels shuffled", true, 1, NULL},
                                                        {"shuffled_replies", "replies shuffled", false, 1, NULL}};
    memcpy(r->control, control, sizeof control);
    NgramText *text = mem_alloc((size_t)(r->rows.n + 1) * sizeof *text);
    for (int i = 0; i < r->rows.n; i++) text[i] = text_of(&r->item[i]);
    for (int k = 0; k < CONTROL_REPLIES && r->ngrams; k++) linear_control(r, k, text);
    free(text);
    return other_replies(r, &r->control[CONTROL_REPLIES], err);
}
