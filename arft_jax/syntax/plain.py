"""No syntax at all: the question is asked as it is, and the whole reply is the answer.

For models that were not trained to use tools. A reply that has an ``<answer>`` all the same is taken at its word, and a
leading ``<think>..</think>`` of a model that reasons is not part of the answer.
"""

from collections.abc import Sequence

from arft_jax.protocol import Action, Answer, Malformed
from arft_jax.syntax.spec import ToolSpec
from arft_jax.syntax.tags import ANSWER, THINK

_OPEN, _CLOSE = f"<{ANSWER}>", f"</{ANSWER}>"


class PlainSyntax:
    """Reads every reply as an answer."""

    name = "plain"
    stops = (_CLOSE,)

    def __init__(self, specs: Sequence[ToolSpec] = ()):
        self.specs: tuple[ToolSpec, ...] = ()

    def parse(self, text: str) -> Action:
        """The answer.

        Example: ``Seven.`` and ``It is <answer>Seven.</answer>`` are both ``Answer("Seven.")``.
        """
        _, opened, body = text.partition(_OPEN)
        if not opened:
            thought, closed, rest = text.partition(f"</{THINK}>")
            body = rest if closed and thought.lstrip().startswith(f"<{THINK}>") else text
        answer = body.partition(_CLOSE)[0].strip()
        return Answer(answer) if answer else Malformed("the reply is empty")

    def is_well_formed(self, text: str) -> bool:
        """Whether there is an answer."""
        return isinstance(self.parse(text), Answer)

    def write(self, action: Action, thought: str = "") -> str:
        """The answer's text.

        Raises:
          ValueError: no answer.
        """
        if not isinstance(action, Answer):
            raise ValueError(f"a written action must be an answer: got {action}")
        return action.text

    def system(self, text: str, specs: tuple[ToolSpec, ...]) -> str:
        """The text as it is."""
        return text

    def reply(self, text: str) -> tuple[str, str]:
        """Never asked for: nothing is called."""
        return "", text
