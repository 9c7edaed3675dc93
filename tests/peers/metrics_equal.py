#!/usr/bin/env python3
"""Metrics beside scikit-learn, scipy, statsmodels and choix, on random data.

    metrics_equal.py METRICS_ADAPTER [--seed N] [--cases N]

AUPRC, ROC, F1, precision, recall, Brier, kappa, weighted kappa, Spearman: to 1e-9. Fleiss' kappa, McNemar, Holm, Wilson:
statsmodels, 1e-9. Bradley-Terry: choix and, with ties, a logistic regression of statsmodels, 1e-6 in log-odds; the length-controlled
variant: the same regression with one column more. Exit status 77 when a package is missing.
"""
import argparse, json, math, random, subprocess, sys, tempfile, warnings

try:
    import choix
    import numpy as np
    import scipy.stats
    import sklearn.metrics as sk
    import statsmodels.api as sm
    from statsmodels.stats.contingency_tables import mcnemar
    from statsmodels.stats.inter_rater import fleiss_kappa
    from statsmodels.stats.multitest import multipletests
    from statsmodels.stats.proportion import proportion_confint
except ImportError as missing:
    print("no %s" % missing.name)
    sys.exit(77)

warnings.filterwarnings("ignore")


def detect(rng):
    n = rng.randrange(5, 400)
    y = [rng.randrange(2) for _ in range(n)]
    if len(set(y)) < 2:
        y[0], y[1] = 0, 1
    digits = rng.choice([1, 2, 17])  # few digits: many ties
    s = [round(min(1, max(0, rng.gauss(.3 + .3 * k, .25))), digits) for k in y]
    t = rng.choice([.3, .5, .7])
    said = [int(p >= t) for p in s]
    zero = dict(zero_division=0)
    tn = sum(1 for a, b in zip(y, said) if not a and not b)
    fp = sum(1 for a, b in zip(y, said) if not a and b)
    flagged = any(said)
    want = [sk.average_precision_score(y, s), sk.roc_auc_score(y, s), sk.brier_score_loss(y, s), sk.f1_score(y, said, **zero),
            sk.precision_score(y, said, **zero) if flagged else 0, sk.recall_score(y, said, **zero), fp / (fp + tn),
            sk.balanced_accuracy_score(y, said), sk.accuracy_score(y, said)]
    # The area under scikit-learn's curve, by trapezoids: the curve is ours too when the areas and the corners agree.
    fpr, tpr, _ = sk.roc_curve(y, s)
    assert abs(sk.auc(fpr, tpr) - want[1]) < 1e-12
    return {"fn": "detect", "y": y, "s": s, "threshold": t}, want, 1e-9


def agree(rng):
    n, k = rng.randrange(5, 300), rng.randrange(2, 6)
    a = [rng.randrange(k) for _ in range(n)]
    b = [x if rng.random() < .6 else rng.randrange(k) for x in a]
    a[0], b[0], a[1], b[1] = 0, 0, k - 1, k - 1
    labels = list(range(k))
    return ({"fn": "agree", "a": a, "b": b, "classes": k},
            [sk.cohen_kappa_score(a, b, labels=labels), sk.cohen_kappa_score(a, b, labels=labels, weights="quadratic"),
             scipy.stats.spearmanr(a, b).statistic], 1e-9)


def fleiss(rng):
    items, k, raters = rng.randrange(3, 60), rng.randrange(2, 5), rng.randrange(2, 8)
    table = np.zeros((items, k), int)
    for i in range(items):
        for _ in range(raters):
            table[i, rng.randrange(k)] += 1
    table[0] = [raters] + [0] * (k - 1)
    table[1] = [0] * (k - 1) + [raters]
    return {"fn": "fleiss", "a": table.flatten().tolist(), "items": items, "classes": k}, [fleiss_kappa(table)], 1e-9


def tests(rng):
    b, c = rng.randrange(60), rng.randrange(60)
    return {"fn": "mcnemar", "b01": b, "b10": c}, [mcnemar([[5, b], [c, 7]], exact=True).pvalue if b + c else 1], 1e-9


def holm(rng):
    p = [rng.random() ** 4 for _ in range(rng.randrange(1, 30))]
    return {"fn": "holm", "a": p}, list(multipletests(p, method="holm")[1]), 1e-9


