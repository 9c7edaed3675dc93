/* text/text_int.h — what the tokenizer's files share; nobody outside src/text includes it.
 *
 *   text ── stretches of UTF-8 | invalid bytes ── added tokens ── normalizers ── added tokens ── pieces ── known? ── BPE
 *           encode_text.c                         added.c         normalize.c    added.c         pieces.c  encode.c  bpe.c
 *
 * A byte-level tokenizer whose pieces are cut by one pattern and whose text is not changed takes the short way: split.c finds
 * invalid bytes and pieces in one walk, encode.c looks them up. */
#ifndef DIKAST_TEXT_TEXT_INT_H
#define DIKAST_TEXT_TEXT_INT_H

#include "base/json.h"
#include "text/chars.h"
#include "text/tokenizer.h"

/* ---- byte alphabet: each byte as one printable character, so that any byte string is text to JSON and to BPE ---- */
uint32_t alphabet_char(unsigned char byte);
int alphabet_byte(uint32_t c);                         /* -1: not of the alphabet */
void alphabet_put(Str *out, const char *s, size_t n);  /* bytes, spelled */
bool alphabet_read(Str *out, const char *s, size_t n); /* the inverse, appended; false leaves *out as it was */

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

/* A pattern written for Oniguruma, for PCRE2; wide: with the code points that are newer than its tables. */
bool pattern_rewrite(Str *out, const char *pattern, size_t n, bool wide, Error *err);
bool char_is_drift(uint32_t c); /* one of those */

typedef struct Splitter Splitter; /* compiled patterns; immutable, shared between threads */
bool splitter_open(Splitter **out, const char *pattern, size_t n, Error *err);
bool splitter_open_regex(Splitter **out, const char *pattern, size_t n, Error *err);    /* PCRE2 whatever the pattern */
void splitter_close(Splitter *s);
const char *splitter_pattern(const Splitter *s);                                        /* as given */

/* Every match of a pattern in s[0..n), n > 0, and every stretch between two, in order; empty matches too. *match_data is
 * the caller's, NULL at first; wide: the text may hold new code points (text_is_wide). */
typedef struct { uint32_t at, end; bool match; } Match;
typedef struct { Match *m; int n, cap; } MatchBuf;
void matches_put(MatchBuf *b, size_t at, size_t end, bool match);
void splitter_matches(MatchBuf *out, const Splitter *s, void **match_data, const char *text, size_t n, bool wide);
void match_data_free(void *match_data);
bool text_is_wide(const char *s, size_t n);

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

/* ---- what a file declares ---- */
typedef struct {                /* what Split and Replace look for: one of the two */
    Splitter *regex;
    char *literal;
    size_t n;
} Finder;
void finder_release(Finder *f);

typedef enum {
    FORM_NFC, FORM_NFD, FORM_NFKC, FORM_NFKD, FORM_LOWERCASE, FORM_STRIP, FORM_STRIP_ACCENTS, FORM_NMT, FORM_BYTE_LEVEL,
    FORM_PREPEND, FORM_REPLACE,
} FormKind;
typedef struct { FormKind kind; bool left, right; Finder find; Str text; } FormStep;   /* a normalizer */

typedef enum { CUT_REMOVED, CUT_ISOLATED, CUT_WITH_PREVIOUS, CUT_WITH_NEXT, CUT_CONTIGUOUS } CutBehavior;
typedef enum { PREFIX_NEVER, PREFIX_FIRST, PREFIX_ALWAYS } PrefixScheme;
typedef enum {
    PRE_SPLIT, PRE_BYTE_LEVEL, PRE_METASPACE, PRE_DIGITS, PRE_PUNCTUATION, PRE_WHITESPACE, PRE_WHITESPACE_SPLIT,
    PRE_CHAR_DELIMITER, PRE_FIXED_LENGTH,
} PreKind;
typedef struct {                /* a pre-tokenizer */
    PreKind kind;
    CutBehavior behavior;
    bool invert, split, regex;  /* split: Metaspace cuts; regex: ByteLevel cuts by GPT-2's pattern, which is `find` */
    PrefixScheme prefix;
    Finder find;
    uint32_t c;                 /* of Metaspace and CharDelimiterSplit */
    int length;                 /* of FixedLength */
} PreStep;

typedef enum { DECODE_REPLACE, DECODE_BYTE_LEVEL, DECODE_BYTE_FALLBACK, DECODE_FUSE, DECODE_STRIP, DECODE_METASPACE } DecodeKind;
typedef struct { DecodeKind kind; Finder find; Str text; uint32_t c; int start, stop; bool drop_first; } DecodeStep;

