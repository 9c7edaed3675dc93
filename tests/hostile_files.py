#!/usr/bin/env python3
"""Files that claim, nest, loop or unpack without end, through the program: each must end with exit status 3, a message that
names the file and what is wrong with it, within bounded memory and time.

    python3 tests/hostile_files.py DIKAST WORK      standard library only

Memory is the peak of a process, measured; address space is bounded too, so that an allocation of what a file claims fails."""
import gzip, io, json, os, resource, shutil, struct, subprocess, sys, time

DIKAST, WORK = os.path.abspath(sys.argv[1]), sys.argv[2]
PEAK_MB, SPACE, SECONDS = 192, 6 << 30, 60
shutil.rmtree(WORK, ignore_errors=True)
os.makedirs(WORK)
failed = []
n_cases = 0
sanitized = b"__asan_init" in open(DIKAST, "rb").read()


def write(name, data):
    path = os.path.join(WORK, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode())
    return path


def limits():
    if not sanitized:
        resource.setrlimit(resource.RLIMIT_AS, (SPACE, SPACE))


def run(args, stdin=b"", says=(), status=3, peak=PEAK_MB):
    """says: all of these stand in what it says on standard error."""
    global n_cases
    n_cases += 1
    out, err = os.path.join(WORK, "stdout"), os.path.join(WORK, "stderr")
    with open(out, "wb") as o, open(err, "wb") as e:
        p = subprocess.Popen([DIKAST, *args], stdin=subprocess.PIPE, stdout=o, stderr=e, preexec_fn=limits)
        try:
            p.stdin.write(stdin)
            p.stdin.close()
        except BrokenPipeError:
            pass
        end = time.time() + SECONDS * (5 if sanitized else 1)
        while True:
            pid, code, used = os.wait4(p.pid, os.WNOHANG)
            if pid:
                break
            if time.time() > end:
                p.kill()
                pid, code, used = os.wait4(p.pid, 0)
                break
            time.sleep(0.005)
    p.returncode = os.waitstatus_to_exitcode(code)
    text = open(err, "rb").read().decode(errors="replace")
    mb = used.ru_maxrss / 1024
    wrong = [f"'{s}' is not said" for s in says if s not in text]
    if p.returncode != status:
        wrong.append(f"exit status {p.returncode}, expected {status}")
    if mb > peak and not sanitized:
        wrong.append(f"{mb:.0f} MB, expected at most {peak}")
    if wrong:
        failed.append(f"dikast {' '.join(args)}: {'; '.join(wrong)}\n    {text.strip()[-600:]}")
    return text


# -- model folders

C, V, F = 8, 128, 16
CONFIG = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=C, intermediate_size=F, num_hidden_layers=1,
              num_attention_heads=2, num_key_value_heads=2, vocab_size=V, max_position_embeddings=32, rms_norm_eps=1e-5,
              rope_theta=10000.0, tie_word_embeddings=True, torch_dtype="float32")
layer = "model.layers.0."
TENSORS = {"model.embed_tokens.weight": [V, C], "model.norm.weight": [C], layer + "input_layernorm.weight": [C],
           layer + "post_attention_layernorm.weight": [C], **{layer + f"self_attn.{p}_proj.weight": [C, C] for p in "qkvo"},
           layer + "mlp.gate_proj.weight": [F, C], layer + "mlp.up_proj.weight": [F, C], layer + "mlp.down_proj.weight": [C, F]}


def safetensors(tensors=None, header=None, claimed=None, values=None):
    at, entries, body = 0, {}, b""
    for name, shape in (tensors or TENSORS).items():
        count = 1
        for d in shape:
            count *= d
        x = (values or {}).get(name, [0.25, -0.5] * ((count + 1) // 2))[:count]
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + 4 * count]}
        at += 4 * count
        body += struct.pack(f"<{count}f", *x)
    text = (header(entries) if header else json.dumps(entries)).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text + body


