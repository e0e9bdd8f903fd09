"""What a client is told when its request cannot be served: status, envelope, request id."""

import gzip

import msgspec
import pytest

from unbroken.settings.tree import UpstreamSettings
from unbroken.upstream.scripted import Gate, Hold, ScriptedUpstream, before_head, error, text

pytestmark = pytest.mark.anyio

PATH = "/chat/completions"


def error_of(response) -> dict[str, object]:
    found = response.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    return found


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"messages": [{"role": "user", "content": "x"}]}, "model", "Missing required parameter: 'model'."),
        ({"model": "m"}, "messages", "Missing required parameter: 'messages'."),
        ({"model": 7, "messages": [{"role": "user", "content": "x"}]}, "model", "expected a string"),
        ({"model": "m", "messages": "x"}, "messages", "expected an array"),
        ({"model": "m", "messages": []}, "messages", "not empty"),
        ({"model": "m", "messages": [{"content": "x"}]}, "messages[0].role", "Missing required parameter"),
        ({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": "yes"}, "stream", "a boolean"),
        ({"model": "m", "messages": [{"role": "user", "content": "x"}], "n": 0}, "n", "at least 1"),
        ([], None, "expected an object"),
    ],
)
async def test_a_field_that_is_wrong_is_named(serve, upstream: ScriptedUpstream, body, param, said: str) -> None:
    """H5."""
    gateway = await serve(upstream)
    response = await gateway.client.post(PATH, json=body)
    assert response.status_code == 400
    found = error_of(response)
    assert found["type"] == "invalid_request_error"
    assert found["param"] == param
    assert said in found["message"]


