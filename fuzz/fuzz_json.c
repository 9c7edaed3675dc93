// layer: base
/* JSON: any bytes are read or refused; what was read and printed reads back and prints the same; what the quick reader
 * takes jansson takes, too, and it prints the same. */
#include "base/json_int.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void print(Str *out, const Json *j, int indent) {
    JsonOut o;
    json_out_init(&o, out, indent);
    json_out_node(&o, NULL, j);
}

static void quick_reader(const char *s, size_t n, int flags) {
    Error err = {0};
    Json *slow;
    JsonBuild b = {0};
    if (json_scan(&b, s, n, flags)) {
        Str x = {0}, y = {0};
        CHECK(json_parse_jansson(&slow, s, n, flags, "fuzz", 1, &err), "taken, but %s", err.msg);
        print(&x, json_build_take(&b), 0);
        print(&y, slow, 0);
        CHECK(x.n == y.n && memcmp(x.s, y.s, x.n) == 0, "quick %s, jansson %s", x.s, y.s);
        json_release(slow);
        str_release(&x), str_release(&y);
    }
    json_build_release(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const int flags[] = {0, JSON_NUL_OK, JSON_INT_AS_REAL};
    for (int f = 0; f < COUNT_OF(flags); f++) {
        Error err = {0};
        Json *j, *again;
        quick_reader((const char *)data, n, flags[f]);
        if (!json_parse(&j, (const char *)data, n, flags[f], "fuzz", 1, &err)) {
            CHECK(err.code == ERR_FORMAT && err.msg[0], "a refusal says why");
            continue;
        }
        Str a = {0}, b = {0}, wide = {0};
        print(&a, j, 0);
        print(&wide, j, 2);
        CHECK(json_parse(&again, wide.s, wide.n, flags[f], "again", 1, &err), "%s: %s", err.msg, a.s);
        print(&b, again, 0);
        CHECK(a.n == b.n && memcmp(a.s, b.s, a.n) == 0, "printed twice: %s and %s", a.s, b.s);
        json_release(j);
        json_release(again);
        str_release(&a), str_release(&b), str_release(&wide);
    }
    return 0;
}
