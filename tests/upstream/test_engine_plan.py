"""The rules around the engine: what it is started with, and when it is started again."""

import os

import pytest

from unbroken.settings.engine import EngineSettings
from unbroken.upstream.engine_plan import ModelTooLarge, plan_engine
from unbroken.upstream.engine_state import (
    HEALTHY_SECONDS,
    LONGEST_RESTART_SECONDS,
    MOST_FAILED_LOADS,
    RestartRecord,
    SignsOfLife,
)
from unbroken.upstream.machine import Machine, cpu_spent, free_memory, resident_bytes, usable_cores
from unbroken.upstream.model_file import ModelFile

GB = 10**9


def _model(size: int = 5 * GB, context: int = 131_072, kv: int = 131_072) -> ModelFile:
    return ModelFile("m.gguf", size, "m", "llama", context, kv, has_chat_template=True)


def _machine(free: int | None = 64 * GB, gpu: int = 0) -> Machine:
    return Machine(cores=8, free_bytes=free, gpu_bytes=gpu)


def test_plenty_of_memory_gives_the_capped_context() -> None:
    plan = plan_engine(EngineSettings(), _model(), _machine())
    assert (plan.context_size, plan.threads, plan.batch_size) == (8192, 8, 256)


def test_context_is_never_more_than_the_models_own() -> None:
    assert plan_engine(EngineSettings(), _model(context=2048), _machine()).context_size == 2048


def test_little_memory_gives_a_smaller_context() -> None:
    assert plan_engine(EngineSettings(), _model(), _machine(free=8 * GB)).context_size == 2048


def test_wished_context_is_kept_or_refused_with_the_numbers() -> None:
    wish = EngineSettings(context_size=32_768)
    assert plan_engine(wish, _model(), _machine()).context_size == 32_768
    with pytest.raises(
        ModelTooLarge, match=r"needs about 22\.25 GB .*file 5\.00 GB.*4 × 32768 tokens.*10\.00 GB are free"
    ):
        plan_engine(wish, _model(), _machine(free=10 * GB))


def test_model_larger_than_memory_is_refused() -> None:
    with pytest.raises(ModelTooLarge, match="smaller quantisation"):
        plan_engine(EngineSettings(), _model(size=40 * GB), _machine(free=16 * GB))


def test_memory_of_a_gpu_counts_and_its_batches_are_larger() -> None:
    plan = plan_engine(EngineSettings(), _model(size=40 * GB), _machine(free=16 * GB, gpu=48 * GB))
    assert plan.batch_size == 2048


def test_unknown_memory_refuses_nothing() -> None:
    assert plan_engine(EngineSettings(), _model(size=400 * GB), _machine(free=None)).context_size == 8192


def test_small_model_runs_on_one_thread_unless_told() -> None:
    assert plan_engine(EngineSettings(), _model(size=5 << 20), _machine()).threads == 1
    assert plan_engine(EngineSettings(threads=3), _model(size=5 << 20), _machine()).threads == 3


def test_this_machine_can_be_read() -> None:
    assert usable_cores() >= 1
    assert free_memory() is None or free_memory()
    assert resident_bytes(-1) is None


def test_restarts_wait_longer_each_time_up_to_a_limit() -> None:
    record, delays = RestartRecord(), []
    for _ in range(12):
        record = record.after_death(1.0)
        delays.append(record.restart_delay(0.0))
    assert delays[:4] == [0.2, 0.4, 0.8, 1.6]
    assert delays[-1] == LONGEST_RESTART_SECONDS


def test_chance_takes_off_up_to_half() -> None:
    record = RestartRecord().after_death(1.0)
    assert record.restart_delay(1.0) == 0.1


def test_healthy_engine_begins_with_a_clean_record() -> None:
    record = RestartRecord(was_ready=True, deaths=9)
    assert record.after_death(HEALTHY_SECONDS).restart_delay(0.0) == 0.2
    assert record.after_death(HEALTHY_SECONDS - 1).deaths == 10


def test_engine_that_never_loads_is_given_up() -> None:
    record = RestartRecord()
    for _ in range(MOST_FAILED_LOADS - 1):
        record = record.after_death(None)
        assert record.restart_delay(0.5) is not None
    assert record.after_death(None).restart_delay(0.5) is None


def test_hopeless_start_is_given_up_at_once_unless_it_once_ran() -> None:
    assert RestartRecord().after_death(None).restart_delay(0.5, is_hopeless=True) is None
    once_ran = RestartRecord().after_death(5.0)
    assert once_ran.after_death(None).restart_delay(0.5, is_hopeless=True) is not None


SILENT, COMPUTING, TRACED = (False, "7 1"), (False, "8 1"), (False, None)
ANSWER = (True, None)


@pytest.mark.parametrize(
    ("looks", "is_hung"),
    [
        ([SILENT] * 4, True),
        ([SILENT] * 3, False),
        ([SILENT] * 3 + [ANSWER] + [SILENT] * 3, False),
        ([SILENT] * 3 + [COMPUTING] * 3, False),
        ([SILENT] * 3 + [COMPUTING] * 4, True),
        ([SILENT, COMPUTING] * 9, False),
        ([TRACED] * 9, False),
        ([SILENT] * 3 + [TRACED] + [SILENT] * 3, False),
    ],
)
def test_only_what_neither_answers_nor_computes_is_hung(looks: list[tuple[bool, str | None]], is_hung: bool) -> None:
    signs = SignsOfLife()
    for answers, spent in looks:
        signs = signs.after_look(answers, spent)
    assert signs.is_hung is is_hung


def test_what_a_process_has_computed_is_told_by_the_system() -> None:
    before = cpu_spent(os.getpid())
    assert before
    while cpu_spent(os.getpid()) == before:
        sum(range(100_000))
    assert cpu_spent(2**22 + 1) is None, "there is no such process"
