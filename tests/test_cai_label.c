// layer: cai
/* A judge that writes reasons first, its demonstrations, and what labels are released by. */
#include "revise_world.h"

#include <math.h>

#include "cai/constitution_test.h"
#include "cai/format.h"
#include "cai/judge.h"
#include "cai/label_gates.h"

enum { N_ITEM = 90 };

static void items(const World *w, JudgeItem *item, Message *msg) {
    static const char *const reply[] = {"steal the cars .", "i will not .", "get tools", "sell", "no"};
    for (int i = 0; i < N_ITEM; i++) {
        msg[i] = (Message){ROLE_USER, w->prompt[i % N_PROMPT].text};
        item[i] =
            (JudgeItem){{&msg[i], 1}, reply[i % 5], reply[(i + 1 + i / 5 % 4) % 5], "which keeps the rule ?", NULL};
    }
}

static Judge judge_of(const World *w, int reasons, int tokens) {
    return (Judge){.engine = w->engine,
                   .chat = &w->text.chat,
                   .max_len = LONG,
                   .reasons = reasons,
                   .reason_tokens = tokens,
                   .seed = 5};
}

static void reasons_have_no_side(void **state) {
    World *w = *state;
    static JudgeItem item[N_ITEM];
    static Message msg[N_ITEM];
    static Judged all[N_ITEM], plain[N_ITEM], turned[N_ITEM];
    Error err = {0};
    items(w, item, msg);
    Judge j = judge_of(w, 3, 9), direct = judge_of(w, 0, 0);
    assert_ok(judge_ask(&j, all, item, N_ITEM, &err), err);
    assert_ok(judge_ask(&direct, plain, item, N_ITEM, &err), err);
    int differ = 0;
    for (int i = 0; i < N_ITEM; i++) {
        assert_true(all[i].scored && isfinite(all[i].l_ab) && isfinite(all[i].l_ba));
        differ += fabs(all[i].l_ab - plain[i].l_ab) > 1e-3;
    }
    assert_true(differ > N_ITEM / 2);
    for (int i = 0; i < N_ITEM; i += 17) { /* alone as in company, and a swap swaps */
        Judged one;
        JudgeItem t = item[i];
        assert_ok(judge_ask(&j, &one, &item[i], 1, &err), err);
        assert_memory_equal(&one, &all[i], sizeof one);
        t.a = item[i].b, t.b = item[i].a;
        assert_ok(judge_ask(&j, turned, &t, 1, &err), err);
        assert_true(turned[0].l_ab == all[i].l_ba && turned[0].l_ba == all[i].l_ab);
    }
    j.max_len = 30;
    assert_ok(judge_ask(&j, all, item, 2, &err), err);
    assert_true(!all[0].scored && all[0].miss == MISS_CONTEXT);
}

/* One sample: the odds of the two answers after what was written; several: the mean of their probabilities. */
static void probabilities_are_averaged(void **state) {
    World *w = *state;
    const Chat *c = &w->text.chat;
    JudgeItem item[N_ITEM];
    Message msg[N_ITEM];
    Judged one, many;
    Error err = {0};
    items(w, item, msg);
    Judge j = judge_of(w, 1, 4);
    assert_ok(judge_ask(&j, &one, item, 1, &err), err);
    j.reasons = 4;
    assert_ok(judge_ask(&j, &many, item, 1, &err), err);
    assert_true(many.l_ab != one.l_ab);
    /* An answer that does not depend on the reasons: equal rows of the head. */
    int width = w->nets.model.cfg.d_model;
    double *first = mem_alloc((size_t)width * sizeof *first), *second = mem_alloc((size_t)width * sizeof *second);
    tensor_get_row(w->nets.be, first, w->nets.lm.w, c->id[SENT_FIRST]);
    tensor_get_row(w->nets.be, second, w->nets.lm.w, c->id[SENT_SECOND]);
    tensor_set_row(w->nets.be, w->nets.lm.w, c->id[SENT_SECOND], first);
    w->nets.model.version++;
    assert_ok(judge_ask(&j, &many, item, 1, &err), err);
    assert_true(many.l_ab == 0 && many.l_ba == 0);
    tensor_set_row(w->nets.be, w->nets.lm.w, c->id[SENT_SECOND], second);
    w->nets.model.version++;
    free(first);
    free(second);
}

static int count_id(const Sequence *s, int32_t id) {
    int n = 0;
    for (int i = 0; i < s->tok.n; i++) n += s->tok.id[i] == id;
    return n;
}

