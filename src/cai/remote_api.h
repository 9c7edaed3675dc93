/* cai/remote_api.h — the two dialects of judge services, as text: what is sent, and what the answer means. No network.
 *
 *   openai     POST …/chat/completions   log-probs of the option tokens when the service gives them, else the letter
 *   anthropic  POST …/messages           the letter; several votes make it soft
 *
 * The judge reads plain text: every line of the request and of the replies is quoted with "> ", so no reply can pretend that
 * it has ended. A body depends on nothing but the configuration and the item: it names its answer in the cache. */
#ifndef DIKAST_CAI_REMOTE_API_H
#define DIKAST_CAI_REMOTE_API_H

#include "base/json.h"
#include "cai/judge.h"

typedef enum { API_OPENAI, API_ANTHROPIC } RemoteApi;
/* temperature below 0 is not sent. logprobs: asked for, in the openai dialect. */
typedef struct { RemoteApi api; const char *model; double temperature; int64_t max_tokens; bool logprobs; } RequestForm;

/* Replaces *out by the address to post to: the dialect's path, unless url ends in it; "/v1" before it, unless url ends in that. */
void request_url(Str *out, RemoteApi api, const char *url);
/* NULL when url may be written down and used with a key: http or https, a host, no user, password, query or fragment; plain
 * http with a key only to this machine. Else what is wrong. */
const char *request_url_refused(const char *url, bool with_key);
/* The question as the judge reads it; swapped: b is shown first. */
void request_text(Str *out, const JudgeItem *it, bool swapped, bool remind);
/* remind: after an answer that was none; the question ends with a plain word on what is wanted. */
void request_body(Str *out, const RequestForm *f, const JudgeItem *it, bool swapped, bool remind);

typedef enum {
    ANSWER_VERDICT,
    ANSWER_REFUSED,     /* the service or its model declines to judge */
    ANSWER_UNREADABLE,  /* neither 1 nor 2, or both */
    ANSWER_TOO_LONG,    /* it says that the question does not fit */
    ANSWER_BROKEN,      /* not an answer of this dialect: worth asking again */
} AnswerKind;
typedef struct {
    AnswerKind kind;
    bool first;         /* VERDICT: what was shown first is better */
    bool soft;          /* VERDICT: l holds log p(first) - log p(second), finite */
    double l;
    int digit;          /* 1..5 that a text names, alone, for items to be rated; 0: none. Whatever kind says */
    double mean;        /* sum k p(k) over the digits 1..5 where it was written, renormalised; NaN: no log-probs */
    int64_t tokens_in, tokens_out;  /* as the service counts; -1: it does not say */
} Answer;
/* status: 200s, or an error whose code is itself a judged outcome. Never fails: what cannot be read is BROKEN. */
void answer_parse(Answer *out, RemoteApi api, int status, const Json *body);
/* Which of 1 and 2 a text names, alone: 1, 2, or 0 for neither or both. */
int answer_option(const char *text, size_t n);
/* Which of 1..most (at most 9) a text names, alone; 0 for none or several. */
int answer_digit(const char *text, size_t n, int most);
/* What the service says went wrong, fit for a message: its own words if it has any, at most 200 bytes, no control characters. */
void answer_error(Str *out, const char *body, size_t n);

#endif
