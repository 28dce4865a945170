"""Warm start: imitation of recorded chains, so that the policy knows the protocol before it is rewarded.

Loss falls on the turns that a chain marks for training and on nothing else; every other turn is context.
"""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from arft_jax.config import MINI_TASKS
from arft_jax.data.synthetic.chains import Chain, practice_chains, record_chains
from arft_jax.rollout.renderer import Renderer
from arft_jax.rollout.row import Row
from arft_jax.syntax.spec import Syntax
from arft_jax.tools.toolbox import Conversation, Toolbox
from arft_jax.trajectory import Status, Task, Trajectory


def warm_start_chains(
    config, tasks: Mapping[str, Mapping[str, Sequence[Task]]], own: Sequence[Chain], toolbox: Toolbox, syntax: Syntax
) -> list[Chain]:
    """What a warm start imitates: practice and recorded chains of the mini tasks, and the user's own.

    Args:
      config: reads ``warm_start`` and ``seed``.
      tasks: of the run, by name and split.
      own: of the user's files.
      toolbox: tools really run while chains are recorded.
      syntax: in which turns are written.
    """
    w = config.warm_start
    mini = [split["train"][: w.n_chains] for name, split in tasks.items() if name in MINI_TASKS]
    if not mini:
        return list(own)
    begin = functools.partial(Conversation, toolbox)
    recorded = record_chains([task for part in mini for task in part], begin, config.seed, syntax)
    return [*practice_chains(config.seed, w.n_practice, syntax), *recorded, *own]


def chain_trajectory(renderer: Renderer, chain: Chain) -> Trajectory:
    """A recorded chain as the trajectory that the sampler would have written.

    Turns marked for training count as sampled, all else as observed, so ``loss_mask`` is the imitation mask.
    """
    row = Row(chain.task, 0, 0, 0, 0)
    row.inject(renderer.injection(renderer.prompt(chain.task)))
    for turn in chain.turns:
        tokens = renderer.turn(turn.text)
        row.sample(tokens, np.zeros(len(tokens)), sampled=turn.train)
        row.read_turn(renderer.tokenizer, renderer.syntax)
        if turn.observation is not None:
            row.attach(turn.observation)
            row.inject(renderer.injection(renderer.observation(turn.observation)))
    return row.trajectory(Status.ANSWERED)


def chain_trajectories(renderer: Renderer, chains: Sequence[Chain], max_tokens: int) -> list[Trajectory]:
    """All chains that fit ``max_tokens``.

    Raises:
      ValueError: more than one in a hundred does not fit: the budget is wrong, not the chains.
    """
    made = [chain_trajectory(renderer, chain.trimmed()) for chain in chains]
    kept = [t for t in made if len(t.tokens) <= max_tokens]
    if len(kept) < 0.99 * len(made):
        longest = max(len(t.tokens) for t in made)
        raise ValueError(
            f"recorded chains must fit max_tokens: got {len(made) - len(kept)} of {len(made)} too long, the longest "
            f"{longest} tokens, max_tokens={max_tokens} (config.rollout.max_tokens)"
        )
    return kept
