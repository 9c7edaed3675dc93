/* Ranks of one process, each a thread: buffers are handed over as pointers and copied by whoever wants them.
 *
 *      post what I bring, meet, copy what is mine from the others' posts, meet
 *
 * The second meeting keeps every buffer alive until all have read it; one who leaves because something failed waits for
 * those who are copying. One lock and one condition for the whole world: the
 * ranks are few and what is copied is copied outside the lock. A call that goes on beside its rank (start, finish) is
 * posted too, under its number, and needs no meeting: whoever looks when all have posted it copies what is its own, and
 * it is over when everybody has. A world that failed stays so: the reason is kept,
 * everybody is woken, and every wait ends. */
#include "dist/comm_int.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"

typedef struct { /* the world's */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    Error poison;
    int teams; /* not closed by all of their ranks yet */
} Hub;

typedef struct { /* what a rank brings to a call */
    const CommCall *call;
    const void *in;
    const size_t *bytes;
    size_t n;
    int color, key, root;
} Post;

typedef struct {
    const void *buf;
    size_t bytes;
    bool full, copying, taken;
} Box;

enum { FLYING = 2 * COMM_FLYING };

typedef struct {     /* a call of one rank that goes on beside it */
    uint64_t number; /* of such calls of the group, from 1; 0: none */
    Post post;
    bool *took; /* (size) who has what is his */
    int n_took;
} Flight;

typedef struct {
    Hub *hub;
    int size, users, arrived;
    int reading; /* ranks that copy from the others' buffers */
    uint64_t meeting;
    bool *here;     /* (size) in this meeting */
    int *number;    /* (size) ranks in the world, for messages */
    Post *post;     /* (size) */
    Box *box;       /* (size * size) from, to */
    void **made;    /* (size) teams of a split */
    Flight *flight; /* (size * FLYING) of a rank by number */
} Team;

typedef struct {
    Team *team;
    int rank;
    uint64_t n_started;
} Link;

static Team *team_new(Hub *hub, int size) {
    Team *t = mem_alloc(sizeof *t);
    *t = (Team){.hub = hub, .size = size, .users = size};
    size_t n = (size_t)size;
    t->here = mem_alloc(n * sizeof *t->here);
    t->number = mem_alloc(n * sizeof *t->number);
    t->post = mem_alloc(n * sizeof *t->post);
    t->box = mem_alloc(n * n * sizeof *t->box);
    t->made = mem_alloc(n * sizeof *t->made);
    t->flight = mem_alloc(n * FLYING * sizeof *t->flight);
    for (size_t i = 0; i < n * FLYING; i++) t->flight[i].took = mem_alloc(n * sizeof(bool));
    for (int i = 0; i < size; i++) t->number[i] = i;
    return t;
}

static void team_free(Team *t) {
    free(t->here);
    free(t->number);
    free(t->post);
    free(t->box);
    free(t->made);
    for (int i = 0; i < t->size * FLYING; i++) free(t->flight[i].took);
    free(t->flight);
    free(t);
}

/* -- waiting */

static void poison(Hub *hub, const Error *why) {
    if (hub->poison.code == ERR_NONE) hub->poison = *why;
    pthread_cond_broadcast(&hub->changed);
}

/* Under the lock; false: the world failed or the time is over. */
static bool wait_change(Hub *hub, double until, bool *late) {
    if (hub->poison.code != ERR_NONE) return false;
    if (isinf(until)) {
        pthread_cond_wait(&hub->changed, &hub->lock);
    } else {
        struct timespec t = {(time_t)until, (long)((until - floor(until)) * 1e9)};
        *late = pthread_cond_timedwait(&hub->changed, &hub->lock, &t) == ETIMEDOUT;
    }
    return hub->poison.code == ERR_NONE;
}

static void list_missing(const Team *t, const bool *here, Error *err) {
    char list[160];
    size_t at = 0;
    for (int i = 0; i < t->size && at < sizeof list - 12; i++)
        if (!here[i]) at += (size_t)snprintf(list + at, sizeof list - at, "%s%d", at ? ", " : "", t->number[i]);
    error_set(err, ERR_NET, "the deadline passed: rank%s %s did not come", strchr(list, ',') ? "s" : "", list);
}