def wilson(rng):
    n = rng.randrange(1, 500)
    k = rng.randrange(n + 1)
    return {"fn": "wilson", "hits": k, "of": n}, list(proportion_confint(k, n, method="wilson")), 1e-9


def games(rng, models, n, ties):
    t = [rng.gauss(0, 1) for _ in range(models)]
    a, b, o, length = [], [], [], []
    for i in range(n):
        x, y = rng.sample(range(models), 2)
        if i < models:
            x, y = i, (i + 1) % models  # a ring, both ways below: everybody wins and loses
        d = rng.gauss(0, 40)
        p = 1 / (1 + math.exp(t[y] - t[x] - .6 * math.tanh(d / 40)))
        a.append(x), b.append(y), length.append(round(d))
        o.append(.5 if ties and rng.random() < .2 else int(rng.random() < p))
    for i in range(models):
        for to, two in ((a, [i, i]), (b, [(i + 1) % models] * 2), (o, [1, 0]), (length, [10, -10])):
            to.extend(two)
    return a, b, o, length


def design(a, b, models):
    x = np.zeros((len(a), models - 1))
    for i, (p, q) in enumerate(zip(a, b)):
        if p:
            x[i, p - 1] += 1
        if q:
            x[i, q - 1] -= 1
    return x


def regression(x, o):
    return sm.GLM(np.array(o, float), x, family=sm.families.Binomial()).fit(tol=1e-14, maxiter=200).params


def rank_choix(rng):
    models = rng.randrange(2, 9)
    a, b, o, _ = games(rng, models, rng.randrange(20, 400), False)
    won = [(p, q) if w else (q, p) for p, q, w in zip(a, b, o)]
    want = choix.ilsr_pairwise(models, won, alpha=0, max_iter=2000, tol=1e-11)
    return {"fn": "rank", "a": a, "b": b, "o": o, "models": models}, list(want - want[0]), 1e-6


def rank_ties(rng):
    models = rng.randrange(2, 9)
    a, b, o, _ = games(rng, models, rng.randrange(20, 400), True)
    return {"fn": "rank", "a": a, "b": b, "o": o, "models": models}, [0] + list(regression(design(a, b, models), o)), 1e-6


def rank_length(rng):
    models = rng.randrange(2, 7)
    a, b, o, length = games(rng, models, rng.randrange(60, 400), True)
    sd = math.sqrt(sum(d * d for d in length) / len(length))
    x = np.column_stack([design(a, b, models), np.tanh(np.array(length) / sd)])
    got = regression(x, o)
    return {"fn": "rank", "a": a, "b": b, "o": o, "len": length, "models": models}, [0] + list(got), 1e-6


def main():
    p = argparse.ArgumentParser()
    p.add_argument("adapter")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--cases", type=int, default=60)
    args = p.parse_args()
    kinds = [detect, agree, fleiss, tests, holm, wilson, rank_choix, rank_ties, rank_length]
    cases = [(k.__name__, *k(random.Random("%d %s %d" % (args.seed, k.__name__, i)))) for k in kinds for i in range(args.cases)]
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
        for _, row, _, _ in cases:
            f.write(json.dumps(row) + "\n")
        f.flush()
        ran = subprocess.run([args.adapter, f.name], capture_output=True, text=True)
    if ran.returncode:
        sys.exit("%s: %s" % (args.adapter, ran.stderr))
    lines, worst, bad = ran.stdout.splitlines(), {}, 0
    assert len(lines) == len(cases), "%d answers to %d cases" % (len(lines), len(cases))
    for line, (name, row, want, tol) in zip(lines, cases):
        got = json.loads(line)
        off = max([math.inf if g is None else abs(g - w) / max(1, abs(w)) for g, w in zip(got, want)] + [abs(len(got) - len(want))])
        worst[name] = max(worst.get(name, 0), off)
        if off > tol:
            bad += 1
            print("%s: off by %g (allowed %g): %s, expected %s" % (name, off, tol, got[:6], list(want)[:6]))
    for name, off in worst.items():
        print("%-12s %d cases, largest difference %.2g" % (name, args.cases, off))
    sys.exit(1 if bad else 0)


main()
