#!/usr/bin/env python3
"""Headers of safetensors files and JSON texts, random and damaged, by the reference libraries and by our readers (tests/vec_adapter).

    bytes_equal.py ADAPTER [--count 4000] [--seed 1] [--show 20]

safetensors: both accept the same files, with the same tensors; but names that occur twice, and integers beyond 63 bits, are refused by us alone. JSON: what
Python reads strictly (objects without repeated keys and NUL in keys, integers of 64 bits, finite numbers, UTF-8, no lone surrogates) is read with
equal values, all else refused; doubles are printed as Python prints them, or so that they read back equal. Exit status 0 when all
agree, 77 when safetensors is not installed."""
import argparse, base64, json, math, random, struct, subprocess, sys
try:
    from safetensors import deserialize
except ImportError:
    print("skipped: safetensors is not installed"); sys.exit(77)

DTYPES = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16,
          "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64}
NAMES = ["a", "b", "w.0", "größe", "日", "", " ", "x\"y", "tab\t", "model.layers.0.self_attn.q_proj.weight", "😀", "__metadata", "\u2028", "a/b", "\x7f"]
ODD = ["-0", "0.0", "1e0", "1E2", "-1", "18446744073709551615", "18446744073709551616", "9223372036854775808", "4294967296", "1.5", "null", "true", '"1"', "[]", "{}", "01", "+1", "0x1", "1_0", "[1]", '"F32"', "1e400", "-0.0", "NaN", "00", " 1 ", "2", "0", "8", "16"]

def entry(r, begin):
    while True:
        t = r.choice(list(DTYPES)); shape = [r.choice([0, 1, 2, 3, 4, 8, 16]) for _ in range(r.choice([0, 1, 1, 2, 2, 3]))]
        bits = math.prod(shape) * DTYPES[t]
        if bits % 8 == 0: return t, shape, begin, begin + bits // 8

def spell(r, s):
    if r.random() < 0.85: return json.dumps(s, ensure_ascii=r.random() < 0.5)
    return '"' + "".join(f"\\u{ord(c):04x}" if ord(c) < 0x10000 and r.random() < 0.7 else json.dumps(c)[1:-1] for c in s) + '"'

def blank(r): return r.choice(["", "", "", "", " ", "\n", "\t ", "\r\n"])

def header(r):
    names, at, parts = r.sample(NAMES, r.choice([0, 1, 2, 3, 5])), 0, []
    for name in names:
        t, shape, a, b = entry(r, at); at = b
        fields = [f'"dtype":{blank(r)}{spell(r, t)}', f'"shape":[{",".join(map(str, shape))}]', f'"data_offsets":[{a},{b}]']
        if r.random() < 0.5: r.shuffle(fields)
        if r.random() < 0.1: fields.insert(r.randrange(4), r.choice(['"more":1', '"x":{"y":[1,2,{"z":null}]}', '"dtype":"F32"', '"Dtype":"U8"', '"shape":[1]', '"f":1.5e3', '"g":"\\ud83d\\ude00"', '"k":-7']))
        body = "{" + (blank(r) + "," + blank(r)).join(fields) + blank(r) + "}"
        if r.random() < 0.03: body = f"[{json.dumps(t)},{json.dumps(shape)},[{a},{b}]]"
        parts.append(f"{spell(r, name)}:{blank(r)}{body}")
    if r.random() < 0.3: r.shuffle(parts)
    if r.random() < 0.3: parts.insert(r.randrange(len(parts) + 1), '"__metadata__":' + r.choice(["{}", '{"format":"pt"}', "null", '{"a":"b","c":"d"}', '{"a":1}', '{"a":null}', "[]", '"x"', '{"a":"\\n"}', '{"a":{"b":"c"}}', '{"a":"b","a":"c"}', "1"]))
    if r.random() < 0.03 and parts: parts.append(r.choice(parts))
    return "{" + ",".join(parts) + "}" + r.choice(["", "", " ", "   ", "\n", "\0", "x", "\t\r\n"][:8 if r.random() < 0.2 else 4]), at

def damaged(r, h):
    k = r.randrange(8)
    if k == 0 and h: i = r.randrange(len(h)); return h[:i] + h[i + 1:]
    if k == 1 and h: i = r.randrange(len(h)); return h[:i] + r.choice('{}[],:"0123456789-. \\nutfe') + h[i + r.randrange(2):]
    if k in (2, 3, 4):
        import re
        spots = list(re.finditer(r"\d+", h))
        if spots: m = r.choice(spots); return h[:m.start()] + r.choice(ODD) + h[m.end():]
    if k == 5: return h.replace('"F32"', r.choice(['"f32"', '"F33"', '"F32 "', "1", "null"]), 1).replace('"dtype"', r.choice(['"dtype"', '"dtyp"', '"DTYPE"']), 1)
    if k == 6: return h.replace('"', r.choice(['"', "'", '\\"']), 1)
    return r.choice([" ", "\n", "\ufeff", "["]) + h

def file(r):
    h, n = header(r)
    if r.random() < 0.55: h = damaged(r, h)
    raw = h.encode()
    if r.random() < 0.03: raw = raw.replace(b'"', b'"\xff', 1)
    size = len(raw) + (r.choice([-1, 1, 8, -8, 2**32, 2**63, 100_000_000, 2**64 - 1 - len(raw)]) if r.random() < 0.06 else 0)
    data = bytes(max(0, n + (r.choice([-1, 1, 7]) if r.random() < 0.05 else 0)))
    b = struct.pack("<Q", size % 2**64) + raw + data
    return b[:r.randrange(len(b) + 1)] if r.random() < 0.02 else b

