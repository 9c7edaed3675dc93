#!/usr/bin/env python3
"""The label stage against a judge service that fails in every way it can: judge_faults.py DIKAST CONF OUT_DIR

Each case is the real program against a real server (judge_server.py). Asserted: no label is lost, none is paid for twice, the
labels are those of a server without faults, the key reaches no file and no output, and every end has its exit code."""
import atexit, json, os, shutil, signal, subprocess, sys, time

HERE = os.path.dirname(os.path.abspath(__file__))
KEY = "sk-t3st-0nly-aVeryLongSecretKey/41+x"
dikast, conf, out = (os.path.abspath(p) for p in sys.argv[1:4])


class Judge:
    """A server of its own for one case, on a port that stays."""

    def __init__(self, name, port=0, **options):
        self.dir = os.path.join(out, "server-" + name)
        args = [sys.executable, os.path.join(HERE, "judge_server.py"), self.dir, "--port", str(port), "--key", options.pop("key", KEY)]
        for k, v in options.items():
            args += ["--" + k.replace("_", "-")] + ([] if v is True else [str(v)])
        if os.path.exists(self.dir + "/port"):
            os.remove(self.dir + "/port")
        self.process = subprocess.Popen(args)
        atexit.register(self.process.kill)  # a failed case leaves nothing running
        for _ in range(500):
            if os.path.exists(self.dir + "/port"):
                break
            assert self.process.poll() is None, "the judge server did not start"
            time.sleep(0.02)
        self.port = int(open(self.dir + "/port").read())

    def log(self):
        with open(self.dir + "/log.jsonl") as f:
            whole = f.read().split("\n")[:-1]  # read at once: the last one may be half written, and its other half come next
        return [json.loads(line) for line in whole]

    def close(self):
        self.process.kill()
        self.process.wait()


def command(name, judge, *more, key=KEY, api="openai", cache=None):
    env = dict(os.environ, SOURCE_DATE_EPOCH="0")
    env.pop("JUDGE_TEST_KEY", None)
    if key is not None:
        env["JUDGE_TEST_KEY"] = key
    sets = {"run.out": "out", "judge.kind": "remote", "judge.remote.url": f"http://127.0.0.1:{judge.port}",
            "judge.remote.api": api, "judge.remote.model": name, "judge.remote.key_env": "JUDGE_TEST_KEY",
            "judge.remote.backoff_s": "0.01", "judge.remote.timeout_s": "5", "judge.remote.cache": cache or "cache-" + name,
            "pairs.redteam": "60", "pairs.benign": "60", "judge.remote.price_in": "2", "judge.remote.price_out": "8"}
    sets.update(m.split("=", 1) for m in more)
    argv = [dikast, "run", conf, "--only", "label", "--name", name] + [f"{k}={v}" for k, v in sets.items()]
    return argv, env


def start(name, judge, *more, **options):
    argv, env = command(name, judge, *more, **options)
    said = open(os.path.join(out, "said-" + name), "ab")
    return subprocess.Popen(argv, env=env, cwd=out, stdout=said, stderr=said)


def run(name, judge, *more, code=0, **options):
    p = start(name, judge, *more, **options)
    got = p.wait(timeout=300)
    said = open(os.path.join(out, "said-" + name), errors="replace").read()
    assert got == code, f"{name}: exit code {got}, expected {code}:\n{said}"
    return said


def stage(name):
    return json.load(open(f"{out}/out/runs/{name}/stages.json"))["label"]["dir"]


def labels(name):
    with open(f"{out}/{stage(name)}/labels.jsonl", "rb") as f:
        return f.read()


def books(name):
    return json.load(open(f"{out}/{stage(name)}/judge.json"))


def cached(name):
    return {f"dikast-{f[:-5]}" for _, _, files in os.walk(f"{out}/cache-{name}") for f in files if f.endswith(".json")}


def paid(judge):
    return [row["id"] for row in judge.log() if row["paid"]]


def paid_once(name, judge):
    ids = paid(judge)
    assert len(ids) == len(set(ids)), f"{name}: {len(ids) - len(set(ids))} answers were paid for twice"
    assert set(ids) <= cached(name), f"{name}: answers that were paid for are not in the cache"


