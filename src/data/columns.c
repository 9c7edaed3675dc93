#include "data/columns.h"

#include <stdlib.h>
#include <string.h>

#include "base/guess.h"

static const struct {
    const char *name;
    ColumnType type;
} known[] = {
    {"id", COLUMN_TEXT},
    {"category", COLUMN_TEXT},
    {"source", COLUMN_TEXT},
    {"weight", COLUMN_NUMBER},
    {"text", COLUMN_TEXT},
    {"prompt", COLUMN_TEXT},
    {"completion", COLUMN_TEXT},
    {"response", COLUMN_TEXT},
    {"chosen", COLUMN_TEXT},
    {"rejected", COLUMN_TEXT},
    {"margin", COLUMN_NUMBER},
    {"messages", COLUMN_JSON},
    {"tools", COLUMN_JSON},
    {"conversations", COLUMN_JSON},
    {"turns", COLUMN_JSON},
    {"instruction", COLUMN_TEXT},
    {"input", COLUMN_TEXT},
    {"output", COLUMN_TEXT},
    {"system", COLUMN_TEXT},
    {"history", COLUMN_JSON},
    {"label", COLUMN_FLAG},
    {"kto_tag", COLUMN_FLAG},
    {"harmful", COLUMN_FLAG},
    {"init_prompt", COLUMN_TEXT},
    {"init_response", COLUMN_TEXT},
    {"critic_prompt", COLUMN_TEXT},
    {"critic_response", COLUMN_TEXT},
    {"revision_prompt", COLUMN_TEXT},
    {"revision_response", COLUMN_TEXT},
    {"input_ids", COLUMN_JSON},
    {"labels", COLUMN_JSON},
    {"attention_mask", COLUMN_JSON},
    {"completion_mask", COLUMN_JSON},
    {"assistant_masks", COLUMN_JSON},
    {"template", COLUMN_TEXT},
    {"slots", COLUMN_JSON},
    {"kind", COLUMN_TEXT},
    {"principle", COLUMN_TEXT},
    {"critique", COLUMN_TEXT},
    {"revision", COLUMN_TEXT},
    {"a", COLUMN_TEXT},
    {"b", COLUMN_TEXT},
    {"answer", COLUMN_TEXT},
    {"better", COLUMN_NUMBER},
    {"seen", COLUMN_NUMBER},
    {"reference", COLUMN_TEXT},
    {"parent", COLUMN_TEXT},
    {"task", COLUMN_TEXT},
    {"choices", COLUMN_JSON},
    {"gold", COLUMN_NUMBER},
    {"context_options", COLUMN_JSON},
    {"prompts", COLUMN_JSON},
};

bool column_known(const char *name, ColumnType *type) {
    for (int i = 0; i < COUNT_OF(known); i++) {
        if (strcmp(known[i].name, name) != 0) continue;
        if (type) *type = known[i].type;
        return true;
    }
    if (type) *type = COLUMN_TEXT;
    return false;
}

static bool unknown(const char *ours, const char *item, const char *where, Error *err) {
    Guess near = {.typed = ours};
    for (int i = 0; i < COUNT_OF(known); i++) guess_offer(&near, known[i].name);
    return error_set(err, ERR_CONFIG,
                     "%s: '%s': no column is called '%s'%s; write ours:theirs, such as prompt:question", where, item,
                     ours, guess_hint(&near));
}

bool columns_parse(Columns *c, const char *const *item, int n, const char *where, Error *err) {
    *c = (Columns){.item = mem_alloc((size_t)n * sizeof *c->item + 1)};
    bool ok = true;
    for (int i = 0; i < n && ok; i++) {
        const char *colon = strchr(item[i], ':');
        if (!colon || colon == item[i] || !colon[1]) {
            ok = error_set(err, ERR_CONFIG, "%s: '%s' is not of the form ours:theirs, such as prompt:question", where,
                           item[i]);
            break;
        }
        ColumnName *name = &c->item[c->n++];
        name->ours = mem_str(item[i]);
        name->ours[colon - item[i]] = 0;
        name->theirs = mem_str(colon + 1);
        if (!column_known(name->ours, NULL)) ok = unknown(name->ours, item[i], where, err);
        for (int k = 0; k < i && ok; k++)
            if (!strcmp(c->item[k].ours, name->ours) || !strcmp(c->item[k].theirs, name->theirs))
                ok = error_set(err, ERR_CONFIG, "%s: '%s:%s' and '%s:%s' name one column twice", where, c->item[k].ours,
                               c->item[k].theirs, name->ours, name->theirs);
    }
    if (!ok) columns_release(c);
    return ok;
}

void columns_release(Columns *c) {
    for (int i = 0; i < c->n; i++) {
        free(c->item[i].ours);
        free(c->item[i].theirs);
    }
    free(c->item);
    *c = (Columns){0};
}

const Json *columns_get(const Columns *c, const Json *row, const char *ours) {
    bool renamed = false;
    for (int i = 0; c && i < c->n; i++) {
        const Json *j = !strcmp(c->item[i].ours, ours) ? json_get(row, c->item[i].theirs) : NULL;
        if (j) return j;
        renamed |= !strcmp(c->item[i].theirs, ours);
    }
    return renamed ? NULL : json_get(row, ours);
}

const char *columns_ours(const Columns *c, const char *theirs) {
    for (int i = 0; c && i < c->n; i++)
        if (!strcmp(c->item[i].theirs, theirs)) return c->item[i].ours;
    return theirs;
}
