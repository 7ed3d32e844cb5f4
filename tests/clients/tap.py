"""A listener between a client and the proxy that hands everything on and keeps the event streams, for the judge."""

import http.client
import json
import select
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from harness import Stream, assert_stream

OF_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "upgrade"}


def hang_up_with(client, there, over):
    """Ends the connection to the proxy as soon as the client's has ended."""
    with suppress(OSError, ValueError):  # a socket that is closed by now
        while not over.is_set():
            readable, _, _ = select.select([client], [], [], 0.02)
            if readable and not over.is_set():
                if client.recv(1, socket.MSG_PEEK):
                    return
                there.shutdown(socket.SHUT_RDWR)
                return


class Tap:
    def __init__(self, port):
        self.streams = []  # (request, status, headers, text) of each stream that its client read to the end
        tap = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def hand_on(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                there = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
                over = threading.Event()
                try:
                    there.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                    for name, value in self.headers.items():
                        there.putheader(name, value)
                    there.endheaders(body or None)
                    threading.Thread(target=hang_up_with, args=(self.connection, there.sock, over), daemon=True).start()
                    with suppress(OSError, http.client.HTTPException):  # either side has gone
                        tap.answer(self, there.getresponse(), body)
                        return
                    self.close_connection = True
                finally:
                    over.set()
                    there.close()

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = hand_on

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def answer(self, client, reply, body):
        client.send_response_only(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in OF_ONE_CONNECTION:
                client.send_header(name, value)
        whole = reply.getheader("Content-Length") is not None or client.command == "HEAD"
        if not whole:
            client.send_header("Transfer-Encoding", "chunked")
        client.end_headers()
        text = b""
        while part := reply.read1(65536):  # what has come, without waiting for more
            text += part
            client.wfile.write(part if whole else b"%x\r\n%s\r\n" % (len(part), part))
        if not whole:
            client.wfile.write(b"0\r\n\r\n")
        if (reply.getheader("Content-Type") or "").startswith("text/event-stream") and client.path.endswith("/responses"):
            self.streams.append((json.loads(body), reply.status, reply.headers, text.decode()))

    def stop(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def judge(self):
        for request, status, headers, text in self.streams:
            assert_stream(Stream(status, headers, text), request, usage=False)
