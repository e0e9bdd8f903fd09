"""Every setting is described, bounded and documented, and the page's example is a configuration."""

from itertools import pairwise
from pathlib import Path

import pytest
from msgspec import Struct, inspect

from unbroken.settings.catalogue import SECTIONS, sections, settings_of, variable
from unbroken.settings.document import LISTS, document, example
from unbroken.settings.engine import EngineOptions
from unbroken.settings.read import read_settings
from unbroken.settings.tree import Settings

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
TABLES: dict[str, type[Struct]] = {**dict(sections()), **LISTS}


def test_the_page_is_what_the_tree_says() -> None:
    assert PAGE.read_text("utf-8") == document(), "python -m unbroken.settings.document > docs/configuration.md"


@pytest.mark.parametrize("name", TABLES)
def test_every_setting_has_a_description_a_default_and_bounds(name: str) -> None:
    assert (TABLES[name].__doc__ or "").endswith(".")
    for setting in settings_of(TABLES[name]):
        assert setting.description, setting.name
        assert not setting.description.endswith("."), setting.name
        assert setting.default is not None or setting.name in ("name", "model", "upstreams"), setting.name
        assert setting.expected
        if isinstance(setting.kind, inspect.IntType | inspect.FloatType):
            assert setting.kind.ge is not None, setting.name
            assert setting.kind.le is not None, setting.name
            assert isinstance(setting.default, int | float)
            assert setting.kind.ge <= setting.default <= setting.kind.le, setting.name


def test_every_table_is_documented() -> None:
    names = {setting.name for setting in settings_of(Settings)}
    assert names == {*SECTIONS, "keys", "upstream", "route"}
    for name in [*SECTIONS, "keys"]:
        assert f"## `[{name}]`" in PAGE.read_text("utf-8")


@pytest.mark.parametrize("name", TABLES)
def test_every_setting_is_on_the_page_and_in_the_example(name: str) -> None:
    page = PAGE.read_text("utf-8").partition("## A complete file")[0]
    for setting in settings_of(TABLES[name]):
        if setting.table is None:
            assert f"| `{setting.name}`" in page
            assert f"\n{setting.name} = " in example()
            if name in SECTIONS:
                assert f"`{variable(name, setting.name)}`" in page


def test_every_line_of_the_example_is_explained() -> None:
    lines = example().splitlines()
    for before, line in pairwise(lines):
        assert line.startswith(("#", "app = ")) or not line or before.startswith("#"), line


def test_the_example_is_a_configuration(tmp_path: Path) -> None:
    file = tmp_path / "unbroken.toml"
    file.write_text(example(), "utf-8")
    settings = read_settings(file, {"OPENAI_API_KEY": "sk-one", "UNBROKEN_KEY_APP": "a-long-enough-key"})
    for name, _ in sections():
        assert getattr(settings, name) == getattr(Settings(), name)
    openai, local = settings.upstream
    assert (openai.api_key, local.path) == ("sk-one", "demo")
    assert local.engine_options == EngineOptions()
    assert settings.keys == {"app": "a-long-enough-key"}
    assert settings.route[0].upstreams == ("openai", "local:small")
