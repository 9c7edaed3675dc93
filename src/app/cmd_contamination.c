/* dikast contamination: training data against evaluation items. */
#include <stdlib.h>
#include <string.h>

#include "app/open.h"
#include "base/io.h"
#include "eval/contamination.h"

static const Flag flags[] = {{"--train", "FILES", "training data, a comma between the files (needed)"},
                             {"--n", "N", "words in a row that make an item contaminated (default 13)"},
                             {"--most", "SHARE", "largest share of a set that may be contaminated; more: exit 6"},
                             {"--out", "FILE", "write the JSON object there"},
                             MACHINE_FLAGS,
                             {0}};

static bool check_most(const Contamination *c, double most, Error *err) {
    for (int s = 0; s < contamination_sets(c); s++) {
        ContaminationCount n = contamination_count(c, s);
        if ((double)n.hits > most * (double)n.items)
            return error_set(err, ERR_GATE, "%s: %lld of %lld items are contaminated, --most allows %g", n.name,
                             (long long)n.hits, (long long)n.items, most);
    }
    return true;
}

static bool run(const Args *a, Error *err) {
    const Command *self = &command_contamination;
    const char *train = args_flag(a, self, "--train"), *out = args_flag(a, self, "--out");
    double most, start = now_s();
    int64_t n;
    Machine m = {0};
    if (!train) return error_set(err, ERR_CONFIG, "contamination needs --train FILES, what the models were trained on");
    if (!args_num(a, self, "--most", 1, 0, 1, &most, err) ||
        !args_int(a, self, "--n", CONTAMINATION_N, CONTAMINATION_LEAST, 255, &n, err) ||
        !machine_open(&m, a, self, err))
        return false;
    Contamination *c = contamination_new((int)n);
    Str text = {0}, table = {0};
    bool ok = true;
    for (int i = 0; i < a->n_arg && ok; i++) ok = contamination_set_file(c, a->arg[i], m.pool, err);
    ok = ok && contamination_train_list(c, train, m.pool, err);
    if (ok) {
        JsonOut j;
        json_out_init(&j, &text, 0);
        contamination_out(&j, NULL, c, now_s() - start);
        str_putc(&text, '\n');
        contamination_table(&table, c);
        ok = !out || io_write_file(out, text.s, text.n, err);
        if (ok) print_text(a->json ? &text : &table);
        ok = ok && check_most(c, most, err);
    }
    str_release(&text);
    str_release(&table);
    contamination_free(c);
    machine_close(&m);
    return ok;
}

const Command command_contamination = {
    .name = "contamination",
    .usage = "contamination ITEMS... --train FILES [--most SHARE] [--out FILE]",
    .help = "do evaluation items stand in the training data? By 13 words in a row\n\n"
            "ITEMS: files of evaluation rows of any shape (prompts, multiple choice, labelled replies, paraphrases, "
            "texts); "
            "each\n"
            "is a set. Of multiple choice the question with the right choice is looked for. Training files are of any "
            "shape too,\n"
            "and every text of a row counts. Words are runs of letters and digits, whatever their case.",
    .flag = flags,
    .min_arg = 1,
    .max_arg = MAX_ARGS,
    .run = run};