def folder(name, config=None, weights=None, **files):
    write(f"{name}/config.json", json.dumps({**CONFIG, **config}) if not isinstance(config, str) else config) if config else \
        write(f"{name}/config.json", json.dumps(CONFIG))
    write(f"{name}/model.safetensors", weights or safetensors())
    for k, v in files.items():
        write(f"{name}/{k.replace('__', '.')}", v)
    return os.path.join(WORK, name)


ROW = b'{"ids": [1, 2, 3]}\n'


def logits(f, says, status=3, **more):
    return run(["logits", f], ROW, says, status, **more)


logits(folder("good"), [], 0)
for claimed in (1 << 63, (1 << 64) - 1, 100_000_001, 1 << 32):
    logits(folder("length", weights=safetensors(claimed=claimed)), ["model.safetensors"])


def changed(**entry):
    def header(e):
        e["model.norm.weight"].update(entry)
        return json.dumps(e)
    return safetensors(header=header)


norm = "'model.norm.weight'"
logits(folder("claims", weights=changed(shape=[1 << 30], data_offsets=[0, 1 << 32])), ["model.safetensors"])
logits(folder("wraps", weights=changed(shape=[1 << 32, 1 << 32])), [norm])
logits(folder("negative", weights=changed(shape=[-8])), [norm])
logits(folder("overlaps", weights=changed(data_offsets=[0, 32])), ["model.safetensors"])
logits(folder("ends", weights=safetensors()[:-40]), ["model.safetensors"])
logits(folder("trails", weights=safetensors() + b"\0" * 64), ["model.safetensors"])
logits(folder("nests", weights=safetensors(header=lambda e: '{"a":' * 100000 + "1" + "}" * 100000)), ["model.safetensors"])
logits(folder("twice", weights=safetensors(header=lambda e: json.dumps(e)[:-1] + ', "model.norm.weight": ' + json.dumps(
    e["model.norm.weight"]) + "}")), ["model.norm.weight"])
many = {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(200000)}
logits(folder("many", weights=safetensors(header=lambda e: json.dumps({**many, **e}))), ["has no place"], peak=320)
bad = [1.0] * C
bad[3], bad[5] = float("nan"), float("inf")
said = logits(folder("nan", weights=safetensors(values={"model.norm.weight": bad})),
              ["tensor 'model.norm.weight': 1 of 8 values are NaN, 1 infinite"], 0)
logits(folder("empty", weights=b"\0"), ["model.safetensors"])
f = folder("shards")
os.remove(f + "/model.safetensors")
for name in ("../good/model.safetensors", "/dev/zero", "model.safetensors.index.json", "none.safetensors"):
    write("shards/model.safetensors.index.json", json.dumps({"weight_map": {t: name for t in TENSORS}}))
    logits(f, ["shards"], 4 if name[0] == "n" else 3)  # a file that is not there: the environment's fault

# -- config.json: what it claims is in no file
for name, change in {"vocab": dict(vocab_size=1 << 24), "wide": dict(hidden_size=131072, intermediate_size=1 << 20, num_attention_heads=4096),
                     "deep": dict(num_hidden_layers=1 << 30), "layers": dict(num_hidden_layers=1000),
                     "heads": dict(num_attention_heads=0), "huge": dict(vocab_size=10 ** 30), "minus": dict(hidden_size=-8),
                     "eps": dict(rms_norm_eps=-1), "positions": dict(max_position_embeddings=1 << 40)}.items():
    logits(folder("config-" + name, config=change), ["config-" + name])
for name, text in {"nested": "[" * 200000 + "]" * 200000, "twice": '{"model_type": "llama", "model_type": "gpt2"}', "cut": '{"model_type": "ll',
                   "list": "[1, 2]", "bytes": "\x00\xff\xfe"}.items():
    logits(folder("config-" + name, config=text), ["config.json"])

