#!/usr/bin/env python3
"""Writes tests/golden/sampler_cases.json: logits before and after Hugging Face's logits processors.

  sampler_cases.py --out tests/golden/sampler_cases.json [--seed 5]            needs torch, transformers

Order: repetition penalty, temperature, top-k, top-p, min-p. A dropped logit is null. One case per line; numbers are the
shortest decimals that read back as the same float."""
import argparse
import json

import numpy as np
import torch
import transformers
from transformers.generation import logits_process as lp


def build(seed):
    g = np.random.default_rng(seed)
    base = dict(ids=[], penalty=1.0, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
    tied, skew = [2.0, 1.0, 1.0, 1.0, 0.0, -1.0], np.log([0.5, 0.3, 0.15, 0.05]).tolist()
    cases = [dict(base, logits=tied, top_k=2), dict(base, logits=tied, top_k=6),
             dict(base, logits=tied, ids=[0, 4, 4, 5], penalty=1.2)]
    cases += [dict(base, logits=skew, top_p=p) for p in (0.0, 0.45, 0.55, 0.75, 0.9)]
    cases += [dict(base, logits=skew, min_p=p) for p in (0.05, 0.2, 0.7)]
    for _ in range(32):
        n = int(g.choice([7, 33, 97]))
        cases.append(dict(logits=(3 * g.standard_normal(n)).astype(np.float32).round(4).tolist(),
                          ids=g.integers(0, n, 9).tolist(), penalty=float(g.choice([1.0, 1.1, 1.5])),
                          temperature=float(g.choice([0.5, 0.7, 1.0, 1.3])), top_k=int(g.choice([0, 1, 5, 50])),
                          top_p=float(g.choice([1.0, 0.5, 0.9, 0.95])), min_p=float(g.choice([0.0, 0.05, 0.1]))))
    # Ties at the border. torch's sort is stable up to 16 elements only, so top-p gets no longer row.
    tied15 = np.repeat(g.standard_normal(5).astype(np.float32).round(2), 3).tolist()
    cases += [dict(base, logits=tied15, top_p=p) for p in (0.33, 0.71, 0.93)]
    cases += [dict(base, logits=tied15, top_k=k) for k in (1, 4, 8)]
    return cases


def process(c):
    x, ids = torch.tensor([c["logits"]], dtype=torch.float32), torch.tensor([c["ids"]], dtype=torch.long)
    steps = [lp.RepetitionPenaltyLogitsProcessor(c["penalty"])] if c["penalty"] != 1.0 else []
    steps += [lp.TemperatureLogitsWarper(c["temperature"])] if c["temperature"] != 1.0 else []
    steps += [lp.TopKLogitsWarper(c["top_k"])] if c["top_k"] else []
    steps += [lp.TopPLogitsWarper(c["top_p"])] if c["top_p"] < 1.0 else []
    steps += [lp.MinPLogitsWarper(c["min_p"])] if c["min_p"] else []
    for s in steps:
        x = s(ids, x)
    return [None if v == float("-inf") else v for v in x[0].tolist()]


def short(v):
    if not isinstance(v, list):
        return v
    return [None if x is None else x if isinstance(x, int) else float(str(np.float32(x))) for x in v]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", required=True)
    ap.add_argument("--seed", type=int, default=5)
    a = ap.parse_args()
    lines = []
    for c in build(a.seed):
        c["out"] = process(c)
        lines.append(json.dumps({k: short(v) for k, v in c.items()}, separators=(",", ":")))
    with open(a.out, "w") as f:
        f.write('{"format":"dikast-sampler-cases/1","transformers":"%s","cases":[\n%s\n]}\n'
                % (transformers.__version__, ",\n".join(lines)))
    print(f"{len(lines)} cases -> {a.out}")


if __name__ == "__main__":
    main()
