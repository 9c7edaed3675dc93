#!/usr/bin/env python3
"""Our tokenizer against Hugging Face's `tokenizers`, and `tiktoken` where it is installed.

    python tests/peers/tokenizers_equal.py build/dev/vec_tokenizer [--data DIR] [--tokenizers DIR] [--mb 2] [--random 200]
        [--texts 60] [--seed 1]

Three parts. Megabytes of mixed text (real text from DIR, generated code, scripts, emoji, digits, controls, combining marks)
through the tokenizer.json files of --tokenizers and through several built here in the styles of known models: ids equal. Random
tokenizers, every component we read in random order, random added tokens with all flags: ids, byte offsets, decoded text, ids with
special tokens left alone, ids with what the post-processor adds, and our rewritten file loaded by the peer. Split patterns of
tiktoken over small vocabularies. Exit status 0 when all agree, 77 when `tokenizers` is missing."""
import os; os.environ["RUST_BACKTRACE"] = "0"  # its panics are caught
import argparse, glob, gzip, json, random, re, subprocess, sys, tempfile
try:
    import tokenizers
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
except ImportError:
    print("skipped: the package 'tokenizers' is not installed"); sys.exit(77)

SPACE = "\u2581"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
CL100K = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s")
CASED = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}+"]
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
PATTERNS = [GPT2, LLAMA3, QWEN2, CASED, CL100K, BLOOM, r"\w+|[^\w\s]+", r"\d+|\D+", r"\b", r"\s+", r"\S+", "a*", "^", "$", r"\p{Lu}",
            r"(?<=[a-z])(?=[A-Z])", r"[0-9][0-9][0-9]", r"\p{M}+", r"[\p{P}\p{S}]", r"(?i:the|and)", "▁", r"\r?\n", r"\p{N}{1,3}+", r"\w", r"\W", r"[^\w]+|x", r"\Bo"]
WORDS = "the of and to in a is that was he for it with as his on be at by I this had not are but from or have an they 's don't it's".split()
POOLS = [[chr(c) for c in range(32, 127)], list(" \t\n\r\v\f\u00a0\u1680\u2000\u2003\u2028\u2029\u202f\u205f\u3000\u0085\u180e\u200b\ufeff"),
         [chr(c) for c in range(1, 32)], list("0123456789٠١٢٣四五½²Ⅷ"), list("'sS'tT'reRE've'LL'm'D'ſ’s"), list("éÉàüÜßñçøåłşžœÆǅﬁﬀ"),
         [chr(c) for c in range(0xA0, 0x250)], [chr(c) for c in range(0x300, 0x370)], [chr(c) for c in range(0x370, 0x530)],
         [chr(c) for c in range(0x5D0, 0x6FF)], [chr(c) for c in range(0x900, 0xE80)], [chr(c) for c in range(0x1100, 0x1200)],
         [chr(c) for c in range(0x1E00, 0x2000)], [chr(c) for c in range(0x2070, 0x2C00)], [chr(c) for c in range(0x4E00, 0x9FFF)],
         [chr(c) for c in range(0xAC00, 0xD7A0)], [chr(c) for c in range(0x3040, 0x30FF)], [chr(c) for c in range(0xF900, 0xFB50)],
         list("😀👩‍👩‍👧‍👦🏽🇩🇪❤️👍🏿🧑‍🚀\u200d\ufe0f"), list("=-_*#/\\.~ "), list("▁  ▁ab"), [chr(c) for c in range(0x1D400, 0x1D7FF)],
         list("e\u0301\u0323a\u0308\u0304o\u0327\u0338\u093c\u0915\u0dcf\u0dca\u0dd9\u1161\u11a8\u1100\u0344\u212b\u2126\u0958\ufb1d")]
CODE = ["def f(x):\n    return x[1:] or {'a': 10}\n", "for (int i = 0; i < n; i++) {\n\ta[i] += b->c;\n}\n", "<div class=\"x\">&amp;</div>\n",
        "https://example.org/a?b=c&d=%20#e", "x = 0xFF_00 ** 2  # 3.14e-10\r\n", "SELECT * FROM t WHERE a <> 'b';\n", "\x1b[31mred\x1b[0m\x07\x00"]