# -- an adapter of a rank that no tensor has, and one that is its own base
pair = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
for name, r, says in (("rank", 65536, "q_proj.lora_A.weight': shape [2, 8], expected [65536, 8]"), ("cycle", 2, "base_model_name_or_path")):
    write(f"adapter-{name}/adapter_config.json", json.dumps({"peft_type": "LORA", "r": r, "lora_alpha": 4, "base_model_name_or_path": os.path.join(WORK, f"adapter-{name}")}))
    write(f"adapter-{name}/adapter_model.safetensors", safetensors({pair + "A.weight": [2, C], pair + "B.weight": [C, 2]}))
    path = os.path.join(WORK, f"adapter-{name}")
    run(["logits", path] if name == "cycle" else ["logits", folder("good"), "--adapter", path], ROW, [says], 4 if name == "cycle" else 3)

# -- tokenizer.json, templates


def tokenizer(**change):
    letters = [chr(c) for c in range(33, 127)] + ["\u0120", "\u010a", "ab"]
    vocab = {c: i for i, c in enumerate(letters)}
    model = {"type": "BPE", "vocab": vocab, "merges": [["a", "b"]], **change.pop("model", {})}
    return json.dumps({"version": "1.0", "model": model, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
                       "decoder": {"type": "ByteLevel"}, "added_tokens": [], **change})


def tokens(name, text, says=("tokenizer.json",), status=3, stdin=b"aaaabbbb"):
    path = write(f"tokenizer-{name}/tokenizer.json", text)
    run(["tokenize", path], stdin, says, status)


tokens("nested", '{"model":' * 50000 + "1" + "}" * 50000)
tokens("twice", '{"model": {}, "model": {}}')
tokens("ids", tokenizer(model={"vocab": {"a": 4_000_000_000}}))
tokens("gaps", tokenizer(model={"vocab": {"a": 0, "b": (1 << 31) - 2}}))
tokens("negative", tokenizer(model={"vocab": {"a": -1}}))
tokens("same", tokenizer(model={"vocab": {"a": 0, "b": 0}}))
tokens("merge", tokenizer(model={"merges": [["a", "zzz"]]}))
tokens("merges", tokenizer(model={"merges": "a" * 1000}))
tokens("added", tokenizer(added_tokens=[{"id": 1 << 40, "content": "x"}]))
tokens("kind", tokenizer(pre_tokenizer={"type": "Unheard"}))
sequence = {"type": "ByteLevel"}
for _ in range(5000):
    sequence = {"type": "Sequence", "pretokenizers": [sequence]}
sys.setrecursionlimit(100000)
tokens("sequence", tokenizer(pre_tokenizer=sequence))
split = {"type": "Split", "pattern": {"Regex": "(" * 3000 + "a" + ")" * 3000}, "behavior": "Isolated", "invert": False}
tokens("pattern", tokenizer(pre_tokenizer=split))

LOOPS = {"loop": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
         "output": "{% for i in range(99999) %}" + "x" * 4000 + "{% endfor %}",
         "macro": "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
         "doubling": "{% set ns = namespace(s='x') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
         "times": "{{ 'x' * 99999999999 }}", "list": "{{ ([1] * 999999999) | length }}", "range": "{{ range(10 ** 12) | list }}",
         "power": "{{ 9 ** (9 ** 9) }}", "indent": "{{ 'a\\n' | indent(2000000000) }}", "nesting": "{{ " + "(" * 50000 + "1" + ")" * 50000 + " }}",
         "blocks": "{% if 1 %}" * 50000, "large": "x" * 400000, "replace": "{{ ('a' * 10000) | replace('a', 'b' * 100000) }}",
         "join": "{{ range(99999) | join('x' * 100000) }}", "dunder": "{{ ''.__class__.__mro__ }}"}
