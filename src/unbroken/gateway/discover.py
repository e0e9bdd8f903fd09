"""Upstreams found without a configuration: OpenAI and Anthropic by their keys, an Ollama, the demo model."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import msgspec

from unbroken.chat.fault import UpstreamFailed
from unbroken.settings.engine import DEMO_NAME, model_name
from unbroken.settings.read import SettingsInvalid
from unbroken.settings.sense import base_url_objections
from unbroken.settings.tree import Settings, UpstreamSettings
from unbroken.upstream.engine_shared import model_path
from unbroken.upstream.http import HttpClient
from unbroken.upstream.model_file import ModelFileInvalid, inspect_model_file

OLLAMA = "http://127.0.0.1:11434/v1"
OPENAI = "https://api.openai.com/v1"
ANTHROPIC = "https://api.anthropic.com/v1"
ANTHROPIC_MODELS = ("claude-*",)
#: Globs, for the list of OpenAI has many that do not chat; `ft:` begins the names of what was fine-tuned there.
OPENAI_MODELS = ("gpt-*", "chatgpt-*", "o?", "o?-*", "codex-*", "ft:*")
#: What programs are given for a key where the server, ours above all, asks for none.
NO_KEYS = ("", "none", "unused", "dummy")
PROBE_SECONDS = 0.3  # a server on this machine answers at once or is not there


async def with_found_upstreams(
    settings: Settings, environment: Mapping[str, str], gguf: Path | None = None
) -> Settings:
    """`settings` with the upstreams that can be found, where it names none; and with an engine for the file `gguf`.

    Raises:
        SettingsInvalid: `gguf` cannot be used, or a variable that says where an upstream is holds no address. A file of
            the configuration is an upstream among others, and may be mended.
    """
    if gguf is not None:
        try:
            inspect_model_file(model_path(str(gguf)))
        except ModelFileInvalid as error:
            raise SettingsInvalid(f"--model: {error}") from None
        own = UpstreamSettings(name=gguf.stem, engine="llama.cpp", path=str(gguf), models=(model_name(str(gguf)),))
        return msgspec.structs.replace(settings, upstream=(own, *settings.upstream))
    if settings.upstream:
        return settings
    found: list[UpstreamSettings] = []
    if (key := environment.get("OPENAI_API_KEY", "")) not in NO_KEYS:
        base_url = _address(environment, "UNBROKEN_OPENAI_BASE_URL", OPENAI)
        found.append(UpstreamSettings(name="openai", base_url=base_url, api_key=key, models=OPENAI_MODELS))
    if (key := environment.get("ANTHROPIC_API_KEY", "")) not in NO_KEYS:
        base_url = _address(environment, "UNBROKEN_ANTHROPIC_BASE_URL", ANTHROPIC)
        found.append(
            UpstreamSettings(
                name="anthropic",
                dialect="anthropic-messages",
                base_url=base_url,
                api_key=key,
                models=ANTHROPIC_MODELS,
            )
        )
    ollama = _address(environment, "UNBROKEN_OLLAMA_BASE_URL", OLLAMA)
    if models := await _models_at(ollama):
        found.append(UpstreamSettings(name="ollama", base_url=ollama, models=models))
    found.append(UpstreamSettings(name="demo", engine="llama.cpp", path="demo", models=(DEMO_NAME,)))
    return msgspec.structs.replace(settings, upstream=tuple(found))


def _address(environment: Mapping[str, str], variable: str, usual: str) -> str:
    address = environment.get(variable) or usual
    for objection in base_url_objections(address):
        raise SettingsInvalid(f"environment: {variable}: {objection}")
    return address


async def _models_at(base_url: str) -> tuple[str, ...]:
    client = HttpClient(base_url, connect_timeout=PROBE_SECONDS)
    try:
        async with asyncio.timeout(2 * PROBE_SECONDS):
            status, body = await client.get("/models", timeout=PROBE_SECONDS)
        listed = msgspec.json.decode(body, type=_Listed) if status == 200 else _Listed()
    except (UpstreamFailed, TimeoutError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ()
    return tuple(model.id for model in listed.data or ())


class _Model(msgspec.Struct):
    id: str


class _Listed(msgspec.Struct):
    data: list[_Model] | None = None