def nothing_lost(name):
    pairs = open(f"{out}/{json.load(open(f'{out}/out/runs/{name}/stages.json'))['pairs']['dir']}/pairs.jsonl").readlines()
    rows = [json.loads(line) for line in labels(name).splitlines()]
    assert [json.loads(p)["id"] for p in pairs] == [r["id"] for r in rows]
    ledger = json.load(open(f"{out}/{stage(name)}/ledger.json"))
    assert ledger["in"]["samples"] == len(rows), ledger
    for r in rows:
        assert (r["weight"] > 0) == (r["code"] is None), r
        assert r["code"] in (None, "TIE", "CONTEXT", "REFUSED", "UNREADABLE"), r
        for j in r["judged"]:
            assert (j["l_ab"] is None) == ("miss" in j), r
    return rows


def no_key_anywhere():
    needle = KEY.encode()
    for root, _, files in os.walk(out):
        for f in files:
            with open(os.path.join(root, f), "rb") as file:
                assert needle not in file.read(), f"the key stands in {root}/{f}"


def clean():
    judge = Judge("clean")
    run("clean", judge)
    paid_once("clean", judge)
    rows = nothing_lost("clean")
    missed = {j["miss"] for r in rows for j in r["judged"] if "miss" in j}
    assert {"REFUSED", "UNREADABLE"} <= missed, missed  # some are never answered: that is in the labels, with its reason
    b = books("clean")
    assert b["t_again"] == 0 and b["soft"] > 0 and b["refused"] > 0 and b["unreadable"] > 0 and b["context"] > 0 and b["reminded"] > 0, b
    log = judge.log()
    assert b["answers"] == len(set(row["id"] for row in log)), b
    assert b["tokens_in"] + b["tokens_out"] == sum(row["tokens"] for row in log), b
    assert abs(b["usd"] - (2 * b["tokens_in"] + 8 * b["tokens_out"]) / 1e6) < 1e-12, b
    judge.close()
    # Without its result, the stage needs no server: everything is in the cache, and the bytes are the same.
    before = labels("clean")
    shutil.rmtree(f"{out}/{stage('clean')}")
    run("clean", judge)
    assert labels("clean") == before
    assert books("clean")["t_sent"] == 0, books("clean")
    return before


def faulty(want):
    judge = Judge("clean2", faults=0.5, seed=11)
    said = run("clean2", judge, "judge.remote.retries=8")
    same_labels("clean2", want)
    paid_once("clean2", judge)
    nothing_lost("clean2")
    kinds = {row["fault"] for row in judge.log() if row["fault"]}
    assert len(kinds) == 17, f"not every fault came up: {sorted(kinds)}"
    assert books("clean2")["t_again"] > 50, books("clean2")
    judge.close()
    return said


def same_labels(name, want):
    assert labels(name) == want, f"{name}: other labels than from a server without faults"


def killed(want):
    judge = Judge("killed", faults=0.2, seed=5, latency=0.02)
    lanes, kills, open_at_kill = 8, 4, 0
    for k in range(kills):
        before = len(paid(judge))
        p = start("killed", judge, f"judge.remote.concurrency={lanes}")
        while len(paid(judge)) < before + 30:
            assert p.poll() is None, "the run ended before it could be killed: more questions are needed"
            time.sleep(0.005)
        p.send_signal(signal.SIGKILL)
        p.wait()
        time.sleep(0.2)  # what is on its way reaches the log
        kept = cached("killed")
        asked = len(judge.log())
        open_at_kill += len(set(paid(judge)) - kept)
        if k == kills - 1:
            run("killed", judge, f"judge.remote.concurrency={lanes}")
        else:
            p = start("killed", judge, f"judge.remote.concurrency={lanes}")
            time.sleep(0.15)
            p.send_signal(signal.SIGKILL)
            p.wait()
            time.sleep(0.2)
        again = {row["id"] for row in judge.log()[asked:]}
        assert not again & kept, f"{len(again & kept)} questions were asked although their answers were kept"
    same_labels("killed", want)
    nothing_lost("killed")
    ids = paid(judge)
    # Only an answer that was on the wire when the process died can be paid for again, and each lane holds one.
    assert len(ids) - len(set(ids)) <= 2 * kills * lanes, len(ids) - len(set(ids))
    judge.close()


def stopped(want):
    judge = Judge("stopped", latency=0.02)
    p = start("stopped", judge)
    while not os.path.exists(judge.dir + "/log.jsonl") or len(paid(judge)) < 50:
        assert p.poll() is None, "the run ended before it could be stopped"
        time.sleep(0.005)
    p.send_signal(signal.SIGTERM)
    assert p.wait(timeout=20) == 75
    run("stopped", judge)
    same_labels("stopped", want)
    paid_once("stopped", judge)
    judge.close()


