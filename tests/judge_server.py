#!/usr/bin/env python3
"""A judge service for tests: speaks POST /v1/chat/completions and POST /v1/messages, and fails by a seeded schedule.

    judge_server.py DIR [--port N] [--faults SHARE] [--seed N] [--key KEY] [--latency S] [--no-logprobs] [--stall S] [--gap S]

Its opinion is a function of the question alone, so that a run against failing servers must give the labels of a run against
a clean one. DIR/port holds the port once it listens. DIR/log.jsonl gets one line per request:
  id (the client's Idempotency-Key), body (SHA-256), fault, paid (a whole answer went out), tokens (of that answer).
Faults come before an answer and never more than MAX_FAULTS times in a row for one request. Whatever the service says holds
the client's key, as careless services do: the client must not let it reach a file.
"""
import argparse, email.utils, hashlib, json, math, os, re, socket, struct, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MAX_FAULTS = 4
FAULTS = ["429 seconds", "429 ms", "429 date", "408", "409", "425", "500", "503", "529", "stall", "drop", "cut", "cut chunk",
          "garbage", "empty", "error in 200", "half json"]


def uniform(*parts):
    return int.from_bytes(hashlib.sha256("\0".join(map(str, parts)).encode()).digest()[:6], "big") / 2**48


def quoted(text, title):
    """The lines quoted with '> ' below 'title:'."""
    m = re.search(r"^" + title + r":\n((?:> .*\n|>\n)+)", text, re.M)
    return "\n".join(line[2:] for line in m.group(1).splitlines()) if m else None


def opinion(text):
    """(log-odds of the first reply, outcome): outcome is None, 'refuse', 'refuse once', 'mumble', 'mumble once', 'long'."""
    one, two, request = quoted(text, "Reply 1"), quoted(text, "Reply 2"), quoted(text, "Request")
    assert one is not None and two is not None and request is not None, text
    rule = re.search(r"^Rule: (.*)$", text, re.M)
    rule = rule.group(1) if rule else ""
    odds = 6 * (uniform("merit", one, rule) - uniform("merit", two, rule)) + 0.3  # the first place pleases a little
    draw = uniform("outcome", request, *sorted((one, two)))
    names = ["refuse", "refuse once", "mumble", "mumble once", "long"]
    at = int(draw / 0.05)
    return odds, names[at] if at < len(names) else None


