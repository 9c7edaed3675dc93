/* text/chars.h — characters of UTF-8 and what kind they are. */
#ifndef DIKAST_TEXT_CHARS_H
#define DIKAST_TEXT_CHARS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- UTF-8 ---- */
/* Length of the well-formed character at p, n > 0 bytes long (no surrogates, no overlong forms); 0: there is none. */
size_t utf8_char(const unsigned char *p, size_t n, uint32_t *c);
uint32_t utf8_at(const char *s, size_t *len);           /* of text that is well-formed */
size_t utf8_before(const char *s, size_t at);           /* where the character before `at` > 0 begins, in well-formed text */
size_t utf8_write(char to[4], uint32_t c);
size_t utf8_stretch(const char *s, size_t n, bool *wide); /* well-formed bytes from s; *wide: see split.c; may be NULL */

/* ---- char_class.c, char_more.c: classes of code points ---- */
typedef enum { CHAR_OTHER, CHAR_LETTER, CHAR_NUMBER, CHAR_BLANK } CharClass;    /* none; \p{L}; \p{N}; \p{White_Space} */
typedef struct { uint32_t first, last; } CharRange;                             /* tables of them ascend */
bool char_in(const CharRange *r, int n, uint32_t c);
enum { CHAR_NEAR = 1 << 16 };
typedef struct { unsigned char near[CHAR_NEAR]; } CharTable;                    /* CharClass of the first plane */
void char_table_fill(CharTable *t);
CharClass char_class_far(uint32_t c);                                           /* c >= CHAR_NEAR */
CharClass char_class(uint32_t c);                                               /* slower than the table */
static inline bool char_is_blank(uint32_t c) {
    return c < 0x80 ? c == ' ' || (c >= 9 && c <= 13) : char_class(c) == CHAR_BLANK;
}
bool char_is_numeric(uint32_t c);                                               /* of Unicode 17 */
bool char_is_word(uint32_t c);                                                  /* letters, marks, digits, connectors ... */
bool char_is_punctuation(uint32_t c);
bool char_is_accent(uint32_t c);                                                /* what StripAccents takes away */
bool char_is_young(uint32_t c);         /* assigned too late for the normalization of `tokenizers`, which lets it be */
int char_lower(uint32_t c, uint32_t to[2]);                                     /* how many characters */

#endif
