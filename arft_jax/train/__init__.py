"""The training loop and what serves it: state, rollouts, metrics, warm start, the work directory."""
