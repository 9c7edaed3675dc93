/* text/chat.h — the one place where special ids enter a token sequence. One serializer builds the ids for SFT, PM, rollout,
 * evaluation and chat; parsing works on ids, never on strings.
 *
 *   respond          D <|assistant|>                                        -> y <|end|>
 *   critique+revise  D <|assistant|> y <|end|> <|principle|> text. critique request. revision request. <|critique|>
 *                                                  -> c <|verdict|> v [<|revision|> y'] <|end|>     v: <|ok|> | <|violates|>
 *   applies          ... y <|end|> <|principle|> text <|applies|>           -> <|yes|> | <|no|>
 *   judge            D <|option|> a <|end|> <|option|> b <|end|> <|principle|> compare <|judge|>  -> <|first|> | <|second|>
 *
 * D is a dialogue: [<|system|> s <|end|>] <|user|> u <|end|> [<|assistant|> a <|end|> <|user|> u <|end|>]...
 * Texts are encoded with no added spaces. <|endoftext|> separates pre-training documents and is where one begins. */
#ifndef DIKAST_TEXT_CHAT_H
#define DIKAST_TEXT_CHAT_H

#include "text/tokenizer.h"

/* X(enum suffix, spelling); ids are looked up in the tokenizer; trained tokenizers give them ids 0.. in this order. */
#define SENTINELS(X)                                                                                                   \
    X(ENDOFTEXT, "<|endoftext|>") X(SYSTEM, "<|system|>") X(USER, "<|user|>") X(ASSISTANT, "<|assistant|>")            \
    X(END, "<|end|>") X(PRINCIPLE, "<|principle|>") X(CRITIQUE, "<|critique|>") X(VERDICT, "<|verdict|>")              \
    X(OK, "<|ok|>") X(VIOLATES, "<|violates|>") X(REVISION, "<|revision|>") X(APPLIES, "<|applies|>")                  \
    X(YES, "<|yes|>") X(NO, "<|no|>") X(OPTION, "<|option|>") X(JUDGE, "<|judge|>") X(FIRST, "<|first|>")              \
    X(SECOND, "<|second|>") X(MASK, "<|mask|>")
typedef enum {
#define X(name, spelling) SENT_##name,
    SENTINELS(X)
#undef X
    SENT_COUNT
} Sentinel;
const char *sentinel_spelling(Sentinel s);

typedef struct { const Tokenizer *tok; int32_t id[SENT_COUNT]; } Chat;
bool chat_init(Chat *c, const Tokenizer *t, Error *err);    /* ERR_FORMAT naming the sentinels the tokenizer lacks */

typedef enum { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT } Role;
typedef struct { Role role; const char *text; } Message;
typedef struct { const Message *msg; int n; } Dialogue;

/* A sequence under construction: ids and, per id, whether predicting it is trained (loss weight of that token). One that is
 * cleared and filled again, dialogue after dialogue, gets an encoder that remembers pieces; it is released before the
 * tokenizer is closed. */
typedef struct { TokBuf tok; float *weight; int cap_weight; Encoder *encoder; size_t n_encoded; } Sequence;
void sequence_release(Sequence *s);
void sequence_clear(Sequence *s);
void sequence_put(Sequence *s, int32_t id, float weight);
void sequence_text(Sequence *s, const Chat *c, const char *text, float weight);

void chat_dialogue(Sequence *s, const Chat *c, Dialogue d, float weight_assistant); /* assistant turns, their <|end|> too */
void chat_respond(Sequence *s, const Chat *c, Dialogue d);                          /* D <|assistant|> */
/* After chat_respond: the reply. end: append <|end|> with the same weight. */
void chat_reply(Sequence *s, const Chat *c, const char *text, float weight, bool end);
void chat_critique_prompt(Sequence *s, const Chat *c, Dialogue d, const char *reply, const char *principle,
                          const char *critique_request, const char *revision_request);      /* up to <|critique|> */
/* Demonstration of what follows; revision NULL: verdict ok. */
void chat_critique_answer(Sequence *s, const Chat *c, const char *critique, const char *revision, float weight);
void chat_judge_prompt(Sequence *s, const Chat *c, Dialogue d, const char *a, const char *b, const char *compare);
void chat_applies_prompt(Sequence *s, const Chat *c, Dialogue d, const char *reply, const char *principle);

/* Parses a generated critique: spans into id. False when the structure does not hold (impossible under the engine's rule). */
typedef struct { int critique, n_critique; bool violates; int revision, n_revision; bool truncated; } CritiqueParse;
bool chat_critique_parse(const Chat *c, const int32_t *id, int n, CritiqueParse *out);

#endif
