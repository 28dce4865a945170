"""First light: a 1M-parameter Qwen2.5-VL learns to use real tools on two CPU cores.

    python launch/train.py --config=configs/tiny_cpu.py

Hardware: any CPU with 2 cores, 6 GiB of memory. Time: under 15 minutes after installation.
Expected: the table in README.md. Variants: ``:smoke`` (every stage, seconds, learns nothing) and ``:lr0`` (the
control: GRPO at learning rate 0).
"""

from arft_jax.config import default_config


def get_config(variant: str = ""):
    config = default_config()
    config.name = "tiny_cpu"
    config.workdir = "runs/tiny_cpu"
    config.system_prompt = "short"
    if variant == "smoke":
        config.name, config.workdir = "smoke", "runs/smoke"
        config.data.n_train = 64
        config.warm_start.update(n_chains=32, steps=4, rows=8)
        config.train.update(steps=2, prompts=2, rows_per_update=16, image_chunks=4)
        config.rollout.update(n_slots=16)
        config.eval.update(every=1, n_during=4, bootstrap=100)
        config.checkpoint.every = 2
    elif variant == "lr0":
        config.name = "tiny_cpu_lr0"
        config.workdir = "runs/tiny_cpu_lr0"
        config.train.learning_rate = 0.0
    elif variant:
        raise ValueError(f"variant must be smoke or lr0: got {variant!r} (configs/tiny_cpu.py:{variant})")
    return config
