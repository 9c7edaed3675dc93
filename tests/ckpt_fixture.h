/* What the tests of checkpoints share: a state whose every number says which tensor, element and step it is of. */
#ifndef DIKAST_TESTS_CKPT_FIXTURE_H
#define DIKAST_TESTS_CKPT_FIXTURE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/rng.h"
#include "nn/ckpt.h"

enum { N_TENSOR = 9 };
static const struct {
    const char *name;
    CkptKind kind;
    DType dtype;
    int64_t rows, cols;
    bool panels;
} shapes[N_TENSOR] = {
    {"net.a", CKPT_PARAM, DTYPE_F32, 37, 19, true},  {"net.a", CKPT_M, DTYPE_F32, 37, 19, true},
    {"net.a", CKPT_V, DTYPE_F32, 37, 19, false},     {"net.b", CKPT_PARAM, DTYPE_BF16, 33, 7, true},
    {"net.b", CKPT_MASTER, DTYPE_F32, 33, 7, false}, {"net.norm", CKPT_PARAM, DTYPE_F32, 1, 50, false},
    {"net.bias", CKPT_PARAM, DTYPE_F64, 5, 3, false}, {"net.wide", CKPT_PARAM, DTYPE_BF16, 2, 301, false},
    {"net.big", CKPT_M, DTYPE_F32, 160, 40, true},
};

typedef struct {
    Arena mem;
    Tensor t[N_TENSOR];     /* this part's rows and columns */
    CkptPiece piece[N_TENSOR];
    int n;
} Part;

static inline void must(bool ok, const Error *err) {
    if (!ok) fail_msg("%s", err->msg);
}

/* BF16 holds whole numbers to 256 exactly. */
static inline double value_of(int tensor, int64_t row, int64_t col, int64_t step) {
    int64_t v = (tensor * 131 + row * 17 + col * 29 + step * 53) % 257;
    return shapes[tensor].dtype == DTYPE_BF16 ? (double)(v % 251) : (double)v + 0.25 * (double)(row % 3);
}

/* Piece i of n of everything, cut along dim. Panels start at whole panels: such a tensor is not cut, piece 0 has it. */
static inline void part_open(Part *p, int i, int n, int dim) {
    Arena measure;
    Error err;
    Box box[N_TENSOR];
    *p = (Part){0};
    for (int real = 0; real < 2; real++) {
        Arena *a = real ? &p->mem : &measure;
        if (real) must(arena_init(&p->mem, "part", mem_source_host(), measure.used, &err), &err);
        else arena_init_measure(&measure, "part");
        p->n = 0;
        for (int k = 0; k < N_TENSOR; k++) {
            const int64_t shape[2] = {shapes[k].rows, shapes[k].cols};
            if (!box_cut(&box[k], shape, 2, dim, i, n)) continue;
            Tensor t = tensor_place_weight(a, shapes[k].dtype, box[k].len[0], box[k].len[1], shapes[k].panels);
            p->t[p->n] = t;
            p->piece[p->n++] = (CkptPiece){shapes[k].name, shapes[k].kind, shapes[k].rows, shapes[k].cols, box[k].at[0], box[k].at[1], t};
        }
    }
}

static inline void part_close(Part *p) { arena_release(&p->mem); }

static inline int tensor_of(const CkptPiece *p) {
    for (int k = 0; k < N_TENSOR; k++)
        if (!strcmp(shapes[k].name, p->name) && shapes[k].kind == p->kind) return k;
    return -1;
}

static inline void part_fill(Part *p, int64_t step) {
    for (int i = 0; i < p->n; i++) {
        const CkptPiece *q = &p->piece[i];
        int k = tensor_of(q);
        double *v = malloc((size_t)tensor_count(q->t) * sizeof *v);
        for (int64_t e = 0; e < tensor_count(q->t); e++)
            v[e] = step < 0 ? -1 : value_of(k, q->row + e / q->t.cols, q->col + e % q->t.cols, step);
        tensor_set(NULL, q->t, v);
        free(v);
    }
}

/* -1: not the values of that step */
static inline bool part_is(const Part *p, int64_t step) {
    bool same = true;
    for (int i = 0; i < p->n; i++) {
        const CkptPiece *q = &p->piece[i];
        int k = tensor_of(q);
        double *v = malloc((size_t)tensor_count(q->t) * sizeof *v);
        tensor_get(NULL, v, q->t);
        for (int64_t e = 0; e < tensor_count(q->t); e++)
            same = same && v[e] == value_of(k, q->row + e / q->t.cols, q->col + e % q->t.cols, step);
        free(v);
    }
    return same;
}

static inline void fresh(char out[300], const char *name) {
    Error err;
    snprintf(out, 300, "%s/scratch/nn_ckpt/%s", BUILD_DIR, name);
    must(io_remove_tree(out, &err) && io_make_dirs(out, &err), &err);
    strcat(out, "/state");
}

static inline bool save_step(CkptWriter *w, Part *p, int64_t step, Error *err) {
    CkptState s = {.step = step, .piece = p->piece, .n_piece = p->n, .metric = NAN};
    s.section[CKPT_PROGRESS] = "{\"seen\":12}";
    part_fill(p, step);
    return ckpt_save(w, NULL, &s, err);
}

/* Writes whole checkpoints of these steps, one process. */
static inline void save_steps(const char *dir, const int64_t *step, int n) {
    Error err = {0};
    CkptWriter *w;
    Part p;
    part_open(&p, 0, 1, 0);
    must(ckpt_writer_open(&w, &(CkptConfig){.dir = dir, .run = "r", .wait = true, .keep = 100}, &err), &err);
    for (int i = 0; i < n; i++) must(save_step(w, &p, step[i], &err), &err);
    ckpt_writer_close(w);
    part_close(&p);
}

/* The newest good checkpoint's step; its content is checked. -1: none. */
static inline int64_t newest(const char *dir) {
    Error err = {0};
    Ckpt *c;
    Part p;
    must(ckpt_newest(&c, dir, "r", NULL, &err), &err);
    if (!c) return -1;
    int64_t step = ckpt_manifest(c)->step;
    part_open(&p, 0, 1, 0);
    part_fill(&p, -1);
    must(ckpt_load(c, NULL, p.piece, p.n, true, &err), &err);
    if (!part_is(&p, step)) fail_msg("%s: step %lld has other numbers than were saved", dir, (long long)step);
    part_close(&p);
    ckpt_close(c);
    return step;
}

static inline void read_all(Str *out, const char *dir, const char *name) {
    Error err;
    Str path = {0};
    str_printf(&path, "%s/%s", dir, name);
    must(io_read_file(out, path.s, 1 << 28, &err), &err);
    str_release(&path);
}

/* Not through the atomic writer: as damage happens. */
static inline void write_all(const char *dir, const char *name, const char *p, size_t n) {
    char path[600];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

#endif
