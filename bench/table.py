#!/usr/bin/env python3
"""Runs dikast's benchmark and the peers' programs in turn on this machine and states the goals' ratios.

The peers' scripts are no part of this project; --peers, --python, --programs, --trl-ppo and --models say where they are
(README.md here lists what each folder holds). Our command and those of the peers run once each, in order, then in
reverse order, and so on; every such round gives one ratio ours / peer, and a regime states their median, least and
greatest. Where several peers do the same work the faster one counts, case by case. With --json FILE every line and
every ratio is appended to FILE, and --resume takes the rounds from there that were made with the same commands.

  bench/table.py --peers DIR --python PY --programs DIR --trl-ppo DIR --models DIR --json out.jsonl --resume
  bench/table.py --json out.jsonl --markdown
"""
import argparse
import collections
import datetime
import json
import os
import re
import shlex
import statistics
import subprocess
import sys

sys.dont_write_bytecode = True
import compare

# What is run in turn; --quick appends `quick` to every command; `files` are made first if missing. {isa} is not for
# gen_llama, which is capped when it is built, nor for text.
Run = collections.namedtuple("Run", "ours peers quick files", defaults=("", ()))


def gemm(flags):
    lib = "{programs}/gemm_peer --lib %s --model b --threads 1 {isa} " + flags
    return Run("{dikast} bench gemm --model b --threads 1 --json {isa} " + flags.replace("--cold 1", "--cold"),
               {"oneDNN": lib % "onednn", "OpenBLAS": lib % "openblas",
                "BLIS haswell": "BLIS_ARCH_TYPE=3 " + lib % "blis",
                "BLIS skx": "BLIS_ARCH_TYPE=0 " + lib % "blis",
                "torch": "{python} {peers}/gemm_torch.py --model b --threads 1 {isa} " + flags}, "--ms 2")


def train(size, dtype):
    what = f"--model {size} --threads {{threads}} --dtype {dtype} {{isa}}"
    torch = "{python} {peers}/train_torch.py " + what
    peers = {"torch compile": torch + " --mode compile", "torch eager": torch + " --mode eager"}
    if dtype == "fp32":
        peers["HF eager"] = torch + " --impl hf"
    return Run("{dikast} bench train --json " + what, peers, "--steps 1 --warmup 1")


def generate(ours, llama, hf):
    what = "--model b --threads {threads} --dtype "
    peers = {"llama.cpp": "{programs}/gen_llama --dir {models} " + what + llama}
    if hf:
        peers["HF"] = "{python} {peers}/gen_hf.py --dir {models} {isa} " + what + hf
    return Run("{dikast} bench generate --dir {models}/hf-b --json {isa} " + what + ours, peers, "--reps 1",
               ("hf-b", f"b-{llama}.gguf"))


def rl(algo, trl):
    what = f"--algo {algo} --model c --threads {{threads}} {{isa}}"
    return Run(f"{{dikast}} bench {algo} --model c --threads {{threads}} --json {{isa}}",
               {"TRL": trl + "{python} {peers}/rl_trl.py " + what, "HF loop": "{python} {peers}/rl_hf.py " + what},
               "--iters 1")


def under_load(kind, flags):
    ours = f"{{dikast}} bench {kind} {flags} --json {{isa}} --threads "
    return Run(ours + "{threads}", {"dikast with 1 thread": ours + "1"},
               {"train": "--steps 1 --warmup 1", "generate": "--reps 1"}.get(kind, "--iters 1"))


