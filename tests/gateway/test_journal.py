"""The log: what its lines say, and that it holds nothing up."""

import io
import threading

import msgspec
import pytest

from unbroken.gateway.journal import MAX_WAITING, MAX_WRITE_BYTES, Journal
from unbroken.upstream.scripted import (
    Gate,
    ScriptedUpstream,
    body,
    cut_after,
    error,
    error_event,
    events,
    hold_after,
    insert_after,
    text,
)

from .conftest import settings_of, upstream_settings

pytestmark = pytest.mark.anyio


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def read(out: io.StringIO) -> list[dict[str, object]]:
    return [msgspec.json.decode(line) for line in out.getvalue().split("\n") if line]


async def test_an_answer_has_one_line_that_says_it_all(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream, keys={"app": "sk-app-secret"})
    upstream.script(error(500, "busy"), text("one two three"))
    answer = await gateway.stream("a very private question")
    (line,) = [line for line in gateway.log_lines() if line["event"] == "request"]
    assert line["id"] == answer.headers["x-request-id"]
    expected = {
        "method": "POST", "path": "/v1/chat/completions", "status": 200, "key": "app", "model": "m",
        "upstream": "up0", "attempts": 2, "stream": True, "outcome": "finished",
    }  # fmt: skip
    assert expected.items() <= line.items()
    assert line["input_tokens"] > 0
    assert line["output_tokens"] > 0
    assert 0 < line["first_token_s"] <= line["duration_s"]
    assert line["time"].endswith("Z")


async def test_nothing_private_is_in_the_log(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream, keys={"app": "sk-app-secret"})
    upstream.script(text("confidential answer"), text("confidential answer") | cut_after(3))
    await gateway.ask("a very private question", user="somebody")
    await gateway.stream("a very private question", metadata={"name": "somebody"})
    await gateway.client.post("/chat/completions", content=b'{"private', headers={"content-type": "application/json"})
    await gateway.ask(model="m", messages="private")
    logged = str(gateway.log_lines())
    for word in ("private", "confidential", "secret", "somebody"):
        assert word not in logged


QUOTING = "cannot parse: last read: '\"a very private question'"

# What it says, and what the log says of it.
QUOTES = {
    "a 500": (error(500, QUOTING), "answered with a server error (500)"),
    "a 500 as text": (
        body(QUOTING.encode(), status=500, content_type="text/plain"),
        "answered with a server error (500)",
    ),
    "a 503": (error(503, QUOTING), "was overloaded (503)"),
    "a 400": (error(400, QUOTING), "refused the request (400)"),
    "a 403": (error(403, QUOTING), "refused our key (403)"),
    "a redirect": (body(b"", status=308, headers={"location": "/private"}), "sent what is no valid answer (308)"),
    "an error event": (text("x") | error_event(QUOTING, after=0), "answered with a server error"),
    "an error event later": (
        text("one two") | error_event(QUOTING, after=3, type="odd"),
        "sent an error in its stream",
    ),
    "an error event with a word of ours": (
        text("one two") | error_event(QUOTING, after=3, type="odd", code="cut"),
        "sent an error in its stream",
    ),
    "a refusal in mid-answer": (
        text("one two") | error_event(QUOTING, after=3, type="invalid_request_error"),
        "broke off its answer",
    ),
    "no chunk": (text("one two") | insert_after(2, {"choices": "private"}), "sent what is no valid answer"),
    "an event of its own": (events({"private": 1}), "stream ended before the first token after 0 chunks"),
    "a cut": (
        text("private question") | cut_after(3),
        "the connection was closed in the middle of the response after 2 chunks",
    ),
}


@pytest.mark.parametrize("name", QUOTES)
@pytest.mark.parametrize("dialect", ["/chat/completions", "/messages"])
async def test_what_an_upstream_quotes_is_not_in_the_log(
    serve, upstream: ScriptedUpstream, name: str, dialect: str
) -> None:
    """An upstream's words may repeat the caller's; neither the line of the request has them nor that of the circuit."""
    said, logged = QUOTES[name]
    upstream.always(said)
    gateway = await serve(upstream, retries={"attempts": 1, "breaker_failures": 1})
    request = {**gateway.body("a very private question", stream=True), "max_tokens": 9}
    await gateway.client.post(dialect, json=request)
    await gateway.wait_until_idle()
    lines = gateway.log_lines()
    assert "private" not in str(lines)
    (message,) = [line["message"] for line in lines if line["event"] == "request"]
    assert message.startswith(logged) or dialect == "/messages"
    for line in lines:
        assert line["event"] != "upstream" or message.startswith(line["message"])


