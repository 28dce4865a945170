"""The work directory of a run: whose it is, its resolved config, the files that an export needs, its results so far."""

import errno
import json
import os
import pathlib
from typing import Any

from arft_jax.build.model import added_tokens
from arft_jax.io import hf_files
from arft_jax.io.disk import naming_write_faults
from arft_jax.io.run_record import differences, flatten, versions, write_json
from arft_jax.objective_keys import filled

NOT_OF_A_RUN = "openai."  # group of keys that a run does not read: it is written without them
HF_FILES = "hf"  # folder with the weights' config.json, tokenizer and processor files
# May differ between a run and its resumption, and from process to process.
_OF_JUDGE = ("base_url", "key_env", "concurrency", "timeout_s", "n_tries", "prices", "budget_dollars", "budget_tokens")
FREE_KEYS = (
    "compilation_cache", "workdir", "distributed.coordinator", "distributed.process", "eval.attempts",
    *(f"rewards.judge.{key}" for key in _OF_JUDGE),
)  # fmt: skip


class RunDir:
    """Opens a work directory for one config.

    Args:
      config: the validated configuration.

    Raises:
      ValueError: the directory holds a run of another config, or something that is no run; it cannot be written to.
    """

    def __init__(self, config):
        self.path = pathlib.Path(config.workdir)
        with naming_write_faults("the work directory", self.path, "config.workdir"):
            self._open(config)

    def _open(self, config) -> None:
        flat = flatten(filled(config).to_dict())
        mine = {key: value for key, value in flat.items() if key not in FREE_KEYS and not key.startswith(NOT_OF_A_RUN)}
        mine = json.loads(json.dumps(mine))
        written = self.path / "config.json"
        if written.exists():
            self._compare(json.loads(written.read_text())["config"], mine)
        elif self.path.exists() and any(self.path.iterdir()):
            raise ValueError(
                f"the work directory must be empty or hold a run of this config: {self.path} holds other files "
                "(config.workdir)"
            )
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(written, {"config": mine, "versions": versions()})
        if not os.access(self.path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.path))
        if config.weights or config.tokenizer:
            hf_files.keep_files(
                self.path / HF_FILES, weights=config.weights, tokenizer=config.tokenizer, added=added_tokens(config)
            )

    def _compare(self, theirs: dict, mine: dict) -> None:
        if shown := differences(theirs, mine):
            raise ValueError(
                f"the work directory must hold a run of this config: {self.path} has {shown}; resume with the "
                "old values or choose another directory (config.workdir)"
            )

    @property
    def results_path(self) -> pathlib.Path:
        return self.path / "results.json"

    def results(self) -> dict:
        """What has been measured so far; empty at first."""
        return json.loads(self.results_path.read_text()) if self.results_path.exists() else {}

    def add_result(self, stage: str, value: Any) -> None:
        """Adds the figures of one stage, keeping those of the others."""
        write_json(self.results_path, self.results() | {stage: value})