/* Under the lock. Everybody who meets has seen what the others did before. */
static bool meet(Link *l, const CommCall *call) {
    Team *t = l->team;
    Hub *hub = t->hub;
    uint64_t mine = t->meeting;
    bool late = false;
    t->here[l->rank] = true;
    if (++t->arrived == t->size) {
        t->arrived = 0;
        memset(t->here, 0, (size_t)t->size * sizeof *t->here);
        t->meeting++;
        pthread_cond_broadcast(&hub->changed);
    }
    while (t->meeting == mine && hub->poison.code == ERR_NONE) {
        if (!late) {
            wait_change(hub, call->until, &late);
            continue;
        }
        Error why;
        list_missing(t, t->here, &why);
        poison(hub, &why);
    }
    return hub->poison.code == ERR_NONE;
}

static bool same_call(const Team *t, int me, const CommCall *a, int other, const CommCall *b, Error *err) {
    if (!strcmp(a->op, b->op) && !strcmp(a->site, b->site)) return true;
    return error_set(err, ERR_STATE, "ranks call different things: rank %d %s at %s, rank %d %s at %s", t->number[me],
                     a->op, a->site, t->number[other], b->op, b->site);
}

/* Ranks that call different things would wait for each other for ever, or mix up their data. */
static bool same_calls(const Link *l, Error *err) {
    const Team *t = l->team;
    for (int i = 0; i < t->size; i++)
        if (!same_call(t, l->rank, t->post[l->rank].call, i, t->post[i].call, err)) return false;
    return true;
}

/* Brings p and waits for the others' posts. After true the caller may read them, until it calls done. */
static bool begin(Link *l, Post p, Error *err) {
    Team *t = l->team;
    Hub *hub = t->hub;
    t->post[l->rank] = p;
    pthread_mutex_lock(&hub->lock);
    bool ok = meet(l, p.call);
    if (ok && !same_calls(l, err)) {
        poison(hub, err);
        ok = false;
    }
    t->reading += ok;
    while (!ok && t->reading > 0) pthread_cond_wait(&hub->changed, &hub->lock);
    if (!ok) *err = hub->poison;
    pthread_mutex_unlock(&hub->lock);
    return ok;
}

/* ok false: *err says what was wrong with the others' posts. */
static bool done(Link *l, const CommCall *call, bool ok, Error *err) {
    Team *t = l->team;
    Hub *hub = t->hub;
    pthread_mutex_lock(&hub->lock);
    t->reading--;
    pthread_cond_broadcast(&hub->changed);
    if (!ok) poison(hub, err);
    ok = meet(l, call);
    while (!ok && t->reading > 0) pthread_cond_wait(&hub->changed, &hub->lock);
    if (!ok) *err = hub->poison;
    pthread_mutex_unlock(&hub->lock);
    return ok;
}

static bool fail(Link *l, Error *err) {
    Hub *hub = l->team->hub;
    pthread_mutex_lock(&hub->lock);
    poison(hub, err);
    *err = hub->poison;
    pthread_mutex_unlock(&hub->lock);
    return false;
}

static bool check_size(const Link *l, size_t comes, size_t wanted, int from, Error *err) {
    return comes == wanted || error_set(err, ERR_STATE, "rank %d brings %zu bytes for rank %d, which expects %zu",
                                        l->team->number[from], comes, l->team->number[l->rank], wanted);
}

/* -- calls */

/* What rank p's post has for this rank; *to goes on behind it. */
static bool take_part(const Link *l, unsigned char **to, size_t wanted, int p, const Post *post, Error *err) {
    const unsigned char *from = post->in;
    for (int i = 0; i < l->rank; i++) from += post->bytes[i];
    if (!check_size(l, post->bytes[l->rank], wanted, p, err)) return false;
    if (wanted > 0) memcpy(*to, from, wanted);
    *to += wanted;
    return true;
}

