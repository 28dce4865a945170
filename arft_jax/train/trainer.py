"""The one training loop: warm start, GRPO, evaluation before, during and after, checkpoints.

Visual-ARFT (arXiv 2505.14246), section 3. Departures from the released trainer:
  1. Tools run during training, over several turns, with images in every turn.
  2. The warm start on recorded chains teaches the protocol only; GRPO starts from it.
  3. The ratio is clipped (``epsilon_low``, ``epsilon_high``); with one update a batch that changes nothing.
  4. A group in which a tool failed by an infrastructure failure, or whose image is damaged, is dropped whole.
  5. Where asked for, slow groups go on in the next step's rollout and importance weights correct for it.

Every stage leaves its mark in the work directory, and the same command goes on behind the last one. Where a run has
several processes, each rolls out its own share of the prompts on its own devices; the update is one program over all.
"""

import contextlib
import dataclasses
import time
from typing import Any

import jax
import numpy as np

from arft_jax.build import parts as build
from arft_jax.build import placement as layout
from arft_jax.build import tools as toolset
from arft_jax.build.prompts import check_prompts
from arft_jax.build.rewards import make_scorer
from arft_jax.config_checks import validate
from arft_jax.data.batch import assemble, pack_rows
from arft_jax.data.images import Quarantine
from arft_jax.data.pipeline import task_stream
from arft_jax.evaluate.evaluator import Evaluation, evaluate
from arft_jax.io import hosts
from arft_jax.io.checkpoints import Checkpoints
from arft_jax.io.metrics import MetricsWriter, Progress
from arft_jax.io.trajectories import save_trajectories
from arft_jax.report import run_report
from arft_jax.rewards.combine import Scorer
from arft_jax.steps import learner
from arft_jax.tools.toolbox import Toolbox
from arft_jax.train import rollouts
from arft_jax.train.metrics import rollout_metrics, tool_metrics
from arft_jax.train.preemption import StopRequest
from arft_jax.train.rollouts import carried_state, resume_carried, roll_out
from arft_jax.train.rollouts import share as _share
from arft_jax.train.run_dir import RunDir
from arft_jax.train.schedule import learning_rate
from arft_jax.train.warm_start import chain_trajectories, warm_start_chains
from arft_jax.trajectory import Trajectory


@dataclasses.dataclass
class Run:
    """What the stages share; ``step`` counts warm-start and GRPO steps together."""

    config: Any
    directory: RunDir
    parts: build.Parts
    tasks: dict[str, dict[str, list]]
    toolbox: Toolbox
    checkpoints: Checkpoints
    metrics: MetricsWriter | None  # of the first process
    stop: StopRequest
    optimizer: Any
    params: Any
    opt_state: Any
    ref_params: Any
    allowed: jax.Array  # bool[V], where training reads it
    streams: dict  # task name -> endless shuffled task indices
    step: int = 0
    seconds: float = 0.0  # spent in earlier sessions of this run
    begin: float = 0.0
    scorer: Scorer = dataclasses.field(default_factory=Scorer)
    quarantine: Quarantine = dataclasses.field(default_factory=Quarantine)  # of training images
    n_told: int = 0  # of its messages
    resumed: list = dataclasses.field(default_factory=list)  # carried groups of a checkpoint, to be begun anew
    rolled_out: Any = None  # the policy as the engine reads it; None: not moved there yet

    @property
    def elapsed_s(self) -> float:
        return self.seconds + time.perf_counter() - self.begin

    def state(self) -> dict:
        """What a checkpoint holds."""
        return {"params": self.params, "opt_state": self.opt_state, "ref_params": self.ref_params}

    def rng(self, stream: int, step: int) -> jax.Array:
        """A threefry key from (seed, stream, step)."""
        return self.put(self.key(stream, step))

    def key(self, stream: int, step: int) -> np.ndarray:
        """:meth:`rng` on the host: uint32[2]."""
        return np.array([self.config.seed * 8 + stream, step], np.uint32)

    def put(self, arrays):
        """Host arrays on every device that rolls out."""
        return self.parts.engine.put(arrays)

    def policy(self) -> Any:
        """The policy as the engine reads it, moved there once a version."""
        if self.rolled_out is None:
            self.rolled_out = self.parts.for_rollout(self.params)
        return self.rolled_out

    def save(self) -> None:
        """Writes a checkpoint of this step where there is none yet."""
        if self.checkpoints.latest_step() != self.step:
            streams = {name: stream.get_state() for name, stream in self.streams.items()}
            host = {"seconds": self.elapsed_s, "streams": streams, "tokenizer": self.parts.tokenizer.sha256}
            host |= {"carried": carried_state(self)} | self.toolbox.stamp()
            self.checkpoints.save(self.step, self.state(), host)

    def end_step(self, last: int) -> None:
        """Saves when it is time; leaves where any process was asked to end."""
        asked = hosts.any_of(self.stop.requested)
        if self.step == last or self.step % self.config.checkpoint.every == 0 or asked:
            self.save()
        self.leave_if_asked(asked)

    def leave_if_asked(self, asked: bool) -> None:
        """Ends the process where it was asked to end; what is finished is on disk by then."""
        if asked:
            self.checkpoints.wait()
            raise SystemExit(f"stopped by signal at step {self.step}; the same command resumes")