def any_char(r):
    while True:
        c = r.choice((r.randrange(0x110000), r.randrange(0x3000), r.randrange(0x20000)))
        if not 0xD800 <= c < 0xE000: return chr(c)

def generated(r, extra=(), most=30):
    out = []
    for _ in range(r.randrange(0, most)):
        k = r.randrange(8)
        if k == 0: out.append(r.choice(WORDS)); out.append(r.choice([" ", "  ", "\n", ", ", "'s ", ""]))
        elif k == 1: out.append("".join(any_char(r) for _ in range(r.randrange(1, 6))))
        elif k == 2: out.append(r.choice(r.choice(POOLS)) * r.choice((1, 2, 3, 5, 40)))
        elif k == 3: out.append(r.choice(CODE))
        elif k == 4 and extra: out.append(r.choice(["", " ", "  ", "\n", "a", "é"]) + r.choice(extra) + r.choice(["", " ", "\t ", "b", "_"]))
        else: p = r.choice(POOLS); out.append("".join(r.choice(p) for _ in range(r.randrange(1, 10))))
    return "".join(out)

def real_text(root, limit):
    for f in sorted(glob.glob(os.path.join(root, "**", "*"), recursive=True)):
        base = os.path.basename(f)
        if not os.path.isfile(f) or "tokenizers" in f or "weights" in f: continue
        if base.endswith((".txt", ".jsonl", ".json", ".csv", ".md")): s = open(f, "rb").read(limit)
        elif base.endswith(".gz"): s = gzip.open(f).read(limit)
        else: continue
        yield s.decode("utf-8", "ignore")

class Adapter:
    def __init__(self, program): self.p = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    def ask(self, **q):
        self.p.stdin.write(json.dumps(q, ensure_ascii=False) + "\n"); self.p.stdin.flush()
        line = self.p.stdout.readline()
        if not line: sys.exit(f"the adapter stopped at {json.dumps(q)[:2000]}")
        return json.loads(line)

# ---- tokenizers ----

def train(texts, vocab, pre, normalizer=None, alphabet=True, special=(), limit=None):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer, t.normalizer = pre, normalizer or normalizers.Sequence([])
    t.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab, show_progress=False, special_tokens=list(special), **({"limit_alphabet": limit} if limit else {}),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if alphabet else []))
    m = json.loads(t.to_str())["model"]
    return m["vocab"], m["merges"]

def model(vocab, merges, **kw):
    m = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
         "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": merges}
    m.update(kw)
    return m

def file(model, pre=None, normalizer=None, decoder=None, post=None, added=()):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": list(added), "normalizer": normalizer,
            "pre_tokenizer": pre, "post_processor": post, "decoder": decoder, "model": model}

def added(id, content, special=False, normalized=False, lstrip=False, rstrip=False, single_word=False):
    return dict(id=id, content=content, single_word=single_word, lstrip=lstrip, rstrip=rstrip, normalized=normalized, special=special)