static bool all_to_all(void *link, void *out, const size_t *out_bytes, const void *in, const size_t *in_bytes,
                       const CommCall *call, Error *err) {
    Link *l = link;
    Team *t = l->team;
    unsigned char *to = out;
    if (!begin(l, (Post){.call = call, .in = in, .bytes = in_bytes}, err)) return false;
    bool ok = true;
    for (int p = 0; p < t->size && ok; p++) ok = take_part(l, &to, out_bytes[p], p, &t->post[p], err);
    return done(l, call, ok, err);
}

/* -- one that goes on beside its rank */

typedef struct {
    uint64_t number;
    unsigned char *out;
    const size_t *out_bytes;
    const CommCall *call;
    bool taken;
} Request;

static Flight *flight_of(const Team *t, int rank, uint64_t number) {
    return &t->flight[rank * FLYING + (int)(number % FLYING)];
}

static bool start(void *link, void **request, void *out, const size_t *out_bytes, const void *in,
                  const size_t *in_bytes, const CommCall *call, Error *err) {
    Link *l = link;
    Hub *hub = l->team->hub;
    Request *r = mem_alloc(sizeof *r);
    *r = (Request){++l->n_started, out, out_bytes, call, false};
    Flight *f = flight_of(l->team, l->rank, r->number);
    pthread_mutex_lock(&hub->lock);
    CHECK(f->number == 0, "more than %d calls under way", FLYING);
    f->number = r->number;
    f->post = (Post){.call = call, .in = in, .bytes = in_bytes};
    f->n_took = 0;
    memset(f->took, 0, (size_t)l->team->size * sizeof *f->took);
    pthread_cond_broadcast(&hub->changed);
    pthread_mutex_unlock(&hub->lock);
    (void)err;
    *request = r;
    return true;
}

/* Under the lock, which is open while bytes are copied: everybody who wants this rank's part is there. */
static bool take_all(Link *l, Request *r, Error *err) {
    Team *t = l->team;
    Hub *hub = t->hub;
    unsigned char *to = r->out;
    bool ok = true;
    t->reading++;
    pthread_mutex_unlock(&hub->lock);
    for (int p = 0; p < t->size && ok; p++) {
        const Post *post = &flight_of(t, p, r->number)->post;
        ok = same_call(t, l->rank, r->call, p, post->call, err) && take_part(l, &to, r->out_bytes[p], p, post, err);
    }
    pthread_mutex_lock(&hub->lock);
    t->reading--;
    for (int p = 0; p < t->size; p++) {
        Flight *f = flight_of(t, p, r->number);
        f->took[l->rank] = true;
        f->n_took++;
    }
    r->taken = true;
    if (!ok) poison(hub, err);
    pthread_cond_broadcast(&hub->changed);
    return ok;
}

static bool all_posted(const Team *t, const Request *r) {
    for (int p = 0; p < t->size; p++)
        if (flight_of(t, p, r->number)->number != r->number) return false;
    return true;
}

/* Under the lock: who is not there yet, or has not taken what is his. */
static void late_flight(Link *l, const Request *r) {
    Team *t = l->team;
    Error why;
    bool *here = mem_alloc((size_t)t->size * sizeof *here);
    const Flight *mine = flight_of(t, l->rank, r->number);
    for (int p = 0; p < t->size; p++)
        here[p] = r->taken ? mine->took[p] : flight_of(t, p, r->number)->number == r->number;
    list_missing(t, here, &why);
    poison(t->hub, &why);
    free(here);
}

static bool finish(void *link, void *request, bool wait, bool *over, Error *err) {
    Link *l = link;
    Team *t = l->team;
    Hub *hub = t->hub;
    Request *r = request;
    Flight *mine = flight_of(t, l->rank, r->number);
    bool late = false;
    pthread_mutex_lock(&hub->lock);
    for (;;) {
        if (hub->poison.code == ERR_NONE && !r->taken && all_posted(t, r)) take_all(l, r, err);
        *over = r->taken && mine->n_took == t->size;
        if (hub->poison.code != ERR_NONE || *over || !wait) break;
        if (late)
            late_flight(l, r);
        else
            wait_change(hub, r->call->until, &late);
    }
    bool failed = hub->poison.code != ERR_NONE;
    while (failed && t->reading > 0) pthread_cond_wait(&hub->changed, &hub->lock);
    if (failed) *err = hub->poison;
    if (failed || *over) mine->number = 0;
    pthread_mutex_unlock(&hub->lock);
    if (failed || *over) free(r);
    return !failed;
}

static bool all_gather(void *link, void *out, const void *in, const size_t *bytes, const CommCall *call, Error *err) {
    Link *l = link;
    Team *t = l->team;
    unsigned char *to = out;
    if (!begin(l, (Post){.call = call, .in = in, .n = bytes[l->rank]}, err)) return false;
    bool ok = true;
    for (int p = 0; p < t->size && ok; p++) {
        ok = check_size(l, t->post[p].n, bytes[p], p, err);
        if (ok && bytes[p] > 0) memcpy(to, t->post[p].in, bytes[p]);
        to += bytes[p];
    }
    return done(l, call, ok, err);
}

static bool broadcast(void *link, void *buf, size_t bytes, int root, const CommCall *call, Error *err) {
    Link *l = link;
    if (!begin(l, (Post){.call = call, .in = buf, .n = bytes, .root = root}, err)) return false;
    const Post *from = &l->team->post[root];
    bool ok =
        from->root == root || error_set(err, ERR_STATE, "ranks name different roots: %d and %d", root, from->root);
    ok = ok && check_size(l, from->n, bytes, root, err);
    if (ok && l->rank != root && bytes > 0) memcpy(buf, from->in, bytes);
    return done(l, call, ok, err);
}

static bool barrier(void *link, const CommCall *call, Error *err) {
    return begin(link, (Post){.call = call}, err) && done(link, call, true, err);
}

static bool late_peer(Link *l, int peer, Error *err) {
    error_set(err, ERR_NET, "the deadline passed: rank %d did not come", l->team->number[peer]);
    return fail(l, err);
}

static bool send_to(void *link, const void *buf, size_t bytes, int peer, const CommCall *call, Error *err) {
    Link *l = link;
    Hub *hub = l->team->hub;
    Box *box = &l->team->box[l->rank * l->team->size + peer];
    bool late = false;
    pthread_mutex_lock(&hub->lock);
    *box = (Box){buf, bytes, true, false, false};
    pthread_cond_broadcast(&hub->changed);
    while (!box->taken && !late && wait_change(hub, call->until, &late)) continue;
    while (box->copying) pthread_cond_wait(&hub->changed, &hub->lock); /* buf may go when we are back */
    bool taken = box->taken, failed = hub->poison.code != ERR_NONE;
    if (failed) *err = hub->poison;
    *box = (Box){0};
    pthread_mutex_unlock(&hub->lock);
    return !failed && (taken || late_peer(l, peer, err));
}

static bool recv_from(void *link, void *buf, size_t bytes, int peer, const CommCall *call, Error *err) {
    Link *l = link;
    Hub *hub = l->team->hub;
    Box *box = &l->team->box[peer * l->team->size + l->rank];
    bool late = false;
    pthread_mutex_lock(&hub->lock);
    while (!(box->full && !box->taken) && !late && wait_change(hub, call->until, &late)) continue;
    bool failed = hub->poison.code != ERR_NONE, full = box->full && !box->taken;
    if (failed) *err = hub->poison;
    bool ok = !failed && full && check_size(l, box->bytes, bytes, peer, err);
    box->copying = ok;
    const void *from = box->buf;
    pthread_mutex_unlock(&hub->lock);
    if (failed) return false;
    if (!full) return late_peer(l, peer, err);
    if (!ok) return fail(l, err);
    if (bytes > 0) memcpy(buf, from, bytes);
    pthread_mutex_lock(&hub->lock);
    box->copying = false;
    box->taken = true;
    pthread_cond_broadcast(&hub->changed);
    pthread_mutex_unlock(&hub->lock);
    return true;
}

