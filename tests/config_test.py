"""The configuration: every violation is named with its key, and every key is read by something."""

import ast
import importlib.util

import pytest

from arft_jax import config_checks
from arft_jax.config import default_config
from arft_jax.config_checks import validate
from arft_jax.train.run_dir import flatten


def changed(**values):
    """The default with some keys changed; ``rollout__top_p=2`` stands for config.rollout.top_p = 2."""
    config = default_config()
    for name, value in values.items():
        *path, key = name.split("__")
        part = config
        for step in path:
            part = part[step]
        part[key] = value
    return config


def tiny_cpu(repo_root, variant=""):
    spec = importlib.util.spec_from_file_location("tiny_cpu", repo_root / "configs" / "tiny_cpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


def test_the_default_and_every_variant_are_valid(repo_root):
    validate(default_config())
    for variant in ("", "smoke", "lr0"):
        validate(tiny_cpu(repo_root, variant))
    assert tiny_cpu(repo_root, "lr0").train.learning_rate == 0.0
    with pytest.raises(ValueError, match="variant must be .*: got 'huge'"):
        tiny_cpu(repo_root, "huge")


def test_a_variant_differs_from_its_config_where_it_says_so(repo_root):
    full, smoke, lr0 = (flatten(tiny_cpu(repo_root, v).to_dict()) for v in ("", "smoke", "lr0"))
    assert {key for key in full if full[key] != lr0[key]} == {"name", "workdir", "train.learning_rate"}
    assert full["model.text_config.hidden_size"] == smoke["model.text_config.hidden_size"]
    assert full["rollout.max_tokens"] == smoke["rollout.max_tokens"] and smoke["train.steps"] < 10


def test_mixtures_of_own_and_self_made_tasks_are_valid():
    for tasks in (("mat_coding", "mat_search"), ("mat_coding", "mini_search"), ("mini_coding", "mat_search")):
        validate(changed(data__tasks=tasks, warm_start__steps=0))


def test_many_sets_may_search_and_own_chains_are_a_warm_start_of_any_task():
    own = ("mini_search", "mat_search", "jsonl:a/photos.jsonl", "jsonl:b/\u753b.jsonl")
    validate(changed(data__tasks=own, warm_start__steps=0, data__corpora={"photos": "c.jsonl"}))
    validate(changed(data__tasks=own[2:], warm_start__chains=("jsonl:a/b.jsonl",), warm_start__n_practice=0))
    validate(changed(data__tasks=own[2:], warm_start__steps=0, system_prompts={"photos": "Look.", "\u753b": "file:x"}))


def test_rerendering_is_valid_where_training_has_one_turn_or_no_step():
    validate(changed(rollout__context="rerender", rollout__max_turns=1))
    validate(changed(rollout__context="rerender", train__steps=0))


def test_bfloat16_parameters_are_valid_where_no_step_is_lost():
    validate(changed(model__param_dtype="bfloat16", train__param_rounding="stochastic"))
    validate(changed(model__param_dtype="bfloat16", model__lora__rank=2))
    validate(changed(model__param_dtype="bfloat16", train__learning_rate=0.0, warm_start__steps=0))
    validate(changed(model__param_dtype="bfloat16", train__steps=0, warm_start__learning_rate=0.0))


def test_unknown_keys_are_refused_by_the_config_itself():
    config = default_config()
    with pytest.raises(AttributeError, match="stepz"):
        config.train.stepz = 3
    with pytest.raises(KeyError, match="colour"):
        config.update(colour="red")
    with pytest.raises(TypeError):
        config.train.steps = "many"


VIOLATIONS = {
    "n_slots below group_size": (dict(rollout__n_slots=7), "got n_slots=7, group_size=8 (config.rollout.n_slots)"),
    "group_size 1": (
        dict(rollout__group_size=1, train__rows_per_update=8),
        "group_size must be at least 2: got 1 (config.rollout.group_size)",
    ),
    "a turn longer than all": (
        dict(rollout__max_turn_tokens=256), "got 256, max_tokens=256 (config.rollout.max_turn_tokens)"
    ),
    "max_turns 0": (dict(rollout__max_turns=0), "(config.rollout.max_turns)"),
    "greedy training": (dict(rollout__temperature=0.0), "got 0.0 (config.rollout.temperature)"),
    "no temperature": (dict(rollout__temperature=float("nan")), "got nan (config.rollout.temperature)"),
    "top_p 0": (dict(rollout__top_p=0.0), "got 0.0 (config.rollout.top_p)"),
    "top_k -1": (dict(rollout__top_k=-1), "top_k must be at least 0: got -1 (config.rollout.top_k)"),
    "half a merge block": (dict(rollout__n_patches=577), "merge_size²=4: got 577 (config.rollout.n_patches)"),
    "an image over the bucket": (
        dict(data__max_pixels=200_000), "got max_pixels=200000, n_patches=576 of 14x14 px (config.data.max_pixels"
    ),
    "smallest over largest": (dict(data__min_pixels=7057), "got 7057 > 7056 (config.data.min_pixels)"),
    "rows that do not divide": (
        dict(train__rows_per_update=48),
        "got B=64 (prompts=8, group_size=8), rows_per_update=48 (config.train.rows_per_update)",
    ),
    "no rows at all": (dict(train__rows_per_update=0), "at least 1: got 0 (config.train.rows_per_update)"),
    "an unknown aggregation": (dict(train__aggregation="row"), "got 'row' (config.train.aggregation)"),
    "an unknown scale": (dict(train__scale_advantages="max"), "got 'max' (config.train.scale_advantages)"),
    "a KL to a reference of other top tokens": (
        dict(train__beta=0.04, rollout__top_p=0.9),
        "beta must be 0 where top_k or top_p is on, the reference's own top tokens are others and the KL to it is then "
        "without bound: got beta=0.04, top_k=0, top_p=0.9 (config.train.beta, config.rollout.top_k, "
        "config.rollout.top_p)",
    ),
    "a KL under top_k": (dict(train__beta=0.04, rollout__top_k=20), "got beta=0.04, top_k=20, top_p=1.0"),
    "an unknown objective": (
        dict(train__objective="ppo"), "reinforce_pp or reinforce_pp_baseline: got 'ppo' (config.train.objective)"
    ),
    "one ratio of a trajectory, averaged over tokens": (
        dict(train__objective="gspo", train__aggregation="token"),
        "aggregation must be sequence where ratio is sequence, a trajectory then has one ratio and its tokens none: "
        "got aggregation='token', ratio='sequence', ratio of objective='gspo' (config.train.aggregation, "
        "config.train.objective)",
    ),
    "one ratio of a trajectory under the default's mean": (
        dict(train__ratio="product"),
        "got aggregation='token', ratio='product', aggregation of objective='dapo' (config.train.objective, "
        "config.train.ratio)",
    ),
    "cispo's bound twice": (
        dict(train__objective="cispo", train__dual_clip=9.0), "dual_clip must be 0 where surrogate is cispo, which has"
    ),
    "cispo of a trajectory's ratio": (
        dict(train__surrogate="cispo", train__ratio="sequence_token"),
        "got ratio='sequence_token', surrogate='cispo' (config.train.ratio, config.train.surrogate)",
    ),
    "a dual clip within the clip": (
        dict(train__dual_clip=1.1), "above 1 + epsilon_high, else it would undo the clipping, or 0, which is off: got"
    ),
    "a divisor that divides nothing": (
        dict(train__divisor_len=9), "divisor_len must be 0 where aggregation is not constant, nothing else is divided"
    ),
    "the group's deviation without its mean": (
        dict(train__objective="rloo", train__scale_advantages="std"),
        "got scale_advantages='std', baseline='leave_one_out', baseline of objective='rloo' (",
    ),
    "a floor over the cap": (
        dict(train__importance_floor=3.0), "importance_floor must be below importance_cap: got importance_floor=3.0, im"
    ),
    "a ratio below 0": (dict(train__epsilon_low=1.5), "a ratio is never below 0: got 1.5 (config.train.epsilon_low)"),
    "a named KL under top_k": (
        dict(train__objective="grpo", rollout__top_k=20), "got beta=0.04, top_k=20, top_p=1.0 (config.train.beta"
    ),
    "a named objective without weights for older tokens": (
        dict(train__objective="gspo", rollout__carry_over=0.2), "got carry_over=0.2, importance='none' (config.train.im"
    ),
    "an unknown estimator": (dict(train__kl="k4"), "kl must be k1, k2 or k3: got 'k4' (config.train.kl)"),
    "a negative beta": (dict(train__beta=-0.1), "got -0.1 (config.train.beta)"),
    "a negative rate": (dict(train__learning_rate=-1.0), "got -1.0 (config.train.learning_rate)"),
    "a negative warm rate": (dict(warm_start__learning_rate=-1.0), "(config.warm_start.learning_rate)"),
    "no clipping": (dict(train__clip_norm=0.0), "clip_norm must be above 0: got 0.0 (config.train.clip_norm)"),
    "a warm start of nothing": (dict(warm_start__n_chains=0, warm_start__n_practice=0), "(config.warm_start.n_chains)"),
    "an unknown task set": (dict(data__tasks=("mini_coding", "chess")), "'chess') (config.data.tasks)"),
    "a task set twice": (dict(data__tasks=("mini_coding", "mini_coding")), "each once: got ('mini_coding', 'mini_"),
    "a task file of a name that is taken": (
        dict(data__tasks=("jsonl:my/mini_search.jsonl",), warm_start__steps=0), "('jsonl:my/mini_search.jsonl',) (c"
    ),
    "two task files of one name": (
        dict(data__tasks=("jsonl:a/x.jsonl", "jsonl:b/x.jsonl"), warm_start__steps=0), "each once: got ('jsonl:a/x"
    ),
    "a task file without a name": (dict(data__tasks=("jsonl:",), warm_start__steps=0), "('jsonl:',) (config.data.ta"),
    "a task file of a name with a space": (
        dict(data__tasks=("jsonl:my set.jsonl",), warm_start__steps=0), "('jsonl:my set.jsonl',) (config.data.tasks)"
    ),
    "own chains without jsonl:": (
        dict(warm_start__chains=("chains.jsonl",)), "jsonl:PATH each: got ('chains.jsonl',) (config.warm_start.chains)"
    ),
    "a corpus for a set that is not there": (
        dict(data__tasks=("jsonl:a/x.jsonl",), warm_start__steps=0, data__corpora={"y": "c.jsonl"}),
        "corpora must be of jsonl sets of this run, x: got 'y' (config.data.corpora)",
    ),
    "a corpus beside a search service": (
        dict(data__tasks=("jsonl:a/x.jsonl",), warm_start__steps=0, data__corpora={"x": "c.jsonl"},
             tools__search__backend="serper"),
        "got 'serper' (config.tools.search.backend, config.data.corpora)",
    ),
    "a prompt for a set that is not there": (
        dict(system_prompts={"mini_chess": "Play."}), "mini_coding, mini_search: got 'mini_chess' (config.system_p"
    ),
    "a prompt that is no text": (dict(system_prompts={"mini_coding": 3}), "got (('mini_coding', 3),) (config.sys"),
    "a blank prompt": (dict(system_prompts={"mini_coding": " "}), "got (('mini_coding', ' '),) (config.sys"),
    "a warm start without chains": (
        dict(data__tasks=("mini_search", "mat_coding")),
        "which mini_coding and mini_search alone have: got steps=220, tasks=('mini_search', 'mat_coding') "
        "(config.warm_start.steps, config.warm_start.chains)",
    ),
    "sizes beside a published one": (
        dict(model__size="3b", model__text_config__intermediate_size=100),
        "text_config must be left alone where a size is given, which takes its place: got size='3b' (config.model.size",
    ),
    "no task set": (dict(data__tasks=()), "got () (config.data.tasks)"),
    "an unknown context": (dict(rollout__context="fresh"), "got 'fresh' (config.rollout.context)"),
    "training in several contexts": (
        dict(rollout__context="rerender"), "got 5 (config.rollout.max_turns, config.rollout.context)"
    ),
    "an unknown refresh": (dict(rollout__refresh="drop"), "got 'drop' (config.rollout.refresh)"),
    "an unknown correction": (dict(train__importance="row"), "got 'row' (config.train.importance)"),
    "no weight at all": (dict(train__importance_cap=0.0), "above 0: got 0.0 (config.train.importance_cap)"),
    "no age": (dict(rollout__max_staleness=0), "at least 1: got 0 (config.rollout.max_staleness)"),
    "less than nothing carried over": (
        dict(rollout__carry_over=-0.5), "at least 0: got -0.5 (config.rollout.carry_over)"
    ),
    "older weights uncorrected": (
        dict(rollout__carry_over=0.2), "got carry_over=0.2, importance='none' (config.train.importance)"
    ),
    "all carried over": (
        dict(rollout__carry_over=0.9, rollout__n_slots=128, train__importance="token"),
        "got carry_over=0.9, 8 of prompts=8 (config.rollout.carry_over)",
    ),
    "no slots beside what is carried over": (
        dict(rollout__carry_over=0.8, rollout__n_slots=63, train__importance="token"),
        "got n_slots=63, 7 groups of group_size=8 carried over (config.rollout.n_slots, config.rollout.carry_over)",
    ),
    "bfloat16 parameters rounded to the nearest": (
        dict(model__param_dtype="bfloat16", train__learning_rate=1e-6),
        "at a learning rate of 1e-6 98 % of weights never move): got bfloat16, learning_rate=1e-06 "
        "(config.model.param_dtype, or config.train.param_rounding = 'stochastic', or adapters by "
        "config.model.lora.rank)",
    ),
    "a warm start of bfloat16 parameters": (
        dict(model__param_dtype="bfloat16", train__steps=0), "got bfloat16, learning_rate=0.002 (config.model.param_dt"
    ),
    "float32 rounded at random": (
        dict(train__param_rounding="stochastic"),
        "got 'stochastic', param_dtype='float32', lora.rank=0 (config.train.param_rounding)",
    ),
    "adapters rounded at random": (
        dict(train__param_rounding="stochastic", model__param_dtype="bfloat16", model__lora__rank=2),
        "got 'stochastic', param_dtype='bfloat16', lora.rank=2 (config.train.param_rounding)",
    ),
    "an unknown rounding": (dict(train__param_rounding="up"), "nearest or stochastic: got 'up' (config.train.param_ro"),
    "unknown moments": (dict(train__moments="int8"), "got 'int8' (config.train.moments)"),
    "a mean of nothing new": (dict(train__adam_b2=1.0), "adam_b2 must lie in [0, 1): got 1.0 (config.train.adam_b2)"),
    "less than no skipped update": (dict(train__max_skipped=-1), "got -1 (config.train.max_skipped)"),
    "a fresh tower frozen": (
        dict(model__freeze_vision=True, model__vision="new", weights="x"),
        "(config.model.freeze_vision, config.model.vision)",
    ),
    "a frozen tower with adapters": (
        dict(model__freeze_vision=True, model__lora__rank=2, model__lora__vision=True),
        "got lora.vision=True (config.model.freeze_vision, config.model.lora.vision)",
    ),
    "an unknown prompt": (dict(system_prompt="long"), "got 'long' (config.system_prompt)"),
    "an unknown dtype": (dict(model__dtype="float16"), "got 'float16' (config.model.dtype)"),
    "heads that do not divide": (
        dict(model__text_config__num_key_value_heads=3), "num_key_value_heads=3 (config.model.text_config)"
    ),
    "no heads": (dict(model__text_config__num_attention_heads=0), "(config.model.text_config.num_attention_heads)"),
    "rotary sections": (
        dict(model__text_config__mrope_section=(4, 6, 7)), "(4, 6, 7) (config.model.text_config.mrope_section)"
    ),
    "vision heads": (dict(model__vision_config__num_heads=3), "got 3, 64 (config.model.vision_config.num_heads)"),
    "one frame": (dict(model__vision_config__temporal_patch_size=1), "got 1 (config.model.vision_config.temporal"),
    "no saving": (dict(checkpoint__every=0), "every must be at least 1: got 0 (config.checkpoint.every)"),
    "no worker": (dict(tools__n_workers=0), "(config.tools.n_workers)"),
    "no time for a call": (dict(tools__deadline_s=0.0), "got 0.0 (config.tools.deadline_s)"),
    "no time for tools": (dict(tools__trajectory_deadline_s=0.0), "got 0.0 (config.tools.trajectory_deadline_s)"),
    "no time for a search": (dict(tools__search__deadline_s=-1.0), "got -1.0 (config.tools.search.deadline_s)"),
    "a negative try": (dict(tools__search__try_s=-1.0), "at least 0: got -1.0 (config.tools.search.try_s)"),
    "no try": (dict(tools__n_tries=0), "n_tries must be at least 1: got 0 (config.tools.n_tries)"),
    "no search thread": (dict(tools__search__n_threads=0), "got 0 (config.tools.search.n_threads)"),
    "an unknown search": (dict(tools__search__backend="bing"), "got 'bing' (config.tools.search.backend)"),
    "an unknown cache mode": (dict(tools__search__cache_mode="on"), "got 'on' (config.tools.search.cache_mode)"),
    "a cache without a mode": (dict(tools__search__cache="x.sqlite"), "got 'x.sqlite', cache_mode='off' (config."),
    "a mode without a cache": (
        dict(tools__search__backend="ddgs", tools__search__cache_mode="mixed", data__tasks=("mini_coding",)),
        "got '', cache_mode='mixed' (config.tools.search.cache)",
    ),
    "a local index recorded": (
        dict(tools__search__cache="x.sqlite", tools__search__cache_mode="mixed"),
        "where backend is local, replies of the network alone are recorded: got 'x.sqlite' (config.tools.search.cache)",
    ),
    "a retriever without a URL": (
        dict(tools__search__backend="http", data__tasks=("mini_coding",)), "got none (config.tools.search.url)"
    ),
    "a URL of another kind": (dict(tools__search__url="file:///x"), "got 'file:///x' (config.tools.search.url)"),
    "a URL with a password": (
        dict(tools__search__url="http://me:pw@host/"), "no user or password: got one with '@' (config.tools.search.url)"
    ),
    "the network for a corpus of its own": (
        dict(tools__search__backend="serper"), "got 'serper' (config.tools.search.backend, config.data.tasks)"
    ),
    "no time": (dict(tools__timeout_s=0.0), "timeout_s must be above 0: got 0.0 (config.tools.timeout_s)"),
    "more than all of the reward": (dict(rewards__step=1.5), "at most 1: got 1.5 (config.rewards.step)"),
    "an unknown comparison": (dict(rewards__query="bm25"), "got 'bm25' (config.rewards.query)"),
    "a negative reward": (dict(rewards__format=-1.0), "got -1.0 (config.rewards.format)"),
    "dynamic sampling with groups that are left to the next step": (
        dict(train__dynamic_sampling__enabled=True, rollout__carry_over=0.2, train__importance="token"),
        "got carry_over=0.2 (config.rollout.carry_over, config.train.dynamic_sampling.enabled)",
    ),
    "dynamic sampling without a second attempt": (
        dict(train__dynamic_sampling__max_attempts=1), "at least 2: got 1 (config.train.dynamic_sampling.max_attempts)"
    ),
    "an unknown fate of unfinished rows": (dict(train__unfinished="drop"), "got 'drop' (config.train.unfinished)"),
    "overlong without lengths": (
        dict(train__unfinished="overlong"),
        "got overlong_from=0, overlong_to=0, max_turns=5, max_turn_tokens=96, max_tokens=256 (config.train.overlong_fr"
    ),
    "an empty range of lengths": (
        dict(train__unfinished="overlong", train__overlong_from=200, train__overlong_to=200), "got overlong_from=200, o"
    ),
    "lengths that no trajectory reaches": (
        dict(train__unfinished="overlong", train__overlong_from=100, train__overlong_to=193, rollout__max_turns=2),
        "that at most at 192, the tokens that a trajectory can sample: got overlong_from=100, overlong_to=193",
    ),
    "lengths that are not used": (
        dict(train__overlong_to=100), "must be 0 where unfinished is negative: got overlong_from=0, overlong_to=100 (co"
    ),
    "a negative weight of length": (
        dict(train__overlong_weight=-1.0), "overlong_weight must be at least 0: got -1.0 (config.train.overlong_weight)"
    ),
}  # fmt: skip


def test_images_of_an_update_are_counted_by_rows_groups_and_processes():
    # 576 patches of 36 an image: 16 in a chunk, 128 in 8. 64 rows of 8 groups: 64 * (n - 1) + 8 of n a row
    validate(changed(rollout__max_images=2))
    with pytest.raises(
        ValueError, match=r"got 136 of 7056 px in 64 rows and 8 chunks of 16 \(config.train.image_chunks"
    ):
        validate(changed(rollout__max_images=3))
    # 16 processes of 4 rows, half a group: 4 * (n - 1) + 1 in half of a chunk, which is none
    with pytest.raises(ValueError, match="got 5 of 7056 px in 4 rows and 0 chunks of 16"):
        validate(changed(rollout__max_images=2, distributed__n_processes=16))
    # 15 rows of groups of 8 may begin with the last row of one: 3 groups
    with pytest.raises(ValueError, match="got 18 of 7056 px in 15 rows and 1 chunks"):
        validate(changed(rollout__max_images=2, train__rows_per_update=15, train__prompts=15, train__image_chunks=1))


@pytest.mark.parametrize("case", VIOLATIONS)
def test_a_violation_is_named_with_its_value_and_key(case):
    values, message = VIOLATIONS[case]
    with pytest.raises(ValueError) as error:
        validate(changed(**values))
    assert message in str(error.value)
    assert "; " not in str(error.value), "one violation, one sentence"


def test_all_violations_are_reported_at_once():
    with pytest.raises(ValueError) as error:
        validate(
            changed(
                rollout__top_p=2.0, train__aggregation="row", train__rows_per_update=0, data__tasks=(), eval__every=-1
            )
        )
    keys = ("rollout.top_p", "train.aggregation", "train.rows_per_update", "data.tasks", "eval.every")
    assert all(f"(config.{key})" in str(error.value) for key in keys) and str(error.value).count("; ") == 4


def test_every_minimum_is_a_key():
    for part, minima in config_checks._AT_LEAST.items():
        values = default_config()
        for name in part.split("."):
            values = values[name]
        assert set(minima) <= set(values.keys()), part


def _pairs(node):
    """(target, value) of an assignment, tuples taken apart."""
    for target in node.targets:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            yield from zip(target.elts, node.value.elts, strict=True)
        else:
            yield target, node.value


def _reads(tree):
    """(part, key) of every ``config.part.key``, also through a local name such as ``t = config.train``."""
    found = set()
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for function in functions:
        names = {"config": "config"}
        for node in ast.walk(function):
            if isinstance(node, ast.Assign):
                for target, value in _pairs(node):
                    if isinstance(target, ast.Name) and isinstance(value, ast.Attribute):
                        names[target.id] = value.attr
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                base = node.value
                part = base.attr if isinstance(base, ast.Attribute) else names.get(getattr(base, "id", ""))
                found.add((part, node.attr))
    return found


def unread(keys, root):
    """Keys that no code of the package reads; Hugging Face's model sizes may be read as strings by ``from_hf``."""
    reads, strings, subscripts = set(), set(), set()
    for path in (root / "arft_jax").rglob("*.py"):
        if path != root / "arft_jax" / "config.py" and "testing" not in path.parts:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            reads |= _reads(tree)
            strings |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
            inner = [node.slice for node in ast.walk(tree) if isinstance(node, ast.Subscript)]
            subscripts |= {node.value for node in inner if isinstance(node, ast.Constant)}
    left = []
    for key in keys:
        part, name = ["config", *key.split(".")][-2:]
        by_string = part in ("text_config", "vision_config") and name in strings
        by_string |= key.startswith("tools.") and name in subscripts  # a tool is opened with plain dicts
        if (part, name) not in reads and not by_string:
            left.append(key)
    return left


def test_every_key_is_read_by_something(repo_root):
    keys = list(flatten(default_config().to_dict()))
    assert len(keys) > 60
    assert unread(keys, repo_root) == []
    assert unread([*keys, "eval.steps", "step"], repo_root) == ["eval.steps", "step"]  # read elsewhere, by other names
