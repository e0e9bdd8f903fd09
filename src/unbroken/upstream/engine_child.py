"""The engine's process: llama.cpp's server on a private address, for as long as the parent lives.

`python -m unbroken.upstream.engine_child` reads one `EngineOrder` as a JSON line from stdin and writes one
`EngineReport` as a JSON line to stdout. When stdin closes the parent is gone, and the process ends.

llama.cpp holds Python's lock while it loads: until then nothing here runs, and signals keep their default effect.
"""

import ctypes
import os
import select
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from unbroken.settings.engine import EngineSettings
from unbroken.upstream.engine_plan import EnginePlan, ModelTooLarge, plan_engine
from unbroken.upstream.machine import Machine, free_memory, usable_cores
from unbroken.upstream.model_file import ModelFile

HTTP_THREADS = 256  # llama.cpp spends one on each open connection, waiting ones included
LOG_WARNINGS, LOG_ALL = 2, 3  # llama.cpp's verbosity
PR_SET_PDEATHSIG = 1  # prctl(2)


class EngineOrder(msgspec.Struct, frozen=True):
    """What the parent asks for; `socket_path` None asks for a loopback port. The key is in no argument or variable."""

    settings: EngineSettings
    model: ModelFile
    socket_path: str | None
    key: str
    parent: int


class EngineReport(msgspec.Struct, frozen=True):
    """What came of it: ready at the loopback `port` (0 on a unix socket), or why not, where it is not in the log.

    `context_size` is what one conversation may hold, in tokens.
    """

    is_ready: bool
    port: int = 0
    context_size: int = 0
    failure: str = ""


def main() -> None:
    """Runs one engine until the parent is gone or SIGTERM comes."""
    reports = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what native code prints must not reach the reports
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=EngineOrder)
    _end_with_parent(order.parent, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    try:
        server, context_size = _load(order)
    except RuntimeError:  # llama.cpp has said why in its log
        return _report(reports, EngineReport(is_ready=False))
    except ModelTooLarge as error:
        return _report(reports, EngineReport(is_ready=False, failure=str(error)))
    except OSError as error:
        return _report(reports, EngineReport(is_ready=False, failure=f'"{error.filename}": {error.strerror}'))
    wait_for_end = _listen_for_end(order.parent)
    port = 0 if order.socket_path else int(str(server.listening_address).rpartition(":")[2])
    _report(reports, EngineReport(is_ready=True, port=port, context_size=context_size))
    wait_for_end()
    _remove_socket(order.socket_path)
    os._exit(0)  # llama.cpp's own way out waits for its open connections


def _report(reports: BinaryIO, report: EngineReport) -> None:
    reports.write(msgspec.json.encode(report) + b"\n")


def _load(order: EngineOrder) -> tuple[Any, int]:
    """The running server, and the tokens that a conversation may hold."""
    import xllamacpp  # 30 ms and 100 MB that only this process spends

    kinds = xllamacpp.ggml_backend_dev_type
    gpus = (kinds.GGML_BACKEND_DEVICE_TYPE_GPU,) if order.settings.gpu_layers else ()  # integrated ones share memory
    gpu_bytes = sum(int(device["memory_free"]) for device in xllamacpp.get_device_info() if device["type"] in gpus)
    plan = plan_engine(order.settings, order.model, Machine(usable_cores(), free_memory(), gpu_bytes))
    if order.socket_path:
        Path(order.socket_path).unlink(missing_ok=True)  # of a predecessor that was killed
    server = xllamacpp.Server(_parameters(xllamacpp.CommonParams(), order, plan))
    return server, min(plan.context_size, order.model.context_length or plan.context_size)  # llama.cpp caps it so


def _parameters(params: Any, order: EngineOrder, plan: EnginePlan) -> Any:
    """llama.cpp's parameters: nothing but the model's HTTP interface, for whoever has the key."""
    settings = order.settings
    params.model.path = order.model.path
    params.model_alias = {order.model.name}
    params.hostnames = [order.socket_path or "127.0.0.1"]
    params.port = 1 if order.socket_path else 0  # a unix socket has none, but is refused with 0
    params.api_keys = [order.key]
    params.n_threads_http = HTTP_THREADS
    params.sse_ping_interval = -1  # the gateway has its own
    params.ui = False
    params.cors_origins = params.cors_methods = params.cors_headers = ""
    params.cors_credentials = False
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    params.n_parallel = settings.slots
    params.n_ctx = plan.context_size * settings.slots  # llama.cpp divides it among the slots
    params.n_batch = plan.batch_size
    params.n_ubatch = min(plan.batch_size, 512)
    params.cont_batching = True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = plan.threads
    params.n_gpu_layers = settings.gpu_layers
    params.use_jinja = True
    params.chat_template = _template(settings.chat_template)
    params.verbosity = LOG_ALL if settings.verbose else LOG_WARNINGS
    return params


def _template(chosen: str) -> str:
    is_path = chosen and "{" not in chosen and "\n" not in chosen
    return Path(chosen).read_text(encoding="utf-8") if is_path else chosen


def _end_with_parent(parent: int, sign: signal.Signals) -> None:
    """Has the kernel send `sign` when the parent dies, where it can; the end of stdin says the same everywhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(sign))
        if os.getppid() != parent:
            os._exit(1)  # it died before we asked


def _listen_for_end(parent: int) -> Callable[[], object]:
    """Takes SIGTERM over; gives what waits for it or for the end of stdin."""
    if sys.platform == "win32":  # pragma: no cover
        return sys.stdin.buffer.read
    waking, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGTERM, lambda *_: None)
    _end_with_parent(parent, signal.SIGTERM)  # from here on its death is no reason to leave a socket behind
    return lambda: select.select([sys.stdin.buffer, waking], [], [])


def _remove_socket(path: str | None) -> None:
    if path:
        with suppress(OSError):  # the parent may have been faster
            os.unlink(path)
            os.rmdir(os.path.dirname(path))


if __name__ == "__main__":
    main()
