// layer: dist
/* Bytes of a connection: frames or an error, never more than is there; a payload that is accepted is written again as
 * it was. The first byte says how long a frame may be. Replies of ranks go through the rules of blame. */
#include "dist/culprit.h"
#include "dist/frame.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void same(const Str *again, const uint8_t *p, size_t used) {
    CHECK(again->n == used && memcmp(again->s, p, used) == 0, "written again it differs");
}

static void blame(const Frame *f) {
    Json *j;
    Error err = {0};
    if (!json_parse(&j, (const char *)f->p, f->n, 0, "reply", 1, &err)) return;
    HangRank rank[3] = {{.dump = j}, {.dump = j, .section = SECTION_FWD}, {.left = true}};
    Blame v;
    culprit_find(&v, rank, 3);
    CHECK(v.rule >= 0 && v.rule <= 4 && v.n <= BLAME_MAX && memchr(v.text, 0, sizeof v.text), "rule %d", v.rule);
    json_release(j);
}

static void one(const Frame *f, const uint8_t *p, size_t used) {
    Hello h;
    BeatMsg b;
    uint32_t code;
    Str again = {0};
    Error err = {0};
    CHECK(f->n + FRAME_HEAD == used && f->n <= FRAME_MAX, "%zu bytes of %zu", f->n, used);
    if (f->type == FRAME_HELLO && hello_get(&h, f, &err)) {
        CHECK(h.rank < h.world && h.host[0] && strlen(h.host) <= FRAME_HOST_MAX, "a strange HELLO was accepted");
        hello_put(&again, &h);
        same(&again, p, used);
    } else if (f->type == FRAME_BEAT && beat_get(&b, f, &err)) {
        beat_put(&again, &b);
        same(&again, p, used);
    } else if (f->type == FRAME_BYE && bye_get(&code, f, &err)) {
        bye_put(&again, code);
        same(&again, p, used);
    } else if (f->type == FRAME_DUMP_REPLY) {
        blame(f);
    }
    CHECK(err.code == ERR_NONE || err.code == ERR_FORMAT, "%s", err.msg);
    str_release(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n == 0) return 0;
    size_t at = 1, used, most = data[0] % 2 ? 256 : FRAME_MAX;
    for (;;) {
        Frame f;
        Error err = {0};
        if (!frame_parse(&f, &used, data + at, n - at, most, &err)) {
            CHECK(err.code == ERR_FORMAT, "%s", err.msg);
            return 0;
        }
        if (used == 0) return 0;
        CHECK(used <= n - at, "more than there is");
        one(&f, data + at, used);
        at += used;
    }
}