def train(config) -> dict:
    """Runs or resumes the whole of a run; returns the results as written to ``results.json``.

    Raises:
      ValueError: a bad configuration or a work directory of another config, before any compute.
    """
    # ------------------------------------------------- check everything first
    validate(config)
    build.check_inputs(config)
    if config.distributed.enabled:
        hosts.start(config.distributed.coordinator, config.distributed.n_processes, config.distributed.process)
    build.check(config)
    directory = hosts.in_turn(lambda: RunDir(config))
    build.set_up_jax(config)
    with contextlib.ExitStack() as stack:
        # --------------------------------------------------- parts, data, tools
        run = _open(config, directory, stack)
        hosts.print_once(f"{config.name}: {build.describe(run.parts)}; work directory {directory.path}")
        with jax.transfer_guard("disallow"):
            # ---------------------------------------------------- warm start
            if run.step < config.warm_start.steps:
                _warm_start(run)
            if run.step == config.warm_start.steps:
                _begin_grpo(run)
            # ---------------------------------------------------------- GRPO
            _evaluate_stage(run, "before", run.toolbox)
            _grpo(run)
            # --------------------------------------------- after, and without
            _evaluate_stage(run, "after", run.toolbox)
            if config.eval.without_tools:
                with toolset.open_toolbox(config, None, enabled=False) as off:
                    _evaluate_stage(run, "no_tools", off)
        if hosts.is_first() and "seconds" not in directory.results():
            directory.add_result("seconds", run.elapsed_s)
        run.checkpoints.wait()
    # ------------------------------------------------------------------ report
    return hosts.in_turn(
        lambda: run_report.write_report(config, directory) if hosts.is_first() else directory.results()
    )


def _open(config, directory: RunDir, stack: contextlib.ExitStack) -> Run:
    parts = build.build(config)
    optimizer = build.optimizer(config)
    quarantine = Quarantine()
    tasks, index_paths = hosts.in_turn(lambda: build.load_data(config, quarantine))
    check_prompts(config, tasks, parts.tokenizer, parts.patches.processor, parts.bucket)
    toolbox = stack.enter_context(toolset.open_toolbox(config, index_paths))
    hosts.print_once(toolbox.line)
    checkpoints = stack.enter_context(Checkpoints(directory.path / "checkpoints", keep=config.checkpoint.keep))
    with_reference = build.keeps_reference(config)
    abstract = learner.abstract_train_state(optimizer, parts.abstract, with_reference, parts.placement)
    found = checkpoints.restore_latest(abstract)
    if found is None:
        state = learner.train_state(optimizer, parts.first_params(), with_reference, parts.placement)
    else:
        build.check_trained_with(parts.tokenizer, found[2], str(checkpoints.directory))
        state = found[1]
    run = Run(
        config, directory, parts, tasks, toolbox, checkpoints, None, StopRequest(), optimizer, **state,
        allowed=hosts.put(np.asarray(jax.device_get(parts.rules.allowed)), parts.placement.whole),
        streams={name: task_stream(len(split["train"]), config.seed) for name, split in tasks.items()},
        scorer=make_scorer(config), quarantine=quarantine,
    )  # fmt: skip
    stack.enter_context(run.stop)
    rollouts.tell_quarantined(run)
    if found is not None:
        run.step, _, host = found
        run.seconds = host["seconds"]
        for name, stream in run.streams.items():
            stream.set_state(host["streams"][name])
        resume_carried(run, host.get("carried", []))
        hosts.print_once(f"resumed at step {run.step}")
    if hosts.is_first():
        run.metrics = stack.enter_context(MetricsWriter(directory.path / "metrics.jsonl", resume_step=run.step))
    run.begin = time.perf_counter()
    return run


# ------------------------------------------------------------------ warm start


