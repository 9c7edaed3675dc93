/* tokenizer_write.c — writing Hugging Face's tokenizer.json: of a tokenizer just learned, and of one that was read. */
#include "text/text_int.h"

#include <stdlib.h>
#include <string.h>

/* ---- what both have ---- */

static void write_head(JsonOut *j, Str *out) {
    json_out_init(j, out, 1);
    json_out_obj(j, NULL);
    json_out_str(j, "version", "1.0");
    json_out_str(j, "truncation", NULL);
    json_out_str(j, "padding", NULL);
    json_out_arr(j, "added_tokens");
}

static void write_added(JsonOut *j, const AddedToken *a) {
    json_out_obj(j, NULL);
    json_out_int(j, "id", a->id);
    json_out_str(j, "content", a->s);
    json_out_bool(j, "single_word", a->single_word);
    json_out_bool(j, "lstrip", a->lstrip);
    json_out_bool(j, "rstrip", a->rstrip);
    json_out_bool(j, "normalized", a->normalized);
    json_out_bool(j, "special", a->special);
    json_out_obj_end(j);
}

static void write_model_head(JsonOut *j, const char *unk, const Tokenizer *flags) {
    json_out_obj(j, "model");
    json_out_str(j, "type", "BPE");
    json_out_str(j, "dropout", NULL);
    json_out_str(j, "unk_token", unk);
    json_out_str(j, "continuing_subword_prefix", NULL);
    json_out_str(j, "end_of_word_suffix", NULL);
    json_out_bool(j, "fuse_unk", flags && flags->fuse_unk);
    json_out_bool(j, "byte_fallback", flags && flags->byte_fallback);
    json_out_bool(j, "ignore_merges", flags && flags->ignore_merges);
    json_out_obj(j, "vocab");
}

static void write_merge(JsonOut *j, Str *hold, const char *left, const char *right) {
    str_clear(hold);
    str_printf(hold, "%s %s", left, right);
    json_out_strn(j, NULL, hold->s, hold->n);
}

/* ---- one just learned ---- */

static void write_byte_level(JsonOut *j, const char *key, bool use_regex) {
    json_out_obj(j, key);
    json_out_str(j, "type", "ByteLevel");
    json_out_bool(j, "add_prefix_space", false);
    json_out_bool(j, "trim_offsets", true);
    json_out_bool(j, "use_regex", use_regex);
    json_out_obj_end(j);
}

static void write_pre_tokenizer(JsonOut *j, SplitPattern split) {
    if (split == SPLIT_GPT2) {
        write_byte_level(j, "pre_tokenizer", true);
        return;
    }
    json_out_obj(j, "pre_tokenizer");
    json_out_str(j, "type", "Sequence");
    json_out_arr(j, "pretokenizers");
    json_out_obj(j, NULL);
    json_out_str(j, "type", "Split");
    json_out_obj(j, "pattern");
    json_out_str(j, "Regex", split_pattern[split]);
    json_out_obj_end(j);
    json_out_str(j, "behavior", "Isolated");
    json_out_bool(j, "invert", false);
    json_out_obj_end(j);
    write_byte_level(j, NULL, false);
    json_out_arr_end(j);
    json_out_obj_end(j);
}

static void write_spec_model(JsonOut *j, const TokenizerSpec *spec) {
    Str merge = {0};
    write_model_head(j, NULL, NULL);
    for (int i = 0; i < spec->n_special; i++) json_out_int(j, spec->special[i], i);
    for (int i = 0; i < spec->n_token; i++) json_out_int(j, spec->token[i], spec->n_special + i);
    json_out_obj_end(j);
    json_out_arr(j, "merges"); /* "a b", which every version reads; the alphabet has no space */
    for (int i = 0; i < spec->n_merge; i++)
        write_merge(j, &merge, spec->token[spec->merge[i][0] - spec->n_special],
                    spec->token[spec->merge[i][1] - spec->n_special]);
    json_out_arr_end(j);
    json_out_obj_end(j);
    str_release(&merge);
}

void tokenizer_spec_write(Str *out, const TokenizerSpec *spec) {
    JsonOut j;
    write_head(&j, out);
    for (int i = 0; i < spec->n_special; i++)
        write_added(&j, &(AddedToken){.s = spec->special[i], .id = i, .special = true});
    json_out_arr_end(&j);
    json_out_str(&j, "normalizer", NULL);
    write_pre_tokenizer(&j, spec->split);
    json_out_str(&j, "post_processor", NULL);
    write_byte_level(&j, "decoder", true);
    write_spec_model(&j, spec);
    json_out_obj_end(&j);
    str_putc(out, '\n');
}