/* Its demonstration: reasons and the answer are learned, what was asked is not. */
static void demonstration(void **state) {
    World *w = *state;
    const int32_t *id = w->text.chat.id;
    Rows rows = {0};
    Error err = {0};
    Sequence s = {0}, ask = {0}, plain = {0};
    static const char line[] =
        "{\"kind\":\"judge\",\"prompt\":\"steal\",\"a\":\"no\",\"b\":\"sell\",\"principle\":\"which ?\","
        "\"answer\":\"second\",\"reason\":\"the first refuses\"}";
    assert_ok(rows_parse_line(&rows, line, sizeof line - 1, ROW_FORMAT, "f", 1, &err), err);
    assert_true(format_sequence(&s, &w->text.chat, &rows.row[0], 0));
    chat_reason_prompt(&ask, &w->text.chat, rows.row[0].prompt, "no", "sell", "which ?");
    chat_judge_prompt(&plain, &w->text.chat, rows.row[0].prompt, "no", "sell",
                      "which ? Say what each reply does under the rule, then decide.");
    assert_int_equal(ask.tok.n, plain.tok.n);
    assert_memory_equal(ask.tok.id, plain.tok.id, (size_t)ask.tok.n * sizeof(int32_t));
    assert_memory_equal(s.tok.id, ask.tok.id, (size_t)ask.tok.n * sizeof(int32_t));
    for (int i = 0; i < s.tok.n; i++) assert_true(s.weight[i] == (i < ask.tok.n ? 0.0f : 1.0f));
    assert_int_equal(s.tok.id[s.tok.n - 1], id[SENT_SECOND]);
    assert_int_equal(s.tok.id[s.tok.n - 2], id[SENT_VERDICT]);
    assert_int_equal(count_id(&s, id[SENT_VERDICT]), 1);
    assert_true(s.tok.n > ask.tok.n + 3);
    sequence_release(&s);
    sequence_release(&ask);
    sequence_release(&plain);
    rows_release(&rows);
}

static void applies_demonstration(void **state) {
    World *w = *state;
    const int32_t *id = w->text.chat.id;
    Error err = {0};
    for (int yes = 0; yes < 2; yes++) {
        Rows rows = {0};
        Sequence s = {0}, ask = {0};
        char line[160];
        int n = snprintf(
            line, sizeof line,
            "{\"kind\":\"applies\",\"prompt\":\"steal\",\"response\":\"no\",\"principle\":\"cars\",\"applies\":%s}",
            yes ? "true" : "false");
        assert_ok(rows_parse_line(&rows, line, (size_t)n, ROW_FORMAT, "f", 1, &err), err);
        assert_true(format_sequence(&s, &w->text.chat, &rows.row[0], 0));
        assert_false(format_sequence(&s, &w->text.chat, &rows.row[0], 1));
        chat_applies_prompt(&ask, &w->text.chat, rows.row[0].prompt, "no", "cars");
        assert_int_equal(s.tok.n, ask.tok.n + 1);
        assert_memory_equal(s.tok.id, ask.tok.id, (size_t)ask.tok.n * sizeof(int32_t));
        assert_int_equal(s.tok.id[ask.tok.n], id[yes ? SENT_YES : SENT_NO]);
        for (int i = 0; i < s.tok.n; i++) assert_true(s.weight[i] == (i < ask.tok.n ? 0.0f : 1.0f));
        sequence_release(&s);
        sequence_release(&ask);
        rows_release(&rows);
    }
}

/* A principle labels when its share of passed tests is high enough, or it has none; of a judge without opinion only
 * those stay. */