@pytest.mark.parametrize("body", [b"", b"{", b'{"model": }', b"\xff", b"null", b"[]", b"{}"])
async def test_what_is_no_request_is_a_400(serve, upstream: ScriptedUpstream, body: bytes) -> None:
    gateway = await serve(upstream)
    response = await gateway.client.post(PATH, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    error_of(response)


async def test_an_unknown_model_is_told_which_there_are(serve, upstream: ScriptedUpstream) -> None:
    """H5."""
    known = UpstreamSettings(name="up", base_url=upstream.base_url, models=("small", "large = theirs"))
    gateway = await serve(known)
    for response in (await gateway.ask(model="huge"), await gateway.client.get("/models/huge")):
        assert response.status_code == 404
        found = error_of(response)
        assert found["code"] == "model_not_found"
        assert found["param"] == "model"
        assert found["message"] == (
            "The model 'huge' does not exist here. Models that do: small, large."
            ' To give a model this name, add "huge = NAME" to the models of an upstream that calls it NAME.'
        )


async def test_an_unknown_model_is_told_which_names_are_taken(serve, upstream: ScriptedUpstream) -> None:
    known = UpstreamSettings(name="up", base_url=upstream.base_url, models=("small", "gpt-*", "claude-* = theirs"))
    gateway = await serve(known)
    for response in (await gateway.ask(model='a "b"'), await gateway.client.get("/models/a%20%22b%22")):
        message = error_of(response)["message"]
        assert message.endswith("that do: small. Any name such as these is taken, too: gpt-*, claude-*.")


async def test_many_models_do_not_make_a_long_error(serve, upstream: ScriptedUpstream) -> None:
    many = tuple(f"model-{number}" for number in range(500))
    gateway = await serve(UpstreamSettings(name="up", base_url=upstream.base_url, models=many))
    message = error_of(await gateway.ask(model="x" * 5000))["message"]
    assert len(message) < 2000
    assert "and 450 more" in message


@pytest.mark.parametrize(
    "kind", ["text/plain", "", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonp"]
)
async def test_what_is_not_called_json_is_a_415(serve, upstream: ScriptedUpstream, kind: str) -> None:
    """H5."""
    gateway = await serve(upstream)
    response = await gateway.client.post(PATH, content=b"{}", headers={"content-type": kind})
    assert response.status_code == 415
    assert "application/json" in error_of(response)["message"]


@pytest.mark.parametrize("path", [PATH, "/messages", "/responses", "/messages/count_tokens"])
async def test_a_body_that_is_encoded_is_a_415(serve, upstream: ScriptedUpstream, path: str) -> None:
    """Some clients compress what they send once it is large."""
    gateway = await serve(upstream)
    body = gzip.compress(msgspec.json.encode(gateway.body()))
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    response = await gateway.client.post(path, content=body, headers=headers)
    assert response.status_code == 415
    assert response.headers["accept-encoding"] == "identity"
    message = response.json()["error"]["message"]
    assert message == 'Content-Encoding is "gzip": request bodies are taken only as they are, not encoded.'


async def test_a_body_that_says_that_it_is_not_encoded_is_taken(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream)
    assert (await gateway.ask(headers={"content-encoding": "identity"})).status_code == 200


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json", "application/json ;x=y"]
)
async def test_json_has_many_names(serve, upstream: ScriptedUpstream, kind: str) -> None:
    gateway = await serve(upstream)
    body = msgspec.json.encode(gateway.body())
    response = await gateway.client.post(PATH, content=body, headers={"content-type": kind})
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST, OPTIONS"),
        ("DELETE", "/v1/chat/completions", "POST, OPTIONS"),
        ("POST", "/v1/models", "GET, HEAD, OPTIONS"),
        ("PUT", "/v1/models/m", "GET, HEAD, OPTIONS"),
        ("POST", "/healthz", "GET, HEAD, OPTIONS"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(
    serve, upstream: ScriptedUpstream, method: str, path: str, allowed: str
) -> None:
    """H5."""
    gateway = await serve(upstream)
    response = await gateway.client.request(method, f"http://127.0.0.1:{gateway.port}{path}", json={})
    assert response.status_code == 405
    assert response.headers["allow"] == allowed
    assert error_of(response)["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/chat/", "/v1/modelsx", "/v1/%00", "/..%2f..", "//"])
async def test_an_unknown_path_is_a_404(serve, upstream: ScriptedUpstream, path: str) -> None:
    """H5."""
    gateway = await serve(upstream)
    response = await gateway.client.get(f"http://127.0.0.1:{gateway.port}{path}")
    assert response.status_code == 404
    assert error_of(response)["code"] == "unknown_url"


@pytest.mark.parametrize("is_chunked", [True, False])
@pytest.mark.parametrize("size", [1001, 100_000, 4 << 20])
async def test_a_body_beyond_the_limit_is_a_413(
    serve, upstream: ScriptedUpstream, dial, is_chunked: bool, size: int
) -> None:
    """H3, H5."""
    gateway = await serve(upstream, server={"body_limit": 1000})
    line = await dial(gateway)
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
    framing = "transfer-encoding: chunked" if is_chunked else f"content-length: {size}"
    line.send(f"{head}{framing}\r\nx-request-id: mine\r\n\r\n".encode())
    line.send(b"%x\r\n%b\r\n0\r\n\r\n" % (size, b" " * size) if is_chunked else b" " * size)
    response = await line.read_response()
    assert response.status == 413
    assert response.error["code"] == "request_too_large"
    assert "1000 bytes" in response.error["message"]
    assert response.header("x-request-id") == "mine"
    if response.header("connection") == "close":
        assert await line.read_to_end() == b""
    else:
        line.get()
        assert (await line.read_response()).status == 200


async def test_a_body_at_the_limit_is_read(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream, server={"body_limit": 100_000})
    empty = len(msgspec.json.encode(gateway.body("")))
    assert (await gateway.ask("x" * (100_000 - empty))).status_code == 200
    assert (await gateway.ask("x" * (100_001 - empty))).status_code == 413


@pytest.mark.parametrize("given", ["abc", "a" * 128, "!#$%&'*+-.^_`|~:/?=", "0"])
async def test_a_request_id_is_taken_over(serve, upstream: ScriptedUpstream, given: str) -> None:
    """H4."""
    gateway = await serve(upstream)
    upstream.script(text("one"), text("two"), error(400, "no"))
    answers = [await gateway.ask(headers={"x-request-id": given}) for _ in range(3)]
    answers.append(await gateway.client.get("/models", headers={"x-request-id": given}))
    answers.append(await gateway.client.get("/nowhere", headers={"x-request-id": given}))
    assert {answer.headers["x-request-id"] for answer in answers} == {given}
    assert {line["id"] for line in gateway.log_lines()} == {given}


@pytest.mark.parametrize("given", ["", "a" * 129, "with space", "t\tab", "caf\xe9".encode("latin-1")])
async def test_a_request_id_that_is_unfit_is_replaced(serve, upstream: ScriptedUpstream, given: str | bytes) -> None:
    """H4."""
    gateway = await serve(upstream)
    ids = {(await gateway.ask(headers={"x-request-id": given})).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3
    assert all(found.startswith("req_") and found.isascii() for found in ids)


async def test_a_stream_has_a_request_id(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream)
    answer = await gateway.stream(headers={"x-request-id": "mine"})
    assert answer.headers["x-request-id"] == "mine"


@pytest.mark.parametrize(
    "name", ["m\r\nset-cookie: a=b", "m\nx: y", "m\x00", "m\u2028", '"><script>', "../../etc/passwd"]
)
async def test_no_name_of_a_model_gets_into_a_header(serve, upstream: ScriptedUpstream, name: str) -> None:
    anything = UpstreamSettings(name="any", base_url=upstream.base_url, models=("*",))
    for gateway in (await serve(upstream), await serve(anything)):
        response = await gateway.ask(model=name)
        assert response.status_code in (200, 404)
        assert "set-cookie" not in response.headers
        assert "x" not in response.headers
        assert all(line["id"].startswith("req_") for line in gateway.log_lines())


async def test_no_path_gets_into_a_header_or_breaks_the_log(serve, upstream: ScriptedUpstream, dial) -> None:
    gateway = await serve(upstream)
    line = await dial(gateway)
    for path in ("/v1/models/%0d%0aset-cookie:%20a=b", "/%0d%0a%0d%0aHTTP/1.1%20200%20OK", "/%ff%fe%00", "/%e2%80%a8"):
        line.get(path)
        response = await line.read_response()
        assert response.status == 404
        assert response.header("set-cookie") is None
    assert [line["status"] for line in gateway.log_lines()] == [404] * 4


def failing_chance() -> float:
    """Chance is asked for when a retry is weighed; what it raises is a mistake of our own."""
    raise ZeroDivisionError("with somebody's secret words in it")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_mistake_of_ours_is_a_500_in_the_envelope(serve, upstream: ScriptedUpstream, stream: bool) -> None:
    gateway = await serve(upstream, chance=failing_chance)
    upstream.script(error(500, "busy"))
    response = await gateway.ask(stream=stream, headers={"x-request-id": "mine"})
    assert response.status_code == 500
    assert error_of(response)["code"] == "internal_error"
    assert response.headers["x-request-id"] == "mine"
    (line,) = [line for line in gateway.log_lines() if line["event"] == "error"]
    assert line["id"] == "mine"
    assert line["error"] == "ZeroDivisionError"
    assert "failing_chance" in line["where"]
    assert "secret" not in str(gateway.log_lines())
    assert (await gateway.ask()).status_code == 200


async def test_a_mistake_of_ours_in_a_stream_ends_it_and_does_not_look_like_an_end(
    serve, upstream: ScriptedUpstream, dial
) -> None:
    gate = Gate()
    gateway = await serve(upstream, chance=failing_chance, keep_alive={"first": 0.05})
    upstream.script(error(500, "busy") | before_head(Hold(gate)))
    line = await dial(gateway)
    line.post(gateway.body(stream=True))
    assert (await line.read_head()).status == 200
    gate.open()
    seen = await line.read_to_end()
    assert b"[DONE]" not in seen
    assert not seen.endswith(b"0\r\n\r\n") or b'"error"' in seen
    assert [found["error"] for found in gateway.log_lines() if found["event"] == "error"] == ["ZeroDivisionError"]
    assert (await gateway.ask()).status_code == 200
