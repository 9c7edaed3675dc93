/* text/chat.h — the one place where special ids enter a token sequence. One serializer builds the ids for SFT, PM, rollout,
 * evaluation and chat; parsing works on ids, never on strings.
 *
 * A dialogue is written in one of two ways, which a model's folder decides (chat_open): natively, as below, or by the folder's
 * own chat template, a Jinja program (text/jinja.h). Models of ours carry the template that writes the native format,
 * chat_native_template, so that other programs write the same ids; it is recognised, not interpreted.
 *
 *   respond          D <|assistant|>                                        -> y <|end|>
 *   critique+revise  D <|assistant|> y <|end|> <|principle|> text. critique request. revision request. <|critique|>
 *                                                  -> c <|verdict|> v [<|revision|> y'] <|end|>     v: <|ok|> | <|violates|>
 *   applies          ... y <|end|> <|principle|> text <|applies|>           -> <|yes|> | <|no|>
 *   judge            D <|option|> a <|end|> <|option|> b <|end|> <|principle|> compare <|judge|>  -> <|first|> | <|second|>
 *   judge, reasoned  .. compare. reason request <|judge|>       -> reasons <|verdict|> <|first|> | <|second|>
 *
 * D is a dialogue: [<|system|> s <|end|>] <|user|> u <|end|> [<|assistant|> a <|end|> <|user|> u <|end|>]...
 * Texts are encoded with no added spaces. <|endoftext|> separates pre-training documents and is where one begins.
 *
 * With a template, D <|assistant|> is what it makes of D with add_generation_prompt; a reply is its text and the end token,
 * here too. Spellings of special tokens in messages stay text, as natively; the template's own become ids. What stands after
 * D is written with the sentinels when the vocabulary has them. When it has not (Chat.headings: a model from elsewhere), it
 * is asked for in plain words, as further turns of the dialogue; the reply begins with a heading, two calls make a revision:
 *
 *   critique   D, y, user "Rule: text / critique request"                   -> "What is wrong:" c
 *   verdict    .., user "does the reply keep to the rule? (A) .. (B) .."    -> "The answer is (" A | B
 *   revision   D, y, user "Rule: ..", "What is wrong:" c, user request      -> "Better reply:" y'
 *   applies    D, y, user "Rule: .. Does it bear on this? (A) .. (B) .."    -> "The answer is (" A | B
 *   judge      user "D as a transcript, (A) a (B) b, Rule: compare"         -> "The answer is (" A | B */
#ifndef DIKAST_TEXT_CHAT_H
#define DIKAST_TEXT_CHAT_H

#include "base/json.h"
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

typedef struct ChatTemplate ChatTemplate;
/* tmpl NULL: native. With a template an id is -1 when the vocabulary has no such sentinel; SENT_END is the token that ends a
 * reply, the folder's eos_token. */
typedef struct {
    const Tokenizer *tok;
    int32_t id[SENT_COUNT];
    ChatTemplate *tmpl;
    int32_t document;       /* begins and separates documents: <|endoftext|>, else bos_token, else what ends a reply */
    int32_t pad;            /* an id that is never text: <|mask|>, else pad_token when nothing ends with it; -1: none */
    bool headings;          /* SENT_FIRST and SENT_SECOND, SENT_YES and SENT_NO are the tokens that tell (A) from (B) */
} Chat;
/* Native, nothing to close: ERR_FORMAT naming the sentinels the tokenizer lacks. */
bool chat_init(Chat *c, const Tokenizer *t, Error *err);
/* By the folder's chat_template.jinja, else "chat_template" of its tokenizer_config.json; native when it has neither or the
 * native one. now_s: the day templates that write the date take for today, seconds since 1970 UTC; CHAT_FIXED_DAY where the
 * same bits must come out tomorrow. */
enum { CHAT_FIXED_DAY = 1767225600 };   /* 1 January 2026 */
bool chat_open(Chat *c, const Tokenizer *t, const char *dir, int64_t now_s, Error *err);
/* By this template, never natively. config: a tokenizer_config.json (its *_token entries are the template's variables), or
 * NULL; name is for messages. */
bool chat_open_template(Chat *c, const Tokenizer *t, const char *source, size_t n, const Json *config, const char *name,
                        int64_t now_s, Error *err);
/* "chat_template" of a tokenizer_config.json: a text, or of several named ones that for dialogues, "default". NULL: none. */
const char *chat_template_of(const Json *config, size_t *n);
void chat_close(Chat *c);               /* zeroed and chat_init'ed ones too */
const char *chat_native_template(void); /* for chat_template.jinja and tokenizer_config.json of our models */
/* Of turns headed "Human:" and "Assistant:", for models that come without a template of their own. */
const char *chat_transcript_template(void);

