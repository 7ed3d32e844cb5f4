"""A Chat Completions server that says what a test tells it to say.

It answers the requests that detect a server (`/props`, `/health`, `/v1/models`, `/version`) like llama-server or like
vLLM, plays one scripted turn per `POST /v1/chat/completions` (or `/responses`, of a server that speaks it), records every request, and notices a client that hangs
up. It listens on loopback only and waits on conditions, never for a fixed time.
"""

import json
import select
import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODEL = "scripted-model"
N_CTX = 32768
CREATED = 1795231653
HOLD_LIMIT = 60.0


class Request:
    """One request as it reached the upstream."""

    def __init__(self, method, path, headers, raw):
        self.method, self.path, self.headers, self.raw = method, path, headers, raw
        try:
            self.json = json.loads(raw) if raw else None
        except ValueError:
            self.json = None
        self.disconnected = threading.Event()
        self.finished = threading.Event()

    @property
    def messages(self):
        return self.json["messages"]

    @property
    def streaming(self):
        return bool(self.json.get("stream"))

    def __repr__(self):
        return f"<{self.method} {self.path} {self.raw[:2000]!r}>"


class Reply:
    """The other end of one request: what a turn writes to."""

    def __init__(self, handler, request, upstream):
        self._handler, self.request, self.upstream = handler, request, upstream
        self._chunked = False

    def json(self, status, body, headers=()):
        self.body(status, json.dumps(body).encode(), "application/json; charset=utf-8", headers)

    def body(self, status, data, content_type, headers=()):
        h = self._handler
        h.send_response(status)
        h.send_header("Content-Type", content_type)
        h.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            h.send_header(name, value)
        h.end_headers()
        h.wfile.write(data)

    def start_sse(self):
        h = self._handler
        h.send_response(200)
        h.send_header("Content-Type", "text/event-stream")
        h.send_header("Transfer-Encoding", "chunked")
        h.end_headers()
        self._chunked = True

    def write(self, data):
        """Raw bytes of the event stream, one HTTP chunk."""
        self._handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def event(self, obj):
        self.write(b"data: " + json.dumps(obj).encode() + b"\n\n")

    def done(self):
        self.write(b"data: [DONE]\n\n")

    def end(self):
        self._handler.wfile.write(b"0\r\n\r\n")
        self._chunked = False

    def cut(self):
        """End the connection without the final chunk, as a crashed server does."""
        self._handler.close_connection = True
        with suppress(OSError):
            self._handler.connection.shutdown(socket.SHUT_RDWR)

    def hold(self):
        """Send nothing more until the client hangs up or the test releases the server."""
        connection = self._handler.connection
        deadline = time.monotonic() + HOLD_LIMIT
        while time.monotonic() < deadline and not self.upstream.released.is_set():
            readable, _, _ = select.select([connection], [], [], 0.05)
            if readable and not connection.recv(1, socket.MSG_PEEK):
                self.request.disconnected.set()
                self._handler.close_connection = True
                return


# ---------------------------------------------------------------- the shapes of chunks


def _base(flavour, choices):
    if flavour == "vllm":
        return {
            "id": "chatcmpl-a7a3f245bf1b9a8c",
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": MODEL,
            "choices": choices,
        }
    return {
        "choices": choices,
        "created": CREATED,
        "id": "chatcmpl-MYiJ2SSsnC4aWuZiblEsIkYtkIAO4IXo",
        "model": MODEL,
        "system_fingerprint": "b11434-scripted",
        "object": "chat.completion.chunk",
    }


def chunk(flavour, delta, finish=None):
    if flavour == "vllm":
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, "token_ids": None}
    else:
        choice = {"finish_reason": finish, "index": 0, "delta": delta}
    return _base(flavour, [choice])


def usage_chunk(flavour, prompt, completion, cached=0):
    out = _base(flavour, [])
    out["usage"] = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    if flavour == "llama":
        out["usage"]["prompt_tokens_details"] = {"cached_tokens": cached}
        out["timings"] = {"cache_n": cached, "prompt_n": prompt - cached, "prompt_ms": 9.0, "predicted_n": completion}
    return out


def call(name, arguments, id=None):
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments)
    return {"name": name, "arguments": arguments, "id": id}


def _pieces(text, size=7):
    return [text[i : i + size] for i in range(0, len(text), size)]


