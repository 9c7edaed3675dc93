/* text/chat_int.h — what chat.c and chat_template.c share. */
#ifndef DIKAST_TEXT_CHAT_INT_H
#define DIKAST_TEXT_CHAT_INT_H

#include "text/chat.h"

void sequence_fail(Sequence *s, const char *why);                                   /* the first reason stays */
void sequence_textn(Sequence *s, const Chat *c, const char *text, size_t n, float weight);
/* What the template makes of d; ends ready for a reply when respond is set. Weights as chat_dialogue's. */
void template_dialogue(Sequence *s, const Chat *c, Dialogue d, float weight_assistant, bool respond);

#endif
