"""A Chat Completions server for the soak. Its answers and its faults follow from the seed and from the number in the request.

A request says `number N` in its last user message; `planned(seed, N)` is the answer to it, whoever asks and whichever server
is asked. A fault comes the first time that a process sees a number, so that a retry is answered. Loopback only; it ends with its parent.
"""

import argparse
import asyncio
import gzip
import json
import random
import re
from contextlib import suppress

from scripted import MODEL, answer_chunks, call, completion, usage_chunk

NUMBER = re.compile(r"number (\d+)")
WORDS = "all work and no play makes a long run of many small words dull and true".split()
HOLD = 8.0  # a stall lasts longer than the proxy's idle_timeout
FAULTS = {
    "500": 3, "503": 2, "429": 2, "400": 1, "page": 1, "reset early": 3, "reset in the text": 4, "half-close in the text": 3,
    "stall in the text": 2, "garbage": 1, "no JSON": 1, "invalid chunk": 2, "error event": 2, "reset behind the end": 3,
    "stall behind the end": 1}
FAULTY = 0.25  # of the requests


class Plan:
    """What the model says to a request, and how the server fails at first."""

    def __init__(self, seed, number):
        rng = random.Random(f"{seed} {number}")
        length = 1500 if number % 97 == 0 else rng.randrange(3, 60)
        self.text = " ".join(rng.choice(WORDS) for _ in range(length)) + f" {number}."
        self.reasoning = "Let me see. " * rng.randrange(1, 4) if rng.random() < 0.3 else ""
        self.arguments = {"number": number, "word": rng.choice(WORDS)}
        self.pause = rng.choice([0, 0, 0.005, 0.02])
        self.gzip = rng.random() < 0.05
        self.cut = rng.random() < 0.05  # by the token limit
        names = list(FAULTS)
        self.fault = rng.choices(names, [FAULTS[name] for name in names])[0] if rng.random() < FAULTY else None


def planned(seed, number):
    return Plan(seed, number)


def last_user(body):
    for message in reversed(body.get("messages", [])):
        if message.get("role") == "user":
            content = message.get("content")
            return content if isinstance(content, str) else json.dumps(content)
    return ""


class Server:
    def __init__(self, seed, flavour):
        self.seed, self.flavour, self.seen = seed, flavour, set()

    async def connection(self, reader, writer):
        with suppress(OSError, asyncio.IncompleteReadError, ValueError):
            while await self.request(reader, writer):
                pass
        with suppress(OSError):
            writer.close()

    async def request(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name}
        raw = await reader.readexactly(int(headers.get("content-length") or 0))
        method, path, _ = line.split(" ")
        if method == "POST" and path == "/v1/chat/completions":
            return await self.chat(json.loads(raw), reader, writer)
        found = {
            "/v1/models": {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": self.flavour}]},
            "/health": {"status": "ok"},
            "/props": {"default_generation_settings": {"n_ctx": 32768}, "total_slots": 64, "chat_template": ""},
            "/version": {"version": "0.33.0"},
        }
        of_the_other = "/version" if self.flavour == "llama" else "/props"
        body = None if path == of_the_other else found.get(path)
        self.whole(writer, 200 if body else 404, json.dumps(body or {}).encode())
        await writer.drain()
        return True

    def whole(self, writer, status, data, kind="application/json"):
        writer.write(b"HTTP/1.1 %d Status\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (status, kind.encode(), len(data), data))

    async def chat(self, body, reader, writer):
        found = NUMBER.findall(last_user(body))
        number = int(found[-1]) if found else -1
        plan = Plan(self.seed, number)
        fault = plan.fault if number >= 0 and number not in self.seen else None
        self.seen.add(number)
        if fault == "reset early":
            writer.transport.abort()
            return False
        if fault == "page":
            self.whole(writer, 502, b"<html>Bad Gateway</html>", "text/html")
        elif fault in ("400", "429", "500", "503"):
            error = {"error": {"code": int(fault), "message": "a fault of the soak", "type": "some_error"}}
            self.whole(writer, int(fault), json.dumps(error).encode())
        elif body.get("stream"):
            return await self.stream(plan, fault, body, reader, writer)
        else:
            calls = self.calls(plan, body)
            text = "" if calls else plan.text
            done = completion(self.flavour, text, plan.reasoning, calls, "length" if plan.cut and not calls else None)
            self.whole(writer, 200, json.dumps(done).encode())
        await writer.drain()
        return True

    def calls(self, plan, body):
        said = [m for m in body["messages"] if m.get("role") != "system"]
        wants = body.get("tools") and body.get("tool_choice") != "none" and said[-1].get("role") == "user"
        own = wants and any(t["function"]["name"] == "count" for t in body["tools"])
        return [call("count", plan.arguments)] if own else []

    async def stream(self, plan, fault, body, reader, writer):
        calls = self.calls(plan, body)
        finish = "length" if plan.cut and not calls else None
        chunks = answer_chunks(self.flavour, "" if calls else plan.text, plan.reasoning, calls, finish)
        lines = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]
        end = b"data: " + json.dumps(usage_chunk(self.flavour, 20, len(lines))).encode() + b"\n\ndata: [DONE]\n\n"
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
        if plan.gzip and not fault:
            data = gzip.compress(b"".join([*lines, end]))
            writer.write(head + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data))
            await writer.drain()
            return True
        writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
        breaks = max(len(lines) // 2, 2) if fault and not fault.endswith("behind the end") else len(lines)
        for line in lines[:breaks]:
            writer.write(b"%x\r\n%s\r\n" % (len(line), line))
            await writer.drain()
            if plan.pause:
                await asyncio.sleep(plan.pause)
        if fault is None:
            writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(end), end))
            await writer.drain()
            return True
        return await self.fail(fault, reader, writer)

    async def fail(self, fault, reader, writer):
        broken = {
            "garbage": b"\x00\x01 garbage \xff\n\n", "no JSON": b"data: {no json\n\n",
            "error event": b'data: {"error":{"code":500,"message":"a fault of the soak","type":"server_error"}}\n\n'}
        if fault.startswith("reset"):
            writer.transport.abort()
        elif fault.startswith("half-close"):
            writer.write_eof()
            await asyncio.wait_for(reader.read(), HOLD)
        elif fault.startswith("stall"):
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(), HOLD)
        elif fault == "invalid chunk":
            writer.write(b"zz\r\nhello\r\n")
            await writer.drain()
        else:
            data = broken[fault]
            writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data))
            await writer.drain()
            return True
        return False


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seed", required=True)
    parser.add_argument("--flavour", default="llama")
    args = parser.parse_args()
    server = Server(args.seed, args.flavour)
    listening = await asyncio.start_server(server.connection, "127.0.0.1", args.port, limit=64 << 20, backlog=512)
    async with listening:
        await listening.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
