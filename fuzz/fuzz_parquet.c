// layer: data
/* Parquet: any bytes are rows or an error that names the file; rows are objects of UTF-8 strings whose members are
 * those of the first row, and no more of them come than the footer says. */
#include "data/parquet.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { MAX_ROWS = 2000 };

static void check_value(const Json *j, int depth) {
    size_t n, bad;
    const char *s = json_str(j, &n);
    CHECK(!s || (str_utf8_valid(s, n, &bad) && s[n] == 0), "a string that is not UTF-8");
    CHECK(depth < 2 * PARQUET_DEPTH, "nested %d deep", depth);
    for (int i = 0; i < json_len(j); i++) {
        const Json *value = json_at(j, i);
        if (json_kind(j) == JSON_OBJ) {
            const char *key = json_key_at(j, i, &value);
            CHECK(json_get(j, key) == value, "a key twice");
        }
        check_value(value, depth + 1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    Parquet *q;
    const Json *row;
    Error err = {0};
    if (!parquet_open_bytes(&q, data, n, "fuzz", &err)) {
        CHECK(err.code == ERR_FORMAT && strncmp(err.msg, "fuzz: ", 6) == 0, "a refusal names its place: %s", err.msg);
        return 0;
    }
    JsonBuild *b = json_build_new();
    int n_row = 0, n_column = -1;
    bool ok;
    CHECK(parquet_codec(q)[0], "no codec");
    while ((ok = parquet_next(q, b, &row, &err)) && row && n_row < MAX_ROWS) {
        CHECK(json_kind(row) == JSON_OBJ, "a row that is no object");
        CHECK(n_column < 0 || json_len(row) == n_column, "rows of different columns");
        n_column = json_len(row);
        n_row++;
        check_value(row, 0);
        json_build_clear(b);
    }
    CHECK(n_row <= parquet_rows(q) && (!ok || row || n_row == parquet_rows(q)), "%d rows of %lld", n_row,
          (long long)parquet_rows(q));
    CHECK(ok || (err.code == ERR_FORMAT && strncmp(err.msg, "fuzz: ", 6) == 0), "a refusal names its place: %s",
          err.msg);
    json_build_free(b);
    parquet_close(q);
    return 0;
}
