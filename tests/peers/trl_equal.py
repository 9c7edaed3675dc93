#!/usr/bin/env python3
"""Losses and updates of TRL's trainers and ours on the same tiny random models and the same tokens.

    python tests/peers/trl_equal.py TRAIN_ADAPTER [--trl112 DIR]     needs torch, transformers, trl, datasets

Without --trl112:
dpo: DPOTrainer, one step at learning rate 0: loss, rewards, margin, accuracy (sigmoid, IPO).
sft: SFTTrainer, one step at learning rate 0: loss over rows of unequal length, at accumulation 1 and 4, ours packed and not.
With it:
ppo: one whole update of TRL 1.12's PPOTrainer (the last with one; DIR holds that package) in float64 on the replies that ours
drew: the change of every weight, relative L2."""
import argparse, json, os, subprocess, sys, tempfile, warnings

os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1", WANDB_DISABLED="true")
ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("adapter")
ap.add_argument("--trl112")
ARGS = ap.parse_args()
CHECKS = ["ppo"] if ARGS.trl112 else ["dpo", "sft"]
if ARGS.trl112:
    sys.path.insert(0, ARGS.trl112)
try:
    import datasets, torch, transformers, trl
    from datasets import Dataset
except ImportError as e:
    print(f"cannot import {e.name}")
    sys.exit(77)
from transformers import (AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig, PreTrainedTokenizerFast)
from tokenizers import Tokenizer, models, pre_tokenizers

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
datasets.disable_progress_bars()
warnings.filterwarnings("ignore")
torch.set_num_threads(1)
VOCAB, PAD, EOS = 61, 60, 59
failed = []


def adapter(work, **request):
    path = f"{work}/request.json"
    with open(path, "w") as f:
        json.dump(request, f)
    p = subprocess.run([ARGS.adapter, path], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    return json.loads(p.stdout)


def close(name, ours, theirs, tol):
    e = abs(ours - theirs) / max(1, abs(theirs))
    print(f"{name}: ours {ours:.9g}, TRL {theirs:.9g}, off by {e:.1e} (allowed {tol:.0e})")
    if not e <= tol:
        failed.append(name)


def model(kind, folder, seed, **more):
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2, bos_token_id=None,
                         eos_token_id=EOS, **{"pad_token_id": PAD, **more})
    kind.from_config(config).save_pretrained(folder)
    return folder


def tokenizer():
    t = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
    t.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=t, pad_token=f"w{PAD}", eos_token=f"w{EOS}")


def words(ids):
    return " ".join(f"w{i}" for i in ids)


def draw(g, n):
    return torch.randint(0, EOS, (n,), generator=g).tolist()


def quiet(work, **more):
    return dict(output_dir=f"{work}/trl", report_to=[], save_strategy="no", logging_steps=1, logging_strategy="steps",
                use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True, learning_rate=0.0, max_steps=1, **more)


def logged(trainer, key):
    return next(row[key] for row in trainer.state.log_history if key in row)


def dpo(work):
    g = torch.Generator().manual_seed(5)
    policy, ref = model(AutoModelForCausalLM, f"{work}/p", 1), model(AutoModelForCausalLM, f"{work}/r", 2)
    pairs = [{"prompt": draw(g, 3 + i % 4), "chosen": draw(g, 2 + i) + [EOS], "rejected": draw(g, 9 - i) + [EOS]}
             for i in range(8)]
    for loss, beta in (("sigmoid", 0.1), ("sigmoid", 0.5), ("ipo", 0.5)):  # TRL's sigmoid knows no label smoothing
        rows = Dataset.from_list([{"prompt": words(p["prompt"]) + " ", "chosen": words(p["chosen"]),
                                   "rejected": words(p["rejected"])} for p in pairs])
        config = trl.DPOConfig(**quiet(work, per_device_train_batch_size=8, beta=beta, loss_type=[loss]))
        load = lambda f: AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32)
        t = trl.DPOTrainer(model=load(policy), ref_model=load(ref), args=config, train_dataset=rows, processing_class=tokenizer())
        t.train()
        ours = adapter(work, op="dpo", policy=policy, reference=ref, beta=beta, label_smoothing=0, ipo=loss == "ipo",
                       average=loss == "ipo", pairs=pairs)
        name = f"dpo {loss} beta {beta}"
        close(f"{name}: loss", ours["loss"], logged(t, "loss"), 1e-5)
        if loss == "ipo":
            continue  # TRL's rewards are of sums there
        close(f"{name}: chosen rewards", ours["chosen_reward"], logged(t, "rewards/chosen"), 1e-5)
        close(f"{name}: rejected rewards", ours["rejected_reward"], logged(t, "rewards/rejected"), 1e-5)
        close(f"{name}: margins", ours["margin"], logged(t, "rewards/margins"), 1e-5)
        close(f"{name}: accuracies", ours["accuracy"], logged(t, "rewards/accuracies"), 0)


