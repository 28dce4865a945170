"""The learning rate by step, on the host: one number a step goes to the device."""

import math


def learning_rate(step: int, n_steps: int, *, peak: float, warmup_steps: int, decay_to: float) -> float:
    """Linear from 0 over ``warmup_steps``, then a cosine down to ``decay_to * peak`` at ``n_steps``.

    Example, peak 1, warmup 2, 4 steps, decay_to 0: 0.5, 1, 0.5, 0 at steps 1 to 4.

    Args:
      step: 1 .. n_steps.
      n_steps: length of the phase.
      peak: the highest rate.
      warmup_steps: steps of the linear part.
      decay_to: share of the peak that is left at the end.
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    done = (step - warmup_steps) / max(n_steps - warmup_steps, 1)
    return peak * (decay_to + (1 - decay_to) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))
