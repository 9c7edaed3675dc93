/* Packs by number.
 *
 * The plan of an epoch follows from lengths, max_tok and seed alone: the groups in the order of a permutation keyed by
 * the epoch; windows of WINDOW groups of that order packed best-fit (each group into the fullest pack that still holds
 * it), the long ones first and in decreasing length, the short ones as the permutation has them; all packs of the epoch
 * shuffled, so that long samples do not come first. Windows bound both the time and how far a sample can move from its
 * place in the permutation. Packs are numbered through all epochs, so a reader that starts at number k first plans the
 * epochs before it, which needs lengths only.
 *
 * Short groups are not sorted because length is seldom innocent. Were they, a pack would hold replies of one length,
 * which in practice are of one kind; a step of one pack would see that kind alone, and the last pack of a window, which
 * is not full, would be the shortest kind with the weight of a whole step. A model so trained gives the shortest reply
 * far more often than its data do. Sorting pays only where few groups fit in a pack, so only there is it done.
 *
 * A thread builds up to RING packs ahead, enough for a trainer of a million tokens a second on a machine whose cores
 * are taken by others for some 20 ms at a time:
 *
 *      slot[head]           the one the caller holds, or the next to hand out
 *      .. head + count      ready
 *      slot[head + count]   being built, outside the lock: only the builder touches it
 *
 * When the caller jumps, count becomes 0 and the generation changes; a pack built for the old one is thrown away.
 * Timing decides only who waits, never what a pack holds. */
#include "data/loader.h"
#include "base/log.h"
#include "base/rng.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOW = 1024, RING = 8, MANY = 8 }; /* MANY: groups in a pack from which on they count as short */

typedef struct {
    int64_t epoch, first, n_pack; /* first: number of its first pack */
    int64_t *group;               /* (G) groups, pack by pack */
    int64_t *pack_off;            /* (n_pack+1) into group */
    int64_t *order;               /* (n_pack) the epoch's k-th pack is order[k] */
} Plan;

struct Loader {
    const SampleSet *set;
    int64_t n_group;
    int max_tok;
    uint64_t seed;
    double wait_s;

    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t made, wanted;
    Pack slot[RING];
    int head, count;
    bool held, started, stop;
    int64_t next; /* number the builder makes now or next */
    uint64_t generation;
    Plan plan; /* the builder's */
};

/* ---- plans */

static int64_t group_len(const Loader *l, int64_t g) {
    const SampleSet *s = l->set;
    return s->off[(g + 1) * s->group] - s->off[g * s->group];
}

typedef struct {
    int64_t group;
    int len, place; /* place in the permutation breaks ties */
    int rank;       /* length if it is long, else 0 */
    int bin;
} Item;

static int long_first(const void *a, const void *b) {
    const Item *x = a, *y = b;
    if (x->rank != y->rank) return y->rank - x->rank;
    return x->place - y->place;
}

static int by_bin(const void *a, const void *b) {
    const Item *x = a, *y = b;
    if (x->bin != y->bin) return x->bin - y->bin;
    return long_first(a, b);
}

/* Bins by the room they have left: head[r] is the last bin with room r, before[] chains the others; a bit per r that
 * has any makes "least room >= len" a scan of words. */
typedef struct {
    int *head;     /* (max_tok+1), -1 when empty */
    uint64_t *bit; /* (max_tok/64+1) */
    int room[WINDOW], before[WINDOW];
    int n_bin, n_word;
} Bins;

static void bins_put(Bins *b, int bin, int room) {
    b->room[bin] = room;
    b->before[bin] = b->head[room];
    b->head[room] = bin;
    b->bit[room / 64] |= UINT64_C(1) << (room % 64);
}

static int bins_take(Bins *b, int len) {
    uint64_t word = b->bit[len / 64] & ~UINT64_C(0) << (len % 64);
    int i = len / 64;
    while (word == 0) {
        if (++i >= b->n_word) return -1;
        word = b->bit[i];
    }
    int room = i * 64 + __builtin_ctzll(word), bin = b->head[room];
    b->head[room] = b->before[bin];
    if (b->head[room] < 0) b->bit[i] &= ~(UINT64_C(1) << (room % 64));
    return bin;
}

