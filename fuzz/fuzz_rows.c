// layer: data
/* Rows: any bytes are read or refused with a place; what was read has the shape its header promises, whatever it came
 * from. The first byte chooses the kind of row, the rest is the line. */
#include "data/rows.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_text(const char *s) {
    size_t bad;
    CHECK(!s || str_utf8_valid(s, strlen(s), &bad), "invalid UTF-8 came through");
}

static void check_prompt(Dialogue d, bool required) {
    CHECK(d.n > 0 || !required, "no prompt");
    for (int i = 0; i < d.n; i++) {
        check_text(d.msg[i].text);
        CHECK(d.msg[i].text[0], "an empty turn");
        CHECK(d.msg[i].role != ROLE_SYSTEM || i == 0, "a system turn in the middle");
        CHECK(i == 0 || d.msg[i].role != d.msg[i - 1].role, "two turns of one role");
    }
    CHECK(!required || d.msg[d.n - 1].role == ROLE_USER, "the prompt does not end with the user");
}

static void check_json(const Row *r) {
    Str text = {0};
    Json *j;
    Error err = {0};
    row_to_json(&text, r);
    CHECK(json_parse(&j, text.s, text.n, 0, "normal form", 1, &err), "%s", err.msg);
    json_release(j);
    str_release(&text);
}

static void check_row(const Row *r, RowKind asked) {
    RowKind kind = r->kind;
    CHECK(kind == asked || asked == ROW_ANY, "kind %d for %d", (int)kind, (int)asked);
    check_json(r);
    bool replies = kind == ROW_INSTRUCTION || kind == ROW_PREFERENCE || kind == ROW_LABELLED || kind == ROW_TEXT ||
                   kind == ROW_FORMAT || kind == ROW_UNPAIRED;
    CHECK(r->id[0] && r->category && r->source && r->weight >= 0, "common fields");
    CHECK(kind < ROW_ANY && r->shape && r->shape[0], "kind and shape");
    if (r->tok) {
        CHECK((kind == ROW_INSTRUCTION || kind == ROW_TEXT) && r->n_tok > 1 && r->a, "tokens");
        for (int i = 0; i < r->n_tok; i++) CHECK(r->tok[i] >= 0 && r->tok_weight[i] >= 0, "token %d", i);
        return;
    }
    check_prompt(r->prompt, kind != ROW_TEXT && kind != ROW_PARAPHRASE);
    CHECK(!r->plain || r->prompt.n == 1, "plain text of several turns");
    CHECK(r->learn_from <= r->prompt.n, "learned from turn %d of %d", r->learn_from, r->prompt.n);
    check_text(r->id), check_text(r->a), check_text(r->b), check_text(r->principle), check_text(r->critique);
    CHECK(!replies || r->a, "no reply");
    CHECK((kind != ROW_INSTRUCTION && kind != ROW_TEXT && kind != ROW_UNPAIRED) || r->a[strspn(r->a, " \t\r\n")],
          "an empty reply");
    CHECK(kind != ROW_PREFERENCE || (r->b && strcmp(r->a, r->b) != 0), "no preference");
    CHECK(kind != ROW_LABELLED || r->label == 0 || r->label == 1, "label");
    CHECK(kind != ROW_FORMAT || (r->principle && r->label >= -1 && r->label <= 1), "format row");
    CHECK(kind != ROW_UNPAIRED || r->label == 0 || r->label == 1, "label");
    CHECK(kind != ROW_CHOICE || (r->n_list >= 2 && r->label >= 0 && r->label < r->n_list), "choice");
    CHECK(kind != ROW_PARAPHRASE || r->n_list >= 2, "paraphrase");
    for (int i = 0; i < r->n_list; i++) check_text(r->list[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n == 0 || memchr(data, '\n', n)) return 0; /* a line holds no line break */
    RowKind kind = data[0] % 16 < ROW_ANY ? (RowKind)(data[0] % 16) : ROW_ANY;
    Rows r = {0};
    Error err = {0};
    bool ok = rows_parse_line(&r, (const char *)data + 1, n - 1, kind, "fuzz", 3, &err);
    if (!ok)
        CHECK(err.code == ERR_FORMAT && strncmp(err.msg, "fuzz:3", 6) == 0, "a refusal names its place: %s", err.msg);
    else
        CHECK((r.n >= 1 && r.n_skip == 0) || (r.n == 0 && r.n_skip == 1 && r.skip[0].reason), "read or left out");
    for (int i = 0; i < r.n; i++) check_row(&r.row[i], kind);
    int before = r.n, gone = rows_dedup(&r, 0.8, NULL);
    CHECK(r.n + gone == before && (before == 0 || r.n > 0), "duplicates: %d, %d left of %d", gone, r.n, before);
    CHECK(rows_dedup(&r, 0.8, NULL) == 0, "duplicates after their removal");
    rows_release(&r);
    return 0;
}
