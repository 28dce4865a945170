"""Ends a run that has stopped learning: too many updates in a row whose gradient was not finite."""

from collections.abc import Iterable, Mapping

from arft_jax.io.checkpoints import Checkpoints

_SHOWN = ("grad_norm", "loss")  # statistics of the last update that the message names


class SkipLimit:
    """Counts the updates in a row that left the parameters as they were, from the start or the resumption of a stage.

    Args:
      most: so many end the run (``config.train.max_skipped``); 0: none do.
    """

    def __init__(self, most: int):
        self._most = most
        self._n = 0

    def check(self, updates: Iterable[Mapping[str, float]], where: str, checkpoints: Checkpoints) -> None:
        """Counts the updates of a step; to be called when the step's figures are written and before it is saved.

        Args:
          updates: figures of each, in their order; ``skipped`` is 1 where the gradient was not finite.
          where: the step, for the message, as of ``train.run.phase_step``.
          checkpoints: of the run; a save that is under way is finished first.

        Raises:
          ValueError: so many in a row; the same command resumes from the last checkpoint.
        """
        for stats in updates:
            self._n = self._n + 1 if stats["skipped"] else 0
            if self._most and self._n >= self._most:
                shown = ", ".join(f"{name}={stats[name]:g}" for name in _SHOWN if name in stats)
                raise ValueError(
                    f"gradients must be finite: got {self._n} in a row that were not, whose updates were skipped, the "
                    f"last at {where} ({shown}); {_last(checkpoints)} (config.train.max_skipped)"
                )


def _last(checkpoints: Checkpoints) -> str:
    """Where the same command goes on."""
    step = checkpoints.latest_step()
    if step is None:
        return "there is no checkpoint yet, so the same command begins anew"
    return f"the last checkpoint is that of step {step} in {checkpoints.directory}, from which the same command resumes"
