// layer: dist
/* The NCCL backend over a double of NCCL and CUDA: "device memory" is memory of this process, a stream is a list of
 * what is queued, done when somebody asks, and communicators take a few questions until they are ready, as real ones do
 * that do not block. And without a GPU: a refusal that says what is missing. */
#include "dist_help.h"

#include <limits.h>
#include <time.h>

#include "dist/comm_nccl.h"

/* -- the double */

typedef struct Mail Mail;
struct Mail {
    Mail *next;
    unsigned char *data;
    size_t n;
};

typedef struct Board Board;
struct Board { /* one communicator's; an id is its address. All stay until the end: others may read them */
    int size;
    Mail *box[8][8];
    Board *next;
};

struct NcclComm {
    Board *board;
    int rank, questions; /* still to be asked before it is ready */
};

typedef enum { DO_SEND, DO_RECV, DO_COPY } What;
typedef struct {
    What what;
    NcclComm *comm;
    int peer;
    void *to;
    const void *from;
    size_t n;
} Op;
typedef struct {
    Op op[64];
    int n;
} Stream;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int n_device = 8, n_abort, live_memory, live_comms, bad_config;
static struct {
    int n, round, color[8], key[8], place[8];
    Board *made[8];
} meeting;

static int d_version(int *v) { return *v = 21800, 0; }

static Board *boards;

static Board *board_new(int size) { /* under the lock */
    Board *b = mem_alloc(sizeof *b);
    b->size = size;
    b->next = boards;
    boards = b;
    return b;
}

static void boards_free(void) {
    for (Board *b = boards, *next; b; b = next) {
        for (int i = 0; i < 64; i++)
            for (Mail *m = b->box[i / 8][i % 8], *after; m; m = after) {
                after = m->next;
                free(m->data);
                free(m);
            }
        next = b->next;
        free(b);
    }
    boards = NULL;
}

static int d_id(NcclId *id) {
    pthread_mutex_lock(&lock);
    Board *b = board_new(0);
    pthread_mutex_unlock(&lock);
    memcpy(id->internal, &b, sizeof b);
    return 0;
}

static bool config_ok(const NcclConfig *c) {
    return c->size == sizeof *c && c->magic == 0xcafebeefu && c->blocking == 0 && c->max_ctas == INT_MIN && !c->net;
}

static int d_init(NcclComm **comm, int n, NcclId id, int rank, NcclConfig *config) {
    pthread_mutex_lock(&lock);
    *comm = mem_alloc(sizeof **comm);
    **comm = (NcclComm){.rank = rank, .questions = 3};
    memcpy(&(*comm)->board, id.internal, sizeof(Board *));
    (*comm)->board->size = n;
    live_comms++;
    bad_config += !config_ok(config);
    pthread_mutex_unlock(&lock);
    return NCCL_IN_PROGRESS;
}

/* All ranks of one communicator meet, and those of a colour get a board. */
static int d_split(NcclComm *c, int color, int key, NcclComm **out, NcclConfig *config) {
    int n = c->board->size, rank = 0;
    pthread_mutex_lock(&lock);
    bad_config += !config_ok(config);
    meeting.color[c->rank] = color;
    meeting.key[c->rank] = key;
    int mine = meeting.round;
    if (++meeting.n == n) {
        for (int i = 0; i < n; i++) {
            int first = -1, size = 0;
            meeting.place[i] = 0;
            for (int k = 0; k < n; k++) {
                if (meeting.color[k] != meeting.color[i]) continue;
                if (first < 0) first = k;
                size++;
                meeting.place[i] += meeting.key[k] < meeting.key[i];
            }
            meeting.made[i] = first == i ? board_new(size) : meeting.made[first];
        }
        meeting.n = 0;
        meeting.round++;
        pthread_cond_broadcast(&changed);
    }
    while (meeting.round == mine) pthread_cond_wait(&changed, &lock);
    rank = meeting.place[c->rank];
    *out = mem_alloc(sizeof **out);
    **out = (NcclComm){meeting.made[c->rank], rank, 2};
    c->questions = 2;
    live_comms++;
    pthread_mutex_unlock(&lock);
    return NCCL_IN_PROGRESS;
}

static int d_error(NcclComm *c, int *state) {
    *state = c->questions-- > 0 ? NCCL_IN_PROGRESS : NCCL_SUCCESS;
    return 0;
}

