"""The policy that is a model behind a chat completions server: checked, asked side by side, counted."""

import asyncio
import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from arft_jax.build import search_indices, settings
from arft_jax.build import tools as toolset
from arft_jax.build.prompts import system_texts, text_or_file
from arft_jax.commands import native_policy as native
from arft_jax.data.images import ImageProcessor
from arft_jax.evaluate.benchmarks import Benchmark
from arft_jax.evaluate.chat_agent import Asking, play
from arft_jax.evaluate.policy import Item, OnEnd, Policy
from arft_jax.io import hosts
from arft_jax.openai_checks import QUESTION
from arft_jax.remote import access, log
from arft_jax.remote.costs import Meter, told
from arft_jax.syntax.plain import PlainSyntax
from arft_jax.tools.offer import Offer
from arft_jax.tools.record import ToolHost
from arft_jax.train.preemption import Stopped
from arft_jax.trajectory import Task, Trajectory

PLAIN = "{question}\nAnswer with a word or a short phrase, and write nothing else."
# Keys of config.openai that may differ between sessions of one evaluation: where it is asked, how fast, for how much.
FREE_KEYS = tuple(
    f"openai.{key}"
    for key in (
        "base_url", "key_env", "concurrency", "timeout_s", "n_tries", "backoff_s", "max_backoff_s", "requests_per_min",
        "tokens_per_min", "prices", "budget_dollars", "budget_tokens",
    )
)  # fmt: skip
KEYS = "config.openai"
BUDGET_CODE = 3  # exit status where the budget is spent


class BudgetReached(Stopped):
    """The budget ended the evaluation, which kept what was answered."""

    def __init__(self, message: str):
        super().__init__(message)
        self.code = BUDGET_CODE


@dataclasses.dataclass(frozen=True)
class RemotePlan:
    """How the items are asked.

    Args:
      asking: prompts, syntax, limits.
      offer, host: the tools, and what they are opened with.
    """

    asking: Asking
    offer: Offer
    host: ToolHost


def check_server_named(config, enabled: bool) -> None:
    """Raises a ValueError where no model can be asked; sends nothing.

    Args:
      config: of the evaluation.
      enabled: whether tools are on.
    """
    o = config.openai
    access.check_access(o, KEYS, "--policy=openai")
    if o.prompt != "agent" and enabled:
        raise ValueError(
            f"tools must be off where the prompt does not announce them: got prompt={o.prompt!r} (--tools=off, "
            "config.openai.prompt)"
        )
    _question(config)


def _question(config) -> Callable[[Task], str]:
    """What gives a task the user's text."""
    o = config.openai
    if o.prompt == "agent":
        return lambda task: task.question
    given = PLAIN if o.prompt == "plain" else o.prompt
    template = text_or_file(given, "a prompt", f"{KEYS}.prompt", QUESTION)
    return lambda task: template.replace(QUESTION, task.question)


def plan_remote(config, benchmarks: Sequence[Benchmark], enabled: bool) -> RemotePlan:
    """Plans the prompts and tools, and checks them against every item; nothing is sent.

    Args:
      config: of :func:`arft_jax.commands.native_policy.config_to_evaluate`.
      benchmarks: whose items are asked.
      enabled: whether tools are on.

    Raises:
      ValueError: a tool or an item that does not fit; the key to change is named.
    """
    o, every = config.openai, [task for benchmark in benchmarks for task in benchmark.tasks]
    if enabled:
        search_indices.check_collections(config, every)
    own_tasks = native.own_tasks(config)
    sizes = config.model.vision_config
    processor = ImageProcessor(
        config.data.min_pixels, config.data.max_pixels, sizes.patch_size, sizes.spatial_merge_size
    )
    host = toolset.tool_host(config, search_indices.found_indices(config), processor)
    kinds = toolset.kinds_of(config, own_tasks)
    offer = toolset.plan_offer(config, host, kinds, {name for task in own_tasks for name in task.tools})
    is_agent = o.prompt == "agent"
    limits = dataclasses.replace(settings.rollout_limits(config), max_turns=config.rollout.max_turns_eval)
    asking = Asking(
        system=system_texts(config, offer) if is_agent else lambda task: "",
        question=_question(config),
        syntax=offer.syntax if is_agent else PlainSyntax(),
        limits=limits,
        processor=processor,
        resized=o.images == "resized",
        detail=o.detail,
        sends_stops=o.stops == "send",
        context=config.rollout.context,
    )
    _check_items(every, asking)
    return RemotePlan(asking, offer, host)


