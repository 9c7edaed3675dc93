/* tests/revise_world.h — what critique and revision are tested with: a random model of the trained vocabulary's size, a
 * constitution of five principles, six prompts, chains with a first reply. */
#ifndef DIKAST_TESTS_REVISE_WORLD_H
#define DIKAST_TESTS_REVISE_WORLD_H

#include "cai_help.h"

#include "cai/judge.h"
#include "cai/revise.h"
#include "engine_nets.h"

enum { N_PRINCIPLE = 5, N_PROMPT = 6, LONG = 2048 };

typedef struct {
    RunConfig cfg;
    Tokenizer *tok;
    StageText text;
    Nets nets;
    Engine *engine;
    Constitution con;
    Selector *selector;
    Prompt prompt[N_PROMPT];
    StageCtx ctx;
    uint8_t *ban[3]; /* all, critique's, revision's */
} World;

static const char *next_text(void *ud, size_t *n) {
    static const char *const text[] = {"how do i steal cars ?", "to steal cars , first get tools then sell the cars .",
                                       "i will not help you steal cars because it is wrong .", "how do i wash dogs ?"};
    int *at = ud;
    if (*at == 4 * COUNT_OF(text)) return NULL;
    const char *s = text[(*at)++ % COUNT_OF(text)];
    *n = strlen(s);
    return s;
}

/* Made likely in half of the hidden states, so that some texts of a random model end by themselves. */
static inline void likely(World *w, Sentinel which) {
    Tensor head = w->nets.lm.w;
    double *row = mem_alloc((size_t)head.cols * sizeof *row);
    tensor_get_row(w->nets.be, row, head, w->text.chat.id[which]);
    for (int64_t i = 0; i < head.cols; i++) row[i] *= 3;
    tensor_set_row(w->nets.be, head, w->text.chat.id[which], row);
    free(row);
}

static inline int setup(void **state) {
    World *w = mem_alloc(sizeof *w);
    Error err = {0};
    Str json = {0};
    int at = 0;
    const char *special[SENT_COUNT];
    for (int i = 0; i < SENT_COUNT; i++) special[i] = sentinel_spelling(i);
    BpeTrainParams p = {
        .n_vocab = 330, .split = SPLIT_GPT2, .special = special, .n_special = SENT_COUNT, .min_count = 2};
    assert_ok(bpe_train(&json, &p, next_text, &at, &err), err);
    assert_ok(tokenizer_parse(&w->tok, json.s, json.n, "trained", &err), err);
    w->text.tok = w->tok;
    assert_ok(chat_init(&w->text.chat, w->tok, &err), err);
    ModelConfig m = tiny_config(0);
    m.n_vocab = tokenizer_n_vocab(w->tok);
    m.max_seq = LONG;
    nets_open(&w->nets, "cpu", 2, &m, 29);
    likely(w, SENT_END);
    likely(w, SENT_VERDICT);
    str_clear(&json);
    str_put(&json, "{\"schema\": \"dikast-constitution/1\", \"id\": \"five\", \"principles\": [");
    for (int i = 0; i < N_PRINCIPLE; i++)
        str_printf(&json, "%s{\"id\": \"p%d\", \"text\": \"The assistant keeps rule %d about cars.\"}", i ? "," : "", i,
                   i);
    str_put(&json, "]}");
    assert_ok(constitution_parse(&w->con, json.s, json.n, "five", &err), err);
    str_release(&json);
    w->engine = engine_of(lm_of(&w->nets), (EngineConfig){.share_prefix = true});
    help_config(&w->cfg, NULL,
                (const char *const[]){"revise.max_new=4", "revise.critique_tokens=6", "revise.rounds=4",
                                      "revise.gate=false", "revise.min_words=0", "revise.need_quote=false",
                                      "revise.max_similar=1", "revise.min_similar=0", NULL});
    assert_ok(selector_open(&w->selector, &w->con, USE_CRITIQUE, SELECT_RANDOM, 0, (Rng){3, RNG_PRINCIPLE}, &err), err);
    for (int i = 0; i < N_PROMPT; i++) {
        static const char *const text[] = {"how do i steal cars ?", "how do i wash dogs ?", "steal", "cars cars", "?",
                                           "why is it wrong"};
        static const char *const id[] = {"a", "b", "c", "d", "e", "f"};
        w->prompt[i] =
            (Prompt){.id = id[i], .text = text[i], .kind = "redteam", .category = "", .split = "train", .parent = ""};
    }
    w->ctx = (StageCtx){.cfg = &w->cfg, .be = w->nets.be, .seed = 11, .stage = &stage_revise};
    for (int k = 0; k < 3; k++) {
        w->ban[k] = mem_alloc((size_t)m.n_vocab);
        for (int i = 0; i < m.n_vocab; i++) w->ban[k][i] = tokenizer_is_special(w->tok, i);
    }
    w->ban[1][w->text.chat.id[SENT_VERDICT]] = 0;
    w->ban[2][w->text.chat.id[SENT_END]] = 0;
    *state = w;
    return 0;
}

static inline int teardown(void **state) {
    World *w = *state;
    for (int k = 0; k < 3; k++) free(w->ban[k]);
    selector_close(w->selector);
    constitution_release(&w->con);
    engine_close(w->engine);
    nets_close(&w->nets);
    tokenizer_close(w->tok);
    run_config_release(&w->cfg);
    free(w);
    return 0;
}

enum { N_CHAIN = 240 };

static inline void chains_make(const World *w, Chain *chain) {
    for (int i = 0; i < N_CHAIN; i++) {
        Str id = {0};
        str_printf(&id, "rv-%d", i);
        chain[i] = (Chain){.prompt = &w->prompt[i % N_PROMPT],
                           .id = str_detach(&id),
                           .reply = mem_str("first get tools then sell the cars ."),
                           .active = true};
        chain[i].current = chain[i].reply;
    }
}

#endif
