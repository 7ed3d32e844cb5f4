"""Clients over https and wss: curl, openssl, the official library, and a WebSocket client, each with the authority's file."""

import json
import shutil
import socket
import ssl
import subprocess

import openai
import pytest
from harness import answers_200
from scripted import MODEL, answer
from websockets.sync.client import connect

pytestmark = pytest.mark.timeout(90)

BODY = json.dumps({"model": MODEL, "input": "Say hello.", "stream": True})


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def sign(folder, name):
    """A certificate of the authority in that folder, by the tool that operators use."""
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.csr",
            "-subj", f"/CN={name}")
    (folder / f"{name}.ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    openssl("x509", "-req", "-in", folder / f"{name}.csr", "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key",
            "-CAcreateserial", "-days", "2", "-extfile", folder / f"{name}.ext", "-out", folder / f"{name}.pem")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test authority",
            "-keyout", folder / "ca.key", "-out", folder / "ca.pem")
    sign(folder, "server")
    sign(folder, "anna")
    return folder


@pytest.fixture
def secure(rejoinder, upstream, files):
    def start(**settings):
        proxy = rejoinder(upstream.url, tls__certificate=files / "server.pem", tls__key=files / "server.key", **settings)
        proxy.base_url = f"https://127.0.0.1:{proxy.port}/v1"
        return proxy

    return start


def curl(proxy, files, *arguments):
    command = ["curl", "-sS", "--max-time", "20", "--cacert", str(files / "ca.pem"), *arguments]
    return subprocess.run([*command, proxy.base_url + "/responses", "-d", BODY], capture_output=True, text=True)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
@pytest.mark.parametrize("version, said", [("--http1.1", "1.1"), ("--http2", "2")])
def test_curl(secure, upstream, files, version, said):
    upstream.script(answer("Hello there."))
    done = curl(secure(), files, version, "-w", "\nversion %{http_version}")
    assert "event: response.completed" in done.stdout, done
    assert done.stdout.endswith(f"data: [DONE]\n\n\nversion {said}"), done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_curl_and_openssl_with_a_certificate(secure, upstream, files):
    proxy = secure(tls__client_ca=files / "ca.pem", tls__client_certificates="required")
    upstream.script(answer("Hello there."))
    refused = curl(proxy, files)
    assert refused.returncode != 0 and refused.stdout == "", refused
    done = curl(proxy, files, "--cert", str(files / "anna.pem"), "--key", str(files / "anna.key"))
    assert done.stdout.endswith("data: [DONE]\n\n"), done
    shown = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{proxy.port}", "-CAfile", files / "ca.pem", "-alpn", "h2",
         "-verify_return_error", "-cert", files / "anna.pem", "-key", files / "anna.key"],
        input="", capture_output=True, text=True, timeout=20)
    assert "Verification: OK" in shown.stdout and "ALPN protocol: h2" in shown.stdout, shown
    assert "test authority" in shown.stdout.split("Acceptable client certificate CA names")[1]


def test_openai_python(secure, upstream, files, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(files / "ca.pem"))
    with openai.OpenAI(base_url=secure().base_url, api_key="sk-test", max_retries=0, timeout=30) as client:
        upstream.script(answer("Hello there."), answer("Hello there."))
        assert client.responses.create(model=MODEL, input="Say hello.").output_text == "Hello there."
        with client.responses.stream(model=MODEL, input="Say hello.") as stream:
            types = [event.type for event in stream]
    assert types[0] == "response.created" and types[-1] == "response.completed"


def test_websocket(secure, upstream, files):
    upstream.script(answer("Hello there."))
    context = ssl.create_default_context(cafile=files / "ca.pem")
    url = secure().base_url.replace("https", "wss") + "/responses"
    with connect(url, ssl=context) as client:
        client.send(json.dumps({"type": "response.create", "model": MODEL, "input": "Say hello.", "store": False}))
        types = []
        while not types or types[-1] != "response.completed":
            types.append(json.loads(client.recv(timeout=20))["type"])
    assert types[0] == "response.created"


def test_a_request_without_tls_is_answered(secure):
    proxy = secure()
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        reply = b"".join(iter(lambda: plain.recv(4096), b""))
    assert reply.startswith(b"HTTP/1.1 400 Bad Request\r\n") and b"https://" in reply, reply
    assert answers_200(proxy.admin_url + "/healthz")