TEXT = "{python} {peers}/tok_peer.py --corpus {models}/corpus.txt --threads 1 --engine "
RUNS = {
    "gemm hot": gemm("--m 64,512"),
    "gemm cold": gemm("--m 1,8,32 --cold 1"),
    "gemm bf16": Run("{dikast} bench gemm --model b --threads 1 --json {isa} --dtype bf16 --m 512",
                     {"torch": "{python} {peers}/gemm_torch.py --model b --threads 1 {isa} --dtype bf16 --m 512"},
                     "--ms 2"),
    "train a fp32": train("a", "fp32"),
    "train b fp32": train("b", "fp32"),
    "train c fp32": train("c", "fp32"),
    "train b bf16": train("b", "bf16"),
    "train c bf16": train("c", "bf16"),
    "generate b fp32": generate("fp32", "fp32", "fp32"),
    "generate b 16 bit": generate("bf16", "f16", None),
    "ppo c": rl("ppo", "PYTHONPATH={trl_ppo} "),
    "grpo c": rl("grpo", ""),
    "tokenize": Run("{dikast} bench tokenize --file {models}/corpus.txt --threads 1 --json",
                    {"tiktoken": TEXT + "tiktoken", "HF tokenizers": TEXT + "hf-tokenizers"}, "--reps 1 --mb 1",
                    ("corpus.txt",)),
    "json": Run("{dikast} bench load --file {models}/rows.jsonl --threads 1 --json",
                {"jansson": "{programs}/json_jansson --file {models}/rows.jsonl"}, "--reps 1", ("rows.jsonl",)),
    "start": Run("{dikast} --version", {"import torch": "{python} -c 'import torch'"}),
}
LOAD_RUNS = {
    "train b": under_load("train", "--model b"),
    "generate b": under_load("generate", "--model b"),
    "ppo c": under_load("ppo", "--model c"),
}
FILES = {
    "hf-b": "{python} {peers}/make_model.py --format hf --model b --dir {models}",
    "b-fp32.gguf": "{python} {peers}/make_model.py --format gguf --dtype fp32 --model b --dir {models}",
    "b-f16.gguf": "{python} {peers}/make_model.py --format gguf --dtype f16 --model b --dir {models}",
    "corpus.txt": "{python} {peers}/tok_peer.py --corpus {models}/corpus.txt --reps 1",
    "rows.jsonl": "{python} {peers}/json_peer.py --file {models}/rows.jsonl --reps 1",
}

