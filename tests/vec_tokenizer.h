/* vec_tokenizer.h — the tokenizer's requests of the vector adapter. Each handler takes a parsed request and appends the
 * answer, one JSON object without a newline. Tokenizers stay open between requests until vec_tokenizer_close. */
#ifndef DIKAST_TESTS_VEC_TOKENIZER_H
#define DIKAST_TESTS_VEC_TOKENIZER_H

#include "base/json.h"

/* {"op":"encode","tokenizer":PATH,"text"[,"plain":true][,"around":true][,"offsets":true]} -> {"ids":[...],"decoded":TEXT
 * [,"offsets":[[from,to],...]]}; special tokens come from text unless plain, offsets are bytes. */
void vec_encode(const Json *request, Str *answer);
/* {"op":"pretoken","pattern":"gpt2|llama3|qwen2","text"} -> {"pieces":[byte lengths]} */
void vec_pretoken(const Json *request, Str *answer);
/* {"op":"decode","tokenizer":PATH,"ids":[...][,"skip_special":true][,"parts":true]} -> {"hex":bytes}; parts: id by id */
void vec_decode(const Json *request, Str *answer);
/* {"op":"rewrite","tokenizer":PATH,"to":PATH} -> {"ok":true} */
void vec_rewrite(const Json *request, Str *answer);
void vec_tokenizer_close(void);

#endif
