#!/usr/bin/env python3
"""Writes tests/golden/nn_llama, nn_llama3, nn_gpt2, nn_mistral, nn_qwen2, nn_qwen3: tiny random models as transformers saves
them, and what PyTorch computes with them in float64: logits of two sequences, the weighted loss, every gradient, the weights after ten AdamW
steps (clip 1.0; biases and norms without decay). And tests/golden/nn_optim.json: schedules of transformers, AdamW and
clipping of torch on gradients given by an integer rule.

transformers computes RMSNorm and rotary tables in float32 whatever the model's dtype; both are replaced here by the same
lines without the casts, so the goldens are float64 throughout. 1 - lr * weight_decay is exact in float32, because our
AdamW rounds that constant as torch's float32 path does.

    python tests/oracle/nn_goldens.py [tests/golden [name ...]]
"""
import json, math, pathlib, sys
import torch, transformers
from safetensors.torch import save_file
from transformers import (GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM,
                          Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3

LR, BETAS, EPS, DECAY, CLIP, STEPS = 2.0**-7, (0.9, 0.95), 1e-8, 0.125, 1.0, 10
LENGTHS = (9, 5)


def rms_norm(self, x):
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def frequencies(rope, d):
    """The formulas of that library's modeling_rope_utils in float64; and the factor of cos and sin."""
    theta, kind, factor = rope["rope_theta"], rope["rope_type"], rope.get("factor", 1.0)
    j = torch.arange(d // 2, dtype=torch.float64)
    f = theta ** (-2 * j / d)
    if kind == "default":
        return f, 1.0
    if kind == "linear":
        return f / factor, 1.0
    original = rope["original_max_position_embeddings"]
    if kind == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        wave = 2 * math.pi / f
        smooth = (original / wave - low) / (high - low)
        mixed = (1 - smooth) * f / factor + smooth * f
        return torch.where(wave < original / high, f, torch.where(wave > original / low, f / factor, mixed)), 1.0
    assert kind == "yarn"

    def pair(turns):
        return d * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    begin, end = max(math.floor(pair(32)), 0), min(math.ceil(pair(1)), d - 1)
    ramp = ((j - begin) / (end - begin)).clamp(0, 1)
    return f / factor * ramp + f * (1 - ramp), 0.1 * math.log(factor) + 1


def rotary(self, x, position_ids):
    freq, scale = frequencies(self.config.rope_parameters, self.config.head_dim if getattr(
        self.config, "head_dim", None) else self.config.hidden_size // self.config.num_attention_heads)
    angle = position_ids[..., None].double() * freq
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos() * scale, angle.sin() * scale


for module, prefix in ((modeling_llama, "Llama"), (modeling_mistral, "Mistral"), (modeling_qwen2, "Qwen2"),
                       (modeling_qwen3, "Qwen3")):
    getattr(module, prefix + "RMSNorm").forward = rms_norm
    getattr(module, prefix + "RotaryEmbedding").forward = rotary


def loss_of(model, sequences, targets, weights):
    total, logits = 0, []
    for ids, target, weight in zip(sequences, targets, weights):
        z = model(input_ids=ids[None]).logits[0]
        logits.append(z)
        total = total - (weight * torch.log_softmax(z, -1).gather(-1, target[:, None])[:, 0]).sum()
    return total / sum(w.sum() for w in weights), torch.cat(logits)


def golden(name, model, root):
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(7)
    with torch.no_grad():
        for key, p in model.named_parameters():
            mean = 1.0 if ("norm" in key or "ln_" in key) and key.endswith("weight") else 0.0
            p.copy_((mean + 0.3 * torch.randn_like(p)).float())
    model.float().eval().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    model.double()

    vocab = model.config.vocab_size
    sequences = [torch.randint(vocab, (n,)) for n in LENGTHS]
    targets = [torch.randint(vocab, (n,)) for n in LENGTHS]
    weights = [torch.randint(0, 3, (n,)).double() for n in LENGTHS]
    out = {
        "tok": torch.cat(sequences),
        "target": torch.cat(targets),
        "weight": torch.cat(weights),
        "len": torch.tensor(LENGTHS),
    }
    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decay, "weight_decay": DECAY}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS, foreach=False, fused=False)
    losses, norms = [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss, logits = loss_of(model, sequences, targets, weights)
        loss.backward()
        if step == 0:
            out["logits"] = logits.detach()
            for key, p in model.named_parameters():
                out["grad." + key] = p.grad.clone()
        losses.append(loss.item())
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP).item())
        optimizer.step()
    out["loss"] = torch.tensor(losses, dtype=torch.float64)
    out["norm"] = torch.tensor(norms, dtype=torch.float64)
    for key, p in model.named_parameters():
        out["after." + key] = p.detach().clone()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    save_file({k: v.contiguous() for k, v in out.items()}, folder / "expected.safetensors", metadata=versions)
    print(name, {f.name: f.stat().st_size for f in sorted(folder.iterdir())}, losses[0], losses[-1], norms[0])


def rule_grad(s, n):
    k = (torch.arange(n) * 40503 + s * 9973 + 12345) % 65536
    return (k.double() / 32768 - 1) * 2.0 ** (-3 * (s % 5))