static int d_rank(NcclComm *c, int *rank) { return *rank = c->rank, 0; }
static int d_count(NcclComm *c, int *n) { return *n = c->board->size, 0; }

static int d_gone(NcclComm *c) {
    pthread_mutex_lock(&lock);
    live_comms--;
    free(c);
    pthread_mutex_unlock(&lock);
    return 0;
}

static int d_abort(NcclComm *c) {
    pthread_mutex_lock(&lock);
    n_abort++;
    pthread_mutex_unlock(&lock);
    return d_gone(c);
}

static int d_group(void) { return 0; }
static int d_group_end(void) { return NCCL_IN_PROGRESS; }

static int add_op(void *stream, Op op) {
    Stream *s = stream;
    if (s->n == COUNT_OF(s->op)) return 1;
    s->op[s->n++] = op;
    if (op.comm) op.comm->questions = 1;
    return 0;
}

static int d_send(const void *buf, size_t n, int dtype, int peer, NcclComm *c, void *stream) {
    return dtype == NCCL_INT8 && n > 0 ? add_op(stream, (Op){DO_SEND, c, peer, NULL, buf, n}) : 4;
}

static int d_recv(void *buf, size_t n, int dtype, int peer, NcclComm *c, void *stream) {
    return dtype == NCCL_INT8 && n > 0 ? add_op(stream, (Op){DO_RECV, c, peer, buf, NULL, n}) : 4;
}

static int d_copy(void *to, const void *from, size_t n, int kind, void *stream) {
    return kind == CUDA_BY_ADDRESS ? add_op(stream, (Op){DO_COPY, NULL, 0, to, from, n}) : 1;
}

static bool perform(const Op *op) {
    if (op->what == DO_COPY) {
        memcpy(op->to, op->from, op->n);
        return true;
    }
    int me = op->comm->rank;
    Board *b = op->comm->board;
    if (op->what == DO_SEND) {
        Mail *m = mem_alloc(sizeof *m), **at = &b->box[me][op->peer];
        *m = (Mail){NULL, memcpy(mem_alloc(op->n), op->from, op->n), op->n};
        while (*at) at = &(*at)->next;
        *at = m;
        return true;
    }
    Mail *m = b->box[op->peer][me];
    if (!m) return false;
    b->box[op->peer][me] = m->next;
    memcpy(op->to, m->data, m->n < op->n ? m->n : op->n);
    free(m->data);
    free(m);
    return true;
}

/* What waits for a message lets sends behind it pass, as within a group; copies keep their place. */
static int d_query(void *stream) {
    Stream *s = stream;
    pthread_mutex_lock(&lock);
    bool waits = false;
    int kept = 0;
    for (int i = 0; i < s->n; i++) {
        bool held = waits && s->op[i].what == DO_COPY;
        if (!held && perform(&s->op[i])) continue;
        waits = true;
        s->op[kept++] = s->op[i];
    }
    s->n = kept;
    pthread_mutex_unlock(&lock);
    return kept > 0 ? CUDA_NOT_READY : 0;
}

static const char *d_string(int rc) { return rc ? "the double says no" : "fine"; }
static int d_devices(int *n) { return *n = n_device, 0; }
static int d_set(int device) { return device < 0; }

static int d_count_memory(int by) {
    pthread_mutex_lock(&lock);
    live_memory += by;
    pthread_mutex_unlock(&lock);
    return 0;
}

static int d_malloc(void **p, size_t n) {
    *p = mem_alloc(n);
    return d_count_memory(1);
}

static int d_free(void *p) {
    free(p);
    return d_count_memory(-1);
}

static int d_stream(void **s) { return *s = mem_alloc(sizeof(Stream)), 0; }
static int d_stream_gone(void *s) { return free(s), 0; }

static const NcclApi twin = {d_version, d_id,    d_init,      d_split,  d_error,       d_rank,   d_count,   d_abort,
                             d_gone,    d_group, d_group_end, d_send,   d_recv,        d_string, d_devices, d_set,
                             d_malloc,  d_free,  d_copy,      d_stream, d_stream_gone, d_query};

/* -- tests */

