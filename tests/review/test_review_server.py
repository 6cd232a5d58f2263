"""The server of the review: who is let in, what is refused, and that no path of a request reaches a file."""

import http.client
import json
import socket
import threading

import pytest

from emqa_dask.review.server import PAGES, Answer, RequestError, ReviewServer


def fail(values):
    raise RequestError(f"no {values['id']}")


@pytest.fixture(scope="module")
def server():
    reads = {"/api/echo": lambda values: Answer(values), "/api/bytes": lambda _: Answer(b"ab", {"X-Width": "2"})}
    with ReviewServer(0, reads, {"/api/decide": lambda values: Answer(values), "/api/fail": fail}) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, path, method="GET", body=None, **headers):
    """Status, headers and body of a request with the token as a cookie, unless `headers` say otherwise."""
    port = server.server_address[1]
    all_headers = {"Host": f"127.0.0.1:{port}", "Cookie": f"{server.cookie}={server.token}"}
    if body is not None:
        all_headers["Content-Type"] = "application/json"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, {**all_headers, **{k.replace("_", "-"): v for k, v in headers.items()}})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def test_server_listens_on_loopback_alone(server):
    assert server.server_address[0] == "127.0.0.1"


def test_address_with_the_token_opens_the_page(server):
    status, headers, content = ask(server, f"/?token={server.token}", Cookie="")
    assert (status, content[:15]) == (200, b"<!doctype html>")
    cookie = headers["Set-Cookie"]
    assert cookie.startswith(f"{server.cookie}={server.token};")
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", [*PAGES, "/api/echo?a=1", "/no-such-page"])
@pytest.mark.parametrize("cookie", ["", "emqa_review=x", "{name}=wrong", "{name}=", "a=\x7f\x01"])
def test_missing_or_wrong_token_is_refused(server, path, cookie):
    status, _, content = ask(server, path, Cookie=cookie.replace("{name}", server.cookie))
    assert status == 403
    assert server.token.encode() not in content


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", ""])
def test_foreign_host_is_refused(server, host):
    assert ask(server, "/", Host=host.replace("{port}", str(server.server_address[1])))[0] == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1:{port}"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_origin_is_refused(server, origin, method):
    origin = origin.replace("{port}", str(server.server_address[1]))
    body = None if method == "GET" else "{}"
    assert ask(server, "/api/decide" if body else "/", method, body, Origin=origin)[0] == 403


def test_own_origin_is_accepted_by_both_names(server):
    port = server.server_address[1]
    for name in ("127.0.0.1", "localhost"):
        status, _, content = ask(server, "/api/decide", "POST", '{"a": 1}', Origin=f"http://{name}:{port}")
        assert (status, json.loads(content)) == (200, {"a": 1})


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/page.js/../server.py", "/index.html"]
)
def test_path_outside_is_refused(server, path):
    assert ask(server, path)[0] == 404


def test_form_of_another_site_cannot_post(server):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert ask(server, "/api/decide", "POST", "{}", Content_Type=kind)[0] == 415


@pytest.mark.parametrize("body", ["", "[", "[1]", "7"])
def test_body_without_an_object_is_refused(server, body):
    assert ask(server, "/api/decide", "POST", body)[0] == 400


def test_body_without_end_or_limit_is_refused(server):
    assert ask(server, "/api/decide", "POST", "{}", Content_Length="99999999999")[0] == 413
    assert ask(server, "/api/decide", "POST", "{}", Content_Length="-1")[0] == 413
    assert ask(server, "/api/decide", "POST", "{}", Content_Length="x")[0] == 411


def test_error_of_a_request_is_told(server):
    assert ask(server, "/api/fail", "POST", '{"id": 3}')[::2] == (400, b"no 3")
    assert ask(server, "/api/bytes")[2] == b"ab"


def test_silent_connection_blocks_nobody(server):
    with socket.create_connection(server.server_address):
        assert ask(server, "/api/echo")[0] == 200