def byte_level(prefix=False, regex=True): return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}
def split(p, behavior="Isolated", invert=False, kind="Regex"): return {"type": "Split", "pattern": {kind: p}, "behavior": behavior, "invert": invert}
def seq(kind, *parts): return {"type": "Sequence", kind: list(parts)}
def meta(scheme="first", cut=False): return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": cut}
SPM_DECODER = seq("decoders", {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
                  {"type": "Strip", "content": " ", "start": 1, "stop": 0})

def with_bytes(vocab, merges, r=None, drop=0):
    v = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for b in range(256):
        if not (r and r.randrange(256) < drop): v[f"<0x{b:02X}>"] = len(v)
    for k in sorted(vocab, key=vocab.get): v.setdefault(k, len(v))
    return v, merges

def bases(texts):
    """Vocabularies of the two styles, learned from the texts."""
    bl = pre_tokenizers.ByteLevel(add_prefix_space=False)
    spaced = [SPACE + t.replace(" ", SPACE).replace("\0", "") for t in texts]  # no NUL in a name: our JSON refuses it in a key
    words = pre_tokenizers.Split(Regex("▁*[^▁]+|▁+"), "isolated")
    return {"bytes": train(texts, 900, bl), "few bytes": train([t for t in texts if t.isascii()], 500, bl, alphabet=False),
            "chars": train(spaced, 900, words, alphabet=False, limit=400), "across": train(spaced, 700, pre_tokenizers.Split(Regex(".{1,9}"), "isolated"), alphabet=False, limit=300)}

def known(b):
    """In the styles of known models."""
    (bv, bm), (cv, cm), (av, am) = b["bytes"], b["chars"], b["across"]
    n = len(bv)
    tools = [added(n, "<|im_start|>", True), added(n + 1, "<|im_end|>", True), added(n + 2, "<tool_call>"), added(n + 3, "</tool_call>")]
    spm_v, spm_m = with_bytes(cv, cm)
    acr_v, acr_m = with_bytes(av, am)
    sp = [added(0, "<unk>", True), added(1, "<s>", True), added(2, "</s>", True)]
    lines = ["\n" * i for i in range(2, 10)]
    newlines = sorted([added(spm_v[c], c) for c in lines if c in spm_v] + [added(len(spm_v) + i, c) for i, c in enumerate(c for c in lines if c not in spm_v)], key=lambda a: a["id"])
    return {
        "gpt2": file(model(bv, bm), byte_level(), None, byte_level(True), None, [added(n, "<|endoftext|>", True)]),
        "llama3": file(model(bv, bm, ignore_merges=True), seq("pretokenizers", split(LLAMA3), byte_level(regex=False)), None, byte_level(), None, tools),
        "qwen2": file(model(bv, bm), seq("pretokenizers", split(QWEN2), byte_level(regex=False)), {"type": "NFC"}, byte_level(), None, tools),
        "o200k": file(model(bv, bm), seq("pretokenizers", split(CASED), byte_level(regex=False)), None, byte_level(), None, tools),
        "cl100k": file(model(bv, bm), seq("pretokenizers", split(CL100K, "Removed", True), byte_level(regex=False)), None, byte_level(), None, tools),
        "starcoder": file(model(bv, bm), seq("pretokenizers", {"type": "Digits", "individual_digits": True}, byte_level()), None, byte_level(), None, tools),
        "falcon": file(model(bv, bm), seq("pretokenizers", {"type": "Punctuation", "behavior": "Contiguous"}, byte_level(),
            {"type": "Digits", "individual_digits": False}, split("[0-9][0-9][0-9]")), None, byte_level(), None, tools),
        "deepseek": file(model(bv, bm), seq("pretokenizers", *[split(p) for p in DEEPSEEK], byte_level(regex=False)), seq("normalizers"), byte_level(), None, tools),
        "bloom": file(model(bv, bm), seq("pretokenizers", split(BLOOM), byte_level(regex=False)), None, byte_level(), None, tools),
        "neox": file(model(bv, bm), byte_level(), {"type": "NFC"}, byte_level(), None, tools[:2] + [added(n + 2 + i, " " * (i + 2), False, True) for i in range(23)]),
        "llama2": file(model(spm_v, spm_m, byte_fallback=True, fuse_unk=True, unk_token="<unk>"), None, seq("normalizers", {"type": "Prepend", "prepend": SPACE},
            {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}), SPM_DECODER, None, sp),
        "mistral": file(model(spm_v, spm_m, byte_fallback=True, fuse_unk=True, unk_token="<unk>"), meta(), None, SPM_DECODER, None, sp),
        "across": file(model(acr_v, acr_m, byte_fallback=True, fuse_unk=True, unk_token="<unk>"), meta("always"), None, SPM_DECODER, None, sp),
        "gemma": file(model(spm_v, spm_m, byte_fallback=True, fuse_unk=True, unk_token="<unk>"), split(" ", "MergedWithPrevious", kind="String"),
            {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}, seq("decoders", *SPM_DECODER["decoders"][:3]), None, sp + newlines),
        "no fallback": file(model(cv, cm), meta("always", True), {"type": "NFKC"}, meta("always"), None, []),
    }

def random_forms(r, style):
    f = lambda: r.choice([{"type": "NFC"}, {"type": "NFD"}, {"type": "NFKC"}, {"type": "NFKD"}, {"type": "Lowercase"}, {"type": "StripAccents"}, {"type": "Nmt"},
        {"type": "Strip", "strip_left": r.random() < 0.5, "strip_right": r.random() < 0.5}, {"type": "Prepend", "prepend": r.choice([SPACE, "x ", "é"])},
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}, {"type": "Replace", "pattern": {"String": r.choice(["a", "\n", "é", "  "])}, "content": r.choice(["", "b", " - ", "猫"])},
        {"type": "Replace", "pattern": {"Regex": r.choice([r"\s+", r"\p{N}", r"[aeiou]", r"(?i:the)", "x|\u0301"])}, "content": r.choice(["", " ", "_", "éx"])}])
    n = r.choice([0, 0, 1, 1, 2, 3])
    if n == 0: return None
    return f() if n == 1 else seq("normalizers", *[f() for _ in range(n)])

BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
def random_pre(r, style):
    def cut():
        k = r.randrange(9)
        if k <= 2: return split(r.choice(PATTERNS), r.choice(BEHAVIORS), r.random() < 0.3)
        if k == 3: return split(r.choice([" ", "a", SPACE, "\n", "the"]), r.choice(BEHAVIORS), r.random() < 0.3, "String")
        if k == 4: return {"type": "Digits", "individual_digits": r.random() < 0.5}
        if k == 5: return {"type": "Punctuation", "behavior": r.choice(BEHAVIORS)}
        if k == 6: return r.choice([{"type": "Whitespace"}, {"type": "WhitespaceSplit"}, {"type": "BertPreTokenizer"}])
        if k == 7: return {"type": "CharDelimiterSplit", "delimiter": r.choice([" ", "e", SPACE, "é"])}
        return {"type": "FixedLength", "length": r.randrange(1, 8)}
    parts = [cut() for _ in range(r.choice([0, 0, 1, 1, 2]))]
    if style == "chars" and r.random() < 0.6: parts.insert(r.randrange(len(parts) + 1), meta(r.choice(["first", "never", "always"]), r.random() < 0.5))
    if style == "bytes":
        parts.append(byte_level(r.random() < 0.3, r.random() < 0.5))
        parts += [cut() for _ in range(r.choice([0, 0, 0, 1]))]
    if not parts: return None
    return parts[0] if len(parts) == 1 else seq("pretokenizers", *parts)

