#!/usr/bin/env python3
"""How the cost of training grows with the length of sequences, the batch and the parameters: measured and fitted.

Time is CPU time of one thread (1 / tok_cpu_s), which other programs on the machine disturb least. Every setting is run
--reps times, in order and then in reverse order; medians count. Fits are least squares: time a token = a + b T, where a
is all that does not depend on the length T and b T is attention; and exponents, the slopes of logarithms.

  bench/growth.py --dikast build/release/dikast > growth.md
"""
import argparse
import math
import os
import statistics
import sys

sys.dont_write_bytecode = True
import compare

# Weights that take part in a product (the tied head once) and layers x width, of the sizes of `dikast bench`.
SIZES = {
    "c": (4 * (4 * 256**2 + 3 * 256 * 704) + 2048 * 256, 4 * 256),
    "b": (6 * (4 * 384**2 + 3 * 384 * 1024) + 4096 * 384, 6 * 384),
    "a": (12 * (4 * 768**2 + 2 * 768 * 3072) + 50257 * 768, 12 * 768),
}


def line(x, y):
    """-> a, b of the least squares of y = a + b x, and R^2"""
    mx, my = statistics.mean(x), statistics.mean(y)
    sxx = sum((u - mx) ** 2 for u in x)
    sxy = sum((u - mx) * (v - my) for u, v in zip(x, y))
    syy = sum((v - my) ** 2 for v in y)
    return my - sxy / sxx * mx, sxy / sxx, sxy**2 / (sxx * syy) if syy else 1.0


def exponent(x, y):
    """-> slope of log y against log x, and R^2"""
    return line([math.log(v) for v in x], [math.log(v) for v in y])[1:]


def number(x):
    return f"{x:.0f}" if x >= 1000 else f"{x:.3g}"


class Growth:
    def __init__(self, args):
        self.args = args
        self.other, self.cpu, self.kernels = [], None, None

    def command(self, size, batch, seq):
        a = self.args
        return (f"{a.dikast} bench train --model {size} --batch {batch} --seq {seq} --threads 1 --steps {a.steps} "
                f"--warmup {a.warmup} --isa {a.isa} --dtype {a.dtype} --json")

    def measure(self, settings):
        """settings [(size, batch, seq)] -> [row of medians], or None of a dry run"""
        commands = [self.command(*s) for s in settings]
        if self.args.dry_run:
            print("\n".join(commands))
            return None
        rounds = []
        for rep in range(self.args.reps):
            cases, other = compare.in_turn(commands, rep, 1e9, 0)
            rounds.append([next(iter(c.values())) for c in cases])
            self.other.append(other)
            print(f"growth: round {rep + 1} of {self.args.reps}, others took {other:.2f}", file=sys.stderr)
        rows = []
        for i, (size, batch, seq) in enumerate(settings):
            value = {k: statistics.median(r[i][k] for r in rounds) for k in ("tok_cpu_s", "tok_s", "rss_mb")}
            us = 1e6 / value["tok_cpu_s"]
            n, ld = SIZES[size]
            flops = 6 * n + 12 * ld * seq
            rows.append(dict(size=size, batch=batch, seq=seq, params=n, us=us, step=us * batch * seq / 1e3,
                             gflops=flops / us / 1e3, rss=value["rss_mb"]))
        self.cpu, self.kernels = rounds[0][0]["cpu"], rounds[0][0]["kernels"]
        return rows

    def table(self, rows, first, key):
        print(f"| {first} | model | batch x tokens | CPU us a token | CPU ms a step | GFLOP/s | peak RSS, MB |")
        print("|---|---|---|---|---|---|---|")
        for r in rows:
            print(f"| {number(r[key])} | {r['size']} | {r['batch']} x {r['seq']} | {number(r['us'])} | "
                  f"{number(r['step'])} | {number(r['gflops'])} | {number(r['rss'])} |")
        print()


