#!/usr/bin/env python3
"""Writes tests/golden/text_*: two small tokenizers trained by Hugging Face's `tokenizers` on text_train.txt (generated here,
all words ours), and the ids they give for mixed texts. Run from the project's root; versions go into text_ids.json."""
import json, random, tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SENTINELS = ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|principle|>", "<|critique|>",
             "<|verdict|>", "<|ok|>", "<|violates|>", "<|revision|>", "<|applies|>", "<|yes|>", "<|no|>", "<|option|>",
             "<|judge|>", "<|first|>", "<|second|>", "<|mask|>"]

def training_text(r):
    who = "the gardener|a baker|our neighbour|the old clock|every child|Mira|the quiet river|someone|the committee".split("|")
    did = "carried|mended|counted|promised|forgot|painted|answered|didn't notice|couldn't open|we've repaired".split("|")
    what = "the red gate|three baskets of pears|a letter|12 lanterns|1,048,576 grains|die große Brücke|le café fermé".split("|")
    when = "before noon|while it rained|at 07:45|in 1998|again and again|without a word|-- as agreed --".split("|")
    other = ["int main(void) {\n    return x[i++] != 0 ? a->b : -1;\n}\n", "for i in range(10):\n\tprint(f\"{i:>3}\")\n",
             "https://example.org/a?b=c&d=%20\n", "==========\n", "猫は庭で寝ている。", "Привет, мир! ", "naïve façade, señor; ",
             "   indented\n\n\n", "😀👍🏽 ok! ", "0123456789 3.14159 ", "AAAAaaaaBBBB ", "-----\n------\n"]
    out = []
    for _ in range(260):
        if r.random() < 0.25: out.append(r.choice(other))
        else: out.append(" ".join(r.choice(x) for x in (who, did, what, when)).capitalize() + r.choice([". ", ".\n", "! ", "?\n\n"]))
    return "".join(out)

def texts(r):
    t = ["", " ", "  ", "\n", "\t\n \r\n", "a", " a", "  a  ", "The gardener mended the red gate.", "don't DON'T we’ve 'S 'ſ 'll'll",
         "x = y[3]; // größer", "1234567 12 3 ½ ٣٤٥ Ⅷ", "猫は庭で寝ている。没有空格的长句子也要切开", "Привет, мир!", "नमस्ते दुनिया", "สวัสดีชาวโลก",
         "👩‍👩‍👧‍👦🏽🇩🇪❤️", "e\u0301 \u00e9 \u1e9b\u0323", "\u00a0\u3000\u2028\u180e \u200b\ufeff", "\x00\x01\x1b[0m\x7f\x85", "a\x00b",
         "\U00011f04\U00011f50\U00011f00 new \U000105c0 letters\U0002ebf0", "\U0010ffff\ufffe\ufffd", "a" * 39, "a" * 40, "a" * 41,
         "a" * 500, "=" * 300 + "x", "-=" * 200, "\n" * 77, " " * 99 + "x", "aB" * 70, "int main(void) { return 0; }\n" * 4,
         "<|endoftextt|>", "< |end|>", "<||>", "https://example.org/?q=%F0%9F%98%80#frag"]
    pools = [" \n\t\r\u00a0\u2003", "abcdefghijklmnopqrstuvwxyzABC '", "0123456789.,", "äöüßéèñçøåłşž", "абвгдежзий", "漢字仮名交文猫庭", "=-_*/#(){}[]<>",
             "😀👍🏽🇩🇪\u200d\ufe0f", "\u0301\u0308\u093f\u0e31", "".join(map(chr, range(32)))]
    for _ in range(40):
        s = []
        for _ in range(r.randrange(1, 12)):
            p = r.choice(pools)
            s.append("".join(r.choice(p) for _ in range(r.randrange(1, 9))))
        t.append("".join(s))
    return t

