"""Half an hour of mixed clients in front of the running proxy while its surroundings fail: `make soak`.

Clients: raw streams, whole answers, stored chains, background responses, conversations, WebSockets, the OpenAI library, Codex where it
is installed; clients that leave, that read slowly, that ask wrongly. Faults: those of soak_server.py, restarts of the servers and of
the shared store, reloads of the configuration, changes of the clients' keys. All of it follows from a seed, which is printed.

Each request has one outcome, each stream is judged (judge.py), each text that came whole is the one that the model said. At the end
nothing is left of any request, and memory and descriptors are as they were in the first third. SOAK_MINUTES, SOAK_SEED, REJOINDER_BIN.
"""

import asyncio
import json
import os
import random
import re
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path

import aiohttp
import openai
from harness import BIN, HERE, Process, client_env, find_binary, free_port, offline_env, run
from judge import check_sse
from scripted import MODEL
from soak_server import planned
from stores import Redis, redis_missing, write_keys

MINUTES = float(os.environ.get("SOAK_MINUTES", "30"))
SEED = os.environ.get("SOAK_SEED") or str(random.randrange(1 << 32))
CLIENTS = int(os.environ.get("SOAK_CLIENTS", "24"))
HANGS = 60.0  # no request takes so long, whatever fails: idle_timeout is 2 s, response_timeout 10 s
TOOL = {"type": "function", "name": "count", "parameters": {"type": "object", "properties": {"number": {"type": "integer"}}}}
# what may become of a request that is right, where something around the proxy fails
FAILURES = {400, 429, 500, 502, 503, 504}


class Wrong(Exception):
    """An outcome that no request may have."""


