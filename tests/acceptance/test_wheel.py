"""The wheel, installed into an environment of its own outside the checkout, runs with all that it needs."""

import os
import re
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
from openai import OpenAI

from tests.acceptance.processes import bare_environment, gateway_process, missing, run
from unbroken import __version__

pytestmark = pytest.mark.timeout(600)  # a package index may take its time

ROOT = Path(__file__).parent.parent.parent
MAX_WHEEL_BYTES = 12 << 20  # ten of them for the demo model


@pytest.fixture(scope="session")
def uv() -> str:
    """The path of uv, which `make` puts beside Python."""
    path = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if path is None:
        missing("uv is not installed")
    return path


@pytest.fixture(scope="session")
def wheel(uv: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout, built with what is installed: nothing is fetched for it."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-build-isolation", "--python", sys.executable, "--out-dir", str(folder), "--no-create-gitignore"]
    run([uv, "build", "--wheel", *options, str(ROOT)], bare_environment())
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(uv: str, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of a fresh environment with the wheel in it, and what it depends on as locked."""
    folder = tmp_path_factory.mktemp("elsewhere")
    environment = bare_environment()
    locked = ["--frozen", "--no-dev", "--no-emit-project", "--no-hashes", "--no-header"]
    (folder / "locked.txt").write_text(run([uv, "export", *locked], environment, cwd=ROOT))
    run([uv, "venv", "--python", sys.executable, str(folder / "venv")], environment)
    python = str(folder / "venv" / "bin" / "python")
    run([uv, "pip", "install", "--python", python, "-c", str(folder / "locked.txt"), str(wheel)], environment)
    return folder / "venv" / "bin"


def test_the_wheel_has_the_model_the_types_and_the_licence_and_no_tests(
    wheel: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    size = wheel.stat().st_size
    with capsys.disabled():
        print(f"\n{wheel.name}: {size / (1 << 20):.1f} MiB")
    assert "unbroken/models/unbroken-demo.gguf" in names
    assert "unbroken/py.typed" in names
    assert any(re.fullmatch(r"unbroken-.*\.dist-info/licenses/LICENSE", name) for name in names)
    assert {name.partition("/")[0] for name in names} == {"unbroken", f"unbroken-{__version__}.dist-info"}
    assert not [name for name in names if re.search(r"(^|/)(test_|tests/|conftest)|\.pyc$", name)]
    assert size < MAX_WHEEL_BYTES


def test_it_says_its_version_and_how_to_use_it(installed: Path, tmp_path: Path) -> None:
    program = str(installed / "unbroken")
    assert run([program, "--version"], bare_environment(), tmp_path) == f"unbroken {__version__}\n"
    assert "unbroken serve" in run([program, "--help"], bare_environment(), tmp_path)


def test_the_doctor_finds_it_well(installed: Path, tmp_path: Path) -> None:
    environment = bare_environment(UNBROKEN_SERVER_PORT="0")
    found = run([str(installed / "unbroken"), "doctor"], environment, tmp_path)
    assert "unbroken-demo" in found
    assert "✗" not in found


def test_it_serves_the_demo_model(installed: Path, tmp_path: Path) -> None:
    with (
        gateway_process(cwd=tmp_path, python=str(installed / "python")) as running,
        OpenAI(base_url=running.base_url, api_key="none") as client,
    ):
        answer = client.chat.completions.create(
            model="unbroken-demo", messages=[{"role": "user", "content": "Hello, how are you?"}]
        )
    assert len(answer.choices[0].message.content or "") > 10


def test_its_chat_answers_though_nothing_else_runs(installed: Path, tmp_path: Path) -> None:
    environment = {**bare_environment(), "XDG_RUNTIME_DIR": str(tmp_path)}  # where it looks for gateways that run
    answer = run([str(installed / "unbroken"), "chat", "Hello"], environment, tmp_path)
    assert len(answer.split()) >= 2
