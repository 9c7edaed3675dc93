#!/usr/bin/env python3
"""Which of two benchmark commands is faster, and by how much: runs them in turn (A B, B A, A B, ...), pairs the JSON lines
they print by "case" and reports the ratio of every pair of runs: median, least and greatest.

A and B are command lines. The ratio says how many times as fast A is: A/B of a rate, B/A of a time; of memory it is A/B, so
there less is better. Every line also gets wall_s, cpu_s and peak_rss_mb of the whole command; a command that prints no
JSON is one case, "run". A pair during which other processes took more than --max-other of the machine is run again,
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
TIMES = {"iter_s", "iter_s_best", "iter_cpu_s", "rollout_s", "score_s", "update_s", "step_ms", "fwd_ms", "bwd_ms", "opt_ms",
         "train_s", "first_s", "warm_s", "us", "us_best", "wall_s", "cpu_s"}
MEMORY = {"rss_mb", "peak_rss_mb"}
DEFAULT = ("tok_s", "mb_s", "gflops", "iter_s", "train_s", "first_s", "wall_s")
MUST_AGREE = ("model", "threads", "isa", "dtype", "batch", "seq", "minibatch", "vocab", "cpu")
SAME_WORK = ("seqs", "tokens", "bytes")  # of those that state it


class Failed(Exception):
    def __init__(self, command, what):
        super().__init__(f"{what}: {command}")
        self.command = command


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
            raise Failed(command, f"exit status {os.waitstatus_to_exitcode(status)}")
        out.seek(0)
        rows = [json.loads(line) for line in out.read().decode().splitlines() if line.startswith("{")]
    cases = {}
    for row in rows or [{}]:
        row.update(wall_s=wall, cpu_s=cpu, peak_rss_mb=use.ru_maxrss / 1024)
        if cases.setdefault(row.get("case", "run"), row) is not row:
            raise Failed(command, f"case {row['case']} is printed twice")
    return cases, other


def ratio(field, a, b):
    return b / a if field in TIMES else a / b


def differences(a, b):
    """-> {key: [of a, of b]} of the conditions that are not alike"""
    keys = MUST_AGREE + tuple(k for k in SAME_WORK if k in a and k in b)
    return {k: [a.get(k), b.get(k)] for k in keys if a.get(k) != b.get(k)}


def in_turn(commands, turn, max_other, retry, note=None):
    """Runs every command once, in order or, in every other turn, in reverse order; again while others take more than
    max_other of the machine, retry times at most. -> [{case: row} a command], other; of the quietest try"""
    order = list(range(len(commands)))
    tries = []
    for _ in range(retry + 1):
        got = {}
        for i in order if turn % 2 == 0 else order[::-1]:
            got[i] = run(commands[i])
            if note:
                note(len(tries), i, *got[i])
        tries.append(([got[i][0] for i in order], max(got[i][1] for i in order)))
        if tries[-1][1] <= max_other:
            break
    return min(tries, key=lambda t: t[1])


def report(both, case, field):
    a, b = [p[0][0][case] for p in both], [p[0][1][case] for p in both]
    if any(not x.get(field) for x in a + b):
        print(f"compare: {case}: no {field} on one side", file=sys.stderr)
        return
    r = [ratio(field, x[field], y[field]) for x, y in zip(a, b)]
    differ = differences(a[0], b[0])
    if differ:
        print(f"compare: {case}: A and B differ in {differ}", file=sys.stderr)
    row = dict(bench="compare", case=case, field=field, ratio=round(statistics.median(r), 3), ratio_min=round(min(r), 3),
               ratio_max=round(max(r), 3), reps=len(r), a=round(statistics.median(x[field] for x in a), 4),
               b=round(statistics.median(x[field] for x in b), 4), a_engine=a[0].get("engine"), b_engine=b[0].get("engine"),
               other_cpu_max=round(max(p[1] for p in both), 3), differ=differ)
    print(json.dumps(row), flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("A")
    p.add_argument("B")
    p.add_argument("--reps", type=int, default=5, help="pairs of runs (5)")
    p.add_argument("--field", default="", help="comma list; without it the first of " + ", ".join(DEFAULT))
    p.add_argument("--max-other", type=float, default=0.15, help="load by others above which a pair is run again (0.15)")
    p.add_argument("--retry", type=int, default=1, help="how often; the quietest try counts (1)")
    args = p.parse_args()
    fields = [f for f in args.field.split(",") if f]
    for f in fields:
        if f not in RATES | TIMES | MEMORY:
            p.error(f"unknown field {f}; there are {', '.join(sorted(RATES | TIMES | MEMORY))}")
    both = [in_turn((args.A, args.B), turn, args.max_other, args.retry) for turn in range(args.reps)]
    first_a, first_b = both[0][0]
    for alone, name in ((first_a.keys() - first_b.keys(), "A"), (first_b.keys() - first_a.keys(), "B")):
        if alone:
            print(f"compare: only {name} has {', '.join(sorted(alone))}", file=sys.stderr)
    for case in first_a:
        if case not in first_b:
            continue
        first = [f for f in DEFAULT if f in first_a[case] and f in first_b[case]]
        for field in fields or first[:1]:
            report(both, case, field)


if __name__ == "__main__":
    try:
        main()
    except Failed as failed:
        sys.exit(f"compare: {failed}")
