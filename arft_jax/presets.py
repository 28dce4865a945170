"""Overrides that the published models' configs share: sizes of a real trajectory, hardware, the recipes of Visual-ARFT.

Visual-ARFT: arXiv 2505.14246, and its released trainers of May 2025 (github.com/Liuziyu77/Visual-RFT, Visual-ARFT/).
"""

from typing import Any

from arft_jax.config import MAT_TASKS, default_config

# What fits: (size, kind of accelerator) -> what it is meant for, overrides of config.rollout, of config.train.
FITTED = {
    ("3b", "tpu"): (
        "tpu v5e:4x4", dict(tensor=2, n_slots=32, extend_rows=4), dict(micro_tokens=16384, image_chunks=64),
    ),
    ("7b", "tpu"): (
        "tpu v5e:8x8", dict(tensor=4, n_slots=16, extend_rows=4), dict(prompts=16, rows_per_update=128),
    ),
    ("3b", "gpu"): ("gpu h100:8", dict(n_slots=64, extend_rows=8), dict(micro_tokens=32768, image_chunks=64)),
    ("7b", "gpu"): ("gpu h100:8", dict(n_slots=64, extend_rows=8), dict(micro_tokens=16384, image_chunks=32)),
}  # fmt: skip
AGENTS = {"coding": ("mat_coding", "mat_training_coding"), "search": ("mat_search", "mat_training_search")}
SEARCH_CACHE = "runs/serper_replies.jsonl"  # what was searched once costs nothing the next time


def qwen_config(name: str, size: str, hardware: str, variant: str = "") -> Any:
    """The configuration of a run on published weights, 8k tokens a trajectory, images of up to 401408 px.

    Args:
      name: of the config, and of its work directory under ``runs/``.
      size: 3b, 7b, 32b or 72b.
      hardware: what it is meant for.
      variant: ``smoke`` makes every stage small and takes weights of any size, on any device.

    Raises:
      ValueError: an unknown variant.
    """
    config = default_config()
    config.name, config.workdir, config.hardware = name, f"runs/{name}", hardware
    config.model.update(size=size, dtype="bfloat16", remat="full")
    config.model.attention = "splash" if hardware.startswith("tpu") else "cudnn"
    config.data.update(tasks=MAT_TASKS, n_train=100_000, min_pixels=3136, max_pixels=401408)
    config.warm_start.steps = 0
    config.rollout.update(
        max_turn_tokens=1024, max_tokens=8192, bucket_columns=2048, decode_steps=64, extend_chunk=256, n_patches=4096,
        n_windows=128, n_features=65536, max_images=4,
    )  # fmt: skip
    config.train.update(steps=200, learning_rate=1e-6, micro_tokens=8192, image_chunks=128, logps_chunk=256)
    if variant == "smoke":
        config.name, config.workdir, config.hardware = f"{name}_smoke", f"runs/{name}_smoke", ""
        config.model.update(size="", attention="auto")
        config.data.update(n_train=16, max_pixels=7056)
        config.rollout.update(
            n_slots=16, max_turn_tokens=32, max_tokens=768, bucket_columns=384, decode_steps=8, extend_rows=16,
            n_patches=576, n_windows=64, n_features=1024,
        )  # fmt: skip
        config.train.update(steps=2, prompts=2, rows_per_update=16, micro_tokens=3072, image_chunks=8)
        config.eval.update(every=1, n_during=4, bootstrap=100)
        config.checkpoint.every = 1
    elif variant:
        raise ValueError(f"variant must be smoke: got {variant!r} (configs/{name}.py:{variant})")
    return config


def fitted_config(name: str, size: str, kind: str, variant: str = "") -> Any:
    """:func:`qwen_config` with what fits the hardware.

    Args:
      name: of the config.
      size: 3b or 7b.
      kind: tpu or gpu.
      variant: ``smoke``, or empty.
    """
    hardware, rollout, train = FITTED[size, kind]
    config = qwen_config(name, size, hardware, variant)
    if not variant:
        config.distributed.enabled = kind == "tpu"
        config.rollout.update(rollout)
        config.train.update(train)
    return config


