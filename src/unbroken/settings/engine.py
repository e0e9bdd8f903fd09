"""The settings of the embedded engine: llama.cpp in a child process."""

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

#: How the model is called that comes with Unbroken.
DEMO_NAME = "unbroken-demo"


def _says(description: str, *, ge: float | None = None, le: float | None = None) -> Meta:
    return Meta(description=description, ge=ge, le=le)


class EngineOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a GGUF file is run."""

    context_size: Annotated[
        int,
        _says(
            "tokens that each conversation may hold; 0 takes the model's own, at most 8192 and what fits",
            ge=0,
            le=1 << 24,
        ),
    ] = 0
    slots: Annotated[int, _says("answers that are generated at the same time; more wait their turn", ge=1, le=256)] = 4
    threads: Annotated[
        int, _says("CPU threads; 0 takes the physical cores that this process may use", ge=0, le=512)
    ] = 0
    batch_size: Annotated[
        int,
        _says(
            "prompt tokens computed in one go; other answers and a cancel wait for its end; 0 is 256, 2048 on a GPU",
            ge=0,
            le=1 << 16,
        ),
    ] = 0
    gpu_layers: Annotated[
        int, _says("layers put on the GPU, if there is one; -1 takes all that fit", ge=-1, le=10_000)
    ] = -1
    chat_template: Annotated[
        str, _says("Jinja chat template, or the path of a file with one, instead of the model's own")
    ] = ""
    load_timeout: Annotated[float, _says("seconds in which the model must be loaded", ge=0, le=86_400)] = 600.0
    hang_timeout: Annotated[
        float,
        _says(
            "seconds without a sign of life, neither an answer to a question nor time spent computing, after which the"
            " engine is killed and started again; 0 waits for ever",
            ge=0,
            le=86_400,
        ),
    ] = 10.0
    verbose: Annotated[bool, _says("copy llama.cpp's own log to standard error; it holds parts of prompts")] = False


class EngineSettings(EngineOptions, frozen=True, kw_only=True):
    """A GGUF file, and how it is run."""

    path: Annotated[str, _says("GGUF file to run; of a split model, its first part")] = ""


def model_name(path: str) -> str:
    """The name under which clients ask for the model of a file, where the settings give it none."""
    return DEMO_NAME if path == "demo" else Path(path).stem
