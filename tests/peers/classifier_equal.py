#!/usr/bin/env python3
"""A trained classifier beside TF-IDF with logistic regression, on the same rows: figures per category.

    python tests/peers/classifier_equal.py CLASSIFIER... [--slack S] [--train DIKAST FILE]      needs scikit-learn, numpy

With --train a folder without classifier.json is made first: `dikast train-classifier FILE`, run.seed by the folder's place from 0; FILE
absent: exit 77.
CLASSIFIER: what `dikast train-classifier FILE... --out CLASSIFIER` left; the files are found where classifier.json says. The
baseline learns from the same training rows: TfidfVectorizer over words and pairs of words of request and reply, sublinear, and
LogisticRegression, whose C and threshold (best F1) are chosen on the same validation rows. Of several folders (other run.seed, so
other splits) AUPRC is the mean by harmful rows and F1 that of all verdicts together, each by the threshold the classifier has for the row's category. Beside the figures stand their
differences with 95 % intervals from 500 resamples of prompts, and the share of those in which the classifier's AUPRC is at least the baseline's. Exit 1 when AUPRC of all rows or
of a category with 5 harmful rows, or F1 of all rows or of a category with 20, is more than S (default 0) below the baseline's, when either of a category with 5 is behind (its
interval below 0; F1 of nine rows loses .10 by three false alarms), or when the calibration error is above .08. Also checks that AUPRC and F1 are
scikit-learn's within 1e-9; and, where torch and transformers are there (or alone, with --only-hf), that
AutoModelForSequenceClassification opens CLASSIFIER/model (and the other trunks) and gives their log-odds within 1e-3."""
import argparse
import importlib.util
import json
import os
import subprocess
import sys

import numpy as np

FEW, FIRM = 5, 20  # harmful rows: fewer than FEW say nothing, F1 of fewer than FIRM only what its interval says


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
    from sklearn.metrics import f1_score
    return max(np.unique(p), key=lambda t: (f1_score(y, p >= t), t))


