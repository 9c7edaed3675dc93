#!/usr/bin/env python3
"""Our rows of CSV and TSV files, plain and compressed, against Python's csv module, gzip and zstd.

    csv_equal.py DIKAST [--files 300] [--seed 1]

Random cells in every quoting style of the writer, both line ends, byte order marks, blank lines, a last line without an end; then
gzip members and zstd frames, one or many cut anywhere, with empty ones, skippable frames and padding between them. JSON lines go
through the same containers. Exit status 0 when all rows agree, 77 when pyarrow (which writes zstd) is not installed."""
import argparse, csv, gzip, io, json, os, random, subprocess, sys, tempfile
try:
    import pyarrow as pa
except ImportError:
    print("skipped: pyarrow is not installed"); sys.exit(77)

PIECES = ["a", "word", "größe", "日本", "😀", '"', '""', ",", "\t", "\n", "\r\n", "\r", " ", "  ", ";", "'", "\\", "\\n", "#", "0", "1.5", "null", "{}", "[1]", "=x", "\u2028", "\u0085", "\x0b", "\x0c", "\x1c", "\ufeff", "x" * 300, "-", "|", "\x01", "\x7f"]
NAMES = ["alpha", "b c", "größe", "日", "x,y", 'q"q', "text", "prompt", "note", "e\nf", "name;", "\u00a0n"]

def cell(r): return "".join(r.choice(PIECES) for _ in range(r.choice([0, 1, 1, 2, 3, 8])))

def table(r):
    names = r.sample(NAMES, r.randrange(1, 6))
    return names, [[cell(r) for _ in names] for _ in range(r.choice([0, 1, 2, 7, 40, 300]))]

def written(r, names, rows, tab):
    f = io.StringIO(newline="")
    end = r.choice(["\n", "\r\n"])
    style = r.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
    w = csv.writer(f, delimiter="\t" if tab else ",", quoting=style, lineterminator=end)
    if style == csv.QUOTE_MINIMAL: # a lone CR outside quotes: text for us, an end for Python's reader, not quoted by its writer before 3.13
        rows = [[x.replace("\r\n", "\n").replace("\r", "") for x in row] for row in rows]
    for row in [names] + rows:
        w.writerow(row)
        if r.random() < 0.05: f.write(end * r.randrange(1, 4))
    s = f.getvalue()
    if r.random() < 0.3 and s.endswith(end): s = s[:-len(end)]
    return ("\ufeff" if r.random() < 0.3 else "") + s

def expected(s, tab):
    rows = [x for x in csv.reader(io.StringIO(s.removeprefix("\ufeff"), newline=""), delimiter="\t" if tab else ",", strict=True) if x]
    return [dict(zip(rows[0], x)) for x in rows[1:]]

def packed(r, data):
    kind = r.choice(["", "gz", "zst"])
    if not kind: return data, ""
    cuts = sorted(r.randrange(len(data) + 1) for _ in range(r.choice([0, 1, 4, 20])))
    parts = [data[a:b] for a, b in zip([0] + cuts, cuts + [len(data)])]
    out = b""
    for p in parts:
        if kind == "gz": out += gzip.compress(p, r.choice([1, 6, 9]), mtime=0)
        else:
            codec = pa.Codec("zstd", compression_level=r.choice([1, 3, 12]))
            if r.random() < 0.2: n = r.randrange(40); out += (0x184D2A50 + r.randrange(16)).to_bytes(4, "little") + n.to_bytes(4, "little") + bytes(n)
            if p or r.random() < 0.5: out += codec.compress(p, asbytes=True)
    if kind == "gz" and r.random() < 0.2: out += bytes(r.randrange(1, 512))
    return out, "." + kind

def main():
    p = argparse.ArgumentParser()
    p.add_argument("dikast"); p.add_argument("--files", type=int, default=300); p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    bad = n_row = 0
    with tempfile.TemporaryDirectory() as work:
        for i in range(a.files):
            r = random.Random(f"{a.seed}-{i}")
            names, rows = table(r)
            kind = r.choice(["csv", "csv", "tsv", "jsonl"])
            if kind == "jsonl":
                want = [dict(zip(names, x)) for x in rows]
                end = r.choice(["\n", "\r\n"])
                s = "".join(json.dumps(x, ensure_ascii=r.random() < 0.5) + end * r.choice([1, 1, 1, 2]) for x in want)
            else:
                s = written(r, names, rows, kind == "tsv")
                want = expected(s, kind == "tsv")
            data, ending = packed(r, s.encode())
            path = os.path.join(work, f"t.{kind}{ending}")
            open(path, "wb").write(data)
            q = subprocess.run([a.dikast, "data", "show", path], capture_output=True)
            got = [json.loads(x) for x in q.stdout.decode().split("\n") if x] if q.returncode == 0 else None
            os.remove(path)
            n_row += len(want)
            if got == want: continue
            if not want and q.returncode == 3 and not rows: continue  # an empty file of lines is an error of ours
            bad += 1
            k = next((k for k, (x, y) in enumerate(zip(got or [], want)) if x != y), 0)
            print(f"file {i} {kind}{ending}: exit {q.returncode} {q.stderr.decode()[:300]}\n  got  {len(got or [])} {ascii(got[k:k + 1]) if got else None}\n  want {len(want)} {ascii(want[k:k + 1])}\n  text {ascii(s[:200])}")
            if bad >= 10: break
    print(f"{a.files - bad} of {a.files} files agree, {n_row} rows")
    return bad > 0

if __name__ == "__main__": sys.exit(main())
