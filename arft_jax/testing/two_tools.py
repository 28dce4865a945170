"""A small task set that takes two tools: find a house's card by its emblem, then turn the card upright to read it.

Files only, in the layouts that anyone's own data have: a JSONL task set with its corpus, chains to imitate in OpenAI's
message form, and a folder of captioned pictures to search.
"""

import json
import os
import pathlib

import numpy as np
import PIL.Image

from arft_jax.data.synthetic import degrade, draw

QUESTION = "What number is on the card of the house with this emblem?"
HOUSES = tuple((colour, figure) for figure in ("Circle", "Star") for colour in draw.COLOURS)


def write_two_tools(folder: str | os.PathLike, *, seed: int = 0, n_tasks: int = 48, n_chains: int = 96) -> None:
    """Writes ``two.jsonl``, ``two.corpus.jsonl``, ``chains.jsonl`` and ``cards/`` with ``captions.jsonl``.

    Args:
      folder: made where it is not there.
      seed: of numbers and drawings.
      n_tasks: items; every sixth is a test item.
      n_chains: recorded conversations.
    """
    root = pathlib.Path(folder)
    (root / "cards").mkdir(parents=True)
    rng = np.random.default_rng([seed, 7])
    numbers = {house: int(rng.integers(10, 100)) for house in HOUSES}
    captions = []
    for (colour, figure), number in numbers.items():
        name, upright = f"{colour}_{figure}.png", draw.draw_card(draw.Card(colour, figure, number), rng)
        _write(root / "cards" / name, np.rot90(upright, 2))
        _write(root / f"upright_{name}", upright)
        captions.append({"image": name, "caption": f"{colour} {figure}"})
    _write_lines(root / "cards" / "captions.jsonl", captions)
    _write_lines(root / "two.corpus.jsonl", [{"title": "Cards", "text": "Every house has a card with a number."}])
    tasks = []
    for number in range(n_tasks):
        house = HOUSES[number % len(HOUSES)]
        _write(root / f"emblem_{number}.png", draw.draw_emblem(*house, rng))
        tasks.append(
            {
                "id": f"two-{number}",
                "question": QUESTION,
                "images": [f"emblem_{number}.png"],
                "answers": [str(numbers[house])],
                "split": "test" if number % 6 == 5 else "train",
            }
        )
    _write_lines(root / "two.jsonl", tasks)
    _write_lines(root / "chains.jsonl", [_chain(numbers, i, n_tasks) for i in range(n_chains)])


def _chain(numbers: dict[tuple[str, str], int], index: int, n_tasks: int) -> dict:
    """The right way through one task, found picture and upright card included."""
    number = index % n_tasks
    house = HOUSES[number % len(HOUSES)]
    card = f"{house[0]}_{house[1]}.png"
    found = f"<information> 1. Content: image_2: {house[0]} {house[1]} </information>"
    return {
        "messages": [
            {"role": "user", "content": [_image(f"emblem_{number}.png"), {"type": "text", "text": QUESTION}]},
            _call("image_search", {"query": "image_1"}, "Find it."),
            {"role": "tool", "content": [_image(f"cards/{card}"), {"type": "text", "text": found}]},
            _call("python", {"code": degrade.repair_code(("rotation180",))}, "Fix."),
            {"role": "tool", "content": [_image(f"upright_{card}")]},
            {"role": "assistant", "content": str(numbers[house]), "reasoning_content": "Read."},
        ]
    }


def _call(name: str, arguments: dict, thought: str) -> dict:
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": "", "reasoning_content": thought, "tool_calls": [call]}


def _image(path: str) -> dict:
    return {"type": "image_url", "image_url": {"url": path}}


def _write(path: pathlib.Path, pixels: np.ndarray) -> None:
    PIL.Image.fromarray(np.ascontiguousarray(pixels)).save(path)


def _write_lines(path: pathlib.Path, items: list[dict]) -> None:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
