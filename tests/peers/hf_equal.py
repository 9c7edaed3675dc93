#!/usr/bin/env python3
"""Models of transformers in ours and ours in transformers: tiny random ones of every family and feature.

    python tests/peers/hf_equal.py DIKAST [--random N [--seed S]] [name ...]        needs torch, transformers, safetensors

In: save_pretrained writes the folder, `dikast logits` must give its logits (relative norm of the difference below 1e-5)
and its 64 greedy tokens. Out: `dikast export --to hf` writes a folder, which transformers must load with empty lists of
missing, unexpected and mismatched tensors, with the same weights and, to rounding, the same logits. Heads: causal LM, and sequence
classification with 1 and 3 labels. Then N models (24) of random shapes and options, "random-<i>" of seed S (1), and scalings of
RoPE that must be refused by name."""
import argparse, json, os, random, shutil, subprocess, sys, tempfile

os.environ["TOKENIZERS_PARALLELISM"] = "false"
import torch, transformers
from transformers import (AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2Config, LlamaConfig,
                          MinistralConfig, MistralConfig, Qwen2Config, Qwen3Config)

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.set_num_threads(1)
ASK = argparse.ArgumentParser()
ASK.add_argument("dikast"); ASK.add_argument("--random", type=int, default=24); ASK.add_argument("--seed", type=int, default=1); ASK.add_argument("only", nargs="*")
ASK = ASK.parse_intermixed_args()
DIKAST, ONLY = ASK.dikast, ASK.only
N_GREEDY = 64

base = dict(vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=160, bos_token_id=None, eos_token_id=None, pad_token_id=None)
theta = {"rope_theta": 5000.0}
llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32, **theta}
yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, **theta}
gpt2 = dict(vocab_size=97, n_embd=48, n_layer=3, n_head=4, n_positions=160, bos_token_id=None, eos_token_id=None)