def answer_chunks(flavour, text="", reasoning="", calls=(), finish=None):
    """The chunks of one whole answer, in the order and shape in which the two servers send them."""
    finish = finish or ("tool_calls" if calls else "stop")
    deltas = []
    key = "reasoning" if flavour == "vllm" else "reasoning_content"
    deltas += [{key: piece} for piece in _pieces(reasoning)]
    deltas += [{"content": piece} for piece in _pieces(text)]
    for index, c in enumerate(calls):
        id = c["id"] or f"{'chatcmpl-tool-' if flavour == 'vllm' else ''}id{index}x{abs(hash(c['arguments'])):x}"
        pieces = _pieces(c["arguments"])
        first = {"index": index, "id": id, "type": "function", "function": {"name": c["name"]}}
        if flavour == "llama":  # llama-server sends the first piece along, vLLM the name alone
            first["function"]["arguments"] = pieces.pop(0) if pieces else ""
        deltas.append({"tool_calls": [first]})
        deltas += [{"tool_calls": [{"index": index, "function": {"arguments": p}}]} for p in pieces]
    if flavour == "vllm":
        chunks = [chunk(flavour, {"role": "assistant", "content": ""})]
        deltas = deltas or [{"content": ""}]
        chunks += [chunk(flavour, d) for d in deltas[:-1]]
        chunks.append(chunk(flavour, deltas[-1], finish))
    else:
        chunks = [chunk(flavour, {"role": "assistant", "content": None})]
        chunks += [chunk(flavour, d) for d in deltas]
        chunks.append(chunk(flavour, {}, finish))
    return chunks


