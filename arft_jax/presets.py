"""Overrides that the published models' configs share: sizes of a real trajectory, and the smoke variant of them all."""

from typing import Any

from arft_jax.config import MAT_TASKS, default_config


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
