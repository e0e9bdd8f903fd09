"""The page on adding a dialect keeps its word: what it names is there, nothing that is promised is missing."""

import re
from pathlib import Path

import pytest

from unbroken.gateway.app import ROUTES
from unbroken.gateway.questions import DIALECTS
from unbroken.settings.tree import UpstreamSettings
from unbroken.wire.dialects import Dialect

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "adding-a-dialect.md").read_text(encoding="utf-8")


def test_the_files_that_it_names_are_there() -> None:
    named = re.findall(r"`((?:src|tests)/[^`<]+)`", PAGE)
    linked = [f"docs/{path}" for path in re.findall(r"\]\((?!https?://)([^)#]+)\)", PAGE)]
    assert len(named) > 10
    assert [path for path in [*named, *linked] if not (ROOT / path).exists()] == []


def test_it_tells_of_all_that_a_dialect_promises() -> None:
    promised = {*Dialect.__annotations__, *(name for name in vars(Dialect) if not name.startswith("_"))}
    told = {name for row in re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert told == promised


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_every_dialect_is_where_it_says(dialect: Dialect) -> None:
    package = dialect.name.replace("-", "_")
    assert (ROOT / "src" / "unbroken" / "wire" / package / "dialect.py").exists()
    assert any((ROOT / "tests" / "corpus" / package).iterdir())
    assert UpstreamSettings(name="any", dialect=dialect.name).dialect == dialect.name  # type: ignore[arg-type]
    assert "POST" in ROUTES[f"/v1{dialect.path}"]
