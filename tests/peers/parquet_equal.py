#!/usr/bin/env python3
"""Our Parquet reader against pyarrow: random schemas, values, codecs, encodings and page layouts are written by pyarrow, and
what `dikast data show` prints must be the rows, value for value.

    python tests/peers/parquet_equal.py build/dev/dikast [--files 1000] [--seed 1] [--keep FOLDER] [--goldens FOLDER]

--goldens writes the small files that tests/golden/parquet holds, with their rows beside them, and stops. Exit status 0 when
all agree, 1 when not, 77 when pyarrow is not installed."""
import argparse, datetime as dt, decimal, json, math, os, random, subprocess, sys, tempfile
try:
    import pyarrow as pa, pyarrow.parquet as pq
except ImportError:
    print("skipped: pyarrow is not installed"); sys.exit(77)

WORDS = "answer better safe kind promise größe 日本 слово 😀 a  \n \" \\ \t".split(" ")
UNIT = {"s": 0, "ms": 3, "us": 6, "ns": 9}
EPOCH = dt.datetime(1970, 1, 1)

def text(r, most=8): return " ".join(r.choice(WORDS) for _ in range(r.randrange(most + 1)))
def same_or(r, make):
    """Values that repeat, so that dictionaries and runs are used."""
    pool = [make() for _ in range(r.choice([1, 2, 5, 40]))]
    return lambda: r.choice(pool) if r.random() < 0.8 else make()

def fraction(ns): return "" if ns == 0 else f".{ns:09d}" if ns % 1000 else f".{ns // 1000:06d}"
def stamp_text(v, unit, tz):
    d = 10 ** UNIT[unit]; s, rest = v // d, v % d
    return (EPOCH + dt.timedelta(seconds=s)).isoformat() + fraction(rest * 10 ** (9 - UNIT[unit])) + ("+00:00" if tz else "")
def time_text(v, unit):
    d = 10 ** UNIT[unit]; s, rest = v // d, v % d
    return f"{s // 3600:02d}:{s // 60 % 60:02d}:{s % 60:02d}" + fraction(rest * 10 ** (9 - UNIT[unit]))
def decimal_json(v, scale):
    t = str(v.quantize(decimal.Decimal(1).scaleb(-scale), context=decimal.Context(prec=80))) if scale else str(int(v))
    return int(t) if scale == 0 and len(t) <= 18 else float(t)
def float_json(v): return v if math.isfinite(v) else None