def _warm_start(run: Run) -> None:
    """Imitation of recorded chains up to ``warm_start.steps``."""
    config, w = run.config, run.config.warm_start
    chains = warm_start_chains(config, run.tasks, run.toolbox.submit)
    data = chain_trajectories(run.parts.engine, chains, config.rollout.max_tokens)
    hosts.print_once(f"warm start: {len(data)} recorded chains, {w.steps} steps of {w.rows}")
    update = _make_update(run, build.objective(config, "imitation"))
    progress = Progress("warm start", w.steps, start=run.step)
    while run.step < w.steps:
        run.step += 1
        begin = time.perf_counter()
        order = np.random.default_rng([config.seed, 1, run.step]).permutation(len(data))
        rows = pack_rows([len(data[i].tokens) for i in order[: 8 * w.rows]], config.rollout.max_tokens, w.rows)
        rows = rows[_share(w.rows)]
        batch = _batch(run, [data[i] for i in order[: 8 * w.rows]], np.zeros(len(rows)), rows)
        lr = learning_rate(run.step, w.steps, peak=w.learning_rate, warmup_steps=w.warmup_steps, decay_to=0.1)
        stats = _apply(run, update, batch, lr, None, None)
        seconds = time.perf_counter() - begin
        row = {"phase": "warm_start", "step": run.step, "lr": lr, "tokens_per_s": batch.tokens.size / seconds, **stats}
        _log(run, progress, run.step, row, {"nll": stats["nll"], "tokens/s": row["tokens_per_s"]})
        run.end_step(w.steps)


def _begin_grpo(run: Run) -> None:
    """The optimiser starts anew and the warm-started policy becomes the reference."""
    run.opt_state = learner.init_opt_state(run.optimizer, run.params, run.parts.placement)
    if run.ref_params is not None:
        run.ref_params = learner.copy_params(run.params)


# ------------------------------------------------------------------------ GRPO


def _grpo(run: Run) -> None:
    """GRPO steps up to ``train.steps``."""
    config, t = run.config, run.config.train
    first, last = config.warm_start.steps, config.warm_start.steps + t.steps
    policy = build.objective(config, "policy")
    update = _make_update(run, policy)
    score = learner.make_score(run.parts.graphdef, policy)
    score_ref = learner.make_score(run.parts.graphdef, policy, base=run.ref_params is None)
    advantages = learner.make_advantages(config.rollout.group_size, t.scale_advantages)
    progress = Progress("grpo", t.steps, start=run.step - first)
    while run.step < last:
        run.step += 1
        step = run.step - first
        begin, tool_figures = time.perf_counter(), run.toolbox.metrics()
        # ------------------------------------------------------------ rollout
        trajectories = _rollout(run, step)
        rollout_s = time.perf_counter() - begin
        # ---------------------------------------------------------- advantages
        valid = rollouts.valid_rows(trajectories, config.rollout.group_size)
        rewards = np.array([tr.rewards.get("total", 0.0) for tr in trajectories], np.float32)
        adv, adv_stats = jax.device_get(advantages(*run.put((rewards, valid))))
        # -------------------------------------------------------------- update
        lr = learning_rate(step, t.steps, peak=t.learning_rate, warmup_steps=t.warmup_steps, decay_to=t.decay_to)
        n = t.rows_per_update // jax.process_count()
        parts = [slice(k, k + n) for k in range(0, len(trajectories), n)]
        batches = [_batch(run, trajectories[p], adv[p]) for p in parts]
        old = [None if policy.on_policy else score(run.params, b, run.allowed) for b in batches]
        reference = run.params if run.ref_params is None else run.ref_params
        ref = [score_ref(reference, b, run.allowed) if t.beta > 0 else None for b in batches]
        stats = [_apply(run, update, *args) for args in zip(batches, [lr] * len(batches), old, ref, strict=True)]
        # ----------------------------------------------------- figures, files
        seconds = time.perf_counter() - begin
        row = {"phase": "grpo", "step": step, "lr": lr, "rollout_s": rollout_s, "step_s": seconds}
        row |= {name: float(np.mean([s[name] for s in stats])) for name in stats[0]}
        row |= {name: float(value) for name, value in adv_stats.items()}
        row |= rollout_metrics(trajectories, step - 1 if config.rollout.carry_over > 0 else None)
        row["data/quarantined"] = float(run.quarantine.n_images)
        row |= tool_metrics(tool_figures, run.toolbox.metrics())
        row["tokens_per_s"] = sum(len(tr.tokens) for tr in trajectories) / seconds
        row |= hosts.mean_of({name: value for name, value in row.items() if name not in ("phase", "step")})
        row["tokens_per_s"] *= jax.process_count()
        row |= _evaluate_during(run, step)
        shown = {"reward": "reward", "em": "reward/em", "tools": "tool_calls", "tokens/s": "tokens_per_s"}
        shown = {name: row[key] for name, key in shown.items() if key in row}  # no reward where no row was scored
        _log(run, progress, step, row, shown)
        run.end_step(last)