def limited(want):
    judge = Judge("limited")
    said = run("limited", judge, "judge.remote.max_requests=100", code=6)
    assert "judge.remote.max_requests would be passed" in said and "cache-limited" in said, said
    n = len(paid(judge))
    assert 80 < n <= 100, n
    said = run("limited", judge, "judge.remote.max_usd=0.04", code=6)
    spent = sum(row["tokens"] for row in judge.log()) * 2 / 1e6  # the least that its tokens cost
    assert "judge.remote.max_usd would be passed" in said and spent <= 0.04 and len(paid(judge)) > n, (said, spent)
    run("limited", judge)
    same_labels("limited", want)
    paid_once("limited", judge)
    judge.close()


def held_back(want):
    """Labels that miss a gate of their own are not released: no result, nothing that a later stage could read."""
    judge = Judge("held")
    said = run("held", judge, "label.gates=[label.pairs >= 1,label.remote.refused <= 0]", code=6)
    assert "label.gates missed: label.remote.refused <= 0" in said and "not released" in said, said
    state = json.load(open(f"{out}/out/runs/held/stages.json"))["label"]
    assert state["state"] == "to do" and not os.path.exists(f"{out}/{state['dir']}/DONE"), state
    run("held", judge, "label.gates=[label.pairs >= 1,label.remote.refused >= 1]")
    same_labels("held", want)
    paid_once("held", judge)
    judge.close()


def other_dialect():
    """No log-probs there: votes. The same questions against a server that fails give the same votes."""
    votes = ["judge.remote.votes=3", "judge.remote.temperature=1", "pairs.redteam=24", "pairs.benign=24", "data.judge_gold=[]", "judge.remote.concurrency=16"]
    judge = Judge("votes")
    run("votes", judge, *votes, api="anthropic")
    paid_once("votes", judge)
    rows = nothing_lost("votes")
    odds = {round(j["l_ab"], 6) for r in rows for j in r["judged"] if j["l_ab"] is not None}
    assert odds == {-1.94591, -0.510826, 0.510826, 1.94591}, odds  # log((k + 1/2) / (3 - k + 1/2))
    port, want = judge.port, labels("votes")
    judge.close()
    shutil.rmtree(f"{out}/{stage('votes')}")
    shutil.move(f"{out}/cache-votes", f"{out}/cache-votes-clean")
    judge = Judge("votes-faulty", port=port, faults=0.4, seed=3)
    run("votes", judge, *votes, "judge.remote.retries=8", api="anthropic")
    same_labels("votes", want)
    paid_once("votes", judge)
    judge.close()
    judge = Judge("letters", no_logprobs=True)  # a service that ignores the request for log-probs
    run("letters", judge)
    assert books("letters")["soft"] == 0
    judge.close()


def gate():
    """The judge of the revise stage is the same one."""
    judge = Judge("gate", faults=0.3, seed=9)
    argv, env = command("gate", judge, "revise.gate=true", "judge.remote.retries=8")
    argv[argv.index("label")] = "revise"
    said = open(os.path.join(out, "said-gate"), "ab")
    assert subprocess.run(argv, env=env, cwd=out, stdout=said, stderr=said).returncode == 0
    where = json.load(open(f"{out}/out/runs/gate/stages.json"))["revise"]["dir"]
    rounds = [q for line in open(f"{out}/{where}/revisions.jsonl") for q in json.loads(line)["rounds"]]
    judged = [q for q in rounds if q["gate_p"] is not None]
    assert json.load(open(f"{out}/{where}/judge.json"))["answers"] == len(set(paid(judge)))
    assert judged and any(q["reject"] == "NONE" for q in judged) and any(q["reject"] == "WORSE" for q in judged), rounds
    paid_once("gate", judge)
    judge.close()


def win_rates():
    """And that of the evaluation."""
    judge = Judge("wins", faults=0.3, seed=4)
    argv, env = command("wins", judge, "eval.judge=true", "judge.remote.retries=8", "data.judge_gold=[]")
    argv[argv.index("label")] = "eval"
    said = open(os.path.join(out, "said-wins"), "ab")
    assert subprocess.run(argv, env=env, cwd=out, stdout=said, stderr=said).returncode == 0
    where = out + "/" + json.load(open(f"{out}/out/runs/wins/stages.json"))["eval"]["dir"]
    m = json.load(open(where + "/summary.json"))
    for pair in ("helpful-sl", "helpful-rl", "sl-rl"):
        assert 0 <= m[f"win.{pair}.lo"] <= m[f"win.{pair}"] <= m[f"win.{pair}.hi"] <= 1 and m[f"win.{pair}.n"] > 10, m
    assert m["remote.answers"] > 0 and json.load(open(where + "/judge.json"))["t_again"] > 0
    paid_once("wins", judge)
    judge.close()


