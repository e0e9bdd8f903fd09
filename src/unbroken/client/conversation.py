"""A conversation as values: turns of a question and its answer, and what of them is sent."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said; not whole where it was stopped or broke off."""

    text: str
    model: str
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class Turn:
    """A question, and its answer where there is one."""

    question: str
    answer: Answer | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """The system prompt and the turns, oldest first; every change gives a new one."""

    system: str | None = None
    turns: tuple[Turn, ...] = ()

    def asked(self, question: str) -> "Conversation":
        """With one more question."""
        return replace(self, turns=(*self.turns, Turn(question)))

    def answered(self, answer: Answer) -> "Conversation":
        """With the answer to the last question, in place of the one that it had."""
        return replace(self, turns=(*self.turns[:-1], replace(self.turns[-1], answer=answer)))

    def without_last_answer(self) -> "Conversation":
        """With the last question unanswered again."""
        return replace(self, turns=(*self.turns[:-1], Turn(self.turns[-1].question)))

    def with_system(self, system: str | None) -> "Conversation":
        """With another system prompt, None for none."""
        return replace(self, system=system)

    def without_turns(self, count: int) -> "Conversation":
        """Without its oldest turns."""
        return replace(self, turns=self.turns[count:])

    def messages(self) -> list[dict[str, str]]:
        """What is sent; a question that never got a word of answer is left out, unless it is the last."""
        said = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns:
            answer = turn.answer.text if turn.answer else ""
            if answer or turn is self.turns[-1]:
                said.append({"role": "user", "content": turn.question})
            if answer:
                said.append({"role": "assistant", "content": answer})
        return said
