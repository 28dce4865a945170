"""What the values of a configuration must be: every violation at once, each with its config key."""

import functools
import math
import re

from arft_jax.config import JSONL, MINI_TASKS, STEP_TASKS, TASK_NAMES, default_config, task_set_name
from arft_jax.objective_keys import NAMED, contradictions, filled
from arft_jax.openai_checks import check_judge, check_openai
from arft_jax.train_checks import check_train
from arft_jax.words import CACHE_MODES, OF_KEY, REMOTE_SEARCHES

_FILE_NAME = re.compile(r"[\w.-]+")  # of a task set of the user's own: it becomes part of keys and file names
_DECLARED = re.compile(r"outer:[\w.-]{1,40}", re.ASCII)  # as tools/sandbox/levels.py reads it

# Smallest value of what counts or weighs something.
_AT_LEAST = {
    "model.text_config": dict(hidden_size=1, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1),
    "model.vision_config": dict(depth=1, hidden_size=1, num_heads=1, patch_size=1, spatial_merge_size=1),
    "data": dict(n_train=1, min_pixels=1),
    "warm_start": dict(n_chains=0, n_practice=0, steps=0, rows=1, warmup_steps=0, learning_rate=0),
    "rollout": dict(
        group_size=2, n_slots=1, tensor=0, max_turns=1, max_turns_eval=1, top_k=0, decode_steps=1, extend_rows=1,
        extend_chunk=1, n_patches=1, n_windows=1, n_features=1, bucket_columns=0, max_images=0, max_image_pixels=0,
        carry_over=0, max_staleness=1,
    ),
    "tools": dict(n_workers=1, memory_mb=1, max_output_bytes=1, top_k=1, n_threads=1, n_tries=1),
    "tools.search": dict(image_top_k=1, try_s=0, n_threads=1, calls_per_s=0),
    "rewards": dict(format=0, accuracy=0, step=0, max_answer_words=0),
    "train": dict(
        steps=0, prompts=1, rows_per_update=1, epochs=1, micro_tokens=1, image_chunks=1, learning_rate=0,
        warmup_steps=0, decay_to=0, weight_decay=0, max_skipped=0, epsilon_low=0, epsilon_high=0, dual_clip=0,
        divisor_len=0, beta=0, entropy_bonus=0, importance_floor=0, logps_chunk=1, overlong_from=0, overlong_to=0,
        overlong_weight=0,
    ),
    "train.dynamic_sampling": dict(max_attempts=2),
    "eval": dict(every=0, n_during=1, bootstrap=1, attempts=1),
    "checkpoint": dict(every=1, keep=1),
    "openai": dict(
        max_tokens=0, concurrency=1, n_tries=1, backoff_s=0, max_backoff_s=0, requests_per_min=0, tokens_per_min=0,
        budget_dollars=0, budget_tokens=0,
    ),
    "rewards.judge": dict(weight=0, max_tokens=0, concurrency=1, n_tries=1, budget_dollars=0, budget_tokens=0),
    "report": dict(n_trajectories=0),
}  # fmt: skip


def _check_minima(config) -> list[str]:
    problems = []
    for part, minima in _AT_LEAST.items():
        values = config
        for name in part.split("."):
            values = values[name]
        problems += [
            f"{key} must be at least {least}: got {values[key]} (config.{part}.{key})"
            for key, least in minima.items()
            if not values[key] >= least
        ]
    tools = config.tools
    above_0 = {f"train.{key}": config.train[key] for key in ("clip_norm", "importance_cap")}
    above_0 |= {f"tools.{key}": tools[key] for key in ("timeout_s", "deadline_s", "trajectory_deadline_s")}
    above_0 |= {"tools.search.deadline_s": tools.search.deadline_s, "openai.timeout_s": config.openai.timeout_s}
    above_0 |= {"rewards.judge.timeout_s": config.rewards.judge.timeout_s}
    for key, value in above_0.items():
        if not value > 0:
            problems.append(f"{key.split('.')[-1]} must be above 0: got {value} (config.{key})")
    if config.rewards.step > 1:
        problems.append(f"step must be at most 1: got {config.rewards.step} (config.rewards.step)")
    return problems


