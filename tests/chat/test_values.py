"""The words are values: frozen, slotted, and each kind told from the others."""

import dataclasses
import typing

import msgspec
import pytest

from unbroken.chat.error import ApiError, RequestRefused, invalid
from unbroken.chat.events import Event, Failed, Finished, TextDelta
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.request import ChatRequest
from unbroken.chat.stream import Block, Entry, Offset
from unbroken.chat.usage import Usage

VALUES = [*typing.get_args(Event), ApiError, Failure, ChatRequest, Usage]


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)
def test_a_value_is_frozen_and_slotted(kind: type) -> None:
    is_struct = issubclass(kind, msgspec.Struct)
    fields = msgspec.structs.fields(kind) if is_struct else dataclasses.fields(kind)
    value = kind() if is_struct else object.__new__(kind)
    assert not hasattr(value, "__dict__")
    with pytest.raises(AttributeError):  # of which FrozenInstanceError is one
        setattr(value, fields[0].name, None)
    assert fields[0].name in dir(value)


def test_values_are_equal_by_what_they_say() -> None:
    assert TextDelta("a") == TextDelta("a", choice=0) != TextDelta("a", choice=1)
    events: set[Event] = {Finished("stop"), Failed("stop"), TextDelta("stop")}
    assert len(events) == 3
    assert Entry(Offset(1), Block(b"a")) == (1, b"a")


def test_the_word_of_a_fault_is_its_own() -> None:
    assert len({fault.value for fault in Fault}) == len(Fault)
    assert all(fault.value.replace("_", "").islower() for fault in Fault)


def test_an_error_that_is_raised_carries_what_it_says() -> None:
    refused = invalid("no model", param="model", code="missing")
    assert isinstance(refused, RequestRefused)
    assert refused.error == ApiError(400, "no model", "invalid_request_error", "missing", "model")
    assert str(refused) == "no model"
    failed = UpstreamFailed(Failure(Fault.CUT, "cut after 40 events"))
    assert (failed.failure.fault, str(failed)) == (Fault.CUT, "cut after 40 events")


def test_an_error_has_headers_of_its_own() -> None:
    assert ApiError(400, "a").headers is not ApiError(400, "b").headers
