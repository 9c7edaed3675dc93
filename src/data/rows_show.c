/* The normal form of rows as JSON. */
#include "data/rows_int.h"

#include <math.h>
#include <string.h>

static const char *const role_name[] = {[ROLE_SYSTEM] = "system", [ROLE_USER] = "user", [ROLE_ASSISTANT] = "assistant"};

static void put_message(JsonOut *j, Role role, const char *text) {
    json_out_obj(j, NULL);
    json_out_str(j, "role", role_name[role]);
    json_out_str(j, "content", text);
    json_out_obj_end(j);
}

/* The dialogue, then one more turn of the assistant when reply is not NULL. */
static void put_messages(JsonOut *j, const char *key, Dialogue d, const char *reply) {
    json_out_arr(j, key);
    for (int i = 0; i < d.n; i++) put_message(j, d.msg[i].role, d.msg[i].text);
    if (reply) put_message(j, ROLE_ASSISTANT, reply);
    json_out_arr_end(j);
}

static void put_reply(JsonOut *j, const char *key, const char *reply) {
    put_messages(j, key, (Dialogue){NULL, 0}, reply);
}

/* Plain rows: the prompt as the text it was. */
static void put_prompt(JsonOut *j, const Row *r) {
    if (r->plain)
        json_out_str(j, "prompt", r->prompt.msg[0].text);
    else
        put_messages(j, "prompt", r->prompt, NULL);
}

static void put_list(JsonOut *j, const char *key, const Row *r) {
    json_out_arr(j, key);
    for (int i = 0; i < r->n_list; i++) json_out_str(j, NULL, r->list[i]);
    json_out_arr_end(j);
}

static void put_tokens(JsonOut *j, const Row *r) {
    json_out_str(j, "kind", "tokens");
    json_out_arr(j, "input_ids");
    for (int i = 0; i < r->n_tok; i++) json_out_int(j, NULL, r->tok[i]);
    json_out_arr_end(j);
    json_out_arr(j, "learned");
    for (int i = 0; i < r->n_tok; i++) json_out_int(j, NULL, r->tok_weight[i] > 0);
    json_out_arr_end(j);
}

static void put_instruction(JsonOut *j, const Row *r) {
    json_out_str(j, "kind", r->plain ? "sft_plain" : "sft");
    if (r->plain) {
        put_prompt(j, r);
        json_out_str(j, "completion", r->a);
        return;
    }
    Json *all;
    Error err = {0};
    if (r->tools && json_parse(&all, r->tools, strlen(r->tools), 0, r->id, 1, &err)) {
        json_out_node(j, "messages", all);
        json_release(all);
    } else {
        put_messages(j, "messages", r->prompt, r->a);
    }
    if (r->learn_from) json_out_int(j, "loss_from", r->learn_from);
}

static void put_preference(JsonOut *j, const Row *r) {
    json_out_str(j, "kind", r->plain ? "preference_plain" : "preference");
    put_prompt(j, r);
    if (r->plain) {
        json_out_str(j, "chosen", r->a);
        json_out_str(j, "rejected", r->b);
    } else {
        put_reply(j, "chosen", r->a);
        put_reply(j, "rejected", r->b);
    }
    if (isfinite(r->margin)) json_out_num(j, "margin", r->margin);
}

static void put_unpaired(JsonOut *j, const Row *r) {
    json_out_str(j, "kind", r->plain ? "unpaired_plain" : "unpaired");
    put_prompt(j, r);
    if (r->plain)
        json_out_str(j, "completion", r->a);
    else
        put_reply(j, "completion", r->a);
    json_out_bool(j, "label", r->label == 1);
}

static void put_format(JsonOut *j, const Row *r) {
    bool dialogue = r->revision_request != NULL, critique = r->critique != NULL;
    json_out_str(j, "kind", dialogue ? "revision" : critique ? "critique" : "judge");
    put_messages(j, "prompt", r->prompt, NULL);
    if (dialogue) {
        json_out_str(j, "initial", r->a);
        json_out_arr(j, "rounds");
        json_out_obj(j, NULL);
        json_out_str(j, "critique_request", r->principle);
        json_out_str(j, "critique", r->critique);
        json_out_str(j, "revision_request", r->revision_request);
        json_out_str(j, "revision", r->b);
        json_out_obj_end(j);
        json_out_arr_end(j);
        return;
    }
    json_out_str(j, "principle", r->principle);
    json_out_str(j, critique ? "response" : "a", r->a);
    if (critique) json_out_str(j, "critique", r->critique);
    json_out_str(j, critique ? "revision" : "b", r->b);
    if (!critique) json_out_int(j, "label", r->label);
}

void row_to_json(Str *out, const Row *r) {
    JsonOut j;
    json_out_init(&j, out, 0);
    json_out_obj(&j, NULL);
    if (r->tok)
        put_tokens(&j, r);
    else if (r->kind == ROW_INSTRUCTION)
        put_instruction(&j, r);
    else if (r->kind == ROW_PREFERENCE)
        put_preference(&j, r);
    else if (r->kind == ROW_UNPAIRED)
        put_unpaired(&j, r);
    else if (r->kind == ROW_FORMAT)
        put_format(&j, r);
    else {
        json_out_str(&j, "kind", row_kind_name(r->kind));
        if (r->kind == ROW_TEXT) json_out_str(&j, "text", r->a);
        if (r->prompt.n) put_messages(&j, "prompt", r->prompt, NULL);
        if (r->kind == ROW_LABELLED) json_out_str(&j, "response", r->a);
        if (r->kind == ROW_LABELLED) json_out_bool(&j, "harmful", r->label == 1);
        if (r->kind == ROW_CHOICE) put_list(&j, "choices", r);
        if (r->kind == ROW_CHOICE) json_out_int(&j, "gold", r->label);
        if (r->kind == ROW_PARAPHRASE) put_list(&j, "prompts", r);
    }
    json_out_obj_end(&j);
}
