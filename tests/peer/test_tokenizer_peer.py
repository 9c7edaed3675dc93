#!/usr/bin/env python3
"""Tokenizer against Hugging Face's `tokenizers`: ids on megabytes of mixed text, merges learned from the same text, and our
files loaded by the peer; where `tiktoken` is installed, its ids for the same text too. Run by hand:

    python tests/peer/test_tokenizer_peer.py build/dev/test_text_bulk --data DIR [--seed 1] [--keep FOLDER]

DIR holds real text to compare on (*.txt, *.txt.gz, *.txt.zst, *.jsonl; the data folder the configuration names) and, for
the GPT-2 and Llama-3 style cases, a GPT-2 vocabulary (encoder.json and vocab.bpe somewhere below). Compared text never
spells a special token: there the two differ on purpose. Exit status 0 when everything agrees."""
import argparse, glob, gzip, json, os, random, struct, subprocess, sys, tempfile
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
CASED = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SENTINELS = ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]

def pre(split):
    if split == "gpt2": return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    pattern = {"llama3": LLAMA3, "qwen2": QWEN2, "cased": CASED}[split]
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])

def finish(t, split):
    t.pre_tokenizer = pre(split)
    t.decoder = decoders.ByteLevel()
    return t

def real_text(root, limit):
    out = []
    for f in sorted(glob.glob(os.path.join(root, "**", "*"), recursive=True)):
        base = os.path.basename(f)
        if not os.path.isfile(f) or "tokenizers" in f or "weights" in f: continue
        if base.endswith(".txt"): s = open(f, "rb").read(2 * limit)
        elif base.endswith(".txt.gz"): s = gzip.open(f).read(2 * limit)
        elif base.endswith(".txt.zst"):
            s = subprocess.run(f"zstd -dcq '{f}' | head -c {2 * limit}", shell=True, capture_output=True).stdout
        elif base.endswith(".jsonl"): s = open(f, "rb").read(limit)
        else: continue
        out.append(s.decode("utf-8", "ignore").replace("<|", "< |"))
    return out

WORDS = "the of and to in a is that was he for it with as his on be at by I this had not are but from or have an they".split()
POOLS = [[chr(c) for c in range(32, 127)], list(" \t\n\r\v\f\u00a0\u1680\u2000\u2003\u2028\u2029\u202f\u205f\u3000\u0085\u180e\u200b\ufeff"),
         [chr(c) for c in range(0, 32)], list("0123456789٠١٢٣四五½²Ⅷ"), list("'sS'tT'reRE've'LL'm'D'ſ’s"),
         [chr(c) for c in range(0xA0, 0x250)], [chr(c) for c in range(0x370, 0x530)], [chr(c) for c in range(0x5D0, 0x6FF)],
         [chr(c) for c in range(0x900, 0xE80)], [chr(c) for c in range(0x4E00, 0x9FFF)], [chr(c) for c in range(0xAC00, 0xD7A0)],
         [chr(c) for c in range(0x3040, 0x30FF)], list("😀👩‍👩‍👧‍👦🏽🇩🇪❤️👍🏿🧑‍🚀\u200d\ufe0f"), list("=-_*#/\\.~ "),
         [chr(c) for c in range(0x1D400, 0x1D7FF)]]

def any_char(r):
    while True:
        c = r.randrange(0x110000)
        if not 0xD800 <= c < 0xE000: return chr(c)

def generated(r):
    out = []
    for _ in range(r.randrange(1, 40)):
        k = r.randrange(6)
        if k == 0: out.append(r.choice(WORDS)); out.append(r.choice([" ", "  ", "\n", ", ", "'s ", ""]))
        elif k == 1: out.append("".join(any_char(r) for _ in range(r.randrange(1, 8))))
        elif k == 2: out.append(r.choice(r.choice(POOLS)) * r.randrange(1, 60))
        else: p = r.choice(POOLS); out.append("".join(r.choice(p) for _ in range(r.randrange(1, 12))))
    return "".join(out).replace("<|", "< |")

def pad(s):
    b = s.encode("utf-8")
    return b + b" " * (-len(b) % 4)

def write_docs(path, docs, ids):
    with open(path, "wb") as f:
        for d, i in zip(docs, ids): f.write(struct.pack("<2i", len(d), len(i)) + d + struct.pack(f"<{len(i)}i", *i))