def sft(work):
    g = torch.Generator().manual_seed(6)
    policy = model(AutoModelForCausalLM, f"{work}/p", 3)
    rows = [{"prompt": draw(g, 2 + i % 3), "completion": draw(g, 1 + 3 * i) + [EOS]} for i in range(8)]
    data = Dataset.from_list([{"input_ids": r["prompt"] + r["completion"],
                               "completion_mask": [0] * len(r["prompt"]) + [1] * len(r["completion"])} for r in rows])
    for accumulate in (1, 4):
        config = trl.SFTConfig(**quiet(work, per_device_train_batch_size=8 // accumulate, gradient_accumulation_steps=accumulate,
                                       completion_only_loss=True, max_length=None))
        t = trl.SFTTrainer(model=AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32), args=config,
                           train_dataset=data, processing_class=tokenizer())
        t.train()
        ours = adapter(work, op="sft", policy=policy, max_tok=36 if accumulate == 4 else 400, rows=rows)
        assert (ours["packs"] > 1) == (accumulate == 4), ours
        close(f"sft, accumulation {accumulate}, {ours['packs']} packs of ours: loss", ours["loss"], logged(t, "loss"), 1e-5)


def ppo(work):
    from trl.experimental.ppo import ppo_trainer
    g = torch.Generator().manual_seed(7)
    n, n_prompt, n_new, epochs, lr = 8, 4, 12, 4, 1e-3
    # No padding id: its embedding would get no gradient in transformers, and a reply may hold any id.
    policy, ref = (model(AutoModelForCausalLM, f"{work}/{k}", seed, pad_token_id=None) for k, seed in (("p", 1), ("r", 2)))
    value = model(AutoModelForSequenceClassification, f"{work}/v", 3, num_labels=1, pad_token_id=None)
    prompts, scores = [draw(g, n_prompt) for _ in range(n)], torch.randn(n, generator=g, dtype=torch.float64).tolist()
    ours = adapter(work, op="ppo", policy=policy, reference=ref, value=value, out=f"{work}/out", prompts=prompts, scores=scores,
                   max_new=n_new, epochs=epochs, lr=lr, beta=0.05, temperature=1 + 1e-7, **{"lambda": 0.95})
    at = {tuple(p): i for i, p in enumerate(prompts)}
    assert len(at) == n
    load = lambda kind, f: kind.from_pretrained(f, dtype=torch.float64)
    nets = {"policy": load(AutoModelForCausalLM, policy), "value": load(AutoModelForSequenceClassification, value)}
    judge = load(AutoModelForSequenceClassification, value)
    before = {k: {name: p.detach().clone() for name, p in m.named_parameters()} for k, m in nets.items()}
    real = ppo_trainer.get_reward

    def our_replies(m, queries, *_):
        replies = torch.tensor([ours["replies"][at[tuple(q)]] for q in queries.tolist()])
        both = torch.cat([queries, replies], 1)
        return both, m(input_ids=both).logits[:, queries.shape[1] - 1:-1] / (1 + 1e-7)

    def our_scores(m, both, pad, context):
        if m is not judge:
            return real(m, both, pad, context)
        return None, torch.tensor([scores[at[tuple(q)]] for q in both[:, :context].tolist()], dtype=torch.float64), None

    ppo_trainer.batch_generation, ppo_trainer.get_reward = our_replies, our_scores
    config = ppo_trainer.PPOConfig(
        output_dir=f"{work}/trl", report_to=[], save_strategy="no", use_cpu=True, bf16=False, gradient_checkpointing=False,
        disable_tqdm=True, learning_rate=lr, lr_scheduler_type="constant", per_device_train_batch_size=n, num_mini_batches=1,
        gradient_accumulation_steps=1, total_episodes=n, num_ppo_epochs=epochs, response_length=n_new, temperature=1.0, kl_coef=0.05,
        num_sample_generations=0, local_rollout_forward_batch_size=n, cliprange=0.2, cliprange_value=0.2, vf_coef=0.1, gamma=1.0,
        lam=0.95, missing_eos_penalty=None, stop_token=None, weight_decay=0.0, optim="adamw_torch", max_grad_norm=0.0)
    t = ppo_trainer.PPOTrainer(args=config, processing_class=type("P", (), dict(pad_token_id=10 ** 6, eos_token_id=EOS))(),
                               model=nets["policy"], ref_model=load(AutoModelForCausalLM, ref), reward_model=judge,
                               value_model=nets["value"], train_dataset=Dataset.from_list([{"input_ids": p} for p in prompts]),
                               data_collator=lambda rows: {"input_ids": torch.tensor([r["input_ids"] for r in rows])})
    t.train()
    kinds = {"policy": AutoModelForCausalLM, "value": AutoModelForSequenceClassification}
    for k, m in nets.items():
        got = dict(load(kinds[k], f"{work}/out/{k}").named_parameters())
        far = size = 0
        for name, p in m.named_parameters():
            change, mine = p.detach() - before[k][name], got[name].detach() - before[k][name]
            far, size = far + ((change - mine) ** 2).sum().item(), size + (change ** 2).sum().item()
        assert size > 0, k
        close(f"ppo: change of the {k}'s weights after {epochs} epochs, relative L2", (far / size) ** 0.5, 0, 1e-5)


for check in CHECKS:
    with tempfile.TemporaryDirectory() as folder:
        print(f"{check}: trl {trl.__version__}, torch {torch.__version__}, transformers {transformers.__version__}")
        globals()[check](folder)
print("FAILED: " + "; ".join(failed) if failed else "ok")
sys.exit(1 if failed else 0)
