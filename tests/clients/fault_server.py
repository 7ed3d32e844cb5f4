"""A process that answers like llama-server, word by word, and fails when it is told to: a target for SIGKILL and SIGSTOP.

POST /fault with a status makes every chat request fail with it, with 0 none. Loopback only; ends with its parent.
"""

import argparse
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WORDS = 12
PAUSE = 0.02
fault = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        model = {"id": "m", "object": "model", "created": 0, "owned_by": "llamacpp"}
        self.reply(200, {
            "/props": {"default_generation_settings": {"n_ctx": 32768}, "total_slots": 8, "chat_template": ""},
            "/v1/models": {"object": "list", "data": [model]},
        }.get(self.path, {"status": "ok"}))

    def do_POST(self):
        global fault
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/fault":
            fault = body
            return self.reply(200, fault)
        if fault:
            return self.reply(fault, {"error": {"code": fault, "message": "CUDA error", "type": "server_error"}})
        try:
            self.stream()
        except OSError:
            self.close_connection = True  # the other side left

    def stream(self):
        time.sleep(PAUSE)  # the prompt
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for n in range(WORDS):
            self.chunk({"choices": [{"index": 0, "delta": {"content": f"word{n} "}, "finish_reason": None}]})
            time.sleep(PAUSE)
        self.chunk({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self.chunk({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": WORDS, "total_tokens": 9 + WORDS}})
        self.write(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def chunk(self, chunk):
        self.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    def write(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    Server(("127.0.0.1", parser.parse_args().port), Handler).serve_forever()
