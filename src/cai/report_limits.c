/* What the numbers do not show. Depends on the run: every sentence here is there because of something in it. */
#include "cai/report_int.h"

#include <math.h>
#include <string.h>

static void item(Page *p, const char *title, const char *text) {
    str_printf(p->out, "<li><strong>%s</strong> %s</li>\n", title, text);
}

static void what_it_shows(Page *p) {
    double n = page_metric(p, "pretrain.parameters");
    if (p->world) {
        item(p, "Mechanism and cause, not safety.",
             "The tiny world is a generated language of short sentences. Its exact rule makes it possible to say what "
             "the method caused "
             "and what it did not; nothing follows for models that people talk to.");
        return;
    }
    str_put(p->out, "<li><strong>A model of ");
    if (isfinite(n))
        html_count(p->out, n);
    else
        str_put(p->out, "few");
    str_put(p->out, " parameters, trained for a short time.</strong> It can show that each step does what it should: "
                    "that labels follow "
                    "principles, that the preference model follows labels, that the policy follows the preference "
                    "model. It cannot show how "
                    "helpful or harmless a model of useful size would be, and a principle it cannot understand it "
                    "cannot follow.</li>\n");
}

static void feedback(Page *p) {
    double acc = page_metric(p, "label.judge.accuracy"), n = page_metric(p, "pretrain.parameters");
    bool remote = isfinite(page_metric(p, "label.remote.answers"));
    str_put(p->out, remote ? "<li><strong>The feedback model is a service’s"
                           : "<li><strong>The feedback model is the run’s own helpful model");
    if (isfinite(n) && !remote) {
        str_put(p->out, " (");
        html_count(p->out, n);
        str_put(p->out, " parameters)");
    }
    str_put(p->out,
            remote ? ".</strong> It judged every pair, and what it is may change without notice; the run’s own helpful "
                     "model wrote the critiques and revisions. "
                   : ".</strong> It wrote the critiques and revisions and judged every pair; no other model and no "
                     "person labelled the pairs. ");
    if (isfinite(acc)) {
        str_put(p->out, "On pairs with a known answer it is right in ");
        html_percent(p->out, acc);
        str_put(p->out,
                acc < 0.7
                    ? ": close to a coin, so labels and all that follows from them carry little of the constitution."
                    : ".");
    } else
        str_put(p->out, "How often it is right was not measured.");
    str_put(p->out, "</li>\n");
}

static bool plays_no_part(const Page *p, const char *metric) {
    for (int i = 0; i < PAGE_MODELS; i++)
        if (isfinite(page_metric(p, "eval.%s.%s", page_model[i].id, metric))) return false;
    return true;
}

static void not_measured(Page *p) {
    str_put(p->out, "<li><strong>Not measured:</strong> ");
    if (!p->harm_measured) str_put(p->out, "harm (no exact rule, no <code>data.harm_qa</code>); ");
    if (plays_no_part(p, "choice.acc"))
        str_put(p->out, "capability on multiple choice (no <code>data.choice</code>); ");
    if (p->cfg->eval.bon < 2) str_put(p->out, "best-of-n sampling, what RL has to beat (<code>eval.best_of</code>); ");
    if (!p->world && !isfinite(page_metric(p, "pm.human.accuracy")))
        str_put(p->out, "agreement with people (no <code>data.prefs_harmless</code>); ");
    str_put(p->out, "spread over seeds (one run is one seed); attacks by an adversary who adapts; dialogues of several "
                    "turns; judgement of "
                    "replies by people.</li>\n");
}

void report_limits(Page *p) {
    const RunConfig *c = p->cfg;
    page_section(p, "limits", "Limits");
    str_put(p->out, "<ul>\n");
    what_it_shows(p);
    feedback(p);
    if (!p->world && c->data.format.n == 0 && c->data.harm_qa.n + c->data.prefs_harmless.n > 0)
        item(p, "People’s labels taught it the form of judging.",
             "Half of <code>data.harm_qa</code> and <code>data.prefs_harmless</code> served as demonstrations of "
             "critique and judgement; "
             "the other half teaches the classifier and checks judge, preference model and classifier.");
    if (p->world)
        item(p, "Helpfulness labels are made by a rule.",
             "The helpfulness preferences come from the world’s generator, as do the demonstrations of critique and "
             "judging; only "
             "the harmlessness labels are the model’s own.");
    else if (c->data.prefs_helpful.n > 0)
        item(p, "Helpfulness labels are taken as given.",
             "They come from the files in <code>data.prefs_helpful</code>; the run does not know whether people, a "
             "rule or another model "
             "made them.");
    else
        item(p, "No helpfulness labels.", "The preference model learned from AI labels of harmlessness alone.");
    if (p->world)
        item(p, "Principles not in force are the control.",
             "Harm that falls where a principle applies and not where none does was caused by the constitution. Where "
             "both fall, the model "
             "learned to decline more broadly than it was told.");
    else if (p->harm_measured)
        item(p, "Harm is what the classifier says.",
             "It is small, learned from labelled replies of other models, and may not know this model’s mistakes. A "
             "reply that makes "
             "no sense counts as harmless.");
    if (!p->world)
        item(p, "‘Answered’ means not refused.",
             "Refusals are recognised by their opening words. Whether an answer helps was not judged.");
    item(p, "Intervals are for prompts, not for training.",
         "The 95\xc2\xa0% intervals say how far a figure would move with other prompts of the same kind. Another seed, "
         "other data or other "
         "settings can move it further.");
    item(p, "The preference model’s score is not a result.",
         "RL-CAI was trained to raise it, so its rise shows optimisation, not quality.");
    not_measured(p);
    str_put(p->out, "</ul>\n");
    page_section_end(p);
}
