"""The models of a server, as far as a chat wants to know them."""

from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Struct


@dataclass(frozen=True, slots=True)
class Model:
    """A model that can be asked; `context_length` in tokens, None where the server does not say."""

    name: str
    context_length: int | None = None


class _Model(Struct):
    id: str
    context_length: Any = None
    max_model_len: Any = None
    meta: Any = None


class _List(Struct):
    data: list[_Model]


def read_model(body: bytes) -> Model:
    """The model in the body of `GET /models/{id}`; raises msgspec.DecodeError where there is none."""
    return _model(msgspec.json.decode(body, type=_Model))


def read_models(body: bytes) -> list[Model]:
    """The models in the body of `GET /models`; raises msgspec.DecodeError where it is no list of models."""
    return [_model(model) for model in msgspec.json.decode(body, type=_List).data]


def _model(said: _Model) -> Model:
    # Ours and OpenRouter say context_length, vLLM max_model_len, llama.cpp meta.n_ctx_train.
    trained = said.meta.get("n_ctx_train") if isinstance(said.meta, dict) else None
    lengths = (said.context_length, said.max_model_len, trained)
    return Model(said.id, next((length for length in lengths if type(length) is int and length > 0), None))
