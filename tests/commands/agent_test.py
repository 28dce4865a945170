import numpy as np
import pytest

from arft_jax.commands import agent
from arft_jax.commands.cli import agent as cli
from arft_jax.config import default_config
from arft_jax.protocol import Answer
from arft_jax.testing.toolboxes import code_call
from arft_jax.train.run_dir import RunDir
from arft_jax.trajectory import Image, Observation, Status, Task, Trajectory, Turn

# ml_collections loads a config file by a way that Python 3.12 no longer has.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def test_a_transcript_shows_turns_tools_and_the_answer():
    image = Image(np.zeros((4, 6, 3), np.uint8))
    code, done = code_call("pass"), Answer("47")
    turns = (
        Turn("<code>..</code>", code, 1, 3, Observation("printed", (image,), seconds=0.25)),
        Turn("<answer>47</answer>", done, 4, 5),
    )
    task = Task("q", "coding", "发票号码?", (image,), ())
    masks = np.zeros(5, bool)
    empty = Trajectory(
        task, 0, np.zeros(5, np.int32), np.zeros(5, np.float32), masks, masks, np.zeros((3, 5), np.int32), 1, (), turns,
        Status.ANSWERED,
    )  # fmt: skip
    text = agent.transcript(empty)
    for part in (
        "images: 1 (4x6 px)",
        "发票号码?",
        "python: ok, 0.250 s [image 4x6 px]",
        "printed",
        "turn 2: 1 tokens",
        "answer: 47",
    ):
        assert part in text


@pytest.mark.parametrize(
    "change, sentence",
    [
        (dict(questions=["What?", " "]), "question must not be empty"),
        (dict(images=["absent.png"]), "image file must exist: got absent.png"),
        (dict(kind="chess"), r"--kind must be of a task that the run has trained \(coding, search\): got 'chess'"),
        (dict(kind=""), "--kind must be given, one of coding, search"),
        (dict(kind="search"), r"a search index must exist, and be one: got .*\(--index\)"),
        (dict(), r"must hold a checkpoint: none in .*\(config.workdir\)"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, change, sentence):
    config = default_config()
    config.workdir = str(tmp_path)
    path = tmp_path / "card.ppm"
    path.write_bytes(b"P6 28 28 255\n" + bytes(28 * 28 * 3))
    asked = dict(images=[str(path)], questions=["What?"], kind="coding") | change
    with pytest.raises(ValueError, match=sentence):
        agent.ask(config, **asked)


def test_a_search_over_the_network_needs_no_index(tmp_path):
    config = default_config()
    config.workdir = str(tmp_path)
    config.data.tasks, config.tools.search.backend = ("mat_search",), "ddgs"
    path = tmp_path / "card.ppm"
    path.write_bytes(b"P6 28 28 255\n" + bytes(28 * 28 * 3))
    with pytest.raises(ValueError, match="must hold a checkpoint"):
        agent.ask(config, images=[str(path)], questions=["What?"])


def test_the_kind_is_the_runs_where_it_has_one():
    config = default_config()
    config.data.tasks = ("mini_search",)
    assert agent.kind_of(config) == agent.kind_of(config, "search") == "search"
    with pytest.raises(ValueError, match=r"--kind must be .* \(search\): got 'coding'"):
        agent.kind_of(config, "coding")


def test_items_of_ones_own_may_be_of_every_kind():
    config = default_config()
    config.data.tasks = ("jsonl:photos.jsonl",)
    assert agent.kind_of(config) == "general" and agent.kind_of(config, "coding") == "coding"


def test_a_work_directory_answers_questions_over_images_and_writes_a_page(tmp_path, capsys):
    """The whole command on a fresh, untrained checkpoint: the loop runs, the page is whole."""
    from arft_jax.build import settings
    from arft_jax.build.parts import make
    from arft_jax.build.plan import plan_policy
    from arft_jax.io.checkpoints import Checkpoints
    from arft_jax.steps import learner

    config = default_config()
    config.workdir = str(tmp_path / "run")
    config.data.tasks = ("mini_coding",)
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
    parts = make(plan_policy(config))
    state = learner.train_state(settings.optimizer(config), parts.first_params(), False, parts.plan.placement)
    RunDir(config)
    with Checkpoints(tmp_path / "run" / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(1, state, {"tokenizer": parts.plan.tokenizer.sha256})
    for name, height in (("a", 28), ("b", 56)):
        (tmp_path / f"{name}.ppm").write_bytes(b"P6 56 %d 255\n" % height + bytes(56 * height * 3))
    page = tmp_path / "page.html"
    asked = [f"--workdir={tmp_path / 'run'}", f"--image={tmp_path / 'a.ppm'}", f"--image={tmp_path / 'b.ppm'}"]
    asked += ["--max_tokens=128", "--config.compilation_cache=", "--question=发票号码?"]
    assert cli.main([*asked, "--question=Which?", f"--html={page}"]) == 0
    out = capsys.readouterr().out
    assert "checkpoint of step 1; coding agent, 2 image(s)" in out
    assert out.count("images: 2 (28x56 px, 56x56 px)") == 2 and out.index("发票号码?") < out.index("question: Which?")
    written = page.read_text(encoding="utf-8")
    assert "发票号码?" in written and written.count("<article") == 2 and written.count("56 × 56 px") == 2
    for word in ("true answer", "(unscored)", "not scored", 'name="kind"', 'name="split"', 'name="verdict"'):
        assert word not in written
    with Checkpoints(tmp_path / "run" / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(2, state, {"tokenizer": "of another vocabulary"})
    assert cli.main(asked) == 2
    assert "sha256 of another v, this one has" in capsys.readouterr().err


def test_a_wrong_command_is_one_sentence(tmp_path, capsys):
    for flags, sentence in (
        (["--image=x", "--question=y"], "--workdir must be given, or --config"),
        ([f"--workdir={tmp_path}", "--config=tiny_cpu"], "--config may not be given too"),
        (
            ["--workdir", str(tmp_path)],
            f"must hold a run, whose configuration is config.json: got {tmp_path} (--workdir)",
        ),
        (["--config=tiny_cpu", "--question=y"], "--image must be given"),
    ):
        assert cli.main(flags) == 2
        err = capsys.readouterr().err
        assert sentence in err and err.count("\n") == 1


def test_keys_of_a_run_are_overridden_and_checked(tmp_path, capsys):
    config = default_config()
    config.workdir = str(tmp_path / "run")
    RunDir(config)
    asked = [f"--workdir={config.workdir}", "--list_keys"]
    assert cli.main([*asked, "--config.mesh.fsdp=1"]) == 0
    assert "* mesh.fsdp = 1  (default: -1)" in capsys.readouterr().out
    assert cli.main([*asked, "--config.mesh.fsdb=1"]) == 2
    assert "no key 'mesh.fsdb'; did you mean 'mesh.fsdp'?" in capsys.readouterr().err