def column(rows, key):
    return [r[key] for r in rows]


def by_length(g):
    tokens, top = g.args.tokens, g.args.max_seq
    lengths = [t for t in (256, 512, 1024, 2048, 4096, 8192) if t <= top and tokens % t == 0]
    rows = g.measure([(g.args.model, tokens // t, t) for t in lengths])
    if not rows:
        return
    t, us = column(rows, "seq"), column(rows, "us")
    a, b, fit = line(t, us)
    slope, straight = exponent(t, us)
    print(f"### Length of sequences, {tokens} tokens a step\n")
    g.table(rows, "T", "seq")
    print(f"CPU microseconds a token = {a:.3g} + {b:.3g} T (R^2 {fit:.3f}); attention costs as much as the rest at "
          f"T = {a / b:.0f}. " if b > 0 else "No growth with T could be told from noise. ", end="")
    print(f"Exponent of a token's time {slope:.2f} (R^2 {straight:.2f}), of a sequence's {1 + slope:.2f}; "
          f"{exponent(t[-2:], us[-2:])[0]:.2f} and {1 + exponent(t[-2:], us[-2:])[0]:.2f} over the last doubling; of "
          f"memory at the same number of tokens {exponent(t, column(rows, 'rss'))[0]:.2f}.\n")


def by_batch(g):
    rows = g.measure([(g.args.model, n, 256) for n in (1, 2, 4, 8, 16, 32)])
    if not rows:
        return
    n = column(rows, "batch")
    a, b, fit = line(n, column(rows, "step"))
    memory, per, straight = line(n, column(rows, "rss"))
    print("### Batch, 256 tokens a sequence\n")
    g.table(rows, "batch", "batch")
    print(f"CPU milliseconds a step = {a:.3g} + {b:.3g} batch (R^2 {fit:.3f}), exponent "
          f"{exponent(n, column(rows, 'step'))[0]:.2f}; peak RSS in MB = {memory:.3g} + {per:.3g} batch (R^2 "
          f"{straight:.3f}).\n")


def by_parameters(g):
    rows = g.measure([(size, 4, 256) for size in SIZES])
    if not rows:
        return
    n = column(rows, "params")
    slope, fit = exponent(n, column(rows, "us"))
    print("### Parameters, 4 x 256 tokens a step\n")
    g.table(rows, "parameters", "params")
    print(f"Exponent of a token's time {slope:.2f} (R^2 {fit:.3f}), of peak RSS "
          f"{exponent(n, column(rows, 'rss'))[0]:.2f}.\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    p.add_argument("--dikast", default=os.path.join(here, "build/release/dikast"), help="ours (build/release/dikast)")
    p.add_argument("--only", choices=("length", "batch", "parameters"), help="one of the three")
    p.add_argument("--model", choices=SIZES, default="c", help="size for length and batch (c)")
    p.add_argument("--tokens", type=int, default=4096, help="length: tokens a step (4096)")
    p.add_argument("--max-seq", type=int, default=4096, help="length: the longest (4096)")
    p.add_argument("--steps", type=int, default=3, help="timed steps (3)")
    p.add_argument("--warmup", type=int, default=1, help="untimed steps (1)")
    p.add_argument("--reps", type=int, default=3, help="rounds (3)")
    p.add_argument("--isa", default="auto", help="cap on the instruction set")
    p.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    p.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    args = p.parse_args()
    g = Growth(args)
    for name, part in (("length", by_length), ("batch", by_batch), ("parameters", by_parameters)):
        if args.only in (None, name):
            part(g)
    if g.other:
        print(f"{g.cpu}, kernels {g.kernels}, one thread, {args.dtype}, medians of {args.reps} rounds; other programs "
              f"took {100 * statistics.median(g.other):.0f} % of the machine (median round).")


if __name__ == "__main__":
    try:
        main()
    except compare.Failed as failed:
        sys.exit(f"growth: {failed}")
