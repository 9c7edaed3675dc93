#!/usr/bin/env python3
"""Writes tests/golden/constitution/canonical.json: the canonical bytes of native.json there, made by Python alone.

  constitution_goldens.py --dir tests/golden/constitution

Canonical: sorted keys, UTF-8 in NFC, no optional space, shortest numbers (1, not 1.0). The hash of a constitution is the
SHA-256 of these bytes; the script prints it for test_cai_constitution.c. native.xml says the same by hand."""
import argparse
import hashlib
import json
import pathlib
import unicodedata


def plain(x):
    if isinstance(x, dict):
        return {k: plain(v) for k, v in x.items()}
    if isinstance(x, list):
        return [plain(v) for v in x]
    if isinstance(x, float) and x == int(x):
        return int(x)
    return unicodedata.normalize("NFC", x.strip()) if isinstance(x, str) else x


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--dir", required=True, type=pathlib.Path)
    d = a.parse_args().dir
    value = plain(json.loads((d / "native.json").read_text(encoding="utf-8")))
    out = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    (d / "canonical.json").write_bytes(out)
    print(hashlib.sha256(out).hexdigest())


if __name__ == "__main__":
    main()