ends = tokenizer(added_tokens=[{"id": 97, "content": "<e>", "special": True}])
for name, text in {"fine": "{{ messages[0]['content'] }}", **LOOPS}.items():
    f = folder(f"template-{name}", tokenizer__json=ends, tokenizer_config__json='{"eos_token": "<e>"}', chat_template__jinja=text)
    run(["generate", f, "--prompt", "ab", "--max-new", "1"], says=["chat_template.jinja"] if name in LOOPS else [], status=3 if name in LOOPS else 0)


# -- GGUF


def gstr(s, claimed=None):
    return struct.pack("<Q", len(s) if claimed is None else claimed) + s


def gguf(n_tensors=0, pairs=b"", n_pairs=1, tail=b""):
    return b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_pairs) + pairs + tail


arch = gstr(b"general.architecture") + struct.pack("<I", 8)
nested = gstr(b"a") + struct.pack("<I", 9)
tensor = gstr(b"token_embd.weight") + struct.pack("<I", 2)
GGUF = {"tensors": gguf(1 << 60, arch + gstr(b"llama")), "pairs": gguf(0, arch + gstr(b"llama"), 1 << 60), "string": gguf(0, arch + gstr(b"x", 1 << 63)),
        "array": gguf(0, nested + struct.pack("<IQ", 10, 1 << 61)), "arrays": gguf(0, nested + struct.pack("<IQ", 9, 1) * 100000),
        "strings": gguf(0, nested + struct.pack("<IQ", 8, 1 << 40)), "type": gguf(0, gstr(b"a") + struct.pack("<I", 99)),
        "twice": gguf(0, (arch + gstr(b"llama")) * 2, 2), "name": gguf(1, arch + gstr(b"llama"), 1, gstr(b"x" * 70)),
        "wraps": gguf(1, arch + gstr(b"llama"), 1, tensor + struct.pack("<QQIQ", 1 << 32, 1 << 32, 0, 0)),
        "claims": gguf(1, arch + gstr(b"llama"), 1, tensor + struct.pack("<QQIQ", 1 << 15, 1 << 15, 0, 0)),
        "offset": gguf(1, arch + gstr(b"llama"), 1, tensor + struct.pack("<QQIQ", 8, V, 0, (1 << 64) - 32)), "empty": b"GGUF", "version": b"GGUF" + struct.pack("<I", 9) + b"\0" * 16}
good = folder("source", tokenizer__json=tokenizer())
for name, data in GGUF.items():
    run(["verify-export", good, write(name + ".gguf", data)], says=[name + ".gguf"])

# -- rows


def inspect(path, says=None, status=3, **more):
    run(["data", "inspect", path], says=[os.path.basename(path)] if says is None else says, status=status, **more)


def thrift(*fields):
    """Compact protocol: (number, type, bytes) of a struct."""
    out, last = b"", 0
    for number, kind, data in fields:
        out, last = out + bytes([(number - last) << 4 | kind]) + data, number
    return out + b"\0"


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def zigzag(n):
    return varint(n << 1 if n >= 0 else (-n << 1) - 1)


def tstr(s):
    return varint(len(s)) + s


def parquet(page, codec=1, rows=1, values=1, column=0):
    schema = thrift((4, 8, tstr(b"schema")), (5, 5, zigzag(1))) + thrift((1, 5, zigzag(6)), (3, 5, zigzag(0)), (4, 8, tstr(b"text")), (6, 5, zigzag(0)))
    meta = thrift((1, 5, zigzag(6)), (2, 9, bytes([0x15]) + zigzag(0)), (3, 9, bytes([0x18]) + tstr(b"text")), (4, 5, zigzag(codec)),
                  (5, 6, zigzag(values)), (6, 6, zigzag(column or len(page))), (7, 6, zigzag(column or len(page))), (9, 6, zigzag(4)))
    group = thrift((1, 9, bytes([0x1C]) + thrift((2, 6, zigzag(4)), (3, 12, meta))), (2, 6, zigzag(len(page))), (3, 6, zigzag(rows)))
    footer = thrift((1, 5, zigzag(1)), (2, 9, bytes([0x2C]) + schema), (3, 6, zigzag(rows)), (4, 9, bytes([0x1C]) + group))
    return b"PAR1" + page + footer + struct.pack("<I", len(footer)) + b"PAR1"


