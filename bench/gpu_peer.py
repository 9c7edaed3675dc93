"""What PyTorch and Hugging Face reach on one GPU, for the sizes d and e of `dikast bench`: one JSON line a case.

  python3 bench/gpu_peer.py copy gemm train generate [--model d] [--mode eager|compile|both] [--json FILE]

copy      device-to-device copy of 2 GB, bytes read plus bytes written
gemm      bf16 products of the size's shapes at --rows rows, random data
train     a hand-written Llama (scaled_dot_product_attention, fused AdamW, F32 weights under bf16 autocast), random tokens
attention scaled_dot_product_attention, forward and backward, by PyTorch's flash and cuDNN kernels
generate  transformers' LlamaForCausalLM in bf16, greedy, 16 + 128 tokens
ppo       TRL's PPO trainer (a version that has it must be on PYTHONPATH): policy, reference, reward and value of one size
"""
import argparse
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

SIZES = {
    "d": dict(layers=16, heads=16, kv=8, width=2048, head=128, ffn=8192, vocab=32768, batch=8, seq=2048),
    "e": dict(layers=12, heads=12, kv=12, width=768, head=64, ffn=2048, vocab=32768, batch=16, seq=1024),
}
p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("what", nargs="+", choices=["copy", "gemm", "attention", "train", "generate", "ppo"])
p.add_argument("--model", choices=SIZES, default="d")
p.add_argument("--mode", choices=["eager", "compile", "both"], default="both")
p.add_argument("--rows", type=int, default=16384)
p.add_argument("--steps", type=int, default=5)
p.add_argument("--batches", default="1,64")
p.add_argument("--json", help="lines are added to this file, too")
args = p.parse_args()
S = SIZES[args.model]
dev = torch.device("cuda")
torch.manual_seed(0)


def emit(bench, case, **fields):
    line = json.dumps(dict(bench=bench, case=case, engine="torch", version=torch.__version__, model=args.model,
                           device=torch.cuda.get_device_name(), **fields))
    print(line, flush=True)
    if args.json:
        with open(args.json, "a") as f:
            f.write(line + "\n")


def seconds(fn, reps=10, warm=3):
    """Median over event-timed calls."""
    for _ in range(warm):
        fn()
    out = []
    for _ in range(reps):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        fn()
        b.record()
        b.synchronize()
        out.append(a.elapsed_time(b) / 1e3)
    return statistics.median(out)


def copy():
    x = torch.randn(1 << 29, device=dev)
    y = torch.empty_like(x)
    emit("copy", "copy/2GB", gb_s=round(2 * x.numel() * 4 / seconds(lambda: y.copy_(x)) / 1e9, 1))


def gemm():
    d, n = S["width"], args.rows
    for name, m, k in [("qkv", 3 * d, d), ("proj", d, d), ("ff1", 4 * d, d), ("ff2", d, 4 * d), ("head", S["vocab"], d)]:
        x = torch.randn(n, k, device=dev, dtype=torch.bfloat16)
        w = torch.randn(m, k, device=dev, dtype=torch.bfloat16)
        dy = torch.randn(n, m, device=dev, dtype=torch.bfloat16)
        for form, fn in [("fwd", lambda: x @ w.T), ("dx", lambda: dy @ w), ("dw", lambda: dy.T @ x)]:
            s = seconds(fn)
            emit("gemm", f"gemm/{args.model}/{name}/{form}/M{n}", dtype="bf16", M=n, N=m, K=k, us=round(s * 1e6, 1),
                 gflops=round(2.0 * n * m * k / s / 1e9, 1))
        del x, w, dy


