#!/usr/bin/env python3
"""dikast eval beside lm-evaluation-harness: every item, every metric.

  lmeval_items.py DIKAST [--docs 210] [--work DIR] [--golden DIR] [--speed]

Writes documents of our own, generated from word lists, in the columns of ten benchmarks; task files for the harness that include
its installed definitions and replace only where the data come from; and two small models trained on those texts for a moment, so
that greedy hits occur: GPT-2 with a byte-level BPE, and Llama with a BPE in the style of SentencePiece that puts a BOS before a
text. Then it runs both programs on them, without network, in float32. Prompts must be equal to the byte, log-likelihoods within
1e-4 nats, greedy flags equal, metrics and standard errors equal but for rounding.

--golden DIR: writes models, documents and the harness' numbers there instead of comparing; tests/golden/eval is a run with
--docs 4. Exit status 77: lm_eval cannot be imported."""
import argparse
import glob
import hashlib
import json
import math
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time

try:
    import lm_eval
    import torch
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
except ImportError as e:
    print(f"lm_eval and its packages are not here: {e}")
    sys.exit(77)

WHO = "the clerk|a baker|the gardener|an old sailor|my neighbour|the teacher|a café owner|the naïve painter|her brother|the judge".split("|")
DO = "counts|sells|hides|paints|repairs|cleans|forgets|carries|weighs|borrows".split("|")
WHAT = "apples|loaves of bread|rows of beans|seven ropes|letters|small clocks|crêpes|a red ladder|the keys|two lamps".split("|")
WHERE = "in the garden|near the harbour|behind the school|at noon|before the rain|in Åre|under a bridge|on Monday|for 12 € |at home".split("|")
SUBJECTS = ["anatomy", "high_school_physics", "international_law", "marketing"]


class Words:
    def __init__(self, seed):
        self.r = random.Random(seed)

    def __getattr__(self, name):
        lists = dict(who=WHO, do=DO, what=WHAT, where=WHERE)
        return self.r.choice(lists[name])

    def sentence(self):
        return f"{self.who} {self.do} {self.what} {self.where}".strip().capitalize() + "."

    def distinct(self, n, make):
        out = []
        while len(out) < n:
            x = make()
            if x not in out:
                out.append(x)
        return out


def documents(n):
    w, d = Words(7), {}
    r = w.r
    for s in SUBJECTS:
        for split, count in (("test", max(2, math.ceil(n / len(SUBJECTS)))), ("dev", 5)):
            d[f"mmlu_{s}_{split}"] = [dict(question=r.choice(["", " "]) + f"Which of these {w.do} {w.who} {w.where}?" + r.choice(["", " \n"]), subject=s,
                                           choices=w.distinct(4, lambda: w.what), answer=r.randrange(4)) for _ in range(count)]
    mess = ["{}", " {} ", "{} [step] then stops", "[title] {}", "{} [title] {}", "{}   twice", "[a] {}"]
    d["hellaswag"] = [dict(activity_label=r.choice(["Making tea", "Riding", "Cooking [x]"]), ctx_a=f"{w.sentence()} [header] {w.what} [title] {w.where}",
                           ctx_b=r.choice(["", "éclair First", "she THEN", "ßo it goes"]), label=str(r.randrange(4)),
                           endings=[r.choice(mess).replace("{}", w.sentence()) for _ in range(4)]) for _ in range(n)]

    def truth():
        c, e = w.distinct(r.randrange(2, 6), w.sentence), w.distinct(r.randrange(2, 7), w.sentence)
        k = r.randrange(1, len(e))
        return dict(question=f"What happens when {w.who} {w.do} {w.what}?", mc1_targets=dict(choices=c, labels=[1] + [0] * (len(c) - 1)),
                    mc2_targets=dict(choices=e, labels=[1] * k + [0] * (len(e) - k)))
    d["truthfulqa"] = [truth() for _ in range(n)]

    def arc():
        k = r.choice([3, 4, 4, 4, 5])
        labels = (["A", "B", "C", "D", "E"] if r.random() < 0.7 else ["1", "2", "3", "4", "5"])[:k]
        return dict(question=f"{w.sentence()} What did {w.who} carry?", choices=dict(text=w.distinct(k, lambda: w.what + r.choice(["", " "])), label=labels),
                    answerKey=r.choice(labels))
    d["arc"], d["arc_train"] = [arc() for _ in range(n)], [arc() for _ in range(40)]
    d["openbookqa"] = [dict(question_stem=w.sentence()[:-1] + " because" + r.choice(["", " "]), choices=(a := arc())["choices"], answerKey=a["answerKey"]) for _ in range(n)]
    d["piqa"] = [dict(goal=f"To keep {w.what} {w.where},", sol1=w.sentence(), sol2=w.sentence(), label=r.randrange(2)) for _ in range(n)]
    d["winogrande"] = [dict(sentence=r.choice(["{} did not trust {} because _ was late {}.", "_ {} {}, so nobody {}.", "{} gave {} a lamp, so the reader {} is _ ."])
                            .replace("{}", w.who, 1).replace("{}", w.what, 1).replace("{}", w.where, 1), option1=w.who, option2=w.who, answer=r.choice("12"))
                       for _ in range(n)]
    d["boolq"] = [dict(passage=" ".join(w.sentence() for _ in range(4)), question=f"does {w.who} like {w.what}", label=r.randrange(2), idx=i) for i in range(n)]
    d["lambada"] = [dict(text=" ".join(w.sentence() for _ in range(4))[:-1]) for _ in range(n)]
    return d


