import numpy as np
import pytest

from arft_jax import protocol
from arft_jax.commands import agent
from arft_jax.config import default_config
from arft_jax.trajectory import Image, Observation, Status, Task, ToolCall, Trajectory, Turn


def test_a_transcript_shows_turns_tools_and_the_answer():
    image = Image(np.zeros((4, 6, 3), np.uint8))
    code, done = protocol.Code("pass"), protocol.Answer("47")
    turns = (
        Turn("<code>..</code>", code, 1, 3, ToolCall("python", "pass"), Observation("printed", (image,), seconds=0.25)),
        Turn("<answer>47</answer>", done, 4, 5),
    )
    task = Task("q", "coding", "发票号码?", (image,), ())
    masks = np.zeros(5, bool)
    empty = Trajectory(
        task, 0, np.zeros(5, np.int32), np.zeros(5, np.float32), masks, masks, np.zeros((3, 5), np.int32), 1, (), turns,
        Status.ANSWERED,
    )  # fmt: skip
    text = agent.transcript(empty)
    for part in ("发票号码?", "python: ok, 0.250 s [image 4x6 px]", "printed", "turn 2: 1 tokens", "answer: 47"):
        assert part in text


@pytest.mark.parametrize(
    "change, sentence",
    [
        (dict(question=" "), "question must not be empty"),
        (dict(image="absent.png"), "image file must exist: got absent.png"),
        (dict(kind="search"), r"a search index must exist, and be one: got .*\(--index\)"),
        (dict(), r"must hold a checkpoint: none in .*\(config.workdir\)"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, change, sentence):
    config = default_config()
    config.workdir = str(tmp_path)
    path = tmp_path / "card.ppm"
    path.write_bytes(b"P6 28 28 255\n" + bytes(28 * 28 * 3))
    asked = dict(image=str(path), question="What?", kind="coding") | change
    with pytest.raises(ValueError, match=sentence):
        agent.ask(config, **asked)


def test_a_question_is_answered_from_a_checkpoint_and_written_as_a_page(tmp_path):
    """The whole of agent.ask on a fresh, untrained checkpoint: the loop runs, the page is whole."""
    from arft_jax.build import parts as build
    from arft_jax.io.checkpoints import Checkpoints
    from arft_jax.steps import learner

    config = default_config()
    config.workdir = str(tmp_path)
    config.compilation_cache = ""
    config.model.text_config.update(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1,
        mrope_section=(4, 6, 6),
    )  # fmt: skip
    config.model.vision_config.update(
        depth=1, hidden_size=16, intermediate_size=16, num_heads=1, fullatt_block_indexes=(0,)
    )
    config.rollout.update(n_patches=64, n_windows=8, n_features=64, group_size=2, n_slots=2, max_turn_tokens=8)
    config.train.rows_per_update = 16
    config.system_prompt = "short"
    parts = build.build(config)
    state = learner.train_state(build.optimizer(config), parts.first_params(), False, parts.placement)
    with Checkpoints(tmp_path / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(1, state, {"tokenizer": parts.tokenizer.sha256})
    path = tmp_path / "card.ppm"
    path.write_bytes(b"P6 56 28 255\n" + bytes(56 * 28 * 3))
    page = tmp_path / "page.html"
    trajectory = agent.ask(config, image=str(path), question="发票号码?", kind="coding", max_tokens=128, html=str(page))
    assert trajectory.turns and len(trajectory.images) == 1
    assert "发票号码?" in page.read_text(encoding="utf-8")
    with Checkpoints(tmp_path / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(2, state, {"tokenizer": "of another vocabulary"})
    with pytest.raises(ValueError, match=r"sha256 of another v, this one has .* \(config.tokenizer\)"):
        agent.ask(config, image=str(path), question="?", kind="coding", max_tokens=128)
