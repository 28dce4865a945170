"""Tasks of the paper's kind from one's own pictures: coding tasks with its faults, search tasks with a corpus.

Everything follows from the file, the pictures and the seed. What is made for an item depends on its id and the seed,
not on the other lines.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import PIL.Image

from arft_jax.commands.reference_chains import Script, open_tools_for, record
from arft_jax.data import own_pictures
from arft_jax.data.image_files import ImageFiles, open_picture, plain_file
from arft_jax.data.images import decode_image, encode_png
from arft_jax.data.own_pictures import OwnItem
from arft_jax.data.synthetic import degrade, photo_faults
from arft_jax.protocol import ToolCall
from arft_jax.report import contact_sheet
from arft_jax.tools.search_corpus import index_corpus
from arft_jax.trajectory import Image, Observation, Task

BOX_QUESTION = "{question} Look at the box [{0}, {1}, {2}, {3}]: its numbers run from 0 to 1000 over width and height."
FAULT_NAMES = {"+".join(kinds): kinds for kinds in degrade.PROBLEM_SETS}
_JPEG = dict(format="JPEG", quality=95, subsampling=0)
_STREAM = 5  # keeps the random numbers of this file apart from other generators' with the same seed


@dataclasses.dataclass(frozen=True)
class Asked:
    """What the command line says; arft_jax/commands/cli/make_data.py has the flags."""

    input: str
    out: str
    seed: int = 0
    variants: int = 4
    faults: tuple[str, ...] = ()
    test_frac: float = 0.1
    chains: bool = True
    sheet: int = 40


@dataclasses.dataclass(frozen=True, eq=False)
class _Made:
    """A task that was made: its line of the task file, its script, and its item."""

    item: OwnItem
    line: dict[str, Any]
    script: Script


def make_data(asked: Asked) -> list[str]:
    """Makes the folder, whole or not at all; what it says of it, a sentence a line.

    Raises:
      ValueError: bad input, before anything is written; no sandbox for the chains.
    """
    source, out = pathlib.Path(asked.input).expanduser(), pathlib.Path(asked.out).absolute()
    kinds = _check(asked, out)
    found = own_pictures.load(source)
    _check_documents(found)
    sides = own_pictures.split_pictures(found, asked.test_frac)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    try:
        (folder / "images").mkdir()
        files = ImageFiles()  # what was made stays on disk until a chain shows it
        made = {
            "coding": [
                task for item in found if not item.query for task in _coding(item, asked, kinds, sides, folder, files)
            ],
            "search": [_search(item, sides, folder) for item in found if item.query],
        }
        said = []
        for kind, tasks in made.items():
            if tasks:
                said += _write_set(folder, kind, tasks, found, asked)
        _write_sheet(folder, source.name, made, said, asked.sheet)
        asked_for = {key: value for key, value in dataclasses.asdict(asked).items() if key not in ("input", "out")}
        record_of = {"input_sha256": hashlib.sha256(source.read_bytes()).hexdigest(), **asked_for, "made": said}
        (folder / "made.json").write_text(json.dumps(record_of, indent=1) + "\n", encoding="utf-8")
        folder.chmod(0o755)  # mkdtemp's is for its owner alone
        os.rename(folder, out)  # takes the place of an empty directory
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return said


def _check(asked: Asked, out: pathlib.Path) -> tuple[tuple[str, ...], ...]:
    """The sets of faults to draw from."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"the output directory must be new or empty: got {asked.out} (--out)")
    unknown = [name for name in asked.faults if name not in FAULT_NAMES]
    if unknown:
        raise ValueError(f"faults must be among {', '.join(FAULT_NAMES)}: got {unknown[0]!r} (--faults)")
    if asked.variants < 1 or not 0 < asked.test_frac < 1:
        raise ValueError(
            f"variants must be at least 1 and test_frac between 0 and 1: got {asked.variants} and {asked.test_frac} "
            "(--variants, --test_frac)"
        )
    return tuple(FAULT_NAMES[name] for name in dict.fromkeys(asked.faults or FAULT_NAMES))


def _check_documents(found: Sequence[OwnItem]) -> None:
    if any(item.query for item in found) and not any(item.documents for item in found):
        raise ValueError("search items must have documents to search: no line has any (--input, documents)")


# ------------------------------------------------------------------------ coding


def _coding(
    item: OwnItem, asked: Asked, kinds, sides: dict[str, str], folder: pathlib.Path, files: ImageFiles
) -> Iterator[_Made]:
    """The coding tasks of an item, each with faults of its own."""
    digest = hashlib.sha256(item.id.encode()).digest()
    rng = np.random.default_rng([_STREAM, asked.seed, int.from_bytes(digest[:4])])
    fitting = [faults for faults in kinds if faults != ("crop",) or item.box]
    if not fitting:
        raise ValueError(f"{item.where}: a crop needs a box, and --faults has no other fault")
    order = rng.permutation(len(fitting))
    for variant in range(min(asked.variants, len(fitting))):
        faults = fitting[order[variant]]
        name, question = f"{item.number:05d}_{variant}_{'+'.join(faults)}", item.question
        if faults in (("crop",), ("none",)):
            data, suffix = plain_file(item.image)
        else:
            suffix = ".jpg" if item.image.path.suffix.lower() in (".jpg", ".jpeg") else ".png"
            data = _encoded(photo_faults.spoil(item.image.pixels, faults, rng), suffix)
        if faults == ("crop",):
            question = BOX_QUESTION.format(*item.box, question=question)
        (folder / "images" / f"{name}{suffix}").write_bytes(data)
        shown = open_picture(files, folder, f"images/{name}{suffix}", item.where)
        task = Task(f"{item.id}-{variant}", "coding", question, (shown,), item.answers, faults)
        line = {
            **_line(task, item, sides, f"images/{name}{suffix}"),
            "level": "hard" if faults == ("crop",) or len(faults) > 1 else "simple",
            "problems": list(faults),
        }
        yield _Made(item, line, _coding_script(task, line["images"], item.box))