def dump(path, rows):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(x, ensure_ascii=False) + "\n" for x in rows)


def lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(x) for x in f if x.strip()]


# ------------------------------------------------------------------ task files
# name, ours, the harness' definition, its splits and what else, ours beside the name
TASKS = [("l_hellaswag", "hellaswag", "hellaswag/hellaswag.yaml", dict(validation="hellaswag"), {}, ""),
         ("l_truthfulqa_mc1", "truthfulqa_mc1", "truthfulqa/truthfulqa_mc1.yaml", dict(validation="truthfulqa"), {}, ""),
         ("l_truthfulqa_mc2", "truthfulqa_mc2", "truthfulqa/truthfulqa_mc2.yaml", dict(validation="truthfulqa"), {}, ""),
         ("l_arc", "arc_easy", "arc/arc_easy.yaml", dict(test="arc"), {}, "data: {test: [arc.jsonl]}"),
         ("l_arc_3shot", "arc_challenge", "arc/arc_easy.yaml", dict(test="arc", train="arc_train"),
          dict(training_split="train", fewshot_split="train", num_fewshot=3), "data: {test: [arc.jsonl], shots: [arc_train.jsonl]}\nshots: {n: 3}"),
         ("l_arc_2own", "arc_challenge", "arc/arc_easy.yaml", dict(test="arc"), dict(fewshot_split="test", num_fewshot=2), "data: {test: [arc.jsonl]}\nshots: {n: 2}"),
         ("l_piqa", "piqa", "piqa/piqa.yaml", dict(validation="piqa"), {}, ""),
         ("l_winogrande", "winogrande", "winogrande/default.yaml", dict(validation="winogrande"), {}, ""),
         ("l_boolq", "boolq", "super_glue/boolq/default.yaml", dict(validation="boolq"), {}, ""),
         ("l_openbookqa", "openbookqa", "openbookqa/openbookqa.yaml", dict(test="openbookqa"), {}, ""),
         ("l_lambada", "lambada_openai", "lambada/lambada_openai.yaml", dict(test="lambada"), {}, "")]