static void pack_window(const Loader *l, Bins *b, Item *item, int n) {
    qsort(item, (size_t)n, sizeof *item, long_first);
    b->n_bin = 0;
    for (int i = 0; i < n; i++) {
        int bin = bins_take(b, item[i].len), room = bin < 0 ? l->max_tok : b->room[bin];
        if (bin < 0) bin = b->n_bin++;
        item[i].bin = bin;
        bins_put(b, bin, room - item[i].len);
    }
    for (int i = 0; i < b->n_bin; i++) { /* empty again, touching only what was used */
        b->head[b->room[i]] = -1;
        b->bit[b->room[i] / 64] = 0;
    }
    qsort(item, (size_t)n, sizeof *item, by_bin);
}

static void plan_make(const Loader *l, Plan *p, int64_t epoch, int64_t first) {
    Rng rng = {l->seed, RNG_SHUFFLE};
    int64_t G = l->n_group;
    int64_t *perm = mem_alloc(sizeof *perm * (size_t)G);
    Item *item = mem_alloc(sizeof *item * WINDOW);
    Bins *b = mem_alloc(sizeof *b);
    b->n_word = l->max_tok / 64 + 1;
    b->head = mem_alloc(sizeof *b->head * (size_t)(l->max_tok + 1));
    b->bit = mem_alloc(sizeof *b->bit * (size_t)b->n_word);
    for (int i = 0; i <= l->max_tok; i++) b->head[i] = -1;
    if (!p->group) {
        p->group = mem_alloc(sizeof *p->group * (size_t)G);
        p->pack_off = mem_alloc(sizeof *p->pack_off * (size_t)(G + 1));
        p->order = mem_alloc(sizeof *p->order * (size_t)G);
    }
    p->epoch = epoch;
    p->first = first;
    p->n_pack = 0;
    rng_shuffle(rng, (uint64_t)epoch, perm, G);
    for (int64_t at = 0; at < G; at += WINDOW) {
        int n = (int)(G - at < WINDOW ? G - at : WINDOW);
        for (int i = 0; i < n; i++) {
            int len = (int)group_len(l, perm[at + i]);
            item[i] = (Item){perm[at + i], len, i, len > l->max_tok / MANY ? len : 0, 0};
        }
        pack_window(l, b, item, n);
        for (int i = 0; i < n; i++) {
            if (i == 0 || item[i].bin != item[i - 1].bin) p->pack_off[p->n_pack++] = at + i;
            p->group[at + i] = item[i].group;
        }
    }
    p->pack_off[p->n_pack] = G;
    rng_shuffle(rng_derive(rng, "packs"), (uint64_t)epoch, p->order, p->n_pack);
    free(b->head), free(b->bit), free(b), free(item), free(perm);
}

static void plan_release(Plan *p) { free(p->group), free(p->pack_off), free(p->order); }

static void plan_find(const Loader *l, Plan *p, int64_t number) {
    if (!p->group || number < p->first) plan_make(l, p, 0, 0);
    while (number >= p->first + p->n_pack) plan_make(l, p, p->epoch + 1, p->first + p->n_pack);
}

/* ---- packs */

static void pack_build(const Loader *l, const Plan *p, Pack *out, int64_t number) {
    const SampleSet *s = l->set;
    int64_t k = p->order[number - p->first];
    out->number = number;
    out->epoch = p->epoch;
    out->n_tok = out->n_seq = 0;
    for (int64_t g = p->pack_off[k]; g < p->pack_off[k + 1]; g++) {
        for (int64_t i = p->group[g] * s->group; i < (p->group[g] + 1) * s->group; i++) {
            int64_t from = s->off[i];
            int n = (int)(s->off[i + 1] - from), at = out->n_tok;
            memcpy(out->tok + at, s->tok + from, sizeof *out->tok * (size_t)n);
            for (int t = 0; t < n; t++) {
                out->pos[at + t] = t;
                out->weight[at + t] = t + 1 < n ? s->weight[from + t + 1] : 0;
            }
            out->seq_off[out->n_seq] = at;
            out->sample[out->n_seq++] = i;
            out->n_tok += n;
        }
    }
    out->seq_off[out->n_seq] = out->n_tok;
}

