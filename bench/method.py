#!/usr/bin/env python3
"""The method's experiments: runs configurations over seeds and writes what came out as Markdown tables (docs/results.md).

  bench/method.py world DIKAST OUT [--seeds 0 1 2 3 4] [--only NAME ...]   the tiny world and its controls
  bench/method.py ablate DIKAST OUT [--seeds 0 1] [--only NAME ...]        choices within the tiny world, one at a time
  bench/method.py real DIKAST OUT [--conf FILE] [--set key=value ...] [--only NAME ...]  conf/real.yaml and its baselines
  ... --table                                                             only the tables, of the runs that are there

Run from the project's root. A second call recomputes nothing; stages that runs have in common are computed once. A missed gate
(exit 6) is a result and is counted; any other failure ends the program."""
import argparse
import json
import os
import statistics
import subprocess
import sys

WORLD = {  # name of the run: configuration, further keys
    "main": ("conf/quickstart.yaml", []),
    "swap": ("conf/controls/swap.yaml", []),
    "no-critique": ("conf/controls/no-critique.yaml", []),
    "shuffled": ("conf/controls/shuffled.yaml", []),
    "beta0": ("conf/controls/beta0.yaml", []),
    "random-pm": ("conf/controls/random-pm.yaml", []),
    "random-pm-mirror": ("conf/controls/random-pm.yaml", ["pm.untrained=2"]),
    "irrelevant": ("conf/controls/irrelevant.yaml", []),
    "best-of-16": ("conf/controls/best-of-16.yaml", []),
    "guard": ("conf/controls/guard.yaml", []),
}
# Choices of critique and revision, at equal tokens: a dialogue costs tokens by its rounds, so rounds x dialogues is the same in
# all, and SL-CAI trains for the same steps. Judged after SL-CAI, by the gold program.
ROUNDS = {r: [f"revise.rounds={r}", f"revise.redteam={4800 // r}", f"revise.benign={2400 // r}"] for r in (1, 2, 3, 4)}
CRITIQUE = {
    "random, two rounds": ROUNDS[2],
    "top1": ROUNDS[2] + ["constitution.select=top1", "constitution.score=text"],
    "sampled": ROUNDS[2] + ["constitution.select=sampled", "constitution.score=text"],
    "two calls": ROUNDS[2] + ["revise.mode=two"],
    "one round": ROUNDS[1],
    "three rounds": ROUNDS[3],
    "four rounds": ROUNDS[4],
}
SL_STEPS = 88  # what two epochs were in the run without ablation
# Options of the preference model, on the main run's labels.
PM = {
    "as it is": [],
    "a head for each principle": ["pm.heads=principles"],
    "ensemble of 4": ["pm.ensemble=4"],
    "margin 1": ["pm.margin=1"],
    "length control": ["pm.length_control=true"],
    "calibrated": ["pm.calibrate=true"],
}
NAMED = ("animals", "theft", "fire", "school")  # categories whose principle is in force in conf/quickstart.yaml
REAL = {
    "real": [],
    "real-random": ["constitution.select=random"],
    "real-dpo": ["rl.method=dpo", "dpo.epochs=3"],
}


def run(dikast, conf, out, name, keys):
    command = [dikast, "run", conf, f"run.out={out}", "--name", name, "-q"] + keys
    code = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
    if code not in (0, 6):
        sys.exit(f"{' '.join(command)}: exit {code}")
    print(f"{name}: {'gates missed' if code else 'ok'}", flush=True)


def report(out, name):
    path = f"{out}/runs/{name}/report.json"
    if not os.path.exists(path):
        return None
    with open(path) as f:
        return json.load(f)


def number(r, key):
    return r["metrics"].get(key)


def spread(values, digits=2):
    values = [v for v in values if v is not None]
    if not values:
        return "-"
    mean = statistics.fmean(values)
    return f"{mean:.{digits}f}" if len(values) < 2 else f"{mean:.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + " --- |" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def world_name(name, seed):
    return f"{name}-{seed}"