# `case` is a pattern; of several cases the median counts. Goals: (goal, stretch) with AVX-512, with AVX2.
Regime = collections.namedtuple("Regime", "name run case field peers avx512 avx2 differ", defaults=((), (), ()))
LIBRARIES = ("oneDNN", "OpenBLAS", "BLIS haswell", "BLIS skx", "torch")
TORCH = ("torch compile", "HF eager", "torch eager")
AUTOCAST = ("torch compile", "torch eager")
LLAMA, HF, TRL, LOOP = ("llama.cpp",), ("HF",), ("TRL",), ("HF loop",)
PREFILL, X1, X8, X32 = "^prefill/b/512$", "^decode/b/x1/", "^decode/b/x8/", "^decode/b/x32/"
REGIMES = [
    Regime("product fp32, M = 512", "gemm hot", "/M512/hot$", "gflops_best", LIBRARIES, (0.95, 1.1), (0.95, 1.0)),
    Regime("product fp32, M = 64", "gemm hot", "/M64/hot$", "gflops_best", LIBRARIES, (0.95, 1.1), (0.9, 1.0)),
    Regime("product fp32, cold weights, M = 1", "gemm cold", "/M1/cold$", "gflops", LIBRARIES),
    Regime("product fp32, cold weights, M = 8", "gemm cold", "/M8/cold$", "gflops", LIBRARIES, (1.5, 2.0), (1.5, 1.8)),
    Regime("product fp32, cold weights, M = 32", "gemm cold", "/M32/cold$", "gflops", LIBRARIES, (1.5, 2.0),
           (1.2, 1.4)),
    Regime("product bf16, M = 512", "gemm bf16", "/M512/hot$", "gflops_best", ("torch",), (1.0, 1.6)),
    Regime("train a fp32", "train a fp32", "^train/", "tok_s", TORCH, (1.15, 1.35), (1.1, 1.25)),
    Regime("train b fp32", "train b fp32", "^train/", "tok_s", TORCH, (1.3, 1.5), (1.15, 1.25)),
    Regime("train c fp32", "train c fp32", "^train/", "tok_s", TORCH, (1.4, 1.6), (1.2, 1.35)),
    Regime("train b bf16", "train b bf16", "^train/", "tok_s", AUTOCAST, (1.5, 2.2)),
    Regime("train c bf16", "train c bf16", "^train/", "tok_s", AUTOCAST, (1.5, 2.2)),
    Regime("memory: train a fp32", "train a fp32", "^train/", "rss_mb", ("torch eager",), (0.75, 0.68), (0.75, 0.68)),
    Regime("memory: train b fp32", "train b fp32", "^train/", "rss_mb", ("torch eager",), (0.4, 0.3), (0.4, 0.3)),
    Regime("memory: train c fp32", "train c fp32", "^train/", "rss_mb", ("torch eager",), (0.3, 0.2), (0.3, 0.2)),
    Regime("prefill 512, b fp32, llama.cpp", "generate b fp32", PREFILL, "tok_s", LLAMA, (1.7, 2.2), (1.3,)),
    Regime("prefill 512, b fp32, HF", "generate b fp32", PREFILL, "tok_s", HF, (1.3, 1.7), (1.05,)),
    Regime("decode x1, b fp32, llama.cpp", "generate b fp32", X1, "tok_s", LLAMA, (0.95, 1.1), (0.95, 1.05)),
    Regime("decode x1, b fp32, HF", "generate b fp32", X1, "tok_s", HF, (2.4, 2.7), (2.2,)),
    Regime("decode x8, b fp32, llama.cpp", "generate b fp32", X8, "tok_s", LLAMA, (1.5, 2.0), (1.4, 1.8)),
    Regime("decode x8, b fp32, HF", "generate b fp32", X8, "tok_s", HF, (2.7, 3.5), (2.3,)),
    Regime("decode x32, b fp32, llama.cpp", "generate b fp32", X32, "tok_s", LLAMA, (2.5, 4), (1.8, 2.5)),
    Regime("decode x32, b fp32, HF", "generate b fp32", X32, "tok_s", HF, (3, 4.5), (2,)),
    # BF16 of ours beside F16 of theirs: the same bytes a weight.
    Regime("decode x1, b, 16-bit weights", "generate b 16 bit", X1, "tok_s", LLAMA,
           (0.95, 1.1), (0.95, 1.05), ("dtype",)),
    Regime("decode x8, b, 16-bit weights", "generate b 16 bit", X8, "tok_s", LLAMA,
           (1.8, 2.5), (1.4, 1.8), ("dtype",)),
    Regime("decode x32, b, 16-bit weights", "generate b 16 bit", X32, "tok_s", LLAMA, differ=("dtype",)),
    Regime("first token, b fp32, llama.cpp", "generate b fp32", "^first/", "first_s", LLAMA, (1.0,), (1.0,)),
    Regime("first token, b fp32, HF", "generate b fp32", "^first/", "first_s", HF),
    Regime("memory: decode x1, b fp32, llama.cpp", "generate b fp32", X1, "rss_mb", LLAMA, (1.0, 0.9), (1.0, 0.9)),
    Regime("memory: decode x1, b fp32, HF", "generate b fp32", X1, "rss_mb", HF, (0.1,), (0.1,)),
    Regime("PPO iteration, c, TRL", "ppo c", "^ppo/", "iter_s", TRL, (1.8, 2.2), (1.4, 1.7)),
    Regime("PPO iteration, c, HF loop", "ppo c", "^ppo/", "iter_s", LOOP, (1.7, 2.1), (1.3,)),
    Regime("memory: PPO, c, TRL", "ppo c", "^ppo/", "rss_mb", TRL, (0.3, 0.2), (0.3, 0.2)),
    Regime("GRPO iteration, c, TRL", "grpo c", "^grpo/", "iter_s", TRL, (2.2, 3), (1.7, 2.2)),
    Regime("GRPO iteration, c, HF loop", "grpo c", "^grpo/", "iter_s", LOOP, (1.7, 2.1), (1.3,)),
    Regime("BPE encode, tiktoken", "tokenize", "^bpe-encode/", "mb_s", ("tiktoken",), (1.5, 3), (1.5, 3)),
    Regime("BPE encode, HF", "tokenize", "^bpe-encode/", "mb_s", ("HF tokenizers",), (6, 12), (6, 12)),
    Regime("BPE training", "tokenize", "^bpe-train/", "train_s", ("HF tokenizers",), (1.0, 2), (1.0, 2)),
    Regime("BPE decode", "tokenize", "^bpe-decode/", "mb_s", ("HF tokenizers",), (5, 10), (5, 10)),
    Regime("JSON rows", "json", "^json/rows$", "mb_s", ("jansson",), (1.0, 5), (1.0, 5)),
    Regime("start of the program", "start", "^run$", "wall_s", ("import torch",)),
]
ALONE = ("dikast with 1 thread",)
LOAD_REGIMES = [
    Regime(f"{name}, one core taken", run, case, field, ALONE, (0.9, 1.0), (0.9, 1.0), ("threads",))
    for name, run, case, field in (
        ("train b fp32", "train b", "^train/", "tok_s"), ("prefill 512, b fp32", "generate b", PREFILL, "tok_s"),
        ("decode x1, b fp32", "generate b", X1, "tok_s"), ("decode x8, b fp32", "generate b", X8, "tok_s"),
        ("decode x32, b fp32", "generate b", X32, "tok_s"), ("PPO iteration, c", "ppo c", "^ppo/", "iter_s"))]