def _check_items(tasks: Sequence[Task], asking: Asking) -> None:
    bad = []
    for task in tasks:
        n_images, n_pixels = len(task.images), asking.n_pixels(task.images)
        if not task.question.strip():
            bad.append(f"{task.id}: no question")
        elif not all(map(asking.can_show, task.images)):
            bad.append(f"{task.id}: an image with an aspect ratio over 200")
        elif not asking.limits.allows_images(n_images, n_pixels):
            keys = "config.rollout.max_images, config.rollout.max_image_pixels"
            bad.append(f"{task.id}: {n_images} images of {n_pixels} px ({keys})")
    if bad:
        more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
        raise ValueError(f"every prompt must have a question and images that fit: got {'; '.join(bad[:10])}{more}")


@contextlib.contextmanager
def open_remote(
    config,
    planned: RemotePlan,
    tasks: Sequence[Task],
    enabled: bool,
    out: pathlib.Path,
    meter: Meter,
    on_budget: Callable[[], None] = lambda: None,
) -> Iterator[Policy]:
    """The policy with its tools, once the server has answered; tools are closed on leaving.

    Args:
      config: of the evaluation.
      planned: of :func:`plan_remote`.
      tasks: of all benchmarks: tools that none of them is offered are not opened.
      enabled: whether tools are on.
      out: the evaluation's folder, for the log of requests.
      meter: takes the costs, and ends the asking where the budget is spent.
      on_budget: called where an item is left unanswered for that.

    Raises:
      ValueError: no such server or model, a key that it does not take, a tool that cannot be opened.
    """
    from arft_jax.remote.client import BudgetSpent, ChatClient  # needs the openai package

    process = jax.process_index() if jax.process_count() > 1 else None
    with contextlib.ExitStack() as stack:
        requests = stack.enter_context(contextlib.closing(log.RequestLog(out, process)))
        client = ChatClient(_server(config, planned.asking), meter, requests)
        asyncio.run(_check(client))
        hosts.print_once(
            f"{config.openai.model} at {config.openai.base_url}, {config.openai.concurrency} items at once"
        )
        toolbox = stack.enter_context(
            toolset.open_toolbox(
                config, planned.offer.only(tasks), native.with_made_indices(planned.host), enabled=enabled
            )
        )
        hosts.print_once(toolbox.line)
        stamp = toolbox.stamp()

        async def one(item: Item) -> Trajectory | None:
            said = {"benchmark": item.task.task_set, "item": item.number + 1, "question_id": item.task.id}

            def complete(messages, turn):
                return client.complete(messages, said | {"turn": turn})

            try:
                trajectory = await play(item.task, complete, toolbox, planned.asking)
            except BudgetSpent:
                on_budget()
                return None
            return dataclasses.replace(trajectory, info=trajectory.info | stamp)

        def asked(items: Sequence[Item], on_end: OnEnd) -> None:
            if failure := asyncio.run(_ask_all(client, items, one, on_end, config.openai.concurrency)):
                raise failure

        yield asked


async def _check(client) -> None:
    async with client.connected():
        await client.check()