def rating(text):
    """(digit, the one beside it) for a question about one reply, else None; log-probs give them 0.7 and 0.3."""
    one = quoted(text, "Reply")
    digit = None if one is None else 1 + int(5 * uniform("rating", one))
    return digit and (digit, digit % 5 + 1)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, *a):
        pass

    def note(self, **row):
        with self.server.lock:
            self.server.log.write(json.dumps(row) + "\n")
            self.server.log.flush()

    def reply(self, obj, status=200, headers=()):
        body = obj if isinstance(obj, bytes) else json.dumps(obj).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for k, v in headers:
            self.send_header(k, v)
        self.end_headers()
        self.wfile.write(body)

    def error(self, status, message, headers=(), code=None):
        message += f" (your key was {self.key})"
        if self.path.endswith("/messages"):
            obj = {"type": "error", "error": {"type": "some_error", "message": message, "code": code}}
        else:
            obj = {"error": {"message": message, "type": "some_error", "param": None, "code": code}}
        self.reply(obj, status, headers)

    def half(self, body):
        """Headers that promise a whole answer, half of it, and the end of the connection."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        self.hang_up()

    def hang_up(self):
        self.close_connection = True
        try:  # a reset, not a polite end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def fail(self, fault, answer):
        body = json.dumps(answer).encode()
        if fault == "429 seconds":
            self.error(429, "slow down", [("Retry-After", "0.05")])
        elif fault == "429 ms":
            self.error(429, "slow down", [("retry-after-ms", "40")])
        elif fault == "429 date":
            self.error(429, "slow down", [("Retry-After", email.utils.formatdate(time.time() - 1, usegmt=True))])
        elif fault[0].isdigit():
            self.error(int(fault), "not now\nor ever \x1b[31m")
        elif fault == "stall":
            time.sleep(self.server.args.stall)
            self.hang_up()
        elif fault == "drop":
            self.hang_up()
        elif fault == "cut":
            self.half(body)
        elif fault == "cut chunk":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"40\r\n" + body[:20])
            self.wfile.flush()
            self.hang_up()
        elif fault == "garbage":
            self.reply(b"<html><body>502 bad gateway for " + self.key.encode() + b"</body></html>")
        elif fault == "empty":
            self.reply(b"")
        elif fault == "error in 200":
            self.reply({"error": {"message": "upstream gave up on " + self.key}})
        elif fault == "half json":
            self.reply(body[:-7])

    def answer(self, q):
        """The service's answer, whatever happens to it on the way."""
        chat = not self.path.endswith("/messages")
        text = q["messages"][-1]["content"]
        rated = rating(text)
        odds, outcome = (0.3, None) if rated else opinion(text)
        reminded = "nothing is asked of you but the character" in text
        if outcome and outcome.endswith(" once"):
            outcome = None if reminded else outcome[:-5]
        temperature = q.get("temperature", 1)
        p = 1 / (1 + math.exp(-odds))
        first = p > 0.5 if temperature == 0 else uniform("draw", self.request_id) < p
        said = {"refuse": "I'm sorry, I cannot compare these replies.", "mumble": "Reply 1 or 2, who can say?"}.get(
            outcome, str(rated[0]) if rated else "1" if first else "2")
        used_in, used_out = len(text) // 4 + 7, len(said) // 4 + 1
        if outcome == "long" and chat:
            return None
        if not chat:
            refused = outcome == "refuse"
            return {"id": "msg_1", "type": "message", "role": "assistant", "model": q["model"], "echo": self.key,
                    "content": [] if refused else [{"type": "text", "text": said}],
                    "stop_reason": "refusal" if refused else "end_turn", "stop_sequence": None,
                    "usage": {"input_tokens": used_in, "output_tokens": used_out}}
        logprobs = None
        if q.get("logprobs") and not self.server.args.no_logprobs and not outcome:
            top = [(str(rated[0]), math.log(0.7)), (str(rated[1]), math.log(0.3))] if rated else [
                ("1", math.log(p)), ("2", math.log1p(-p)), (" 1", math.log(p) - 8), ("I", -12.0), ("Both", -15.0)]
            top = sorted(top, key=lambda t: -t[1])[: q["top_logprobs"]]
            entry = lambda t: {"token": t[0], "logprob": t[1], "bytes": list(t[0].encode())}
            logprobs = {"content": [dict(entry((said, dict(top)[said])), top_logprobs=[entry(t) for t in top])], "refusal": None}
        return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": q["model"], "echo": self.key,
                "choices": [{"index": 0, "message": {"role": "assistant", "content": said, "refusal": None},
                             "logprobs": logprobs, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": used_in, "completion_tokens": used_out, "total_tokens": used_in + used_out}}

    def do_POST(self):
        try:
            self.post()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def post(self):
        a = self.server.args
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        q = json.loads(body)
        bearer = self.headers.get("Authorization", "")
        self.key = self.headers.get("x-api-key") or bearer.removeprefix("Bearer ")
        self.request_id = self.headers.get("Idempotency-Key", "")
        row = {"id": self.request_id, "body": hashlib.sha256(body).hexdigest(), "fault": None, "paid": False, "tokens": 0}
        if self.path not in ("/v1/chat/completions", "/v1/messages"):
            self.note(**dict(row, fault="404"))
            return self.error(404, "no such path: " + self.path)
        if self.path == "/v1/messages" and (not self.headers.get("anthropic-version") or not isinstance(q.get("max_tokens"), int)):
            self.note(**dict(row, fault="400"))
            return self.error(400, "anthropic-version and max_tokens are required")
        if a.key and self.key != a.key:
            self.note(**dict(row, fault="401"))
            return self.error(401, "Incorrect API key provided: " + self.key)
        with self.server.lock:
            busy = a.gap > 0 and time.monotonic() < self.server.free_at
            if not busy:
                self.server.free_at = time.monotonic() + a.gap
        if busy:
            self.note(**dict(row, fault="busy"))
            return self.error(429, "one at a time", [("Retry-After", str(a.gap))])
        with self.server.lock:
            n = self.server.seen.get(self.request_id, 0)
            self.server.seen[self.request_id] = n + 1
        answer = self.answer(q)
        asked = row["body"]  # not the id, which follows from the port
        if n < MAX_FAULTS and uniform(a.seed, asked, n) < a.faults:
            fault = FAULTS[int(uniform("which", a.seed, asked, n) * len(FAULTS))]
            if fault == "stall" and uniform("rarely", a.seed, asked, n) > 0.1:  # each takes the client's patience
                fault = "drop"
            self.note(**dict(row, fault=fault))
            return self.fail(fault, answer or {})
        if a.latency:
            time.sleep(a.latency * (0.5 + uniform("latency", self.request_id)))
        if answer is None:
            self.note(**row)
            return self.error(400, "This model's maximum context length is 16 tokens", code="context_length_exceeded")
        usage = answer["usage"]
        tokens = usage.get("total_tokens") or usage["input_tokens"] + usage["output_tokens"]
        self.note(**dict(row, paid=True, tokens=tokens))
        self.reply(answer)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    allow_reuse_address = True

    def handle_error(self, *a):  # clients that hang up are part of the tests
        pass


def main():
    p = argparse.ArgumentParser()
    p.add_argument("dir")
    p.add_argument("--port", type=int, default=0)
    p.add_argument("--faults", type=float, default=0)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--key", default="")
    p.add_argument("--latency", type=float, default=0)
    p.add_argument("--stall", type=float, default=7)
    p.add_argument("--gap", type=float, default=0, help="seconds after an answer in which all others get 429")
    p.add_argument("--no-logprobs", action="store_true")
    a = p.parse_args()
    os.makedirs(a.dir, exist_ok=True)
    s = Server(("127.0.0.1", a.port), Handler)
    s.args, s.lock, s.seen, s.free_at = a, threading.Lock(), {}, 0
    s.log = open(os.path.join(a.dir, "log.jsonl"), "a")
    with open(os.path.join(a.dir, "port.new"), "w") as f:
        f.write(str(s.server_address[1]))
    os.rename(os.path.join(a.dir, "port.new"), os.path.join(a.dir, "port"))
    s.serve_forever()


if __name__ == "__main__":
    main()
