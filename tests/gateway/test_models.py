"""What can be asked for: the list, one model, and what upstreams say of themselves."""

import asyncio

import pytest

from unbroken.settings.tree import RouteSettings, UpstreamSettings
from unbroken.upstream.scripted import (
    Gate,
    Hold,
    Script,
    ScriptedUpstream,
    Stall,
    before_head,
    body,
    error,
    models,
)

pytestmark = pytest.mark.anyio


def names_in(response) -> list[str]:
    assert response.status_code == 200
    listing = response.json()
    assert listing["object"] == "list"
    for row in listing["data"]:
        assert row["object"] == "model"
        assert {"id", "created", "owned_by"} <= set(row)
    return [row["id"] for row in listing["data"]]


def at(upstream: ScriptedUpstream, name: str, *models: str) -> UpstreamSettings:
    return UpstreamSettings(name=name, base_url=upstream.base_url, models=models)


async def test_named_models_are_listed_once_and_in_order(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(at(upstream, "a", "one", "two = theirs"), at(upstream, "b", "two", "org/three"))
    assert names_in(await gateway.client.get("/models")) == ["one", "two", "org/three"]
    assert not upstream.requests


@pytest.mark.parametrize("path", ["org/three", "org%2Fthree", "org%2fthree"])
async def test_a_name_with_a_slash_is_one_name(serve, upstream: ScriptedUpstream, dial, path: str) -> None:
    gateway = await serve(at(upstream, "a", "org/three"))
    line = await dial(gateway)
    line.get(f"/v1/models/{path}")
    response = await line.read_response()
    assert response.status == 200
    assert b'"id":"org/three"' in response.body


async def test_names_in_other_scripts_are_found(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(at(upstream, "a", "modèle-été:7b"))
    response = await gateway.client.get("/models/mod%C3%A8le-%C3%A9t%C3%A9:7b")
    assert response.json()["id"] == "modèle-été:7b"


async def test_a_route_is_a_model(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(
        at(upstream, "a", "one"),
        route=(RouteSettings(model="best", upstreams=("a:one",)),),
    )
    assert names_in(await gateway.client.get("/models")) == ["best", "one"]
    assert (await gateway.client.get("/models/best")).status_code == 200


async def test_behind_a_glob_the_upstream_is_asked(serve, upstream: ScriptedUpstream) -> None:
    upstream.answer_with(lambda request: models(["small-1", "large-1", "small-2"]) if request.method == "GET" else None)
    gateway = await serve(at(upstream, "a", "small-*", "named"))
    assert names_in(await gateway.client.get("/models")) == ["named", "small-1", "small-2"]
    assert (await gateway.client.get("/models/small-9")).status_code == 200  # a glob takes it: the upstream will say
    assert (await gateway.client.get("/models/large-1")).status_code == 404


async def test_an_upstream_without_names_is_asked_for_all(serve, upstream: ScriptedUpstream) -> None:
    upstream.answer_with(lambda request: models(["x", "org/y"]) if request.method == "GET" else None)
    gateway = await serve(at(upstream, "a"))
    assert names_in(await gateway.client.get("/models")) == ["x", "org/y"]


async def test_what_an_upstream_says_of_its_models_is_kept(serve, upstream: ScriptedUpstream) -> None:
    said = b'{"data":[{"id":"x","created":7,"owned_by":"them","max_model_len":4096,"surprise":[1]},{"no":"id"},3]}'
    upstream.answer_with(lambda request: body(said))
    gateway = await serve(at(upstream, "a"))
    (row,) = (await gateway.client.get("/models")).json()["data"]
    assert row == {
        "id": "x", "object": "model", "created": 7, "owned_by": "them", "max_model_len": 4096, "surprise": [1]
    }  # fmt: skip


async def test_many_who_ask_ask_the_upstream_once(serve, upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.answer_with(lambda request: models(["x"]) | before_head(Hold(gate)))
    gateway = await serve(at(upstream, "a"))
    asking = [asyncio.create_task(gateway.client.get("/models")) for _ in range(20)]
    await gate.wait_until_reached()
    gate.open()
    for response in await asyncio.gather(*asking):
        assert names_in(response) == ["x"]
    assert names_in(await gateway.client.get("/models")) == ["x"]
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        error(500, "broken"),
        error(401, "who are you"),
        body(b"<html>", content_type="text/html"),
        body(b"{}"),
        body(b"[]"),
        body(b'{"data":{}}'),
        body(b'{"data":[{"id":null}]}'),
        body(b""),
        body(b'{"data": ' + b"[" * 100_000),
    ],
)
async def test_an_upstream_that_does_not_say_spoils_nothing(serve, upstream: ScriptedUpstream, answer) -> None:
    upstream.answer_with(lambda request: answer)
    async with ScriptedUpstream() as other:
        other.answer_with(lambda request: models(["x"]))
        gateway = await serve(at(upstream, "a"), at(other, "b"), at(upstream, "c", "named"))
        assert names_in(await gateway.client.get("/models")) == ["named", "x"]


async def test_an_upstream_that_is_not_there_spoils_nothing(serve, upstream: ScriptedUpstream) -> None:
    await upstream.stop()
    gateway = await serve(at(upstream, "a", "*", "named"))
    assert names_in(await gateway.client.get("/models")) == ["named"]


async def test_a_silent_upstream_is_not_waited_for_twice(serve, upstream: ScriptedUpstream) -> None:
    upstream.answer_with(lambda request: Script((Stall(),)))
    gateway = await serve(at(upstream, "a", "*", "named"))
    for _ in range(3):
        assert names_in(await gateway.client.get("/models")) == ["named"]
    assert len(upstream.requests) == 1
