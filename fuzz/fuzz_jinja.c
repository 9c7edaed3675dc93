// layer: text
/* Jinja: any bytes as a template over a conversation. It is parsed or refused with a class and a line; what renders is
 * UTF-8 within the limits, its spans lie inside; twice gives the same. The first byte chooses the generation prompt. */
#include "text/jinja.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const char conversation[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":\"Gr\xc3\xbc\xc3\x9f"
    "e \xf0\x9f\x98\x80 <b>\\n  "
    "x\"},{\"role\":\"assistant\",\"content\":null,\"thinking\":\"hm\",\"tool_calls\":[{\"function\":{"
    "\"name\":\"f\",\"arguments\":{\"x\":1.5,\"y\":[1,null,true]}}}]},{\"role\":\"user\",\"content\":[{\"type\":"
    "\"text\",\"text\":"
    "\"t\"}]}],\"tools\":[{\"function\":{\"name\":\"f\",\"parameters\":{\"a\":{\"type\":\"string\"}}}}],\"bos_token\":"
    "\"<s>\",\"d\":{"
    "\"b\":1,\"A\":2},\"lst\":[3,1,2],\"txt\":\"a,b c\"}";

static void check_out(const JinjaOut *o) {
    size_t bad;
    CHECK(str_utf8_valid(str_get(&o->text), o->text.n, &bad), "not UTF-8 at %zu", bad);
    CHECK(o->text.n <= JINJA_MAX_OUTPUT, "%zu bytes", o->text.n);
    for (int i = 0; i < o->n_span; i++)
        CHECK(o->span[i].begin >= 0 && o->span[i].begin <= o->span[i].end, "span %d", i);
}

static void check_error(const JinjaError *e, bool parsing) {
    CHECK(e->cls != JINJA_OK && e->line >= 0, "class %d, line %d", (int)e->cls, e->line);
    CHECK(e->cls == JINJA_RAISED || e->message.n > 0, "an error without a word");
    CHECK(!parsing || e->cls != JINJA_RAISED, "raised while parsing");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    Error e = {0};
    Json *j = NULL;
    JinjaTemplate *t = NULL;
    JinjaError err = {0};
    JinjaOut a = {0}, b = {0};
    if (n == 0) return 0;
    CHECK(json_parse(&j, conversation, sizeof conversation - 1, 0, "conversation", 1, &e), "%s", e.msg);
    JinjaVar var[] = {{"bos_token", json_get(j, "bos_token")},
                      {"d", json_get(j, "d")},
                      {"lst", json_get(j, "lst")},
                      {"txt", json_get(j, "txt")}};
    JinjaChat c = {
        .messages = json_get(j, "messages"), .tools = json_get(j, "tools"), .var = var, .n_var = COUNT_OF(var)};
    c.add_generation_prompt = data[0] & 1;
    if (!jinja_parse(&t, (const char *)data + 1, n - 1, &err))
        check_error(&err, true);
    else if (!jinja_render(t, &c, &a, &err))
        check_error(&err, false);
    else {
        check_out(&a);
        CHECK(jinja_render(t, &c, &b, &err), "the second time it failed: %s", str_get(&err.message));
        CHECK(a.text.n == b.text.n && memcmp(str_get(&a.text), str_get(&b.text), a.text.n) == 0, "two texts");
        CHECK(a.n_span == b.n_span, "%d spans, %d spans", a.n_span, b.n_span);
    }
    jinja_close(t);
    jinja_out_release(&a);
    jinja_out_release(&b);
    jinja_error_release(&err);
    json_release(j);
    return 0;
}