def attention():
    b, t, h, kv, d = S["batch"], S["seq"], S["heads"], S["kv"], S["head"]
    q, k, v, g = (torch.randn(b, t, n, d, device=dev, dtype=torch.bfloat16).transpose(1, 2).requires_grad_(n_grad)
                  for n, n_grad in ((h, True), (kv, True), (kv, True), (h, False)))
    flops = 4 * b * t * (t + 1) / 2 * h * d
    for name, which in (("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION)):
        try:
            with sdpa_kernel([which]):
                fwd = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=h != kv)
                with torch.no_grad():
                    s = [seconds(fwd)]
                o = fwd()
                s.append(seconds(lambda: torch.autograd.grad(o, (q, k, v), g, retain_graph=True)))
        except RuntimeError as e:
            print(f"attention: {name}: {e}", file=sys.stderr, flush=True)
            continue
        for form, us, work in (("fwd", s[0], flops), ("bwd", s[1], 2.5 * flops)):
            emit("kernels", f"kernel/{args.model}/attention/{form}", dtype="bf16", kernels=name, us_best=round(us * 1e6, 1),
                 gflops_best=round(work / us / 1e9, 1))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        d, h, kv, hd, f = S["width"], S["heads"], S["kv"], S["head"], S["ffn"]
        self.n1, self.n2 = nn.RMSNorm(d, eps=1e-5), nn.RMSNorm(d, eps=1e-5)
        self.qkv = nn.Linear(d, (h + 2 * kv) * hd, bias=False)
        self.o = nn.Linear(h * hd, d, bias=False)
        self.gate_up = nn.Linear(d, 2 * f, bias=False)
        self.down = nn.Linear(f, d, bias=False)

    def forward(self, x, cos, sin):
        B, T, _ = x.shape
        h, kv, hd = S["heads"], S["kv"], S["head"]
        q, k, v = self.qkv(self.n1(x)).split([h * hd, kv * hd, kv * hd], -1)
        q, k, v = (t.view(B, T, -1, hd).transpose(1, 2) for t in (q, k, v))
        rot = lambda t: torch.cat((-t[..., hd // 2:], t[..., :hd // 2]), -1)
        q, k = (t * cos + rot(t) * sin for t in (q, k))
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=h != kv)
        x = x + self.o(o.transpose(1, 2).reshape(B, T, h * hd))
        g, u = self.gate_up(self.n2(x)).chunk(2, -1)
        return x + self.down(F.silu(g) * u)


class Lean(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(S["vocab"], S["width"])
        nn.init.normal_(self.emb.weight, std=0.02)
        self.blocks = nn.ModuleList(Block() for _ in range(S["layers"]))
        self.norm = nn.RMSNorm(S["width"], eps=1e-5)
        hd = S["head"]
        f = 10000 ** (-torch.arange(0, hd, 2) / hd)
        a = torch.outer(torch.arange(S["seq"]), torch.cat((f, f)))
        self.register_buffer("cos", a.cos(), persistent=False)
        self.register_buffer("sin", a.sin(), persistent=False)

    def forward(self, ids, target):
        x = self.emb(ids)
        T = ids.shape[1]
        cos, sin = self.cos[:T].to(torch.bfloat16), self.sin[:T].to(torch.bfloat16)
        for b in self.blocks:
            x = b(x, cos, sin)
        logits = self.norm(x) @ self.emb.weight.T
        return F.cross_entropy(logits.view(-1, S["vocab"]).float(), target.view(-1))


def train():
    B, T = S["batch"], S["seq"]
    ids = torch.randint(0, S["vocab"], (B, T + 1), device=dev)
    x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    for mode in ["eager", "compile"] if args.mode == "both" else [args.mode]:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        model = Lean().to(dev)
        opt = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1, fused=True)
        call = torch.compile(model) if mode == "compile" else model
        warm = time.perf_counter()

        def step():
            with torch.autocast("cuda", torch.bfloat16):
                loss = call(x, y)
            loss.backward()
            opt.step()
            opt.zero_grad(set_to_none=True)
            return loss

        try:
            step()
            torch.cuda.synchronize()
            warm = time.perf_counter() - warm
            s = seconds(step, args.steps, 2)
        except torch.OutOfMemoryError:
            emit("train", f"train/{args.model}/{B}x{T}", mode=mode, error="out of memory")
            continue
        hd = S["head"]
        n = S["layers"] * (S["width"] * hd * (2 * S["heads"] + 2 * S["kv"]) + 3 * S["width"] * S["ffn"]) + S["vocab"] * S["width"]
        flops = 6 * n + 12 * S["layers"] * S["heads"] * hd * T
        emit("train", f"train/{args.model}/{B}x{T}", mode=mode, dtype="bf16", tok_s=round(B * T / s, 1), step_ms=round(s * 1e3, 2),
             gflops=round(flops * B * T / s / 1e9, 1), warm_s=round(warm, 1), mem_mb=round(torch.cuda.max_memory_allocated() / 1e6))
        del model, opt, call


def hf(scalar=False):
    import transformers
    c = transformers.LlamaConfig(hidden_size=S["width"], intermediate_size=S["ffn"], num_hidden_layers=S["layers"],
                                 num_attention_heads=S["heads"], num_key_value_heads=S["kv"], head_dim=S["head"],
                                 vocab_size=S["vocab"], max_position_embeddings=S["seq"], tie_word_embeddings=True,
                                 bos_token_id=0, eos_token_id=1, pad_token_id=2, num_labels=1)
    kind = transformers.LlamaForSequenceClassification if scalar else transformers.LlamaForCausalLM
    with dev:
        return kind(c)


def generate():
    import transformers
    model = hf().to(dev, torch.bfloat16).eval()
    for n in [int(b) for b in args.batches.split(",")]:
        ids = torch.randint(3, S["vocab"], (n, 16), device=dev)
        mask = torch.ones_like(ids)

        @torch.no_grad()
        def run():
            model.generate(ids, attention_mask=mask, max_new_tokens=128, min_new_tokens=128, do_sample=False, pad_token_id=2)

        s = seconds(run, 2, 1)
        emit("gen", f"decode/{args.model}/x{n}/16+128", mode="hf-generate", transformers=transformers.__version__, dtype="bf16",
             tok_s=round(n * 128 / s, 1))


def ppo():
    """32 prompts of 32 tokens, 64 new tokens, 4 epochs, bf16 autocast of the trainer."""
    import contextlib
    import io
    import os
    import tempfile
    os.environ.update(TRL_EXPERIMENTAL_SILENCE="1", WANDB_DISABLED="true", TOKENIZERS_PARALLELISM="false")
    import transformers
    import trl
    import trl.experimental.ppo.ppo_trainer as mod
    from datasets import Dataset
    from tokenizers import Tokenizer, models as tk_models, pre_tokenizers
    transformers.logging.set_verbosity_error()
    core = Tokenizer(tk_models.WordLevel({f"t{i}": i for i in range(S["vocab"])}, unk_token="t3"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tok = transformers.PreTrainedTokenizerFast(tokenizer_object=core, bos_token="t0", eos_token="t1", pad_token="t2", padding_side="left")
    policy, ref, reward, value = hf(), hf(), hf(True), hf(True)
    ref.load_state_dict(policy.state_dict())
    marks, iters, seqs = [], 4, 32

    class Marks(transformers.TrainerCallback):
        def on_step_end(self, *a, **k):
            torch.cuda.synchronize()
            marks.append(time.perf_counter())

    ids = torch.randint(3, S["vocab"], (seqs * iters, 32), generator=torch.Generator().manual_seed(1)).tolist()
    with tempfile.TemporaryDirectory() as tmp:
        config = mod.PPOConfig(output_dir=tmp, report_to=[], bf16=True, gradient_checkpointing=False, learning_rate=1e-5, logging_steps=1,
                               save_strategy="no", disable_tqdm=True, temperature=1.0, per_device_train_batch_size=seqs,
                               gradient_accumulation_steps=1, num_mini_batches=1, total_episodes=seqs * iters, response_length=64,
                               num_ppo_epochs=4, local_rollout_forward_batch_size=seqs, num_sample_generations=0)
        trainer = mod.PPOTrainer(args=config, processing_class=tok, model=policy, ref_model=ref, reward_model=reward, value_model=value,
                                 train_dataset=Dataset.from_dict({"input_ids": ids}), eval_dataset=Dataset.from_dict({"input_ids": ids[:2]}))
        trainer.add_callback(Marks())
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.train()
    rows = [b - a for a, b in zip(marks, marks[1:])]
    emit("rl", f"ppo/{args.model}/32x(32+64)x4", trl=trl.__version__, dtype="bf16", iter_s=round(statistics.median(rows), 3), iters=len(rows))


for what in args.what:
    try:
        globals()[what]()
    except Exception as e:  # one failing case must not cost the others their turn
        print(f"{what}: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
    torch.cuda.empty_cache()