typedef enum { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT } Role;
typedef struct { Role role; const char *text; } Message;
typedef struct { const Message *msg; int n; } Dialogue;

/* A sequence under construction: ids and, per id, whether predicting it is trained (loss weight of that token). One that is
 * cleared and filled again, dialogue after dialogue, gets an encoder that remembers pieces; it is released before the
 * tokenizer is closed. */
typedef struct { TokBuf tok; float *weight; int cap_weight; Encoder *encoder; size_t n_encoded; char *failed; } Sequence;
void sequence_release(Sequence *s);
void sequence_clear(Sequence *s);
/* Templates can fail: they may refuse a dialogue. Then nothing more is appended, and the first reason stays, through
 * sequence_clear too, until sequence_release: whoever fills sequences asks before using or dropping them. Natively nothing
 * fails. */
bool sequence_ok(const Sequence *s, Error *err);
bool sequences_ok(const Sequence *s, int n, Error *err);
void sequence_put(Sequence *s, int32_t id, float weight);
void sequence_text(Sequence *s, const Chat *c, const char *text, float weight);

/* weight_assistant: of assistant turns, their <|end|> too. With a template: of what its {% generation %} blocks write; without
 * such blocks, of what an assistant's turn adds to the rendering of the turns before it with add_generation_prompt; the
 * dialogue is refused when that rendering is not how the whole one begins. */
void chat_dialogue(Sequence *s, const Chat *c, Dialogue d, float weight_assistant);
/* The same, but turns before d.msg[learn_from] are context: what they say has no weight. */
void chat_learn(Sequence *s, const Chat *c, Dialogue d, int learn_from, float weight_assistant);
/* A dialogue with tools: messages and tools (NULL: none) are JSON arrays as apply_chat_template takes them. Only a template
 * writes those; weights as chat_learn's. */
void chat_tools(Sequence *s, const Chat *c, const Json *messages, const Json *tools, int learn_from, float weight_assistant);
void chat_respond(Sequence *s, const Chat *c, Dialogue d);                          /* D <|assistant|> */
/* What ends a reply: SENT_END, and the other eos[0..n_eos) that the model's folder names. stop: n_eos + 1; their number. */
int chat_stops(const Chat *c, const int *eos, int n_eos, int32_t *stop);
/* After chat_respond: the reply. end: append <|end|> with the same weight. */
void chat_reply(Sequence *s, const Chat *c, const char *text, float weight, bool end);
void chat_critique_prompt(Sequence *s, const Chat *c, Dialogue d, const char *reply, const char *principle,
                          const char *critique_request, const char *revision_request);      /* up to <|critique|> */
/* Demonstration of what follows; revision NULL: verdict ok. With headings the critique alone. */
void chat_critique_answer(Sequence *s, const Chat *c, const char *critique, const char *revision, float weight);
/* The second of two calls: the critique has found fault, the revision is to follow. */
void chat_revision_prompt(Sequence *s, const Chat *c, Dialogue d, const char *reply, const char *principle,
                          const char *critique_request, const char *critique, const char *revision_request);
void chat_revision_answer(Sequence *s, const Chat *c, const char *revision, float weight);
/* With headings only: SENT_FIRST is "keeps to the rule", SENT_SECOND "breaks it"; with flip the other way round. */
void chat_verdict_prompt(Sequence *s, const Chat *c, Dialogue d, const char *reply, const char *principle,
                         const char *critique_request, const char *critique, bool flip);
void chat_judge_prompt(Sequence *s, const Chat *c, Dialogue d, const char *a, const char *b, const char *compare);
/* The same, but reasons are to follow, in the model's words; then chat_reason_end, and the answer. With headings the reasons are
 * a reply that ends as replies do, and what follows them begins "The answer is (". */
void chat_reason_prompt(Sequence *s, const Chat *c, Dialogue d, const char *a, const char *b, const char *compare);
void chat_reason_end(Sequence *s, const Chat *c, float weight);
void chat_applies_prompt(Sequence *s, const Chat *c, Dialogue d, const char *reply, const char *principle);

/* Parses a generated critique: spans into id. False when the structure does not hold (impossible under the engine's rule). */
typedef struct { int critique, n_critique; bool violates; int revision, n_revision; bool truncated; } CritiqueParse;
bool chat_critique_parse(const Chat *c, const int32_t *id, int n, CritiqueParse *out);

#endif
