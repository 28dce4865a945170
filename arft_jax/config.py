"""Every configuration key with its default, unit and paper symbol; and the one check of them all.

A file in ``configs/`` calls :func:`default_config`, overrides some keys and returns the result. Unknown
keys are refused by the locked ConfigDict; :func:`validate` reports every other violation at once.
"""

import ml_collections

MINI_TASKS = ("mini_coding", "mini_search")  # self-made
MAT_TASKS = ("mat_coding", "mat_search")  # the user's own files, in the layout of the MAT benchmark
STEP_TASKS = ("mat_training_coding", "mat_training_search")  # recorded steps, each a turn to train on by itself
TASK_NAMES = (*MAT_TASKS, *MINI_TASKS, *STEP_TASKS)
_SEARCHING = {"mat_search", "mini_search", "mat_training_search"}


def _model() -> ml_collections.ConfigDict:
    """Sizes in the names of Hugging Face's Qwen2.5-VL config; vocabulary and token ids come from the tokenizer."""
    text = dict(
        hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        rms_norm_eps=1e-6, rope_theta=10000.0, mrope_section=(4, 6, 6), tie_word_embeddings=True,
    )  # fmt: skip
    vision = dict(
        depth=2, hidden_size=64, intermediate_size=128, num_heads=2, patch_size=14, spatial_merge_size=2,
        temporal_patch_size=2, window_size=112, fullatt_block_indexes=(1,),
    )  # fmt: skip
    return ml_collections.ConfigDict(
        dict(
            size="",  # a published size, 3b, 7b, 32b or 72b, in place of text_config and vision_config
            text_config=text,
            vision_config=vision,
            dtype="float32",  # compute dtype: float32 or bfloat16
            param_dtype="float32",  # in which parameters and optimiser moments are kept
            attention="auto",  # over whole sequences: auto, plain, chunked, or a kernel: splash on TPU, cudnn on GPU
            lora=dict(
                rank=0,  # r; 0: no adapters, every parameter is trained
                alpha=16.0,  # α; adapters are scaled by alpha / rank
                targets=("q", "k", "v", "o", "gate", "up", "down"),  # linear maps of the decoder
                vision=False,  # the vision blocks' linear maps too
            ),
            remat=False,  # recompute layer activations in the backward pass
        )
    )


def _rollout() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        dict(
            group_size=8,  # G, trajectories of one prompt
            n_slots=64,  # rows that a process decodes together
            tensor=0,  # devices of a process that share one copy of the policy in a rollout; 0: as mesh.tensor
            max_turns=5,  # policy turns in training
            max_turns_eval=5,  # policy turns in evaluation
            max_turn_tokens=96,  # sampled tokens of one turn
            max_tokens=256,  # tokens of a trajectory, prompt included; also the KV cache length
            temperature=1.0,
            top_k=0,  # 0: off
            top_p=1.0,  # 1: off
            decode_steps=16,  # tokens decoded between two looks of the host
            bucket_columns=0,  # tokens; the cache is read up to the next multiple that holds the rows; 0: all of it
            cache_dtype="",  # of the KV cache: float32, bfloat16, int8, float8_e4m3fn; empty: model.dtype
            max_images=0,  # images of a trajectory, the prompt's included; 0: no limit
            max_image_pixels=0,  # pixels of a trajectory's images together, as encoded; 0: no limit
            extend_rows=16,  # slots served by one extend call
            extend_chunk=64,  # tokens a slot advances in one extend call
            n_patches=576,  # patches in one encode call (bucket)
            n_windows=64,  # vision windows in one encode call (bucket)
            n_features=4096,  # image tokens kept on the device for sharing
        )
    )