UNIT = dict(tok_s="tok/s", mb_s="MB/s", gflops="GFLOP/s", gflops_best="GFLOP/s", rss_mb="MB", iter_s="s", train_s="s",
            first_s="s", wall_s="s")
OURS = "dikast"


class Log:
    """Lines of FILE: those that are there already, and those that are appended."""

    def __init__(self, path):
        self.lines, self.out = [], None
        if path and os.path.exists(path):
            with open(path, encoding="utf-8") as f:
                for line in f:
                    try:
                        self.lines.append(json.loads(line))
                    except json.JSONDecodeError:  # cut short when the run was interrupted
                        print(f"table: {path}: a broken line is left out", file=sys.stderr)
        if path:
            self.out = open(path, "a+", encoding="utf-8")
            self.out.seek(max(0, self.out.tell() - 1))
            if self.out.read() not in ("", "\n"):
                self.out.write("\n")

    def put(self, table, **fields):
        row = dict(table=table, **fields)
        self.lines.append(row)
        if self.out:
            print(json.dumps(row), file=self.out, flush=True)
        return row


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Table:
    def __init__(self, args):
        self.args = args
        self.log = Log(None if args.dry_run else args.json)
        self.words = {k: shlex.quote(v) if v else "" for k, v in (
            ("dikast", args.dikast), ("python", args.python), ("peers", args.peers), ("programs", args.programs),
            ("trl_ppo", args.trl_ppo), ("models", args.models), ("threads", str(args.threads)))}
        self.words["isa"] = "" if args.isa == "native" else f"--isa {args.isa}"

    def missing(self, text):
        """-> the option a command needs and was not given, or None"""
        return next((w for w in re.findall(r"{(\w+)}", text) if w != "isa" and not self.words[w]), None)

    def command(self, text, quick=""):
        cmd = " ".join(text.format(**self.words).split())
        return cmd + (" " + quick if self.args.quick and quick else "")

    def commands(self, run, peers):
        """-> {label: command}, ours first, and {label: why not}"""
        out, without = {OURS: self.command(run.ours, run.quick)}, {}
        for label, text in run.peers.items():
            if label not in peers:
                continue
            option = self.missing(text)
            if option:
                without[label] = f"no --{option.replace('_', '-')}"
            elif label == "BLIS skx" and (self.args.isa == "avx2" or not self.avx512()):
                without[label] = "no AVX-512"
            else:
                out[label] = self.command(text, run.quick)
        return out, without

    @staticmethod
    def avx512():
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            return " avx512bw" in f.read()

    def make_files(self, run):
        for name in run.files:
            if self.args.models and not os.path.exists(os.path.join(self.args.models, name)):
                cmd = FILES[name].format(**self.words)
                if self.args.dry_run:
                    print(f"{cmd}  # makes {name}")
                    continue
                print(f"table: making {name}", file=sys.stderr)
                os.makedirs(self.args.models, exist_ok=True)
                subprocess.run(cmd, shell=True, check=True, stdout=subprocess.DEVNULL)

    def old_rounds(self, group, name, commands):
        """{rep: round} of FILE that were made by these commands"""
        old = {}
        for row in self.log.lines if self.args.resume else ():
            if (row["table"], row.get("group"), row.get("run")) == ("round", group, name):
                same = all(row["commands"].get(label) == cmd for label, cmd in commands.items())
                if same and not (self.args.redo and row["other"] > self.most(group)):
                    old[row["rep"]] = row
        return old

    def most(self, group):
        """Others may take so much; in the group "load" the busy loop is one of them."""
        return self.args.max_other + (1 / os.cpu_count() if group == "load" else 0)

    def one_round(self, group, name, rep, commands, broken):
        """Runs the commands once each; one that fails is left out from then on."""
        while True:
            labels = list(commands)

            def note(attempt, i, cases, other):
                for case, row in cases.items():
                    self.log.put("raw", group=group, run=name, rep=rep, attempt=attempt, label=labels[i],
                                 command=commands[labels[i]], other=round(other, 3), **{**row, "case": case})

            try:
                rows, other = compare.in_turn(list(commands.values()), rep, self.most(group), self.args.retry, note)
            except compare.Failed as failed:
                label = next(k for k, c in commands.items() if c == failed.command)
                print(f"table: {name}: {label}: {failed}", file=sys.stderr)
                broken[label] = "failed"
                del commands[label]
                if label == OURS or len(commands) < 2:
                    return None
                continue
            return self.log.put("round", group=group, run=name, rep=rep, other=round(other, 3), when=now(),
                                commands=dict(commands), rows=dict(zip(labels, rows)))

    def measure(self, group, name, run, regimes):
        self.make_files(run)
        commands, broken = self.commands(run, {p for regime in regimes for p in regime.peers})
        for label, why in broken.items():
            print(f"table: {name}: without {label}: {why}", file=sys.stderr)
        if self.args.dry_run:
            print(f"# {name}: " + "; ".join(r.name for r in regimes))
            print("\n".join(commands.values()))
            return True
        old, rounds = self.old_rounds(group, name, commands), []
        for rep in range(self.args.reps):
            if len(commands) < 2 or OURS not in commands:
                break
            row = old.get(rep) or self.one_round(group, name, rep, commands, broken)
            if row:
                rounds.append(row)
        return all([self.state(group, regime, rounds, broken) for regime in regimes])

    def state(self, group, regime, rounds, broken):
        """Writes and prints the ratio of one regime; False if there is none."""
        found = evaluate(regime, rounds, self.args.isa)
        if isinstance(found, str):
            why = found + "".join(f"; {k}: {v}" for k, v in broken.items() if k in regime.peers)
            self.log.put("none", group=group, regime=regime.name, why=why)
            print(f"{regime.name}: not measured: {why}", flush=True)
            return False
        self.log.put("ratio", group=group, regime=regime.name, max_other=self.args.max_other, quick=self.args.quick,
                     **found)
        print(f"{regime.name}: {found['ratio']:.2f} ({found['least']:.2f}-{found['greatest']:.2f}) {found['peer']}, "
              f"ours {found['ours']:g}, peer {found['theirs']:g} {UNIT[regime.field]}, met: {found['met']}, "
              f"others {found['other']:.2f}" + (f", differ {found['differ']}" if found["differ"] else ""), flush=True)
        return True

    def machine(self):
        """What the machine can do in these minutes, and what is measured."""
        here = os.path.dirname(os.path.abspath(__file__))
        git = subprocess.run(["git", "-C", here, "describe", "--always", "--dirty"], capture_output=True, text=True)
        peak = {}
        if self.args.programs and not self.args.quick:
            for threads in sorted({1, self.args.threads}):
                cases, _ = compare.run(f"{self.words['programs']}/peak --threads {threads}")
                peak.update(cases)
        self.log.put("machine", when=now(), commit=git.stdout.strip(), threads=self.args.threads, isa=self.args.isa,
                     peak=peak)