def write_tasks(w, docs, ours):
    lib = os.path.join(os.path.dirname(os.path.abspath(lm_eval.__file__)), "tasks")
    for name, rows in docs.items():
        dump(f"{w}/data/{name}.jsonl", rows)
    for split in ("test", "dev"):
        dump(f"{w}/data/mmlu_{split}.jsonl", [x for s in SUBJECTS for x in docs[f"mmlu_{s}_{split}"]])
    os.makedirs(f"{w}/theirs", exist_ok=True)
    os.makedirs(f"{w}/ours", exist_ok=True)

    def theirs(name, include, files, extra):
        cfg = dict(include=f"{lib}/{include}", task=name, dataset_path="json", dataset_name=None, test_split=None, validation_split=None,
                   training_split=None, fewshot_split=None, tag=None, dataset_kwargs=dict(data_files={k: f"{w}/data/{v}.jsonl" for k, v in files.items()}))
        cfg.update({f"{k}_split": k for k in ("test", "validation") if k in files})
        cfg.update(extra)
        with open(f"{w}/theirs/{name}.yaml", "w") as f:
            json.dump(cfg, f)

    for s in SUBJECTS:
        words = s.replace("_", " ")
        theirs(f"l_mmlu_{s}", "mmlu/default/_default_template_yaml", dict(test=f"mmlu_{s}_test", dev=f"mmlu_{s}_dev"),
               dict(fewshot_split="dev", num_fewshot=5, description=f"The following are multiple choice questions (with answers) about {words}.\n\n"))
    with open(f"{w}/theirs/l_mmlu.yaml", "w") as f:
        json.dump(dict(group="l_mmlu", task=[f"l_mmlu_{s}" for s in SUBJECTS], aggregate_metric_list=[dict(metric="acc", weight_by_size=True)]), f)
    with open(f"{w}/ours/l_mmlu.yaml", "w") as f:
        f.write(f"extends: {ours}/mmlu.yaml\nname: l_mmlu\n")
    for name, base, include, files, extra, more in TASKS:
        theirs(name, include, files, extra)
        with open(f"{w}/ours/{name}.yaml", "w") as f:
            f.write(f"extends: {ours}/{base}.yaml\nname: {name}\n{more}\n")


# ------------------------------------------------------------------ models
def tokenizer(kind, texts, vocab):
    tok = Tokenizer(models.BPE(byte_fallback=kind == "sentencepiece", fuse_unk=kind == "sentencepiece", unk_token="<unk>" if kind == "sentencepiece" else None))
    if kind == "bytelevel":
        tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tok.decoder = decoders.ByteLevel()
        special, alphabet = ["<|endoftext|>"], pre_tokenizers.ByteLevel.alphabet()
        names = dict(bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    else:
        tok.pre_tokenizer = pre_tokenizers.Metaspace()                 # while training: no token crosses a blank
        tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        special, alphabet = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)], []
        names = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tok.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab, special_tokens=special, show_progress=False, initial_alphabet=alphabet,
                                                       limit_alphabet=60 if kind == "sentencepiece" else 256, max_token_length=12))
    if kind == "sentencepiece":
        parts = json.loads(tok.to_str())                               # bytes are tokens like others, not special ones
        parts["added_tokens"] = [t for t in parts["added_tokens"] if not t["content"].startswith("<0x")]
        tok = Tokenizer.from_str(json.dumps(parts))
        tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tok.pre_tokenizer = None
        tok.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return tok, names


def make_model(path, kind, docs, vocab, width, window, steps):
    torch.set_num_threads(1)
    torch.manual_seed(1)
    layers = 2 if width < 256 else 4
    w = Words(99)
    texts = [json.dumps(x, ensure_ascii=False) for rows in docs.values() for x in rows][:400] + [w.sentence() for _ in range(400)]
    tok, names = tokenizer(kind, texts, vocab)
    fast = PreTrainedTokenizerFast(tokenizer_object=tok, model_max_length=window, **names)
    fast.save_pretrained(path)
    size = len(fast)
    if kind == "bytelevel":
        net = GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=width, n_layer=layers, n_head=2, n_positions=window, bos_token_id=0, eos_token_id=0,
                                         resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))
    else:
        net = LlamaForCausalLM(LlamaConfig(vocab_size=size, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers, num_attention_heads=4,
                                           num_key_value_heads=2, max_position_embeddings=window, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True))
    opt = torch.optim.AdamW(net.parameters(), lr=4e-3)
    for _ in range(steps):
        x = torch.tensor([fast.encode(" ".join(w.sentence() for _ in range(12)))[:160]])
        opt.zero_grad()
        net(x, labels=x).loss.backward()
        opt.step()
    net.save_pretrained(path)
    for extra in ("generation_config.json",):
        if os.path.exists(f"{path}/{extra}"):
            os.remove(f"{path}/{extra}")


