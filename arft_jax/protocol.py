"""What one turn of the policy asks for: a call of a tool, the answer, or nothing that can be read.

How a turn is written is the business of a syntax (``arft_jax/syntax``). The names here are Visual-ARFT's
(arXiv 2505.14246): the faults of a picture, and the files that its code reads and writes.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

KINDS = ("rotation90", "rotation180", "dark", "overexposure", "blur", "noise", "crop", "none")
INPUT_NAME = "path_to_input_image.jpg"
OUTPUT_NAME = "path_to_output_image.jpg"


@dataclasses.dataclass(frozen=True)
class ToolCall:
    """A request to a tool.

    Args:
      tool: its name.
      arguments: by name, JSON values.
    """

    tool: str
    arguments: Mapping[str, Any]

    @property
    def request(self) -> str:
        """The arguments for people: the text itself where there is one text alone, else JSON.

        >>> ToolCall("search", {"query": "red fox"}).request, ToolCall("zoom", {"factor": 2}).request
        ('red fox', '{"factor": 2}')
        """
        values = list(self.arguments.values())
        if len(values) == 1 and isinstance(values[0], str):
            return values[0]
        if len(values) == 1 and isinstance(values[0], list) and all(isinstance(v, str) for v in values[0]):
            return ", ".join(values[0])
        return json.dumps(dict(self.arguments), ensure_ascii=False)


@dataclasses.dataclass(frozen=True)
class Answer:
    """The final answer's text, stripped."""

    text: str


@dataclasses.dataclass(frozen=True)
class Malformed:
    """No action.

    Args:
      reason: one sentence for people, logs and, where ``tell`` is True, the policy.
      tell: the policy is told and may try again; False: the trajectory ends here.
    """

    reason: str
    tell: bool = False


Action = ToolCall | Answer | Malformed
