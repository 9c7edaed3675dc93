#!/usr/bin/env python3
"""Adapters of PEFT in ours and ours in PEFT: tiny random models with random adapters.

    python tests/peers/peft_equal.py DIKAST CONF(tiny.yaml)      needs torch, transformers, peft, accelerate

In: save_pretrained writes base and adapter, `dikast logits BASE --adapter DIR` must give PEFT's logits (relative norm of the
difference below 1e-5), and so must `dikast export --to hf`, which merges. Out: `dikast export --to lora` writes a folder that
PEFT loads with every tensor equal. What would change the arithmetic in a way that we do not know must be refused by name.
A run with lora.r set leaves folders that PEFT loads over the base they name: policy and preference model."""
import glob, json, os, shutil, subprocess, sys, tempfile

import torch, transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2Config, LlamaConfig, MistralConfig,
                          Qwen2Config, Qwen3Config)

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.set_num_threads(1)
DIKAST, CONF = sys.argv[1:3]

base = dict(vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=160, bos_token_id=None, eos_token_id=None, pad_token_id=0)
gpt2 = dict(vocab_size=97, n_embd=48, n_layer=3, n_head=4, n_positions=160, bos_token_id=None, eos_token_id=None,
            pad_token_id=0)
MODELS = {"llama": LlamaConfig(**base), "llama-tied": LlamaConfig(**base, tie_word_embeddings=True),
          "mistral": MistralConfig(**base, sliding_window=7), "qwen2": Qwen2Config(**base),
          "qwen3": Qwen3Config(**base, head_dim=16), "gpt2": GPT2Config(**gpt2)}
attention = {"gpt2": ["c_attn"], None: ["q_proj", "v_proj"]}
mlp = {"gpt2": ["mlp.c_proj", "c_fc"], None: ["gate_proj", "down_proj"]}
ADAPTERS = [dict(r=4, lora_alpha=8, target_modules="all-linear"), dict(r=3, lora_alpha=16, use_rslora=True, target_modules=attention),
            dict(r=1, lora_alpha=2, target_modules=mlp, lora_dropout=0.1),
            dict(r=5, lora_alpha=7, target_modules=attention, layers_to_transform=[0, 2]),
            dict(r=2, lora_alpha=2, target_modules=r".*\.1\..*(proj|c_attn|c_fc)")]
REFUSED = [(dict(use_dora=True), "use_dora"), (dict(rank_pattern={"q_proj": 2}), "rank_pattern"),
           (dict(alpha_pattern={"q_proj": 2}), "alpha_pattern"), (dict(bias="lora_only"), "bias"),
           (dict(modules_to_save=["lm_head"]), "modules_to_save"), (dict(target_modules=["embed_tokens"]), "embed_tokens"),
           (dict(target_modules=["q_proj", "lm_head"]), "lm_head"), (dict(lora_bias=True, r=2), "lora_bias")]


def dikast(*args, rows=(), fails=False):
    text = "".join(json.dumps({"ids": r}) + "\n" for r in rows)
    p = subprocess.run([DIKAST, *args], input=text, capture_output=True, text=True)
    if (p.returncode != 0) != fails:
        raise SystemExit(f"dikast {' '.join(args)}: exit {p.returncode}: {p.stderr}")
    return p.stderr if fails else [json.loads(line) for line in p.stdout.splitlines()]


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def roughen(model, seed, std=0.25):
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            mean = 1.0 if ("norm" in name or "ln_" in name) and name.endswith("weight") else 0.0
            p.copy_(mean + std * torch.randn_like(p))
    return model.float().eval()


def rough_adapter(model):
    torch.manual_seed(11)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                p.copy_(0.2 * torch.randn_like(p))
    return model.eval()


torch.manual_seed(3)
ROWS = [torch.randint(1, 97, (n,)).tolist() for n in (1, 23, 60)]


@torch.no_grad()
def outputs(model, score):
    """In double precision: a scoring head's two numbers are small sums of large terms, and how PyTorch orders its own F32
    sums moves them by more than the bound on some machines (1.4e-5, ours 4e-6)."""
    out = [model.double()(torch.tensor([r])).logits[0].float() for r in ROWS]
    model.float()
    return [o.flatten() for o in out] if score else out


def ours(*args, score=False):
    got = dikast("logits", *args, *([] if score else ["--all"]), rows=ROWS)
    return [torch.tensor(g["scores"] if score else g["logits"]) for g in got]


def check_equal(what, got, want, bound=1e-5):
    worst = max(relative(a, b) for a, b in zip(got, want))
    assert worst < bound, (what, worst)