def rows_of(rounds, label, case, field):
    """-> {rep: row} of the rounds that have the field"""
    rows = {r["rep"]: r["rows"].get(label, {}).get(case, {}) for r in rounds}
    return {rep: row for rep, row in rows.items() if row.get(field)}


def faster(regime, rounds, case):
    """-> the fastest peer in a case, or None"""
    value = {}
    for peer in regime.peers:
        rows = rows_of(rounds, peer, case, regime.field)
        if rows:
            value[peer] = statistics.median(row[regime.field] for row in rows.values())
    less = regime.field in compare.TIMES | compare.MEMORY
    return (min if less else max)(value, key=value.get) if value else None


def cpu_name():
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        return next((line.split(":")[1].strip() for line in f if line.startswith("model name")), "unknown")


def judge(regime, wide, ratios):
    """-> goal, stretch, what is met by the median, whether the worst round reaches the goal"""
    memory = regime.field in compare.MEMORY
    goal, stretch = (*(regime.avx512 if wide else regime.avx2), None, None)[:2]
    median, worst = statistics.median(ratios), (max if memory else min)(ratios)

    def reached(mark, x):
        return mark is not None and (x <= mark if memory else x >= mark)

    met = "stretch" if reached(stretch, median) else "yes" if reached(goal, median) else "no"
    return dict(goal=goal, stretch=stretch, met="-" if goal is None else met, always=reached(goal, worst))


