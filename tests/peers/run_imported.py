#!/usr/bin/env python3
"""The whole method from models of transformers, and back: tiny random ones of three families go in by model.path, spoken to
by special tokens that are added, or in plain words by their own chat template (model.prompts). The run's policy and preference
model must load in transformers with the same logits and rewards, and write a dialogue with the same ids.

    python tests/peers/run_imported.py DIKAST CONF(tiny.yaml)      needs torch, transformers, tokenizers"""
import glob, json, os, subprocess, sys, tempfile
import torch, transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, GPT2Config, LlamaConfig,
                          PreTrainedTokenizerFast, Qwen2Config)

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
DIKAST, CONF = sys.argv[1:3]
SET = [f"{stage}.max_new=90" for stage in ("pairs", "rl", "revise", "eval")] + ["helpful.epochs=6"]
CHATML = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
SIZE = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
DIALOGUE = [{"role": "user", "content": "how do i wash walls ?"}, {"role": "assistant", "content": "to wash walls , first get soap ."}]


def imported(folder, family):
    special = {"llama": ["<s>", "</s>"], "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "gpt2": ["<|endoftext|>"]}[family]
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(["how do i wash walls ? to wash walls , first get soap then hold the walls ."], trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    n = t.get_vocab_size()
    config = {
        "llama": lambda: LlamaConfig(vocab_size=n, max_position_embeddings=1024, bos_token_id=0, eos_token_id=1, **SIZE),
        "qwen2": lambda: Qwen2Config(vocab_size=n + 5, max_position_embeddings=1024, bos_token_id=0, eos_token_id=2,
                                     tie_word_embeddings=True, **SIZE),
        "gpt2": lambda: GPT2Config(vocab_size=n, n_embd=64, n_layer=2, n_head=4, n_positions=1024, bos_token_id=0,
                                   eos_token_id=0)}[family]()
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    if family == "llama":
        t.save(folder + "/tokenizer.json")
    else:
        names = {"qwen2": dict(eos_token="<|im_end|>", pad_token="<|endoftext|>"),
                 "gpt2": dict(bos_token="<|endoftext|>", eos_token="<|endoftext|>")}[family]
        fast = PreTrainedTokenizerFast(tokenizer_object=t, **names)
        if family == "qwen2":
            fast.chat_template = CHATML
        fast.save_pretrained(folder)
    return n


def load(kind, folder):
    model, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not info.get(key), (folder, key, info[key])
    return model.eval()


def logits(folder, rows):
    text = "".join(json.dumps({"ids": r}) + "\n" for r in rows)
    p = subprocess.run([DIKAST, "logits", folder], input=text, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in p.stdout.splitlines()]


def same_numbers(policy, pm, t, end):
    ids = t("to wash walls , first get soap .")["input_ids"]
    model = load(AutoModelForCausalLM, policy)
    with torch.no_grad():
        want = model(torch.tensor([ids])).logits[0, -1]
    got = torch.tensor(logits(policy, [ids])[0]["logits"])
    assert ((got - want).norm() / want.norm()).item() < 1e-5
    reward = load(AutoModelForSequenceClassification, pm)
    pad = reward.config.pad_token_id
    assert reward.config.num_labels == 1 and pad is not None and pad != end, (pad, end)
    rows = [[*t.apply_chat_template(DIALOGUE[:1], add_generation_prompt=True)["input_ids"], *ids[:n], end] for n in (3, 7, 5)]
    longest = max(map(len, rows))
    batch = torch.tensor([r + [pad] * (longest - len(r)) for r in rows])  # right padding, as transformers does it
    with torch.no_grad():
        want = reward(batch, attention_mask=(batch != pad).long()).logits[:, 0]
    got = torch.tensor([g["reward"] for g in logits(pm, rows)])
    assert (got - want).abs().max().item() < 1e-5, (got, want)
    return model


def same_dialogue(policy, t, work):
    """Ids of a dialogue of ours and of apply_chat_template, and what is learned of it."""
    path = work + "/dialogue.jsonl"
    open(path, "w").write(json.dumps({"messages": DIALOGUE}) + "\n")
    p = subprocess.run([DIKAST, "data", "inspect", path, "--tokenizer", policy, "--json"], capture_output=True, text=True, check=True)
    s = json.loads(p.stdout)["first"][0]["sequences"][0]
    want = t.apply_chat_template(DIALOGUE)["input_ids"]
    n = len(s["ids"])
    assert s["ids"] == want[:n] and len(t.decode(want[n:]).strip()) == 0, (s["ids"], want)
    learned = t.decode([i for i, on in zip(s["ids"], s["learned"]) if on])
    assert learned.startswith(DIALOGUE[1]["content"]) and learned.endswith(t.eos_token), learned


def rounds(out):
    return [r for line in open(glob.glob(f"{out}/store/revise-*/revisions.jsonl")[0]) for r in json.loads(line)["rounds"]]


CASES = [  # family, model.prompts, ids that are added, chat template afterwards
    ("llama", "auto", 19, "native"),
    ("qwen2", "auto", 1, "own"),             # <|mask|>: its own pad_token is also bos_token_id of the model
    ("qwen2", "sentinels", 18, "native"),    # <|endoftext|> is there
    ("gpt2", "headings", 1, "transcript"),   # <|mask|>, to pad with
]
for family, prompts, added, template in CASES:
    with tempfile.TemporaryDirectory() as work:
        n_before = imported(work + "/in", family)
        p = subprocess.run([DIKAST, "run", CONF, f"model.path={work}/in", f"run.out={work}/out", f"model.prompts={prompts}", *SET],
                           capture_output=True, text=True)
        assert p.returncode == 0, (family, prompts, p.stderr[-2000:])
        policy, pm = (glob.glob(f"{work}/out/store/{s}-*/model")[0] for s in ("rl", "pm"))
        t = AutoTokenizer.from_pretrained(policy)
        assert len(t) == n_before + added, (family, prompts, len(t), n_before)
        end = t.eos_token_id
        if template == "native":
            assert t.convert_tokens_to_ids("<|end|>") == end and t.convert_tokens_to_ids("<|mask|>") == t.pad_token_id
        else:
            assert t.eos_token == {"qwen2": "<|im_end|>", "gpt2": "<|endoftext|>"}[family]
        if template == "own":
            assert t.chat_template == CHATML and t.pad_token == "<|mask|>"
        model = same_numbers(policy, pm, t, end)
        assert model.config.vocab_size >= len(t)
        eos = model.generation_config.eos_token_id
        assert (eos if isinstance(eos, int) else eos[0]) == end, eos
        same_dialogue(policy, t, work)
        all_rounds = rounds(work + "/out")
        assert len(all_rounds) > 20 and all(r["ok_odds"] is not None for r in all_rounds), (family, prompts)
        if template != "native":
            assert all((r["revision"] is not None) == r["violates"] == (r["ok_odds"] < 0) for r in all_rounds)
        print(family, prompts, "ok", len(all_rounds), "rounds,", sum(r["violates"] for r in all_rounds), "violate")
print("ok")