def check(name, config, options, score, work):
    kind = AutoModelForSequenceClassification if score else AutoModelForCausalLM
    config.num_labels = 2
    options = dict(options)
    if isinstance(options["target_modules"], dict):
        options["target_modules"] = options["target_modules"].get(name, options["target_modules"][None])
    folder, adapter, out, merged = (os.path.join(work, f) for f in ("base", "adapter", "out", "merged"))
    for f in (folder, adapter, out, merged):
        shutil.rmtree(f, ignore_errors=True)
    source = roughen(kind.from_config(config), 7)
    source.save_pretrained(folder)
    lora = LoraConfig(task_type="SEQ_CLS" if score else "CAUSAL_LM", fan_in_fan_out=name == "gpt2", **options)
    model = rough_adapter(get_peft_model(kind.from_pretrained(folder, dtype=torch.float32), lora))
    model.save_pretrained(adapter)
    want, plain = outputs(model, score), outputs(source, score)
    assert max(relative(a, b) for a, b in zip(plain, want)) > 1e-2
    where = (name, options, score)
    check_equal((where, "base"), ours(folder, score=score), plain)
    check_equal((where, "in"), ours(folder, "--adapter", adapter, score=score), want)
    check_equal((where, "by its own folder"), ours(adapter, score=score), want)
    dikast("export", folder, merged, "--to", "hf", "--adapter", adapter)
    check_equal((where, "merged"), ours(merged, score=score), want, 1e-4)
    check_equal((where, "merged there"), outputs(kind.from_pretrained(merged, dtype=torch.float32).eval(), score), want,
                1e-4)
    dikast("export", adapter, out, "--to", "lora")
    back = PeftModel.from_pretrained(kind.from_pretrained(folder, dtype=torch.float32), out).eval()
    a, b = model.state_dict(), back.state_dict()
    assert set(a) == set(b), (where, set(a) ^ set(b))
    for key in a:
        assert torch.equal(a[key], b[key]), (where, key)
    check_equal((where, "out"), outputs(back, score), want, 1e-7)


def check_refused(work):
    folder, adapter = work + "/base", work + "/adapter"
    for f in (folder, adapter):
        shutil.rmtree(f, ignore_errors=True)
    roughen(AutoModelForCausalLM.from_config(MODELS["llama"]), 7).save_pretrained(folder)
    for options, name in REFUSED:
        lora = LoraConfig(**{**dict(task_type="CAUSAL_LM", r=2, lora_alpha=4, target_modules=["q_proj"]), **options})
        get_peft_model(AutoModelForCausalLM.from_pretrained(folder), lora).save_pretrained(adapter)
        said = dikast("logits", folder, "--adapter", adapter, rows=ROWS[:1], fails=True)
        assert name in said and adapter in said, (options, said)


def check_run(work):
    out = work + "/out"
    p = subprocess.run([DIKAST, "run", CONF, f"run.out={out}", "lora.r=4", "lora.alpha=8", "lora.stages=[sl,pm,rl]",
                        "sl.lr=1e-2", "pm.lr=1e-2"], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr[-2000:]
    rows = [torch.randint(20, 200, (n,)).tolist() for n in (3, 17)]
    for stage, kind in (("sl", AutoModelForCausalLM), ("rl", AutoModelForCausalLM), ("pm", AutoModelForSequenceClassification)):
        adapter = glob.glob(f"{out}/store/{stage}-*/adapter")[0]
        named = json.load(open(adapter + "/adapter_config.json"))["base_model_name_or_path"]
        extra = {"num_labels": 1} if stage == "pm" else {}
        model = kind.from_pretrained(named, dtype=torch.float32, **extra)
        model.config.pad_token_id = model.config.pad_token_id or 0
        peft = PeftModel.from_pretrained(model, adapter).eval()
        with torch.no_grad():
            want = [peft(torch.tensor([r])).logits[0].flatten() for r in rows]
        for folder in (adapter, os.path.dirname(adapter) + "/model"):
            got = dikast("logits", folder, *([] if stage == "pm" else ["--all"]), rows=rows)
            got = [torch.tensor(g["reward"] if stage == "pm" else g["logits"]).flatten() for g in got]
            check_equal((stage, folder), got, want, 1e-4 if folder.endswith("model") else 1e-5)


with tempfile.TemporaryDirectory() as work:
    for name, config in MODELS.items():
        for i, options in enumerate(ADAPTERS):
            check(name, config, options, False, work)
        check(name, config, ADAPTERS[0], True, work)
    check_refused(work)
    check_run(work)
print("ok:", len(MODELS) * (len(ADAPTERS) + 1), "adapters")