def set_released_recipe(config: Any, agent: str, smoke: bool = False) -> None:
    """Trains as the released trainers do: on single recorded steps, and no tool runs in training.

    Args:
      config: of :func:`qwen_config`, changed in place.
      agent: coding or search.
      smoke: the config is small, and stays so.
    """
    config.data.tasks = (AGENTS[agent][1],)
    config.rollout.update(
        group_size=8, temperature=1.0, top_k=0, top_p=1.0, max_turns=1, max_turns_eval=5, context="rerender"
    )
    config.rewards.update(format=1.0, accuracy=1.0, step=0.0, max_answer_words=0)
    config.train.update(
        learning_rate=1e-6, warmup_steps=0, weight_decay=0.0, adam_b1=0.9, adam_b2=0.999, clip_norm=1.0, beta=0.04,
        aggregation="sequence", scale_advantages="std",
    )  # fmt: skip
    if smoke:
        return
    # 1400 of 10 epochs' 2120 steps, or 200 of 400 epochs' 1600; one update a batch of 16 prompts.
    config.train.update(steps=1400, decay_to=0.34, prompts=16, rows_per_update=128)
    config.rollout.update(max_turn_tokens=1024, max_tokens=4096)
    if agent == "search":
        config.train.update(steps=200, decay_to=0.875)
        config.rollout.update(max_turn_tokens=2048, max_tokens=6144)
        config.tools.search.backend = "serper"
        config.rewards.query = "minilm"
    config.eval.update(every=100, n_during=50)
    config.checkpoint.every = 100


def set_live_recipe(config: Any, agent: str, smoke: bool = False) -> None:
    """Trains one agent on whole questions, five turns with live tools; see :func:`set_released_recipe`."""
    config.data.tasks = (AGENTS[agent][0],)
    config.rollout.update(group_size=8, temperature=1.0, max_turns=5, max_turns_eval=5)
    if smoke:
        return
    config.train.update(steps=225 if agent == "coding" else 100, prompts=16, rows_per_update=128)
    if agent == "search":
        config.rollout.max_turn_tokens = 2048
        config.tools.search.update(backend="serper", cache=SEARCH_CACHE, cache_mode="mixed")
    config.eval.update(every=25, n_during=50)
    config.checkpoint.every = 25


def visual_arft_config(agent: str, variant: str = "") -> Any:
    """An agent of the paper: coding or search.

    Args:
      agent: coding or search.
      variant: words joined by ``_``, in any order: a size (3b, else 7b), hardware (tpu, else gpu), ``released`` for the
        recipe of the released trainers (else live tools), ``smoke`` for every stage in small on any device.

    Raises:
      ValueError: another word, or two of one kind.
    """
    words = variant.split("_") if variant else []
    kinds = [("3b", "7b"), ("tpu", "gpu"), ("live", "released"), ("smoke",)]
    chosen = [[word for word in words if word in kind] for kind in kinds]
    if sum(map(len, chosen)) != len(words) or any(len(of_kind) > 1 for of_kind in chosen):
        raise ValueError(
            "variant must be words joined by _, one of each: 3b or 7b, tpu or gpu, live or released, smoke: got "
            f"{variant!r} (configs/visual_arft_{agent}.py:{variant})"
        )
    size, kind, recipe = (
        of_kind[0] if of_kind else default for of_kind, default in zip(chosen, ("7b", "gpu", "live"), strict=False)
    )
    smoke = bool(chosen[3])
    name = "_".join(["visual_arft", agent, size, kind, *(["released"] if recipe == "released" else [])])
    config = fitted_config(name, size, kind, "smoke" if smoke else "")
    (set_released_recipe if recipe == "released" else set_live_recipe)(config, agent, smoke)
    if recipe == "released" and not smoke:  # whole rows, and no more tokens than were compiled for the hardware
        config.train.micro_tokens -= config.train.micro_tokens % config.rollout.max_tokens
    return config
