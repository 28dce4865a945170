"""The named objectives of ``config.train.objective``, and the values that a configuration resolves to.

Each name stands for a complete set of keys; a key of ``config.train`` that is not None takes the place of the named
one. docs/objectives.md has the equations, the sources and this table.
"""

from typing import Any, NamedTuple


class ObjectiveKeys(NamedTuple):
    """Every key of the objective, with its value; ``config.train`` says what each one means."""

    ratio: str
    surrogate: str
    epsilon_low: float
    epsilon_high: float
    dual_clip: float
    aggregation: str
    divisor_len: int
    baseline: str
    scale_advantages: str
    kl: str
    kl_in: str
    beta: float
    entropy_bonus: float
    importance: str
    importance_mode: str
    importance_floor: float
    importance_cap: float


_DAPO = ObjectiveKeys(
    ratio="token",
    surrogate="clip",
    epsilon_low=0.2,
    epsilon_high=0.28,
    dual_clip=0.0,
    aggregation="token",
    divisor_len=0,
    baseline="group",
    scale_advantages="std",
    kl="k3",
    kl_in="loss",
    beta=0.0,
    entropy_bonus=0.0,
    importance="none",
    importance_mode="truncate",
    importance_floor=0.0,
    importance_cap=2.0,
)
_GRPO = _DAPO._replace(epsilon_high=0.2, aggregation="sequence", beta=0.04)
_GSPO = _GRPO._replace(ratio="sequence", epsilon_low=3e-4, epsilon_high=4e-4, beta=0.0)
_REINFORCE_PP = _GRPO._replace(baseline="none", scale_advantages="batch", kl="k1", kl_in="reward", beta=0.001)
NAMED = {
    "grpo": _GRPO,
    "dr_grpo": _GRPO._replace(aggregation="constant", scale_advantages="none", beta=0.0),
    "dapo": _DAPO,
    "dual_clip": _GRPO._replace(dual_clip=3.0),
    "gspo": _GSPO,
    "gspo_token": _GSPO._replace(ratio="sequence_token"),
    "cispo": _DAPO._replace(surrogate="cispo", epsilon_low=1.0, epsilon_high=4.0),
    "rloo": _GRPO._replace(
        ratio="product", baseline="leave_one_out", scale_advantages="none", kl="k1", kl_in="reward", beta=0.05
    ),
    "reinforce_pp": _REINFORCE_PP,
    "reinforce_pp_baseline": _REINFORCE_PP._replace(baseline="group", kl="k2", kl_in="loss"),
}
DEFAULT = "dapo"


def given(config: Any) -> dict[str, Any]:
    """The keys of the objective that the configuration sets itself."""
    t = config.train
    keys = dict(
        ratio=t.ratio,
        surrogate=t.surrogate,
        epsilon_low=t.epsilon_low,
        epsilon_high=t.epsilon_high,
        dual_clip=t.dual_clip,
        aggregation=t.aggregation,
        divisor_len=t.divisor_len,
        baseline=t.baseline,
        scale_advantages=t.scale_advantages,
        kl=t.kl,
        kl_in=t.kl_in,
        beta=t.beta,
        entropy_bonus=t.entropy_bonus,
        importance=t.importance,
        importance_mode=t.importance_mode,
        importance_floor=t.importance_floor,
        importance_cap=t.importance_cap,
    )
    return {name: value for name, value in keys.items() if value is not None}


def resolved(config: Any) -> ObjectiveKeys:
    """The values of the objective's keys: the configuration's own, else those of the named objective.

    With ``objective="gspo"`` and ``epsilon_low=1e-3``: epsilon_low 1e-3, epsilon_high 4e-4, ratio ``sequence``.

    Raises:
      ValueError: an unknown objective.
    """
    name = config.train.objective
    if name not in NAMED:
        raise ValueError(f"objective must be one of {', '.join(NAMED)}: got {name!r} (config.train.objective)")
    return NAMED[name]._replace(**given(config))


def filled(config: Any) -> Any:
    """A copy of the configuration whose objective's keys all have their values; an unknown name counts as the default.

    It is what :mod:`arft_jax.config_checks` looks at, which refuses the unknown name by itself, and what a run's work
    directory keeps.
    """
    thawed = getattr(config, "as_configdict", lambda: config)()  # a frozen one takes no new values
    copy = thawed.copy_and_resolve_references()
    named = NAMED.get(config.train.objective, NAMED[DEFAULT])
    copy.train.update(named._replace(**given(config))._asdict())
    return copy


def contradictions(config: Any) -> list[str]:
    """One sentence for each pair of keys that cannot go together, with the values and where they come from."""
    if config.train.objective not in NAMED:
        return []
    k, own = resolved(config), given(config)

    def got(*names: str) -> str:
        values = ", ".join(f"{name}={getattr(k, name)!r}" for name in names)
        keys = [name if name in own else f"objective={config.train.objective!r}" for name in names]
        named = [f"config.train.{key.partition('=')[0]}" for key in dict.fromkeys(keys)]
        by_name = [name for name in names if name not in own]
        told = f", {' and '.join(by_name)} of objective={config.train.objective!r}" if by_name else ""
        return f"got {values}{told} ({', '.join(named)})"

    whole, aggregation = k.ratio in ("sequence", "product"), "aggregation must be sequence"
    rules = {
        f"{aggregation} where ratio is {k.ratio}, a trajectory then has one ratio and its tokens none": (
            whole and k.aggregation != "sequence", ("aggregation", "ratio"),
        ),
        "divisor_len must be 0 where aggregation is not constant, nothing else is divided by it": (
            k.divisor_len > 0 and k.aggregation != "constant", ("divisor_len", "aggregation"),
        ),
        "ratio must be token where surrogate is cispo, which weighs each token's own log-probability": (
            k.surrogate == "cispo" and k.ratio != "token", ("ratio", "surrogate"),
        ),
        "dual_clip must be 0 where surrogate is cispo, which has no minimum to bound": (
            k.surrogate == "cispo" and k.dual_clip > 0, ("dual_clip", "surrogate"),
        ),
        "dual_clip must be above 1 + epsilon_high, else it would undo the clipping, or 0, which is off": (
            k.surrogate != "cispo" and 0 < k.dual_clip <= 1 + k.epsilon_high, ("dual_clip", "epsilon_high"),
        ),
        "scale_advantages must not be std where baseline is not group, the deviation is the group's from its mean": (
            k.scale_advantages == "std" and k.baseline != "group", ("scale_advantages", "baseline"),
        ),
        "importance_floor must be below importance_cap": (
            0 < k.importance_cap <= k.importance_floor, ("importance_floor", "importance_cap"),
        ),
    }  # fmt: skip
    return [f"{rule}: {got(*names)}" for rule, (is_broken, names) in rules.items() if is_broken]
