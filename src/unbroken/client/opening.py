"""The start of a chat: the model that answers."""

from collections.abc import Sequence

from unbroken.chat.fault import Fault
from unbroken.client.api import ChatApi
from unbroken.client.failure import ChatFailed
from unbroken.client.models import Model


def default_model(models: Sequence[Model], base_url: str) -> Model:
    """The model that answers where none was named; raises ChatFailed where the server has none."""
    if not models:
        raise ChatFailed(f"{base_url} has no model to talk to.", Fault.MODEL_NOT_FOUND)
    return models[0]


def choosing(models: Sequence[Model], how: str) -> str:
    """How to choose another model than the one that nobody chose; empty where there is no other."""
    return f"{how} chooses among {len(models)}" if len(models) > 1 else ""


async def detailed(api: ChatApi, model: Model) -> Model:
    """The model with its context length, where the server tells it somewhere."""
    return model if model.context_length is not None else await api.model(model.name)
