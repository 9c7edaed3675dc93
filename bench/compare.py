#!/usr/bin/env python3
"""Which of two benchmark commands is faster, and by how much: runs them in turn (A B, B A, A B, ...), pairs the JSON lines
they print by "case" and reports the ratio of every pair of runs: median, least and greatest.

A and B are command lines. The ratio says how many times as fast A is: A/B of a rate, B/A of a time; of memory it is A/B, so
there less is better. Every line also gets wall_s, cpu_s and peak_rss_mb of the whole command; a command that prints no
JSON is one case, "run". A pair during which other processes took more than --max-other of the machine is run again once,
and other_cpu_max says how quiet it was at best: on a busy machine compare tok_cpu_s (tokens per CPU second) with one
thread. Results go to stdout, one JSON line a case and field, remarks to stderr.

  bench/compare.py 'build/release/dikast bench train --model c --threads 1 --json' \\
                   'python train_torch.py --model c --threads 1' --field tok_s,tok_cpu_s,rss_mb
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

RATES = {"tok_s", "tok_s_best", "tok_cpu_s", "step_tok_s", "rollout_tok_s", "mb_s", "mb_s_best", "gflops", "gflops_best"}
TIMES = {"iter_s", "iter_s_best", "iter_cpu_s", "rollout_s", "score_s", "update_s",
         "step_ms", "fwd_ms", "bwd_ms", "opt_ms", "train_s", "us", "us_best", "wall_s", "cpu_s"}
MEMORY = {"rss_mb", "peak_rss_mb"}
DEFAULT = ("tok_s", "mb_s", "gflops", "iter_s", "train_s", "wall_s")
MUST_AGREE = ("model", "threads", "isa", "dtype", "batch", "seq", "vocab", "cpu")


def busy_seconds():
    """CPU seconds spent by everybody on this machine, stolen time included."""
    with open("/proc/stat") as f:
        t = [int(x) for x in f.readline().split()[1:9]]
    return (sum(t) - t[3] - t[4]) / os.sysconf("SC_CLK_TCK")


def run(command):
    """-> {case: row}, share of the machine that others took"""
    with tempfile.TemporaryFile() as out:
        busy, start = busy_seconds(), time.monotonic()
        child = subprocess.Popen(command, shell=True, stdout=out)
        _, status, use = os.wait4(child.pid, 0)
        wall, cpu = time.monotonic() - start, use.ru_utime + use.ru_stime
        other = max(0.0, busy_seconds() - busy - cpu) / (wall * os.cpu_count())
        if status:
            sys.exit(f"compare: exit status {os.waitstatus_to_exitcode(status)}: {command}")
        out.seek(0)
        rows = [json.loads(line) for line in out.read().decode().splitlines() if line.startswith("{")]
    cases = {}
    for row in rows or [{}]:
        row.update(wall_s=wall, cpu_s=cpu, peak_rss_mb=use.ru_maxrss / 1024)
        if cases.setdefault(row.get("case", "run"), row) is not row:
            sys.exit(f"compare: case {row['case']} is printed twice: {command}")
    return cases, other


def ratio(field, a, b):
    return b / a if field in TIMES else a / b


def pair_of_runs(args, turn):
    """The quieter of at most two tries, A's cases first."""
    tries = []
    for _ in range(2):
        got = {}
        for side in ((0, 1), (1, 0))[turn % 2]:
            got[side] = run((args.A, args.B)[side])
        tries.append((got[0][0], got[1][0], max(got[0][1], got[1][1])))
        if tries[-1][2] <= args.max_other:
            break
    return min(tries, key=lambda t: t[2])


def report(pairs, case, field):
    a, b = [p[0][case] for p in pairs], [p[1][case] for p in pairs]
    if any(not x.get(field) for x in a + b):
        print(f"compare: {case}: no {field} on one side", file=sys.stderr)
        return
    r = [ratio(field, x[field], y[field]) for x, y in zip(a, b)]
    differ = {k: [a[0].get(k), b[0].get(k)] for k in MUST_AGREE if a[0].get(k) != b[0].get(k)}
    if differ:
        print(f"compare: {case}: A and B differ in {differ}", file=sys.stderr)
    row = dict(bench="compare", case=case, field=field, ratio=round(statistics.median(r), 3), ratio_min=round(min(r), 3),
               ratio_max=round(max(r), 3), reps=len(r), a=round(statistics.median(x[field] for x in a), 4),
               b=round(statistics.median(x[field] for x in b), 4), a_engine=a[0].get("engine"), b_engine=b[0].get("engine"),
               other_cpu_max=round(max(p[2] for p in pairs), 3), differ=differ)
    print(json.dumps(row), flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("A")
    p.add_argument("B")
    p.add_argument("--reps", type=int, default=5, help="pairs of runs (5)")
    p.add_argument("--field", default="", help="comma list; without it the first of " + ", ".join(DEFAULT))
    p.add_argument("--max-other", type=float, default=0.15, help="load by others above which a pair is run again (0.15)")
    args = p.parse_args()
    fields = [f for f in args.field.split(",") if f]
    for f in fields:
        if f not in RATES | TIMES | MEMORY:
            p.error(f"unknown field {f}; there are {', '.join(sorted(RATES | TIMES | MEMORY))}")
    pairs = [pair_of_runs(args, turn) for turn in range(args.reps)]
    for a, b, name in ((0, 1, "A"), (1, 0, "B")):
        alone = pairs[0][a].keys() - pairs[0][b].keys()
        if alone:
            print(f"compare: only {name} has {', '.join(sorted(alone))}", file=sys.stderr)
    for case in pairs[0][0]:
        if case not in pairs[0][1]:
            continue
        first = [f for f in DEFAULT if f in pairs[0][0][case] and f in pairs[0][1][case]]
        for field in fields or first[:1]:
            report(pairs, case, field)


if __name__ == "__main__":
    main()