def _encoded(pixels: np.ndarray, suffix: str) -> bytes:
    if suffix == ".png":
        return encode_png(Image(pixels))
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, **_JPEG)
    return stream.getvalue()


def _coding_script(task: Task, images: Sequence[str], box: degrade.Box | None) -> Script:
    calls = [ToolCall("diagnose", {"problems": list(task.problems)})]
    if task.problems == ("none",):
        return Script(task, tuple(images), tuple(calls))
    calls.append(ToolCall("python", {"code": photo_faults.repair_code(task.problems, box)}))
    return Script(task, tuple(images), tuple(calls), lambda seen: None if seen.images else "the repair gave no image")


# ------------------------------------------------------------------------ search


def _search(item: OwnItem, sides: dict[str, str], folder: pathlib.Path) -> _Made:
    data, suffix = plain_file(item.image)
    name = f"images/{item.number:05d}{suffix}"
    (folder / name).write_bytes(data)
    task = Task(item.id, "search", item.question, (item.image,), item.answers, query=item.query)

    def check(seen: Observation) -> str | None:
        found = any(answer.casefold() in seen.text.casefold() for answer in task.answers)
        return None if found else f"the query {item.query!r} does not find the answer"

    line = _line(task, item, sides, name) | {"level": item.level, "query": item.query}
    return _Made(item, line, Script(task, (name,), (ToolCall("search", {"query": item.query}),), check))


# ------------------------------------------------------------------------ files


def _line(task: Task, item: OwnItem, sides: dict[str, str], image: str) -> dict[str, Any]:
    return {
        **item.extra,
        "id": task.id,
        "question": task.question,
        "images": [image],
        "answers": list(task.answers),
        "split": sides[item.image.sha256],
        "kind": task.kind,
    }


def _write_set(
    folder: pathlib.Path, kind: str, made: Sequence[_Made], found: Sequence[OwnItem], asked: Asked
) -> list[str]:
    """Writes a task file, its corpus and its chains; what is said of them."""
    _write_lines(folder / f"{kind}.jsonl", [task.line for task in made])
    counts = Counter(task.line["split"] for task in made)
    said = [f"{kind}.jsonl: {counts['train']} tasks to train on, {counts['test']} to test on"]
    corpus = folder / f"{kind}.corpus.jsonl"
    if kind == "search":
        documents = {(d["title"], d["text"]): d for item in found for d in item.documents}
        _write_lines(corpus, list(documents.values()))
        said.append(f"{corpus.name}: {len(documents)} documents")
    if asked.chains:
        scripts = [task.script for task in made if task.line["split"] == "train"]
        names = {task.line["id"]: task.line["images"][0] for task in made}

        def write_image(identity: str, image: Image) -> str:
            name = f"{names[identity].rsplit('.', 1)[0]}_seen.png"
            (folder / name).write_bytes(encode_png(image))
            return name

        with contextlib.ExitStack() as stack:
            index = None
            if kind == "search":
                index = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())) / "documents.index"
                index_corpus(corpus, index)
            chains, bad = record(scripts, stack.enter_context(open_tools_for(kind, index)), write_image)
        _write_lines(folder / f"{kind}.chains.jsonl", chains)
        said.append(f"{kind}.chains.jsonl: {len(chains)} reference chains")
        if bad:
            said.append(f"{kind}: {len(bad)} chains are left out, among them {'; '.join(bad[:5])}")
    return said


def _write_lines(path: pathlib.Path, lines: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def _write_sheet(folder: pathlib.Path, name: str, made: dict[str, list[_Made]], said: Sequence[str], n: int) -> None:
    """``contact_sheet.html``, of ``n`` tasks that are spread over all of them."""
    tasks = [task for of_kind in made.values() for task in of_kind]
    picked = np.linspace(0, len(tasks) - 1, min(n, len(tasks))).astype(int).tolist() if n else []
    entries = []
    for task in (tasks[place] for place in picked):
        shown = folder / task.line["images"][0]
        seen = shown.with_name(f"{shown.stem}_seen.png")
        images = {"as it was": task.item.image, "as it is shown": decode_image(shown)}
        images |= {"as the reference code leaves it": decode_image(seen)} if seen.is_file() else {}
        what = ", ".join(task.line.get("problems", ())) or f"search: {task.line.get('query', '')}"
        heading = f"{task.line['id']} · {task.line['split']} · {what}"
        small = {key: contact_sheet.thumbnail(image) for key, image in images.items()}
        entries.append(contact_sheet.Entry(heading, task.line["question"], tuple(task.line["answers"]), small))
    contact_sheet.write(folder / "contact_sheet.html", f"Tasks made of {name}", said, entries)
