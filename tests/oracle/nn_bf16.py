#!/usr/bin/env python3
"""Writes tests/golden/nn_bf16.json: how far PyTorch's own BF16 (autocast, weights kept in float32) is from the float64
goldens of nn_goldens.py, on the same models and sequences: relative error of the logits and of every gradient, and "all" of
the gradients together. A gradient that vanishes by symmetry is measured against 0.01, as in test_nn_golden.c.

    python tests/oracle/nn_bf16.py [tests/golden]
"""
import json, pathlib, sys
import torch, transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/golden")
out = {"torch": torch.__version__, "transformers": transformers.__version__}
for name in ("nn_llama", "nn_gpt2"):
    golden = load_file(root / name / "expected.safetensors")
    model = AutoModelForCausalLM.from_pretrained(root / name, dtype=torch.float32, attn_implementation="eager").eval()
    lengths = golden["len"].tolist()
    total, logits = 0, []
    for ids, target, weight in zip(*(golden[k].split(lengths) for k in ("tok", "target", "weight"))):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z = model(input_ids=ids[None].long()).logits[0]
        logits.append(z.detach())
        total = total - (weight.float() * torch.log_softmax(z.float(), -1).gather(-1, target.long()[:, None])[:, 0]).sum()
    (total / golden["weight"].sum().float()).backward()

    def error(x, y):
        return ((x.double() - y).norm() / max(y.norm().item(), 0.01)).item()

    row = {"logits": error(torch.cat(logits), golden["logits"])}
    diff = norm = 0
    for key, p in model.named_parameters():
        want = golden["grad." + key]
        row["grad." + key] = error(p.grad, want)
        diff, norm = diff + (p.grad.double() - want).pow(2).sum().item(), norm + want.pow(2).sum().item()
    row["all"] = (diff / norm) ** 0.5
    out[name] = {k: float(f"{v:.4g}") for k, v in row.items()}
    print(name, out[name]["all"], out[name]["logits"])
(root / "nn_bf16.json").write_text(json.dumps(out, indent=1) + "\n")
