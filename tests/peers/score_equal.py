#!/usr/bin/env python3
"""`dikast score --json` beside lm-evaluation-harness: log-likelihoods of pairs by its transformers backend, tiny random models.

    score_equal.py DIKAST          needs torch, transformers, tokenizers, lm-eval"""
import json, random, subprocess, sys, tempfile
try:
    import torch, transformers
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
except ImportError as e:
    print("skipped:", e), sys.exit(77)
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedTokenizerFast

transformers.logging.set_verbosity_error()
DIKAST = sys.argv[1]
CORPUS = ["The assistant reads one principle, then it writes the answer again. It's 1984: 3.14159, isn't it?", "Voilà — 你好 世界 🙂"] * 3
SIZE = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=256)


def tokenizer(kind):
    special = ["<unk>", "<s>", "</s>"]
    if kind == "spm":
        t = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
        t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        special += [f"<0x{i:02X}>" for i in range(256)]
        alphabet = []
    else:
        t = Tokenizer(models.BPE())
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        t.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False, initial_alphabet=alphabet))
    j = json.loads(t.to_str())
    j["added_tokens"] = [a for a in j["added_tokens"] if a["id"] < 3]
    t = Tokenizer.from_str(json.dumps(j))
    if kind != "plain":
        t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return t


R = random.Random(1)
WORDS = "The assistant reads one principle, then it writes the answer again. It's 1984: isn't it? Voilà — 你好 世界 🙂".split(" ")


def text(n): return " ".join(R.choice(WORDS) for _ in range(n))


PAIRS = [("", " The answer"), ("", "Voilà"), ("The answer", "s"), ("It's 19", "84"), ("reads ", "one"), ("a\n", "b"), ("x \t ", " y")]
PAIRS += [(text(R.randint(1, 12)) + R.choice(["", " ", "\n", ":"]), R.choice(["", " "]) + text(R.randint(1, 4))) for _ in range(150)]

worst, n = 0.0, 0
for name, config, kind, bos in (("llama", LlamaConfig, "bos", False), ("llama-spm", LlamaConfig, "spm", False), ("llama-plain", LlamaConfig, "plain", False),
                                ("gpt2", GPT2Config, "plain", False), ("gpt2-bos", GPT2Config, "plain", True)):
    with tempfile.TemporaryDirectory() as folder:
        t = tokenizer(kind)
        torch.manual_seed(3)
        size = SIZE if config is not GPT2Config else dict(n_embd=64, n_layer=2, n_head=4, n_positions=256)
        model = AutoModelForCausalLM.from_config(config(vocab_size=t.get_vocab_size(), bos_token_id=1, eos_token_id=2, **size))
        for p in model.parameters():  # far from uniform, so that a wrong place shows
            torch.nn.init.normal_(p, std=0.3) if p.dim() > 1 else None
        model.save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=t, bos_token="<s>", eos_token="</s>", unk_token="<unk>").save_pretrained(folder)
        lm = HFLM(pretrained=folder, dtype="float32", device="cpu", batch_size=1, **({"add_bos_token": True} if bos else {}))
        # a pair whose continuation melts into the context has no ids of its own: neither takes it
        pairs = [(a, b) for a, b in PAIRS if not a or len(lm._encode_pair(a, b)[1]) > 0]
        assert len(pairs) > 100
        want = lm.loglikelihood([Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)], disable_tqdm=True)
        rows = "".join(json.dumps({"context": a, "continuation": b}, ensure_ascii=False) + "\n" for a, b in pairs)
        p = subprocess.run([DIKAST, "score", folder, "--json", *(["--bos"] if bos else [])], input=rows, capture_output=True, text=True)
        assert p.returncode == 0, (name, p.stderr)
        for pair, (ll, greedy), g in zip(pairs, want, json.loads(p.stdout)["rows"]):
            difference = abs(ll - g["logprob"])
            n, worst = n + 1, max(worst, difference)
            assert difference <= 1e-4 and greedy == g["greedy"], (name, pair, ll, greedy, g)
print(f"ok: {n} pairs, largest difference {worst:.1e} nats")
