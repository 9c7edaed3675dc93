/* text/jinja.h — the template language of chat templates, sandboxed.
 *
 * Renders what transformers' apply_chat_template renders (jinja2 3.1, ImmutableSandboxedEnvironment, trim_blocks and
 * lstrip_blocks on, loop controls, {% generation %}), byte for byte, from data alone: a template sees the values it is
 * given and the functions listed in jinja_call.c; it changes nothing outside a namespace() of its own, and it ends: steps,
 * recursion, output and memory are bounded.
 *
 * Errors have a class, as in the reference: syntax (the template is not one), runtime (it did something undefined or not
 * allowed here), raised (it called raise_exception; message is its text). line is the template's, from 1; 0: unknown. */
#ifndef DIKAST_TEXT_JINJA_H
#define DIKAST_TEXT_JINJA_H

#include "base/error.h"
#include "base/json.h"
#include "base/str.h"

enum {
    JINJA_MAX_SOURCE = 256 << 10,   /* bytes */
    JINJA_MAX_OUTPUT = 16 << 20,    /* bytes */
    JINJA_MAX_STEPS = 1000000,      /* nodes evaluated, items visited, 64-byte stretches of text made */
    JINJA_MAX_CALLS = 64,           /* macros and recursive loops inside one another */
    JINJA_MAX_RANGE = 100000,       /* numbers in a range() */
};

typedef enum { JINJA_OK, JINJA_SYNTAX, JINJA_RUNTIME, JINJA_RAISED } JinjaClass;
typedef struct { JinjaClass cls; int line; Str message; } JinjaError;   /* zeroed is "none"; released by its owner */
const char *jinja_class_name(JinjaClass c);                             /* "ok", "syntax", "runtime", "raised" */
void jinja_error_release(JinjaError *e);

typedef struct JinjaTemplate JinjaTemplate;     /* parsed; immutable, shared between threads */
bool jinja_parse(JinjaTemplate **out, const char *source, size_t n, JinjaError *err);
void jinja_close(JinjaTemplate *t);             /* NULL is fine */
bool jinja_has_generation(const JinjaTemplate *t);  /* it holds a {% generation %} block */

typedef struct { const char *name; const Json *value; } JinjaVar;
typedef struct {
    const Json *messages;       /* an array of objects */
    const Json *tools;          /* an array, or NULL: none */
    const Json *documents;      /* as tools */
    const JinjaVar *var;        /* bos_token, enable_thinking, ... */
    int n_var;
    bool add_generation_prompt;
    bool keep_nulls;            /* else keys of messages whose value is null are left out, as apply_chat_template does */
    int64_t now_s;              /* what strftime_now() takes for now: seconds since 1970, UTC */
} JinjaChat;

typedef struct { int64_t begin, end; } JinjaSpan;                       /* [begin, end) in code points of the text */
typedef struct { Str text; JinjaSpan *span; int n_span; } JinjaOut;     /* zeroed is empty */
/* Replaces *out. On false *out is empty and *err filled. */
bool jinja_render(const JinjaTemplate *t, const JinjaChat *chat, JinjaOut *out, JinjaError *err);
void jinja_out_release(JinjaOut *o);

#endif
