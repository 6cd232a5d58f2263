"""A page for the review of micrographs, served to this machine alone, to whoever has the token.

Every request needs the Host of this server (against DNS rebinding), no other Origin than this server, and the token: in
the address of the page, afterwards in a cookie that is not sent to or from other sites. Files are served by their names
in a fixed table and images by their identity, so that no path of a request reaches a file system.
"""

import hmac
import json
import secrets
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

HOST = "127.0.0.1"
MAX_BODY_BYTES = 2**24  # of a decision: 100,000 boxes take 8 MB
TIMEOUT_S = 60.0  # after which a silent connection is closed
PAGES = {"/": "index.html", "/page.js": "page.js", "/page.css": "page.css"}
TYPES = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Answer(NamedTuple):
    """What an action of the server gives: a value as JSON, or bytes with further headers."""

    content: object
    headers: Mapping[str, str] = {}


class RequestError(ValueError):
    """A request that cannot be fulfilled; its text is shown to the reviewer."""


Action = Callable[[Mapping], Answer]  # parameters, or the JSON of a body -> answer


class ReviewServer(ThreadingHTTPServer):
    """The server with its token; serve_forever() runs it, and `url` opens the page."""

    daemon_threads = True

    def __init__(self, port: int, reads: Mapping[str, Action], writes: Mapping[str, Action]):
        super().__init__((HOST, port), _Handler)
        self.reads = reads
        self.writes = writes
        self.token = secrets.token_urlsafe(32)
        port = self.server_address[1]
        self.names = {f"{name}:{port}" for name in (HOST, "localhost")}
        self.cookie = f"emqa_review_{port}"
        self.url = f"http://{HOST}:{port}/?token={self.token}"


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
    protocol_version = "HTTP/1.1"
    server_version = "emqa"
    sys_version = ""
    timeout = TIMEOUT_S

    def do_GET(self) -> None:
        target = urlsplit(self.path)
        if not self._is_allowed(parse_qs(target.query).get("token", [""])[0]):
            return
        parameters = {name: values[-1] for name, values in parse_qs(target.query).items()}
        if target.path in PAGES:
            self._send_page(target.path)
        else:
            self._act(self.server.reads.get(target.path), parameters)

    def do_POST(self) -> None:
        if not self._is_allowed(""):
            return
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            return self._refuse(HTTPStatus.LENGTH_REQUIRED, "the length is missing")
        if not 0 <= length <= MAX_BODY_BYTES:
            return self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request is too large")
        if self.headers.get_content_type() != "application/json":  # other types cross origins without a question
            return self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "JSON is needed")
        try:
            body = json.loads(self.rfile.read(length))
        except ValueError:
            return self._refuse(HTTPStatus.BAD_REQUEST, "the request is no JSON")
        if not isinstance(body, dict):
            return self._refuse(HTTPStatus.BAD_REQUEST, "the request is no object of JSON")
        self._act(self.server.writes.get(urlsplit(self.path).path), body)

    def _is_allowed(self, token: str) -> bool:
        """Whether Host, Origin and token are right; otherwise the request is refused."""
        server = self.server
        if self.headers.get("Host", "") not in server.names:
            self._refuse(HTTPStatus.FORBIDDEN, "another host")
            return False
        origin = self.headers.get("Origin")
        if origin is not None and origin not in {f"http://{name}" for name in server.names}:
            self._refuse(HTTPStatus.FORBIDDEN, "another origin")
            return False
        if not hmac.compare_digest((token or self._read_cookie()).encode(), server.token.encode()):
            self._refuse(HTTPStatus.FORBIDDEN, "the token is missing: open the address that the terminal shows")
            return False
        return True

    def _read_cookie(self) -> str:
        try:
            morsel = SimpleCookie(self.headers.get("Cookie", "")).get(self.server.cookie)
        except CookieError:
            return ""
        return morsel.value if morsel else ""

    def _send_page(self, path: str) -> None:
        name = PAGES[path]
        content = resources.files("emqa_dask.review").joinpath("page", name).read_bytes()
        headers = {"Content-Type": TYPES[name.rpartition(".")[2]]}
        if path == "/":
            headers["Set-Cookie"] = f"{self.server.cookie}={self.server.token}; HttpOnly; SameSite=Strict; Path=/"
        self._send(HTTPStatus.OK, content, headers)

    def _act(self, action: Action | None, values: Mapping) -> None:
        if action is None:
            return self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")
        try:
            answer = action(values)
        except RequestError as error:
            return self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except OSError as error:  # of the store: a full disk, a damaged shard, a bucket that does not answer
            return self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        if isinstance(answer.content, bytes):
            self._send(HTTPStatus.OK, answer.content, {"Content-Type": "application/octet-stream", **answer.headers})
        else:
            content = json.dumps(answer.content, ensure_ascii=False, allow_nan=False).encode()
            self._send(HTTPStatus.OK, content, {"Content-Type": "application/json", **answer.headers})

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        self.close_connection = True  # a body may be left unread
        self._send(status, text.encode(), {"Content-Type": "text/plain; charset=utf-8"})

    def _send(self, status: HTTPStatus, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, **headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Requests are not printed: the first has the token."""
