#!/usr/bin/env python3
"""The page of evaluation results in a real browser: headless Chromium, driven over its debugging pipe.

    report_browser.py DIKAST DIR [CHROMIUM]

Makes results with the program itself from replies of ours (hostile strings among them), renders the page, opens it from file://
in light and dark, on a screen and at 390 px, and asks the browser: no message on the console, nothing loaded from elsewhere, no
sideways scrolling, every text at least AA (4.5:1, large 3:1) against what lies behind it, veiled text sharp after a click on it
and on the space bar. Screenshots stay in DIR. Exit status 77 without Chromium.
"""
import base64, json, os, random, shutil, subprocess, sys

NAMES = ("chromium", "chromium-browser", "google-chrome")
EVIL = "</style></svg><script>document.title='broken'</script><img src=x onerror=alert(1)> &amp; " + "x" * 200


def replies(folder):
    rng = random.Random(5)
    no, yes = "I will not help with that.", "Sure, I am an assistant made by Example Lab. First do this, then that."
    kinds = {"complies": lambda i, v, harm: yes, "refuses": lambda i, v, harm: no, "careful": lambda i, v, harm: no if harm else yes,
             "random": lambda i, v, harm: rng.choice([no, yes])}
    files = []
    for name, say in kinds.items():
        files.append(os.path.join(folder, "replies-%s.jsonl" % name))
        with open(files[-1], "w") as out:
            for i in range(40):
                for v in range(4):
                    reply = say(i, v, i < 20)
                    row = {"id": "p%d~%d" % (i, v), "prompt": "question %d, wording %d %s" % (i, v, EVIL if i == 0 else ""),
                           "parent": "p%d" % i, "kind": "redteam" if i < 20 else "benign", "category": ("theft", "privacy")[i % 2],
                           "reply": reply + (EVIL if i == 0 else ""), "harmful": i < 20 and reply == yes}
                    out.write(json.dumps(row) + "\n")
    return files


def rate(hits, n):
    p = hits / n
    return {"value": p, "lo": max(0, p - .1), "hi": min(1, p + .1), "hits": hits, "n": n}


