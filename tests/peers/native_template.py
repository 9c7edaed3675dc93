#!/usr/bin/env python3
"""The ids and the loss mask that transformers makes of our native chat template, against our own serializer's.

    native_template.py [--count N] [--seed N] [--foreign TOKENIZER_JSON ...] TOKENIZER_JSON ADAPTER

TOKENIZER_JSON holds our sentinels (tests/golden/text_llama3.json), a foreign one need not; ADAPTER is
build/dev/tests/vec_adapter. A folder is made as
we write one (tokenizer_config.json, chat_template.jinja), opened by transformers, and dialogues go through
apply_chat_template. Where texts spell sentinels, sanitize_control_tokens keeps them text as we do; it also cuts the text there,
so only the special ids and the decoded text are compared. Also foreign templates over the same folder, where our serializer
runs them. Exit status 1 when something differs, 77 without transformers."""
import argparse, json, os, random, shutil, subprocess, sys, tempfile
ap = argparse.ArgumentParser(); ap.add_argument("--foreign", nargs="*", default=[], action="extend"); ap.add_argument("tokenizer"); ap.add_argument("adapter"); ap.add_argument("--count", type=int, default=400); ap.add_argument("--seed", type=int, default=1)
args = ap.parse_args()
try:
    from transformers import PreTrainedTokenizerFast
except ImportError:
    print("skipped: transformers is not installed"); sys.exit(77)
import logging; logging.disable(logging.CRITICAL)
P = subprocess.Popen([args.adapter], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
def ask(q):
    P.stdin.write(json.dumps(q, ensure_ascii=False) + "\n"); P.stdin.flush(); return json.loads(P.stdout.readline())
R = random.Random(args.seed)
PIECES = ["the gate", " ", "\n", "\n\n", "猫", "😀", "don't", "12345", "\t", "\"q\"", "{{ x }}", "{% if %}", "'", "é", "", "a", "<|", "|>", "."]
SENTINELS = ["<|end|>", "<|user|>", "<|assistant|>"]
def text(sentinels): return "".join(R.choice(PIECES + (SENTINELS if sentinels else [])) for _ in range(R.randint(0, 8)))
CHATML = "{% for m in messages %}{{ '<|user|>' + m['role'] + '\\n' + (m['content'] | trim) + '<|end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|user|>assistant\\n' }}{% endif %}"
MARKED = "{{ bos_token }}{% for m in messages %}{{ m.role | upper }}: {% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}ASSISTANT: {% endif %}"
folder = tempfile.mkdtemp(); bad = n = 0
PLAIN = "{{ bos_token }}{% for m in messages %}{{ m.role }}\n{{ m.content | trim }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant\n' }}{% endif %}"
jobs = [("native", args.tokenizer, ask({"op": "native_template"})["template"]), ("marked", args.tokenizer, MARKED), ("chatml", args.tokenizer, CHATML)]
jobs += [(f"{name} {os.path.basename(t)}", t, x) for t in args.foreign for name, x in (("marked", MARKED), ("plain", PLAIN))]
for name, source, template in jobs:
    shutil.copy(source, os.path.join(folder, "tokenizer.json"))
    added = [a["content"] for a in json.load(open(source, encoding="utf-8"))["added_tokens"] if a["special"]]
    ours = "<|judge|>" in added
    cfg = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>" if ours else added[0], "eos_token": "<|end|>" if ours else added[-1], "clean_up_tokenization_spaces": False, "chat_template": template}
    if not ours: SENTINELS[:] = added[:3]
    json.dump(cfg, open(os.path.join(folder, "tokenizer_config.json"), "w")); open(os.path.join(folder, "chat_template.jinja"), "w").write(template)
    tok = PreTrainedTokenizerFast.from_pretrained(folder)
    for i in range(args.count):
        sentinels = i % 4 == 3
        messages = [{"role": R.choice(["user", "assistant", "system"]), "content": text(sentinels)} for _ in range(R.randint(1, 5))]
        respond = i % 2 == 0; spans = "generation" in template.replace("add_generation", "") and not respond and not sentinels
        kw = {"sanitize_control_tokens": True} if sentinels else {}
        w = tok.apply_chat_template(messages, add_generation_prompt=respond, tokenize=True, return_dict=True, return_assistant_tokens_mask=spans, **kw)
        for native in ([False, True] if name == "native" else [False]):
            g = ask({"op": "dialogue", "folder": folder, "messages": messages, "add_generation_prompt": respond, "native": native}); n += 1
            if "error" in g and not spans and not respond and "marks no assistant turns" in g["error"]: continue
            special = lambda ids: [i for i in ids if i in set(tok.all_special_ids) | set(tok.convert_tokens_to_ids(SENTINELS))]
            same = special(g.get("ids", [])) == special(w["input_ids"]) and tok.decode(g.get("ids", [])) == tok.decode(w["input_ids"]) if sentinels else g.get("ids") == w["input_ids"]
            if not same or (spans and g["weights"] != w["assistant_masks"]):
                bad += 1
                if bad < 6: print(name, native, json.dumps(messages, ensure_ascii=False), respond, "\n  want", w["input_ids"], w.get("assistant_masks"), "\n  got ", g)
print(f"{n} dialogues, {bad} differ"); shutil.rmtree(folder); sys.exit(bad != 0)