async def test_a_refusal_that_closes_a_circuit_is_not_in_the_log(serve, upstream: ScriptedUpstream) -> None:
    """An upstream that refuses a request is well."""
    upstream.script(error(500, "broken"))
    upstream.always(error(400, QUOTING))
    retries = {"attempts": 1, "breaker_failures": 1}
    gateway = await serve(upstream, retries=retries)
    await gateway.ask()
    gateway.gateway.apply(settings_of(upstream, retries={**retries, "breaker_cooldown": 0}))
    assert (await gateway.ask("a very private question")).status_code == 400
    lines = gateway.log_lines()
    assert "private" not in str(lines)
    assert [(line["circuit"], line.get("message")) for line in lines if line["event"] == "upstream"] == [
        ("open", "answered with a server error (500)"), ("closed", None)
    ]  # fmt: skip


async def test_every_end_has_its_outcome(serve, upstream: ScriptedUpstream, dial) -> None:
    gateway = await serve(upstream, retries={"attempts": 1})
    upstream.script(text("one two three") | cut_after(3))
    await gateway.stream()
    upstream.script(error(429, "slow down"))
    await gateway.ask()
    upstream.script(text("one two three") | hold_after(2, Gate()))
    line = await dial(gateway)
    line.post(gateway.body(stream=True))
    await line.read_head()
    line.reset()
    await upstream.wait_until_left()
    await gateway.wait_until_connections(1)
    await gateway.ask()
    lines = [line for line in gateway.log_lines() if line["event"] == "request"]
    assert [(line["outcome"], line["status"]) for line in lines] == [
        ("cut", 200), ("rate_limited", 429), ("client_left", 200), ("finished", 200)
    ]  # fmt: skip


async def test_other_calls_have_a_line_too(serve, upstream: ScriptedUpstream, dial) -> None:
    gateway = await serve(upstream, keys={"app": "sk-app-secret"})
    await gateway.client.get("/models", headers={"x-request-id": "a"})
    await gateway.client.get("/nowhere", headers={"x-request-id": "b"})
    await gateway.client.get("/models", headers={"x-request-id": "c", "authorization": "Bearer wrong"})
    await gateway.ask(model="unknown", headers={"x-request-id": "d"})
    line = await dial(gateway)
    line.send(b"GET /x HTTP/1.1\r\nhost: a\r\nx-request-id: e\r\nx: y\r\nbroken\r\n\r\n")
    await line.read_response()
    found = [(line["event"], line["id"], line["status"], line.get("code")) for line in gateway.log_lines()]
    assert found == [
        ("request", "a", 200, None),
        ("refused", "b", 404, "unknown_url"),
        ("refused", "c", 401, "invalid_api_key"),
        ("refused", "d", 404, "model_not_found"),
        ("refused", "e", 400, None),
    ]


