"""Benchmarks by one command: asked, written down as they come, scored, and set beside the published figures."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from arft_jax.build.judge import check_named, make_judge, read_rubric
from arft_jax.build.search_indices import data_dir
from arft_jax.commands import native_policy as native
from arft_jax.commands import openai_policy as remote
from arft_jax.config_checks import validate
from arft_jax.evaluate import benchmarks as sets
from arft_jax.evaluate import judging
from arft_jax.evaluate import ledger as files
from arft_jax.evaluate.benchmarks import Benchmark
from arft_jax.evaluate.results import results_of
from arft_jax.evaluate.runner import ask
from arft_jax.io import hosts, terminal
from arft_jax.io.disk import naming_write_faults
from arft_jax.io.run_record import flatten, write_json
from arft_jax.objective_keys import filled
from arft_jax.report import evaluation as report
from arft_jax.rewards.judge import NAME
from arft_jax.train.preemption import Stopped, StopRequest
from arft_jax.train.run_dir import FREE_KEYS
from arft_jax.trajectory import Task

POLICIES = ("native", "openai")  # --policy
# May differ between sessions of one evaluation: whose contents the record has, or where and by how many it is made.
_FREE_KEYS = (
    *FREE_KEYS,
    "weights",
    "tokenizer",
    "model.lora.adapter",
    "distributed.enabled",
    "distributed.n_processes",
)


@dataclasses.dataclass(frozen=True)
class Asked:
    """What the command line says beside the configuration; arft_jax/commands/cli/evaluate.py has the flags."""

    benchmarks: tuple[str, ...]
    policy: str = "native"
    checkpoint: str = "run"
    tools: str = "on"
    image: str = "shown"
    limit: int = 0
    out: str = ""
    compare: str = ""
    judge: bool = False


def evaluate(config, asked: Asked) -> int:
    """Evaluates one policy on benchmarks, or goes on with an evaluation that ended early, and prints the table.

    Returns:
      The exit status: 1 where items were not answered for a fault of ours, or not judged, else 0.

    Raises:
      ValueError: bad input, before any item is asked.
      Stopped: a signal asked the process to end; what was answered by then is in the files.
    """
    # ------------------------------------------------- check everything first
    validate(config)
    entries = _check(config, asked)
    if config.distributed.enabled:  # before anything asks for a device
        hosts.start(config.distributed.coordinator, config.distributed.n_processes, config.distributed.process)
    is_remote = asked.policy == "openai"
    entrant = remote.RemoteEntrant(config) if is_remote else native.NativeEntrant(config, asked.checkpoint)
    out = pathlib.Path(asked.out or _default_out(config, asked, entrant.step))
    taken = native.config_to_evaluate(config, entries, "none" if is_remote else asked.checkpoint, out)
    enabled = asked.tools == "on" and config.tools.enabled
    with naming_write_faults("the evaluation's folder", out, "--out"), contextlib.ExitStack() as stack:
        benchmarks = hosts.in_turn(lambda: _load(taken, entries))
        other = _other(asked, benchmarks)
        identity = entrant.plan(taken, benchmarks, enabled)
        picked = {benchmark.name: benchmark.picked(asked.limit) for benchmark in benchmarks}
        sets.check_images(benchmark.tasks[number] for benchmark in benchmarks for number in picked[benchmark.name])
        same = _identity(config, asked, enabled, identity)
        told = {"system": _system(asked, entrant.system), **entrant.told}
        described = {b.name: {"n_items": b.n_items, "sha256": b.sha256, "halves": b.halves} for b in benchmarks}
        hosts.in_turn(lambda: files.open_record(out, same, told, described))
        judge = None
        if asked.judge:  # every process asks whether it is there
            judge = stack.enter_context(contextlib.closing(make_judge(config, out / NAME)))
        # ----------------------------------------------------- ask, write down
        if enabled and taken.tools.search.backend == "local":
            hosts.in_turn(lambda: native.make_indices(taken, entries))
        _ask_all(taken, asked, entrant, benchmarks, picked, out, enabled)
        more = entrant.finish(taken, out)
        # ------------------------------------------------------------ figures
        results = {"system": told["system"], "tools": same["tools"], "image": asked.image, "benchmarks": {}}
        for benchmark in benchmarks:
            figures = results_of(benchmark, picked[benchmark.name], out / benchmark.name, config.eval.bootstrap)
            if judge is not None and hosts.is_first():
                figures["judge"] = _judged(config, judge, benchmark, out / benchmark.name, figures)
            results["benchmarks"][benchmark.name] = figures
        if judge is not None:
            more |= {"judge_costs": judge.totals()}
        if other is not None:
            results["compare"] = report.compare(results, pathlib.Path(asked.compare), other, config.eval.bootstrap)
        if hosts.is_first():
            _tell(results | more, out)
    return int(any(f["missing"] or f.get("judge", {}).get("missing") for f in results["benchmarks"].values()))


def _judged(config, judge, benchmark: Benchmark, folder: pathlib.Path, figures: Mapping[str, Any]) -> dict[str, Any]:
    """The judge's figures of the answered items, see judging.judged."""
    predictions = files.predictions_of(folder)
    answered = [(number, predictions[number]) for number in (i - 1 for i in figures["items"]["ids"])]
    found = judging.judged(
        judge, read_rubric(config), benchmark, answered, n_resamples=config.eval.bootstrap, tell=hosts.print_once
    )
    return {"model": config.rewards.judge.model, **found}


