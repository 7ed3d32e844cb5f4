"""Web pages in a real Chromium: what a page that nobody let in can do with rejoinder, and what an allowed one can."""

import json
import re
import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from harness import HERE, Process, client_env, free_port, request_json, wait_until
from scripted import MODEL, answer

pytestmark = pytest.mark.timeout(120)

WITHOUT_READING = ["simple", "beacon", "form", "frame", "image", "script"]
READING = ["create", "plain", "refused", "passed", "models", "metrics", "stream", "events", "socket", "openai"]
SCRIPTS = (".mjs", ".js")


class Site:
    """A web server whose page runs browser.mjs; with `/props` and its kin it would do for an upstream, too."""

    def __init__(self, host="127.0.0.1", port=0):
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def answer(self, data, kind, status=200):
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self):
                path = self.path.split("?")[0].lstrip("/")
                if path == "plan":
                    return self.answer(json.dumps(site.plan).encode(), "application/json")
                if path == "v1/models":
                    return self.answer(b'{"object":"list","data":[{"id":"m","object":"model"}]}', "application/json")
                if path == "":
                    return self.answer(b'<!doctype html><script type="module" src="/browser.mjs"></script><body>', "text/html")
                file = HERE / path
                if (path == "browser.mjs" or path.startswith("node_modules/openai/")) and file.suffix in SCRIPTS and file.is_file():
                    return self.answer(file.read_bytes(), "text/javascript")
                self.answer(b"", "text/plain", 404)

            def do_POST(self):
                sent = self.rfile.read(int(self.headers["content-length"]))
                if self.path == "/result":
                    site.result = json.loads(sent)
                    site.done.set()
                self.answer(b"{}", "application/json")

        self.plan, self.result, self.done = None, None, threading.Event()
        self.server = ThreadingHTTPServer((host, port), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def site():
    site = Site()
    yield site
    site.close()


@pytest.fixture
def browse(tmp_path):
    """`browse(site, url, plan, *flags)` opens the page in Chromium and gives what it reported."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not program:
        pytest.skip("no chromium here (apt-get install chromium)")
    running = []

    def open_page(site, url, plan, resolve):
        site.plan = plan
        site.done.clear()
        folder = tmp_path / f"chromium{len(running)}"
        command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                   "--disable-background-networking", "--disable-component-update", "--no-proxy-server",
                   f"--user-data-dir={folder}", f"--host-resolver-rules={resolve}", "--enable-logging=stderr", url]
        browser = Process(command, tmp_path / f"chromium{len(running)}.log", env=client_env(tmp_path))
        running.append(browser)
        try:
            wait_until(site.done.is_set, 60, "the page's report", browser.alive)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{browser.text()[-3000:]}") from None
        return site.result

    yield open_page
    for browser in running:
        browser.stop()


def answered(proxy):
    """Method, path and status of every request to `listen` so far, as the log has them."""
    lines = [json.loads(line) for line in proxy.text().splitlines() if line.startswith("{")]
    return [(line["method"], line["path"], line["status"]) for line in lines if line.get("message") == "request ended"]


def plan(proxy, attempts):
    return {"api": proxy.url, "admin": proxy.admin_url, "model": MODEL, "attempts": attempts}


@pytest.mark.parametrize("page", ["http://127.0.0.1:{}/", "http://localhost:{}/", "http://evil.example:{}/"])
def test_a_foreign_page_can_do_nothing(browse, site, rejoinder, upstream, page):
    proxy = rejoinder(upstream.url, cors__origins="http://app.example", tools__web_search_wrapper="rg")
    upstream.script(repeat=answer("Hello there."))
    seen = len(upstream.chats)
    result = browse(site, page.format(site.port), plan(proxy, WITHOUT_READING + READING), "MAP *.example 127.0.0.1")
    assert {name: result[name] for name in READING if name != "socket"} == {name: "blocked" for name in READING if name != "socket"}
    assert result["socket"] == "not open"
    assert result["image"] == "not shown" and result["script"] == "not loaded"
    asked = answered(proxy)
    assert {status for *_, status in asked} == {403}, asked
    paths = {path for _, path, _ in asked}
    # each way came through to be refused, those that need no preflight too
    assert {"/v1/responses", "/responses", "/codex/v1/responses", "/frame", "/image.png", "/script.js", "/v1/passed/on", "/v1/models"} <= paths
    assert {"POST", "OPTIONS", "GET"} <= {method for method, *_ in asked}
    assert len(upstream.chats) == seen


def test_an_allowed_page_is_a_client(browse, site, rejoinder, upstream):
    proxy = rejoinder(upstream.url, cors__origins=f"http://app.example:{site.port}")
    upstream.script(repeat=answer("Hello there."))
    result = browse(site, f"http://app.example:{site.port}/", plan(proxy, READING), "MAP *.example 127.0.0.1")
    assert result["create"]["status"] == 200 and result["create"]["id"].startswith("req_")
    assert json.loads(result["create"]["text"])["output_text"] == "Hello there."
    assert result["stream"] == {"status": 200, "last": "event: response.completed"}
    assert result["events"] == "response.completed"
    assert result["openai"]["streamed"] == result["openai"]["whole"] == "Hello there."
    assert result["openai"]["id"].startswith("req_")
    assert result["models"]["status"] == 200 and MODEL in result["models"]["text"]
    # errors can be read, and an answer of the upstream's own
    assert result["refused"]["status"] == 400 and "invalid_json" in result["refused"]["text"]
    assert result["plain"]["status"] == 415 and "application/json" in result["plain"]["text"]
    assert result["passed"]["status"] == 404, "the scripted server has no such path"
    assert result["metrics"] == "blocked"
    assert result["socket"] == "response.completed"
    preflights = [(path, status) for method, path, status in answered(proxy) if method == "OPTIONS"]
    assert preflights and all(status == 200 for _, status in preflights)


def test_what_an_allowed_page_does_without_reading_is_refused_too(browse, site, rejoinder, upstream):
    """No page needs it, and for an image or a script nothing says which page it is."""
    proxy = rejoinder(upstream.url, cors__origins=f"http://app.example:{site.port}")
    browse(site, f"http://app.example:{site.port}/", plan(proxy, WITHOUT_READING), "MAP *.example 127.0.0.1")
    wanted = {("POST", "/v1/responses", 415), ("POST", "/responses", 415), ("POST", "/codex/v1/responses", 415),
              ("GET", "/image.png", 403), ("GET", "/frame", 403), ("GET", "/script.js", 403)}
    wait_until(lambda: wanted <= set(answered(proxy)), 10, "every request in the log")
    assert not upstream.chats


class Rebound:
    """Where a name leads that is a page's first and rejoinder's afterwards: the page's own server for what makes the
    page, rejoinder for all else, byte by byte as the browser sends it."""

    def __init__(self, host, port, site, proxy_port):
        self.listener = socket.create_server((host, port))
        self.ports = lambda head: site if re.match(rb"(GET /(plan|browser\.mjs)? |POST /result )", head) else proxy_port
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        """One request a connection: the answer ends it."""
        head = b""
        while b"\r\n\r\n" not in head:
            piece = client.recv(65536)
            if not piece:
                return
            head += piece
        head = re.sub(rb"(?i)connection: keep-alive", b"Connection: close", head)
        server = socket.create_connection(("127.0.0.1", self.ports(head)))
        server.sendall(head)
        length = re.search(rb"(?i)content-length: (\d+)", head)
        left = int(length[1]) - len(head.split(b"\r\n\r\n", 1)[1]) if length else 0
        while left > 0 and (piece := client.recv(65536)):
            server.sendall(piece)
            left -= len(piece)
        while piece := server.recv(65536):
            client.sendall(piece)
        client.close()
        server.close()

    def close(self):
        self.listener.close()


def test_a_name_that_is_made_to_lead_here_is_refused(browse, site, rejoinder, upstream):
    proxy = rejoinder(upstream.url)
    rebound = Rebound("127.0.0.2", proxy.port, site.port, proxy.port)
    try:
        origin = f"http://evil.example:{proxy.port}"
        here = {"api": origin, "admin": origin, "model": MODEL, "attempts": ["create", "plain", "models", "stream"]}
        result = browse(site, origin + "/", here, "MAP evil.example 127.0.0.2")
    finally:
        rebound.close()
    # to the browser it is the page's own server, so the page may read the refusal
    assert result["create"]["status"] == result["plain"]["status"] == result["models"]["status"] == 403, result
    assert "allowed_hosts" in result["create"]["text"]
    assert result["stream"]["status"] == 403
    assert {status for *_, status in answered(proxy)} == {403}
    assert not upstream.chats


def test_a_web_interface_of_the_server_itself_goes_on_working(browse, site, rejoinder):
    """llama-server's, for example, which is passed on at `/`."""
    proxy = rejoinder(f"http://127.0.0.1:{site.port}", upstream__dialect="generic")
    result = browse(site, proxy.url + "/", plan(proxy, ["models", "passed"]), "MAP * 127.0.0.1")
    assert result["models"]["status"] == result["passed"]["status"] == 200
    status, _, text = request_json("GET", proxy.url + "/v1/models", headers={"Sec-Fetch-Site": "cross-site"})
    assert status == 403 and "cors.origins" in text
