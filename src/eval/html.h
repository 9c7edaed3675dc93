/* eval/html.h — pieces of a page: escaped text, numbers as people read them, tables. The markup is HTML that is
 * well-formed XML too, so that a strict parser can check it. Whatever a string holds, it cannot leave the element it is
 * put into. */
#ifndef DIKAST_EVAL_HTML_H
#define DIKAST_EVAL_HTML_H

#include "base/str.h"

/* Escapes markup; what XML cannot hold (control characters, stray bytes, non-characters) becomes U+FFFD. NULL: nothing.
 */
void html_text(Str *out, const char *s);
void html_textf(Str *out, const char *fmt, ...) FORMAT(2, 3); /* formatted, then escaped */

/* Not finite: an en dash. */
void html_percent(Str *out, double share);        /* 0.475 -> 47.5 % */
void html_number(Str *out, double v);             /* three or four digits: 0.0123, 1.349, 12.83; large ones as counts */
void html_count(Str *out, double v);              /* 446,496 */
void html_signed(Str *out, double v, int digits); /* +3.1, −41.5, with a true minus sign */

/* Up to <body>: title, style sheet with classes for everything here and in svg.h. Contrast: text at least 4.5:1, lines of
 * charts at least 3:1, on the light and the dark background. */
void html_begin(Str *out, const char *title);
void html_section(Str *out, const char *id, const char *title); /* opens <section> with its heading */
/* A text as a paragraph; hide: blurred until its checkbox, a click on it, lifts the veil. Needs no script. */
void html_veil(Str *out, const char *text, bool hide);

/* A table in a box that scrolls sideways on narrow screens. head: n column titles, the first over the row titles; a
 * title that begins with # stands over numbers (the # is not shown). */
void html_table(Str *out, const char *caption, const char *const *head, int n);
void html_table_end(Str *out);
void html_row(Str *out, const char *head); /* opens a row with its title; html_row_end closes it */
void html_row_end(Str *out);
void html_cell(Str *out, const char *text); /* text, left */
void html_cell_count(Str *out, double v);   /* numbers, right */
void html_cell_percent(Str *out, double v);
void html_cell_number(Str *out, double v);

#endif