def _check(config, asked: Asked) -> dict[str, str]:
    """What can be refused without a device: entries of config.data.tasks by the benchmarks' names."""
    if asked.policy not in POLICIES:
        raise ValueError(f"policy must be {' or '.join(POLICIES)}: got {asked.policy!r} (--policy)")
    entries = sets.entries_of(asked.benchmarks, config.data.tasks)
    enabled = asked.tools == "on" and config.tools.enabled
    searches_here = enabled and config.tools.search.backend == "local"
    if problems := sets.missing_files(entries, config.data.dir, searches_here):
        raise ValueError("; ".join(problems))
    if asked.policy == "openai":
        remote.check_server_named(config, enabled)
    else:
        native.check_weights_there(config, asked.checkpoint)
    if not asked.out and (asked.policy == "openai" or asked.checkpoint == "none"):
        raise ValueError("a folder must be given where no run is evaluated: got none (--out)")
    if asked.compare:
        files.read_record(pathlib.Path(asked.compare), "--compare")
    if asked.judge:
        check_named(config, "--judge")
    return entries


def _default_out(config, asked: Asked, step: int | None) -> str:
    how = ("" if asked.tools == "on" else "_no_tools") + ("" if asked.image == "shown" else "_blank")
    return f"{config.workdir}/evaluations/step_{step}{how}"


def _load(config, entries: Mapping[str, str]) -> list[Benchmark]:
    options = dict(seed=config.seed, n_train=config.data.n_train)
    return [sets.load(name, entry, data_dir(config), **options) for name, entry in entries.items()]


def _other(asked: Asked, benchmarks: Sequence[Benchmark]) -> dict[str, Any] | None:
    if not asked.compare:
        return None
    return report.check_comparable(pathlib.Path(asked.compare), {b.name: b.sha256 for b in benchmarks})


def _identity(config, asked: Asked, enabled: bool, policy: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same in every session that writes to one folder."""
    free = {*_FREE_KEYS, *remote.FREE_KEYS}
    flat = flatten(filled(config).to_dict())
    if asked.policy != "openai":
        free |= {key for key in flat if key.startswith("openai.")}
    free |= {key for key in flat if key.startswith("rewards.judge.")}  # a score of the judge carries its own identity
    keys = {key: value for key, value in flat.items() if key not in free}
    return {"policy": dict(policy), "tools": "on" if enabled else "off", "image": asked.image, "config": keys}


def _system(asked: Asked, name: str) -> str:
    return name if asked.image == "shown" else f"{name}, blank images"


def _ask_all(
    config,
    asked: Asked,
    entrant: native.NativeEntrant | remote.RemoteEntrant,
    benchmarks: Sequence[Benchmark],
    picked: Mapping[str, Sequence[int]],
    out: pathlib.Path,
    enabled: bool,
) -> None:
    """Asks what is not answered yet; makes the policy only where something is left."""
    several = jax.process_count() > 1
    tasks = native.routed(config, benchmarks)
    every = [task for part in tasks.values() for task in part]
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopRequest("at the end of the next item; what was answered is kept"))

        @functools.cache
        def policy():
            return stack.enter_context(entrant.open(config, every, enabled, out))

        for benchmark in benchmarks:
            name, folder = benchmark.name, out / benchmark.name
            hosts.in_turn(lambda folder=folder: files.join_parts(folder) if hosts.is_first() else None)
            with files.Ledger(folder, jax.process_index() if several else None) as ledger:
                hosts.any_of(False)  # all have read what is answered before any of them adds to it
                left = [number for number in picked[name] if number not in ledger.answered]
                n_answered = len(picked[name]) - len(left)
                hosts.print_once(
                    f"{name}: {n_answered} of {len(picked[name])} items are answered, {len(left)} are asked"
                )
                if left:  # of all processes, which make the policy together
                    mine = [left[place] for place in hosts.deal(len(left))]
                    shown = _as_asked(tasks[name], asked.image)
                    options = dict(attempts=config.eval.attempts, on_end=_stopper(stop, name), tell=hosts.print_once)
                    ask(policy(), benchmark, shown, mine, ledger, note=entrant.note, **options)
            hosts.any_of(False)
            hosts.in_turn(lambda folder=folder: files.join_parts(folder) if hosts.is_first() else None)


def _as_asked(tasks: Sequence[Task], image: str) -> list[Task]:
    return [sets.without_sight(task) for task in tasks] if image == "blank" else list(tasks)


def _stopper(stop: StopRequest, name: str):
    def leave_if_asked() -> None:
        if stop.requested:
            raise Stopped(f"stopped by a signal in {name}; the same command goes on from here", stop.number)

    return leave_if_asked


def _tell(results: Mapping[str, Any], out: pathlib.Path) -> None:
    write_json(out / "results.json", results)
    (out / "table.md").write_text(report.markdown(results), encoding="utf-8")
    terminal.say(report.plain(results))
    if below := report.notes(results):
        terminal.say(below)
    terminal.say(f"wrote {out / 'results.json'}, {out / 'table.md'}")
