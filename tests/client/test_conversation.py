"""Conversations as values: what is sent, what fits, what is saved."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbroken.client.context import ContextEstimate, Fit, read_context_length, shorter
from unbroken.client.conversation import Answer, Conversation, Turn
from unbroken.client.transcript import NotATranscript, read_json, write_json, write_markdown


def talk(*pairs: tuple[str, str], system: str | None = None) -> Conversation:
    return Conversation(system, tuple(Turn(question, Answer(answer, "m")) for question, answer in pairs))


def test_messages_are_the_system_prompt_and_the_turns() -> None:
    assert talk(("a", "b"), system="s").asked("c").messages() == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]


def test_a_question_without_a_word_of_answer_is_not_sent_again() -> None:
    conversation = Conversation().asked("a").answered(Answer("", "m", is_whole=False)).asked("b")
    assert conversation.messages() == [{"role": "user", "content": "b"}]


def test_a_partial_answer_is_sent() -> None:
    conversation = Conversation().asked("a").answered(Answer("b", "m", is_whole=False)).asked("c")
    assert [message["content"] for message in conversation.messages()] == ["a", "b", "c"]


def test_the_last_question_can_be_asked_again() -> None:
    assert talk(("a", "b")).without_last_answer() == Conversation().asked("a")


def test_without_a_known_context_everything_is_sent() -> None:
    conversation = talk(("a" * 10_000, "b")).asked("c")
    assert ContextEstimate().fit(conversation) == Fit(conversation, 0)


@given(st.lists(st.integers(0, 400), max_size=12), st.integers(1, 2000), st.integers(1, 500))
def test_as_many_of_the_newest_turns_as_fit_are_sent(sizes: list[int], length: int, room: int) -> None:
    conversation = talk(*(("q" * size, "a") for size in sizes), system="s").asked("last")
    estimate = ContextEstimate(length)
    fit = estimate.fit(conversation, room)
    room = min(room, length // 4)
    assert fit.conversation == conversation.without_turns(fit.left_out)
    assert fit.conversation.turns[-1].question == "last"
    assert estimate.tokens(fit.conversation) + room <= length or len(fit.conversation.turns) == 1
    if fit.left_out:
        assert estimate.tokens(conversation.without_turns(fit.left_out - 1)) + room > length


def test_the_estimate_learns_from_what_the_server_counted() -> None:
    conversation = talk(("word " * 100, "answer")).asked("next")
    estimate = ContextEstimate(1000).corrected(conversation, 500)
    assert estimate.tokens(conversation) == 500


def test_half_of_the_turns_is_left_out_when_nobody_says_how_many() -> None:
    conversation = talk(("a", "b"), ("c", "d")).asked("e")
    shortened = shorter(Fit(conversation, 1))
    assert shortened == Fit(Conversation().asked("e"), 3)
    assert shorter(shortened) is None


@pytest.mark.parametrize(
    ("message", "length"),
    [
        ("This model's maximum context length is 4096 tokens. You asked for 5000.", 4096),
        ("the request exceeds the available context size (2048 tokens)", 2048),
        ("prompt is too long", None),
    ],
)
def test_a_context_length_is_read_from_a_complaint(message: str, length: int | None) -> None:
    assert read_context_length(message) == length


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
TURNS = st.lists(st.builds(Turn, TEXT, st.none() | st.builds(Answer, TEXT, TEXT, st.booleans())), max_size=5)


@given(st.builds(Conversation, st.none() | TEXT.filter(bool), TURNS.map(tuple)))
def test_what_is_saved_as_json_is_loaded_the_same(conversation: Conversation) -> None:
    assert read_json(write_json(conversation)) == conversation


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"messages": 1}', '{"messages": [{"role": "assistant", "content": "a"}]}',
     '{"messages": [{"role": "tool", "content": "a"}]}'],
)  # fmt: skip
def test_another_file_is_not_loaded(text: str) -> None:
    with pytest.raises(NotATranscript):
        read_json(text)


def test_markdown_is_to_be_read() -> None:
    conversation = talk(("Why?", "*Because.*"), system="Be brief.").asked("And?")
    conversation = conversation.answered(Answer("So", "m", is_whole=False))
    assert write_markdown(conversation) == (
        "> **System:** Be brief.\n\n## You\n\nWhy?\n\n## m\n\n*Because.*\n\n## You\n\nAnd?\n\n"
        "## m\n\nSo\n\n*(incomplete)*\n"
    )
