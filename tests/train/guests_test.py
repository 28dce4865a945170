"""Tools, a reward, a task set and chains from outside the package train together, in both syntaxes."""

import json
import os
import re
import subprocess
import sys

import PIL.Image
import pytest

from arft_jax.io.trajectories import load_trajectories

NAMES = ("sky", "grass", "brick")
SETTINGS = (
    "--config.tools.extra=('my_tools:calculate', 'my_tools:Zoom')",
    "--config.rewards.extra={'my_reward:turns': -0.05}",
    "--config.data.tasks=jsonl:photos/photos.jsonl",
    "--config.warm_start.chains=jsonl:photos/guests.jsonl",
    "--config.warm_start.n_chains=8",
    "--config.warm_start.n_practice=0",
    "--config.warm_start.steps=60",
    "--config.warm_start.learning_rate=3e-3",
    "--config.checkpoint.every=100",
    "--config.eval.without_tools=False",
    "--config.rollout.max_turn_tokens=160",
)


def call(name, **arguments):
    called = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": "", "reasoning_content": "Look.", "tool_calls": [called]}


def image(path):
    return {"type": "image_url", "image_url": {"url": path}}


def write_chains(folder):
    """One conversation for each photograph that uses the two tools of the page, with what they return."""
    for name in NAMES:
        with PIL.Image.open(folder / f"{name}.jpg") as picture:
            picture.crop((0, 0, 16, 8)).resize((64, 32)).save(folder / f"{name}_zoomed.png")
    asked = {"type": "text", "text": "What is this a photograph of?"}
    lines = [
        {
            "messages": [
                {"role": "user", "content": [image(f"{name}.jpg"), asked]},
                call("zoom", box=[0, 0, 16, 8]),
                {"role": "tool", "content": [image(f"{name}_zoomed.png"), {"type": "text", "text": "use 1"}]},
                call("calculate", sum="3 * 4"),
                {"role": "tool", "content": "12"},
                {"role": "assistant", "content": name, "reasoning_content": "See."},
            ]
        }
        for name in NAMES
    ]
    (folder / "guests.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("syntax,max_tokens", [("tags", 512), ("hermes", 1280)])  # schemas are long
def test_the_smoke_variant_trains_with_all_guests_at_once(tmp_path, repo_root, syntax, max_tokens):
    def run(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": f"{repo_root}{os.pathsep}{tmp_path}", "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]

    for page, module in {"tool": "my_tools", "reward": "my_reward", "data": "make_photos"}.items():
        text = (repo_root / "docs" / f"your_{page}.md").read_text(encoding="utf-8")
        code = re.search(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)[1]
        (tmp_path / f"{module}.py").write_text(code, encoding="utf-8")
    run("make_photos.py")
    write_chains(tmp_path / "photos")
    config = f"--config={repo_root}/configs/tiny_cpu.py:smoke"
    chosen = (f"--config.tools.syntax={syntax}", f"--config.rollout.max_tokens={max_tokens}")
    run(f"{repo_root}/launch/train.py", config, "--config.workdir=run", *chosen, *SETTINGS)

    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row.get("phase") == "grpo"]
    assert steps and all(row["reward/turns/count"] >= 1 and "reward/turns/calls" in row for row in steps)
    done = load_trajectories(tmp_path / "run" / "trajectories" / "after_photos.jsonl")
    called = [turn for t in done for turn in t.turns if turn.call and turn.call.tool in ("zoom", "calculate")]
    print(syntax, [(turn.call.tool, turn.observation.status) for turn in called])
    assert {turn.call.tool for turn in called} == {"zoom", "calculate"}
