/* text/tokenizer.h — byte-level BPE as Hugging Face's tokenizer.json describes it. Immutable after open and shared between
 * threads. Any byte string encodes, and decode(encode(s)) == s byte for byte, invalid UTF-8 included (such bytes become
 * single-byte pieces). Special tokens are ids from special(); text that spells one becomes plain tokens.
 *
 * Supported: BPE model, ByteLevel pre-tokenizer or Sequence[Split(Regex, Isolated), ByteLevel(use_regex false)] with the
 * GPT-2 or Llama-3 pattern or any other PCRE2 compiles, ignore_merges, ByteLevel decoder, added tokens. Everything else is
 * refused by name. */
#ifndef DIKAST_TEXT_TOKENIZER_H
#define DIKAST_TEXT_TOKENIZER_H

#include "base/error.h"
#include "base/pool.h"
#include "base/str.h"

typedef struct { int32_t *id; int n, cap; } TokBuf;     /* zeroed is valid and empty */
void tokbuf_put(TokBuf *b, int32_t id);
void tokbuf_putn(TokBuf *b, const int32_t *id, int n);
void tokbuf_room(TokBuf *b, int more);                  /* so that id[n .. n+more) can be written */
void tokbuf_release(TokBuf *b);

typedef struct Tokenizer Tokenizer;
bool tokenizer_open(Tokenizer **out, const char *path, Error *err);     /* a tokenizer.json, or a folder that holds one */
bool tokenizer_parse(Tokenizer **out, const char *json, size_t n, const char *name, Error *err);   /* the fuzz entry */
void tokenizer_close(Tokenizer *t);
int tokenizer_n_vocab(const Tokenizer *t);                              /* largest id + 1 */
void tokenizer_encode(const Tokenizer *t, const char *s, size_t n, TokBuf *out);    /* appends; never a special id */

/* One thread's encoder of many texts: it remembers the pieces it has met (at most about 8 MB), so the second text costs less
 * than the first. The ids are those of tokenizer_encode. It borrows the tokenizer. */
typedef struct Encoder Encoder;
Encoder *encoder_open(const Tokenizer *t);
const Tokenizer *encoder_tokenizer(const Encoder *e);
void encoder_encode(Encoder *e, const char *s, size_t n, TokBuf *out);              /* appends */
void encoder_close(Encoder *e);

/* Texts 0..n_text-1 encoded by the threads of a pool, which call text() at the same time; ids do not depend on their number.
 * What texts_ids points to holds until the next texts_encode. */
typedef struct TextsEncoder TextsEncoder;
typedef const char *TextAt(void *ud, int64_t i, size_t *n);
TextsEncoder *texts_encoder_open(const Tokenizer *t, Pool *pool);                   /* borrows both */
void texts_encode(TextsEncoder *e, TextAt *text, void *ud, int64_t n_text);
const int32_t *texts_ids(const TextsEncoder *e, int64_t i, int *n);
void texts_encoder_close(TextsEncoder *e);

/* Appends bytes. Special tokens are written by their spelling when keep_special, else skipped; ids out of range skipped. */
void tokenizer_decode(const Tokenizer *t, const int32_t *id, int n, bool keep_special, Str *out);
int32_t tokenizer_special(const Tokenizer *t, const char *spelling);    /* -1 when there is none */
bool tokenizer_is_special(const Tokenizer *t, int32_t id);

typedef enum { SPLIT_GPT2, SPLIT_LLAMA3 } SplitPattern;
typedef struct {
    int n_vocab;                    /* wanted size: 256 bytes + specials + merges; fewer if the text runs out of pairs */
    SplitPattern split;
    const char *const *special;     /* these take ids 0.. in this order */
    int n_special;
    int min_count;                  /* pairs seen less often are not merged; 2 as HF's default 0..: see .c */
} BpeTrainParams;
/* Trains on text[0..n) (documents given one after another by next(); NULL ends) and appends a tokenizer.json to *json. Ties
 * between equally frequent pairs: as Hugging Face's trainer (lower ids first), so equal input gives its merges. */
typedef const char *BpeTextFn(void *ud, size_t *n);
bool bpe_train(Str *json, const BpeTrainParams *p, BpeTextFn *next, void *ud, Error *err);

#endif
