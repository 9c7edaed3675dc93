/* tests/vec_safetensors.h — see vec_safetensors.c. Fields of the answer. */
#ifndef DIKAST_TESTS_VEC_SAFETENSORS_H
#define DIKAST_TESTS_VEC_SAFETENSORS_H

#include "base/json.h"

void vec_safetensors(const Json *request, JsonOut *answer);

#endif