# ------------------------------------------------------------------ both programs
NAMES = ["l_mmlu"] + [t[0] for t in TASKS]


def run_theirs(w, model, out):
    env = dict(os.environ, HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", HF_DATASETS_CACHE=f"{w}/cache")
    cmd = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={model},dtype=float32", "--tasks", ",".join(NAMES), "--include_path",
           f"{w}/theirs", "--device", "cpu", "--batch_size", "8", "--log_samples", "--output_path", out]
    p = subprocess.run(cmd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if p.returncode:
        sys.exit("lm_eval failed:\n" + p.stdout[-4000:])
    items = {}
    for path in glob.glob(f"{out}/**/samples_*.jsonl", recursive=True):
        task = re.fullmatch(r"samples_(.+)_\d{4}-\d\d-\d\dT[0-9.:-]+\.jsonl", os.path.basename(path))[1]
        for d in lines(path):
            for i, x in enumerate(d["resps"]):
                a = d["arguments"][f"gen_args_{i}"]
                items[task, d["doc_id"], i] = a["arg_0"], a["arg_1"], float(x[0][0]), x[0][1] in (True, "True")
    with open(glob.glob(f"{out}/**/results_*.json", recursive=True)[0]) as f:
        results = json.load(f)["results"]
    metrics = {}
    for task, r in results.items():
        for k, v in r.items():
            if k.endswith(",none"):
                metrics[task, k[:-5]] = v
    return items, metrics


def run_ours(dikast, w, model, out):
    cmd = [dikast, "eval", model] + [f"{w}/ours/{t}.yaml" for t in NAMES] + ["--data", f"{w}/data", "--out", out, "-q"]
    p = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if p.returncode:
        sys.exit("dikast failed:\n" + p.stdout[-4000:])
    items = {(d["task"], d["doc_id"], d["idx"]): (d["ctx"], d["cont"], d["ll"], d["greedy"]) for d in lines(f"{out}/items.jsonl")}
    with open(f"{out}/results.json") as f:
        results = json.load(f)["results"]
    return items, {(r["task"], k): v for r in results for k, v in r["metrics"].items()}


def compare(kind, ours, theirs):
    (items, metrics), (ref, ref_metrics) = ours, theirs
    bad, worst, hits, checked = 0, 0.0, 0, 0
    if set(items) != set(ref):
        print(f"{kind}: {len(set(ref) - set(items))} items missing, {len(set(items) - set(ref))} surplus")
        return 1
    for key, (ctx, cont, ll, greedy) in ref.items():
        o = items[key]
        e = abs(o[2] - ll)
        worst, hits = max(worst, e), hits + greedy
        if (o[0], o[1]) != (ctx, cont) or not e <= 1e-4 or o[3] != greedy:
            bad += 1
            print(kind, "differs", key, repr(ctx[-60:]), repr(cont), o[2:], (ll, greedy))
    for (task, name), v in ref_metrics.items():
        if (task, name) not in metrics or v == "N/A":
            bad += 1
            print(kind, "no metric", task, name, v)
            continue
        checked += 1
        rounding = 1e-4 if "perplexity" in name or task == "l_truthfulqa_mc2" else 1e-12   # these are functions of the lls themselves
        if not abs(metrics[task, name] - v) <= rounding * max(1.0, abs(v)):
            bad += 1
            print(kind, "metric differs", task, name, metrics[task, name], v)
    docs = {}
    for t, d, _ in ref:
        docs.setdefault("l_mmlu" if t.startswith("l_mmlu") else t, set()).add((t, d))
    print(f"{kind}: {len(ref)} requests of {sum(map(len, docs.values()))} items ({min(map(len, docs.values()))} to {max(map(len, docs.values()))} of each of "
          f"{len(docs)} tasks), {hits} greedy hits, largest |difference| {worst:.1e} nats, {checked} metrics; {bad} mismatches")
    return bad


# ------------------------------------------------------------------ speed
def timed(cmd, env):
    a, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    p = subprocess.run(cmd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    b = resource.getrusage(resource.RUSAGE_CHILDREN)
    if p.returncode:
        sys.exit(f"{cmd[0]} failed:\n" + p.stdout[-4000:])
    return time.time() - start, b.ru_utime + b.ru_stime - a.ru_utime - a.ru_stime


def speed(dikast, w, model):
    """2,000 items of four tasks on a model of three million parameters; of each program also a run on one item per task, which is
    what starting costs"""
    names = ["l_mmlu", "l_hellaswag", "l_arc", "l_piqa"]
    env = dict(os.environ, HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", HF_DATASETS_CACHE=f"{w}/cache")
    theirs = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={model},dtype=float32", "--tasks", ",".join(names), "--include_path",
              f"{w}/theirs", "--device", "cpu", "--batch_size", "32"]
    ours = [dikast, "eval", model] + [f"{w}/ours/{t}.yaml" for t in names] + ["--data", f"{w}/data", "-q"]
    rows = {}
    for name, cmd in (("dikast", ours), ("lm_eval", theirs)):
        start, all_ = timed(cmd + ["--limit", "1"], env), timed(cmd, env)
        rows[name] = all_
        print(f"{name}: {all_[0]:.1f} s, {all_[1]:.1f} s of CPU; starting: {start[0]:.1f} s, {start[1]:.1f} s of CPU", flush=True)
        rows[name + " scoring"] = [max(x - y, 1e-3) for x, y in zip(all_, start)]
    for what in ("", " scoring"):
        a, b = rows["dikast" + what], rows["lm_eval" + what]
        print(f"{what.strip() or 'all'}: {b[0] / a[0]:.1f} times faster by the clock, {b[1] / a[1]:.1f} times less CPU")
    return rows["lm_eval scoring"][1] < 5 * rows["dikast scoring"][1]


def golden(folder, kind, model, theirs):
    items, metrics = theirs
    to = f"{folder}/{kind}"
    os.makedirs(to, exist_ok=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(f"{model}/{name}", to)
    with open(f"{to}/items.jsonl", "w") as f:
        for (task, doc, i), (ctx, cont, ll, greedy) in sorted(items.items()):
            name = hashlib.sha256((ctx + "\0" + cont).encode()).hexdigest()[:16]
            f.write(json.dumps(dict(task=task, doc_id=doc, idx=i, prompt=name, ll=ll, greedy=greedy), separators=(",", ":")) + "\n")
    with open(f"{to}/metrics.json", "w") as f:
        json.dump([dict(task=t, metric=k, value=v) for (t, k), v in sorted(metrics.items()) if v != "N/A"], f, indent=0)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("dikast")
    ap.add_argument("--docs", type=int, default=210)
    ap.add_argument("--work")
    ap.add_argument("--golden")
    ap.add_argument("--speed", action="store_true", help="time both on 2,000 multiple-choice items instead")
    a = ap.parse_args()
    a.docs = 500 if a.speed else a.docs
    w = os.path.abspath(a.work or tempfile.mkdtemp(prefix="lmeval_items."))
    docs = documents(a.docs)
    here = os.path.dirname(os.path.abspath(__file__))
    write_tasks(w, docs, "../../../../conf/tasks" if a.golden else os.path.abspath(f"{here}/../../conf/tasks"))
    bad = 0
    if a.speed:
        make_model(f"{w}/speed", "bytelevel", docs, 2000, 256, 1024, 5)
        bad += speed(a.dikast, w, f"{w}/speed")
    for kind, window in (("bytelevel", 1024), ("sentencepiece", 384)) if not a.speed else ():
        model = f"{w}/{kind}"
        make_model(model, kind, docs, 420 if a.golden else 900, 16 if a.golden else 64, window if not a.golden else window // 2, 900 if a.golden else 400)
        theirs = run_theirs(w, model, f"{w}/out_{kind}")
        if a.golden:
            golden(a.golden, kind, model, theirs)
        else:
            bad += compare(kind, run_ours(a.dikast, w, model, f"{w}/ours_{kind}"), theirs)
    if a.golden:
        shutil.copytree(f"{w}/data", f"{a.golden}/data", dirs_exist_ok=True, ignore=lambda d, names: [n for n in names if re.match("mmlu_(?!test|dev)", n)])
        shutil.copytree(f"{w}/ours", f"{a.golden}/tasks", dirs_exist_ok=True)
    if not a.work:
        shutil.rmtree(w)
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