def _check_words(config) -> list[str]:
    problems = []
    for key, words in {**OF_KEY, "train.objective": tuple(NAMED)}.items():
        *parents, name = key.split(".")
        value = functools.reduce(getattr, parents, config)[name]
        if value not in words:
            shown = [word or "empty" for word in words]
            listed = f"{', '.join(shown[:-1])} or {shown[-1]}"
            problems.append(f"{name} must be {listed}: got {value!r} (config.{key})")
    return problems


def _check_rollout(config) -> list[str]:
    r, problems = config.rollout, []
    if r.n_slots < r.group_size:
        problems.append(
            f"n_slots must hold a group: got n_slots={r.n_slots}, group_size={r.group_size} (config.rollout.n_slots)"
        )
    if not 0 < r.max_turn_tokens < r.max_tokens:
        problems.append(
            f"max_turn_tokens must lie between 1 and max_tokens: got {r.max_turn_tokens}, max_tokens={r.max_tokens} "
            "(config.rollout.max_turn_tokens)"
        )
    if not r.temperature > 0:
        problems.append(f"temperature must be above 0 in training: got {r.temperature} (config.rollout.temperature)")
    if not 0 < r.top_p <= 1:
        problems.append(f"top_p must lie in (0, 1]: got {r.top_p} (config.rollout.top_p)")
    if r.context == "rerender" and r.max_turns > 1 and config.train.steps > 0:
        problems.append(
            f"max_turns must be 1 where context is rerender, a trajectory to train on is one stream: got {r.max_turns} "
            "(config.rollout.max_turns, config.rollout.context)"
        )
    merge = config.model.vision_config.spatial_merge_size
    if merge > 0 and r.n_patches % merge**2:
        problems.append(
            f"n_patches must be a multiple of spatial_merge_size²={merge**2}: got {r.n_patches} "
            "(config.rollout.n_patches)"
        )
    patch = config.model.vision_config.patch_size
    if config.data.max_pixels > r.n_patches * patch * patch:
        problems.append(
            f"an image of max_pixels must fit one encode call: got max_pixels={config.data.max_pixels}, "
            f"n_patches={r.n_patches} of {patch}x{patch} px (config.data.max_pixels, config.rollout.n_patches)"
        )
    return problems


def _check_carry_over(config) -> list[str]:
    r, t, problems = config.rollout, config.train, []
    if not r.carry_over > 0:
        return problems
    n = math.ceil(r.carry_over * t.prompts)
    if n >= t.prompts:
        problems.append(
            f"carry_over must leave a group to each step: got carry_over={r.carry_over}, {n} of prompts={t.prompts} "
            "(config.rollout.carry_over)"
        )
    if r.n_slots < (n + 1) * r.group_size:
        problems.append(
            f"n_slots must hold the groups that are carried over and one more: got n_slots={r.n_slots}, {n} groups of "
            f"group_size={r.group_size} carried over (config.rollout.n_slots, config.rollout.carry_over)"
        )
    if t.importance == "none":
        problems.append(
            f"importance must be token or sequence where groups are carried over, their tokens are of older weights: "
            f"got carry_over={r.carry_over}, importance={t.importance!r} (config.train.importance)"
        )
    if t.dynamic_sampling.enabled:
        problems.append(
            "carry_over must be 0 where dynamic_sampling is enabled, a step then ends when all its places are filled: "
            f"got carry_over={r.carry_over} (config.rollout.carry_over, config.train.dynamic_sampling.enabled)"
        )
    return problems


