"""`js/`, the fetch that goes on where a line was cut: its own tests, its types, and a real gateway; run by Node."""

import json
from pathlib import Path

import pytest

from tests.acceptance.conftest import GatewayBefore
from tests.acceptance.processes import bare_environment, missing, needed, run, scripted_process, wait_for
from tests.acceptance.test_node import NODE, node

PACKAGE = Path(__file__).parent.parent.parent / "js"
MEMORY = '[store]\nstreams = "memory"'
WORDS = 60
SENTENCE = " ".join(f"word{number}" for number in range(1, WORDS + 1))


def typescript() -> str:
    """The compiler; `npm ci` must have been run."""
    compiler = NODE / "node_modules" / ".bin" / "tsc"
    if not compiler.exists():
        missing("the package typescript is not installed in tests/node (npm ci)")
    return str(compiler)


@pytest.mark.parametrize("tests", ["resuming_blocks.test.mjs", "resuming_transport.test.mjs"])
def test_what_the_package_does(tests: str) -> None:
    command, program = node(tests)
    run([command, "--test", program], bare_environment(), cwd=NODE)


def test_the_package_is_what_its_types_say() -> None:
    run([needed("node"), typescript(), "--project", str(PACKAGE)], bare_environment())


def test_a_program_in_typescript_compiles() -> None:
    run([needed("node"), typescript(), "--project", str(NODE)], bare_environment(), cwd=NODE)


def test_the_package_is_all_that_it_needs() -> None:
    package = json.loads((PACKAGE / "package.json").read_text())
    assert not [key for key in package if key.endswith("ependencies")]
    packed = json.loads(run([needed("npm"), "pack", "--dry-run", "--json"], bare_environment(), cwd=PACKAGE))
    listed = packed if isinstance(packed, list) else list(packed.values())
    files = {file["path"] for file in listed[0]["files"]}
    sources = {str(path.relative_to(PACKAGE)) for path in (PACKAGE / "src").iterdir()}
    assert files == sources | {"index.js", "index.d.ts", "package.json", "README.md", "LICENSE"}


def test_a_line_that_breaks_every_1500_bytes_before_a_real_gateway(gateway_before: GatewayBefore) -> None:
    """D1, D3, D5, D8: the SDK reads the whole answer, the model is asked once for each, and a break stops it."""
    with (
        scripted_process("gap=0.002", "gap=0.002", "gap=0.05", words=WORDS) as upstream,
        gateway_before(upstream, "scripted", more=MEMORY) as running,
    ):
        streamed, whole = map(json.loads, run(node("resuming_gateway.mjs"), running.environment()).splitlines())
        assert streamed["text"] == whole["text"] == SENTENCE
        assert len(streamed["offsets"]) >= 3
        assert streamed["offsets"] == sorted(set(streamed["offsets"]))
        wait_for(lambda: running.metric("unbroken_requests_total", outcome="cancelled") == 1, "the third is cancelled")
        assert running.metric("unbroken_requests_total", outcome="finished") == 2