/* -- groups */

/* My place among those of my colour, by (key, rank). */
static void place_of(const Team *t, int me, int *rank, int *size, int *leader) {
    const Post *p = t->post;
    *rank = *size = 0;
    *leader = me;
    for (int i = 0; i < t->size; i++) {
        if (p[i].color != p[me].color) continue;
        ++*size;
        *rank += p[i].key < p[me].key || (p[i].key == p[me].key && i < me);
        if (i < *leader) *leader = i;
    }
}

/* The team of my colour, made by the first of its ranks. */
static Team *make_team(const Link *l, int size) {
    const Team *t = l->team;
    Team *g = team_new(t->hub, size);
    for (int i = 0; i < t->size; i++) {
        int r, n, first;
        if (t->post[i].color != t->post[l->rank].color) continue;
        place_of(t, i, &r, &n, &first);
        g->number[r] = t->number[i];
    }
    pthread_mutex_lock(&t->hub->lock);
    t->hub->teams++;
    pthread_mutex_unlock(&t->hub->lock);
    return g;
}

static bool split(void *link, int color, int key, void **out, int *rank, int *size, const CommCall *call, Error *err) {
    Link *l = link;
    Team *t = l->team;
    int leader;
    if (!begin(l, (Post){.call = call, .color = color, .key = key}, err)) return false;
    place_of(t, l->rank, rank, size, &leader);
    if (leader == l->rank) t->made[l->rank] = make_team(l, *size);
    bool ok = done(l, call, true, err); /* the teams are there */
    Link *mine = mem_alloc(sizeof *mine);
    *mine = (Link){t->made[leader], *rank, 0};
    *out = mine;
    /* Whoever fails here has a team all the same or none at all; the world is lost, and so is that little memory. */
    ok = ok && begin(l, (Post){.call = call}, err) && done(l, call, true, err);
    if (!ok) free(mine);
    return ok;
}

static void abort_world(void *link, const Error *why) {
    Link *l = link;
    Error err;
    error_set(&err, why->code, "rank %d: %s", l->team->number[l->rank], why->msg);
    fail(l, &err);
}

static void close_link(void *link) {
    Link *l = link;
    Team *t = l->team;
    Hub *hub = t->hub;
    pthread_mutex_lock(&hub->lock);
    bool last = --t->users == 0, end = last && --hub->teams == 0;
    pthread_mutex_unlock(&hub->lock);
    if (last) team_free(t);
    if (end) {
        pthread_cond_destroy(&hub->changed);
        pthread_mutex_destroy(&hub->lock);
        free(hub);
    }
    free(l);
}

static const CommOps thread_ops = {.name = "threads",
                                   .send = send_to,
                                   .recv = recv_from,
                                   .all_to_all = all_to_all,
                                   .start = start,
                                   .finish = finish,
                                   .all_gather = all_gather,
                                   .broadcast = broadcast,
                                   .barrier = barrier,
                                   .split = split,
                                   .abort = abort_world,
                                   .close = close_link};

bool comm_open_threads(Comm **world, int n, Error *err) {
    if (n < 1) return error_set(err, ERR_CONFIG, "%d ranks, expected at least 1", n);
    Hub *hub = mem_alloc(sizeof *hub);
    pthread_condattr_t attr;
    CHECK(!pthread_condattr_init(&attr) && !pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) &&
              !pthread_mutex_init(&hub->lock, NULL) && !pthread_cond_init(&hub->changed, &attr),
          "cannot make a lock");
    pthread_condattr_destroy(&attr);
    Team *t = team_new(hub, n);
    hub->teams = 1;
    for (int i = 0; i < n; i++) {
        Link *l = mem_alloc(sizeof *l);
        *l = (Link){t, i, 0};
        world[i] = comm_world(&thread_ops, l, i, n);
    }
    return true;
}