def _check_search(search, tasks: tuple[str, ...]) -> list[str]:
    problems = []
    remote = search.backend in REMOTE_SEARCHES
    if search.cache_mode in CACHE_MODES and (search.cache_mode != "off") != bool(search.cache):
        problems.append(
            f"cache must name a file where cache_mode is not off, and there alone: got {search.cache!r}, cache_mode="
            f"{search.cache_mode!r} (config.tools.search.cache)"
        )
    elif search.cache and not remote:
        problems.append(
            f"cache must be empty where backend is {search.backend}, replies of the network alone are recorded: got "
            f"{search.cache!r} (config.tools.search.cache)"
        )
    if "@" in search.url:
        problems.append("url must carry no user or password: got one with '@' (config.tools.search.url)")
    elif search.url and not search.url.startswith(("http://", "https://")):
        problems.append(f"url must begin with http:// or https://: got {search.url!r} (config.tools.search.url)")
    elif search.backend == "http" and not search.url and search.cache_mode != "replay":
        problems.append("url must be the retriever's where backend is http: got none (config.tools.search.url)")
    if remote and "mini_search" in tasks:
        problems.append(
            f"backend must be local where mini_search is among the tasks, which ask over corpora of their own: got "
            f"{search.backend!r} (config.tools.search.backend, config.data.tasks)"
        )
    return problems


def _check_sandbox(sandbox) -> list[str]:
    problems = []
    if sandbox.level not in ("auto", "L1", "L0") and not _DECLARED.fullmatch(sandbox.level):
        problems.append(
            f"level must be auto, L1, L0 or outer:NAME, NAME being what stands around the trainer: got "
            f"{sandbox.level!r} (config.tools.sandbox.level; without any: config.tools.sandbox.override)"
        )
    return problems


def _check_model(model) -> list[str]:
    text, vision = model.text_config, model.vision_config
    problems, heads, kv_heads = [], text.num_attention_heads, text.num_key_value_heads
    problems += [
        f"{key} must be left alone where a size is given, which takes its place: got size={model.size!r} "
        f"(config.model.size, config.model.{key})"
        for key in ("text_config", "vision_config")
        if model.size and model[key].to_json() != default_config().model[key].to_json()
    ]
    if min(heads, kv_heads) > 0:
        if text.hidden_size % heads or heads % kv_heads:
            problems.append(
                f"heads must divide: got hidden_size={text.hidden_size}, num_attention_heads={heads}, "
                f"num_key_value_heads={kv_heads} (config.model.text_config)"
            )
        elif 2 * sum(text.mrope_section) != text.hidden_size // heads:
            problems.append(
                f"mrope_section must sum to half the head dim {text.hidden_size // heads}: got "
                f"{tuple(text.mrope_section)} (config.model.text_config.mrope_section)"
            )
    if vision.num_heads > 0 and vision.hidden_size % vision.num_heads:
        problems.append(
            f"vision num_heads must divide hidden_size: got {vision.num_heads}, {vision.hidden_size} "
            "(config.model.vision_config.num_heads)"
        )
    if vision.temporal_patch_size != 2:
        problems.append(
            f"temporal_patch_size must be 2, a still image shown twice: got {vision.temporal_patch_size} "
            "(config.model.vision_config.temporal_patch_size)"
        )
    return problems


def _check_pairs(config) -> list[str]:
    """The keys that hold mappings: names once each, and values of their kind."""
    kinds = {
        "rewards.extra": ('{"my_module:my_reward": weight}', _is_finite),
        "data.corpora": ('{"name of a jsonl set": "file of its documents"}', _is_text),
        "system_prompts": ('{"name of a task set": "its system prompt"}', _is_text),
    }
    problems = []
    for key, (form, fits) in kinds.items():
        value = config
        for name in key.split("."):
            value = value[name]
        is_pairs = isinstance(value, (tuple, list)) and all(
            isinstance(pair, (tuple, list)) and len(pair) == 2 and _is_text(pair[0]) and fits(pair[1]) for pair in value
        )
        if not is_pairs or len({name for name, _ in value}) < len(value):
            problems.append(f"{key.split('.')[-1]} must be of the form {form}: got {value!r} (config.{key})")
    return problems


