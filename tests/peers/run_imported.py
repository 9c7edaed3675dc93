#!/usr/bin/env python3
"""The whole method from a model of transformers, and back: a tiny random Llama with a byte-level tokenizer of its own goes
in by model.path, the run's policy and preference model must load in transformers with the same logits and rewards.

    python tests/peers/run_imported.py DIKAST CONF(tiny.yaml)      needs torch, transformers, tokenizers"""
import glob, json, os, subprocess, sys, tempfile
import torch, transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig)

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
DIKAST, CONF = sys.argv[1:3]
LENGTHS = [f"{stage}.max_new=90" for stage in ("pairs", "rl", "revise", "eval")]


def imported(folder):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(["how do i wash walls ? to wash walls , first get soap then hold the walls ."], trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(LlamaConfig(
        vocab_size=t.get_vocab_size(), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=0, eos_token_id=1)).save_pretrained(folder)
    t.save(folder + "/tokenizer.json")
    return t.get_vocab_size()


def load(kind, folder):
    model, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not info.get(key), (folder, key, info[key])
    return model.eval()


def logits(folder, rows):
    text = "".join(json.dumps({"ids": r}) + "\n" for r in rows)
    p = subprocess.run([DIKAST, "logits", folder], input=text, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in p.stdout.splitlines()]


with tempfile.TemporaryDirectory() as work:
    n_before = imported(work + "/in")
    p = subprocess.run([DIKAST, "run", CONF, f"model.path={work}/in", f"run.out={work}/out", "helpful.epochs=6", *LENGTHS],
                       capture_output=True, text=True)
    assert p.returncode == 0, p.stderr[-2000:]
    policy, pm = (glob.glob(f"{work}/out/store/{s}-*/model")[0] for s in ("rl", "pm"))
    t = AutoTokenizer.from_pretrained(policy)
    ids = t("to wash walls , first get soap .")["input_ids"]
    model = load(AutoModelForCausalLM, policy)
    assert model.config.vocab_size >= len(t) > n_before, (model.config.vocab_size, len(t), n_before)
    end, pad = t.convert_tokens_to_ids("<|end|>"), t.convert_tokens_to_ids("<|mask|>")
    user, assistant = t.convert_tokens_to_ids("<|user|>"), t.convert_tokens_to_ids("<|assistant|>")
    assert t.eos_token_id == end and t.pad_token_id == pad and t.bos_token_id == 0
    assert model.generation_config.eos_token_id == [end, 1], model.generation_config
    with torch.no_grad():
        want = model(torch.tensor([ids])).logits[0, -1]
    got = torch.tensor(logits(policy, [ids])[0]["logits"])
    assert ((got - want).norm() / want.norm()).item() < 1e-5

    reward = load(AutoModelForSequenceClassification, pm)
    assert reward.config.num_labels == 1 and reward.config.pad_token_id == pad != end
    rows = [[user, *ids, end, assistant, *ids[:n], end] for n in (3, 7, 5)]
    longest = max(map(len, rows))
    batch = torch.tensor([r + [pad] * (longest - len(r)) for r in rows])  # right padding, as transformers does it
    with torch.no_grad():
        want = reward(batch, attention_mask=(batch != pad).long()).logits[:, 0]
    got = torch.tensor([g["reward"] for g in logits(pm, rows)])
    assert (got - want).abs().max().item() < 1e-5, (got, want)
print("ok")
