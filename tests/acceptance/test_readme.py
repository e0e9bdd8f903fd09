"""The README keeps its word: its program runs, its configuration is taken, its commands are what CI calls."""

import re
import sys
from pathlib import Path

from tests.acceptance.conftest import TUTORIAL_CONFIG
from tests.acceptance.processes import GatewayProcess, run
from unbroken.settings.read import read_settings

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The README's fenced blocks of a language."""
    found = re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert found, f"the README has no {language} block"
    return found


def test_its_program_runs_as_it_stands(gateway: GatewayProcess, tmp_path: Path) -> None:
    for program in blocks("python"):
        environment = gateway.environment() | gateway.claude_environment()
        assert len(run([sys.executable, "-c", program], environment, tmp_path).split()) >= 2


def test_its_configuration_is_taken(tmp_path: Path) -> None:
    for number, text in enumerate(blocks("toml")):
        path = tmp_path / f"{number}.toml"
        path.write_text(text, encoding="utf-8")
        secrets = dict.fromkeys(re.findall(r'"env:(\w+)"', text), "some-long-secret")
        assert read_settings(path, secrets).upstream


def test_the_names_that_it_gives_are_those_that_the_tutorials_are_run_with() -> None:
    assert TUTORIAL_CONFIG.strip() == blocks("toml")[0].strip()


def test_its_two_commands_are_made_and_its_test_command_is_what_ci_calls() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"^make ([a-z-]+)", README, re.MULTILINE)
    assert {"run", "test"} <= set(named) <= set(targets)
    ci = (ROOT / ".ci" / "run").read_text()
    assert re.search(r"^make test$", ci, re.MULTILINE)
    assert re.search(r"^make check$", ci, re.MULTILINE)


def test_every_file_that_it_links_to_is_there() -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []
