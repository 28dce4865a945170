"""One page of trajectories with their images, as conversations; before and after side by side where both are given."""

import os
from collections.abc import Sequence

from arft_jax.report import page
from arft_jax.trajectory import Status, ToolStatus, Trajectory, Turn

STYLE = """
article { background: var(--box); border: 1px solid var(--line); border-radius: 8px; padding: 1rem 1.2rem;
  margin: 1.2rem 0; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.2rem; }
.pair > section { min-width: 0; }
section h3 { font-size: .95rem; margin: .8rem 0 .4rem; border-bottom: 1px solid var(--line); }
.images { display: flex; flex-wrap: wrap; gap: .8rem; }
figure { margin: .4rem 0; } figcaption { font-size: .8rem; color: var(--dim); }
img { display: block; border: 1px solid var(--line); } img.small { image-rendering: pixelated; }
pre { margin: .35rem 0; padding: .5rem .7rem; background: var(--code); border-left: 3px solid var(--line);
  border-radius: 4px; white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.45 ui-monospace, monospace; }
pre.think { color: var(--dim); } pre.action { border-left-color: var(--text); }
.tool { margin: .35rem 0 .8rem 1.4rem; } .tool pre { border-left-color: var(--tool); } .tool > p { color: var(--tool); }
.label { font-size: .8rem; } form { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }
[hidden] { display: none; }
"""

# Hides the articles that a select does not choose; the page reads in full without it.
SCRIPT = """
const selects = [...document.querySelectorAll('select')];
function apply() {
  for (const a of document.querySelectorAll('article'))
    a.hidden = selects.some(s => s.value && a.dataset[s.name] !== s.value);
}
selects.forEach(s => s.addEventListener('change', apply));
"""


def _is_correct(trajectory: Trajectory) -> bool:
    """By exact match; by the accuracy reward where that was not recorded."""
    return trajectory.rewards.get("em", trajectory.rewards.get("accuracy", 0.0)) >= 0.999


def _verdict(trajectory: Trajectory) -> str:
    if not trajectory.rewards:
        return "unscored"
    return "correct" if _is_correct(trajectory) else "wrong"


def around_thought(text: str) -> tuple[str, str, str]:
    """(before, thought, behind) of the first thought that is closed; all of it is behind where there is none.

    >>> around_thought("a<think>b</think>c"), around_thought("a<think>b")
    (('a', 'b', 'c'), ('', '', 'a<think>b'))
    """
    before, opened, rest = text.partition("<think>")
    thought, closed, behind = rest.partition("</think>")
    return (before, thought, behind) if opened and closed else ("", "", text)


def _turn(number: int, turn: Turn) -> str:
    before, thought, rest = around_thought(turn.text)
    kind = turn.call.tool if turn.call else type(turn.action).__name__.lower()
    parts = [f'<p class="label dim">turn {number} · {page.text(kind)}</p>']
    if before.strip():
        parts.append(f'<pre class="action">{page.text(before)}</pre>')
    if thought:
        parts.append(f'<pre class="think">{page.text(thought.strip())}</pre>')
    if rest.strip():
        parts.append(f'<pre class="action">{page.text(rest.strip())}</pre>')
    reason = getattr(turn.action, "reason", None)
    if reason:
        parts.append(f'<p class="bad">{page.text(reason)}</p>')
    seen = turn.observation
    if seen is not None:
        tool = turn.call.tool if turn.call else "tool"
        tone = "good" if seen.status is ToolStatus.OK else "bad"
        parts.append(
            f'<div class="tool"><p class="label">{page.text(tool)} · '
            f'<span class="{tone}">{page.text(seen.status.value)}</span> · {seen.seconds:.2f} s</p>'
        )
        if seen.text:
            parts.append(f"<pre>{page.text(seen.text)}</pre>")
        parts.append(f'<div class="images">{"".join(page.figure(image) for image in seen.images)}</div></div>')
    return "".join(parts)


def _lengths(trajectory: Trajectory) -> str:
    """Its tokens; of one that a server played what the server has counted, over the requests of all turns."""
    if usage := trajectory.info.get("usage"):
        return f"{usage['prompt_tokens']} tokens in, {usage['completion_tokens']} out, in all of its requests"
    return f"{len(trajectory.tokens)} tokens, {trajectory.prompt_len} of them prompt"


def _section(title: str, trajectory: Trajectory) -> str:
    """One trajectory; its verdict and rewards where there is a true answer to hold it against."""
    has_truth = bool(trajectory.task.answers or trajectory.rewards)
    names = sorted(trajectory.rewards, key=lambda name: (name != "total", name))
    rewards = ", ".join(f"{page.text(name)} {trajectory.rewards[name]:.3f}" for name in names) or "not scored"
    verdict = _verdict(trajectory)
    tone = {"correct": "good", "wrong": "bad"}.get(verdict, "dim")
    answer = "none" if trajectory.answer is None else trajectory.answer
    turns = "".join(_turn(number, turn) for number, turn in enumerate(trajectory.turns, 1))
    status = page.text(trajectory.status.value)
    tone_end = "dim" if trajectory.status is Status.ANSWERED else "bad"
    return (
        f"<section><h3>{page.attribute(title)}</h3>"
        f'<p>answer: <b class="{tone}">{page.text(answer)}</b>'
        + (f' <span class="{tone}">({verdict})</span>' if has_truth else "")
        + f' · ended: <span class="{tone_end}">{status}</span></p>'
        + (f'<p class="dim">rewards: {rewards}</p>' if has_truth else "")
        + f'<p class="dim">{page.text(_lengths(trajectory))}</p>'
        f"{turns}</section>"
    )


def _article(number: int, trajectory: Trajectory, before: Trajectory | None, title: str) -> str:
    task = trajectory.task
    sections = [] if before is None else [_section("before", before)]
    sections.append(_section(title, trajectory))
    problems = f" · image: {page.text(', '.join(task.problems))}" if task.problems else ""
    corpus = f" · corpus: {page.text(task.corpus)}" if task.corpus else ""
    true_answer = f"<p>true answer: <b>{page.text(' | '.join(task.answers))}</b></p>" if task.answers else ""
    split = f" · {page.text(task.split)}" if task.answers and task.split else ""
    return (
        f'<article data-kind="{page.attribute(task.kind)}" data-split="{page.attribute(task.split)}"'
        f' data-status="{page.attribute(trajectory.status.value)}" data-verdict="{_verdict(trajectory)}">'
        f"<h2>{number}. {page.text(task.question)}</h2>"
        f"{true_answer}"
        f'<p class="dim">{page.text(task.kind)}{split}{problems}{corpus} · {page.text(task.id)}</p>'
        f'<div class="images">{"".join(page.figure(image) for image in task.images)}</div>'
        f'<div class="pair">{"".join(sections)}</div></article>'
    )


def _filters(trajectories: Sequence[Trajectory]) -> str:
    """A select for every property in which the trajectories differ; nothing where they differ in none."""
    values = {
        "kind": {t.task.kind for t in trajectories},
        "split": {t.task.split for t in trajectories},
        "status": {t.status.value for t in trajectories},
        "verdict": {_verdict(t) for t in trajectories},
    }
    selects = []
    for name, options in values.items():
        if len(options) < 2:
            continue
        shown = map(page.attribute, sorted(options))  # an option takes no elements
        rows = "".join(f'<option dir="auto" value="{option}">{option}</option>' for option in shown)
        selects.append(f'<label>{name} <select name="{name}"><option value="">all</option>{rows}</select></label>')
    return f"<form>{''.join(selects)}</form>" if selects else ""


def trajectories_page(
    name: str, trajectories: Sequence[Trajectory], before: Sequence[Trajectory] = (), summary: str = ""
) -> str:
    """A self-contained page, every text escaped.

    Args:
      name: the run's name.
      trajectories: shown in order.
      before: those of the policy before training; the first of the same task id stands to the left.
      summary: plain text under the heading, for example the table.
    """
    earlier: dict[str, Trajectory] = {}
    for trajectory in before:
        earlier.setdefault(trajectory.task.id, trajectory)
    scored = [t for t in trajectories if t.rewards]
    counts = f"{len(trajectories)} trajectories"
    if scored:
        counts += f", {sum(map(_is_correct, scored))} of {len(scored)} scored ones correct"
    body = [f"<h1>{page.text(name)}: trajectories</h1>", f'<p class="dim">{counts}</p>']
    if summary:
        body.append(f"<pre>{page.text(summary)}</pre>")
    body.append(_filters(trajectories))
    for number, trajectory in enumerate(trajectories, 1):
        left = earlier.get(trajectory.task.id)
        body.append(_article(number, trajectory, left, "trajectory" if left is None else "after"))
    return page.frame(f"{name}: trajectories", "\n".join(body), STYLE, SCRIPT)


def write_trajectories(
    path: str | os.PathLike,
    name: str,
    trajectories: Sequence[Trajectory],
    before: Sequence[Trajectory] = (),
    summary: str = "",
) -> None:
    """:func:`trajectories_page` into a file."""
    page.write(path, trajectories_page(name, trajectories, before, summary))
