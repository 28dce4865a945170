"""First light: a 1M-parameter Qwen2.5-VL learns to use real tools on two CPU cores.

    python launch/train.py --config=configs/tiny_cpu.py

Hardware: any CPU with 2 cores; 2.4 GiB of memory are used. Time: 11 minutes after installation. Expected figures, EM on
held-out items, mean of seeds 1, 2 and 3: mini_coding 12 before and 49 after, mini_search 6 and 87. All of these were
measured before rows were packed, the EM at d778713, and not since. Variants: ``:smoke`` (every stage in small, learns
nothing) and ``:lr0`` (the control: GRPO at learning rate 0).
"""

from arft_jax.config import default_config


def get_config(variant: str = ""):
    config = default_config()
    config.name = "tiny_cpu"
    config.workdir = "runs/tiny_cpu"
    config.system_prompt = "short"
    config.model.text_config.update(
        intermediate_size=256, num_attention_heads=2, num_key_value_heads=1, mrope_section=(8, 12, 12)
    )
    config.model.remat = "none"  # all that a backward pass needs fits
    config.rollout.update(max_tokens=160, n_patches=288, n_windows=12)
    config.rollout.max_turns = config.rollout.max_turns_eval = 4
    config.tools.top_k = 1
    config.train.update(micro_tokens=10240, row_widths=(320,), share_prompts=True, image_chunks=32, logps_chunk=2560)
    config.warm_start.update(steps=240, n_chains=2000, n_practice=8400, learning_rate=3e-3)
    config.train.steps = 220
    config.train.learning_rate = 5e-4
    # A slip of form in a group must not outweigh the one right choice in it: unscaled advantages, thinner tails.
    config.train.scale_advantages = "none"
    config.rollout.temperature = 0.8
    # The blind choice that the warm start leaves must not collapse before the reward tells the choices apart.
    config.train.beta = 0.05
    config.rewards.step = 0.5
    config.eval.every = 50
    config.checkpoint.every = 50
    if variant == "smoke":
        config.name, config.workdir = "smoke", "runs/smoke"
        config.data.n_train = 64
        config.warm_start.update(n_chains=32, n_practice=32, steps=4, rows=8)
        config.train.update(steps=2, prompts=2, rows_per_update=16)
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
