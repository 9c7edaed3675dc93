/* cai/import_text.h — the tokenizer's side of a model from elsewhere, and how that model will be spoken to.
 *
 *   sentinels   the method's special tokens are added to its vocabulary; dialogues are written natively
 *   headings    its own chat template writes dialogues, critiques and judgements are asked for in words (text/chat.h). Nothing
 *               is added but <|mask|> for padding, where no special token is left that never ends a text. A folder without a
 *               template gets one of transcripts
 *   auto        headings when the folder has a template of its own and its vocabulary lacks the special tokens */
#ifndef DIKAST_CAI_IMPORT_TEXT_H
#define DIKAST_CAI_IMPORT_TEXT_H

#include "base/log.h"

typedef enum { PROMPTS_AUTO, PROMPTS_SENTINELS, PROMPTS_HEADINGS } PromptsMode;  /* as model.prompts */
/* from: a model folder, or a tokenizer.json (sentinels only). Writes to/tokenizer.json and, with headings,
 * to/tokenizer_config.json and to/chat_template.jinja: a folder that chat_open reads. */
bool import_text(const char *from, const char *to, PromptsMode mode, Log *log, Error *err);
/* Calls add for each of the folder's files that it reads, those that exist. */
void import_text_files(const char *from, void (*add)(void *ud, const char *file), void *ud);

#endif
