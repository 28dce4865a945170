"""A trained agent behind the OpenAI chat completions API: weights, tools and slots, and the server around them."""

import base64
import contextlib
import dataclasses
import json
import os
import pathlib
import socket
import threading
from collections.abc import Iterator

import numpy as np
import uvicorn
from absl import logging

from arft_jax.build import tools as toolset
from arft_jax.build.parts import Parts, describe, make, make_rules, set_up_jax
from arft_jax.build.plan import plan_policy
from arft_jax.build.search_indices import index_paths
from arft_jax.commands import native_policy as native
from arft_jax.commands.agent import load_policy, the_index
from arft_jax.config import task_set_name
from arft_jax.config_checks import validate
from arft_jax.data.images import encode_png
from arft_jax.io import terminal
from arft_jax.io.addresses import is_loopback
from arft_jax.rollout.service import Service
from arft_jax.serve.app import Server, Terms
from arft_jax.serve.door import Door
from arft_jax.serve.record import Recorder
from arft_jax.serve.requests import BadRequest
from arft_jax.syntax import hermes
from arft_jax.train.preemption import StopRequest
from arft_jax.trajectory import Image


@dataclasses.dataclass(frozen=True)
class Serving:
    """What the command line says beside the configuration; arft_jax/commands/cli/serve.py has the flags."""

    checkpoint: str = "run"
    tools: str = "on"
    host: str = "127.0.0.1"
    port: int = 8000
    name: str = ""
    key_env: str = ""
    max_waiting: int = 64
    timeout_s: float = 600.0
    grace_s: float = 30.0
    max_body_mb: int = 64
    files: str = ""
    record: str = ""


def serve(config, serving: Serving) -> int:
    """Serves until a signal ends it; returns the exit status: 0, or 1 where a fault of the device ended it.

    Raises:
      ValueError: bad input, before weights are read.
    """
    with config.unlocked():
        config.distributed.update(enabled=False, coordinator="", n_processes=0, process=-1)  # this process alone
    validate(config)
    key = _check(serving)
    native.check_weights_there(config, serving.checkpoint)
    weights = native.find_weights(config, serving.checkpoint)
    listening = _listen(serving)
    with contextlib.ExitStack() as stack:
        stack.callback(listening.close)
        set_up_jax(config)
        tasks = native.own_tasks(config)
        planned = plan_policy(config, own_tasks=tasks)
        parts = make(planned)
        params = parts.first_params() if weights.step is None else load_policy(config, parts)[0]
        name = serving.name or config.name
        kinds, stamp = {}, {"model": name} | dict(weights.identity)
        host = dataclasses.replace(planned.host, search_indices=the_index(set(index_paths(config).values())))
        if serving.tools == "on" and config.tools.enabled:
            kinds = _kinds(config, tasks)
        toolbox = stack.enter_context(toolset.open_toolbox(config, planned.offer, host, enabled=bool(kinds)))
        service = Service(_engine(parts), parts.for_rollout(params), toolbox, serving.max_waiting)
        limits = dataclasses.replace(parts.engine.limits, max_turns=config.rollout.max_turns_eval)
        folder = pathlib.Path(serving.files) if serving.files else None
        door = Door(name, kinds, parts.engine.renderer, limits, folder)
        recorder = Recorder(pathlib.Path(serving.record)) if serving.record else None
        if recorder:
            stack.callback(recorder.close)
        terms = Terms(key, serving.max_body_mb << 20, serving.timeout_s)
        server = Server(service, door, planned.tokenizer, terms, recorder, stamp | toolbox.stamp())
        terminal.say(f"{weights.system}: {describe(parts)}; {toolbox.line}")
        return _run(server, service, door, listening, serving.grace_s)


def _check(serving: Serving) -> str:
    """What can be refused at once; returns the key that clients must send."""
    key = os.environ.get(serving.key_env, "") if serving.key_env else ""
    if serving.key_env and not key:
        raise ValueError(f"the environment variable {serving.key_env} must hold the key: it is empty (--key_env)")
    if not key and not is_loopback(serving.host):
        raise ValueError(
            f"a server that others can reach must have a key: got host {serving.host} without --key_env (--host)"
        )
    if serving.files and not pathlib.Path(serving.files).is_dir():
        raise ValueError(f"the folder of files must exist: got {serving.files} (--files)")
    return key


