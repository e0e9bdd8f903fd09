"""What docs/client.md shows is so."""

import re
from pathlib import Path

import pytest

from tests.client.durable_scripts import TEXT
from tests.client.durable_server import Cut, DurableServer

PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text("utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=[f"snippet {number}" for number in range(len(SNIPPETS))])
def test_every_snippet_runs_and_sees_no_drop(snippet: str, capsys: pytest.CaptureFixture[str]) -> None:
    with DurableServer() as server:
        server.faults.extend([Cut(300), Cut(300)])
        exec(snippet.replace("http://127.0.0.1:8080", server.root), {"__name__": "__main__"})
        asks = "http://127.0.0.1:8080" in snippet
        assert capsys.readouterr().out == (TEXT if asks else "")
        assert len(server.requests) == (3 if asks else 0)


def test_most_snippets_ask_for_something() -> None:
    assert sum("127.0.0.1" in snippet for snippet in SNIPPETS) == 3