async def _ask_all(client, items, one, on_end: OnEnd, n_workers: int) -> BaseException | None:
    """Asks items side by side; returns what ended that early: an exception of ``on_end`` or of an item.

    Items that have ended by then are answered and paid for, so they too are given to ``on_end``.
    """
    todo, ended, failure = iter(items), asyncio.Queue(), None

    async def work() -> None:
        try:
            for item in todo:
                ended.put_nowait((item.number, await one(item)))
        except Exception as error:  # raised by the caller
            ended.put_nowait(error)
        finally:
            ended.put_nowait(None)

    async with client.connected():
        workers = [asyncio.create_task(work()) for _ in range(min(n_workers, len(items)))]
        n_left = len(workers)
        try:
            while n_left and failure is None:
                found = await ended.get()
                if found is None:
                    n_left -= 1
                elif isinstance(found, Exception):
                    failure = found
                elif found[1] is not None:
                    on_end(*found)
        except BaseException as error:  # of on_end, or Ctrl-C: raised by the caller, outside the loop
            failure = error
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    while not ended.empty():
        found = ended.get_nowait()
        if isinstance(found, tuple) and found[1] is not None:
            try:
                on_end(*found)
            except SystemExit:  # a stop that was asked for already; the item is written down by then
                pass
            except Exception as error:  # the item is lost, which outweighs what ended the asking
                failure = error
    return failure


def _server(config, asking: Asking):
    from arft_jax.remote.client import Server, fields_of

    o = config.openai
    max_tokens = o.max_tokens or config.rollout.max_turn_tokens
    fields = fields_of(o.extra, o.temperature, o.max_tokens_name, max_tokens)
    if o.stops == "send" and asking.syntax.stops:
        fields["stop"] = list(asking.syntax.stops)
    return Server(
        base_url=o.base_url,
        model=o.model,
        key=access.key_of(o, KEYS),
        key_env=o.key_env,
        fields=fields,
        timeout_s=o.timeout_s,
        n_tries=o.n_tries,
        backoff_s=o.backoff_s,
        max_backoff_s=o.max_backoff_s,
        requests_per_min=o.requests_per_min,
        tokens_per_min=o.tokens_per_min,
        keys=KEYS,
    )


def _meter(config, out: pathlib.Path) -> Meter:
    o = config.openai
    return log.open_meter(out, Meter(dict(o.prices), o.budget_dollars, o.budget_tokens, jax.process_count(), KEYS))


class RemoteEntrant:
    """The model that is evaluated, from the check of the configuration to the policy.

    Args:
      config: of the evaluation.
    """

    def __init__(self, config):
        self._planned: RemotePlan | None = None
        self._meter: Meter | None = None
        self._out_of_budget = False
        self.system, self.step = config.openai.model, None
        self.told = {"base_url": config.openai.base_url}

    def plan(self, config, benchmarks: Sequence[Benchmark], enabled: bool) -> dict[str, Any]:
        """See :func:`plan_remote`; returns what, beside the configuration, tells the policy from those of weights."""
        self._planned = plan_remote(config, benchmarks, enabled)
        return {"server": "openai", "model": config.openai.model}

    def open(
        self, config, tasks: Sequence[Task], enabled: bool, out: pathlib.Path
    ) -> contextlib.AbstractContextManager[Policy]:
        """See :func:`open_remote`."""
        hosts.in_turn(lambda: log.join_logs(out) if hosts.is_first() else None)
        self._meter = _meter(config, out)
        return open_remote(config, self._planned, tasks, enabled, out, self._meter, self._run_out)

    def _run_out(self) -> None:
        self._out_of_budget = True

    def note(self) -> str:
        """Of a line of progress: what was spent."""
        return self._meter.line() if self._meter else ""

    def finish(self, config, out: pathlib.Path) -> dict[str, Any]:
        """What else the results hold: ``costs`` of all sessions and processes, by model.

        Raises:
          BudgetReached: the budget ended the asking.
        """
        stopped = hosts.any_of(self._out_of_budget)
        hosts.in_turn(lambda: log.join_logs(out) if hosts.is_first() else None)
        meter = _meter(config, out)
        if stopped:
            raise BudgetReached(
                f"{told(meter.totals())}\nthe budget of {meter.budget} is spent; what was answered is kept, and the "
                "same command with a larger one goes on from here"
            )
        return {"costs": meter.totals()}