def rule_param(n):
    return ((torch.arange(n) * 40503 + 777) % 65536 / 32768.0 - 1).double() / 32


SCHEDULES = [
    ("linear", 10, 100, {}),
    ("cosine", 0, 100, {}),
    ("cosine", 10, 100, {}),
    ("cosine_with_min_lr", 10, 100, {"min_lr_rate": 0.1}),
    ("warmup_stable_decay", 10, 100, {"num_decay_steps": 20, "decay_type": "linear"}),
    ("warmup_stable_decay", 10, 100, {"num_decay_steps": 20, "decay_type": "1-sqrt"}),
    ("warmup_stable_decay", 10, 100, {"num_decay_steps": 20, "decay_type": "cosine", "min_lr_ratio": 0.1}),
    ("constant_with_warmup", 7, 30, {}),
]


def schedule(name, warmup, total, options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = transformers.get_scheduler(
        name, optimizer, num_warmup_steps=warmup, num_training_steps=total, scheduler_specific_kwargs=dict(options))
    factor = []
    for _ in range(total + 3):
        factor.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return {"name": name, "warmup": warmup, "total": total, **options, "factor": factor}


def adamw(lr, betas, eps, decay, steps, dtype):
    p = torch.nn.Parameter(rule_param(64).to(dtype))
    optimizer = torch.optim.AdamW([p], lr=lr, betas=betas, eps=eps, weight_decay=decay, foreach=False, fused=False)
    for s in range(1, steps + 1):
        p.grad = rule_grad(s, 64).to(dtype)
        optimizer.step()
    return p.detach().double()[:8].tolist()


def clip(scale):
    params = [torch.nn.Parameter(torch.zeros(64, dtype=torch.float64)) for _ in range(3)]
    for k, p in enumerate(params):
        p.grad = rule_grad(k + 1, 64) * scale
    norm = torch.nn.utils.clip_grad_norm_(params, 1.0)
    return {"scale": scale, "norm": norm.item(), "first": [p.grad[0].item() for p in params]}


def optim_golden(path):
    out = {"torch": torch.__version__, "transformers": transformers.__version__}
    out["schedules"] = [schedule(*s) for s in SCHEDULES]
    out["clip"] = [clip(s) for s in (1e-3, 1.0, 1e3)]
    out["adamw"] = [
        {"lr": lr, "beta1": b1, "beta2": b2, "eps": eps, "weight_decay": decay, "steps": steps,
         "f32": adamw(lr, (b1, b2), eps, decay, steps, torch.float32),
         "f64": adamw(lr, (b1, b2), eps, decay, steps, torch.float64)}
        for lr, b1, b2, eps, decay in ((3e-4, 0.9, 0.95, 1e-8, 0.1), (3e-4, 0.9, 0.95, 1e-8, 0.0), (1e-3, 0.9, 0.999, 1e-5, 0.01))
        for steps in (1, 10, 100, 1000)]
    path.write_text(json.dumps(out) + "\n")


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/golden")
    llama = LlamaConfig(
        vocab_size=31, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=6, max_position_embeddings=32, rms_norm_eps=1e-5, attention_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0}, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=2)
    gpt2 = GPT2Config(
        vocab_size=29, n_embd=12, n_layer=2, n_head=3, n_positions=16, n_inner=20, bos_token_id=None, eos_token_id=0)
    small = dict(vocab_size=19, hidden_size=12, intermediate_size=14, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, max_position_embeddings=32, rms_norm_eps=1e-5, bos_token_id=None, eos_token_id=2)
    llama3 = LlamaConfig(**{**small, "head_dim": 6, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
                         rope_parameters={"rope_type": "llama3", "rope_theta": 50.0, "factor": 8.0, "low_freq_factor": 1.0,
                                          "high_freq_factor": 4.0, "original_max_position_embeddings": 16})
    mistral = MistralConfig(**{**small, "head_dim": 4}, sliding_window=3, rope_parameters={
        "rope_type": "linear", "rope_theta": 100.0, "factor": 2.5})
    qwen2 = Qwen2Config(**{**small, "hidden_size": 16}, use_sliding_window=True, sliding_window=4,
                        layer_types=["sliding_attention", "full_attention"], rope_parameters={
                            "rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0,
                            "original_max_position_embeddings": 8})
    qwen3 = Qwen3Config(**{**small, "head_dim": 8}, tie_word_embeddings=True, rope_parameters={
        "rope_type": "default", "rope_theta": 100.0})
    wanted = sys.argv[2:]
    if not wanted:
        optim_golden(root / "nn_optim.json")
    for name, model in (("nn_llama", LlamaForCausalLM(llama)), ("nn_gpt2", GPT2LMHeadModel(gpt2)),
                        ("nn_llama3", LlamaForCausalLM(llama3)), ("nn_mistral", MistralForCausalLM(mistral)),
                        ("nn_qwen2", Qwen2ForCausalLM(qwen2)), ("nn_qwen3", Qwen3ForCausalLM(qwen3))):
        if not wanted or name in wanted:
            golden(name, model, root)


main()