def leaf(r, coarse_ns, int96):
    """(type, a function that makes (value for pyarrow, value as JSON))"""
    k = r.randrange(19)
    ints = {0: (pa.int8(), -2**7, 2**7), 1: (pa.int16(), -2**15, 2**15), 2: (pa.int32(), -2**31, 2**31), 3: (pa.int64(), -2**63, 2**63),
            4: (pa.uint8(), 0, 2**8), 5: (pa.uint16(), 0, 2**16), 6: (pa.uint32(), 0, 2**32), 7: (pa.uint64(), 0, 2**63)}
    if k in ints:
        t, lo, hi = ints[k]
        step = r.choice([0, 1, 7, 1000]); at = [r.randrange(lo, hi)]
        def value():
            if step and r.random() < 0.9: at[0] = (at[0] + r.randrange(-step, step + 1) - lo) % (hi - lo) + lo
            else: at[0] = r.choice([lo, hi - 1, r.randrange(lo, hi), max(lo, 0)])
            return at[0]
        return t, lambda: (lambda v: (v, v))(value())
    if k == 8: return pa.bool_(), lambda: (lambda v: (v, v))(r.random() < 0.5)
    if k == 9:
        import struct
        return pa.float32(), lambda: (lambda v: (v, float_json(v)))(struct.unpack("f", struct.pack("f", r.choice([0.1, -2.5, 1e30, math.inf, r.gauss(0, 1)])))[0])
    if k == 10: return pa.float64(), lambda: (lambda v: (v, float_json(v)))(r.choice([0.1, -0.0, 5e-324, 1e308, math.nan, r.gauss(0, 1), float(r.randrange(10))]))
    if k in (11, 12): 
        g = same_or(r, lambda: text(r, r.choice([3, 20])))
        return (pa.string() if k == 11 else pa.large_string()), lambda: (lambda v: (v, v))(g())
    if k == 13:
        g = same_or(r, lambda: text(r)); return pa.binary(), lambda: (lambda v: (v.encode(), v))(g())
    if k == 14:
        n = r.choice([1, 4, 20]); g = same_or(r, lambda: "".join(r.choice("abc~ 0") for _ in range(n)))
        return pa.binary(n), lambda: (lambda v: (v.encode(), v))(g())
    if k == 15:
        p = r.choice([1, 5, 9, 10, 18, 19, 30, 38, 60]); s = r.randrange(0, p + 1)
        t = pa.decimal256(p, s) if p > 38 or r.random() < 0.2 else pa.decimal128(p, s)
        def value():
            v = decimal.Decimal(r.randrange(-10**p + 1, 10**p)).scaleb(-s, context=decimal.Context(prec=80)); return v, decimal_json(v, s)
        return t, value
    if k == 16: return pa.date32(), lambda: (lambda d: (d, d.isoformat()))(dt.date.fromordinal(r.randrange(1, dt.date.max.toordinal())))
    if k == 17:
        u = r.choice(list(UNIT)); tz = r.choice([None, "UTC"]); zone = tz and not int96; d = 10 ** UNIT[u]
        span = (-9 * 10**9, 9 * 10**9) if u == "ns" else (-60 * 10**9, 250 * 10**9)
        def value():
            v = r.randrange(*span) * d + r.choice([0, r.randrange(d)])
            if u == "ns" and coarse_ns: v -= v % 1000
            return v, stamp_text(v, u, zone)
        return pa.timestamp(u, tz), value
    u = r.choice(list(UNIT)); d = 10 ** UNIT[u]
    t = pa.time32(u) if u in ("s", "ms") else pa.time64(u)
    def value():
        v = r.randrange(86400) * d + r.randrange(d)
        if u == "ns" and coarse_ns: v -= v % 1000
        return v, time_text(v, u)
    return t, value

def maybe(r, make, share): return lambda: (None, None) if r.random() < share else make()

def any_type(r, depth, how):
    """(field arguments, maker): nullable and its share of nulls are drawn too."""
    k = r.random()
    if depth <= 0 or k < 0.45: t, make = leaf(r, *how)
    elif k < 0.7:
        inner, f, nullable = field(r, depth - 1, how)
        most = r.choice([0, 1, 3, 8]); kind = r.choice([pa.list_, pa.large_list])
        t = kind(pa.field("element", inner, nullable=nullable))
        def make():
            v = [f() for _ in range(r.randrange(most + 1))]; return [x for x, _ in v], [y for _, y in v]
    elif k < 0.9:
        names = r.sample(["role", "content", "a", "b", "größe", "x.y", "list", "element", "array"], r.randrange(1, 5))
        parts = [field(r, depth - 1, how) for _ in names]
        t = pa.struct([pa.field(n, p[0], nullable=p[2]) for n, p in zip(names, parts)])
        def make():
            v = [p[1]() for p in parts]; return {n: x for n, (x, _) in zip(names, v)}, {n: y for n, (_, y) in zip(names, v)}
    else:
        inner, f, nullable = field(r, depth - 1, how)
        whole = r.random() < 0.4
        t = pa.map_(pa.int32() if whole else pa.string(), pa.field("value", inner, nullable=nullable))
        def make():
            keys = r.sample(range(-5, 20), r.randrange(5)) if whole else r.sample("abcdefgh", r.randrange(5))
            v = [(x, f()) for x in keys]; return [(x, y[0]) for x, y in v], {str(x): y[1] for x, y in v}
    return t, make