def world_tables(out, seeds, names):
    columns = [("harm SFT", "eval.helpful.harm"), ("harm SL", "eval.sl.harm"), ("harm RL", "eval.rl.harm"),
               ("reason SL", "eval.sl.reason"), ("reason RL", "eval.rl.reason")]
    columns = [(h + w, k + e) for h, k in columns for w, e in ((", named", ".named"), (", unnamed", ".unnamed"))
               if not (k.endswith("reason") and e == ".unnamed")]
    columns += [("benign", "eval.rl.benign"), ("look-alike", "eval.rl.lookalike"), ("KL", "rl.kl"), ("score", "eval.rl.pm_score"),
                ("PM held-out", "pm.held_ai.accuracy")]
    rows = []
    for name in names:
        found = [r for r in (report(out, world_name(name, s)) for s in seeds) if r]
        if not found:
            continue
        met = sum(all(g["ok"] for g in r["gates"]) for r in found)
        rows.append([name, str(len(found))] + [spread([number(r, key) for r in found]) for _, key in columns] +
                    [f"{met} of {len(found)}"])
    table(["run", "seeds"] + [h for h, _ in columns] + ["all gates"], rows)
    misses = []
    for name in names:
        for s in seeds:
            r = report(out, world_name(name, s))
            misses += [[world_name(name, s), g["name"], f"{g['value']:.4g}", f"{g['bound']:.4g}"]
                       for g in (r["gates"] if r else []) if not g["ok"]]
    if misses:
        table(["run", "gate missed", "value", "bound"], misses)
    pairs = [("irrelevant", "eval.helpful.harm", "eval.sl.harm"), ("irrelevant", "eval.sl.reason", "eval.rl.reason"),
             ("shuffled", "eval.sl.reason.named", "eval.rl.reason.named"),
             ("random-pm", "eval.sl.reason.named", "eval.rl.reason.named"),
             ("random-pm-mirror", "eval.sl.reason.named", "eval.rl.reason.named"),
             ("best-of-16", "eval.best_of.harm.named", "eval.rl.harm.named"),
             ("best-of-16", "eval.best_of.reason.named", "eval.rl.reason.named"),
             ("best-of-16", "eval.best_of.pm_score", "eval.rl.pm_score"),
             ("guard", "rl.updates", "rl.guard.update"), ("guard", "eval.helpful.benign", "eval.rl.benign")]
    rows = []
    for name, a, b in pairs:
        found = [r for r in (report(out, world_name(name, s)) for s in seeds) if r]
        if name in names and found:
            rows.append([name, a, spread([number(r, a) for r in found], 3), b, spread([number(r, b) for r in found], 3)])
    table(["run", "beside", "mean ± sd", "of", "mean ± sd"], rows)


def stage_dir(out, name, stage):
    with open(f"{out}/runs/{name}/stages.json") as f:
        return json.load(f)[stage]["dir"]


def rows_of(path):
    with open(path) as f:
        return [json.loads(line) for line in f]


def harm_of(dikast, out, name):
    """Shares of harmful replies of SL-CAI to held-out requests, 4 each at temperature 0.7: where a principle is in force, and elsewhere."""
    prompts, folder = f"{stage_dir(out, name, 'world')}/eval_prompts.jsonl", f"{out}/runs/{name}/harm"
    asked = f"{out}/runs/{name}/asked.jsonl"
    kinds = {r["id"]: r for r in rows_of(prompts) if r.get("kind", "harm") == "harm"}
    if not os.path.exists(f"{folder}/worst.jsonl"):
        with open(asked, "w") as f:
            for r in kinds.values():
                f.write(json.dumps({"id": r["id"], "prompt": r["prompt"], "category": r["category"]}) + "\n")
        gold = os.path.join(os.path.dirname(dikast), "dikast-gold")
        subprocess.run([dikast, "harm", asked, "--model", f"{stage_dir(out, name, 'sl')}/model", "--gold", gold, "--worst-of", "4",
                        "--max-new", "24", "--out", folder, "-q"], check=True, stdout=subprocess.DEVNULL)
    shares = []
    for named in (True, False):
        replies = [r["harmful"] for r in rows_of(f"{folder}/worst.jsonl") if (kinds[r["id"]]["category"] in NAMED) == named]
        shares.append(sum(replies) / len(replies))
    return shares


def summary(out, name, stage):
    with open(f"{stage_dir(out, name, stage)}/summary.json") as f:
        return json.load(f)


def ablate(dikast, out, seeds, names):
    for s in seeds:
        for group, last in ((CRITIQUE, "sl"), (PM, "pm")):
            for name, keys in group.items():
                if names and name not in names:
                    continue
                keys = keys + ([f"sl.steps={SL_STEPS}"] if last == "sl" else []) + [f"run.seed={s}", "--only", last]
                run(dikast, "conf/quickstart.yaml", out, world_name(name.replace(" ", "-").replace(",", ""), s), keys)
                if last == "sl":
                    harm_of(dikast, out, world_name(name.replace(" ", "-").replace(",", ""), s))


def ablate_tables(dikast, out, seeds):
    def have(name, stage):
        found = [world_name(name.replace(" ", "-").replace(",", ""), s) for s in seeds]
        return [n for n in found if os.path.exists(f"{out}/runs/{n}/stages.json") and os.path.exists(f"{stage_dir(out, n, stage)}/DONE")]

    rows = []
    for name in CRITIQUE:
        found = have(name, "sl")
        if not found:
            continue
        keys = ("revised", "violates_share", "gate_pass_share", "critique_words", "accepted_share")
        revise = [summary(out, n, "revise") for n in found]
        harm = [harm_of(dikast, out, n) for n in found]
        rows.append([name, str(len(found)), spread([r["dialogues"] for r in revise], 0), spread([h[0] for h in harm]),
                     spread([h[1] for h in harm])] + [spread([r.get(k) for r in revise], 0 if k == "revised" else 2) for k in keys])
    table(["critique and revision", "seeds", "dialogues", "harm SL, named", "harm SL, unnamed", "revised", "violates", "gate passed",
           "critique, words", "accepted"], rows)
    rows = []
    keys = ("held_ai.accuracy", "held_ai.ece", "held_helpful.accuracy", "held_helpful.ece", "gold.accuracy", "gold.ece")
    for name in PM:
        found = have(name, "pm")
        if found:
            pm = [summary(out, n, "pm") for n in found]
            rows.append([name, str(len(found))] + [spread([r.get(k) for r in pm], 3) for k in keys])
    table(["preference model", "seeds"] + list(keys), rows)


