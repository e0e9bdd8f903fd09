"""The public protocol is held: each rule of docs/protocol.md is cited by a test that would fail without it."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
PROTOCOL = (TESTS.parent / "docs" / "protocol.md").read_text("utf-8")

RULES = re.findall(r"^- \*\*([A-Z]\d+)\*\* ", PROTOCOL, re.MULTILINE)

_CITED = re.compile(rf"\b[{''.join(sorted({rule[0] for rule in RULES}))}][1-9]\d?\b")
#: Such as "D1 to D8": what a file is about. It says of no rule that it is held there.
_RANGE = re.compile(r"\b[A-Z]\d+(?: to |-)[A-Z]\d+\b")


def remarks(source: str) -> Iterator[str]:
    """The docstrings and comments of a module: where tests cite."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


REMARKS = {
    str(path.relative_to(TESTS)): list(remarks(path.read_text("utf-8")))
    for path in sorted(TESTS.rglob("test_*.py"))
    if path != Path(__file__)
}


def test_every_rule_has_a_number_of_its_own() -> None:
    """From 1 on and without gaps."""
    letters = [rule[0] for rule in RULES]
    assert set(letters) == set("LHCAOTSDKR")
    for letter in set(letters):
        numbers = [int(rule[1:]) for rule in RULES if rule[0] == letter]
        assert numbers == list(range(1, len(numbers) + 1)), letter


def test_every_rule_that_the_protocol_cites_is_there() -> None:
    assert not [rule for rule in _CITED.findall(PROTOCOL) if rule not in RULES]


def test_every_rule_is_cited_by_a_test() -> None:
    said = (_RANGE.sub("", remark) for found in REMARKS.values() for remark in found)
    cited = {rule for remark in said for rule in _CITED.findall(remark)}
    assert not [rule for rule in RULES if rule not in cited]


def test_every_rule_that_a_test_cites_is_there() -> None:
    wrong = [
        f"{name}: {rule}"
        for name, found in REMARKS.items()
        for remark in found
        for rule in _CITED.findall(remark)
        if rule not in RULES
    ]
    assert not wrong