def evaluate(regime, rounds, isa):
    """-> fields of the ratio, or why there is none"""
    field = regime.field
    cases = sorted({c for r in rounds for c in r["rows"][OURS] if re.search(regime.case, c)})
    per_rep, ours, theirs, peers, differ = collections.defaultdict(list), [], [], [], {}
    for case in cases:
        peer = faster(regime, rounds, case)
        a = rows_of(rounds, OURS, case, field)
        b = rows_of(rounds, peer, case, field)
        both = a.keys() & b.keys()
        for rep in sorted(both):
            per_rep[rep].append(compare.ratio(field, a[rep][field], b[rep][field]))
            unlike = compare.differences(a[rep], b[rep])
            differ.update({k: v for k, v in unlike.items() if k not in regime.differ})
        if both:
            some, there = a[min(both)], b[min(both)]
            ours.append(statistics.median(a[rep][field] for rep in both))
            theirs.append(statistics.median(b[rep][field] for rep in both))
            version = str(there.get("version", ""))
            peers.append(peer if ".so" in version or peer in ALONE else f"{peer} {version}".strip())
    if not per_rep:
        return f"no case of ours and of a peer pairs with {regime.case} in {field}"
    ratios = [statistics.median(v) for v in per_rep.values()]
    wide = isa != "avx2" and Table.avx512()
    return dict(field=field, peer=", ".join(p for p, _ in collections.Counter(peers).most_common()),
                ours=round(statistics.median(ours), 4), theirs=round(statistics.median(theirs), 4),
                ratio=round(statistics.median(ratios), 3), least=round(min(ratios), 3), greatest=round(max(ratios), 3),
                rounds=len(ratios), cases=len(peers), **judge(regime, wide, ratios),
                other=max(r["other"] for r in rounds), differ=differ, cpu=cpu_name(),
                isa_class="AVX-512" if wide else "AVX2", isa=isa, threads=some.get("threads"), dtype=some.get("dtype"),
                kernels=some.get("kernels"), when=max(r["when"] for r in rounds))


def short(x):
    return "-" if x is None else f"{x:.0f}" if x >= 100 else f"{x:.3g}"


def table_row(group, r):
    if r["table"] == "none":
        return f"| {r['regime']} | | | | | not measured: {r['why']} | | | |"
    met = r["met"] + (", by every round" if r["always"] and r["rounds"] > 1 else "")
    if r["rounds"] == 1:
        met += "; one round only"
    if r["other"] > r["max_other"] and group != "load":
        met += f"; others took {100 * r['other']:.0f} %"
    met += "".join(f"; {k} differs: {a} / {b}" for k, (a, b) in r["differ"].items())
    met += "; shortened" if r["quick"] else ""
    unit = UNIT[r["field"]]
    goal = ("at most " if r["field"] in compare.MEMORY and r["goal"] is not None else "") + short(r["goal"])
    ratio = f"**{short(r['ratio'])}** ({short(r['least'])}-{short(r['greatest'])})"
    cells = (r["regime"], r["peer"], r["threads"] or "-", f"{short(r['ours'])} {unit}", f"{short(r['theirs'])} {unit}",
             ratio, goal, short(r["stretch"]), met)
    return "| " + " | ".join(map(str, cells)) + " |"


def latest(lines):
    """-> {(group, regime, isa): the last line about it}; a failure counts only where there is no ratio"""
    last = {}
    for row in lines:
        if row["table"] == "ratio":
            last[row["group"], row["regime"], row["isa"]] = row
    known = {k[:2] for k in last}
    for row in lines:
        if row["table"] == "none" and (row["group"], row["regime"]) not in known:
            last[row["group"], row["regime"], ""] = row
    return last