enum { MAX_STEPS = 32, MAX_GROWTH = 256 };  /* steps of a component; how many times longer normalizers may make a text */
typedef enum { PART_NORMALIZER, PART_PRE_TOKENIZER, PART_POST_PROCESSOR, PART_DECODER, PART_COUNT } Part;

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
    TOKEN_RAW, /* byte-level, but spelled outside the byte alphabet: decodes as it stands, text never becomes it */
    TOKEN_ADDED,
    TOKEN_SPECIAL,
} TokenKind;
typedef struct {
    const char *s, *norm; /* as spelled; as the normalizers make it, the same pointer if they do not change it */
    uint32_t n, n_norm;
    int32_t id;
    bool single_word, lstrip, rstrip, normalized, special, in_vocab;
} AddedToken;
/* The added tokens that are looked for in one round: a trie over bytes. */
typedef struct {
    uint64_t *edge; /* hash table: node << 8 | byte; UINT64_MAX: free */
    int32_t *to;
    uint64_t mask;
    int32_t *end; /* (n_node) index in added[] of the token that ends there, -1 */
    int n_node;
    bool first[256]; /* some token starts with this byte */
    int only_first;  /* all tokens do; -1: not all with the same */
} AddedTrie;
bool added_tries_build(Tokenizer *t, Error *err);
const AddedToken *added_by_id(const Tokenizer *t, int32_t id);
void added_trie_release(AddedTrie *trie);
typedef struct { size_t at, end; int index; } AddedMatch;
/* The leftmost match at or behind `from`, the longest there. */
bool added_find(AddedMatch *m, const AddedTrie *trie, const char *s, size_t n, size_t from);

enum { TOKEN_PAD = 16 };
struct Tokenizer {
    Splitter *split;       /* the short way's; NULL: pieces are cut by pre[] */
    FormStep *form;
    PreStep *pre;
    DecodeStep *decode;
    int n_form, n_pre, n_decode;
    bool has_decoder;      /* without one, tokens are joined by spaces */
    bool decode_bytes;     /* the decoder is ByteLevel: ids become bytes by look-up */
    bool short_way;        /* text is not changed and cut by `split` */
    bool exact;            /* decoding inverts encoding */
    bool needs_places;     /* pieces depend on where in the text a changed one stands */
    bool byte_level;       /* symbols are bytes, else characters */
    bool all_bytes;        /* byte_id has no hole */
    size_t growth;         /* how many times longer a text can become on its way */
    int32_t *before, *after; /* what goes around a text */
    int n_before, n_after;
    Str part[PART_COUNT];  /* the components as JSON; empty: null */

    MergeMap merge;
    struct SpecialParts { int32_t id, left, right; } *parts; /* by id: special tokens that merging leads to, of the first merge */
    int n_parts;
    int n_vocab, n_merge, n_rank;
    int32_t byte_id[256];   /* byte-level: of a byte, else of an ASCII character; -1: none */
    int32_t fallback[256];  /* <0xNN>, -1 */
    int32_t unk;
    bool fuse_unk, byte_fallback;
    bool ignore_merges;     /* a piece that is a token is that token, whatever the merges say */
    unsigned char *kind;    /* (n_vocab) TokenKind */
    uint32_t *start, *len;  /* (n_vocab) where in `bytes` is what a token decodes to, or its spelling (see decode_bytes) */
    uint32_t *vocab_start, *vocab_len; /* what the pieces are compared with; nearly always the same arrays */
    uint32_t most_len;      /* the longest */
    Str bytes;              /* TOKEN_PAD more can be read behind each */
    int32_t *whole;         /* hash table of model.vocab by bytes (without TOKEN_RAW); -1 free; NULL if not needed */
    uint64_t whole_mask;
    bool cut_space;         /* no merge leads across the beginning of U+2581 behind another character but cut_not's */
    uint32_t *cut_not;
    int n_cut_not;
    AddedToken *added;      /* by id */
    Str names;              /* their spellings */
    int n_added, n_added_plain; /* n_added_plain: not special */
    int32_t next_id;        /* what another added token would get */
    bool modes_differ;      /* a piece's ids can depend on EncodeOpts.special */
    AddedTrie trie[2];      /* looked for in the text; in the normalized text */
};

