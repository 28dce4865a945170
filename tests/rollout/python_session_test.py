"""Python sessions through the loop: a trajectory's code finds its own variables, and nobody else's."""

import pytest

from arft_jax.data.tokenizer import Tokenizer
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.testing.toolboxes import make_toolbox
from arft_jax.tools.sandbox import PythonSandbox
from arft_jax.trajectory import Status

CODE = "<think>c</think><code>```python\nn = globals().get('n', 0) + 1\nprint(n)\n```</code>"
ANSWER = "<think>a</think><answer>7</answer>"


@pytest.mark.parametrize(("sessions", "counts"), [(True, ["1", "2", "3"]), (False, ["1", "1", "1"])])
def test_variables_live_within_a_trajectory_and_only_there(sessions, counts):
    stage = tiny.Stage(Tokenizer.tiny(), n_slots=2, group_size=2, max_turns=4, max_turn_tokens=96, max_tokens=320)
    tasks = [tiny.tiny_task(i, "coding", sizes=[(28, 28)]) for i in range(2)]
    with PythonSandbox(n_workers=1, timeout_s=30.0) as python, make_toolbox(python, None, sessions=sessions) as tools:
        groups = stage.play([(task, [CODE, CODE, CODE, ANSWER]) for task in tasks], tools, n_rows=2)
    for t in (t for group in groups for t in group):  # the second task's rows take the slots of the first's
        assert t.status is Status.ANSWERED
        assert [turn.observation.text for turn in t.turns[:-1]] == counts
