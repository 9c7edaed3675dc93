/* vec_tokenizer_main.c — the adapter with the tokenizer's requests alone: JSON lines in, JSON lines out. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vec_tokenizer.h"

int main(void) {
    static const struct {
        const char *op;
        void (*answer)(const Json *, Str *);
    } table[] = {{"encode", vec_encode}, {"pretoken", vec_pretoken}, {"decode", vec_decode}, {"rewrite", vec_rewrite}};
    char *line = NULL;
    size_t cap = 0;
    for (ssize_t n; (n = getline(&line, &cap, stdin)) > 0;) {
        Error err = {0};
        Json *request;
        Str answer = {0};
        const char *op = "";
        bool ok = json_parse(&request, line, (size_t)n, JSON_NUL_OK, "request", 1, &err);
        if (ok) op = json_str(json_get(request, "op"), NULL);
        for (int i = 0; op && i < COUNT_OF(table); i++)
            if (strcmp(op, table[i].op) == 0) table[i].answer(request, &answer);
        if (answer.n == 0) str_put(&answer, "{\"error\":\"not supported\"}");
        printf("%s\n", answer.s);
        fflush(stdout);
        str_release(&answer);
        if (ok) json_release(request);
    }
    free(line);
    vec_tokenizer_close();
    return 0;
}