def harm(folder, system, hits):
    categories = ["S1 violent crime", "S7 privacy", "S11 self-harm", "S6 specialised advice"]
    result = {
        "kind": "harm", "schema": 1, "system": system, "verdict": {"by": "classifier", "name": "out/" + EVIL, "threshold": .42},
        "policy": {"overall": {"n": 80, "harmful": rate(hits, 80), "refused": rate(80 - hits, 80), "disputed": None},
                   "categories": [{"category": c, "name": c, "n": 20, "harmful": rate(hits // 4, 20), "refused": rate(3, 20)}
                                  for c in categories]},
        "over_refusal": {"overall": {"n": 80, "full": rate(4, 80), "partial": rate(2, 80), "none": rate(74, 80)},
                         "categories": [{"category": c, "name": c, "n": 20, "full": rate(1, 20), "partial": rate(0, 20),
                                         "none": rate(19, 20)} for c in categories]},
        "examples": [{"category": "privacy", "prompt": "How? " + EVIL, "reply": "First " + EVIL, "harmful": True, "p": .97}]}
    path = os.path.join(folder, "harm-%s.json" % system)
    with open(path, "w") as out:
        json.dump(result, out)
    return path


def make_page(dikast, folder):
    files = replies(folder)
    sheet, filled = os.path.join(folder, "sheet.jsonl"), os.path.join(folder, "ann.jsonl")
    made = [os.path.join(folder, k + ".json") for k in ("comparison", "consistency", "ranking")]
    subprocess.run([dikast, "compare", "-q", *files, "--out", made[0]], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([dikast, "consistency", "-q", *files, "--out", made[1]], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([dikast, "rank", "-q", *files, "--export", sheet], check=True)
    with open(sheet) as rows, open(filled, "w") as out:
        for line in rows:
            row = json.loads(line)
            good = [row[k].startswith("Sure") for k in ("reply_1", "reply_2")]
            row["choice"] = 0 if good[0] == good[1] else 1 if good[0] else 2
            out.write(json.dumps(row) + "\n")
    subprocess.run([dikast, "rank", "-q", *files, "--sheets", filled, "--out", made[2]], check=True, stdout=subprocess.DEVNULL)
    page = os.path.join(folder, "page.html")
    gate = os.path.join(folder, "gates.yaml")
    with open(gate, "w") as out:
        out.write('gates: ["harm.careful.policy.overall.harmful <= 0.3", "harm.complies.policy.overall.harmful <= 0.3"]\n')
    results = [harm(folder, s, n) for s, n in (("complies", 60), ("refuses", 0), ("careful", 4), ("random", 41))]
    done = subprocess.run([dikast, "report", "-q", *results, *made, "--gate", gate, "-o", page, "--title", "an evaluation"],
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if done.returncode != 6:
        sys.exit("dikast report: exit status %d, expected 6" % done.returncode)
    return page


class Browser:
    """Chromium's debugging protocol over file descriptors 3 and 4: JSON objects ended by NUL."""

    def __init__(self, program, profile):
        to_read, self.write = os.pipe()
        self.read, to_write = os.pipe()
        def descriptors():
            # Away from 3 and 4 first: the pipes may have those very numbers.
            a, b = os.dup(to_read), os.dup(to_write)
            a, b = (os.dup(a), os.dup(b)) if min(a, b) < 5 else (a, b)
            os.dup2(a, 3), os.dup2(b, 4)
        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
             "--disable-extensions", "--user-data-dir=" + profile, "--remote-debugging-pipe", "about:blank"],
            preexec_fn=descriptors, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_read), os.close(to_write)
        self.rest, self.number, self.events, self.session = b"", 0, [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(domain + ".enable")

    def message(self):
        while b"\0" not in self.rest:
            part = os.read(self.read, 1 << 20)
            if not part:
                sys.exit("the browser went away")
            self.rest += part
        one, self.rest = self.rest.split(b"\0", 1)
        return json.loads(one)

    def call(self, method, **params):
        self.number += 1
        request = {"id": self.number, "method": method, "params": params}
        if self.session:
            request["sessionId"] = self.session
        os.write(self.write, json.dumps(request).encode() + b"\0")
        while True:
            got = self.message()
            if got.get("id") == self.number:
                if "error" in got:
                    sys.exit("%s: %s" % (method, got["error"]))
                return got["result"]
            self.events.append(got)

    def open(self, url):
        self.call("Page.navigate", url=url)
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self.message())
        seen, self.events = self.events, []
        return seen

    def ask(self, script):
        got = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in got:
            sys.exit("script: %s" % got["exceptionDetails"])
        return got["result"].get("value")

    def close(self):
        self.process.terminate()
        self.process.wait(timeout=20)


# Every text's colour against the first background behind it that is not transparent; SVG text is outlined in the page's own.
CONTRAST = r"""(() => {
  const rgb = s => { const m = s.match(/[\d.]+/g).map(Number); return m.length > 3 && m[3] < 1 ? null : m.slice(0, 3); };
  const lum = c => { const f = c.map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
                     return .2126 * f[0] + .7152 * f[1] + .0722 * f[2]; };
  const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c) return c; }
                        return [255, 255, 255]; };
  let worst = 99, bad = [], n = 0;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let t; t = walk.nextNode();) {
    const e = t.parentElement, s = getComputedStyle(e);
    if (!t.data.trim() || ['TITLE', 'DESC', 'title', 'desc'].includes(e.tagName) || s.visibility === 'hidden') continue;
    if (!e.getClientRects().length) continue;
    const svg = e.closest('svg'), fg = rgb(svg ? s.fill : s.color), bg = behind(svg ? svg : e);
    if (!fg) { bad.push('no colour: ' + t.data.slice(0, 40)); continue; }
    const [a, b] = [lum(fg), lum(bg)], ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    const size = parseFloat(s.fontSize), large = size >= 24 || (size >= 18.66 && s.fontWeight >= 700);
    n++; worst = Math.min(worst, ratio);
    if (ratio < (large ? 3 : 4.5)) bad.push(ratio.toFixed(2) + ': ' + t.data.slice(0, 40));
  }
  return {worst, bad, n};
})()"""
WIDTH = """(() => { const wide = [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') &&
  e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + '.' + e.className).slice(0, 5);
  return {page: document.documentElement.scrollWidth, window: innerWidth, wide}; })()"""
VEIL = """(() => { const l = [...document.querySelectorAll('.veil')], blur = e => getComputedStyle(e.querySelector('.blur')).filter;
  if (!l.length) return null;
  const before = blur(l[0]); l[0].click(); const after = blur(l[0]);
  return {n: l.length, before, after}; })()"""


def look(browser, url, scheme, width, folder, failures):
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    name = "%s at %d px" % (scheme, width)
    for e in browser.open(url):
        method, p = e.get("method"), e.get("params", {})
        if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            failures.append("%s: console: %s" % (name, json.dumps(p)[:300]))
        if method == "Network.requestWillBeSent" and not p["request"]["url"].startswith(("file://", "data:")):
            failures.append("%s: asks for %s" % (name, p["request"]["url"]))
    if browser.ask("document.title") != "an evaluation":
        failures.append("%s: text of a result became markup" % name)
    browser.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
    size, contrast = browser.ask(WIDTH), browser.ask(CONTRAST)
    if size["page"] > size["window"] or size["wide"]:
        failures.append("%s: scrolls sideways: %s" % (name, size))
    if contrast["bad"] or contrast["n"] < 100:
        failures.append("%s: contrast of %d texts: %s" % (name, contrast["n"], contrast["bad"][:5]))
    dark = browser.ask("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    if dark != (scheme == "dark"):
        failures.append("%s: the other scheme's colours" % name)
    height = browser.ask("document.documentElement.scrollHeight")
    shot = browser.call("Page.captureScreenshot", captureBeyondViewport=True,
                        clip={"x": 0, "y": 0, "width": width, "height": min(height, 8000), "scale": 1})
    with open(os.path.join(folder, "%s-%d.png" % (scheme, width)), "wb") as out:
        out.write(base64.b64decode(shot["data"]))
    veil = browser.ask(VEIL)
    if not veil or "blur" not in veil["before"] or veil["after"] != "none":
        failures.append("%s: the veil: %s" % (name, veil))
    browser.ask("document.querySelectorAll('.veil input')[1].focus()")
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=" ", code="Space", windowsVirtualKeyCode=32, text=" ")
    if not browser.ask("document.querySelectorAll('.veil input')[1].checked"):
        failures.append("%s: the space bar does not lift a veil" % name)
    print("%s: %d texts, least contrast %.2f, %d veils" % (name, contrast["n"], contrast["worst"], veil["n"] if veil else 0))


def main():
    dikast, folder = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    program = sys.argv[3] if len(sys.argv) > 3 else next((shutil.which(n) for n in NAMES if shutil.which(n)), None)
    if not program or not shutil.which(program):
        print("report_browser: skipped: no Chromium (sh tools/setup.sh chromium)")
        sys.exit(77)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    page = make_page(dikast, folder)
    browser, failures = Browser(program, os.path.join(folder, "profile")), []
    try:
        for scheme in ("light", "dark"):
            for width in (1280, 390):
                look(browser, "file://" + page, scheme, width, folder, failures)
    finally:
        browser.close()
        shutil.rmtree(os.path.join(folder, "profile"), ignore_errors=True)
    for f in failures:
        print("FAILED: " + f)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
