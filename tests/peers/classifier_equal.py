#!/usr/bin/env python3
"""A trained classifier beside TF-IDF with logistic regression, on the same rows: figures per category.

    python tests/peers/classifier_equal.py CLASSIFIER [--slack S] [--markdown FILE]      needs scikit-learn, numpy

CLASSIFIER: what `dikast train-classifier FILE... --out CLASSIFIER` left; the files are found where classifier.json says. The
baseline learns from the same training rows: TfidfVectorizer over words and pairs of words of request and reply, sublinear, and
LogisticRegression, whose C and threshold (best F1) are chosen on the same validation rows. Beside the figures stands the share of
2,000 resamples of prompts in which the classifier is ahead. Exit 1 when a figure of a category (n harmful >= 5) or of all rows
is more than S (default 0) below the baseline's, or the calibration error is above .08. Also checks that AUPRC and F1 are
scikit-learn's within 1e-9."""
import argparse
import json
import sys

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score


def prompt_of(row):
    prompt = row["prompt"]
    return prompt if isinstance(prompt, str) else "\n".join(m["content"] for m in prompt)


def read(folder):
    result = json.load(open(f"{folder}/classifier.json"))
    texts, prompts = {}, {}
    for f in result["data"]:
        stem = f["file"].rsplit("/", 1)[-1].split(".")[0]
        for n, line in enumerate(open(f["file"]), 1):
            row = json.loads(line)
            key = row.get("id", f"{stem}-{n}")
            prompts[key] = prompt_of(row)
            texts[key] = prompts[key] + "\n" + row["response"]
    rows = [json.loads(line) for line in open(f"{folder}/predictions.jsonl")]
    rows = [r for r in rows if r["id"] in texts]
    part = {p: [r for r in rows if r["split"] == p] for p in ("train", "valid", "test")}
    return result, texts, prompts, part


def best_threshold(y, p):
    return max(np.unique(p), key=lambda t: (f1_score(y, p >= t), t))


def baseline(texts, part, target):
    """Probabilities of valid and test rows, and the threshold, for target(row) in 0..1."""
    vec = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    x = {p: None for p in part}
    x["train"] = vec.fit_transform([texts[r["id"]] for r in part["train"]])
    for p in ("valid", "test"):
        x[p] = vec.transform([texts[r["id"]] for r in part[p]])
    y = {p: np.array([target(r) for r in part[p]]) for p in part}
    best = None
    for c in (1, 10, 100):
        m = LogisticRegression(C=c, max_iter=2000, solver="liblinear").fit(x["train"], y["train"])
        pv = m.predict_proba(x["valid"])[:, 1]
        ap = average_precision_score(y["valid"], pv)
        if best is None or ap > best[0]:
            best = (ap, c, m, pv)
    _, c, m, pv = best
    return m.predict_proba(x["test"])[:, 1], best_threshold(y["valid"], pv), c


def ahead(y, prompt, ours, theirs, figure, draws=2000):
    """Share of resamples of prompts in which our figure is at least theirs."""
    rng = np.random.default_rng(0)
    ids, of = np.unique(prompt, return_inverse=True)
    rows = [np.flatnonzero(of == k) for k in range(len(ids))]
    wins = n = 0
    for _ in range(draws):
        at = np.concatenate([rows[k] for k in rng.integers(0, len(ids), len(ids))])
        if y[at].sum() == 0:
            continue
        n += 1
        wins += figure(y[at], ours[at]) >= figure(y[at], theirs[at])
    return wins / max(n, 1)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("classifier")
    a.add_argument("--slack", type=float, default=0)
    a.add_argument("--markdown")
    a = a.parse_args()
    result, texts, prompts, part = read(a.classifier)
    test = part["test"]
    p_base, t_base, c = baseline(texts, part, lambda r: r["harmful"])
    y = np.array([r["harmful"] for r in test])
    p = np.array([r["p"] for r in test])
    cat = np.array([r["category"] for r in test])
    prompt = np.array([prompts[r["id"]] for r in test])
    slices = [("all", np.ones(len(test), bool), result["test"]["overall"])]
    slices += [(x["category"], cat == x["category"], x) for x in result["test"]["categories"]]
    bad, lines = 0, []
    for name, at, said in slices:
        if y[at].sum() == 0:
            continue
        ours = average_precision_score(y[at], p[at]), f1_score(y[at], p[at] >= result["threshold"])
        base = average_precision_score(y[at], p_base[at]), f1_score(y[at], p_base[at] >= t_base)
        for v, key in zip(ours, ("auprc", "f1")):
            if abs(said[key]["value"] - v) > 1e-9:
                print(f"{name}: {key} {said[key]['value']}, scikit-learn says {v}")
                bad += 1
        win = ahead(y[at], prompt[at], p[at], p_base[at], average_precision_score)
        counts = y[at].sum() >= 5
        below = counts and (ours[0] < base[0] - a.slack or ours[1] < base[1] - a.slack)
        bad += below
        lines.append(f"| {name} | {at.sum()} | {y[at].sum()} | {ours[0]:.3f} | {base[0]:.3f} | {100 * win:.0f} % | {ours[1]:.3f} | "
                     f"{base[1]:.3f} |" + (" below" if below else ""))
    head = ["| category | n | harmful | AUPRC | baseline | ahead | F1 | baseline |", "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    print("\n".join(head + lines))
    ece = result["test"]["overall"]["ece"]
    print(f"calibration error {ece:.4f} (before {result['test']['overall']['ece_raw']:.4f}); baseline C {c}")
    bad += ece > 0.08
    if a.markdown:
        open(a.markdown, "w").write("\n".join(head + lines) + "\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
