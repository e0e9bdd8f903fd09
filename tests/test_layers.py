"""The rules of the house, read from the sources: who may import whom, what is pure, what must be said."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "unbroken"

#: What each layer may import, beside itself. `cli` may import all.
MAY_IMPORT = {
    "chat": set[str](),
    "wire": {"chat"},
    "rules": {"chat"},
    "store": {"chat"},
    "settings": {"chat"},
    "upstream": {"chat", "wire", "settings"},
    "gateway": {"chat", "wire", "rules", "store", "settings", "upstream"},
    "chaos": {"chat", "wire", "rules", "settings", "upstream", "client"},  # gateways are processes to it, as to anyone
    "client": {"chat", "wire", "rules"},  # it proves that the public protocol is enough
}

PURE = ("chat/", "wire/", "rules/", "settings/tree.py", "settings/document.py")

#: What a pure module may not import: time and chance are arguments, and nothing is opened, awaited or logged.
IMPURE = {
    *("asyncio", "httpx", "httpx2", "logging", "os", "random", "secrets", "socket", "sqlite3", "ssl", "time"),
    *("threading", "anyio", "datetime", "multiprocessing", "pathlib", "selectors", "subprocess", "tempfile", "uuid"),
}

MOST_LINES = 400

#: The roots of tasks, where whatever was raised has to be seen by somebody.
MAY_CATCH_ALL = {
    "gateway/reloading.py",  # the task's root: a reload that fails must not be the last one that is heard of
    "gateway/app.py",  # a request's root: the client gets a 500, the log the error
    "store/memory.py",  # a follower is foreign code: its error goes to the loop, the other followers go on
    "store/sqlite_database.py",  # a thread's root: whoever waits for its work gets the error
    "upstream/engine.py",  # nobody awaits the engine's task: its state says what went wrong
    "upstream/scripted/connection.py",  # the test must see it, and its client must not wait
}

TREES = {str(path.relative_to(PACKAGE)): ast.parse(path.read_text("utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
#: `from unbroken import __version__` is no layer.
LAYERED = [name for name in TREES if "/" in name]


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and full name of every module that is imported, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import hides the layer"
            yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def test_every_layer_is_known() -> None:
    assert {name.partition("/")[0] for name in LAYERED} <= {*MAY_IMPORT, "cli"}


@pytest.mark.parametrize("name", LAYERED)
def test_a_module_imports_only_what_its_layer_may(name: str) -> None:
    layer = name.partition("/")[0]
    allowed = {layer, *MAY_IMPORT.get(layer, set(MAY_IMPORT))}
    wrong = [
        f"line {line}: {layer} may not import {module}"
        for line, module in imported(TREES[name])
        if module.startswith("unbroken.") and (PACKAGE / module.split(".")[1]).is_dir()
        if module.split(".")[1] not in allowed
    ]
    assert not wrong


@pytest.mark.parametrize("name", [name for name in LAYERED if name.startswith(PURE)])
def test_a_pure_module_is_pure(name: str) -> None:
    wrong = [f"line {line}: {module}" for line, module in imported(TREES[name]) if module.split(".")[0] in IMPURE]
    wrong += [
        f"line {node.lineno}: async"
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith | ast.Await)
    ]
    wrong += [
        f"line {node.lineno}: {node.func.id}()"
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("open", "print", "input")
    ]
    assert not wrong


@pytest.mark.parametrize("name", TREES)
def test_every_public_name_says_what_it_is_in_one_line(name: str) -> None:
    wrong = [
        f"line {line}: {what} {'says' if said else 'says nothing'} {said}"
        for line, what, said in public_names(TREES[name])
        if not re.search(r"""[.!?:]["'`)]?$""", said)
    ]
    assert not wrong


def public_names(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """Line, name and first line of the docstring: of the module, its classes and functions, and their own methods.

    A method that a base class or one of our protocols names is described there.
    """
    yield 1, "the module", first_line(tree)
    for node in tree.body:
        if isinstance(node, ast.ClassDef | FUNCTION) and not node.name.startswith("_"):
            yield node.lineno, node.name, first_line(node)
            for method in own_methods(node) if isinstance(node, ast.ClassDef) else ():
                yield method.lineno, f"{node.name}.{method.name}", first_line(method)


def own_methods(node: ast.ClassDef) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The public methods that nobody but this class describes."""
    if node.bases and not is_protocol(node):
        return
    for method in node.body:
        if not isinstance(method, FUNCTION) or method.name.startswith("_"):
            continue
        if is_protocol(node) or method.name not in PROMISED:
            yield method


def is_protocol(node: ast.ClassDef) -> bool:
    """Whether a class only promises what others do."""
    return any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases)


FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef

#: The methods that protocols of ours promise, whose words hold for every class that keeps the promise.
PROMISED = {
    method.name
    for tree in TREES.values()
    for node in tree.body
    if isinstance(node, ast.ClassDef) and is_protocol(node)
    for method in node.body
    if isinstance(method, FUNCTION)
}


def first_line(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """The first line of a docstring; empty where there is none."""
    return (ast.get_docstring(node) or "").partition("\n")[0]


@pytest.mark.parametrize("name", TREES)
def test_no_module_is_too_long(name: str) -> None:
    assert len((PACKAGE / name).read_text("utf-8").splitlines()) <= MOST_LINES, "is it two rooms?"


@pytest.mark.parametrize("name", [name for name in TREES if name not in MAY_CATCH_ALL])
def test_nobody_catches_everything(name: str) -> None:
    assert not list(catches_all(TREES[name]))


def test_whoever_may_catch_everything_does() -> None:
    assert {name for name in TREES if any(catches_all(TREES[name]))} >= MAY_CATCH_ALL & set(TREES)


def catches_all(tree: ast.Module) -> Iterator[str]:
    """Handlers that take any error and keep it; one that ends with a bare `raise` only cleans up."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            kinds = {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)} if node.type else {""}
            last = node.body[-1]
            if kinds & {"", "Exception", "BaseException"} and not (isinstance(last, ast.Raise) and last.exc is None):
                yield f"line {node.lineno} catches everything"
        elif isinstance(node, ast.Call) and re.match(r"(\w+\.)?suppress\(.*\b(Base)?Exception\b", ast.unparse(node)):
            yield f"line {node.lineno} suppresses everything"


def tracked_files() -> list[Path]:
    """What git knows of; all that lies here where this is no checkout."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for folder in ("src", "tests", "docs") for path in (ROOT / folder).rglob("*") if path.is_file()]


def test_no_tracked_file_names_a_place_on_somebodys_machine() -> None:
    homes = r"/(?:home|Users)/(?!you\b|user\b|app\b)[a-z]\w*|/root/\w|\b[A-Z]:\\Users\\\w"
    here = [re.escape(str(place)) + r"\b" for place in (ROOT, ROOT.parent, Path.home()) if len(place.parts) > 2]
    pattern = re.compile("|".join([homes, *here]))
    wrong = []
    for path in tracked_files():
        if not path.is_file() or b"\0" in (data := path.read_bytes())[:8192]:
            continue
        for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
            if (found := pattern.search(line)) and path != Path(__file__):
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {found[0]}")
    assert not wrong
