"""How a model is run on a machine: context, threads, batch. Pure: the machine is an argument."""

from dataclasses import dataclass

from unbroken.settings.engine import EngineSettings
from unbroken.upstream.machine import Machine
from unbroken.upstream.model_file import ModelFile

MOST_AUTOMATIC_CONTEXT = 8192  # tokens a conversation; more is a wish, as it costs memory from the first second
LEAST_AUTOMATIC_CONTEXT = 512
CONTEXT_STEP = 256  # llama.cpp rounds up to it
SMALL_MODEL_BYTES = 64 << 20  # below it threads wait for each other longer than they compute
WORK_BYTES = 64 << 20  # llama.cpp's own buffers, about


class ModelTooLarge(Exception):
    """The model does not fit into memory; the message has the numbers and what to do."""


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """The numbers that llama.cpp is started with; `context_size` is for one conversation."""

    context_size: int
    threads: int
    batch_size: int


def plan_engine(settings: EngineSettings, model: ModelFile, machine: Machine) -> EnginePlan:
    """What to start llama.cpp with.

    Raises:
        ModelTooLarge: model and context need more memory than there is.
    """
    free = None if machine.free_bytes is None else machine.free_bytes + machine.gpu_bytes
    context = settings.context_size or _automatic_context(model, settings.slots, free)
    context = -(-context // CONTEXT_STEP) * CONTEXT_STEP
    needed = _needed_bytes(model, settings.slots, context)
    if free is not None and needed > free:
        raise ModelTooLarge(
            f'model "{model.path}" needs about {_gigabytes(needed)} of memory (file {_gigabytes(model.size_bytes)},'
            f" context {_gigabytes(needed - model.size_bytes)} for {settings.slots} × {context} tokens),"
            f" {_gigabytes(free)} are free: lower context_size or slots, take a smaller quantisation or model,"
            " or free some memory"
        )
    threads = settings.threads or (1 if model.size_bytes < SMALL_MODEL_BYTES else machine.cores)
    return EnginePlan(context, threads, settings.batch_size or (2048 if machine.gpu_bytes else 256))


def _automatic_context(model: ModelFile, slots: int, free: int | None) -> int:
    """The model's own context, capped and halved until the caches take at most half of what the model leaves free."""
    context = min(model.context_length or MOST_AUTOMATIC_CONTEXT, MOST_AUTOMATIC_CONTEXT)
    spare = None if free is None else (free - model.size_bytes) // 2
    while (
        spare is not None and context > LEAST_AUTOMATIC_CONTEXT and context * slots * model.kv_bytes_per_token > spare
    ):
        context = max(LEAST_AUTOMATIC_CONTEXT, context // 2)
    return context


def _needed_bytes(model: ModelFile, slots: int, context: int) -> int:
    return model.size_bytes + WORK_BYTES + context * slots * model.kv_bytes_per_token


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
