"""Browsers that call from other origins."""

import pytest

from unbroken.upstream.scripted import ScriptedUpstream, error, rate_limited, text, with_headers

pytestmark = pytest.mark.anyio

APP = "https://app.example"
PREFLIGHT = {
    "origin": APP,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization, content-type, x-stainless-lang",
}


async def options(gateway, path: str = "/chat/completions", **headers: str):
    return await gateway.client.options(path, headers={**PREFLIGHT, **headers})


async def test_a_preflight_of_an_allowed_page_is_granted(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream, server={"cors_origins": [APP]}, keys={"app": "sk-app-secret"})
    gateway.client.headers.pop("authorization")  # browsers send none here
    response = await options(gateway)
    assert response.status_code == 204
    assert response.headers["access-control-allow-origin"] == APP
    assert response.headers["access-control-allow-methods"] == "POST, OPTIONS"
    assert response.headers["access-control-allow-headers"] == "authorization, content-type, x-stainless-lang"
    assert response.headers["access-control-max-age"] == "600"
    assert response.headers["vary"] == "origin"


async def test_a_preflight_of_another_page_is_not(serve, upstream: ScriptedUpstream) -> None:
    """H8."""
    gateway = await serve(upstream, server={"cors_origins": [APP]})
    response = await options(gateway, origin="https://evil.example")
    assert response.status_code == 204
    assert not [name for name in response.headers if name.startswith("access-control-")]
    assert response.headers["vary"] == "origin"


@pytest.mark.parametrize("origin", ["https://app.example.evil", "https://APP.example", "http://app.example", "null"])
async def test_origins_are_compared_whole(serve, upstream: ScriptedUpstream, origin: str) -> None:
    """H8."""
    gateway = await serve(upstream, server={"cors_origins": [APP]})
    response = await gateway.client.get("/models", headers={"origin": origin})
    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers


async def test_an_asterisk_allows_every_page(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream, server={"cors_origins": ["*"]})
    for origin in (APP, "null", "https://other.example"):
        assert (await options(gateway, origin=origin)).headers["access-control-allow-origin"] == "*"
        response = await gateway.ask(headers={"origin": origin})
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "*"


async def test_answers_streams_and_errors_can_all_be_read(serve, upstream: ScriptedUpstream) -> None:
    """H8."""
    gateway = await serve(upstream, server={"cors_origins": [APP]}, keys={"app": "sk-app-secret"})
    page = {"origin": APP}
    answers = [
        await gateway.ask(headers=page),
        await gateway.stream(headers=page),
        await gateway.ask(headers={**page, "authorization": "Bearer wrong"}),
        await gateway.ask(headers=page, model="unknown"),
        await gateway.client.get("/nowhere", headers=page),
        await gateway.client.get("/chat/completions", headers=page),
        await gateway.client.post("/chat/completions", content=b"{", headers=page),
    ]
    upstream.script(error(400, "no"))
    answers.append(await gateway.ask(headers=page))
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == APP
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
        assert "retry-after" in answer.headers["access-control-expose-headers"]


async def test_a_page_may_read_every_header_that_means_something(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream, server={"cors_origins": [APP]})
    limits = {f"x-ratelimit-{what}-requests": "1" for what in ("limit", "remaining", "reset")}
    upstream.always(text("one") | with_headers(limits))
    page, durable = {"origin": APP}, {"unbroken-durable": "true", "idempotency-key": "a"}
    message = {**gateway.body(), "max_tokens": 9, "top_k": 5}
    answers = [
        await gateway.ask(headers=page),
        await gateway.client.post("/messages", json=message, headers=page),
        await gateway.client.post("/messages/count_tokens", json=gateway.body(), headers=page),
        *[await gateway.ask(headers={**page, **durable}) for _ in range(2)],
        await gateway.ask("another", headers={**page, **durable}),
    ]
    upstream.always(rate_limited(60))
    answers.append(await gateway.ask(headers=page))
    seen = set()
    for answer in answers:
        exposed = answer.headers["access-control-expose-headers"].split(", ")
        prefixes = ("x-", "unbroken-", "anthropic-", "request-id", "retry-after")
        named = {name for name in answer.headers if name.startswith(prefixes)}
        assert named <= set(exposed)
        seen |= named
    assert {"unbroken-replayed", "unbroken-estimated", "unbroken-dropped", "x-should-retry", "retry-after"} <= seen
    assert {"x-ratelimit-reset-requests", "anthropic-ratelimit-requests-limit"} <= seen


async def test_a_body_that_is_too_large_can_be_read_about(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream, server={"cors_origins": [APP], "body_limit": 1000})
    response = await gateway.ask("x" * 3_000_000, headers={"origin": APP})
    assert response.status_code == 413
    assert response.headers["access-control-allow-origin"] == APP


async def test_who_is_no_page_gets_no_such_headers(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream, server={"cors_origins": ["*"]})
    response = await gateway.ask()
    assert not [name for name in response.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("wanted", ["x\x01y", "caf\xe9", "a b", "x" * 2000, "a,,b", "a: b"])
async def test_nonsense_is_not_repeated(serve, upstream: ScriptedUpstream, dial, wanted: str) -> None:
    gateway = await serve(upstream, server={"cors_origins": [APP]})
    line = await dial(gateway)
    head = f"OPTIONS /v1/models HTTP/1.1\r\nhost: gateway\r\norigin: {APP}\r\n"
    line.send(f"{head}access-control-request-headers: {wanted}\r\n\r\n".encode("latin-1"))
    response = await line.read_response()
    assert response.status in (204, 400)
    assert wanted not in (response.header("access-control-allow-headers") or "")
