/* text/chat_int.h — what chat.c and chat_template.c share. */
#ifndef DIKAST_TEXT_CHAT_INT_H
#define DIKAST_TEXT_CHAT_INT_H

#include "text/chat.h"

void sequence_fail(Sequence *s, const char *why);                                   /* the first reason stays */
void sequence_textn(Sequence *s, const Chat *c, const char *text, size_t n, float weight);
/* Ids of a text read as o says, weight 0; spans as encoder_encode_opts. */
void sequence_encode(Sequence *s, const Chat *c, const char *text, size_t n, const EncodeOpts *o, SpanBuf *spans);
/* What the template makes of d; ends ready for a reply when respond is set. Weights as chat_dialogue's. */
void template_dialogue(Sequence *s, const Chat *c, Dialogue d, float weight_assistant, bool respond);

#endif
