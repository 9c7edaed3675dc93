/* nn/ckpt.h — checkpoints: the state of a training run in a folder, written so that a kill at any moment leaves the one before.
 *
 *      state/step-00001200/shard-00000-of-00002.safetensors …    one file a rank, boxes of global tensors
 *                          manifest.json                          format dikast-ckpt/1: what is where, sums of every block
 *                          VERIFIED                               the manifest's crc32c: everything was read back from the disk
 *      state/LATEST                                               a name; a hint for people, loading looks at all
 *      state/tmp.*, trash.*, bad.*                                being written | being deleted | damaged, kept for people
 *
 * Saving is a sequence of commit points, c0 to c12; each is a crash point (base/crash.h), "ckpt.c6":
 *
 *      c0  all      free space >= 1.2 times the size, else this save is left out
 *      c1  main     copy to host memory: all that training waits for
 *      c2  writer   make tmp.step-N.aK (K: attempt)
 *      c3  writer   write the shard, crc32c of each block on the way
 *      c4  writer   fdatasync; after a failure a new file, once: the system may have dropped the pages
 *      c5  writer   shard-i.json: what it holds, by write, fsync, rename
 *      c6  rank 0   when all records are there: manifest.json
 *      c7  rank 0   fsync of the folder
 *      c8  rank 0   rename to step-N, which must not exist: a stale attempt cannot overwrite
 *      c9  rank 0   fsync of the parent: from here on the checkpoint is there
 *      c10 rank 0   LATEST
 *      c11 writers  read back past the page cache; then rank 0: VERIFIED
 *      c12 rank 0   retention: rename to trash.*, delete
 *
 * The writer's thread touches files and host memory only, never a backend, so a save in the background gives the bytes of one
 * that training waits for. A failed save is an event and a warning, and training goes on.
 *
 * Loading takes candidates newest first and checks manifest, sizes and every block before anything is stored; what does not
 * match becomes bad.* and the next one's turn comes. Pieces need not be cut as they were saved: nn/reshard.h. */
#ifndef DIKAST_NN_CKPT_H
#define DIKAST_NN_CKPT_H

#include "base/crcfile.h"
#include "base/io.h"
#include "base/json.h"
#include "base/log.h"
#include "nn/reshard.h"
#include "tensor/backend.h"

typedef enum { CKPT_PARAM, CKPT_MASTER, CKPT_M, CKPT_V, CKPT_KINDS } CkptKind;
extern const char *const ckpt_kind_names[CKPT_KINDS];       /* "param", "master", "m", "v" */

/* A part of the global tensor kind/name of rows x cols: t lies at (row, col) of it. */
typedef struct {
    const char *name;
    CkptKind kind;
    int64_t rows, cols, row, col;
    Tensor t;
} CkptPiece;

/* JSON objects that the checkpoint carries for its owner, as text; NULL: {}. The layout is written when it is NULL: data parallel
 * over the writer's ranks. */
typedef enum { CKPT_LAYOUT, CKPT_PROGRESS, CKPT_RNG, CKPT_SCHEDULE, CKPT_ENV, CKPT_NETS, CKPT_SECTIONS } CkptSection;
extern const char *const ckpt_section_names[CKPT_SECTIONS];

/* -- writing (ckpt_write.c, ckpt_commit.c) */

typedef struct {
    const char *dir;        /* .../state; made at the first save */
    const char *run;        /* who it belongs to; another run's checkpoint is not loaded */
    int rank, n_ranks;      /* n_ranks 0: 1. All ranks open before one saves; all save the same steps */
    int attempt;            /* of the supervisor's restarts */
    bool wait;              /* ckpt_save returns when everything is on disk, and needs no copy in memory */
    int keep;               /* the last so many stay; 0: 2 */
    int64_t keep_every;     /* also those whose step is a multiple; 0: none */
    bool keep_best;         /* also that with the lowest CkptState.metric */
    double patience_s;      /* rank 0 for the records of the others, past the slowest seen; 0: 60 */
    Log *log;
} CkptConfig;

typedef struct {
    int64_t step;
    const CkptPiece *piece;     /* this rank's; (kind, name, row, col) differ */
    int n_piece;
    const char *section[CKPT_SECTIONS];     /* rank 0's are written */
    double metric;              /* for keep_best; NAN: none */
    Appender *first;            /* synced before the commit; stays open until ckpt_wait. NULL: none */
} CkptState;