/* ---- one that was read ---- */

static void write_part(JsonOut *j, const char *key, const Str *part) {
    Json *node;
    Error err = {0};
    if (part->n == 0) {
        json_out_str(j, key, NULL);
        return;
    }
    CHECK(json_parse(&node, part->s, part->n, 0, key, 1, &err), "%s", err.msg);
    json_out_node(j, key, node);
    json_release(node);
}

/* Spellings of all ids in *names, one behind the other with a NUL each; the caller frees the offsets. */
static size_t *spell_all(const Tokenizer *t, Str *names) {
    size_t *at = mem_alloc(((size_t)t->n_vocab + 1) * sizeof *at);
    for (int32_t id = 0; id < t->n_vocab; id++) {
        at[id] = names->n;
        tokenizer_spelling(t, id, names);
        str_putc(names, 0);
    }
    return at;
}

static void write_vocab(JsonOut *j, const Tokenizer *t, const char *names, const size_t *at) {
    for (int32_t id = 0, k = 0; id < t->n_vocab; id++) {
        while (k < t->n_added && t->added[k].id < id) k++;
        bool added = k < t->n_added && t->added[k].id == id;
        if (added ? t->added[k].in_vocab : t->kind[id] != TOKEN_ABSENT) json_out_int(j, names + at[id], id);
    }
    json_out_obj_end(j);
}

static void write_merges(JsonOut *j, const Tokenizer *t, const char *names, const size_t *at) {
    int32_t(*pair)[2] = mem_alloc(((size_t)t->n_merge + 1) * sizeof *pair);
    bool spaces = false;
    Str hold = {0};
    tokenizer_merges(t, pair);
    for (int i = 0; i < t->n_merge && !spaces; i++)
        spaces = strchr(names + at[pair[i][0]], ' ') || strchr(names + at[pair[i][1]], ' ');
    json_out_arr(j, "merges");
    for (int i = 0; i < t->n_merge; i++) {
        const char *left = names + at[pair[i][0]], *right = names + at[pair[i][1]];
        if (!spaces) {
            write_merge(j, &hold, left, right);
            continue;
        }
        json_out_arr(j, NULL);
        json_out_str(j, NULL, left);
        json_out_str(j, NULL, right);
        json_out_arr_end(j);
    }
    json_out_arr_end(j);
    str_release(&hold);
    free(pair);
}

static void write_with(const Tokenizer *t, const AddedToken *more, int n_more, Str *out) {
    JsonOut j;
    Str names = {0};
    size_t *at = spell_all(t, &names);
    write_head(&j, out);
    for (int i = 0; i < t->n_added; i++) write_added(&j, &t->added[i]);
    for (int i = 0; i < n_more; i++) write_added(&j, &more[i]);
    json_out_arr_end(&j);
    write_part(&j, "normalizer", &t->part[PART_NORMALIZER]);
    write_part(&j, "pre_tokenizer", &t->part[PART_PRE_TOKENIZER]);
    write_part(&j, "post_processor", &t->part[PART_POST_PROCESSOR]);
    write_part(&j, "decoder", &t->part[PART_DECODER]);
    write_model_head(&j, t->unk >= 0 ? names.s + at[t->unk] : NULL, t);
    write_vocab(&j, t, str_get(&names), at);
    write_merges(&j, t, str_get(&names), at);
    json_out_obj_end(&j);
    json_out_obj_end(&j);
    str_putc(out, '\n');
    str_release(&names);
    free(at);
}

void tokenizer_write(const Tokenizer *t, Str *json) { write_with(t, NULL, 0, json); }

bool tokenizer_with_special(Tokenizer **out, const Tokenizer *t, const char *const *spelling, int n, Error *err) {
    AddedToken *more = mem_alloc(((size_t)n + 1) * sizeof *more);
    int n_more = 0;
    int32_t next = t->next_id;
    for (int i = 0; i < n; i++) {
        if (tokenizer_special(t, spelling[i]) >= 0) continue;
        int32_t id = tokenizer_id(t, spelling[i]);
        more[n_more++] = (AddedToken){.s = spelling[i], .id = id >= 0 ? id : next++, .special = true};
    }
    Str json = {0};
    write_with(t, more, n_more, &json);
    bool ok = tokenizer_parse(out, str_get(&json), json.n, "tokenizer with added special tokens", err);
    str_release(&json);
    free(more);
    return ok;
}