def random_decoder(r, style):
    if style == "bytes": return r.choice([byte_level(), byte_level(), seq("decoders", byte_level()), None])
    f = lambda: r.choice([{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "Replace", "pattern": {"Regex": r"[a-c]+"}, "content": "X"},
        {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": r.choice([" ", SPACE]), "start": r.randrange(3), "stop": 0}, meta(r.choice(["first", "never", "always"]))])
    return r.choice([SPM_DECODER, meta("always"), seq("decoders", *[f() for _ in range(r.randrange(1, 5))])])

CONTENTS = ["<s>", "</s>", "<x>", "<x><x>", "abc", "ab", "b", "the", "key", "<|end|>", "[KEEP]", " ", "  ", "\n", "\n\n", "é", "É", "e\u0301", "Ab C", "猫", "▁", "ﬁ", "1", "12", "_", "<|a b|>", " x", "x ",
            "Grüße", "²", "👍", "<unk>", "\u0301"]
def random_added(r, vocab):
    out, seen, n = [], set(), len(vocab)
    for c in r.sample(CONTENTS, r.choice([0, 1, 3, 6])):
        id = vocab.get(c)
        special = r.random() < 0.5 and not (id is not None and len(c) == 1)
        if id is None: id = n; n += 1
        if id in seen: continue
        seen.add(id)
        out.append(added(id, c, special, *[r.random() < 0.35 for _ in range(4)]))
    return out

def random_post(r, j):
    specials = [a for a in j["added_tokens"] if a["special"]]
    if not specials or r.random() < 0.5: return r.choice([None, byte_level()])
    def template():
        s = [r.choice(specials) for _ in range(r.randrange(0, 3))], [r.choice(specials) for _ in range(r.randrange(0, 3))]
        piece = lambda a: {"SpecialToken": {"id": a["content"], "type_id": 0}}
        one = [piece(a) for a in s[0]] + [{"Sequence": {"id": "A", "type_id": 0}}] + [piece(a) for a in s[1]]
        return {"type": "TemplateProcessing", "single": one, "pair": one + [{"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {a["content"]: {"id": a["content"], "ids": [a["id"]], "tokens": [a["content"]]} for a in s[0] + s[1]}}
    return r.choice([template(), seq("processors", byte_level(), template())])

def random_tokenizer(r, b):
    style = r.choice(["bytes", "chars"])
    if style == "bytes":
        v, m = b[r.choice(["bytes", "bytes", "few bytes"])]
        kw = {"ignore_merges": r.random() < 0.3}
        if r.random() < 0.2: v = dict(v); v["<unk>"] = len(v); kw |= {"unk_token": "<unk>", "fuse_unk": r.random() < 0.5}
    else:
        v, m = b[r.choice(["chars", "across"])]
        v, m = r.choice([lambda: with_bytes(v, m), lambda: with_bytes(v, m, r, 40), lambda: ({"<unk>": len(v), **v}, m)])()
        kw = {"byte_fallback": r.random() < 0.7, "fuse_unk": r.random() < 0.5, "unk_token": r.choice(["<unk>", "<unk>", None]), "ignore_merges": r.random() < 0.2}
    if r.random() < 0.3: m = [" ".join(x) for x in m] if all(" " not in a + c for a, c in m) else m
    j = file(model(v, m, **kw), random_pre(r, style), random_forms(r, style), random_decoder(r, style))
    j["added_tokens"] = random_added(r, v)
    j["post_processor"] = random_post(r, j)
    return style, j

# ---- comparing ----

def expected(t, text, special=True, around=False):
    t.encode_special_tokens = not special
    try: return t.encode(text, add_special_tokens=around)
    except BaseException as e:
        if "Panic" in type(e).__name__ or "panic" in str(e): return None
        raise
    finally: t.encode_special_tokens = False

def char_starts(text):
    at, out = 0, [0]
    for c in text: at += len(c.encode()); out.append(at)
    return out

def outward(spans, starts):
    import bisect
    out = []
    for a, b in spans:
        i = bisect.bisect_right(starts, a) - 1; k = bisect.bisect_left(starts, b)
        out.append((i, k) if b > a else (i, i))
    return out

class Report:
    def __init__(self): self.n = self.bad = 0; self.shown = 0
    def check(self, ok, what, name, text, got, want):
        self.n += 1
        if ok: return
        self.bad += 1; self.shown += 1
        if isinstance(got, list) and isinstance(want, list):
            i = next((i for i, (x, y) in enumerate(zip(got, want)) if x != y), min(len(got), len(want)))
            got, want, what = got[max(0, i - 3):i + 6], want[max(0, i - 3):i + 6], f"{what}[{i}]"
        if self.shown <= 12: print(f"DIFFERS {what} in {name}: {ascii(text)[:300]}\n    ours   {str(got)[:400]}\n    theirs {str(want)[:400]}")

def bulk(a, rep, path, name, texts):
    t = Tokenizer.from_file(path); n = 0
    for s in texts:
        e = t.encode(s, add_special_tokens=False)
        g = a.ask(op="encode", tokenizer=path, text=s)
        rep.check(g.get("ids") == e.ids, "ids", name, s, g.get("ids", g), e.ids); n += len(s.encode())
    return n

def lossy(hexa): return bytes.fromhex(hexa).decode("utf-8", "replace")

def one_random(a, rep, r, b, out, i, n_text, texts):
    style, j = random_tokenizer(r, b)
    path = os.path.join(out, f"random{i}.json")
    json.dump(j, open(path, "w"), ensure_ascii=False)
    name = f"random{i} ({path})"
    try: t = Tokenizer.from_str(json.dumps(j))
    except BaseException as e:
        g = a.ask(op="encode", tokenizer=path, text="x")
        rep.check("error" in g, f"peer refuses ({str(e)[:80]})", name, "", g, "refused")
        return
    g = a.ask(op="encode", tokenizer=path, text="x")
    if "error" in g:
        why = g["error"].split(".json: ")[-1]
        ok = re.search(r"as long|is special, but plain|empty once normalized|not the only one|unk_token", why)
        rep.check(ok, "we refuse", name, "", why, "accepted")
        return
    rewritten = os.path.join(out, "rewritten.json")
    rep.check(a.ask(op="rewrite", tokenizer=path, to=rewritten).get("ok"), "rewriting", name, "", "", "")
    t2 = Tokenizer.from_file(rewritten)
    bare = Tokenizer.from_str(json.dumps(j | {"post_processor": None}))
    unks = style == "chars" and not (j["model"]["byte_fallback"] and all(f"<0x{x:02X}>" in j["model"]["vocab"] for x in range(256)))
    contents = [x["content"] for x in j["added_tokens"]]
    for _ in range(n_text):
        s = r.choice(texts)[:400] if r.random() < 0.15 else generated(r, contents + ["abcab", "Key key_", "<x><x><x>"], 12)
        e = expected(bare, s)
        if e is None: continue
        g = a.ask(op="encode", tokenizer=path, text=s, offsets=True)
        rep.check(g["ids"] == e.ids, "ids", name, s, g["ids"], e.ids)
        if g["ids"] != e.ids: continue
        if not unks and style == "chars" or b["bytes"][0].items() <= j["model"]["vocab"].items():
            o = outward(g["offsets"], char_starts(s))
            rep.check(o == [tuple(x) for x in e.offsets], "offsets", name, s, list(zip(e.tokens, o)), list(zip(e.tokens, e.offsets)))
        plain = expected(bare, s, special=False)
        if plain:
            g = a.ask(op="encode", tokenizer=path, text=s, plain=True)
            special = {x["id"] for x in j["added_tokens"] if x["special"] and x["content"] != j["model"]["unk_token"]}
            if special.isdisjoint(plain.ids): rep.check(g["ids"] == plain.ids, "plain ids", name, s, g["ids"], plain.ids)
            else: rep.check(special.isdisjoint(g["ids"]), "plain ids are special", name, s, g["ids"], plain.ids)
        around = expected(t, s, around=True)
        if around: g = a.ask(op="encode", tokenizer=path, text=s, around=True); rep.check(g["ids"] == around.ids, "ids around", name, s, g["ids"], around.ids)
        again = expected(t2, s)
        if again: rep.check(again.ids == e.ids, "ids of our file", name, s, again.ids, e.ids)
        for skip in (False, True):
            ids = [x for x in e.ids] if r.random() < 0.7 else [r.randrange(t.get_vocab_size() + 3) for _ in range(12)]
            if skip and any(x["special"] and x["normalized"] for x in j["added_tokens"]): continue  # it shows those it has normalized
            try: want = t.decode(ids, skip_special_tokens=skip)
            except BaseException: continue
            g = a.ask(op="decode", tokenizer=path, ids=ids, skip_special=skip)
            got = lossy(g["hex"])
            ok = got == want or ("\ufffd" in want and style == "chars" and got.replace("\ufffd", "") != "" and True)
            rep.check(ok, "decoded", name, ids, got, want)
            if got == want and "\ufffd" not in got and j["decoder"] in (SPM_DECODER, meta("always"), byte_level()):
                g2 = a.ask(op="decode", tokenizer=path, ids=ids, skip_special=skip, parts=True)
                rep.check(g2["hex"] == g["hex"], "decoded in parts", name, ids, lossy(g2["hex"]), got)

def against_tiktoken(a, rep, b, out, texts):
    try: import tiktoken
    except ImportError: print("tiktoken is not installed: left out"); return
    vocab, merges = b["bytes"]
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    byte_of = {chr(x): x for x in plain} | {chr(256 + i): x for i, x in enumerate(x for x in range(256) if x not in plain)}
    raw = lambda w: bytes(byte_of[c] for c in w)
    made = {raw(x + y) for x, y in merges}
    order = [w for w in sorted(vocab, key=vocab.get) if len(raw(w)) == 1] + [x + y for x, y in merges]
    ranks = {}
    for w in order: ranks.setdefault(raw(w), len(ranks))
    ours = {w: ranks[raw(w)] for w in vocab if raw(w) in ranks}
    for name, pattern in (("gpt2", GPT2), ("cl100k", CL100K), ("o200k", CASED), ("llama3", LLAMA3)):
        enc = tiktoken.Encoding(name, pat_str=pattern.replace("{1,3}", "{1,3}+") if name == "cl100k" else pattern, mergeable_ranks=ranks, special_tokens={})
        path = os.path.join(out, f"tiktoken_{name}.json")
        json.dump(file(model(ours, merges), seq("pretokenizers", split(pattern), byte_level(regex=False)), None, byte_level()), open(path, "w"))
        for s in texts:
            want, g = enc.encode_ordinary(s), a.ask(op="encode", tokenizer=path, text=s)
            rep.check(g.get("ids") == want, "tiktoken's ids", name, s, g.get("ids", g), want)

def main():
    p = argparse.ArgumentParser()
    p.add_argument("adapter"); p.add_argument("--data"); p.add_argument("--tokenizers"); p.add_argument("--mb", type=float, default=2)
    p.add_argument("--random", type=int, default=200); p.add_argument("--texts", type=int, default=60); p.add_argument("--seed", type=int, default=1)
    p.add_argument("--keep")
    o = p.parse_args()
    r, out = random.Random(o.seed), o.keep or tempfile.mkdtemp()
    os.makedirs(out, exist_ok=True)
    a, rep = Adapter(o.adapter), Report()
    real = list(real_text(o.data, 200_000)) if o.data else []
    texts = [s[i:i + 2000] for s in real for i in range(0, len(s), 2000)]
    r.shuffle(texts)
    mixed = []
    while sum(len(s.encode()) for s in mixed) < o.mb * 5e5: mixed.append(generated(r))
    while texts and sum(len(s.encode()) for s in mixed) < o.mb * 1e6: mixed.append(texts.pop())
    while sum(len(s.encode()) for s in mixed) < o.mb * 1e6: mixed.append(generated(r))
    mixed += [c * n for c in "a= \n\t-0é漢😀▁" for n in (3, 41, 1000, 20000)] + ["".join(r.choice("ab") for _ in range(5000))]
    print(f"tokenizers {tokenizers.__version__}, seed {o.seed}, {len(mixed)} texts of {sum(len(s.encode()) for s in mixed)} bytes")
    b = bases([generated(r) for _ in range(1500)] + [s for s in mixed[-1200:]] + WORDS * 30)
    for name, j in known(b).items(): json.dump(j, open(os.path.join(out, f"known_{name.replace(' ', '_')}.json"), "w"), ensure_ascii=False)
    paths = sorted(glob.glob(os.path.join(o.tokenizers, "*.json"))) if o.tokenizers else []
    for path in paths + sorted(glob.glob(os.path.join(out, "known_*.json"))):
        before = rep.bad
        n = bulk(a, rep, path, os.path.basename(path), mixed)
        print(f"{os.path.basename(path):24} {n} bytes: {rep.bad - before} texts differ"); rep.shown = 0
    for i in range(o.random): one_random(a, rep, r, b, out, i, o.texts, mixed)
    print(f"{o.random} random tokenizers done"); rep.shown = 0
    against_tiktoken(a, rep, b, out, mixed[:3000])
    print(f"{rep.n - rep.bad} of {rep.n} comparisons agree")
    return 1 if rep.bad else 0

if __name__ == "__main__": sys.exit(main())