static void *build_ahead(void *ud) {
    Loader *l = ud;
    pthread_mutex_lock(&l->lock);
    while (!l->stop) {
        if (!l->started || l->count == RING) {
            pthread_cond_wait(&l->wanted, &l->lock);
            continue;
        }
        int64_t number = l->next;
        uint64_t generation = l->generation;
        Pack *slot = &l->slot[(l->head + l->count) % RING];
        pthread_mutex_unlock(&l->lock);
        plan_find(l, &l->plan, number);
        pack_build(l, &l->plan, slot, number);
        pthread_mutex_lock(&l->lock);
        if (generation != l->generation) continue;
        l->count++;
        l->next++;
        pthread_cond_signal(&l->made);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

static void drop_head(Loader *l) {
    l->head = (l->head + 1) % RING;
    l->count--;
}

const Pack *loader_pack(Loader *l, int64_t number) {
    CHECK(number >= 0, "pack %lld", (long long)number);
    pthread_mutex_lock(&l->lock);
    if (l->held) drop_head(l);
    while (l->count > 0 && l->slot[l->head].number != number) drop_head(l);
    if (!l->started || (l->count == 0 && l->next != number)) {
        l->generation++;
        l->next = number;
        l->started = true;
    }
    pthread_cond_signal(&l->wanted);
    if (l->count == 0) {
        double t = now_s();
        while (l->count == 0) pthread_cond_wait(&l->made, &l->lock);
        l->wait_s += now_s() - t;
    }
    l->held = true;
    const Pack *p = &l->slot[l->head];
    pthread_mutex_unlock(&l->lock);
    return p;
}

int64_t loader_packs_in_epoch(Loader *l, int64_t epoch) {
    Plan p = {0}; /* not the builder's, which may be in use */
    plan_make(l, &p, epoch, 0);
    int64_t n = p.n_pack;
    plan_release(&p);
    return n;
}

double loader_wait_s(const Loader *l) { return l->wait_s; }

/* ---- life */

static bool check_samples(const SampleSet *s, int max_tok, Error *err) {
    if (s->n == 0) return error_set(err, ERR_STATE, "no samples to train on");
    CHECK(s->n % s->group == 0, "%lld samples in groups of %d", (long long)s->n, s->group);
    for (int64_t i = 0; i < s->n; i += s->group) {
        int64_t n = s->off[i + s->group] - s->off[i];
        if (n > max_tok)
            return error_set(err, ERR_CONFIG,
                             "sample %lld (id %llu)%s has %lld tokens, but a micro-batch holds %d: raise its size or "
                             "shorten the sample",
                             (long long)i, (unsigned long long)s->id[i], s->group > 1 ? " with its group" : "",
                             (long long)n, max_tok);
    }
    return true;
}

bool loader_open(Loader **out, const SampleSet *s, int max_tok, uint64_t seed, Error *err) {
    if (!check_samples(s, max_tok, err)) return false;
    Loader *l = mem_alloc(sizeof *l);
    size_t n = (size_t)max_tok;
    l->set = s;
    l->n_group = s->n / s->group;
    l->max_tok = max_tok;
    l->seed = seed;
    for (int i = 0; i < RING; i++) {
        Pack *p = &l->slot[i];
        p->tok = mem_alloc(sizeof *p->tok * n);
        p->pos = mem_alloc(sizeof *p->pos * n);
        p->weight = mem_alloc(sizeof *p->weight * n);
        p->seq_off = mem_alloc(sizeof *p->seq_off * (n + 1));
        p->sample = mem_alloc(sizeof *p->sample * n);
    }
    CHECK(!pthread_mutex_init(&l->lock, NULL) && !pthread_cond_init(&l->made, NULL) &&
              !pthread_cond_init(&l->wanted, NULL),
          "cannot make a lock");
    int rc = pthread_create(&l->thread, NULL, build_ahead, l);
    if (rc != 0) {
        l->stop = true; /* no thread to join */
        loader_close(l);
        return error_set(err, ERR_MEMORY, "cannot start the loader's thread: %s", strerror(rc));
    }
    *out = l;
    return true;
}

void loader_close(Loader *l) {
    if (!l) return;
    if (!l->stop) {
        pthread_mutex_lock(&l->lock);
        l->stop = true;
        pthread_cond_signal(&l->wanted);
        pthread_mutex_unlock(&l->lock);
        pthread_join(l->thread, NULL);
    }
    pthread_cond_destroy(&l->made);
    pthread_cond_destroy(&l->wanted);
    pthread_mutex_destroy(&l->lock);
    for (int i = 0; i < RING; i++) {
        Pack *p = &l->slot[i];
        free(p->tok), free(p->pos), free(p->weight), free(p->seq_off), free(p->sample);
    }
    plan_release(&l->plan);
    free(l);
}