def twice(text):
    found = []
    def pairs(p):
        if len(dict(p)) != len(p): found.append(1)
        return dict(p)
    try: json.loads(text, object_pairs_hook=pairs)
    except ValueError: pass
    return bool(found)

def safetensors(r, ask):
    b = file(r)
    try: want = {k: [v["dtype"], list(v["shape"]), len(v["data"])] for k, v in deserialize(b)}
    except Exception: want = None
    g = ask({"op": "safetensors", "bytes": base64.b64encode(b).decode()})
    got = {t[0]: t[1:] for t in g["tensors"]} if g["accept"] else None
    if got is None and want is not None and twice(b[8:8 + int.from_bytes(b[:8], "little")]): return True, None
    if "bad JSON: too big" in g.get("error", ""): return True, None  # beyond int64, where another dimension is 0
    return got == want, (b[:400], g, want)

def value(r, depth):
    k = r.randrange(9 if depth else 7)
    if k == 0: return r.choice(["null", "true", "false"])
    if k == 1: return str(r.choice([0, 1, -1, 2**31, -2**63, 2**63 - 1, r.randrange(-2**63, 2**63), 2**53 + 1]))
    if k == 2: return repr(struct.unpack("d", struct.pack("Q", r.getrandbits(64)))[0])
    if k == 3: return r.choice(["1e5", "1E+5", "-0.0", "0.1", "1e-400", "5e-324", "1.7976931348623157e308", "123456789012345678.0", "0e0", "1.00", "-1e-7"])
    if k == 4: return r.choice(["1e400", "-1e999", "9223372036854775808", "-9223372036854775809", "NaN", "Infinity", "01", "1.", ".5", "+1", "--1", "1e", "tru", "nul", "'a'", "0x10", "1 2", "-"]) if r.random() < 0.1 else "7"
    if k <= 6: return text(r)
    sep = r.choice([",", ", ", " ,\n"])
    if k == 7: return "[" + sep.join(value(r, depth - 1) for _ in range(r.randrange(5))) + (r.choice([",", " ", "]"]) if r.random() < 0.03 else "") + "]"
    keys = [text(r) if r.random() < 0.7 else '"k%d"' % r.randrange(4) for _ in range(r.randrange(4))]
    return "{" + sep.join(x + r.choice([":", " : "]) + value(r, depth - 1) for x in keys) + (r.choice([",", "}", "{"]) if r.random() < 0.03 else "") + "}"
def text(r):
    return '"' + "".join(r.choice(["a", "é", "😀", "\\n", "\\/", "\\\"", "\\\\", "\\u00e9", "\\ud83d\\ude00", "\\u0000", "\x7f", "\u2028", "\\b\\f\\r\\t", "'"] + (["\\ud800", "\\udc00x", "\n", "\x01", "\\x41", "\\u12", "\\U0041"] if r.random() < 0.03 else [])) for _ in range(r.randrange(5))) + '"'

def strict(raw):
    def pairs(p):
        d = dict(p)
        if len(d) != len(p) or any("\0" in k for k in d): raise ValueError
        return d
    def whole(s):
        i = int(s)
        if not -2**63 <= i < 2**63: raise ValueError
        return i
    def real(s):
        f = float(s)
        if math.isinf(f): raise ValueError
        return f
    def no(s): raise ValueError
    v = json.loads(raw.decode(), object_pairs_hook=pairs, parse_int=whole, parse_float=real, parse_constant=no)
    json.dumps(v, ensure_ascii=False).encode()
    return v

def json_text(r, ask):
    raw = (r.choice(["", " ", "\n"]) + value(r, 4) + r.choice(["", " ", "\r\n\t"])).encode()
    if r.random() < 0.05 and raw: i = r.randrange(len(raw)); raw = raw[:i] + bytes([r.randrange(256)]) + raw[i + r.randrange(2):]
    try: want = [strict(raw)]
    except (ValueError, RecursionError): want = None
    g = ask({"op": "json", "bytes": base64.b64encode(raw).decode()})
    got = [g["value"]] if g["accept"] else None
    same = got == want and json.dumps(got) == json.dumps(want)
    return same, (raw[:400], g, want)

def main():
    p = argparse.ArgumentParser()
    p.add_argument("adapter"); p.add_argument("--count", type=int, default=4000); p.add_argument("--seed", type=int, default=1); p.add_argument("--show", type=int, default=20)
    a = p.parse_args()
    P = subprocess.Popen([a.adapter], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    def ask(q):
        P.stdin.write(json.dumps(q) + "\n"); P.stdin.flush()
        line = P.stdout.readline()
        if not line: sys.exit(f"the adapter stopped at {q}")
        return json.loads(line)
    failed = 0
    for name, one in (("safetensors", safetensors), ("json", json_text)):
        bad = taken = 0
        for i in range(a.count):
            ok, what = one(random.Random(f"{a.seed}-{name}-{i}"), ask)
            taken += bool(what and what[2] is not None)
            if ok: continue
            bad += 1
            if bad <= a.show: print(f"---- {name} {i}: {what[0]}\n  got  {str(what[1])[:300]}\n  want {str(what[2])[:300]}")
        print(f"{name}: {a.count - bad} of {a.count} agree, {taken} of them accepted")
        failed |= bad
    return failed != 0

if __name__ == "__main__": sys.exit(main())
