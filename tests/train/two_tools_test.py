"""One policy has every tool, and a task that takes two of them: it searches by picture, then runs code."""

import pytest

from arft_jax.build.image_embedder import embed_function
from arft_jax.io.trajectories import load_trajectories
from arft_jax.testing.two_tools import write_two_tools
from arft_jax.tools.image_index import ImageIndex
from arft_jax.train.trainer import train


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("syntax", ["tags", "hermes"])
def test_a_policy_with_every_tool_trains_on_a_task_that_takes_two(tmp_path, shipped, syntax):
    data = tmp_path / "data"
    write_two_tools(data)
    config = shipped("tiny_cpu", "smoke")
    config.update(workdir=str(tmp_path / "run"), compilation_cache="")
    config.data.tasks = (f"jsonl:{data / 'two.jsonl'}",)
    config.tools.update(offer=("python", "search", "image_search", "crop"), syntax=syntax)
    config.tools.search.image_index = str(tmp_path / "cards.index")
    config.rollout.update(
        max_tokens=1400, max_turn_tokens=160, n_patches=576, n_windows=64, n_features=4096, extend_chunk=256,
        temperature=0.7,
    )  # fmt: skip
    config.warm_start.update(
        chains=(f"jsonl:{data / 'chains.jsonl'}",), n_chains=0, n_practice=0, steps=70, rows=4, learning_rate=3e-3
    )
    config.train.update(steps=10, prompts=2, rows_per_update=16, image_chunks=32, learning_rate=1e-4)
    config.eval.update(every=0, without_tools=False)
    config.checkpoint.every = 50
    ImageIndex.build(config.tools.search.image_index, data / "cards", embed_function(config))
    train(config)
    done = load_trajectories(tmp_path / "run" / "trajectories" / "after_two.jsonl")
    called = [[turn.call.tool for turn in t.turns if turn.call] for t in done]
    both = [names for names in called if "image_search" in names and "python" in names]
    print(f"{syntax}: {len(both)} of {len(done)} trajectories search by picture and run code; first: {called[0]}")
    assert len(both) >= len(done) // 2
    shown = next(t for t, names in zip(done, called, strict=True) if names[:2] == ["image_search", "python"])
    assert [len(turn.observation.images) for turn in shown.turns[:2]] == [1, 1]
