/* text/tokenizer.h — BPE tokenizers as Hugging Face's tokenizer.json describes them. Immutable after open and shared
 * between threads.
 *
 *   text ── added tokens cut out ── normalizers ── pre-tokenizers ── pieces ── BPE ── ids ── decoders ── text
 *
 * Two styles. Byte-level (GPT-2, Llama 3, Qwen, o200k): tokens are bytes; without normalizers and prefix spaces any byte
 * string encodes and decode(encode(s)) == s byte for byte (tokenizer_is_exact), and that is what we train ourselves.
 * Characters with byte fallback (SentencePiece: Llama 2, Mistral). Ids are those of the `tokenizers` library, whatever the
 * components; a component, a behaviour or a flag we do not carry out exactly is refused by name.
 *
 * Bytes that are not UTF-8 are cut out like an added token, each by itself: a byte becomes its token (<0xNN> in the second
 * style), else the unknown token, else nothing. Decoding gives raw bytes where the library writes U+FFFD.
 *
 * Special tokens are ids from special(); text that spells one becomes plain tokens unless EncodeOpts asks for the opposite.
 * (One special token may still come from text: the unknown token, of characters the vocabulary lacks.) */
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
/* A tokenizer.json, or a folder that holds one. Others (tokenizer.model, vocab.json + merges.txt) are refused with advice. */
bool tokenizer_open(Tokenizer **out, const char *path, Error *err);
bool tokenizer_parse(Tokenizer **out, const char *json, size_t n, const char *name, Error *err);   /* the fuzz entry */
void tokenizer_close(Tokenizer *t);
int tokenizer_n_vocab(const Tokenizer *t);                              /* largest id + 1 */
size_t tokenizer_most_bytes(const Tokenizer *t);                        /* longest text that can be encoded at once */
bool tokenizer_is_exact(const Tokenizer *t);                            /* decode(encode(s)) == s for every byte string s */
void tokenizer_encode(const Tokenizer *t, const char *s, size_t n, TokBuf *out);    /* appends; never a special id */

/* How a text is read. Zeroed is tokenizer_encode. */
typedef struct { uint32_t from, to; } ByteSpan;                         /* bytes [from, to) of a text */
typedef struct { ByteSpan *at; int n, cap; } SpanBuf;                   /* zeroed is valid and empty */
void spanbuf_release(SpanBuf *b);
typedef struct {
    bool special;           /* text that spells a special token becomes it, as in a rendered chat template ... */
    const ByteSpan *plain;  /* (n_plain) ... but for matches that touch these stretches (ascending): what users wrote */
    int n_plain;
    bool around;            /* put what the file's post_processor puts around a text: BOS, EOS */
} EncodeOpts;

/* One thread's encoder of many texts: it remembers the pieces it has met (at most about 8 MB), so the second text costs less
 * than the first. The ids are those of tokenizer_encode. It borrows the tokenizer. */
typedef struct Encoder Encoder;
Encoder *encoder_open(const Tokenizer *t);
const Tokenizer *encoder_tokenizer(const Encoder *e);
void encoder_encode(Encoder *e, const char *s, size_t n, TokBuf *out);              /* appends */
/* spans, if not NULL: appends for each id the bytes of s it stands for. Tokens inside a character have their own bytes.
 * Ids put around the text have an empty span at its beginning or end; of what a normalizer changed, a token has the place
 * that `tokenizers` gives, which may leave gaps. */
void encoder_encode_opts(Encoder *e, const char *s, size_t n, const EncodeOpts *o, TokBuf *out, SpanBuf *spans);
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
/* Of a text in parts: appends what ids [from, n) add to the text of ids [0, from). */
void tokenizer_decode_more(const Tokenizer *t, const int32_t *id, int from, int n, bool keep_special, Str *out);
int32_t tokenizer_special(const Tokenizer *t, const char *spelling);    /* -1 when there is none */
bool tokenizer_is_special(const Tokenizer *t, int32_t id);

/* ---- what a tokenizer is made of: for writers of other formats ---- */
typedef enum { ROLE_TOKEN_ABSENT, ROLE_TOKEN_NORMAL, ROLE_TOKEN_UNKNOWN, ROLE_TOKEN_CONTROL, ROLE_TOKEN_USER, ROLE_TOKEN_BYTE } TokenRole;
TokenRole tokenizer_role(const Tokenizer *t, int32_t id);
void tokenizer_spelling(const Tokenizer *t, int32_t id, Str *out);      /* appends it as the file spells it */
int32_t tokenizer_id(const Tokenizer *t, const char *spelling);         /* the inverse; -1: none */
bool tokenizer_is_byte_level(const Tokenizer *t);
bool tokenizer_adds_prefix(const Tokenizer *t);                         /* a space before the text, in either spelling */
bool tokenizer_normalizes(const Tokenizer *t);                          /* NFC and the like: more than white space to U+2581 */
const char *tokenizer_pattern(const Tokenizer *t);  /* of a byte-level one whose text is cut by one pattern, verbatim; NULL */
int tokenizer_n_merge(const Tokenizer *t);
void tokenizer_merges(const Tokenizer *t, int32_t (*pair)[2]);          /* (n_merge) pairs of ids by rank */
void tokenizer_around(const Tokenizer *t, TokBuf *before, TokBuf *after); /* appends what EncodeOpts.around puts */

/* Appends a tokenizer.json that reads back as the same tokenizer, here and in `tokenizers`. */
void tokenizer_write(const Tokenizer *t, Str *json);
/* A copy with further special tokens, which take the ids behind the last one; those it has already stay. */
bool tokenizer_with_special(Tokenizer **out, const Tokenizer *t, const char *const *spelling, int n, Error *err);

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