def field(r, depth, how):
    t, make = any_type(r, depth, how)
    share = r.choice([0, 0, 0.1, 0.5, 1])
    nullable = share > 0 or r.random() < 0.6
    return t, maybe(r, make, share) if nullable else make, nullable

def leaves(t, path):
    if pa.types.is_struct(t):
        for i in range(t.num_fields): yield from leaves(t.field(i).type, path + [t.field(i).name])
    elif pa.types.is_map(t):
        yield from leaves(t.key_type, path + ["key_value", "key"]); yield from leaves(t.item_type, path + ["key_value", "value"])
    elif pa.types.is_list(t) or pa.types.is_large_list(t): yield from leaves(t.value_type, path + ["list", "element"])
    else: yield path, t

def encodings(r, schema):
    out = {}
    for f in schema:
        for path, t in leaves(f.type, [f.name]):
            options = ["PLAIN"]
            if pa.types.is_integer(t) or pa.types.is_date(t) or pa.types.is_time(t) or pa.types.is_timestamp(t): options += ["DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT"]
            if pa.types.is_string(t) or pa.types.is_large_string(t) or (pa.types.is_binary(t) and not pa.types.is_fixed_size_binary(t)): options += ["DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"]
            if pa.types.is_fixed_size_binary(t): options += ["DELTA_BYTE_ARRAY", "BYTE_STREAM_SPLIT"]
            if pa.types.is_floating(t): options += ["BYTE_STREAM_SPLIT"]
            if pa.types.is_boolean(t): options += ["RLE"]
            if any("." in p for p in path): continue
            out[".".join(path)] = r.choice(options)
    return out

