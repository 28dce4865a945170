"""The closed lists of words that a key of the configuration may hold, each typed once.

The configuration is checked against them, and the function that reads the word refuses every other one.
"""

RATIOS = ("token", "sequence", "sequence_token", "product")  # train.ratio
SURROGATES = ("clip", "cispo")  # train.surrogate
AGGREGATIONS = ("token", "sequence", "constant")  # train.aggregation
BASELINES = ("group", "leave_one_out", "none")  # train.baseline
SCALES = ("std", "batch", "none")  # train.scale_advantages
KL_ESTIMATORS = ("k1", "k2", "k3")  # train.kl
KL_PLACES = ("loss", "reward")  # train.kl_in
UNFINISHED = ("negative", "mask", "overlong")  # train.unfinished
IMPORTANCE_LEVELS = ("token", "sequence")  # train.importance, which may also be none
IMPORTANCE_MODES = ("truncate", "mask")  # train.importance_mode
MOMENTS = ("float32", "bfloat16", "factored")  # train.moments
ROUNDINGS = ("nearest", "stochastic")  # train.param_rounding
CONTEXTS = ("append", "rerender")  # rollout.context
ATTENTION_FORMS = ("auto", "plain", "chunked")  # model.attention, on all hardware
REMAT_POLICIES = ("none", "dots", "full")  # model.remat
ATTENTION_KERNELS = {"splash": "tpu", "cudnn": "gpu"}  # model.attention, by hardware
REMOTE_SEARCHES = ("http", "serper", "ddgs")  # tools.search.backend; besides them local
CACHE_MODES = ("off", "record", "replay", "mixed")  # tools.search.cache_mode

# What each key may hold; "" is an empty key.
OF_KEY = {
    "system_prompt": ("full", "short"),
    "chat_template": ("hermes", ""),
    "tools.syntax": ("tags", "hermes"),
    "tools.crop_frame": ("permille", "original", "resized", ""),
    "model.dtype": ("float32", "bfloat16"),
    "model.param_dtype": ("float32", "bfloat16"),
    "model.vision": ("new", ""),
    "model.attention": (*ATTENTION_FORMS, *ATTENTION_KERNELS),
    "model.remat": REMAT_POLICIES,
    "openai.images": ("resized", "whole"),
    "openai.detail": ("low", "high", "auto", ""),
    "openai.max_tokens_name": ("max_tokens", "max_completion_tokens", ""),
    "openai.stops": ("cut", "send"),
    "rollout.context": CONTEXTS,
    "rollout.refresh": ("keep", "rebuild"),
    "rollout.cache_dtype": ("float32", "bfloat16", "int8", "float8_e4m3fn", ""),
    "tools.search.backend": ("local", *REMOTE_SEARCHES),
    "tools.search.cache_mode": CACHE_MODES,
    "tools.sandbox.wrapper": ("bwrap", ""),
    "rewards.judge.max_tokens_name": ("max_tokens", "max_completion_tokens", ""),
    "rewards.query": ("f1", "minilm"),
    "train.moments": MOMENTS,
    "train.param_rounding": ROUNDINGS,
    "train.reference": ("start", "base"),
    "train.ratio": RATIOS,
    "train.surrogate": SURROGATES,
    "train.aggregation": AGGREGATIONS,
    "train.baseline": BASELINES,
    "train.scale_advantages": SCALES,
    "train.kl": KL_ESTIMATORS,
    "train.kl_in": KL_PLACES,
    "train.importance": ("none", *IMPORTANCE_LEVELS),
    "train.importance_mode": IMPORTANCE_MODES,
    "train.unfinished": UNFINISHED,
}
