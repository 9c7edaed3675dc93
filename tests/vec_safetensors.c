/* The request "safetensors" of the vectors' adapter: {"bytes": base64} -> {"accept": true, "tensors": [[name, dtype,
 * shape, bytes], ...]} or {"accept": false}. */
#include "vec_safetensors.h"

#include "nn/safetensors.h"

#include <string.h>

static int sextet(char c) {
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(alphabet, c) : NULL;
    return at ? (int)(at - alphabet) : -1;
}

static void base64_put(Str *out, const char *s, size_t n) {
    uint32_t bits = 0;
    int n_bits = 0;
    for (size_t i = 0; i < n; i++) {
        int v = sextet(s[i]);
        if (v < 0) continue;
        bits = bits << 6 | (uint32_t)v;
        n_bits += 6;
        if (n_bits < 8) continue;
        n_bits -= 8;
        str_putc(out, (char)(bits >> n_bits));
        bits &= (1u << n_bits) - 1;
    }
}

void vec_safetensors(const Json *request, JsonOut *answer) {
    size_t n;
    const char *text = json_str(json_get(request, "bytes"), &n);
    Str bytes = {0};
    StFile f;
    Error err = {0};
    if (text) base64_put(&bytes, text, n);
    bool ok = st_parse(&f, str_get(&bytes), bytes.n, "request", &err);
    json_out_obj(answer, NULL);
    json_out_bool(answer, "accept", ok);
    if (ok) {
        json_out_arr(answer, "tensors");
        for (int i = 0; i < f.n; i++) {
            json_out_arr(answer, NULL);
            json_out_str(answer, NULL, f.entry[i].name);
            json_out_str(answer, NULL, f.entry[i].dtype);
            json_out_arr(answer, NULL);
            for (int d = 0; d < f.entry[i].n_dim; d++) json_out_int(answer, NULL, f.entry[i].dim[d]);
            json_out_arr_end(answer);
            json_out_int(answer, NULL, (int64_t)f.entry[i].bytes);
            json_out_arr_end(answer);
        }
        json_out_arr_end(answer);
        st_close(&f);
    } else {
        json_out_str(answer, "error", err.msg);
    }
    json_out_obj_end(answer);
    str_release(&bytes);
}
