#!/usr/bin/env python3
"""Rows of data.sft as they will be trained: ids and loss mask of `dikast data inspect` against transformers' own
apply_chat_template(..., return_assistant_tokens_mask=True), for dialogues of many turns, with and without tools, whole
(messages) and as prompt and completion, of which the completion alone is learned.

    sft_rows.py [--count N] [--seed N] TOKENIZER_JSON DIKAST

Exit status 1 when something differs, 77 without transformers."""
import argparse, json, os, random, shutil, subprocess, sys, tempfile
ap = argparse.ArgumentParser()
ap.add_argument("tokenizer"), ap.add_argument("dikast")
ap.add_argument("--count", type=int, default=400), ap.add_argument("--seed", type=int, default=1)
args = ap.parse_args()
try:
    from transformers import PreTrainedTokenizerFast
except ImportError:
    print("skipped: transformers is not installed"), sys.exit(77)
import logging; logging.disable(logging.CRITICAL)

R = random.Random(args.seed)
PIECES = ["the gate", " ", "\n", "猫", "😀", "don't", "12345", "\"q\"", "{{ x }}", "'", "é", "a", "<|", "|>", ".", "<tool_call>", "\\"]
SYSTEM = "{% if tools %}{{ '<|system|>tools:' }}{% for t in tools %}{{ '\\n' + (t | tojson) }}{% endfor %}{{ '<|end|>' }}{% endif %}"
CALLS = ("{% if m.tool_calls %}{% for c in m.tool_calls %}{% set f = c.function if c.function is defined else c %}"
         "{{ '<tool_call>' + f.name + ' ' + (f.arguments if f.arguments is string else (f.arguments | tojson)) }}{% endfor %}{% endif %}")
TOOLS = (SYSTEM + "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|assistant|>' }}{% generation %}{{ m.content or '' }}" +
         CALLS + "{{ '<|end|>' }}{% endgeneration %}{{ '\\n' }}{% else %}{{ '<|user|>' + m.role + (':' + m.name if m.name is defined else '') + '\\n' "
         "+ m.content + '<|end|>' + '\\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}")
# No blocks: what is learned is what a turn adds to the turns before it, ready for a reply.
GROWN = TOOLS.replace("{% generation %}", "").replace("{% endgeneration %}", "")


def text():
    return "".join(R.choice(PIECES) for _ in range(R.randint(1, 6))).strip() or "a"


def call():
    arguments = {R.choice("xyz"): R.choice([1, 2.5, True, None, text(), [1, {"k": text()}]]) for _ in range(R.randint(0, 2))}
    return {"id": "abcdefghi", "type": "function", "function": {"name": R.choice(["f", "look_up"]),
            "arguments": arguments if R.random() < 0.7 else json.dumps(arguments)}}


def dialogue(tools):
    out = [{"role": "system", "content": text()}] if R.random() < 0.4 else []
    for _ in range(R.randint(1, 4)):
        out.append({"role": "user", "content": text()})
        if tools and R.random() < 0.6:
            calls = [call() for _ in range(R.randint(1, 2))]
            out.append({"role": "assistant", "content": R.choice([None, text()]), "tool_calls": calls})
            out += [{"role": "tool", "name": c["function"]["name"], "tool_call_id": c["id"], "content": text()} for c in calls]
        out.append({"role": "assistant", "content": text()})
    return out


def tool_list():
    return [{"type": "function", "function": {"name": n, "description": text(), "parameters": {"type": "object", "properties": {}}}}
            for n in ("f", "look_up")]


def ids(tok, messages, tools, respond=False, mask=False):
    return tok.apply_chat_template(messages, tools=tools, add_generation_prompt=respond, tokenize=True, return_dict=True,
                                   return_assistant_tokens_mask=mask)


def grown(tok, messages, tools, first):
    """1 for tokens of the whole that overlap what an assistant's turn adds."""
    render = lambda m, r: tok.apply_chat_template(m, tools=tools, add_generation_prompt=r, tokenize=False)
    whole = render(messages, False)
    spans = [(len(render(messages[:i], True)), len(render(messages[:i + 1], False)))
             for i, m in enumerate(messages) if m["role"] == "assistant" and i >= first]
    enc = tok(whole, return_offsets_mapping=True, add_special_tokens=False)
    return [int(any(a < e and s < b for a, b in spans)) for s, e in enc["offset_mapping"]]


bad = n = 0
for name, template in (("marked", TOOLS), ("grown", GROWN)):
    folder = tempfile.mkdtemp()
    shutil.copy(args.tokenizer, folder + "/tokenizer.json")
    json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "clean_up_tokenization_spaces": False,
               "chat_template": template}, open(folder + "/tokenizer_config.json", "w"))
    open(folder + "/chat_template.jinja", "w").write(template)
    tok = PreTrainedTokenizerFast.from_pretrained(folder)
    rows, want = [], []
    for i in range(args.count):
        messages = dialogue(i % 2 == 0)
        uses = any("tool_calls" in m for m in messages)
        tools = tool_list() if uses or R.random() < 0.2 else None
        row, first = {"tools": tools if R.random() < 0.5 or not tools else json.dumps(tools)}, 0
        if i % 3 == 2:
            ends = [k for k, m in enumerate(messages) if m["role"] == "user"]
            first = R.choice(ends) + 1
            row.update(prompt=messages[:first], completion=messages[first:])
        else:
            row.update(messages=messages)
        rows.append(row)
        if name == "marked":
            w = ids(tok, messages, tools, mask=True)
            mask = list(w["assistant_masks"])
            context = len(ids(tok, messages[:first], tools)["input_ids"]) if first else 0
            mask = [m if k >= context else 0 for k, m in enumerate(mask)]
        else:
            w, mask = ids(tok, messages, tools), grown(tok, messages, tools, first)
        want.append((list(w["input_ids"]), mask))
    with open(folder + "/rows.jsonl", "w") as f:
        f.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
    p = subprocess.run([args.dikast, "data", "inspect", folder + "/rows.jsonl", "--kind", "instruction", "--rows", "1000",
                        "--tokenizer", folder, "--json"], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr + p.stdout[-500:]
    got = json.loads(p.stdout)
    assert got["usable"] == len(rows), (got["usable"], got["reasons_left_out"])
    for row, (w_ids, w_mask), g in zip(rows, want, got["first"]):
        n += 1
        s = g["sequences"][0]
        g_ids, g_mask = s["ids"], [int(x) for x in s["learned"]]
        # A single reply is written as generation will write it: up to the token that ends it.
        short = len(g_ids)
        end = tok.convert_tokens_to_ids("<|end|>")
        one_reply = short < len(w_ids) and g_ids[-1] == end
        same = g_ids == w_ids[:short] and g_mask == w_mask[:short] and (one_reply or short == len(w_ids))
        if not same:
            bad += 1
            if bad < 4:
                print(name, json.dumps(row, ensure_ascii=False), "\n  want", w_ids, w_mask, "\n  got ", g_ids, g_mask)
    shutil.rmtree(folder)
print(f"{n} rows, {bad} differ")
sys.exit(bad != 0)