uint64_t bytes_hash(const char *s, size_t n);
int32_t whole_find(const Tokenizer *t, const char *s, size_t n); /* -1: none */
void whole_build(Tokenizer *t);

/* Of long pieces, and of pieces whose symbols are characters; zeroed is empty. special: pieces may become special tokens. */
typedef struct {
    void *buf;
    size_t cap;
    int32_t *id;
    ByteSpan *at;
    int cap_symbol;
    bool special;
} BpeScratch;
void bpe_scratch_release(BpeScratch *b);
/* n >= 1. spans, if not NULL: appends which bytes of s each id stands for. */
void bpe_piece(const Tokenizer *t, BpeScratch *b, const char *s, size_t n, TokBuf *out, SpanBuf *spans);

/* ---- normalize.c ---- */
/* A part of a text on its way. from and to say where in the whole text each byte comes from; NULL: byte i is byte base + i. */
typedef struct {
    const char *s;
    size_t n;
    const uint32_t *from, *to;
    uint32_t base;
} View;
View view_part(const View *v, size_t at, size_t end);
ByteSpan view_span(const View *v, size_t at, size_t end);   /* at < end */
typedef struct { Str text; uint32_t *from, *to; size_t cap; bool keep; } Built; /* keep: where bytes come from, too */
void built_clear(Built *b, bool keep);
void built_put(Built *b, const void *s, size_t n, ByteSpan at);         /* each byte comes from `at` */
void built_copy(Built *b, const View *v, size_t at, size_t end);
View built_view(const Built *b, uint32_t base);
void built_release(Built *b);
typedef struct { Built built[2]; MatchBuf match; void *match_data; void *changes; size_t cap_changes; } Normal;    /* scratch; zeroed is empty */
/* v, which is UTF-8 and not empty, as the normalizers leave it: itself, or a view of n's memory. */
View normalize(const FormStep *form, int n_form, Normal *n, View v, bool keep);
size_t form_growth(const FormStep *f);  /* how many times longer it can make a text */
void normal_release(Normal *n);

/* ---- pieces.c: the pre-tokenizers but for the short way ---- */
typedef struct { uint32_t at, end; } Piece;
typedef struct { Piece *p; int n, cap; } PieceBuf;
typedef struct {
    Built built[2];
    PieceBuf piece, next;
    MatchBuf match;
    void *match_data;
    Str spelled;
    int wide; /* -1: nobody has asked yet */
} Cutter; /* scratch; zeroed is empty */
/* Cuts v into c->piece; they lie in the view returned. */
View cut_pieces(const Tokenizer *t, Cutter *c, View v, bool keep);
void finder_matches(MatchBuf *out, const Finder *f, void **match_data, const char *s, size_t n, bool wide);
void cutter_release(Cutter *c);

/* ---- encode.c, encode_text.c ---- */
typedef struct {
    struct MemoSlot *slot; /* in `block`, aligned so that none crosses a cache line */
    void *block;
    uint64_t mask;
    uint64_t n;
    Str bytes;
    TokBuf ids;
    bool special; /* the ids are those of EncodeOpts.special */
} Memo;
struct Encoder {
    const Tokenizer *t;
    PieceWalk walk;
    BpeScratch scratch;
    Memo memo;
    Normal normal;
    Cutter cutter;
    const EncodeOpts *opts; /* of the call */
    SpanBuf *spans;
    SpanBuf piece_spans;
};
void encode_plain(Encoder *e, const View *v, TokBuf *out);      /* the short way */
void encode_cut(Encoder *e, const View *v, const PieceBuf *pieces, TokBuf *out);
void encode_text(Encoder *e, const char *s, size_t n, TokBuf *out);
void spanbuf_put(SpanBuf *b, ByteSpan at);

/* ---- tokenizer.c, decode.c ---- */
void decode_by_table(const Tokenizer *t, const int32_t *id, int n, bool keep_special, Str *out);
int fallback_byte(const char *s, size_t n);             /* the byte of "<0xNN>", -1: it is not spelled so */

/* ---- tokenizer_parts.c: the components of a file ---- */
bool parts_read(Tokenizer *t, const Json *root, Error *err);
void parts_release(Tokenizer *t);
size_t replace_growth(const Finder *find, const Str *text);
bool only_keys(const Json *obj, const char *where, const char *const *known, Error *err); /* NULL-terminated */
bool json_absent(const Json *j);                        /* missing or null */
bool json_flag(const Json *j, bool value);              /* it is this one of true and false */

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
