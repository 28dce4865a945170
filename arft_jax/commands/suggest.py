"""Names near a misspelt one: of flags, of commands, of shipped configurations, of configuration keys."""

import difflib
from collections.abc import Iterable, Sequence

_CUTOFF = 0.7  # of difflib's ratio: one wrong letter in three is too many
# What other libraries of the field call a key of ours (its last part).
ALIASES = {
    "lr": "learning_rate",
    "wd": "weight_decay",
    "warmup": "warmup_steps",
    "max_steps": "steps",
    "num_steps": "steps",
    "total_steps": "steps",
    "batch_size": "rows_per_update",
    "num_generations": "group_size",
    "n_generations": "group_size",
    "kl_coef": "beta",
    "kl_weight": "beta",
    "kl_estimator": "kl",
    "loss_type": "objective",
    "advantage_estimator": "baseline",
    "entropy_coef": "entropy_bonus",
    "delta": "dual_clip",
    "epsilon": "epsilon_low",
    "clip_range": "epsilon_low",
    "max_grad_norm": "clip_norm",
    "grad_clip": "clip_norm",
    "gradient_checkpointing": "remat",
    "adam_beta1": "adam_b1",
    "adam_beta2": "adam_b2",
    "max_length": "max_tokens",
    "max_new_tokens": "max_turn_tokens",
    "max_completion_length": "max_turn_tokens",
    "temp": "temperature",
    "precision": "dtype",
    "freeze_vision_tower": "freeze_vision",
    "freeze_vision_modules": "freeze_vision",
    "r": "rank",
    "lora_r": "rank",
    "lora_rank": "rank",
    "lora_alpha": "alpha",
    "lora_path": "adapter",
    "adapter_path": "adapter",
    "use_rslora": "rslora",
    "model_path": "weights",
    "pretrained": "weights",
    "output_dir": "workdir",
    "work_dir": "workdir",
    "dataset": "tasks",
    "datasets": "tasks",
    "data_dir": "dir",
}


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that is most like ``word``; empty where none is.

    >>> nearest("tiny_cpi", ["bench_cpu", "tiny_cpu"])
    'tiny_cpu'
    """
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=_CUTOFF)), "")


def nearest_keys(key: str, keys: Sequence[str]) -> list[str]:
    """The dotted keys that a misspelt one may have meant, the likeliest first; at most three, possibly none.

    The last part is what is compared, by its letters or by what other libraries call it. A key with a group gets one
    answer, that of the group most like its own; a key without one gets every key of that name.

    >>> nearest_keys("train.lr", ["warm_start.learning_rate", "train.learning_rate"])
    ['train.learning_rate']
    >>> nearest_keys("lr", ["warm_start.learning_rate", "train.learning_rate"])
    ['train.learning_rate', 'warm_start.learning_rate']
    """
    group, _, name = key.rpartition(".")
    names = {name, ALIASES.get(name, name)}
    found = []
    for candidate in keys:
        its_group, _, its_name = candidate.rpartition(".")
        likeness = max(_likeness(word, its_name) for word in names)
        if likeness >= _CUTOFF:
            # Training is what most overrides are about, so its keys come first among equals.
            found.append((likeness + 0.5 * _likeness(group, its_group), its_group == "train", candidate))
    found.sort(key=lambda entry: entry[:2], reverse=True)
    if not found:
        groups = {".".join(parts[:n]) for parts in (k.split(".") for k in keys) for n in range(1, len(parts))}
        near = nearest(key, sorted(groups))
        return [near] if near else []
    best = found[0][0]
    return [candidate for score, _, candidate in found if score == best][: 1 if group else 3]


def question(words: Sequence[str]) -> str:
    """``; did you mean 'a' or 'b'?``, or nothing where there are no words."""
    return f"; did you mean {' or '.join(map(repr, words))}?" if words else ""


def _likeness(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()
