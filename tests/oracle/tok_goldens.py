#!/usr/bin/env python3
"""Writes tests/golden/tok_cases.json: small tokenizers of every style and component, and what Hugging Face's `tokenizers` makes of
mixed texts: ids with special tokens found in text, without, with what the post-processor adds, byte offsets rounded outward to
characters, decoded text. Run from the project's root."""
import json, os, random, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "peers"))
from tokenizers_equal import *

TRAIN = ["the gardener mended the red gate. the baker didn't count 1234 pears in 1998 ", "aaaa bbbb the the then other there abab ", "größer naïve café über ",
         "def f(x):\n    return x + 12345\n", "мир привет мир ", "猫は庭で寝ている 猫 ", "=== -- ... !?\n\n\n", "don't we've I'll ", "  spaces   and\ttabs  "] * 6
EXTRA = ["<s>", "</s>", "[KEEP]", "key", "  "]
TEXTS = ["", " ", "  ", "\n\n", "a", " the gate", "the  gardener  ", "don't DON'T we’ve 'S", "1234567 ½ ٣٤ Ⅷ²", "猫は庭で", "Привет, мир!", "e\u0301\u0323 a\u0308 \u1100\u1161\u11a8 \u212b \u0344", "ﬁ ﷺ ① ㌀ ſ",
         "İI ÀÉ ẞß", "\u2581a \u2581\u2581 b", "x<s>y</s> <s>", "a  [KEEP]  b[KEEP]  [KEEP] [KEEP][KEEP]c", "key keys  xkey key_ key.key", "<s>the</s>", "\x00\x01\x1b[0m\x7f", "😀👍🏽🇩🇪", "a\u180e\u2003b\u0085c", "\U0001611c\U00031350x\u0897",
         "abc_def-GHI jKl 0x1F", "f(x, y) += 3.14;\r\n\t}", "<0x41><unk>", "café\u0301"]