def make_file(path, r):
    version = r.choice(["1.0", "2.4", "2.6", "2.6"])
    int96 = version == "1.0" and r.random() < 0.5
    fields = [field(r, r.choice([0, 0, 1, 2, 3]), (version != "2.6" or int96, int96)) for _ in range(r.randrange(1, 6))]
    names = r.sample(["prompt", "messages", "id", "score", "b c", "日", "q"], len(fields))
    schema = pa.schema([pa.field(n, f[0], nullable=f[2]) for n, f in zip(names, fields)])
    n = r.choice([0, 1, 2, 10, 60, 300, 300, 2000])
    rows = [[f[1]() for f in fields] for _ in range(n)]
    table = pa.Table.from_arrays([pa.array([row[i][0] for row in rows], f[0]) for i, f in enumerate(fields)], schema=schema)
    kw = dict(version=version, compression=r.choice(["NONE", "SNAPPY", "GZIP", "ZSTD", "LZ4"]), data_page_version=r.choice(["1.0", "2.0"]),
              data_page_size=r.choice([1, 64, 1000, 2**20]), write_batch_size=r.choice([1, 7, 64, 1024]), write_page_checksum=r.random() < 0.5,
              store_schema=r.random() < 0.5, write_statistics=r.random() < 0.7, use_deprecated_int96_timestamps=int96,
              use_compliant_nested_type=r.random() < 0.8, row_group_size=r.choice([1 + n // 7, 50, 2**20]))
    if r.random() < 0.5 and kw["use_compliant_nested_type"]: kw.update(use_dictionary=False, column_encoding=encodings(r, schema))
    else: kw.update(use_dictionary=r.random() < 0.8, dictionary_pagesize_limit=r.choice([1, 50, 500, 2**20]))
    try: pq.write_table(table, path, **kw)
    except (pa.ArrowNotImplementedError, OSError, pa.ArrowInvalid): # an encoding it does not write for that type
        kw.pop("column_encoding", None)
        pq.write_table(table, path, **kw)
    return [{name: v for name, (_, v) in zip(names, row)} for row in rows], kw

def equal(a, b):
    if type(a) is not type(b): return False
    if isinstance(a, dict): return list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list): return len(a) == len(b) and all(map(equal, a, b))
    return a == b and (not isinstance(a, float) or math.copysign(1, a) == math.copysign(1, b))

def show(program, path):
    p = subprocess.run([program, "data", "show", path], capture_output=True)
    return p.returncode, p.stdout, p.stderr.decode(errors="replace")

def goldens(folder):
    """Small files with one thing each; committed, so that the tests need no pyarrow."""
    os.makedirs(folder, exist_ok=True); r = random.Random(5)
    msgs = [{"messages": [{"role": a, "content": text(r)} for a in ["user", "assistant"] * r.randrange(1, 3)], "tags": [r.choice(WORDS) for _ in range(r.randrange(4))]} for _ in range(12)]
    pref = [{"prompt": text(r), "chosen": text(r) + " yes", "rejected": text(r) + " no", "margin": round(r.random(), 3), "id": i} for i in range(30)]
    null = [{"prompt": r.choice([None, "", "x"]), "tags": r.choice([None, [], ["a", None], ["b"]]), "m": r.choice([None, {"role": "user", "content": None}])} for _ in range(20)]
    nul_t = pa.schema([("prompt", pa.string()), ("tags", pa.list_(pa.string())), ("m", pa.struct([("role", pa.string()), ("content", pa.string())]))])
    maps = [{"m": dict((c, i) for c in r.sample("abc", r.randrange(4))), "v": [[r.randrange(9) for _ in range(r.randrange(3))] for _ in range(r.randrange(3))]} for i in range(10)]
    map_t = pa.schema([("m", pa.map_(pa.string(), pa.int32())), ("v", pa.list_(pa.list_(pa.int64())))])
    def save(name, rows, schema=None, **kw):
        t = pa.Table.from_pylist([{k: list(v.items()) if k == "m" and schema is map_t else v for k, v in x.items()} for x in rows], schema=schema)
        pq.write_table(t, f"{folder}/{name}.parquet", store_schema=False, **kw)
        with open(f"{folder}/{name}.jsonl", "w", encoding="utf-8") as f: f.writelines(json.dumps(x, ensure_ascii=False) + "\n" for x in rows)
    save("messages_snappy", msgs); save("messages_v2_zstd", msgs, compression="ZSTD", data_page_version="2.0", data_page_size=64, write_batch_size=2)
    save("pref_gzip_groups", pref, compression="GZIP", row_group_size=11); save("pref_lz4_plain", pref, compression="LZ4", use_dictionary=False)
    save("pref_delta", pref, compression="NONE", use_dictionary=False, write_page_checksum=True, column_encoding={"prompt": "DELTA_LENGTH_BYTE_ARRAY", "chosen": "DELTA_BYTE_ARRAY", "rejected": "PLAIN", "margin": "BYTE_STREAM_SPLIT", "id": "DELTA_BINARY_PACKED"})
    save("nulls", null, nul_t, row_group_size=7); save("maps_and_lists", maps, map_t)
    save("dictionary_overflows", [{"t": f"row {i} " + "x" * 20} for i in range(100)], dictionary_pagesize_limit=300, write_batch_size=10)
    save("bad_codec", pref[:3], compression="BROTLI")

# ---- files that pyarrow reads but does not write: old layouts of lists, old levels, and claims that are too large
def varint(v):
    out = b""
    while v >= 128: out += bytes([v & 127 | 128]); v >>= 7
    return out + bytes([v])
def thrift(fields):
    """{id: value}: bool, int (i32; ("i64", v)), str or bytes, list of those or of dicts, dict"""
    kind = lambda v: 1 if v is True else 2 if v is False else 5 if isinstance(v, int) else 6 if isinstance(v, tuple) else 8 if isinstance(v, (str, bytes)) else 9 if isinstance(v, list) else 12
    def body(v):
        if isinstance(v, bool): return b""
        if isinstance(v, tuple): v = v[1]
        if isinstance(v, int): return varint(v << 1 if v >= 0 else (-v << 1) - 1)
        if isinstance(v, str): v = v.encode()
        if isinstance(v, bytes): return varint(len(v)) + v
        if isinstance(v, list): return (bytes([len(v) << 4 | kind(v[0])]) if len(v) < 15 else bytes([0xF0 | kind(v[0])]) + varint(len(v))) + b"".join(map(body, v))
        return thrift(v)
    out, before = b"", 0
    for k, v in fields.items(): out += bytes([(k - before) << 4 | kind(v)]) + body(v); before = k
    return out + b"\0"
def runs(v, count): return varint(count << 1) + bytes([v])
def hybrid(levels): return b"".join(runs(v, 1) for v in levels)
def packed(levels, width):
    """BIT_PACKED: the highest bit first"""
    bits = "".join(f"{v:0{width}b}" for v in levels); bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")
def plain(values): return b"".join(len(v).to_bytes(4, "little") + v.encode() for v in values)
def by_hand(path, schema, columns, n_row):
    """columns: (path, number of triples, encoding of levels, bytes of the page, dictionary page or None)"""
    data, chunks = b"PAR1", []
    for names, n, level_encoding, page, dictionary in columns:
        at = dict_at = len(data)
        if dictionary: data += thrift({1: 2, 2: len(dictionary[1]), 3: len(dictionary[1]), 7: {1: dictionary[0], 2: 0}}) + dictionary[1]; at = len(data)
        data += thrift({1: 0, 2: len(page), 3: len(page), 5: {1: n, 2: 2 if dictionary else 0, 3: level_encoding, 4: level_encoding}}) + page
        meta = {1: 6, 2: [0, 3], 3: names, 4: 0, 5: ("i64", n), 6: ("i64", len(data) - dict_at), 7: ("i64", len(data) - dict_at), 9: ("i64", at)}
        if dictionary: meta[11] = ("i64", dict_at)
        chunks.append({2: ("i64", dict_at), 3: meta})
    footer = thrift({1: 1, 2: schema, 3: ("i64", n_row), 4: [{1: chunks, 2: ("i64", len(data)), 3: ("i64", n_row)}]})
    open(path, "wb").write(data + footer + len(footer).to_bytes(4, "little") + b"PAR1")
REQUIRED, OPTIONAL, REPEATED = 0, 1, 2
def group(name, repetition, n, converted=None):
    return {3: repetition, 4: name, 5: n} | ({6: converted} if converted is not None else {})
def column(name, repetition): return {1: 6, 3: repetition, 4: name, 6: 0}
def levels(*parts): return b"".join(len(p).to_bytes(4, "little") + p for p in parts)

def hand_made(folder):
    root = lambda n: {4: "schema", 5: n}
    def save(name, rows, *a, check=True):
        by_hand(f"{folder}/{name}.parquet", *a)
        with open(f"{folder}/{name}.jsonl", "w", encoding="utf-8") as f: f.writelines(json.dumps(x) + "\n" for x in rows)
        got = pq.read_table(f"{folder}/{name}.parquet").to_pylist() if check else rows
        if got != rows: sys.exit(f"{name}: pyarrow reads {got}")
    # a bare repeated field, and a list whose repeated field is the entry itself
    page = levels(hybrid([0, 1, 0, 0]), hybrid([1, 1, 0, 1])) + plain(["a", "b", "c"])
    save("hand_repeated", [{"v": ["a", "b"]}, {"v": []}, {"v": ["c"]}], [root(1), column("v", REPEATED)], [(["v"], 4, 3, page, None)], 3)
    page = levels(hybrid([0, 1, 0, 0, 0]), hybrid([2, 2, 1, 0, 2])) + plain(["a", "b", "c"])
    save("hand_two_levels", [{"v": ["a", "b"]}, {"v": []}, {"v": None}, {"v": ["c"]}], [root(1), group("v", OPTIONAL, 1, 3), column("array", REPEATED)], [(["v", "array"], 5, 3, page, None)], 4)
    # a repeated group of one field that is the entry because of its name, and one of two fields
    page = levels(hybrid([0, 1, 0]), hybrid([2, 1, 0])) + plain(["a"])
    save("hand_tuple", [{"v": [{"s": "a"}, {"s": None}]}, {"v": []}], [root(1), group("v", REQUIRED, 1, 3), group("v_tuple", REPEATED, 1), column("s", OPTIONAL)], [(["v", "v_tuple", "s"], 3, 3, page, None)], 2)
    pages = [levels(hybrid([0, 1, 0]), hybrid([1, 1, 0])) + plain(v) for v in (["a", "b"], ["c", "d"])]
    save("hand_pairs", [{"v": [{"x": "a", "y": "c"}, {"x": "b", "y": "d"}]}, {"v": []}], [root(1), group("v", REQUIRED, 1, 3), group("list", REPEATED, 2), column("x", REQUIRED), column("y", REQUIRED)],
         [(["v", "list", n], 3, 3, p, None) for n, p in zip("xy", pages)], 2)
    # levels in the old encoding, without a length in front; pyarrow takes the lowest bit first, the format says the highest
    reps, defs = [0, 1, 1, 0, 0, 0], [3, 2, 3, 1, 0, 3]
    page = packed(reps, 1) + packed(defs, 2) + plain(["a", "b", "c"])
    save("hand_bit_packed", [{"v": ["a", None, "b"]}, {"v": []}, {"v": None}, {"v": ["c"]}], [root(1), group("v", OPTIONAL, 1, 3), group("list", REPEATED, 1), column("element", OPTIONAL)],
         [(["v", "list", "element"], 6, 4, page, None)], 4, check=False)
    # a list without end in one row, and rows without end of one long text
    many = 1 << 30
    by_hand(f"{folder}/bad_endless_row.parquet", [root(1), column("v", REPEATED)], [(["v"], many, 3, levels(runs(0, 1) + runs(1, many - 1), runs(1, many)) + b"\x00" + runs(0, many), (1, plain(["a"])))], 1)
    by_hand(f"{folder}/bad_endless_rows.parquet", [root(1), column("v", OPTIONAL)], [(["v"], many, 3, levels(runs(1, many)) + b"\x00" + runs(0, many), (1, plain(["x" * 3000])))], many)
    by_hand(f"{folder}/bad_shapes.parquet", [root(1), group("v", REQUIRED, 1, 3), group("list", REPEATED, 2), column("x", REQUIRED), column("y", REQUIRED)],
            [(["v", "list", "x"], 3, 3, pages[0], None), (["v", "list", "y"], 3, 3, levels(hybrid([0, 0, 1]), hybrid([1, 1, 1])) + plain(["a", "b", "c"]), None)], 2)

def main():
    a = argparse.ArgumentParser(); a.add_argument("program"); a.add_argument("--files", type=int, default=1000)
    a.add_argument("--seed", type=int, default=1); a.add_argument("--keep"); a.add_argument("--goldens")
    a = a.parse_args()
    if a.goldens: goldens(a.goldens); hand_made(a.goldens); return 0
    folder = a.keep or tempfile.mkdtemp(); os.makedirs(folder, exist_ok=True); path = os.path.join(folder, "t.parquet")
    bad = n_row = n_byte = 0
    print(f"pyarrow {pa.__version__}, seed {a.seed}, {a.files} files in {folder}")
    for i in range(a.files):
        want, kw = make_file(path, random.Random(f"{a.seed}-{i}"))
        code, out, err = show(a.program, path)
        n_row += len(want); n_byte += os.path.getsize(path)
        got = [json.loads(x) for x in out.decode().splitlines()] if code == 0 else None
        if got is not None and equal(got, want): continue
        bad += 1
        os.rename(path, os.path.join(folder, f"bad{i}.parquet"))
        k = next((k for k, (x, y) in enumerate(zip(got or [], want)) if not equal(x, y)), 0)
        print(f"file {i}: exit {code} {err.strip()[:300]}\n  {kw}\n  got  {str(got[k])[:300] if got else None}\n  want {str(want[k])[:300] if want else None}")
        if bad >= 10: break
    print(f"{i + 1 - bad} of {i + 1} files agree, {n_row} rows, {n_byte} bytes")
    return bad > 0

if __name__ == "__main__": sys.exit(main())