def _train() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        dict(
            steps=100,  # GRPO steps
            prompts=8,  # P, prompts of a step; rows B = P * G
            rows_per_update=64,  # rows of one optimiser update; B must be a multiple
            image_chunks=8,  # encode buckets a batch of rows_per_update rows may fill
            learning_rate=1e-3,
            warmup_steps=5,  # linear, from 0
            decay_to=0.1,  # cosine, share of learning_rate left at the last step
            weight_decay=0.0,
            adam_b1=0.9,
            adam_b2=0.95,
            clip_norm=1.0,  # global gradient norm
            epsilon_low=0.2,  # clip bounds of the ratio
            epsilon_high=0.28,
            beta=0.0,  # weight of the KL to the warm-started policy
            aggregation="token",  # token: mean over the batch's tokens; sequence: over rows (the paper)
            scale_advantages="std",  # std (the paper) or none
            logps_chunk=64,  # positions whose logits are held at once
        )
    )


def _search() -> ml_collections.ConfigDict:
    """Where searches are answered; keys come from the environment alone: SERPER_API_KEY."""
    return ml_collections.ConfigDict(
        dict(
            backend="local",  # local: the data set's index; http: a retriever; serper; ddgs: needs the [search] extra
            url="",  # of the retriever (http)
            cache="",  # file of recorded replies of http, serper, ddgs
            cache_mode="off",  # off; record; replay: nothing goes out; mixed: what is not recorded goes out
            deadline_s=20.0,  # one search over the network, waiting and all tries included
            try_s=0.0,  # one try of it; 0: 2 (http), 4 (serper) or 8 (ddgs)
            n_threads=16,  # searches over the network in flight
            calls_per_s=0.0,  # tries over the network that start in a second; 0: no limit
        )
    )


def default_config() -> ml_collections.ConfigDict:
    """The whole configuration, locked against unknown keys."""
    config = ml_collections.ConfigDict(
        dict(
            name="default",  # printed in reports
            workdir="runs/default",  # everything a run writes
            seed=0,  # tasks, corpus, weights and sampling all follow from it
            compilation_cache="~/.cache/arft_jax/xla",  # JAX's persistent compilation cache; empty: off
            hardware="",  # what the run is meant for, read by launch/compile_check.py: "tpu v5e:8x8", "gpu h100:8"
            mesh=dict(data=1, fsdp=-1, tensor=1),  # devices by axis (sharding.py); -1: all that remain
            distributed=dict(
                enabled=False,  # several processes, one a host: True on TPU pods
                coordinator="",  # host:port of process 0; empty, and so on below: as the cluster says
                n_processes=0,
                process=-1,
            ),
            model=_model(),
            weights="",  # Hugging Face directory of a Qwen2.5-VL to start from; empty: drawn from the seed
            tokenizer="",  # directory with tokenizer.json; empty: the weights', without weights the embedded tiny one
            system_prompt="full",  # full, or short for models that read little
            data=dict(
                tasks=MINI_TASKS,  # any of TASK_NAMES; at most one that searches
                dir="",  # of mat_coding/ and mat_search/ (data/mat.py), and of prepared sets; empty: <workdir>/data
                n_train=2000,  # training rows of each task, at most
                min_pixels=7056,  # smallest image after resizing, px
                max_pixels=7056,  # largest image after resizing, px
            ),
            warm_start=dict(
                n_chains=1500,  # recorded chains of each task
                n_practice=4000,  # unspoilt cards read at once: practice in reading
                steps=220,
                rows=64,  # rows of a step, each packed with chains up to rollout.max_tokens
                learning_rate=2e-3,
                warmup_steps=20,
            ),
            rollout=_rollout(),
            tools=dict(
                enabled=True,
                n_workers=2,  # sandbox processes
                timeout_s=5.0,  # one Python call, wall clock
                memory_mb=512,  # one Python call
                max_output_bytes=2000,  # printed text kept
                top_k=4,  # search results shown
                n_threads=8,  # calls of each tool in flight
                deadline_s=120.0,  # one call, waiting and all tries included; after it: a fault of ours
                trajectory_deadline_s=600.0,  # all calls of one trajectory
                n_tries=3,  # of one call, where its back-end fails
                search=_search(),
            ),
            rewards=dict(
                format=1.0,  # weight of R_format
                accuracy=1.0,  # weight of R_acc
                step=0.0,  # share of R_acc given to the first tool call: named problems, or query against the record
                max_answer_words=32,  # longer answers score 0
                query="f1",  # how a recorded step's query is compared: f1, or minilm (the paper), a package of its own
            ),
            train=_train(),
            eval=dict(
                every=50,  # GRPO steps between evaluations; 0: only before and after
                n_during=100,  # items of each task in an evaluation during training
                without_tools=True,  # evaluate the trained policy once more with tools switched off
                bootstrap=2000,  # resamples of an interval
            ),
            checkpoint=dict(every=25, keep=2),  # GRPO steps; newest kept
            report=dict(n_trajectories=12),  # of each task on the trajectory page
        )
    )
    config.lock()
    return config


