/* The request "safetensors" of the vectors' adapter: {"bytes": base64} -> {"accept": true, "tensors": [[name, dtype,
 * shape, bytes], ...]} or {"accept": false}. */
#include "vec_safetensors.h"

#include "nn/safetensors.h"
#include "vec_base64.h"

void vec_safetensors(const Json *request, JsonOut *answer) {
    size_t n;
    const char *text = json_str(json_get(request, "bytes"), &n);
    Str bytes = {0};
    StFile f;
    Error err = {0};
    if (text) base64_decode(&bytes, text, n);
    bool ok = st_parse(&f, str_get(&bytes), bytes.n, "request", &err);
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
    str_release(&bytes);
}