def _is_finite(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _check_tasks(tasks: tuple[str, ...], max_turns: int) -> list[str]:
    names = [task_set_name(task) for task in tasks]
    known = all(
        _FILE_NAME.fullmatch(name) and name not in TASK_NAMES if task.startswith(JSONL) else task in TASK_NAMES
        for task, name in zip(tasks, names, strict=True)
    )
    if not tasks or not known or len(set(names)) < len(tasks):
        return [
            f"tasks must be among {TASK_NAMES}, or {JSONL}PATH of a file with a name of its own, each once: got "
            f"{tasks} (config.data.tasks)"
        ]
    if max_turns > 1 and set(tasks) & set(STEP_TASKS):
        return [
            f"max_turns must be 1 where {' or '.join(STEP_TASKS)} is among the tasks, a recorded step is one turn: got "
            f"{max_turns} (config.rollout.max_turns)"
        ]
    return []


def _check_warm_start(config) -> list[str]:
    w, tasks, problems = config.warm_start, tuple(config.data.tasks), []
    if not all(isinstance(entry, str) and entry.startswith(JSONL) and len(entry) > len(JSONL) for entry in w.chains):
        problems.append(f"chains must be {JSONL}PATH each: got {w.chains} (config.warm_start.chains)")
    if w.steps > 0 and not w.chains and not set(tasks) <= set(MINI_TASKS):
        problems.append(
            f"a warm start must have recorded chains, which {' and '.join(MINI_TASKS)} alone have: got "
            f"steps={w.steps}, tasks={tasks} (config.warm_start.steps, config.warm_start.chains)"
        )
    elif w.steps > 0 and not w.chains and not w.n_chains + w.n_practice:
        problems.append(
            f"a warm start must have chains: got steps={w.steps}, n_chains=0, n_practice=0 (config.warm_start.n_chains)"
        )
    return problems


def _check_names(config) -> list[str]:
    """Names of task sets in mappings."""
    files = [task_set_name(task) for task in config.data.tasks if task.startswith(JSONL)]
    chains = [task_set_name(entry) for entry in config.warm_start.chains]
    prompts = [task_set_name(task) for task in config.data.tasks] + chains
    problems = [
        f"{key} must be of {what} of this run, {', '.join(dict.fromkeys(names)) or 'there is none'}: got {name!r} "
        f"(config.{place})"
        for key, place, what, names, pairs in (
            ("corpora", "data.corpora", "jsonl sets", files, config.data.corpora),
            ("system_prompts", "system_prompts", "task sets", prompts, config.system_prompts),
        )
        for name, _ in pairs
        if name not in names
    ]
    if len(config.data.corpora) and config.tools.search.backend != "local":
        problems.append(
            f"backend must be local where corpora are given, a search service has none: got "
            f"{config.tools.search.backend!r} (config.tools.search.backend, config.data.corpora)"
        )
    return problems


def validate(config) -> None:
    """Raises one ValueError that lists every violation; does nothing else."""
    problems, config = contradictions(config), filled(config)
    problems += _check_minima(config) + _check_words(config) + _check_rollout(config) + check_train(config)
    problems += _check_carry_over(config)
    problems += _check_tasks(tuple(config.data.tasks), config.rollout.max_turns) or _check_warm_start(config)
    problems += _check_pairs(config) or _check_names(config)
    problems += check_openai(config.openai)
    problems += check_judge(config.rewards.judge)
    problems += _check_search(config.tools.search, tuple(config.data.tasks)) + _check_sandbox(config.tools.sandbox)
    if not 0 <= config.seed < 2**29:  # a key of training holds 8 * seed in 32 bits
        problems.append(f"seed must lie in [0, 2**29): got {config.seed} (config.seed)")
    if config.model.attention == "cudnn" and config.model.dtype != "bfloat16":
        problems.append(
            f"dtype must be bfloat16 where attention is cudnn: got {config.model.dtype!r} (config.model.dtype, "
            "config.model.attention)"
        )
    if config.data.min_pixels > config.data.max_pixels:
        problems.append(
            f"min_pixels must not exceed max_pixels: got {config.data.min_pixels} > {config.data.max_pixels} "
            "(config.data.min_pixels)"
        )
    if config.model.vision == "new" and not config.weights:
        problems.append("weights must be a text model's where vision is new: got none (config.weights)")
    problems += _check_model(config.model)
    if problems:
        raise ValueError("; ".join(problems))
