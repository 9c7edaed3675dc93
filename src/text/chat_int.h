/* text/chat_int.h — what chat.c and chat_template.c share. */
#ifndef DIKAST_TEXT_CHAT_INT_H
#define DIKAST_TEXT_CHAT_INT_H

#include "text/chat.h"

void sequence_fail(Sequence *s, const char *why);                                   /* the first reason stays */
void sequence_textn(Sequence *s, const Chat *c, const char *text, size_t n, float weight);
/* Ids of a text read as o says, weight 0; spans as encoder_encode_opts. */
void sequence_encode(Sequence *s, const Chat *c, const char *text, size_t n, const EncodeOpts *o, SpanBuf *spans);
/* What a template is given: a dialogue, or JSON messages when those are not NULL. */
typedef struct { Dialogue d; const Json *messages, *tools; } Spoken;
/* What the template makes of it; ends ready for a reply when respond is set. Weights as chat_learn's. */
void template_dialogue(Sequence *s, const Chat *c, const Spoken *p, int learn_from, float weight_assistant, bool respond);

/* ---- chat_headings.c: the same prompts without sentinels */
typedef enum { HEADING_CRITIQUE, HEADING_REVISION, HEADING_ANSWER } Heading;
bool headings_open(Chat *c, const char *name, Error *err);  /* sets headings and the ids of the two answers */
void headings_critique(Sequence *s, const Chat *c, Dialogue d, const char *reply, const char *principle, const char *request);
void headings_revision(Sequence *s, const Chat *c, Dialogue d, const char *reply, const char *principle,
                       const char *critique_request, const char *critique, const char *request);
/* What follows a heading that stands at the end of s, and the end of the reply. */
void headings_answer(Sequence *s, const Chat *c, Heading h, const char *text, float weight);
void headings_reason(Sequence *s, const Chat *c, Dialogue d, const char *a, const char *b, const char *compare,
                     const char *request);
void headings_reason_end(Sequence *s, const Chat *c);
void headings_judge(Sequence *s, const Chat *c, Dialogue d, const char *a, const char *b, const char *compare);
void headings_applies(Sequence *s, const Chat *c, Dialogue d, const char *reply, const char *principle);

#endif
