"""FaultyProxy: HTTP in front of a server, which fails one request in ten and stalls one in fifty; and counts them."""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

ERROR = (
    "HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n{body}"
)
XML = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
ANSWERS = {
    "500": ("InternalError", "500 Error"),
    "503": ("SlowDown", "503 Slow Down"),
    "403": ("AccessDenied", "403 Forbidden"),
}
FAULTS = ("500", "503", "reset before", "reset after", "reset within")


@dataclass(frozen=True)
class Request:
    """One that arrived: its method, its path with the query, and the fault it met ("" for none)."""

    method: str
    path: str
    fault: str


@dataclass
class FaultyProxy:
    """Listens on `port` of loopback while the block lasts; rates are fractions of requests, drawn from `seed`.

    choose(method, path), where it is given, says which fault a request meets, instead of the rates.

    Faults: a 500; a 503 SlowDown; a connection that is reset before the request reaches the server, after it has been
    carried out but before the answer, and within the answer's body; and (stall) an answer that stops half-way or never
    begins. `requests` lists what arrived.
    """

    upstream: int
    fail_rate: float = 0.1
    stall_rate: float = 0.02
    seed: int = 1
    choose: Callable[[str, str], str] | None = None
    requests: list[Request] = field(default_factory=list)
    port: int = 0

    def __enter__(self) -> "FaultyProxy":
        self._random = random.Random(self.seed)
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task] = set()
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self._thread.start()
        started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _serve(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main(started))
        self._loop.close()

    async def _main(self, started: threading.Event) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0, limit=2**20)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(task := asyncio.current_task())
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._one(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    def _draw(self, method: str, path: str) -> str:
        if self.choose is not None:
            return self.choose(method, path)
        chance = self._random.random()
        if chance < self.fail_rate:
            return self._random.choice(FAULTS)
        return "stall" if chance < self.fail_rate + self.stall_rate else ""

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ")
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:] if ": " in line)}
        fault = self._draw(method, path)
        self.requests.append(Request(method, path, fault))
        if fault == "reset before":
            return _reset(writer)
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await _read_body(reader, headers)
        if fault in ANSWERS:
            code, status = ANSWERS[fault]
            text = "" if method == "HEAD" else XML.format(code=code, message=f"the proxy says {code}")
            writer.write(ERROR.format(status=status, size=len(text), body=text).encode())
            return await writer.drain()
        kept = [line for line in lines[1:] if line and line.split(":")[0].lower() not in ("expect", "connection")]
        answer = await _ask(self.upstream, "\r\n".join([lines[0], *kept, "Connection: close", "", ""]).encode(), body)
        split = answer.find(b"\r\n\r\n") + 4
        if fault == "reset after":
            return _reset(writer)
        if fault in ("reset within", "stall"):
            cut = split + (len(answer) - split) // 2 if len(answer) > split + 1 else 0
            writer.write(answer[:cut])
            await writer.drain()
            if fault == "stall":
                await reader.read()  # until the client gives up
            else:
                await asyncio.sleep(0.02)  # so that the half arrives before the reset overtakes it
            return _reset(writer)
        writer.write(answer)
        await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close so that the other side gets ECONNRESET."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    """The body as it came over the wire."""
    if "chunked" not in headers.get("transfer-encoding", ""):
        return await reader.readexactly(int(headers.get("content-length", 0)))
    body = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        body += line
        if size == 0:
            while line != b"\r\n":  # trailers
                line = await reader.readuntil(b"\r\n")
                body += line
            return body
        body += await reader.readexactly(size + 2)


async def _ask(port: int, head: bytes, body: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head + body)
        await writer.drain()
        return await reader.read()
    finally:
        writer.close()