def _rollout(run: Run, step: int) -> list[Trajectory]:
    """One step's trajectories, scored; row p*G + g."""
    groups = roll_out(run, step)
    rows = rollouts.mask_bad_images(run, [tr for group in groups for tr in group])
    return [run.scorer(tr) for tr in rows]


def _batch(run: Run, trajectories: list[Trajectory], advantages: np.ndarray, rows: list | None = None):
    placement = run.parts.placement
    batch = assemble(
        trajectories,
        advantages,
        run.parts.images_of,
        length=run.config.rollout.max_tokens,
        n_chunks=run.config.train.image_chunks // jax.process_count(),
        bucket=run.parts.bucket,
        rows=rows,
        lanes=(*placement.lanes_of(jax.process_index()), placement.n_lanes),
    )
    return hosts.put(batch, layout.batch_places(batch, placement))


def _make_update(run: Run, objective: learner.Objective):
    return learner.make_update(run.parts.graphdef, objective, run.optimizer, like=(run.params, run.opt_state))


def _apply(run: Run, update, batch, lr: float, old_logps, ref_logps) -> dict[str, float]:
    """One optimiser step; its figures on the host."""
    rate, run.rolled_out = hosts.put(np.float32(lr), run.parts.placement.whole), None
    run.params, run.opt_state, stats = update(run.params, run.opt_state, batch, run.allowed, rate, old_logps, ref_logps)
    return {name: float(value) for name, value in jax.device_get(stats).items()}


# ------------------------------------------------------------------ evaluation


def _log(run: Run, progress: Progress, step: int, row: dict[str, Any], shown: dict[str, float]) -> None:
    """One row of metrics and one line for people, once."""
    if run.metrics is not None:
        run.metrics.write(run.step, row)
        progress.update(step, shown)


def _evaluate(run: Run, tasks: list, toolbox: Toolbox) -> Evaluation:
    """Scores of all items; trajectories of those that this process rolled out."""
    config = run.config
    mine = hosts.deal(len(tasks))
    done = evaluate(
        run.parts.engine,
        run.policy(),
        [tasks[i] for i in mine],
        toolbox,
        max_turns=config.rollout.max_turns_eval,
        max_answer_words=config.rewards.max_answer_words,
        rng=run.rng(2, 0),
        context=config.rollout.context,
    )
    f1, em = hosts.gather_dealt(np.stack([done.f1, done.em], axis=1), len(tasks)).T
    return Evaluation(done.trajectories, f1, em, tuple(tasks))


def _evaluate_stage(run: Run, stage: str, toolbox: Toolbox) -> None:
    """Every test item of every task, once a run; figures to results.json, trajectories beside it.

    Raises:
      ValueError: a fault ended an item; the same command begins the stage anew.
    """
    if stage in run.directory.results():
        return
    results = {}
    for name, split in run.tasks.items():
        begin = time.perf_counter()
        done = _evaluate(run, split["test"], toolbox)
        own = f".{jax.process_index()}" if jax.process_count() > 1 else ""
        stamped = [dataclasses.replace(tr, info=tr.info | toolbox.stamp()) for tr in done.trajectories]
        save_trajectories(run.directory.path / "trajectories" / f"{stage}_{name}{own}.jsonl", stamped)
        results[name] = {"table": done.table(run.config.eval.bootstrap), "items": done.items()}
        avg = results[name]["table"]["avg"]
        hosts.print_once(f"{stage} {name}: F1 {avg['f1']:.2f} EM {avg['em']:.2f} ({time.perf_counter() - begin:.0f} s)")
    if hosts.is_first():
        run.directory.add_result(stage, results)
    run.leave_if_asked(hosts.any_of(run.stop.requested))


def _evaluate_during(run: Run, step: int) -> dict[str, float]:
    """Figures of a part of the test items, every ``eval.every`` steps; empty otherwise.

    What a fault of the tools ended is left out and counted: an outage must not end the run.
    """
    e = run.config.eval
    if not e.every or step % e.every or step == run.config.train.steps:
        return {}
    figures = {}
    for name, split in run.tasks.items():
        tasks = split["test"]
        picked = [tasks[i] for i in np.linspace(0, len(tasks) - 1, min(e.n_during, len(tasks))).astype(int)]
        done = _evaluate(run, picked, run.toolbox)
        figures |= {f"eval/{name}/{key}": value for key, value in done.figures().items()}
    hosts.print_once("  ".join(f"{key} {value:.1f}" for key, value in figures.items()))
    return figures