def main():
    r = random.Random(5)
    bl = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bv, bm = train(TRAIN, 330, bl)
    holes = {k: i for i, k in enumerate(k for k in sorted(bv, key=bv.get) if k not in ("C", "j", "Ġc"))}
    hm = [m for m in bm if m[0] in holes and m[1] in holes and m[0] + m[1] in holes]
    cv, cm = train([SPACE + t.replace(" ", SPACE) for t in TRAIN], 130, pre_tokenizers.Split(Regex("▁*[^▁]+|▁+"), "isolated"), alphabet=False, limit=70)
    av, am = train([SPACE + t.replace(" ", SPACE) for t in TRAIN], 130, pre_tokenizers.Split(Regex(".{1,9}"), "isolated"), alphabet=False, limit=70)
    spm, across = with_bytes(cv, cm)[0], with_bytes(av, am)[0]
    few = {k: i for i, k in enumerate(k for k in sorted(spm, key=spm.get) if not (k.startswith("<0x") and int(k[3:5], 16) % 3 == 1))}
    # a merge that leads to a special token, which longer tokens are made of
    lead = dict(spm); lead_m = cm + [["<", "s"], ["<s", ">"], ["<s>", "<s>"], ["a", "<s>"]]
    for k in ("<", "s", ">", "<s", "<s><s>", "a<s>"): lead.setdefault(k, len(lead))
    models_ = {"bytes": (bv, bm), "holes": (holes, hm), "spm": (spm, cm), "across": (across, am), "few": (few, cm), "lead": (lead, lead_m)}
    nb, ns = len(bv), len(spm)
    tools = [added(nb, "<s>", True), added(nb + 1, "</s>", True), added(nb + 2, "[KEEP]", False, False, True, True), added(nb + 3, "key", False, False, False, False, True)]
    sp = [added(0, "<unk>", True), added(1, "<s>", True), added(2, "</s>", True)]
    post = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [nb], "tokens": ["<s>"]}, "</s>": {"id": "</s>", "ids": [nb + 1, 5], "tokens": ["</s>", "x"]}}}
    full = {"byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>"}
    S = lambda *p: seq("pretokenizers", *p)
    N = lambda *p: seq("normalizers", *[{"type": x} if isinstance(x, str) else x for x in p])
    plain = byte_level(regex=False)
    rep = lambda a, b, kind="String": {"type": "Replace", "pattern": {kind: a}, "content": b}
    files = [
        ("gpt2", "bytes", {}, byte_level(), None, byte_level(), None, tools), ("prefix", "bytes", {}, byte_level(True), None, byte_level(), None, tools),
        ("llama3", "bytes", {"ignore_merges": True}, S(split(LLAMA3), plain), None, byte_level(), seq("processors", byte_level(), post), tools),
        ("qwen2", "bytes", {}, S(split(QWEN2), plain), {"type": "NFC"}, byte_level(), None, [dict(a, normalized=True) for a in tools]),
        ("o200k", "bytes", {}, S(split(CASED), plain), None, byte_level(), None, []),
        ("starcoder", "bytes", {}, S({"type": "Digits", "individual_digits": True}, byte_level()), None, byte_level(), None, tools),
        ("falcon", "bytes", {}, S({"type": "Punctuation", "behavior": "Contiguous"}, byte_level(), {"type": "Digits", "individual_digits": False}, split("[0-9][0-9][0-9]")), None, seq("decoders", byte_level()), None, []),
        ("deepseek", "bytes", {}, S(*[split(p) for p in DEEPSEEK], plain), N(), byte_level(), None, []),
        ("bloom", "bytes", {}, S(split(BLOOM), plain), None, byte_level(), None, []),
        ("words", "bytes", {}, S({"type": "Whitespace"}, plain), N("NFKC", "Lowercase"), byte_level(), None, tools),
        ("no split", "bytes", {}, plain, N("NFD", "StripAccents"), None, None, []),
        ("missing bytes", "holes", {}, byte_level(), None, byte_level(), None, []),
        ("missing bytes, unk", "holes", {"unk_token": "!", "fuse_unk": True}, byte_level(), None, byte_level(), None, []),
        ("llama2", "spm", full, None, N({"type": "Prepend", "prepend": SPACE}, rep(" ", SPACE)), SPM_DECODER, None, sp),
        ("mistral", "spm", full, meta(), None, SPM_DECODER, None, sp + [added(ns, "[KEEP]", False, False, True, True), added(ns + 1, "key", False, True, False, False, True)]),
        ("gemma", "spm", full, split(" ", "MergedWithPrevious", kind="String"), rep(" ", SPACE), seq("decoders", *SPM_DECODER["decoders"][:3]), None, sp),
        ("metaspace cut", "spm", full, meta("always", True), None, meta("always"), None, sp), ("metaspace never", "spm", full, meta("never", True), N("NFKD"), meta("never"), None, sp),
        ("first behind", "spm", full, S(split("a", "MergedWithNext", kind="String"), meta("first")), {"type": "Strip", "strip_left": True, "strip_right": False}, SPM_DECODER, None, sp),
        ("across", "across", full, meta("always"), None, SPM_DECODER, None, sp),
        ("few, unk", "few", full, meta(), None, SPM_DECODER, None, sp), ("few, nothing", "few", {"byte_fallback": True}, meta(), None, SPM_DECODER, None, sp),
        ("unk each", "spm", {"unk_token": "<unk>"}, meta(), None, SPM_DECODER, None, sp), ("unk fused", "spm", {"unk_token": "<unk>", "fuse_unk": True}, meta(), None, SPM_DECODER, None, sp),
        ("leads to special", "lead", full, meta(), None, SPM_DECODER, None, sp),
        ("leads to special, words", "lead", full, meta("never"), None, SPM_DECODER, None, [dict(a, single_word=True) for a in sp]),
    ]
    for i, how in enumerate(BEHAVIORS): files.append((f"behavior {how}", "spm", full, split(r"[the\s]|a*", how, i % 2 == 1), None, SPM_DECODER, None, sp))
    files += [("bert", "spm", full, {"type": "BertPreTokenizer"}, {"type": "Nmt"}, SPM_DECODER, None, sp), ("delimiter", "spm", full, S({"type": "CharDelimiterSplit", "delimiter": "e"}, {"type": "FixedLength", "length": 3}), None, SPM_DECODER, None, sp),
              ("words removed", "spm", full, S({"type": "WhitespaceSplit"}, split(r"\w+|[^\w\s]+", "Removed", True), split(r"\b.", "MergedWithPrevious"), split(r"\d{1,3}+", "Isolated")), rep(r"[aeiou]\b", "_é", "Regex"), SPM_DECODER, None, sp)]
    out = []
    for name, base, kw, pre, norm, dec, po, add in files:
        j = file(model(*models_[base], **kw), pre, norm, dec, po, add)
        t, bare = Tokenizer.from_str(json.dumps(j)), Tokenizer.from_str(json.dumps(j | {"post_processor": None}))
        contents = [a["content"] for a in add] + EXTRA
        cases = []
        for s in r.sample(TEXTS, 6) + [generated(r, contents, 4) for _ in range(2)] + (TEXTS[-2:] if base == "lead" else []) + (TEXTS[11:14] if norm else []) + ([TEXTS[5]] if "behavior" in name else []) + TEXTS[15:19]:
            e = expected(bare, s)
            p, w = expected(bare, s, special=False), expected(t, s, around=True)
            if not e or not p: continue
            starts, special = char_starts(s), {a["id"] for a in add if a["special"] and a["content"] != kw.get("unk_token")}
            c = {"text": s, "ids": e.ids, "at": [x for a, b in e.offsets for x in (starts[a], starts[b])], "decoded": t.decode(e.ids, skip_special_tokens=False)}
            if p.ids != e.ids and special.isdisjoint(p.ids): c["plain"] = p.ids
            if po and w: c["around"] = w.ids
            if base == "few" or name == "unk each": del c["at"]
            if c["decoded"] == s: del c["decoded"]
            cases.append(c)
        out.append({"name": name, "base": base, "flags": kw, "pre_tokenizer": pre, "normalizer": norm, "decoder": dec, "post_processor": po, "added_tokens": add, "cases": cases})
    models_ = {k: {"vocab": v, "merges": [" ".join(x) for x in m]} for k, (v, m) in models_.items()}
    body = ",\n".join(json.dumps(x, separators=(",", ":")) for x in out)
    open("tests/golden/tok_cases.json", "w").write('{"made_with":%s,"models":%s,"files":[\n%s\n]}\n' % (
        json.dumps({"tokenizers": tokenizers.__version__}), json.dumps(models_, separators=(",", ":")), body))

if __name__ == "__main__": main()