class Soak:
    def __init__(self, folder):
        self.folder, self.rng, self.begun = folder, random.Random(SEED), time.monotonic()
        self.end = self.begun + MINUTES * 60
        self.asked, self.outcomes, self.events = Counter(), Counter(), Counter()
        self.wrong, self.judged, self.judged_events, self.next = [], 0, 0, 0
        self.samples, self.keys, self.retired = [], [], []
        self.store_was_away = 0.0
        self.sent = 0  # HTTP requests with a key that is in the file, but Codex's
        self.judges = ProcessPoolExecutor(1)

    # ------------------------------------------------------------ processes

    def start(self):
        self.servers = [(free_port(), "llama"), (free_port(), "vllm")]
        self.running = [self.serve(n) for n in range(2)]
        self.redis = None if redis_missing() else Redis(self.folder / "redis").start()
        self.key_file, self.config = self.folder / "clients.toml", self.folder / "rejoinder.toml"
        self.binary = find_binary()
        _, self.codex_key = self.add_key("codex")
        self.keys = [self.add_key(f"key{n}") for n in range(3)]
        self.port, self.admin = free_port(), free_port()
        self.write_config(None)
        env = client_env(self.folder)
        self.proxy = Process([self.binary, "--config", self.config], self.folder / "rejoinder.log", env=env, cwd=self.folder)
        self.url = f"http://127.0.0.1:{self.port}"

    def serve(self, n):
        port, flavour = self.servers[n]
        command = [sys.executable, HERE / "soak_server.py", "--port", port, "--seed", SEED, "--flavour", flavour]
        return Process(command, self.folder / f"server{n}.log", cwd=HERE)

    def add_key(self, name):
        made = run([self.binary, "keys", "add", name, "--file", self.key_file], client_env(self.folder), self.folder)
        assert made.code == 0, str(made)
        return name, made.out.strip().splitlines()[-1]

    def write_config(self, most):
        seals = self.folder / "seals"
        if not seals.exists():
            write_keys(seals, random.Random(SEED).randbytes(32))
        lines = [
            f'listen = "127.0.0.1:{self.port}"', f'admin = "127.0.0.1:{self.admin}"', f'keys_file = "{seals}"', 'send_timeout = "10s"',
            "[auth]", 'mode = "keys"', f'keys_file = "{self.key_file}"', "[websocket]", 'idle_timeout = "1m"']
        if self.redis:
            lines += ["[store]", f'url = "{self.redis.url}"', 'timeout = "1s"', 'ttl = "10m"']
        for port, _ in self.servers:
            lines += ["[[upstream]]", f'url = "http://127.0.0.1:{port}"', 'idle_timeout = "2s"', 'response_timeout = "10s"',
                      'connect_timeout = "1s"', 'ready_timeout = "3s"', 'probe_interval = "1s"']
            lines += [f"max_in_flight = {most}"] if most else []
        self.config.write_text("\n".join(lines) + "\n")

    # ------------------------------------------------------------ what fails around the proxy

    async def restart_a_server(self):
        n = self.rng.randrange(2)
        self.running[n].child.kill()
        self.running[n].child.wait(10)
        await asyncio.sleep(self.rng.uniform(0.2, 3))
        self.running[n] = self.serve(n)

    async def stop_a_server_for_a_moment(self):
        child = self.running[self.rng.randrange(2)].child
        child.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self.rng.uniform(0.5, 4))
        child.send_signal(signal.SIGCONT)

    async def restart_the_store(self):
        if self.redis:
            how = self.rng.choice(["stopped", "killed", "frozen"])
            self.store_was_away = time.monotonic() + 60
            await asyncio.to_thread(self.redis.go_away, how)
            await asyncio.sleep(self.rng.uniform(0.5, 5))
            await asyncio.to_thread(self.redis.come_back, how)
            self.store_was_away = time.monotonic() + 15

    async def reload(self):
        self.write_config(self.rng.choice([None, 8, 64]))
        self.proxy.child.send_signal(signal.SIGHUP)

    async def reload_what_is_wrong(self):
        right = self.config.read_text()
        self.config.write_text(right + "[upstream\nnonsense")
        self.proxy.child.send_signal(signal.SIGHUP)
        await asyncio.sleep(1)
        self.config.write_text(right)
        self.proxy.child.send_signal(signal.SIGHUP)

    async def change_keys(self):
        fresh = await asyncio.to_thread(self.add_key, f"key{time.monotonic_ns()}")
        await asyncio.sleep(4)  # until the file was read again
        name, key = self.keys.pop(0)
        self.keys.append(fresh)
        await asyncio.sleep(HANGS / 6)  # what has begun with it goes on, but does not begin anew
        blocks = self.key_file.read_text().split("[[key]]")
        # at once: the proxy may read while it is written
        fresh_file = self.key_file.with_suffix(".new")
        fresh_file.write_text("[[key]]".join(b for b in blocks if f'"{name}"' not in b))
        fresh_file.replace(self.key_file)
        await asyncio.sleep(4)
        self.retired = [*self.retired[-20:], key]

    async def chaos(self):
        kinds = {self.restart_a_server: 4, self.stop_a_server_for_a_moment: 2, self.restart_the_store: 3, self.reload: 3,
                 self.reload_what_is_wrong: 1, self.change_keys: 2}
        await asyncio.sleep(5)
        while time.monotonic() < self.end:
            what = self.rng.choices(list(kinds), list(kinds.values()))[0]
            await what()
            self.events[what.__name__.replace("_", " ")] += 1
            await asyncio.sleep(self.rng.uniform(1, 6))

    # ------------------------------------------------------------ requests

    def number(self):
        self.next += 1
        return self.next

    def headers(self, key=None):
        return {"Authorization": f"Bearer {key or random.choice(self.keys)[1]}"}

    async def call(self, session, method, path, body=None, key=None, headers=None):
        """-> (status, text); an error is checked for its form."""
        self.sent += key is None
        async with session.request(method, self.url + path, json=body, headers=headers or self.headers(key)) as reply:
            text = await reply.text()
            if reply.status >= 400:
                self.error(reply.status, reply.headers, text)
            return reply.status, text

    def error(self, status, headers, text):
        try:
            error = json.loads(text)["error"]
        except (ValueError, KeyError, TypeError):
            raise Wrong(f"{status} without an error object: {text[:300]}") from None
        if set(error) != {"message", "type", "param", "code"} or not error["message"]:
            raise Wrong(f"{status} with {error}")
        if status in (429, 503) and "retry-after" not in headers:
            raise Wrong(f"{status} without Retry-After: {error}")

    async def judge(self, text, body):
        self.judged += 1
        self.judged_events += text.count("\nevent: ") + 1
        wrong = await asyncio.get_running_loop().run_in_executor(self.judges, check_sse, text, body)
        # servers that break off tell no usage
        wrong = [what for what in wrong if "[usage.missing]" not in what]
        if wrong:
            raise Wrong("; ".join(wrong[:3]) + "\n" + text[-2000:])
        data = [line for line in text.splitlines() if line.startswith("data: {")][-1]
        return json.loads(data[6:])["response"]

    def said(self, number, response):
        """The outcome of a response, whose text is that of the plan."""
        plan, status = planned(SEED, number), response["status"]
        if status in ("completed", "incomplete"):
            text = "".join(p["text"] for i in response["output"] if i["type"] == "message" for p in i["content"])
            calls = [json.loads(i["arguments"]) for i in response["output"] if i["type"] == "function_call"]
            if calls != [plan.arguments] if calls else text != plan.text:
                raise Wrong(f"number {number}: {calls or text[:200]!r} was not said")
            if not calls and (status == "incomplete") != plan.cut:
                raise Wrong(f"number {number} is {status}")
        elif status not in ("failed", "cancelled"):
            raise Wrong(f"number {number} ends as {status}")
        return status

    def body(self, number, **more):
        body = {"model": MODEL, "input": f"number {number}", "store": False, **more}
        if number % 4 == 0:
            body["tools"] = [TOOL]
        return body

    def refusal(self, status, may=()):
        if status in FAILURES or status in may:
            return f"HTTP {status}"
        raise Wrong(f"HTTP {status}")

    async def read(self, reply, slowly=False):
        if not slowly:
            return await reply.text()
        text = b""
        while piece := await reply.content.read(2048):
            text += piece
            await asyncio.sleep(0.01)
        return text.decode()

    async def stream(self, session, slowly=False, **more):
        number = self.number()
        body = self.body(number, stream=True, **more)
        self.sent += 1
        async with session.post(self.url + "/v1/responses", json=body, headers=self.headers()) as reply:
            text = await self.read(reply, slowly)
            if reply.status != 200:
                self.error(reply.status, reply.headers, text)
                return self.refusal(reply.status)
        return self.said(number, await self.judge(text, body))

    async def slow_reader(self, session):
        return await self.stream(session, slowly=True)

    async def large_request(self, session):
        return await self.stream(session, instructions="A long instruction. " * 20_000)

    async def whole(self, session):
        number = self.number()
        status, text = await self.call(session, "POST", "/v1/responses", self.body(number))
        return self.said(number, json.loads(text)) if status == 200 else self.refusal(status)

    async def leaves(self, session):
        body = self.body(self.number(), stream=True)
        self.sent += 1
        async with session.post(self.url + "/v1/responses", json=body, headers=self.headers()) as reply:
            if reply.status != 200:
                self.error(reply.status, reply.headers, await reply.text())
                return self.refusal(reply.status)
            for _ in range(random.randrange(1, 6)):
                if not await reply.content.readline():
                    break
            reply.close()
        return "left"

    def lost(self):
        """Whether what was stored may be out of reach: the store is away, or was a moment ago."""
        return time.monotonic() < self.store_was_away or not self.redis

    async def chain(self, session):
        key, previous = self.headers(), None
        for _ in range(3):
            number = self.number()
            body = self.body(number, store=True, previous_response_id=previous)
            status, text = await self.call(session, "POST", "/v1/responses", body, headers=key)
            if status != 200:
                if "previous_response_not_found" in text and not self.lost():
                    raise Wrong(f"a stored response is gone: {text}")
                return self.refusal(status)
            response = json.loads(text)
            outcome = self.said(number, response)
            if any(item["type"] == "function_call" for item in response["output"]):
                break
            previous = response["id"]
        status, text = await self.call(session, "GET", f"/v1/responses/{response['id']}", headers=key)
        if status != 200 and not self.lost():
            raise Wrong(f"GET of a stored response: {status} {text}")
        return outcome if status == 200 else self.refusal(status, {404})

    async def background(self, session):
        number, key = self.number(), self.headers()
        status, text = await self.call(session, "POST", "/v1/responses", self.body(number, background=True, store=True), headers=key)
        if status != 200:
            return self.refusal(status)
        id = json.loads(text)["id"]
        for n in range(200):
            status, text = await self.call(session, "GET", f"/v1/responses/{id}", headers=key)
            if status != 200:
                if self.lost():
                    return self.refusal(status, {404})
                raise Wrong(f"a background response is gone: {status} {text}")
            response = json.loads(text)
            if response["status"] not in ("queued", "in_progress"):
                return self.said(number, response)
            if n == 2 and number % 5 == 0:
                await self.call(session, "POST", f"/v1/responses/{id}/cancel", headers=key)
            await asyncio.sleep(0.2)
        raise Wrong(f"a background response does not end: {text[:300]}")

    async def conversation(self, session):
        key, number = self.headers(), self.number()
        status, text = await self.call(session, "POST", "/v1/conversations", {}, headers=key)
        if status != 200:
            return self.refusal(status)
        id = json.loads(text)["id"]
        body = {**self.body(number, store=True), "conversation": id}
        status, text = await self.call(session, "POST", "/v1/responses", body, headers=key)
        if status != 200:
            return self.refusal(status, {404} if self.lost() else ())
        outcome = self.said(number, json.loads(text))
        status, text = await self.call(session, "GET", f"/v1/conversations/{id}/items", headers=key)
        if status == 200 and not self.lost() and len(json.loads(text)["data"]) < 2:
            raise Wrong(f"a conversation lacks items: {text[:300]}")
        return outcome if status == 200 else self.refusal(status, {404} if self.lost() else ())

    async def websocket(self, session):
        outcome = None
        self.sent += 1
        headers = self.headers()
        async with session.ws_connect(self.url + "/v1/responses", headers=headers, max_msg_size=0) as socket:
            for _ in range(3):
                number = self.number()
                body = self.body(number)
                await socket.send_json({"type": "response.create", **body})
                events, last = [], None
                while last not in ("response.completed", "response.incomplete", "response.failed"):
                    message = await socket.receive()
                    if message.type != aiohttp.WSMsgType.TEXT:
                        raise Wrong(f"a WebSocket ends within a response: {message}")
                    event = json.loads(message.data)
                    last = event["type"]
                    if last == "error" and "sequence_number" not in event:
                        # each create asks for the key again, which may be gone since the connection was opened
                        if event["status"] == 401 and headers["Authorization"] not in [f"Bearer {key}" for _, key in self.keys]:
                            return "HTTP 401"
                        return self.refusal(event["status"])
                    events.append(f"event: {last}\ndata: {message.data}\n\n")
                outcome = self.said(number, await self.judge("".join(events) + "data: [DONE]\n\n", body))
        return outcome

    async def library(self, session):
        number = self.number()
        key = random.choice(self.keys)[1]
        async with openai.AsyncOpenAI(base_url=self.url + "/v1", api_key=key, max_retries=0, timeout=HANGS) as client:
            self.sent += 1
            try:
                async with client.responses.stream(model=MODEL, input=f"number {number}", store=False) as stream:
                    async for event in stream:
                        last = event
                    # get_final_response knows none that is incomplete
                    return self.said(number, last.response.model_dump())
            except openai.APIStatusError as error:
                return self.refusal(error.status_code)
            except openai.APIConnectionError:
                raise
            except openai.APIError as error:  # so the library tells an `error` event
                return "failed" if error.code else self.refusal(0)

    async def wrong_request(self, session):
        status, text = await self.call(session, "POST", "/v1/responses", {"model": MODEL, "input": 7, "stream": True})
        if status != 400 or json.loads(text)["error"]["param"] != "input":
            raise Wrong(f"a wrong request: {status} {text}")
        return "HTTP 400"

    async def retired_key(self, session):
        key = random.choice(self.retired) if self.retired else "rj_nobody"
        status, text = await self.call(session, "POST", "/v1/responses", self.body(self.number()), key=key)
        if status != 401:
            raise Wrong(f"a key that is not in the file: {status} {text[:200]}")
        return "HTTP 401"

    async def models(self, session):
        status, text = await self.call(session, "GET", "/v1/models")
        return "completed" if status == 200 else self.refusal(status)

    async def codex(self):
        """One run of Codex each two minutes; what it prints is no matter, that it ends is."""
        n = 0
        while (BIN / "codex").exists() and time.monotonic() < self.end - 100:
            home = self.folder / f"codex{n}"
            home.mkdir()
            n += 1
            provider = (f'{{name="rejoinder",base_url="{self.url}/v1",wire_api="responses",env_key="SOAK_KEY",'
                        f'request_max_retries=4,stream_max_retries=4}}')
            command = [BIN / "codex", "exec", "--skip-git-repo-check", "--json", "--dangerously-bypass-approvals-and-sandbox", "-m", MODEL,
                       "-c", "model_provider=r", "-c", f"model_providers.r={provider}", "-"]
            env = offline_env(home, CODEX_HOME=str(home), SOAK_KEY=self.codex_key)
            self.asked["codex exec"] += 1
            try:
                done = await asyncio.to_thread(run, command, env, home, 90, f"number {self.number()}")
                self.outcomes["codex exec", "ended" if done.code == 0 else "gave up"] += 1
            except AssertionError as error:
                self.outcomes["codex exec", "WRONG"] += 1
                self.wrong.append(f"codex exec: {str(error)[:2000]}")
            await asyncio.sleep(min(100, MINUTES * 8))

    async def client(self, n):
        kinds = {self.stream: 8, self.whole: 3, self.leaves: 3, self.chain: 2, self.background: 1, self.conversation: 1,
                 self.websocket: 2, self.library: 2, self.slow_reader: 1, self.large_request: 1, self.wrong_request: 1,
                 self.retired_key: 1, self.models: 1}
        timeout = aiohttp.ClientTimeout(total=HANGS)
        while time.monotonic() < self.end:
            # some keep their connections, some do not
            connector = aiohttp.TCPConnector(force_close=n % 3 == 0)
            async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
                for _ in range(20):
                    if time.monotonic() >= self.end:
                        break
                    kind = random.choices(list(kinds), list(kinds.values()))[0]
                    name = kind.__name__.replace("_", " ")
                    self.asked[name] += 1
                    try:
                        outcome = await asyncio.wait_for(kind(session), HANGS * 1.5)
                    except Exception as error:  # noqa: BLE001: whatever it is, it is an outcome that must not be
                        outcome = "WRONG"
                        self.wrong.append(f"{time.monotonic() - self.begun:.0f} s, {name}: {type(error).__name__} {error}")
                    self.outcomes[name, outcome] += 1
                    await asyncio.sleep(random.uniform(0.2, 1.8))

    # ------------------------------------------------------------ what the proxy holds

    async def metrics(self, session):
        async with session.get(f"http://127.0.0.1:{self.admin}/metrics") as reply:
            lines = [line.rsplit(" ", 1) for line in (await reply.text()).splitlines() if not line.startswith("#")]
            return {name: float(value) for name, value in lines}

    def held(self):
        folder = Path(f"/proc/{self.proxy.child.pid}")
        rss = int(re.search(r"^Rss:\s+(\d+)", (folder / "smaps_rollup").read_text(), re.MULTILINE)[1]) / 1024
        return rss, len(list((folder / "fd").iterdir()))

    async def watch(self):
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < self.end:
                await asyncio.sleep(2)
                rss, descriptors = self.held()
                values = await self.metrics(session)
                self.samples.append((rss, descriptors, values["rejoinder_open_streams"]))

    async def left_behind(self):
        names = ("open_streams", "open_websockets", "waiting", "buffered_bytes", "store_waiting_writes", "upstream_in_flight")
        async with aiohttp.ClientSession() as session:
            for _ in range(100):
                values = await self.metrics(session)
                left = {n: v for n, v in values.items() if n.startswith(tuple(f"rejoinder_{name}" for name in names)) and v}
                if not left:
                    break
                await asyncio.sleep(0.2)
            internal = values.get('rejoinder_errors_total{kind="server_error"}', 0)
            of_keys = [v for n, v in values.items() if n.startswith("rejoinder_key_requests_total") and '"codex"' not in n]
            return left, internal, int(sum(of_keys))

    # ------------------------------------------------------------ the run

    async def run(self):
        async with aiohttp.ClientSession() as session:
            for _ in range(200):
                with suppress(aiohttp.ClientError):
                    async with session.get(f"http://127.0.0.1:{self.admin}/readyz") as reply:
                        if reply.status == 200:
                            break
                await asyncio.sleep(0.1)
        work = [self.client(n) for n in range(CLIENTS)]
        await asyncio.gather(*work, self.chaos(), self.watch(), self.codex())
        self.left, self.internal, self.counted = await self.left_behind()

    def stop(self):
        code = self.proxy.stop(40)
        for server in self.running:
            server.stop()
        if self.redis:
            self.redis.stop()
        self.judges.shutdown()
        return code

    def report(self, code):
        checks = []

        def check(what, holds, measured):
            checks.append((what, holds, measured))

        asked, ended = sum(self.asked.values()), sum(self.outcomes.values())
        print(f"\n| client | requests | outcomes |\n| --- | --- | --- |")
        for kind, count in sorted(self.asked.items()):
            outcomes = sorted((o, n) for (k, o), n in self.outcomes.items() if k == kind)
            print(f"| {kind} | {count} | {', '.join(f'{o} {n}' for o, n in outcomes)} |")
        print(f"\nmeanwhile: {', '.join(f'{n} x {what}' for what, n in sorted(self.events.items()))}\n")
        check("requests = outcomes", asked == ended, f"{asked} = {ended}")
        check("requests sent = requests that the proxy counted", self.sent == self.counted, f"{self.sent} = {self.counted}")
        check("outcomes that must not be", not self.wrong, len(self.wrong))
        check("streams judged, with violations", not any("[" in w and "#" in w for w in self.wrong), f"{self.judged} streams, {self.judged_events} events")
        third = max(len(self.samples) // 3, 1)
        for n, (name, slack) in enumerate([("RSS, MB", 6), ("descriptors", 12)]):
            first, last = (statistics.median(s[n] for s in part) for part in (self.samples[:third], self.samples[-third:]))
            most = [max(s[n] for s in part) for part in (self.samples[:third], self.samples[-third:])]
            text = f"median {first:.0f} in the first third, {last:.0f} in the last; most {most[0]:.0f}, {most[1]:.0f}"
            check(f"{name}: flat", last <= first * 1.1 + slack, text)
        check("left behind", not self.left, self.left or "nothing")
        check("failures of the proxy itself", not self.internal, int(self.internal))
        log = self.proxy.text()
        check("panics", "panicked at" not in log, log.count("panicked at"))
        check("exit code after SIGTERM", code == 0, code)
        print("| check | | measured |\n| --- | --- | --- |")
        for what, holds, measured in checks:
            print(f"| {what} | {'ok' if holds else 'FAILED'} | {measured} |")
        for what in self.wrong[:20]:
            print(f"\nWRONG: {what}")
        return all(holds for _, holds, _ in checks)


def main():
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    print(f"soak: {MINUTES:g} minutes, seed {SEED} (SOAK_SEED={SEED} for the same again), log {folder / 'rejoinder.log'}", flush=True)
    random.seed(SEED)
    soak = Soak(folder)
    soak.start()
    try:
        asyncio.run(soak.run())
    finally:
        code = soak.stop()
    well = soak.report(code)
    if well:
        shutil.rmtree(folder)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