# Patterns as nobody should write them: gaps, empty matches, look-behind. Texts hold no invalid UTF-8.
ODD = [("x", "aaxbbx"), ("a*", "baac"), ("a*", "aabaa"), ("(?<=a)b", "abbab"), ("(?=b)", "abab"), (r"\b", "ab, cd"), ("^", "a\nb\n\nc"),
       ("$", "a\nb\n"), (r"[^\s]+", "a\u180eb\u2003c"), (r"\S+|\s", "a\u180e \u0085b"), ("", "añb"), (r"\p{Lu}\p{Ll}*", "AbcDÉé\ua7cb\ua7cd"),
       (r"\p{L}+", "a\U00031350b1"), (r"[\p{N}x]+", "1x\U00010d40y"), (r"\P{L}+", "a\U00031350 1b"), (r"\p{Lo}+|\p{Lm}+", "\U0001611c\U0001e030a\U00016d40"), (r"\p{S}+", "a\U0001fae9+"), (r"[^\p{M}]+", "e\u0301\u0897e"),
       (r"(?i:ß|k)", "ẞ\u212aKk"), ("[]a]+", "b]a]b"), (r"[\]\[]+", "a[]b"), ("é|🦊", "xé🦊é")]

def pieces(split, text):
    return [len(text[a:b].encode()) for _, (a, b) in split.pre_tokenize_str(text)]

def main():
    r = random.Random(20)
    train = training_text(r)
    open("tests/golden/text_train.txt", "w", encoding="utf-8", newline="").write(train)
    cases = [{"text": t} for t in texts(r)]
    info = {"tokenizers": tokenizers.__version__}
    byte_level = pre_tokenizers.ByteLevel
    for name, n, ignore in (("gpt2", 420, False), ("llama3", 700, True)):
        t = Tokenizer(models.BPE())
        t.pre_tokenizer = byte_level(add_prefix_space=False) if name == "gpt2" else pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(LLAMA3), "isolated"), byte_level(add_prefix_space=False, use_regex=False)])
        t.decoder = decoders.ByteLevel()
        t.train_from_iterator([train], trainers.BpeTrainer(vocab_size=n, special_tokens=SENTINELS, show_progress=False,
                                                           initial_alphabet=byte_level.alphabet()))
        if name == "llama3":
            # A word merging does not lead to: with ignore_merges a piece that is the word becomes it all the same.
            j = json.loads(t.to_str())
            j["model"]["vocab"]["Ġlanternzz"] = n
            j["model"]["ignore_merges"] = ignore
            t = Tokenizer.from_str(json.dumps(j))
            t.add_tokens([AddedToken(s, normalized=False) for s in ("<tool>", "<tool><tool>", "==")] + ["gate", "x="])
            cases += [{"text": s} for s in ("x<tool><tool><tool>y", "the gate==gate=", "x==x=", " lanternzz lanternzz", "<tool >gates")]
        open(f"tests/golden/text_{name}.json", "w", encoding="utf-8").write(t.to_str() + "\n")
        for c in cases: c[name] = t.encode(c["text"], add_special_tokens=False).ids
    for c in cases:  # those appended for the second tokenizer
        if "gpt2" not in c: c["gpt2"] = Tokenizer.from_file("tests/golden/text_gpt2.json").encode(c["text"]).ids
    isolated = lambda pattern: pre_tokenizers.Split(Regex(pattern), "isolated")
    for c in cases: c["pieces_gpt2"] = pieces(isolated(GPT2), c["text"]); c["pieces_llama3"] = pieces(isolated(LLAMA3), c["text"])
    odd = [{"pattern": p, "text": t, "pieces": pieces(isolated(p), t)} for p, t in ODD]
    body = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
    open("tests/golden/text_ids.json", "w").write('{"made_with":%s,"odd":%s,"cases":[\n%s\n]}\n' % (json.dumps(info), json.dumps(odd), body))

if __name__ == "__main__": main()