def _listen(serving: Serving) -> socket.socket:
    """The server's socket, before anything is loaded: a port that is taken costs a second, not minutes."""
    listening = None
    try:
        family = socket.getaddrinfo(serving.host, serving.port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((serving.host, serving.port))
    except OSError as error:
        if listening is not None:
            listening.close()
        raise ValueError(
            f"the address must be free: {serving.host}:{serving.port}: {error.strerror} (--host, --port)"
        ) from None
    return listening


def _kinds(config, tasks) -> dict[str, str]:
    """The kinds of agents that the run has, and the task set whose system prompt they get; empty: that of the kind."""
    names = [task_set_name(entry) for entry in config.data.tasks]
    return dict.fromkeys(sorted(toolset.kinds_of(config, tasks)), names[0] if len(names) == 1 else "")


def _engine(parts: Parts):
    """The engine; a call in the Hermes form, of a tool that the client runs, ends a turn in every syntax."""
    plan = parts.plan
    if hermes.CLOSE not in plan.offer.syntax.stops:
        stops = (*plan.offer.syntax.stops, hermes.CLOSE)
        parts.engine.slots.obey(parts.engine.put(make_rules(plan.tokenizer, stops, plan.sizes.text.vocab_size)))
    return parts.engine


class _Http(uvicorn.Server):
    """Ends when a signal asks for it, which is somebody else's to catch, or when it has nobody to play requests."""

    def __init__(self, settings: uvicorn.Config, stop: StopRequest, service: Service):
        super().__init__(settings)
        self._stop, self._service = stop, service

    def capture_signals(self) -> contextlib.AbstractContextManager:
        """Nothing: see the class."""
        return contextlib.nullcontext()

    async def on_tick(self, counter: int) -> bool:
        """Whether to end; asked ten times a second."""
        return self._stop.requested or self._service.is_closed or await super().on_tick(counter)


def _run(server: Server, service: Service, door: Door, listening: socket.socket, grace_s: float) -> int:
    options = dict(log_level="warning", access_log=False, timeout_graceful_shutdown=int(grace_s), lifespan="off")
    with StopRequest("requests under way are finished, no new ones are taken") as stop, _playing(service):
        try:
            _warm_up(service, door)
            host, port = listening.getsockname()[:2]
            terminal.say(f"serving {', '.join(door.models)} at http://{f'[{host}]' if ':' in host else host}:{port}/v1")
            _Http(uvicorn.Config(server.app(), **options), stop, service).run(sockets=[listening])
        finally:
            service.leave_all()
    terminal.say("stopped")
    return int(service.fault is not None)


@contextlib.contextmanager
def _playing(service: Service) -> Iterator[None]:
    def play() -> None:
        try:
            service.run()
        except Exception as error:  # every listener was told
            logging.error("the rollout ended: %r", error, exc_info=error)

    thread = threading.Thread(target=play, name="rollout")
    thread.start()
    try:
        yield
    finally:
        service.close()
        thread.join()


class _Done:
    """Listens to the request that warms a server up."""

    def __init__(self):
        self.over, self.error = threading.Event(), None

    def grown(self, row) -> None:
        """Nothing to do."""

    def ended(self, rows) -> None:
        """The programs are compiled."""
        self.over.set()

    def failed(self, error: Exception) -> None:
        """The service ended."""
        self.error = error
        self.over.set()


def _warm_up(service: Service, door: Door) -> None:
    """Compiles the programs of a rollout, so that the first clients do not wait for them: text, then an image.

    Raises:
      RuntimeError: the service ended.
    """
    pixels = np.full((56, 56, 3), 128, np.uint8)
    url = "data:image/png;base64," + base64.b64encode(encode_png(Image(pixels))).decode()
    for part in ({"type": "text", "text": "Hello."}, {"type": "image_url", "image_url": {"url": url}}):
        body = {"messages": [{"role": "user", "content": [part]}], "max_tokens": 1}
        done = _Done()
        try:
            service.submit(door.read(json.dumps(body).encode(), "warm-up").request, done)
        except BadRequest:  # a policy without a vision tower takes no image
            continue
        done.over.wait()
        if done.error is not None:
            raise RuntimeError(f"the server could not begin: {service.fault or done.error}")