def markdown(lines):
    last = latest(lines)
    ratios = [r for r in last.values() if r["table"] == "ratio"]
    if not ratios:
        sys.exit("table: no ratios in the file")
    machine = [r for r in lines if r["table"] == "machine"]
    some, days = ratios[0], sorted(r["when"][:10] for r in ratios)
    kernels = next((r["kernels"] for r in ratios if r["kernels"]), "-")
    print(f"{some['cpu']}, {some['isa_class']}, kernels {kernels}; dikast {machine[-1]['commit']}; {days[0]} to "
          f"{days[-1]}.")
    for p in next((m["peak"] for m in reversed(machine) if m["peak"]), {}).values():
        rates = ", ".join(f"{k} {v:g}" for k, v in p.items() if k.endswith(("_gflops", "_gbs")))
        print(f"Peak of the machine, threads {p['threads']}: {rates}.")
    order = [("", r.name) for r in REGIMES] + [("load", r.name) for r in LOAD_REGIMES]
    for group, title in (("", "regime"), ("load", "beside a busy core")):
        rows = sorted((order.index(k[:2]), k[2], table_row(group, r)) for k, r in last.items() if k[0] == group)
        if rows:
            print(f"\n| {title} | peer | threads | ours | peer | ratio (least-greatest) | goal | stretch | met? |")
            print("|---|---|---|---|---|---|---|---|---|")
            print("\n".join(text for _, _, text in rows))


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    p.add_argument("--dikast", default=os.path.join(here, "build/release/dikast"), help="ours (build/release/dikast)")
    p.add_argument("--peers", default="", help="folder of the peers' scripts")
    p.add_argument("--python", default="", help="the python that has torch and the rest")
    p.add_argument("--programs", default="", help="folder of gemm_peer, gen_llama, json_jansson, peak")
    p.add_argument("--trl-ppo", default="", help="folder of TRL 1.12, the last with PPO")
    p.add_argument("--models", default="", help="folder of model files, corpus and rows; what is missing is made")
    p.add_argument("--only", default="", help="pattern: regimes by name, capitals or not")
    p.add_argument("--reps", type=int, default=5, help="rounds (5)")
    p.add_argument("--threads", type=int, default=2, help="of training, generation and RL (2); products and text: 1")
    p.add_argument("--isa", choices=["native", "avx512", "avx2"], default="native", help="cap, on both sides")
    p.add_argument("--max-other", type=float, default=0.15, help="load by others that makes a round run again (0.15)")
    p.add_argument("--retry", type=int, default=2, help="how often; the quietest try counts (2)")
    p.add_argument("--interference", action="store_true",
                   help="beside a busy core: our speed with --threads over that with one")
    p.add_argument("--quick", action="store_true", help="shortest runs, to see that all pairs; no figures to quote")
    p.add_argument("--json", metavar="FILE", default="", help="append every line and ratio to FILE")
    p.add_argument("--resume", action="store_true", help="take finished rounds of the same commands from FILE")
    p.add_argument("--redo", action="store_true", help="with --resume: not those others disturbed")
    p.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    p.add_argument("--markdown", action="store_true", help="print the table from FILE, run nothing")
    args = p.parse_args()
    if (args.markdown or args.resume) and not args.json:
        p.error("--markdown and --resume need --json FILE")
    return args


def main():
    args = arguments()
    table = Table(args)
    if args.markdown:
        return markdown(table.log.lines)
    group = "load" if args.interference else ""
    runs, regimes = (LOAD_RUNS, LOAD_REGIMES) if group else (RUNS, REGIMES)
    chosen = [r for r in regimes if re.search(args.only, r.name, re.I)]
    if not chosen:
        sys.exit(f"table: no regime matches {args.only!r}; there are: " + "; ".join(r.name for r in regimes))
    if not args.dry_run:
        table.machine()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if group and not args.dry_run else None
    try:
        whole = [table.measure(group, name, run, [r for r in chosen if r.run == name])
                 for name, run in runs.items() if any(r.run == name for r in chosen)]
    finally:
        if busy:
            busy.kill()
            busy.wait()
    sys.exit(0 if all(whole) else 1)


if __name__ == "__main__":
    main()