def baseline(texts, part, target):
    """Probabilities of the test rows, the threshold and C, for target(row) in 0..1."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score
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


def mean_precision(splits):
    """Average precision, the mean over splits by their harmful rows; splits: (labels, scores)."""
    from sklearn.metrics import average_precision_score
    have = [(y.sum(), average_precision_score(y, p)) for y, p in splits if y.sum()]
    return sum(n * v for n, v in have) / sum(n for n, _ in have) if have else np.nan


def f1_of(y, verdict):
    hit = np.sum(y & verdict)
    return 2 * hit / max(np.sum(y) + np.sum(verdict), 1)


def paired(splits, draws=500):
    """Over resamples of prompts: share of draws in which our mean_precision is at least theirs, and 95 % intervals of the differences
    of mean_precision and of F1; splits: (labels, ours, theirs, prompts, our verdicts, their verdicts)."""
    rng = np.random.default_rng(0)
    rows = []
    for s in splits:
        _, of = np.unique(s[3], return_inverse=True)
        order = np.argsort(of, kind="stable")
        rows.append(np.split(order, np.cumsum(np.bincount(of))[:-1]))
    ap, f1 = [], []
    for _ in range(draws):
        part = []
        for s, groups in zip(splits, rows):
            at = np.concatenate([groups[k] for k in rng.integers(0, len(groups), len(groups))])
            part.append(tuple(x[at] for x in s))
        u, v = (mean_precision([(s[0], s[k]) for s in part]) for k in (1, 2))
        if not np.isnan(u):
            ap.append(u - v)
            y = np.concatenate([s[0] for s in part]).astype(bool)
            f1.append(f1_of(y, np.concatenate([s[4] for s in part])) - f1_of(y, np.concatenate([s[5] for s in part])))
    if not ap:
        return np.nan, (np.nan, np.nan), (np.nan, np.nan)
    return np.mean(np.array(ap) >= 0), tuple(np.percentile(ap, (2.5, 97.5))), tuple(np.percentile(f1, (2.5, 97.5)))


def verdict(lo, hi, least):
    """A difference in words; least: too few harmful rows to say anything."""
    return "too few" if least else "ahead" if lo > 0 else "behind" if hi < 0 else "level"


def hf_differs(folder, texts_of, part, most=100):
    """Largest difference of the first label's log-odds over test rows that need no cutting."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    trunks = json.load(open(f"{folder}/classifier.json")).get("trunks", 1)
    models = [AutoModelForSequenceClassification.from_pretrained(f"{folder}/" + (f"trunk-{k + 1}/" if k else "") + "model")
              for k in range(trunks)]
    model = models[0]
    tokenizer = AutoTokenizer.from_pretrained(f"{folder}/model")
    names = [x["label"] for x in json.load(open(f"{folder}/classifier.json"))["labels"]]
    assert [model.config.id2label[k] for k in range(len(names))] == names, model.config.id2label
    worst = n = 0
    for r in part["test"]:
        prompt, reply = texts_of[r["id"]]
        if "Human:" in prompt:
            continue
        talk = [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
        ids = tokenizer.apply_chat_template(talk, return_tensors="pt", return_dict=True)["input_ids"]
        if ids.shape[1] > model.config.max_position_embeddings:
            continue
        z = sum(m(input_ids=ids).logits[0, 0].item() for m in models) / trunks
        worst = max(worst, abs(z - r["trunk"]))
        n += 1
        if n == most:
            break
    print(f"transformers: {n} rows, largest difference of log-odds {worst:.2g}")
    return not n or worst > 1e-3


def compare(folder):
    """Test rows of one split: labels, our p, the baseline's, both verdicts, categories, prompts; and failed checks."""
    from sklearn.metrics import average_precision_score, f1_score
    result, texts, prompts, part = read(folder)
    test = part["test"]
    p_base, t_base, c = baseline(texts, part, lambda r: r["harmful"])
    y = np.array([r["harmful"] for r in test])
    p = np.array([r["p"] for r in test])
    cat = np.array([r["category"] for r in test])
    at_own = np.full(len(test), result["threshold"])
    for x in result["test"]["categories"]:
        at_own[cat == x["category"]] = x["threshold"]
    bad = 0
    for name, at, said in [("all", cat == cat, result["test"]["overall"])] + [
            (x["category"], cat == x["category"], x) for x in result["test"]["categories"]]:
        if y[at].sum() == 0:
            continue
        for key, v in (("auprc", average_precision_score(y[at], p[at])), ("f1", f1_score(y[at], p[at] >= said["threshold"]))):
            if abs(said[key]["value"] - v) > 1e-9:
                print(f"{folder}: {name}: {key} {said[key]['value']}, scikit-learn says {v}")
                bad += 1
    overall = result["test"]["overall"]
    print(f"{folder}: calibration error {overall['ece']:.4f}, before {overall['ece_raw']:.4f}; C {result['ngram_c']}, baseline {c}")
    bad += overall["ece"] > 0.08
    return (y, p, p_base, p >= result["threshold"], p_base >= t_base, cat, np.array([prompts[r["id"]] for r in test]),
            p >= at_own), bad


def train(dikast, file, folders):
    if not os.path.exists(file):
        print(f"no labelled replies at {file}")
        return False
    for seed, folder in enumerate(folders):
        if not os.path.exists(f"{folder}/classifier.json"):
            subprocess.run([dikast, "train-classifier", file, "--out", folder, f"run.seed={seed}", "-q"], check=True,
                           stdout=subprocess.DEVNULL)
    return True


def main():
    from sklearn.metrics import f1_score
    a = argparse.ArgumentParser()
    a.add_argument("classifier", nargs="+")
    a.add_argument("--only-hf", action="store_true")
    a.add_argument("--slack", type=float, default=0)
    a.add_argument("--train", nargs=2, metavar=("DIKAST", "FILE"))
    a = a.parse_args()
    if a.train and not train(a.train[0], a.train[1], a.classifier):
        return 77
    bad, splits, lines, counts = 0, [], [], dict.fromkeys(("ahead", "level", "behind", "too few"), 0)
    for folder in a.classifier:
        if a.only_hf or importlib.util.find_spec("transformers"):
            _, texts, prompts, part = read(folder)
            bad += hf_differs(folder, {i: (prompts[i], t[len(prompts[i]) + 1:]) for i, t in texts.items()}, part)
        if not a.only_hf:
            split, failed = compare(folder)
            splits.append(split)
            bad += failed
    names = sorted({c for s in splits for c in s[5]})
    for name in ["all"] + names if splits else []:
        part = [tuple(x[s[5] == name] if name != "all" else x for x in s) for s in splits]
        part = [s for s in part if len(s[0])]
        y = np.concatenate([s[0] for s in part])
        if y.sum() == 0:
            continue
        ap = mean_precision([(s[0], s[1]) for s in part]), mean_precision([(s[0], s[2]) for s in part])
        f1 = [f1_score(y, np.concatenate([s[k] for s in part])) for k in (7, 4)]
        win, ap_range, f1_range = paired([(s[0], s[1], s[2], s[6], s[7], s[4]) for s in part])
        few, firm = y.sum() < FEW, y.sum() >= FIRM
        below = (not few and ap[0] < ap[1] - a.slack) or (firm and f1[0] < f1[1] - a.slack)
        below |= "behind" in (verdict(*ap_range, few), verdict(*f1_range, few))
        bad += below
        cells = [name, len(y), y.sum()]
        for ours, theirs, span in ((*ap, ap_range), (*f1, f1_range)):
            cells += [f"{ours:.3f}", f"{theirs:.3f}", f"{ours - theirs:+.3f} [{span[0]:+.3f}, {span[1]:+.3f}]", verdict(*span, few)]
        cells.insert(7, f"{100 * win:.0f} %")
        lines.append("| " + " | ".join(str(c) for c in cells) + " |" + (" below" if below else ""))
        counts[verdict(*ap_range, few)] += 1
    if lines:
        head = ["category", "n", "harmful", "AUPRC", "baseline", "difference", "verdict", "draws ahead", "F1", "baseline", "difference", "verdict"]
        print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
        print("\n".join(lines))
        words = ", ".join(f"{v} in {n}" for v, n in counts.items() if n)
        print(f"AUPRC, of all rows and {len(lines) - 1} categories: {words}. Ahead, behind: the 95 % interval of the paired difference over "
              f"resamples of prompts leaves 0 out. {'FAILED' if bad else 'passed'}: {bad} checks missed (slack {a.slack:g})")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