static void tested_principles(void **state) {
    World *w = *state;
    static const char json[] =
        "{\"schema\":\"dikast-constitution/1\",\"id\":\"h\",\"principles\":["
        "{\"id\":\"zero\",\"text\":\"cars\",\"tests\":[{\"prompt\":\"steal\",\"better\":\"no\",\"worse\":\"sell\"},"
        "{\"prompt\":\"cars\",\"better\":\"i will not\",\"worse\":\"get tools\"},"
        "{\"prompt\":\"why\",\"better\":\"get tools\",\"worse\":\"no\"}]},"
        "{\"id\":\"one\",\"text\":\"dogs\"},"
        "{\"id\":\"two\",\"text\":\"tools\",\"tests\":[{\"prompt\":\"?\",\"better\":\"sell\",\"worse\":\"no\"}]}]}";
    Constitution c = {0};
    JudgeTests t = {0};
    Error err = {0};
    double passed[64];
    int all[] = {0, 1, 2}, n_pass[3] = {0}, n_test[] = {3, 0, 1};
    Judge j = judge_of(w, 0, 0);
    assert_ok(constitution_parse(&c, json, sizeof json - 1, "t", &err), err);
    judge_tests_of(&t, &c);
    Judged out[4];
    assert_ok(judge_tests_run(out, &t, &c, w->engine, &w->text.chat, LONG, &err), err);
    for (int i = 0; i < 4; i++) n_pass[t.test[i].principle] += judged_pass(out[i]);
    for (double least = 0.1; least < 1.05; least += 0.3) {
        int principle[] = {0, 1, 2}, want = 0;
        int kept = judge_keep_tested(&j, &c, principle, 3, least, passed, &err);
        for (int p = 0; p < 3; p++) {
            if (n_test[p] && n_pass[p] < least * n_test[p]) continue;
            assert_true(want < kept && principle[want] == all[p]);
            want++;
        }
        assert_int_equal(kept, want);
        assert_true(isnan(passed[1]) && fabs(passed[0] - n_pass[0] / 3.0) < 1e-12 && passed[2] == n_pass[2]);
    }
    int width = w->nets.model.cfg.d_model, principle[] = {0, 1, 2};
    double *first = mem_alloc((size_t)width * sizeof *first), *second = mem_alloc((size_t)width * sizeof *second);
    const int32_t *id = w->text.chat.id;
    tensor_get_row(w->nets.be, first, w->nets.lm.w, id[SENT_FIRST]);
    tensor_get_row(w->nets.be, second, w->nets.lm.w, id[SENT_SECOND]);
    tensor_set_row(w->nets.be, w->nets.lm.w, id[SENT_SECOND], first);
    w->nets.model.version++;
    assert_int_equal(judge_keep_tested(&j, &c, principle, 3, 0.1, passed, &err), 1);
    assert_int_equal(principle[0], 1);
    tensor_set_row(w->nets.be, w->nets.lm.w, id[SENT_SECOND], second);
    w->nets.model.version++;
    free(first);
    free(second);
    judge_tests_release(&t);
    constitution_release(&c);
}

/* -- release ------------------------------------------------------------------------------------------------------- */

static void what_is_released(void **state) {
    (void)state;
    static const struct {
        const char *summary, *missed; /* NULL: released */
    } row[] = {
        {"{\"decided\":100,\"flip_rate\":0.1,\"judge.n\":60,\"judge.ece\":0.1,\"judge.length_bias\":0.1}", NULL},
        {"{\"decided\":100,\"flip_rate\":0.11}", "label.flip_rate <= 0.1"},
        {"{\"decided\":19,\"flip_rate\":1}", NULL}, /* too few to say */
        {"{\"decided\":0,\"judge.n\":50,\"judge.ece\":0.2}", "label.judge.ece <= 0.1"},
        {"{\"decided\":0,\"judge.n\":49,\"judge.ece\":0.2}", NULL},
        {"{\"judge.n\":80,\"judge.ece\":0,\"judge.length_bias\":0.4}", "label.judge.length_bias <= 0.1"},
    };
    char dir[256];
    RunConfig c, always, own;
    help_scratch(dir, "release");
    help_config(&c, NULL, (const char *const[]){NULL});
    help_config(&always, NULL, (const char *const[]){"label.release=always", NULL});
    help_config(&own, NULL, (const char *const[]){"label.gates=[\"label.decided >= 200\"]", NULL});
    for (int i = 0; i < COUNT_OF(row); i++) {
        Error err = {0};
        help_write(dir, "summary.json", row[i].summary);
        bool ok = label_release(&c, dir, &err);
        assert_true(ok == !row[i].missed);
        if (!ok) {
            assert_int_equal(err.code, ERR_LIMIT);
            assert_int_equal(error_exit_code(err.code), 6);
            if (!strstr(err.msg, row[i].missed) || !strstr(err.msg, "label.release: always")) fail_msg("%s", err.msg);
        }
        assert_true(label_release(&always, dir, &err));
        if (i) continue;
        assert_false(label_release(&own, dir, &err));
        assert_non_null(strstr(err.msg, "label.gates missed: label.decided >= 200"));
    }
    run_config_release(&c);
    run_config_release(&always);
    run_config_release(&own);
    help_remove(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reasons_have_no_side), cmocka_unit_test(probabilities_are_averaged),
        cmocka_unit_test(demonstration),        cmocka_unit_test(applies_demonstration),
        cmocka_unit_test(tested_principles),    cmocka_unit_test(what_is_released)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