def interval(r, key, percent=True):
    m, lo, hi = (number(r, key + e) for e in ("", ".lo", ".hi"))
    if m is None:
        return "-"
    if not percent:
        return f"{m:.3g}"
    return f"{100 * m:.1f}" if lo is None else f"{100 * m:.1f} ({100 * lo:.1f} to {100 * hi:.1f})"


def real_tables(out, names):
    columns = [("harmful", "harm"), ("help: harmless requests not refused", "benign"), ("refused, red-team", "refusal.harm"),
               ("evasive openings", "gauge.evasive"), ("top 4-gram", "gauge.top4"), ("duplicates", "gauge.duplicates"),
               ("stock comfort", "gauge.comfort"), ("ended", "ended")]
    models = [("real", "helpful", "SFT only"), ("real", "sl", "SL-CAI"), ("real", "best_of", "SL-CAI, best of 16 by PM"),
              ("real-dpo", "rl", "DPO on the pairs"), ("real", "rl", "RL-CAI"),
              ("real-random", "sl", "SL-CAI, random principle"), ("real-random", "rl", "RL-CAI, random principle")]
    rows = []
    for run_name, model, words in models:
        r = report(out, run_name)
        if r and run_name in names and number(r, f"eval.{model}.harm") is not None:
            rows.append([words] + [interval(r, f"eval.{model}.{key}") for _, key in columns] +
                        [interval(r, f"eval.{model}.length", False)])
    table(["model, %"] + [h for h, _ in columns] + ["tokens"], rows)
    rows = []
    for run_name in names:
        r = report(out, run_name)
        for a, b in (("helpful", "sl"), ("sl", "rl"), ("helpful", "rl")) if r else ():
            if number(r, f"eval.delta.{a}-{b}.harm") is None:
                continue
            base = number(r, f"eval.{a}.harm")
            change = number(r, f"eval.delta.{a}-{b}.harm")
            rows.append([run_name, f"{a} -> {b}", interval(r, f"eval.delta.{a}-{b}.harm"),
                         f"{100 * change / base:+.0f} %" if base else "-", interval(r, f"eval.delta.{a}-{b}.benign")])
    table(["run", "models", "harmful, points, paired", "relative", "harmless answered, points, paired"], rows)
    rows = []
    for key in ("label.judge.accuracy", "label.flip_rate", "pm.held_ai.accuracy", "pm.held_human.accuracy", "classifier.auroc",
                "rl.kl", "rl.guard.checks", "rl.guard.stopped", "rl.guard.score", "eval.rl.choice.acc"):
        values = [(number(report(out, n), key) if report(out, n) else None) for n in names]
        if any(v is not None for v in values):
            rows.append([key] + ["-" if v is None else f"{v:.3g}" for v in values])
    table(["number"] + list(names), rows)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("what", choices=["world", "ablate", "real"])
    p.add_argument("dikast")
    p.add_argument("out")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    p.add_argument("--only", nargs="+")
    p.add_argument("--set", nargs="+", default=[])
    p.add_argument("--conf", default="conf/real.yaml", help="real: this configuration")
    p.add_argument("--table", action="store_true")
    a = p.parse_args()
    if a.what == "ablate":
        if not a.table:
            ablate(a.dikast, a.out, a.seeds, a.only)
        ablate_tables(a.dikast, a.out, a.seeds)
        return
    names = a.only or list(WORLD if a.what == "world" else REAL)
    if not a.table:
        if a.what == "world":  # the main runs first: what controls compare themselves with
            for name in names:
                for s in a.seeds:
                    conf, keys = WORLD[name]
                    keys = keys + [f"run.seed={s}"] + a.set
                    if name == "beta0":
                        keys.append(f"eval.base={world_name('main', s)}")
                    if name == "shuffled":
                        keys.append(f"pm.shuffle={s + 1}")
                    run(a.dikast, conf, a.out, world_name(name, s), keys)
        else:
            for name in names:
                run(a.dikast, a.conf, a.out, name, REAL[name] + a.set)
    world_tables(a.out, a.seeds, names) if a.what == "world" else real_tables(a.out, names)


if __name__ == "__main__":
    main()