def tiktoken_differs(vocab, pattern, docs, ids):
    """Documents whose ids differ; None without tiktoken. A vocabulary spells byte b as one printable character."""
    try: import tiktoken
    except ImportError: return None
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    byte_of = {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(rest)}
    ranks = {bytes(byte_of[c] for c in word): i for word, i in vocab.items() if all(c in byte_of for c in word)}
    ranks.pop(b"<|endoftext|>", None)
    enc = tiktoken.Encoding("peer", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return [i for i, d in enumerate(docs) if enc.encode_ordinary(d.decode()) != ids[i]]

def main():
    a = argparse.ArgumentParser()
    a.add_argument("program"); a.add_argument("--data", required=True); a.add_argument("--seed", type=int, default=1)
    a.add_argument("--keep"); a.add_argument("--mb", type=float, default=0.2, help="megabytes of real text per file")
    a = a.parse_args()
    out = a.keep or tempfile.mkdtemp(); os.makedirs(out, exist_ok=True)
    r = random.Random(a.seed); print(f"tokenizers {tokenizers.__version__}, seed {a.seed}, {out}")
    real = real_text(a.data, int(a.mb * 1e6))
    docs = [pad(t[i:i + 50000]) for t in real for i in range(0, len(t), 50000)]
    docs += [pad(generated(r)) for _ in range(20000)]
    docs += [pad(c * n) for c in "a= \n\t-0é漢😀" for n in (3, 41, 1000, 20000)]
    docs += [pad("".join(r.choice("ab") for _ in range(5000))), pad("".join(r.choice("=-") for _ in range(5000)))]
    text = [d.decode() for d in docs[::8] + docs[-40:]]
    print(f"{len(docs)} documents, {sum(map(len, docs))} bytes")
    cases, differ = [], []
    def add(name, t, train=None, use=None):
        t.save(os.path.join(out, name + ".json"))
        u = docs if use is None else use
        ids = [e.ids for e in t.encode_batch([d.decode() for d in u], add_special_tokens=False)]
        write_docs(os.path.join(out, name + ".bin"), u, ids)
        cases.append({"name": name} | ({"train": train} if train else {}))
        return ids
    bpe = glob.glob(os.path.join(a.data, "**", "vocab.bpe"), recursive=True)
    if bpe:
        vocab = json.load(open(os.path.join(os.path.dirname(bpe[0]), "encoder.json"), encoding="utf-8"))
        merges = [tuple(l.split(" ")) for l in open(bpe[0], encoding="utf-8").read().split("\n")[1:] if l]
        for split in ("gpt2", "llama3", "qwen2", "cased"):
            t = finish(Tokenizer(models.BPE(vocab, merges, ignore_merges=split == "llama3")), split)
            t.add_special_tokens(["<|endoftext|>"])
            if split == "qwen2": t.add_tokens([AddedToken(x, normalized=False) for x in ("  the", " the", "<tool>", "==", "===")] + ["of", " of and"])
            ids = add(split, t)
            if split in ("gpt2", "llama3"):
                bad = tiktoken_differs(vocab, GPT2 if split == "gpt2" else LLAMA3, docs, ids)
                print(f"{split:14} tiktoken: " + ("not installed" if bad is None else f"{len(bad)} documents differ {bad[:5]}"))
                differ += bad or []
    else: print("no vocab.bpe below the data folder: its cases are left out")
    big = sorted(docs[:len(docs) - 20040], key=lambda d: r.random())
    some = docs[-6000:]
    for name, split, n, low, use in (("train_llama3", "llama3", 4096, 0, big), ("train_gpt2", "gpt2", 2000, 2, big),
                                     ("train_mixed", "llama3", 3000, 0, some)):
        t = finish(Tokenizer(models.BPE()), split)
        t.train_from_iterator([d.decode() for d in use], trainers.BpeTrainer(
            vocab_size=n, min_frequency=low, special_tokens=SENTINELS, show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
        add(name, t, {"n_vocab": n, "split": split, "min_count": low, "special": SENTINELS}, use)
    json.dump(cases, open(os.path.join(out, "cases.json"), "w"))
    rc = subprocess.run([a.program], env=dict(os.environ, DIKAST_PEER_DIR=out)).returncode or len(differ) > 0
    for c in cases:
        if "train" not in c: continue
        ours, theirs = (Tokenizer.from_file(os.path.join(out, c["name"] + s)) for s in (".ours.json", ".json"))
        bad = sum(x.ids != y.ids for x, y in zip(ours.encode_batch(text, add_special_tokens=False), theirs.encode_batch(text, add_special_tokens=False)))
        bad += sum(ours.token_to_id(s) != i for i, s in enumerate(SENTINELS))
        bad += sum(not t.special or t.lstrip or t.rstrip or t.normalized for t in ours.get_added_tokens_decoder().values())
        bad += ours.decode(ours.encode(text[-1]).ids) != text[-1]
        print(f"{c['name']:14} our file in tokenizers: {bad} of {len(text)} documents differ")
        rc |= bad > 0
    return rc

if __name__ == "__main__": sys.exit(main())