static void exchange(Rank *r, Comm *c) {
    int n = comm_size(c), me = comm_rank(c);
    Error err = {0};
    for (int round = 0; round < 6; round++) {
        unsigned char in[512], out[512];
        int64_t sent[8], comes[8];
        int at = 0;
        for (int q = 0; q < n; q++) {
            sent[q] = (3 * me + 5 * q + round) % 7;
            comes[q] = (3 * q + 5 * me + round) % 7;
            for (int i = 0; i < sent[q]; i++) in[at++] = (unsigned char)(31 * me + 7 * q + i);
        }
        comm_all_to_all(c, out, comes, in, sent, DTYPE_I8, "nccl.all_to_all");
        at = 0;
        for (int p = 0; p < n; p++)
            for (int i = 0; i < comes[p]; i++) expect(r, out[at++] == (unsigned char)(31 * p + 7 * me + i));
        float own[5], all[40];
        for (int q = 0; q < n; q++) comes[q] = (q + round) % 5;
        for (int i = 0; i < comes[me]; i++) own[i] = (float)(100 * me + i);
        comm_all_gather(c, all, own, comes, DTYPE_F32, "nccl.all_gather");
        at = 0;
        for (int p = 0; p < n; p++)
            for (int i = 0; i < comes[p]; i++) expect(r, all[at++] == (float)(100 * p + i));
        double word[2] = {me, -me};
        comm_broadcast(c, word, 2, DTYPE_F64, round % n, "nccl.broadcast");
        expect(r, word[0] == round % n && word[1] == -(round % n));
        comm_barrier(c, "nccl.barrier");
        if (me == 0) comm_send(c, word, 2, DTYPE_F64, n - 1, "nccl.send");
        if (me == n - 1) comm_recv(c, word, 2, DTYPE_F64, 0, "nccl.recv");
    }
    expect(r, comm_ok(c, &err));
}

static void ranks(Rank *r) {
    Comm *world;
    Mesh m;
    Error err = {0};
    bool ok = comm_open_nccl(&world, r->world, &twin, r->rank, &err);
    expect(r, ok);
    if (!ok) return;
    expect(r, comm_rank(world) == r->rank && comm_size(world) == r->size && !strcmp(comm_kind(world), "nccl"));
    expect(r, comm_reaches(world) && !comm_reaches(r->world));
    exchange(r, world);
    if (r->size == 4) {
        expect(r, mesh_open(&m, world, NULL, 2, 1, 1, &err));
        exchange(r, m.tp);
        exchange(r, m.dp);
    }
    comm_barrier(r->world, "test.end");
    comm_close(world);
}

static void one_waits(Rank *r) {
    Comm *world;
    Error err = {0};
    expect(r, comm_open_nccl(&world, r->world, &twin, r->rank, &err));
    comm_deadline(world, 0.05);
    if (r->rank != 1) {
        double start = now_s();
        comm_barrier(world, "nccl.late");
        expect(r, !comm_ok(world, &err) && strstr(err.msg, "deadline") != NULL && now_s() - start < 5);
    }
    comm_barrier(r->world, "test.end");
    comm_close(world);
}

static void no_device(Rank *r) {
    Comm *world;
    Error err = {0};
    expect(r, !comm_open_nccl(&world, r->world, &twin, r->rank == 2 ? 99 : r->rank, &err));
    expect(r, err.code == ERR_CONFIG &&
                  strstr(err.msg, "GPU 99 is asked for, this machine has 8") != NULL); /* all of them */
}

static void test_double(void **state) {
    (void)state;
    with_ranks(2, ranks, NULL);
    with_ranks(4, ranks, NULL);
    with_ranks(5, ranks, NULL);
    assert_int_equal(n_abort, 0);
    with_ranks(3, one_waits, NULL);
    assert_int_equal(n_abort, 2); /* kernels of a communicator that failed would wait for ever */
    with_ranks(3, no_device, NULL);
    assert_int_equal(bad_config, 0);
    assert_int_equal(live_comms, 0);
    assert_int_equal(live_memory, 0);
    boards_free();
}

static void test_refusal(void **state) {
    (void)state;
    NcclApi api;
    Error err = {0};
    if (nccl_load(&api, &err)) skip(); /* a machine with GPUs */
    assert_int_equal(err.code, ERR_CONFIG);
    assert_non_null(strstr(err.msg, "ranks over NCCL: "));
    assert_true(strstr(err.msg, "was not found") || strstr(err.msg, "no GPU is usable"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_double), cmocka_unit_test(test_refusal)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