def completion(flavour, text="", reasoning="", calls=(), finish=None, prompt=20, output=7, cached=0):
    """The same answer as one JSON object, for `stream: false`."""
    message = {"role": "assistant", "content": text or None}
    if reasoning:
        message["reasoning" if flavour == "vllm" else "reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = [
            {"id": c["id"] or f"id{i}", "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
            for i, c in enumerate(calls)
        ]
    usage = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    if flavour == "llama":
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    return {
        "id": "chatcmpl-MYiJ2SSsnC4aWuZiblEsIkYtkIAO4IXo",
        "object": "chat.completion",
        "created": CREATED,
        "model": MODEL,
        "choices": [{"index": 0, "finish_reason": finish or ("tool_calls" if calls else "stop"), "message": message}],
        "usage": usage,
    }


# ---------------------------------------------------------------- turns: functions of (request, reply)


def answer(text="", reasoning="", calls=(), finish=None, prompt=20, output=7, cached=0):
    def turn(request, reply):
        flavour = reply.upstream.flavour
        if not request.streaming:
            reply.json(200, completion(flavour, text, reasoning, calls, finish, prompt, output, cached))
            return
        reply.start_sse()
        for c in answer_chunks(flavour, text, reasoning, calls, finish):
            reply.event(c)
        if (request.json.get("stream_options") or {}).get("include_usage"):
            reply.event(usage_chunk(flavour, prompt, output, cached))
        reply.done()
        reply.end()

    return turn


def refuse(status, body, headers=(), content_type=None):
    """An HTTP error: `body` is a JSON value, or bytes with a content type."""

    def turn(request, reply):
        if isinstance(body, bytes):
            reply.body(status, body, content_type or "text/plain", headers)
        else:
            reply.json(status, body, headers)

    return turn


def text_then(text, then):
    """Begin to answer, then let `then(reply)` do what the test is about."""

    def turn(request, reply):
        flavour = reply.upstream.flavour
        reply.start_sse()
        for c in answer_chunks(flavour, text)[:-1]:
            reply.event(c)
        then(reply)

    return turn


def text_then_hold(text):
    return text_then(text, Reply.hold)


def text_then_cut(text):
    return text_then(text, Reply.cut)


def text_then_write(text, data, end=Reply.end):
    def then(reply):
        reply.write(data)
        end(reply)

    return text_then(text, then)


def held_then(turn):
    """Nothing, not even a status, until the test releases the server; then `turn`."""

    def held(request, reply):
        reply.hold()
        if not request.disconnected.is_set():
            turn(request, reply)

    return held


LLAMA_OVERFLOW = {
    "error": {
        "code": 400,
        "message": "request (20024 tokens) exceeds the available context size (8192 tokens), try increasing it",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": 20024,
        "n_ctx": 8192,
    }
}
VLLM_UNKNOWN_MODEL = {
    "error": {"message": "The model `x` does not exist. Valid aliases: tiny.", "type": "NotFoundError", "param": "model", "code": 404}
}
VLLM_OVERFLOW = {
    "error": {
        "message": "This model's maximum context length is 4096 tokens. However, your prompt contains at least 4097 "
        "input tokens, please reduce the length of the input prompt.",
        "type": "BadRequestError",
        "param": "input_tokens",
        "code": 400,
    }
}
LLAMA_LOADING = {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}


# ---------------------------------------------------------------- the server


class Upstream:
    """Start with `with Upstream("llama") as upstream:`; `upstream.script(turn, turn, ...)` sets what it plays."""

    def __init__(self, flavour="llama", port=0):
        if flavour not in ("llama", "vllm"):
            raise ValueError(flavour)
        self.flavour = flavour
        self.chats, self.others, self.errors = [], [], []
        self.warm_ups = None  # a list: chat requests for one token go there, and not into the script
        self.prompt_tokens = None  # what the server's own endpoint for it counts; None: it has none
        self.released = threading.Event()
        self._turns, self._repeat = [], None
        self._changed = threading.Condition()
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            server_version, sys_version = ("uvicorn" if flavour == "vllm" else "llama.cpp"), ""

            def log_message(self, *args):
                pass

            def setup(self):
                super().setup()
                self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def do_GET(self):
                upstream._serve(self, b"")

            def do_POST(self):
                if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
                    data = b""
                    while size := int(self.rfile.readline().split(b";")[0], 16):
                        data += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                else:
                    data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                upstream._serve(self, data)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request, client_address):
                pass  # a client that hangs up is recorded on its request

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
        if self.errors:
            raise AssertionError("a scripted turn failed") from self.errors[0]

    def script(self, *turns, repeat=None):
        """What the next chat requests get, in order; `repeat` is what every further one gets."""
        self._turns, self._repeat = list(turns), repeat
        return self

    def wait_for(self, condition, timeout=20.0, what="the upstream"):
        """Wait until `condition(self)` is true; re-checked on every request and at least every 50 ms."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not condition(self):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"{what}: not true within {timeout} s; chats: {self.chats}")
                self._changed.wait(min(left, 0.05))

    def _serve(self, handler, data):
        headers = {name.lower(): value for name, value in handler.headers.items()}
        request = Request(handler.command, handler.path, headers, data)
        reply = Reply(handler, request, self)
        path = handler.path.split("?")[0]
        chat = handler.command == "POST" and path.endswith(("/v1/chat/completions", "/responses"))
        with self._changed:
            warm_up = chat and self.warm_ups is not None and request.json.get("max_tokens") == 1
            (self.warm_ups if warm_up else self.chats if chat else self.others).append(request)
            turn = None
            if warm_up:
                turn = answer("token", finish="length")
            elif chat:
                turn = self._turns.pop(0) if self._turns else self._repeat
            self._changed.notify_all()
        try:
            if not chat:
                self._answer_other(path, reply)
            elif turn is None:
                reply.json(400, {"error": {"code": 400, "message": "the test's script is over", "type": "invalid_request_error"}})
            else:
                turn(request, reply)
        except (BrokenPipeError, ConnectionResetError):
            request.disconnected.set()
            handler.close_connection = True
        except Exception as e:  # the test's own turn is wrong: tell it, not the proxy
            self.errors.append(e)
            raise
        finally:
            request.finished.set()
            with self._changed:
                self._changed.notify_all()

    def _answer_other(self, path, reply):
        if path == "/health":
            reply.json(200, {"status": "ok"}) if self.flavour == "llama" else reply.body(200, b"", "text/plain")
        elif path == "/v1/models":
            reply.json(200, self.models())
        elif path == "/props" and self.flavour == "llama":
            reply.json(200, self.props())
        elif path == self.counts_at and self.prompt_tokens is not None:
            tokens = self.prompt_tokens(reply.request) if callable(self.prompt_tokens) else self.prompt_tokens
            if self.flavour == "vllm":
                reply.json(200, {"count": tokens, "max_model_len": N_CTX, "tokens": [1] * tokens, "token_strs": None})
            else:
                reply.json(200, {"object": "response.input_tokens", "input_tokens": tokens})
        elif path == "/version" and self.flavour == "vllm":
            reply.json(200, {"version": "0.32.0"})
        elif self.flavour == "llama":
            reply.json(404, {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}})
        else:
            reply.json(404, {"detail": "Not Found"})

    @property
    def counts_at(self):
        return "/tokenize" if self.flavour == "vllm" else "/v1/chat/completions/input_tokens"

    def models(self):
        if self.flavour == "vllm":
            model = {"id": MODEL, "object": "model", "created": CREATED, "owned_by": "vllm", "root": MODEL,
                     "parent": None, "max_model_len": N_CTX, "permission": []}
            return {"object": "list", "data": [model]}
        model = {"id": MODEL, "aliases": [MODEL], "tags": [], "object": "model", "created": CREATED,
                 "owned_by": "llamacpp", "meta": {"vocab_type": 1, "n_ctx": N_CTX, "n_ctx_train": N_CTX}}
        return {"models": [{"name": MODEL, "model": MODEL, "capabilities": ["completion"]}], "object": "list",
                "data": [model]}

    def props(self):
        return {
            "default_generation_settings": {"n_ctx": N_CTX, "params": {}},
            "total_slots": 2,
            "model_alias": MODEL,
            "model_path": "scripted.gguf",
            "modalities": {"vision": True, "audio": False},
            "chat_template": "{% for message in messages %}{{ message.content }}{% endfor %}",
            "chat_template_caps": {"supports_tools": True, "supports_tool_calls": True, "supports_system_role": True,
                                   "supports_parallel_tool_calls": True, "supports_preserve_reasoning": True},
            "build_info": "b11434-scripted",
        }