MODELS = {
    "llama": (LlamaConfig, base),
    "llama2-like": (LlamaConfig, {**base, "num_key_value_heads": 4, "rms_norm_eps": 1e-5}),
    "llama-biases": (LlamaConfig, {**base, "attention_bias": True, "mlp_bias": True}),
    "llama-tied": (LlamaConfig, {**base, "tie_word_embeddings": True}),
    "llama-head-dim": (LlamaConfig, {**base, "head_dim": 20}),
    "llama-one-kv-head": (LlamaConfig, {**base, "num_key_value_heads": 1}),
    "llama3": (LlamaConfig, {**base, "rope_parameters": llama3, "tie_word_embeddings": True}),
    "llama-linear": (LlamaConfig, {**base, "rope_parameters": {"rope_type": "linear", "factor": 4.0, **theta}}),
    "llama-yarn": (LlamaConfig, {**base, "rope_parameters": yarn}),
    "llama-yarn-keys": (LlamaConfig, {**base, "rope_parameters": {
        **yarn, "beta_fast": 8, "beta_slow": 2, "attention_factor": 1.3, "truncate": False}}),
    "llama-yarn-mscale": (LlamaConfig, {**base, "rope_parameters": {**yarn, "mscale": 0.7, "mscale_all_dim": 1.4}}),
    "smollm": (LlamaConfig, {**base, "hidden_size": 36, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 4,
                             "tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 100000}}),
    "tinyllama": (LlamaConfig, {**base, "num_attention_heads": 8, "num_key_value_heads": 1, "rms_norm_eps": 1e-5}),
    "mistral": (MistralConfig, {**base, "sliding_window": None}),
    "mistral-window": (MistralConfig, {**base, "sliding_window": 7}),
    "mistral-head-dim": (MistralConfig, {**base, "head_dim": 20, "sliding_window": 1000}),
    "qwen2": (Qwen2Config, base),
    "qwen2-tied": (Qwen2Config, {**base, "tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen2-window": (Qwen2Config, {**base, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
    "qwen2-window-all": (Qwen2Config, {**base, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 0}),
    "qwen2-layer-types": (Qwen2Config, {**base, "use_sliding_window": True, "sliding_window": 5, "layer_types": [
        "sliding_attention", "full_attention", "sliding_attention"]}),
    "qwen2-yarn": (Qwen2Config, {**base, "rope_parameters": yarn}),
    "qwen3": (Qwen3Config, {**base, "head_dim": 16}),
    "qwen3-wide": (Qwen3Config, {**base, "head_dim": 32, "tie_word_embeddings": True}),
    "qwen3-bias-window": (Qwen3Config, {**base, "head_dim": 12, "attention_bias": True, "use_sliding_window": True,
                                        "sliding_window": 9, "max_window_layers": 2}),
    "gpt2": (GPT2Config, gpt2),
    "gpt2-untied-inner": (GPT2Config, {**gpt2, "tie_word_embeddings": False, "n_inner": 70, "activation_function": "gelu"}),
}

REFUSED = {
    "dynamic": {"rope_type": "dynamic", "factor": 2.0, **theta},
    "longrope": {"rope_type": "longrope", "factor": 2.0, "short_factor": [1.0] * 6, "long_factor": [2.0] * 6,
                 "original_max_position_embeddings": 32, **theta},
}


def random_rope(r, d_head):
    t = {"rope_theta": r.choice([100.0, 5000.0, 10000.0, 1e6])}
    kind = r.choice(["default", "linear", "llama3", "yarn"])
    far = {"factor": r.choice([1.0, 1.5, 4.0, 32.0])}
    near = {"original_max_position_embeddings": r.choice([8, 20, 64])}
    if kind == "default": return {"rope_type": kind, **t}
    if kind == "linear": return {"rope_type": kind, **far, **t}
    if kind == "llama3":
        low = r.choice([0.5, 1.0, 2.0])
        return {"rope_type": kind, **far, **near, "low_freq_factor": low, "high_freq_factor": low * r.choice([2.0, 4.0]), **t}
    extra = r.choice([{}, {}, {"truncate": False}, {"attention_factor": r.choice([0.7, 1.0, 1.2])}, {"beta_fast": r.choice([4, 16.0, 64]), "beta_slow": r.choice([1, 2])},
                      {"mscale": 1.0, "mscale_all_dim": r.choice([0.5, 1.0])}, {"mscale": 0.8}])
    return {"rope_type": kind, **far, **near, **extra, **t}


def random_model(r):
    """Shapes that no real model has: one key/value head, heads wider or narrower than d_model over n_head, odd vocabularies."""
    family = r.choice(["llama", "llama", "mistral", "qwen2", "qwen3", "gpt2"])
    heads = r.choice([1, 2, 3, 4, 5, 6, 8])
    layers = r.choice([1, 2, 3, 4])
    vocab = r.choice([31, 97, 100, 129, 257])
    tied = r.random() < 0.5
    if family == "gpt2":
        return GPT2Config, dict(vocab_size=vocab, n_embd=heads * r.choice([2, 5, 8, 11, 16]), n_layer=layers, n_head=heads, n_positions=r.choice([160, 163]),
                                n_inner=r.choice([None, 33, 70]), activation_function=r.choice(["gelu_new", "gelu", "gelu_pytorch_tanh"]), layer_norm_epsilon=r.choice([1e-5, 1e-6]),
                                tie_word_embeddings=tied, bos_token_id=None, eos_token_id=None)
    d_head = r.choice([2, 4, 6, 8, 10, 14, 16, 20, 34])
    own = family == "qwen3" or (family in ("llama", "mistral") and r.random() < 0.5)
    k = dict(vocab_size=vocab, hidden_size=heads * (r.choice([3, 5, 6, 9, 11]) if own else d_head), intermediate_size=r.choice([17, 40, 65, 96]), num_hidden_layers=layers,
             num_attention_heads=heads, num_key_value_heads=r.choice([h for h in range(1, heads + 1) if heads % h == 0]), max_position_embeddings=160,
             rms_norm_eps=r.choice([1e-5, 1e-6, 1e-3]), rope_parameters=random_rope(r, d_head), tie_word_embeddings=tied, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    if own: k["head_dim"] = d_head
    if family == "llama": k.update(attention_bias=r.random() < 0.4, mlp_bias=r.random() < 0.4)
    if family == "qwen3": k.update(attention_bias=r.random() < 0.4)
    if family == "mistral": k.update(sliding_window=r.choice([None, 1, 3, 64, 1000]))
    if family in ("qwen2", "qwen3") and r.random() < 0.6:
        k.update(use_sliding_window=True, sliding_window=r.choice([1, 2, 5, 64]))
        if r.random() < 0.5: k["layer_types"] = [r.choice(["full_attention", "sliding_attention"]) for _ in range(layers)]
        else: k["max_window_layers"] = r.randrange(layers + 1)
    return {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}[family], k


def roughen(model):
    torch.manual_seed(7)
    with torch.no_grad():
        for name, p in model.named_parameters():
            mean = 1.0 if ("norm" in name or "ln_" in name) and name.endswith("weight") else 0.0
            p.copy_(mean + (0.25 if p.dim() > 1 else 0.2) * torch.randn_like(p))
    return model.float().eval()


def dikast(*args, rows=()):
    text = "".join(json.dumps({"ids": r}) + "\n" for r in rows)
    p = subprocess.run([DIKAST, *args], input=text, capture_output=True, text=True)
    if p.returncode != 0:
        raise SystemExit(f"dikast {' '.join(args)}: exit {p.returncode}: {p.stderr}")
    return [json.loads(line) for line in p.stdout.splitlines()]


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@torch.no_grad()
def greedy(model, ids):
    """Each step's best token, and how far the second is behind: where two are equal to rounding either may win."""
    out, gap = [], float("inf")
    for _ in range(N_GREEDY):
        z = model(torch.tensor([ids + out])).logits[0, -1]
        top = z.topk(2).values
        gap = min(gap, (top[0] - top[1]).item())
        out.append(int(z.argmax()))
    return out, gap


def load(kind, folder):
    model, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not info.get(key), (folder, key, info[key])
    return model.eval()


def round_trip(name, source, folder, work, rows, want, *flags):
    out = os.path.join(work, "out")
    shutil.rmtree(out, ignore_errors=True)
    dikast("export", folder, out, "--to", "hf", *flags)
    model = load(type(source), out)
    ours, theirs = model.state_dict(), source.state_dict()
    assert set(ours) == set(theirs), set(ours) ^ set(theirs)
    for key in theirs:
        assert torch.equal(ours[key], theirs[key].float()), (name, "exported", flags, key)
    with torch.no_grad():
        worst = max(relative(model(torch.tensor([r])).logits[0], w) for r, w in zip(rows, want))
    assert worst < 2e-6, (name, "exported", flags, worst)
    for key in ("rope_theta", "rope_scaling", "rope_parameters", "dtype", "torch_dtype"):
        assert key in json.load(open(out + "/config.json")) or model.config.model_type == "gpt2", key


def check_lm(name, config, work):
    model = roughen(AutoModelForCausalLM.from_config(config))
    folder = os.path.join(work, name)
    torch.manual_seed(3)
    rows = [torch.randint(config.vocab_size, (n,)).tolist() for n in (1, 23, 90)]
    with torch.no_grad():
        want = [model(torch.tensor([r])).logits[0] for r in rows]
    worst = 0.0
    for shard in ("50GB", "20kB"):
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder, max_shard_size=shard)
        got = dikast("logits", folder, "--all", rows=rows)
        worst = max([worst] + [relative(torch.tensor(g["logits"]), w) for g, w in zip(got, want)])
    assert worst < 1e-5, (name, worst)
    tokens, gap = greedy(model, rows[1])
    got = dikast("logits", folder, "--greedy", str(N_GREEDY), rows=[rows[1]])[0]["greedy"]
    assert got == tokens, (name, "greedy", gap, got, tokens)
    round_trip(name, model, folder, work, rows, want)
    round_trip(name, model, folder, work, rows, want, "--shard", "30000")
    for dtype, t in (("bf16", torch.bfloat16), ("f16", torch.float16)):
        half = AutoModelForCausalLM.from_config(config).to(t)
        half.load_state_dict({k: v.to(t) for k, v in model.state_dict().items()})
        shutil.rmtree(folder, ignore_errors=True)
        half.save_pretrained(folder)
        half = load(type(model), folder)
        with torch.no_grad():
            rounded = [half(torch.tensor([r])).logits[0] for r in rows]
        got = dikast("logits", folder, "--all", rows=rows)
        w = max(relative(torch.tensor(g["logits"]), x) for g, x in zip(got, rounded))
        assert w < 1e-5, (name, dtype, w)
        round_trip(name, half, folder, work, rows, rounded, "--dtype", dtype)
    old_spelling(name, model, folder, work, rows, want)
    print(f"{name}: logits within {worst:.1e}, {N_GREEDY} greedy tokens equal (closest choice {gap:.1e})", flush=True)


def old_spelling(name, model, folder, work, rows, want):
    """The same model with config.json as version 4 wrote it."""
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    c = json.load(open(folder + "/config.json"))
    if "rope_parameters" not in c:
        return
    rope = c.pop("rope_parameters")
    c["torch_dtype"] = c.pop("dtype")
    c["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    c["rope_scaling"] = None if kind == "default" else {"type" if kind == "linear" else "rope_type": kind, **rope}
    json.dump(c, open(folder + "/config.json", "w"))
    got = dikast("logits", folder, "--all", rows=rows)
    worst = max(relative(torch.tensor(g["logits"]), w) for g, w in zip(got, want))
    assert worst < 1e-5, (name, "old spelling", worst)


def check_mistral_layers(name, work):
    """A Mistral's config.json that names a kind of attention per layer: that library takes it for a Ministral's."""
    model = roughen(AutoModelForCausalLM.from_config(MinistralConfig(**{
        **base, "head_dim": 12, "sliding_window": 5,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]})))
    folder = os.path.join(work, name)
    model.save_pretrained(folder)
    c = json.load(open(folder + "/config.json"))
    json.dump({**c, "model_type": "mistral", "architectures": ["MistralForCausalLM"]}, open(folder + "/config.json", "w"))
    rows = [list(range(1, 1 + n)) for n in (1, 23, 90)]
    with torch.no_grad():
        want = [load(AutoModelForCausalLM, folder)(torch.tensor([r])).logits[0] for r in rows]
    got = dikast("logits", folder, "--all", rows=rows)
    worst = max(relative(torch.tensor(g["logits"]), w) for g, w in zip(got, want))
    assert worst < 1e-5, (name, worst)
    dikast("export", folder, folder + "-out", "--to", "hf")
    with torch.no_grad():
        again = load(AutoModelForCausalLM, folder + "-out")(torch.tensor([rows[2]])).logits[0]
    assert relative(again, want[2]) < 2e-6, (name, "exported")
    print(f"{name}: logits within {worst:.1e}")


def check_score(name, config, work):
    for labels in (1, 3):
        config = AutoConfig.for_model(**{**config.to_dict(), "num_labels": labels, "pad_token_id": 96})
        model = roughen(AutoModelForSequenceClassification.from_config(config))
        folder = os.path.join(work, name + "-score")
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder)
        torch.manual_seed(4)
        rows = [torch.randint(96, (n,)).tolist() for n in (1, 30, 90)]
        with torch.no_grad():
            want = [model(torch.tensor([r])).logits for r in rows]
        got = dikast("logits", folder, rows=rows)
        worst = 0.0
        for g, w in zip(got, want):
            x = torch.tensor([g["reward"]] if labels == 1 else g["scores"])
            worst = max(worst, relative(x, w[0]))
        assert worst < 1e-5, (name, "score", labels, worst)
        round_trip(name, model, folder, work, rows, [w[0] for w in want])
        exported = AutoConfig.from_pretrained(os.path.join(work, "out"))
        assert exported.num_labels == labels and exported.pad_token_id == 96, exported
    print(f"{name}: classifiers of 1 and 3 labels equal", flush=True)


def check_random(name, r, work):
    kind, keys = random_model(r)
    config = kind(**keys)
    model = roughen(AutoModelForCausalLM.from_config(config))
    folder = os.path.join(work, name)
    rows = [[r.randrange(config.vocab_size) for _ in range(n)] for n in (1, r.randrange(2, 40), r.randrange(60, 96))]
    dtype, t = r.choice([("f32", torch.float32), ("f32", torch.float32), ("bf16", torch.bfloat16), ("f16", torch.float16)])
    model.to(t).save_pretrained(folder, max_shard_size=r.choice(["50GB", "10kB", "30kB"]))
    model = load(type(model), folder)
    with torch.no_grad():
        want = [model(torch.tensor([x])).logits[0] for x in rows]
    got = dikast("logits", folder, "--all", rows=rows)
    worst = max(relative(torch.tensor(g["logits"]), w) for g, w in zip(got, want))
    if worst >= 1e-5:  # rounding grows in some of these; then ours may not be further from F64 than theirs
        exact = load(type(model), folder).double()
        with torch.no_grad():
            exact = [exact(torch.tensor([x])).logits[0] for x in rows]
        ours = max(relative(torch.tensor(g["logits"]).double(), e) for g, e in zip(got, exact))
        theirs = max(relative(w.double(), e) for w, e in zip(want, exact))
        assert ours < 1.5 * theirs, (name, worst, ours, theirs, keys)
    tokens, gap = greedy(model, rows[1])
    got = dikast("logits", folder, "--greedy", str(N_GREEDY), rows=[rows[1]])[0]["greedy"]
    assert got == tokens or gap < 1e-4, (name, "greedy", gap, got, tokens, keys)
    round_trip(name, model, folder, work, rows, want, "--dtype", dtype, *r.choice([(), ("--shard", "20000")]))
    shutil.rmtree(folder)
    print(f"{name} ({config.model_type}, {dtype}): logits within {worst:.1e}, greedy {'equal' if got == tokens else 'equal up to a tie'}", flush=True)


def check_refused(name, rope, work):
    folder = os.path.join(work, name)
    LlamaConfig(**{**base, "rope_parameters": rope}).save_pretrained(folder)
    p = subprocess.run([DIKAST, "logits", folder], input='{"ids": [1]}\n', capture_output=True, text=True)
    assert p.returncode == 3 and name in p.stderr, (name, p.returncode, p.stderr)
    print(f"{name}: refused by name")


def main():
    with tempfile.TemporaryDirectory() as work:
        for name, (kind, keys) in MODELS.items():
            if ONLY and name not in ONLY:
                continue
            check_lm(name, kind(**keys), work)
            if name in ("llama", "gpt2", "mistral-window", "qwen2", "qwen3"):
                check_score(name, kind(**keys), work)
        if not ONLY or "mistral-layer-types" in ONLY:
            check_mistral_layers("mistral-layer-types", work)
        for name, rope in REFUSED.items():
            if not ONLY or name in ONLY:
                check_refused(name, rope, work)
        for i in range(ASK.random):
            if not ONLY or f"random-{i}" in ONLY or "random" in ONLY:
                check_random(f"random-{i}", random.Random(f"{ASK.seed}-{i}"), work)
    print("ok")


main()
