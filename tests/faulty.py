"""An OpenAI-compatible server on loopback that fails as real ones do, and keeps a log of what it did.

    with Faulty(["429", "cut", ""]) as server: …   each different request fails with 429, then is cut, then is answered

A schedule is a list of faults that every different request meets one after another (the last one again and again), or
a function of (question, tries before) that gives the fault.
"""

import collections
import json
import select
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Faults after which the client has no answer, and those that come with one.
BROKEN = ("429", "429 date", "429 quota", "500", "503", "hang", "cut", "malformed", "html", "no choices", "401", "402")
BROKEN += ("403", "404", "context")
WHOLE = ("", "empty", "refuse", "filter", "filter 400", "length", "other name", "no usage", "echo")


def answer_of(question):
    """What the server says to a question: some words, so that their language can be told."""
    return f"This is what I honestly think about it, and it is my answer to your question: {question}"


class Faulty:
    """The server; `base_url` is its address once it is entered."""

    def __init__(self, schedule=("",), models=("org/model-7b", "org/model-13b"), answer=answer_of, refused=0):
        self.schedule, self.models, self.answer = schedule, models, answer
        self.refused = (
            refused  # requests of any kind that are met with 503 first, as by a server that loads its weights
        )
        self.log = []  # (request as sent, fault, whether the whole answer was sent)
        self.times, self.keys, self.underway, self.most = [], set(), 0, 0
        self.tries = collections.Counter()
        self._lock = threading.Lock()

    def __enter__(self):
        self.http = _HTTP(("127.0.0.1", 0), _Handler)
        self.http.faulty = self
        self.base_url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self._thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()
        self._thread.join()

    def fault(self, identity, question):
        with self._lock:
            tries = self.tries[identity]
            self.tries[identity] += 1
            self.times.append(time.monotonic())
        if callable(self.schedule):
            return self.schedule(question, tries)
        return self.schedule[min(tries, len(self.schedule) - 1)]

    def note(self, body, fault, whole):
        with self._lock:
            self.log.append((body, fault, whole))

    def answered(self):
        """Request → how often its whole answer was sent."""
        return collections.Counter(json.dumps(body, sort_keys=True) for body, _, whole in self.log if whole)

    def questions(self):
        """What was asked, in the order in which it came to an end."""
        return [body["messages"][-1]["content"] for body, _, _ in self.log]


class _HTTP(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request, client_address):
        pass  # clients are killed here on purpose


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        faulty = self.server.faulty
        faulty.keys.add(self.headers.get("Authorization"))
        if self._loading(faulty):
            return
        if faulty.models == "html":
            self._send(200, b"<!doctype html><title>Welcome to nginx</title>", "text/html")
        elif faulty.models is None:
            self._json(404, {"detail": "Not Found"})
        else:
            self._json(200, {"object": "list", "data": [{"id": name} for name in faulty.models]})

    def do_POST(self):
        faulty = self.server.faulty
        faulty.keys.add(self.headers.get("Authorization"))
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._loading(faulty):
            return
        question = body["messages"][-1]["content"]
        fault = faulty.fault(json.dumps(body, sort_keys=True), question)
        with faulty._lock:
            faulty.underway += 1
            faulty.most = max(faulty.most, faulty.underway)
        try:
            whole = self._broken(fault) if fault in BROKEN else self._whole(fault, faulty, body, question)
        finally:
            with faulty._lock:
                faulty.underway -= 1
        faulty.note(body, fault, whole)

    def _loading(self, faulty):
        with faulty._lock:
            faulty.refused -= 1
            if faulty.refused < 0:
                return False
        self._json(503, {"error": {"message": "Loading model"}})
        return True

    def _whole(self, fault, faulty, body, question):
        message = {"role": "assistant", "content": faulty.answer(question)}
        reason = "stop"
        if fault == "empty":
            message["content"] = None
        if fault == "refuse":
            message["content"] = "I'm sorry, but I can't help with that."
        if fault == "echo":
            message["content"] += f" Your key is {self.headers.get('Authorization')}."
        if fault == "filter":
            message["content"], reason = "", "content_filter"
        if fault == "filter 400":
            self._json(400, {"error": {"code": "content_filter", "message": "The prompt was filtered"}})
            return True
        if fault == "length":
            reason = "length"
        answer = {
            "model": "another-model" if fault == "other name" else body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            "usage": {"prompt_tokens": 11, "completion_tokens": 7},
        }
        if fault == "no usage":
            del answer["usage"]
        self._json(200, answer)
        return True

    def _broken(self, fault):
        told = {"error": {"message": f"{fault} for {self.headers.get('Authorization')}"}}
        if fault == "hang":
            select.select([self.connection], [], [], 60)  # until the client has had enough
            self.close_connection = True
        elif fault == "429":
            self._json(429, told, {"Retry-After": "0.05"})
        elif fault == "429 date":
            self._json(429, told, {"Retry-After": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())})
        elif fault == "429 quota":
            self._json(429, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}})
        elif fault == "malformed":
            self._send(200, b'{"choices": [{"message": {"content": "half')
        elif fault == "html":
            self._send(200, b"<html>Bad gateway</html>", "text/html")
        elif fault == "no choices":
            self._json(200, {"choices": []})
        elif fault == "cut":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [{"message": {"content": "all of it"}, "finish_reason": "stop"}]')
            self.close_connection = True
        elif fault == "context":
            words = "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens"
            self._json(400, {"error": {"message": words}})
        else:
            self._json(int(fault), told)
        return False

    def _json(self, status, value, headers=()):
        self._send(status, json.dumps(value).encode(), "application/json", dict(headers))

    def _send(self, status, data, kind="application/json", headers=()):
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()
