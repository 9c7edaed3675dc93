/* text/text_int.h — what the tokenizer's files share; nobody outside src/text includes it.
 *
 *   text ── added tokens cut out ── stretches of valid UTF-8 | single invalid bytes ── pieces ── known? ── BPE ── ids
 *           encode.c                split.c                       split_known.c or regex   encode.c   bpe.c */
#ifndef DIKAST_TEXT_TEXT_INT_H
#define DIKAST_TEXT_TEXT_INT_H

#include "text/tokenizer.h"

/* ---- byte alphabet: each byte as one printable character, so that any byte string is text to JSON and to BPE ---- */
uint32_t alphabet_char(unsigned char byte);
int alphabet_byte(uint32_t c);                         /* -1: not of the alphabet */
void alphabet_put(Str *out, const char *s, size_t n);  /* bytes, spelled */
bool alphabet_read(Str *out, const char *s, size_t n); /* the inverse, appended; false leaves *out as it was */

/* ---- char_class.c: classes of code points ---- */
typedef enum { CHAR_OTHER, CHAR_LETTER, CHAR_NUMBER, CHAR_BLANK } CharClass;    /* none; \p{L}; \p{N}; \p{White_Space} */
enum { CHAR_NEAR = 1 << 16 };
typedef struct { unsigned char near[CHAR_NEAR]; } CharTable;                    /* CharClass of the first plane */
void char_table_fill(CharTable *t);
CharClass char_class_far(uint32_t c);                                           /* c >= CHAR_NEAR */

/* ---- split.c, split_known.c: pieces of a text ---- */
#define SPLIT_TEXT_GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define SPLIT_TEXT_LLAMA(count)                                                                                        \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" count                                           \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
extern const char *const split_pattern[2]; /* by SplitPattern, verbatim as published */

typedef enum { SPLIT_BY_REGEX, SPLIT_BY_GPT2, SPLIT_BY_LLAMA3, SPLIT_BY_QWEN2 } SplitKnown;
SplitKnown split_known(const char *pattern, size_t n);      /* SPLIT_BY_REGEX: none of those we read by hand */
/* Lengths of the first pieces of s[0..n), n > 0, which is well-formed UTF-8; returns how many, at most max. */
int split_known_pieces(const CharTable *t, SplitKnown known, const char *s, size_t n, size_t *len, int max);

typedef struct Splitter Splitter; /* compiled patterns; immutable, shared between threads */
bool splitter_open(Splitter **out, const char *pattern, size_t n, Error *err);
bool splitter_open_regex(Splitter **out, const char *pattern, size_t n, Error *err);    /* PCRE2 whatever the pattern */
void splitter_close(Splitter *s);

/* One walk over texts. Every byte of a text lies in exactly one piece; a gap between two matches is a piece too. */
typedef struct {
    const Splitter *split;
    void *match; /* pcre2 match data: this walk's own; NULL where none is needed */
    const char *s;
    size_t n, at;            /* the text; what has been handed out */
    size_t stretch, end;     /* the valid stretch around at */
    size_t match_s, match_e; /* found and not yet handed out when match_e > at */
    size_t search;           /* where the next search begins */
    bool wide, dry;          /* the stretch needs the wide pattern; it holds no further match */
} PieceWalk;
enum { PIECES = 64 };
void pieces_open(PieceWalk *w, const Splitter *split);
void pieces_text(PieceWalk *w, const char *s, size_t n);
/* The next pieces, which follow one another: *first is where they begin. Returns how many; 0: the text is at its end. */
int pieces_next(PieceWalk *w, const char **first, size_t len[PIECES]);
void pieces_close(PieceWalk *w);

/* ---- bpe.c: merging ---- */
enum { MERGE_RANKS = 1 << 24 };
typedef struct {
    uint64_t key;
    int32_t rank, id;
} MergeSlot; /* key: left id << 32 | right id; UINT64_MAX: free */
/* Most pairs asked for are no merges; `seen`, a set of hashes with 16 bits a merge, says so for nearly all of them. */
typedef struct {
    MergeSlot *slot;
    uint64_t mask;
    uint64_t *seen;
    uint64_t seen_mask; /* bits - 1 */
} MergeMap;
void merge_map_init(MergeMap *m, int n_expected);
void merge_map_put(MergeMap *m, int32_t left, int32_t right, int32_t rank,
                   int32_t id);                                                 /* the last put of a pair holds */
void merge_map_release(MergeMap *m);

typedef enum {
    TOKEN_ABSENT,
    TOKEN_PLAIN,
    TOKEN_RAW, /* spelled outside the byte alphabet: decodes as it stands, text never becomes it */
    TOKEN_ADDED,
    TOKEN_SPECIAL,
} TokenKind;
typedef struct {
    const char *s;
    uint32_t n;
    int32_t id;
    bool normalized;
} AddedToken;

enum { TOKEN_PAD = 16 };
struct Tokenizer {
    Splitter *split;
    MergeMap merge;
    int n_vocab;
    int32_t byte_id[256];
    unsigned char *kind;   /* (n_vocab) TokenKind */
    uint32_t *start, *len; /* (n_vocab) what a token decodes to: bytes.s[start .. start+len) */
    uint32_t most_len;     /* the longest */
    Str bytes;             /* TOKEN_PAD more can be read behind each */
    bool ignore_merges; /* a piece that is a token is that token, whatever the merges say */
    int32_t *whole;     /* hash table of the tokens text may become, by bytes; -1 free; NULL without ignore_merges */
    uint64_t whole_mask;
    AddedToken *added; /* TOKEN_ADDED, longest first: text does become these */
    int n_added;
    bool added_first[256]; /* some added token starts with this byte */
};

uint64_t bytes_hash(const char *s, size_t n);
int32_t whole_find(const Tokenizer *t, const char *s, size_t n); /* -1: none */
void whole_build(Tokenizer *t);

typedef struct { void *buf; size_t cap; } BpeScratch; /* of long pieces; zeroed is empty */
void bpe_scratch_release(BpeScratch *b);
void bpe_piece(const Tokenizer *t, BpeScratch *b, const char *s, size_t n, TokBuf *out); /* n >= 1 */

/* ---- tokenizer_json.c: writing ---- */
typedef struct {
    SplitPattern split;
    const char *const *special;
    int n_special;
    const char *const *token; /* (n_token) the spelling of id n_special + i, in the byte alphabet */
    int n_token;
    const int32_t (*merge)[2]; /* (n_merge) pairs of ids, by rank */
    int n_merge;
} TokenizerSpec;
void tokenizer_spec_write(Str *out, const TokenizerSpec *spec);

#endif