typedef struct CkptWriter CkptWriter;
/* Sweeps what a killed process left (rank 0). */
bool ckpt_writer_open(CkptWriter **out, const CkptConfig *c, Error *err);
/* Copies and hands over; waits first when the save before is still being written. False: this step was not saved, or (wait)
 * not wholly. A step that is there already is not saved again. */
bool ckpt_save(CkptWriter *w, Backend *be, const CkptState *s, Error *err);
bool ckpt_busy(CkptWriter *w);              /* is one being written? */
bool ckpt_wait(CkptWriter *w, Error *err);  /* until it is not; false: the last save failed */
void ckpt_resumed(CkptWriter *w, int64_t step);     /* the checkpoint that this process went on from: the next one's parent */
typedef struct { int64_t saved, failed, bytes; double stall_s, write_s; } CkptStats;   /* bytes: of the last save */
CkptStats ckpt_stats(CkptWriter *w);        /* sums over this process */
void ckpt_writer_close(CkptWriter *w);      /* waits; NULL is fine */

/* -- reading (ckpt_read.c) */

typedef struct { Box box; int file; int64_t at, bytes; } CkptBox;
typedef struct {
    const char *name;
    CkptKind kind;
    DType dtype;
    int n_dim;
    int64_t shape[BOX_DIMS];
    CkptBox *box;
    int n_box;
} CkptTensor;
typedef struct { const char *name; CrcSums sums; } CkptFile;
typedef struct {
    int64_t step, parent;
    int attempt, world;
    const char *run;
    CkptTensor *tensor;         /* by kind, then by name */
    int n_tensor;
    CkptFile *file;
    int n_file;
    const Json *section[CKPT_SECTIONS];
    uint32_t crc;               /* of the whole text */
    void *impl;
} CkptManifest;
/* Strict; the fuzz entry. Every box lies in its tensor, its bytes in its file; the text's own crc is right. */
bool ckpt_manifest_parse(CkptManifest *m, const char *text, size_t n, const char *name, Error *err);
void ckpt_manifest_release(CkptManifest *m);
const CkptTensor *ckpt_manifest_find(const CkptManifest *m, CkptKind kind, const char *name);      /* NULL when absent */

typedef struct Ckpt Ckpt;
/* dir: .../step-00001200. Manifest, VERIFIED if it is there, and sizes are checked, blocks are not. */
bool ckpt_open(Ckpt **out, const char *dir, Error *err);
void ckpt_close(Ckpt *c);                                   /* NULL is fine */
const CkptManifest *ckpt_manifest(const Ckpt *c);
const char *ckpt_dir(const Ckpt *c);
bool ckpt_verified(const Ckpt *c);                          /* has it a VERIFIED? */
bool ckpt_check(const Ckpt *c, bool past_cache, Error *err);    /* every block of every file */
/* The box `want` of tensor t, row-major; reads the blocks it needs and checks them. */
bool ckpt_read_box(Ckpt *c, const CkptTensor *t, const Box *want, void *out, Error *err);
/* Fills the pieces' tensors. Names, shapes and dtypes are looked at before anything is stored. exact: the checkpoint holds no
 * tensor that no piece names. */
bool ckpt_load(Ckpt *c, Backend *be, const CkptPiece *piece, int n, bool exact, Error *err);

/* Folders step-* of a state folder, newest first; io_free_list. None is no error. */
bool ckpt_list(char ***names, int *n, const char *state_dir, Error *err);
/* Deletes all but every n-th and the best; what that leaves empty goes, too. */
bool ckpt_finish(const char *state_dir, int64_t keep_every, bool keep_best, Error *err);
/* The newest whose every block is as it was written; *out NULL: there is none. What is damaged or belongs to another run
 * (run NULL: any will do) is renamed to bad.* and said. */
bool ckpt_newest(Ckpt **out, const char *state_dir, const char *run, Log *log, Error *err);

/* Another cut of the same state, in a new folder beside nothing: `out` becomes a checkpoint of n shards, each tensor cut along
 * dimension dim (0: rows, 1: columns). */
bool ckpt_reshard(Ckpt *c, const char *out, int n, int dim, Error *err);

#endif