def page(data, size, n=1):
    head = thrift((1, 5, zigzag(0)), (2, 5, zigzag(size)), (3, 5, zigzag(len(data))),
                  (5, 12, thrift((1, 5, zigzag(n)), (2, 5, zigzag(0)), (3, 5, zigzag(3)), (4, 5, zigzag(3)))))
    return head + data


text = struct.pack("<I", 2) + b"hi"
literal = varint(len(text)) + bytes([(len(text) - 1) << 2]) + text
inspect(write("good.parquet", parquet(page(literal, len(text)))), status=0, says=[])
big = (1 << 31) - 1
PARQUET = {"size": parquet(page(literal, big)), "snappy": parquet(page(varint(big) + literal[1:], big)), "gzip": parquet(page(gzip.compress(b"\0" * (64 << 20)), big), 2),
           "values": parquet(page(literal, len(text), big), values=big), "rows": parquet(page(literal, len(text)), rows=1 << 50), "column": parquet(page(literal, len(text)), column=1 << 60),
           "string": parquet(page(varint(8) + bytes([7 << 2]) + struct.pack("<I", (1 << 32) - 1) + b"hihi", 8)), "footer": b"PAR1" + struct.pack("<I", (1 << 32) - 1) + b"PAR1",
           "nested": b"PAR1" + b"\x1c" * 60000 + struct.pack("<I", 60000) + b"PAR1", "list": b"PAR1" + bytes([0x29, 0xFC]) + varint(1 << 60) + struct.pack("<I", 11) + b"PAR1",
           "cut": b"PAR1PAR1"}
for name, data in PARQUET.items():
    inspect(write(f"{name}.parquet", data))

nothing = b"\0" * (1 << 20)
for level, name in ((1 << 10, "bomb.jsonl.gz"),):
    path = os.path.join(WORK, name)
    with gzip.open(path, "wb") as f:
        for _ in range(level):  # one line of a gigabyte in a megabyte
            f.write(nothing)
    inspect(path)
# Zstandard by hand: a frame of RLE blocks, four bytes each for 128 kB: 4 GB of one line in 128 kB
blocks = 32768
frame = struct.pack("<IBB", 0xFD2FB528, 0, 0x38) + b"".join(struct.pack("<I", (131072 << 3 | 1 << 1 | (i == blocks - 1)) | ord("x") << 24) for i in range(blocks))
inspect(write("bomb.jsonl.zst", frame))
window = struct.pack("<IBB", 0xFD2FB528, 0, 0xFF) + struct.pack("<I", (100 << 3 | 3) | ord("x") << 24)
inspect(write("window.jsonl.zst", window))
inspect(write("line.jsonl", b'{"text": "' + b"x" * (300 << 20)))
inspect(write("nested.jsonl", b'{"text": ' + b"[" * 100000 + b"]" * 100000 + b"}\n"))
inspect(write("twice.jsonl", b'{"text": "a", "text": "b"}\n'))
inspect(write("nested.json", b'[{"text": "a"}, ' + b"[" * 100000 + b"]" * 100001))
inspect(write("quote.csv", b'text\n"' + b"x" * (100 << 20)))
inspect(write("columns.csv", b"," * (8 << 20) + b"\n"))
inspect(write("cut.jsonl.gz", gzip.compress(b'{"text": "hello"}\n' * 1000)[:-20]))
inspect(write("cut.jsonl.zst", frame[:1000]))

for one in failed:
    print(one)
print(f"{n_cases - len(failed)} of {n_cases} files ended as they should")
shutil.rmtree(WORK, ignore_errors=True)
sys.exit(1 if failed else 0)