# Smallest value of what counts or weighs something.
_AT_LEAST = {
    "model.text_config": dict(hidden_size=1, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1),
    "model.vision_config": dict(depth=1, hidden_size=1, num_heads=1, patch_size=1, spatial_merge_size=1),
    "data": dict(n_train=1, min_pixels=1),
    "warm_start": dict(n_chains=0, n_practice=0, steps=0, rows=1, warmup_steps=0, learning_rate=0),
    "rollout": dict(
        group_size=2, n_slots=1, tensor=0, max_turns=1, max_turns_eval=1, top_k=0, decode_steps=1, extend_rows=1,
        extend_chunk=1, n_patches=1, n_windows=1, n_features=1, bucket_columns=0, max_images=0, max_image_pixels=0,
    ),
    "tools": dict(n_workers=1, memory_mb=1, max_output_bytes=1, top_k=1, n_threads=1, n_tries=1),
    "tools.search": dict(try_s=0, n_threads=1, calls_per_s=0),
    "rewards": dict(format=0, accuracy=0, step=0, max_answer_words=0),
    "train": dict(
        steps=0, prompts=1, rows_per_update=1, image_chunks=1, learning_rate=0, warmup_steps=0, decay_to=0,
        weight_decay=0, epsilon_low=0, epsilon_high=0, beta=0, logps_chunk=1,
    ),
    "eval": dict(every=0, n_during=1, bootstrap=1),
    "checkpoint": dict(every=1, keep=1),
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
    above_0 = {"train.clip_norm": config.train.clip_norm}
    above_0 |= {f"tools.{key}": tools[key] for key in ("timeout_s", "deadline_s", "trajectory_deadline_s")}
    above_0["tools.search.deadline_s"] = tools.search.deadline_s
    for key, value in above_0.items():
        if not value > 0:
            problems.append(f"{key.split('.')[-1]} must be above 0: got {value} (config.{key})")
    if config.rewards.step > 1:
        problems.append(f"step must be at most 1: got {config.rewards.step} (config.rewards.step)")
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


def _check_train(config) -> list[str]:
    t, problems = config.train, []
    rows = t.prompts * config.rollout.group_size
    if t.rows_per_update > 0 and rows % t.rows_per_update:
        problems.append(
            f"rows of a step must be a multiple of rows_per_update: got B={rows} (prompts={t.prompts}, "
            f"group_size={config.rollout.group_size}), rows_per_update={t.rows_per_update} "
            "(config.train.rows_per_update)"
        )
    if t.aggregation not in ("token", "sequence"):
        problems.append(f"aggregation must be token or sequence: got {t.aggregation!r} (config.train.aggregation)")
    if t.scale_advantages not in ("std", "none"):
        problems.append(
            f"scale_advantages must be std or none: got {t.scale_advantages!r} (config.train.scale_advantages)"
        )
    w = config.warm_start
    if w.steps and not w.n_chains + w.n_practice:
        problems.append(
            f"a warm start must have chains: got steps={w.steps}, n_chains=0, n_practice=0 (config.warm_start.n_chains)"
        )
    return problems


def _check_search(search, tasks: tuple[str, ...]) -> list[str]:
    problems = []
    remote = search.backend in ("http", "serper", "ddgs")
    if not remote and search.backend != "local":
        problems.append(
            f"backend must be local, http, serper or ddgs: got {search.backend!r} (config.tools.search.backend)"
        )
    if search.cache_mode not in ("off", "record", "replay", "mixed"):
        problems.append(
            f"cache_mode must be off, record, replay or mixed: got {search.cache_mode!r} "
            "(config.tools.search.cache_mode)"
        )
    elif (search.cache_mode != "off") != bool(search.cache):
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


def _check_model(text, vision) -> list[str]:
    problems, heads, kv_heads = [], text.num_attention_heads, text.num_key_value_heads
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


def _check_tasks(tasks: tuple[str, ...], warm_steps: int, max_turns: int) -> list[str]:
    if not tasks or len(set(tasks)) < len(tasks) or not set(tasks) <= set(TASK_NAMES):
        return [f"tasks must be among {TASK_NAMES}, each once: got {tasks} (config.data.tasks)"]
    problems = []
    if len(_SEARCHING & set(tasks)) > 1:
        problems.append(f"at most one of the tasks may search, a run has one index: got {tasks} (config.data.tasks)")
    if max_turns > 1 and set(tasks) & set(STEP_TASKS):
        problems.append(
            f"max_turns must be 1 where {' or '.join(STEP_TASKS)} is among the tasks, a recorded step is one turn: got "
            f"{max_turns} (config.rollout.max_turns)"
        )
    if warm_steps > 0 and not set(tasks) <= set(MINI_TASKS):
        problems.append(
            f"a warm start must have recorded chains, which {' and '.join(MINI_TASKS)} alone have: got "
            f"steps={warm_steps}, tasks={tasks} (config.warm_start.steps)"
        )
    return problems


def validate(config: ml_collections.ConfigDict) -> None:
    """Raises one ValueError that lists every violation; does nothing else."""
    problems = _check_minima(config) + _check_rollout(config) + _check_train(config)
    problems += _check_tasks(tuple(config.data.tasks), config.warm_start.steps, config.rollout.max_turns)
    problems += _check_search(config.tools.search, tuple(config.data.tasks))
    if config.system_prompt not in ("full", "short"):
        problems.append(f"system_prompt must be full or short: got {config.system_prompt!r} (config.system_prompt)")
    if config.model.attention not in ("auto", "plain", "chunked", "splash", "cudnn"):
        problems.append(
            f"attention must be auto, plain, chunked, splash or cudnn: got {config.model.attention!r} "
            "(config.model.attention)"
        )
    if config.model.attention == "cudnn" and config.model.dtype != "bfloat16":
        problems.append(
            f"dtype must be bfloat16 where attention is cudnn: got {config.model.dtype!r} (config.model.dtype, "
            "config.model.attention)"
        )
    problems += [
        f"{key} must be float32 or bfloat16: got {config.model[key]!r} (config.model.{key})"
        for key in ("dtype", "param_dtype")
        if config.model[key] not in ("float32", "bfloat16")
    ]
    if config.rollout.cache_dtype not in ("", "float32", "bfloat16", "int8", "float8_e4m3fn"):
        problems.append(f"cache_dtype is unknown: got {config.rollout.cache_dtype!r} (config.rollout.cache_dtype)")
    if config.data.min_pixels > config.data.max_pixels:
        problems.append(
            f"min_pixels must not exceed max_pixels: got {config.data.min_pixels} > {config.data.max_pixels} "
            "(config.data.min_pixels)"
        )
    if config.rewards.query not in ("f1", "minilm"):
        problems.append(f"query must be f1 or minilm: got {config.rewards.query!r} (config.rewards.query)")
    problems += _check_model(config.model.text_config, config.model.vision_config)
    if problems:
        raise ValueError("; ".join(problems))
