#!/usr/bin/env python3
"""Prints the tables of src/text/char_more.c: which code points `tokenizers` takes for word characters, punctuation and accents,
which it lowers, and which its normalization does not know. Asked code point by code point, because its parts follow several
versions of Unicode (9 to 17). Needs `tokenizers` and the shared library of utf8proc (2.8 or later); run from the project's root:

    python tests/oracle/text_unicode.py"""
import ctypes, re
from tokenizers import normalizers as N, pre_tokenizers as P

ALL = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
U = ctypes.CDLL("libutf8proc.so.2")
U.utf8proc_map.restype, U.utf8proc_tolower.restype, LIBC = ctypes.c_ssize_t, ctypes.c_int32, ctypes.CDLL(None)

def ours(s, compat=False, compose=False):
    out, b = ctypes.c_void_p(), s.encode()
    n = U.utf8proc_map(b, len(b), ctypes.byref(out), 2 | (4 if compat else 0) | (8 if compose else 16))
    r = ctypes.string_at(out, n).decode()
    LIBC.free(out)
    return r

def ranges(cs):
    out = []
    for c in sorted(cs):
        if out and out[-1][1] == c - 1: out[-1][1] = c
        else: out.append([c, c])
    return out

def table(name, cs):
    print(f"static const Range {name}[] = {{")
    line = "   "
    for a, b in ranges(cs):
        item = f" {{0x{a:X}, 0x{b:X}}},"
        if len(line) + len(item) > 119: print(line); line = "   "
        line += item
    print(line + "\n};\n")

def known(name):
    """The code points of a table of char_class.c, with ASCII's, which are not in it."""
    body = re.search(r"%s\[\] = \{(.*?)\n\};" % name, open("src/text/char_class.c").read(), re.S).group(1)
    cs = set()
    for a, b in re.findall(r"\{0x(\w+), 0x(\w+)\}", body): cs |= set(range(int(a, 16), int(b, 16) + 1))
    ascii = {"letter": "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "number": "0123456789"}[name]
    return cs | {ord(c) for c in ascii}

def pieces(pre, c): return len(pre.pre_tokenize_str("a" + chr(c)))

def main():
    words, punct, digits = P.Whitespace(), P.Punctuation("isolated"), P.Digits(True)
    letter, number = known("letter"), known("number")
    word = {c for c in ALL if words.pre_tokenize_str("a" + chr(c))[0][0] == "a" + chr(c)}
    table("word_more", word - letter - number)
    table("number_no_word", number - word)
    table("number_more", {c for c in ALL if pieces(digits, c) == 2} - number)
    assert letter <= word and not number - {c for c in ALL if pieces(digits, c) == 2}
    table("punctuation", {c for c in ALL if pieces(punct, c) == 2})
    accents = N.StripAccents()
    table("accent", {c for c in ALL if accents.normalize_str(chr(c)) == ""})
    young, forms = set(), [(N.NFC(), 0, 1), (N.NFD(), 0, 0), (N.NFKC(), 1, 1), (N.NFKD(), 1, 0)]
    for c in ALL:
        if any(f.normalize_str(chr(c)) != ours(chr(c), k, o) for f, k, o in forms): young.add(c)
    marks = "\u0334\u093c\u0300\u0345\u05b0\u0316\u031b\u302a\u0321\u0315\u035c"  # of many combining classes
    nfd = forms[1][0]
    for c in ALL:
        for s in [f"a{chr(c)}{m}" for m in marks] + [f"a{m}{chr(c)}" for m in marks]:
            if nfd.normalize_str(s) != ours(s): young.add(c)
    for s in {ours(chr(c)) for c in ALL}:  # halves of compositions it does not know
        if len(s) == 2 and forms[0][0].normalize_str(s) != ours(s, 0, 1): young |= {ord(x) for x in s}
    later = {0x897, 0xCF3, 0xECE} | set(range(0x10D69, 0x10D6E)) | set(range(0x113B8, 0x113E3)) | set(range(0x1611E, 0x16130))
    table("young", young | later | {0x11241, 0x1E5EE, 0x1E5EF, 0x105C9, 0x105E4, 0x11383, 0x11385, 0x1138E, 0x11391, 0x16D68, 0x16D69, 0x16D6A})
    print("static const struct { uint32_t first, last; int32_t to; } lower_more[] = {")
    lower, shifts = N.Lowercase(), []
    for c in ALL:
        t = lower.normalize_str(chr(c))
        if len(t) == 1 and ord(t) != U.utf8proc_tolower(c):
            if shifts and shifts[-1][1] == c - 1 and shifts[-1][2] == ord(t) - c: shifts[-1][1] = c
            else: shifts.append([c, c, ord(t) - c])
        assert len(t) == 1 or c == 0x130
    print("   " + "".join(f" {{0x{a:X}, 0x{b:X}, {d}}}," for a, b, d in shifts) + "\n};")

if __name__ == "__main__": main()