def rated():
    """dikast rate and dikast rank with a service: its digits, whatever fails; the second call asks nothing."""
    import judge_server
    texts = [f"reply number {i}" for i in range(24)]
    for system, offset in (("one", 0), ("two", 12)):
        with open(f"{out}/{system}.jsonl", "w") as f:
            for i in range(12):
                f.write(json.dumps({"id": f"q{i}", "prompt": f"question {i}", "reply": texts[offset + i]}) + "\n")
    for api, options in (("openai", {}), ("openai", {"no_logprobs": True}), ("anthropic", {})):
        name = f"rated-{api}-{len(options)}"
        judge = Judge(name, faults=0.4, stall=5.5, **options)
        argv, env = command(name, judge, api=api)
        sets = [a for a in argv if a.startswith(("judge.", "run."))]
        for verb in ("rate", "rate again", "rank"):
            before = len(judge.log())
            args = [dikast, verb.split()[0], "one.jsonl", "two.jsonl", "--json", "-q"] + (["--draws", "20"] if verb == "rank" else []) + sets
            done = subprocess.run(args, env=env, cwd=out, capture_output=True, text=True, timeout=200)
            assert done.returncode == 0, done.stderr
            result = json.loads(done.stdout)
            assert (len(judge.log()) == before) == (verb == "rate again"), verb
            if verb == "rank":
                assert result["judge"]["asked"] == 12 and result["games"] + result["judge"]["unjudged"] == 12, result
                continue
            for at, system in enumerate(result["systems"]):
                pairs = [judge_server.rating(f"Reply:\n> {t}\n\n") for t in texts[12 * at:12 * at + 12]]
                soft = api == "openai" and not options
                want = sum(0.7 * d + 0.3 * n if soft else d for d, n in pairs) / 12
                assert abs(system["rating"]["value"] - want) < 1e-9, (system, want)
        assert len(paid(judge)) == len(set(paid(judge))) >= 24, "asked again for what is known"
        judge.close()


def busy():
    """A service that lets one through at a time is asked less at once and not given up on, however few the retries."""
    judge = Judge("busy", gap=0.1)
    argv, env = command("busy", judge, "judge.remote.retries=1")
    args = [dikast, "rate", "one.jsonl", "two.jsonl", "--json", "-q"] + [a for a in argv if a.startswith(("judge.", "run."))]
    done = subprocess.run(args, env=env, cwd=out, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    turned_away = sum(row["fault"] == "busy" for row in judge.log())
    assert 0 < turned_away < 48, turned_away  # eight lanes that do not learn make 60 and more
    assert len(paid(judge)) == len(set(paid(judge))) >= 24
    judge.close()


def refused_at_once():
    judge = Judge("refused")
    said = run("badkey", judge, code=4, key=KEY[::-1])
    assert "HTTP 401: Incorrect API key provided" in said and "JUDGE_TEST_KEY" in said, said
    assert KEY[::-1] not in said and len(judge.log()) <= 8, said
    said = run("nokey", judge, code=2, key=None)
    assert "JUDGE_TEST_KEY" in said and "is not set" in said, said
    said = run("keyhere", judge, "judge.remote.key_env=" + KEY, code=2)
    assert "not the name of an environment variable" in said, said
    said = run("wrongpath", judge, f"judge.remote.url=http://127.0.0.1:{judge.port}/api/v1", code=4)
    assert "HTTP 404: no such path: /api/v1/chat/completions" in said, said
    judge.close()
    said = run("nobody", judge, "judge.remote.retries=2", code=4)
    assert "asked 3 times" in said and "no answer" in said, said


def main():
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    at = time.time()
    want = clean()
    for case in (faulty, killed, stopped, limited, held_back):
        case(want)
        print(f"ok {case.__name__} {time.time() - at:.1f} s", flush=True)
    for case in (rated, busy, other_dialect, gate, win_rates, refused_at_once, no_key_anywhere):
        case()
        print(f"ok {case.__name__} {time.time() - at:.1f} s", flush=True)
    shutil.rmtree(out)


if __name__ == "__main__":
    main()