async def test_a_refusal_says_which_model_was_asked_for_and_which_field_is_wrong(
    serve, upstream: ScriptedUpstream
) -> None:
    gateway = await serve(upstream)
    count, responses = "/messages/count_tokens", "/responses"
    for path, asked in (
        ("/chat/completions", gateway.body(model="unknown")),
        ("/chat/completions", gateway.body(model="u" * 5000)),
        (count, gateway.body(model="unknown")),
        (responses, {"model": "m", "input": [{"type": "message", "role": 5, "content": "private"}]}),
        ("/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "private"}, {"private": 1}]}),
        ("/chat/completions", gateway.body(metadata={"private": 1}, logit_bias={"private": 1}, stop={"private": 1})),
    ):
        await gateway.client.post(path, json=asked)
    lines = [line for line in gateway.log_lines() if line["event"] == "refused"]
    assert [(line["status"], line.get("model"), line.get("param")) for line in lines] == [
        (404, "unknown", None),
        (404, "u" * 100, None),
        (404, "unknown", None),
        (400, "m", "input[0]"),
        (400, None, "messages[1].role"),
        (400, None, "stop"),
    ]
    assert "private" not in str(lines)


async def test_who_answered_is_said_only_where_it_is_not_who_was_asked(serve, upstream: ScriptedUpstream) -> None:
    aliased = upstream_settings("up0", upstream, models=("m",))
    routes = [{"model": "alias", "upstreams": ["up0:m"]}]
    gateway = await serve(aliased, route=routes, retries={"attempts": 1, "breaker_failures": 1})
    await gateway.ask()
    await gateway.ask(model="alias")
    upstream.always(error(503, "busy"))
    await gateway.ask()
    await gateway.ask()
    lines = [line for line in gateway.log_lines() if line["event"] == "request"]
    assert [(line["model"], line.get("answered"), line["outcome"]) for line in lines] == [
        ("m", None, "finished"),
        ("alias", "m", "finished"),
        ("m", None, "overloaded"),
        ("m", None, "no_upstream"),
    ]


async def test_who_leaves_while_sending_has_a_line(serve, upstream: ScriptedUpstream, dial) -> None:
    gateway = await serve(upstream)
    line = await dial(gateway)
    line.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n")
    line.send(b"expect: 100-continue\r\ncontent-length: 9\r\n\r\n")
    assert (await line.read_head()).status == 100
    line.reset()
    await gateway.wait_until_connections(0)
    await gateway.ask()  # by now the other's handler has heard of it, too
    assert [line["status"] for line in gateway.log_lines()] == [499, 200]


def test_a_terminal_gets_words_and_a_file_gets_json() -> None:
    for out, format, starts_with in (
        (Terminal(), "auto", ""),
        (io.StringIO(), "auto", "{"),
        (Terminal(), "json", "{"),
        (io.StringIO(), "human", ""),
    ):
        journal = Journal(out, format=format, clock=lambda: 1_700_000_000.25)
        journal.note("request", method="POST", path="/v1", status=200, nothing=None, duration_s=1.23456)
        journal.close()
        written = out.getvalue()
        assert written.count("\n") == 1
        if starts_with:
            assert msgspec.json.decode(written)["time"] == "2023-11-14T22:13:20.250Z"
        else:
            assert written.endswith("request   POST /v1 200 duration_s=1.23\n")


def test_no_value_begins_a_line_or_moves_the_cursor() -> None:
    nasty = "a\nb\r\x1b[2Jc\x00d\x9be\u2028f\u202eg"
    for format in ("human", "json"):
        out = io.StringIO()
        journal = Journal(out, format=format)
        journal.note("request", path=nasty, model=nasty)
        journal.close()
        assert out.getvalue().count("\n") == 1
        if format == "json":
            assert read(out)[0]["model"] == nasty
        else:
            assert not set("\r\x1b\x00\x9b\u2028\u202e") & set(out.getvalue())


def test_what_json_cannot_hold_costs_one_line_and_not_the_log() -> None:
    out = io.StringIO()
    journal = Journal(out, format="json")
    journal.note("odd", value=object())
    journal.note("odd", value="\ud800")
    journal.note("fine", value=1)
    journal.close()
    assert [line["event"] for line in read(out)] == ["odd", "odd", "fine"]


class Stuck(io.StringIO):
    """A pipe that nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.is_read = threading.Event()

    def write(self, text: str) -> int:
        assert self.is_read.wait(30)
        return super().write(text)


def test_a_log_that_is_stuck_holds_nobody_up_and_says_what_it_lost() -> None:
    out = Stuck()
    journal = Journal(out, format="json")
    for number in range(3 * MAX_WAITING):
        journal.note("line", number=number)
    out.is_read.set()
    journal.flush()
    journal.note("last")
    journal.close()
    lines = read(out)
    dropped = sum(line["count"] for line in lines if line["event"] == "lines_dropped")
    assert dropped >= MAX_WAITING
    assert len([line for line in lines if line["event"] == "line"]) + dropped == 3 * MAX_WAITING
    assert lines[-1]["event"] == "last"


class Full(io.StringIO):
    """A disk without room."""

    is_full = True

    def write(self, text: str) -> int:
        if self.is_full:
            raise OSError(28, "No space left on device")
        return super().write(text)


class Written(io.StringIO):
    """Keeps what was written at once."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return super().write(text)


def test_what_is_written_at_once_are_whole_lines_that_fit_a_pipe() -> None:
    """Several workers write to one standard error."""
    out = Written()
    journal = Journal(out, format="json", always={"worker": 2})
    for number in range(500):
        journal.note("request", number=number, message="é" * (number % 100))
    journal.close()
    assert all(piece.endswith("\n") and len(piece.encode()) <= MAX_WRITE_BYTES for piece in out.pieces)
    assert len(out.pieces) < 50
    assert [line["number"] for line in read(out)] == list(range(500))
    assert {line["worker"] for line in read(out)} == {2}


def test_a_full_disk_does_not_end_the_log() -> None:
    out = Full()
    journal = Journal(out, format="json")
    journal.note("lost")
    journal.flush()
    out.is_full = False
    journal.note("kept")
    journal.close()
    assert [(line["event"], line.get("count")) for line in read(out)] == [("lines_dropped", 1), ("kept", None)]


def test_a_file_that_was_moved_away_is_opened_anew(tmp_path) -> None:
    path = tmp_path / "log"
    journal = Journal(format="json", file=str(path))
    journal.note("before")
    journal.flush()
    path.rename(tmp_path / "log.1")
    journal.note("between")
    journal.reopen(format="json", file=str(path))
    journal.note("after")
    journal.close()
    assert b'"before"' in (tmp_path / "log.1").read_bytes()
    assert b'"between"' in (tmp_path / "log.1").read_bytes()
    assert path.read_bytes().count(b"\n") == 1


def test_a_file_that_cannot_be_opened_leaves_the_log_as_it_is(tmp_path) -> None:
    path = tmp_path / "log"
    journal = Journal(format="json", file=str(path))
    journal.reopen(format="json", file=str(tmp_path / "nowhere" / "log"))
    journal.note("still")
    journal.flush()
    journal.close()
    assert b"still" in path.read_bytes()
    assert b"could not be opened anew" in path.read_bytes()
