"""A listener between a WebSocket client and the proxy: it hands bytes on, reads the messages in them, and cuts connections."""

import json
import socket
import threading
from contextlib import suppress

from harness import Stream, assert_stream

ENDS = ("response.completed", "response.incomplete", "response.failed")


class Frames:
    """The text messages in one direction of a connection, behind the head that it begins with."""

    def __init__(self):
        self.head, self._rest, self._message = None, b"", b""

    def feed(self, data):
        self._rest += data
        if self.head is None:
            head, end, rest = self._rest.partition(b"\r\n\r\n")
            if not end:
                return
            self.head, self._rest = head.decode(), rest
        if "websocket" not in self.head.lower():
            return
        while frame := self._frame():
            opcode, final, payload = frame
            if opcode in (0, 1):
                self._message += payload
                if final:
                    message, self._message = self._message, b""
                    yield json.loads(message)

    def _frame(self):
        rest = self._rest
        if len(rest) < 2:
            return None
        length, at, masked = rest[1] & 0x7F, 2, rest[1] & 0x80
        if length > 125:
            size = 2 if length == 126 else 8
            length, at = int.from_bytes(rest[2 : 2 + size], "big"), 2 + size
        mask, at = (rest[at : at + 4], at + 4) if masked else (b"\0" * 4, at)
        if len(rest) < at + length:
            return None
        assert not rest[0] & 0x70, "an extension that nobody offered"
        payload, self._rest = rest[at : at + length], rest[at + length :]
        if masked:
            payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
        return rest[0] & 0x0F, rest[0] & 0x80, payload


class SocketTap:
    def __init__(self, port):
        self.heads = []  # request lines, in order
        self.sent = []  # (connection, event) of the client
        self.events = []  # (connection, event) of the proxy
        self.cut_at = None  # `cut_at(connection, event)`: whether the connection is cut there
        self.cuts = 0
        self._port, self._lock, self._open = port, threading.Lock(), []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        number = 0
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                there = socket.create_connection(("127.0.0.1", self._port))
                self._open += [client, there]
                for one, other, kept, cut in ((client, there, self.sent, False), (there, client, self.events, True)):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=self._hand_on, args=(number, one, other, kept, cut), daemon=True).start()
                number += 1

    def _hand_on(self, number, one, other, kept, may_cut):
        frames = Frames()
        with suppress(OSError):
            while data := one.recv(65536):
                known = frames.head
                for event in frames.feed(data):
                    with self._lock:
                        kept.append((number, event))
                    if may_cut and self.cut_at and self.cut_at(number, event):
                        self.cuts += 1
                        one.shutdown(socket.SHUT_RDWR)
                        other.shutdown(socket.SHUT_RDWR)
                        return
                if frames.head and not known and kept is self.sent:
                    self.heads.append(frames.head.split(" HTTP/")[0])
                other.sendall(data)
        with suppress(OSError):
            other.shutdown(socket.SHUT_WR)

    def stop(self):
        self._listener.close()
        for one in self._open:
            one.close()

    def responses(self):
        """The events of each response that came to its end."""
        whole, running = [], {}
        for number, event in self.events:
            if event["type"].startswith("response.steer") or "sequence_number" not in event:
                continue
            events = running.setdefault((number, event.get("stream_id")), [])
            events.append(event)
            if event["type"] in ENDS:
                whole.append(running.pop((number, event.get("stream_id"))))
        return whole

    def judge(self):
        for events in self.responses():
            assert len({e.pop("stream_id", None) for e in events}) == 1, events
            text = "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events) + "data: [DONE]\n\n"
            assert_stream(Stream(200, {"content-type": "text/event-stream"}, text), usage=False)
