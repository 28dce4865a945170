"""What the values under ``config.train`` must be, and what they must be to those of other parts."""

import math

from arft_jax.words import ATTENTION_KERNELS


def check_train(config) -> list[str]:
    """A sentence for each violation, with its config keys."""
    return _check_updates(config) + _check_precision(config) + _check_images(config) + _check_overlong(config)


def _check_updates(config) -> list[str]:
    t, problems = config.train, []
    rows = t.prompts * config.rollout.group_size
    group = config.rollout.group_size
    if t.rows_per_update > 0 and group > 0 and (rows % t.rows_per_update or t.rows_per_update % group):
        problems.append(
            "rows_per_update must be whole groups and divide the rows of a step: got "
            f"rows_per_update={t.rows_per_update}, B={rows} (prompts={t.prompts}, group_size={group}) "
            "(config.train.rows_per_update, config.train.prompts, config.rollout.group_size)"
        )
    if t.micro_tokens < config.rollout.max_tokens:
        problems.append(
            f"micro_tokens must hold the longest trajectory: got micro_tokens={t.micro_tokens}, max_tokens="
            f"{config.rollout.max_tokens} (config.train.micro_tokens, config.rollout.max_tokens)"
        )
    widths = tuple(t.row_widths)
    if widths and not (config.rollout.max_tokens <= max(widths) <= t.micro_tokens and min(widths) > 0):
        problems.append(
            f"row_widths must be positive, the largest between max_tokens and micro_tokens: got {widths}, max_tokens="
            f"{config.rollout.max_tokens}, micro_tokens={t.micro_tokens} (config.train.row_widths)"
        )
    if t.share_prompts and config.model.attention in ATTENTION_KERNELS:
        problems.append(
            f"share_prompts must be off where attention is {config.model.attention}, a kernel that sees one segment "
            "alone (config.train.share_prompts, config.model.attention)"
        )
    if t.beta > 0 and (config.rollout.top_k > 0 or config.rollout.top_p < 1):
        problems.append(
            "beta must be 0 where top_k or top_p is on, the reference's own top tokens are others and the KL to it is "
            f"then without bound: got beta={t.beta}, top_k={config.rollout.top_k}, top_p={config.rollout.top_p} "
            "(config.train.beta, config.rollout.top_k, config.rollout.top_p)"
        )
    if t.epsilon_low > 1:
        problems.append(
            f"epsilon_low must be at most 1, a ratio is never below 0: got {t.epsilon_low} (config.train.epsilon_low)"
        )
    problems += [
        f"{key} must be finite: got {t[key]} (config.train.{key})"
        for key in ("epsilon_high", "dual_clip", "beta", "entropy_bonus", "importance_cap")
        if t[key] == math.inf
    ]
    return problems


def _check_precision(config) -> list[str]:
    m, t, w, problems = config.model, config.train, config.warm_start, []
    is_narrow = m.param_dtype == "bfloat16" and not m.lora.rank  # adapters are float32 always
    rates = [part.learning_rate for part in (w, t) if part.steps > 0 and part.learning_rate > 0]
    if is_narrow and rates and t.param_rounding == "nearest":
        problems.append(
            "param_dtype must be float32 where every parameter is trained and rounded to the nearest, a change of less "
            "than half the distance between two bfloat16 numbers is lost (at a learning rate of 1e-6 98 % of weights "
            f"never move): got bfloat16, learning_rate={min(rates):g} (config.model.param_dtype, or "
            "config.train.param_rounding = 'stochastic', or adapters by config.model.lora.rank)"
        )
    if t.param_rounding == "stochastic" and not is_narrow:
        problems.append(
            "param_rounding must be nearest where what is trained is float32, which is not rounded: got "
            f"{t.param_rounding!r}, param_dtype={m.param_dtype!r}, lora.rank={m.lora.rank} "
            "(config.train.param_rounding)"
        )
    if m.freeze_vision and m.vision == "new":
        problems.append(
            "freeze_vision must be off where vision is new: a fresh tower that is not trained says nothing "
            "(config.model.freeze_vision, config.model.vision)"
        )
    if m.freeze_vision and m.lora.rank and m.lora.vision:
        problems.append(
            "freeze_vision must be off where the tower's adapters are trained: got lora.vision=True "
            "(config.model.freeze_vision, config.model.lora.vision)"
        )
    problems += [
        f"{name} must lie in [0, 1): got {t[name]} (config.train.{name})"
        for name in ("adam_b1", "adam_b2")
        if not 0 <= t[name] < 1
    ]
    return problems


def _check_images(config) -> list[str]:
    """Whether the chunks of a micro-batch hold the images of one trajectory where their number is bounded: as many as
    it may have, all of full size. By patches: slivers take more windows.
    """
    r, t, patch = config.rollout, config.train, config.model.vision_config.patch_size
    if not (r.max_images > 0 and patch > 0 and config.data.max_pixels >= patch**2):
        return []
    in_chunk = r.n_patches // (config.data.max_pixels // patch**2)
    if r.max_images <= t.image_chunks * in_chunk:
        return []
    return [
        f"image_chunks must hold the images of a trajectory: got max_images={r.max_images} of {config.data.max_pixels} "
        f"px and {t.image_chunks} chunks of {in_chunk} (config.train.image_chunks, config.rollout.max_images)"
    ]


def _check_overlong(config) -> list[str]:
    r, t = config.rollout, config.train
    got = f"got overlong_from={t.overlong_from}, overlong_to={t.overlong_to}"
    keys = "config.train.overlong_from, config.train.overlong_to"
    if t.unfinished != "overlong":
        if t.overlong_from == t.overlong_to == 0:
            return []
        return [f"lengths must be 0 where unfinished is {t.unfinished}: {got} ({keys}, config.train.unfinished)"]
    longest = min(r.max_tokens - 1, r.max_turns * r.max_turn_tokens)
    if t.overlong_from < t.overlong_to <= longest:
        return []
    return [
        f"where unfinished is overlong, overlong_from must lie below overlong_to and that at most at {longest}, the "
        f"tokens that a trajectory can sample: {got}, max_turns={r.max_turns}, max_turn_tokens={r.max_turn_tokens}, "
        f"max_tokens={r.max_tokens} ({keys})"
    ]
