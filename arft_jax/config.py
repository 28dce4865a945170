"""Every configuration key with its default, unit and paper symbol.

A file in ``configs/`` calls :func:`default_config`, overrides some keys and returns the result. Unknown
keys are refused by the locked ConfigDict; :mod:`arft_jax.config_checks` reports every other violation at once.
"""

import ml_collections
from ml_collections import config_dict

MINI_TASKS = ("mini_coding", "mini_search")  # self-made
MAT_TASKS = ("mat_coding", "mat_search")  # the user's own files, in the layout of the MAT benchmark
STEP_TASKS = ("mat_training_coding", "mat_training_search")  # recorded steps, each a turn to train on by itself
QA_TASKS = ("2wikimultihopqa", "hotpotqa", "musique", "bamboogle")  # public benchmarks of text, of FlashRAG's layout
# What launch/evaluate.py asks beside MAT: test items alone (data/public_sets.py).
PUBLIC_TASKS = (*QA_TASKS, "vstar", "hrbench_4k", "hrbench_8k", "mmsearch")
TASK_NAMES = (*MAT_TASKS, *MINI_TASKS, *STEP_TASKS)
SEARCHING_TASKS = {"mat_search", "mini_search", "mat_training_search", "mmsearch", *QA_TASKS}
JSONL = "jsonl:"  # what an entry of config.data.tasks begins with that names the user's own file


class Pairs(ml_collections.FieldReference):
    """A key that holds a mapping: it is set from a dict, or from pairs, and read as a tuple of (name, value) pairs.

    A nested ConfigDict does not take names with dots, such as ``my_package.my_module:my_reward``; a tuple of pairs does
    and comes through copies, JSON and the command line (``--config.rewards.extra="{'my_module:my_reward': 1.0}"``).
    """

    def __init__(self):
        super().__init__((), field_type=object)

    def set(self, value, type_safe: bool = True) -> None:
        """Keeps a dict as its items, lists of a JSON file as tuples; the rest as it is, for config_checks to refuse."""
        value = tuple(value.items()) if isinstance(value, dict) else value
        if isinstance(value, list):
            value = tuple(tuple(pair) if isinstance(pair, list) else pair for pair in value)
        super().set(value, type_safe)


def task_set_name(entry: str) -> str:
    """The name of a task set in tables, metrics and file names: of a file, its name without folder and suffix.

    >>> task_set_name("jsonl:my/photos.jsonl"), task_set_name("mini_search")
    ('photos', 'mini_search')
    """
    if not entry.startswith(JSONL):
        return entry
    name = entry.removeprefix(JSONL).replace("\\", "/").rsplit("/", 1)[-1]
    return name.rsplit(".", 1)[0] if "." in name[1:] else name


def _model() -> ml_collections.ConfigDict:
    """Sizes in the names of Hugging Face's Qwen2.5-VL config; vocabulary and token ids come from the tokenizer."""
    text = dict(
        hidden_size=128,  # D, width of the decoder
        intermediate_size=384,  # F, width of its MLP
        num_hidden_layers=4,  # decoder layers
        num_attention_heads=4,  # N, query heads
        num_key_value_heads=2,  # K, key and value heads; N must be a multiple
        rms_norm_eps=1e-6,  # added to the mean square in RMSNorm
        rope_theta=10000.0,  # base of the rotary frequencies
        mrope_section=(4, 6, 6),  # rotary frequencies of time, height and width; together half a head
        tie_word_embeddings=True,  # the unembedding is the embedding
    )
    vision = dict(
        depth=2,  # blocks of the vision tower
        hidden_size=64,  # width of the tower
        intermediate_size=128,  # width of its MLP
        num_heads=2,  # attention heads of a block
        patch_size=14,  # px
        spatial_merge_size=2,  # patches along a side that become one image token
        temporal_patch_size=2,  # frames of a patch; an image is repeated
        window_size=112,  # px; attention window of most blocks
        fullatt_block_indexes=(1,),  # blocks that attend over the whole image
    )
    return ml_collections.ConfigDict(
        dict(
            family="",  # import path of a Family, my_package.my_module:MY_FAMILY; empty: as the weights say
            vision="",  # new: a fresh tower of vision_config for a text model; empty: as the weights say
            size="",  # a published size, 3b, 7b, 32b or 72b, in place of text_config and vision_config
            text_config=text,  # sizes of the decoder
            vision_config=vision,  # sizes of the vision tower
            dtype="float32",  # compute dtype: float32 or bfloat16
            param_dtype="float32",  # in which parameters are kept; adapters are float32 always
            attention="auto",  # over whole sequences: auto, plain, chunked, or a kernel: splash on TPU, cudnn on GPU
            lora=dict(  # low-rank adapters in place of training every parameter
                adapter="",  # PEFT directory to start from, which says what follows; empty: fresh ones
                rank=0,  # r; 0: no adapters, every parameter is trained
                alpha=16.0,  # α; adapters are scaled by alpha / rank
                rslora=False,  # by alpha / √rank
                targets=("q", "k", "v", "o", "gate", "up", "down"),  # linear maps of the decoder
                vision=False,  # the vision blocks' linear maps too
                vision_targets=("qkv", "proj", "gate", "up", "down"),  # which of them
            ),
            freeze_vision=False,  # the vision tower, its merger included, is not trained; beside adapters it never is
            remat="none",  # what a layer computes again in the backward pass: none, all but its products (dots), full
        )
    )


def _rollout() -> ml_collections.ConfigDict:
    """The sampler: its sizes, budgets and sampling."""
    return ml_collections.ConfigDict(
        dict(
            group_size=8,  # G, trajectories of one prompt
            n_slots=64,  # rows that a process decodes together
            tensor=0,  # devices of a process that share one copy of the policy in a rollout; 0: as mesh.tensor
            max_turns=5,  # policy turns in training
            max_turns_eval=5,  # policy turns in evaluation
            context="append",  # in evaluation: append, or rerender, a prompt of its own for each turn (the paper)
            max_turn_tokens=96,  # sampled tokens of one turn
            max_tokens=256,  # tokens of a trajectory, prompt included; also the KV cache length
            temperature=1.0,  # of sampling in training
            top_k=0,  # 0: off
            top_p=1.0,  # 1: off
            carry_over=0.0,  # share of a step's groups that may still run when it trains and go on in the next; 0: none
            max_staleness=1,  # versions of the weights that a trained token may be old, where groups are carried over
            refresh="keep",  # KV cache of rows that are carried over: keep, or rebuild under the new weights
            decode_steps=16,  # tokens decoded between two looks of the host
            bucket_columns=0,  # tokens; the cache is read up to the next multiple that holds the rows; 0: all of it
            cache_dtype="",  # of the KV cache: float32, bfloat16, int8, float8_e4m3fn; empty: model.dtype
            max_images=0,  # images of a trajectory, the prompt's included; 0: no limit
            max_image_pixels=0,  # pixels of a trajectory's images together, as encoded; 0: no limit
            extend_rows=16,  # slots served by one extend call, which costs as much for one as for all
            extend_chunk=64,  # tokens a slot advances in one extend call
            n_patches=576,  # patches in one encode call (bucket)
            n_windows=64,  # vision windows in one encode call (bucket)
            n_features=4096,  # image tokens kept on the device for sharing
        )
    )


def _train() -> ml_collections.ConfigDict:
    """GRPO: steps, optimiser and loss."""
    return ml_collections.ConfigDict(
        dict(
            steps=100,  # GRPO steps
            prompts=8,  # P, prompts of a step; rows B = P * G
            rows_per_update=64,  # rows of one optimiser update, whole groups; B must be a multiple
            epochs=1,  # how often a step's rows are trained on, each time in other updates
            micro_tokens=16384,  # tokens that a lane (data*fsdp of the mesh) holds at once, packed rows and padding
            row_widths=(),  # tokens of a packed row, each a program; empty: parts and multiples of rollout.max_tokens
            share_prompts=False,  # a group's prompt is computed once a row; with attention auto, plain or chunked
            image_chunks=8,  # encode buckets that a micro-batch may fill, over all lanes
            learning_rate=1e-3,  # peak of AdamW's rate
            warmup_steps=5,  # linear, from 0
            decay_to=0.1,  # cosine, share of learning_rate left at the last step
            weight_decay=0.0,  # AdamW's, decoupled
            adam_b1=0.9,  # β₁
            adam_b2=0.95,  # β₂
            moments="float32",  # AdamW's in float32 or bfloat16; factored: the second by rows and columns (Adafactor)
            param_rounding="nearest",  # of bfloat16 parameters at an update: nearest, or stochastic, which is unbiased
            clip_norm=1.0,  # global gradient norm
            max_skipped=5,  # updates in a row whose gradient is not finite: so many end the run; 0: none do
            # name of a set of the keys below: grpo, dr_grpo, dapo, dual_clip, gspo, gspo_token, cispo, rloo,
            # reinforce_pp, reinforce_pp_baseline (docs/objectives.md); None there means: as the objective says
            objective="dapo",
            ratio=config_dict.placeholder(str),  # ρ of a token, or of its trajectory: sequence, sequence_token, product
            surrogate=config_dict.placeholder(str),  # clip: min(ρ A, clip(ρ) A); cispo: clip(ρ), held constant, A log π
            epsilon_low=config_dict.placeholder(float),  # ρ is clipped from below at 1 - epsilon_low; 1: not at all
            epsilon_high=config_dict.placeholder(float),  # and from above at 1 + epsilon_high
            dual_clip=config_dict.placeholder(float),  # c: where A < 0, min(ρ A, clip(ρ) A) is at least c A; 0: off
            aggregation=config_dict.placeholder(str),  # token: mean of all; sequence: of a trajectory's first; constant
            divisor_len=config_dict.placeholder(int),  # tokens that constant divides each by; 0: rollout.max_tokens
            baseline=config_dict.placeholder(str),  # of the reward: the group's mean, leave_one_out, or none
            scale_advantages=config_dict.placeholder(str),  # std: by the group's; batch: less the step's mean; none
            kl=config_dict.placeholder(str),  # estimator of the KL to the reference: k1, k2, k3
            kl_in=config_dict.placeholder(str),  # where it goes: loss, or reward
            beta=config_dict.placeholder(float),  # β, its weight
            entropy_bonus=config_dict.placeholder(float),  # weight of the mean entropy that is added to the objective
            importance=config_dict.placeholder(str),  # sampling weights against the sampler: none, token, sequence
            importance_mode=config_dict.placeholder(str),  # truncate at the bounds, or mask: beyond them weigh 0
            importance_floor=config_dict.placeholder(float),  # smallest weight
            importance_cap=config_dict.placeholder(float),  # largest weight
            reference="start",  # that policy: start, as GRPO begins (warm-started), or base, as the run's weights are
            unfinished="negative",  # rows cut by a budget: negative, as scored; mask, not learnt from; overlong (DAPO)
            overlong_from=0,  # L_max - L_cache, sampled tokens; longer rows lose reward, where unfinished is overlong
            overlong_to=0,  # L_max, sampled tokens, at which a row loses all of overlong_weight
            overlong_weight=1.0,  # weight of this penalty in the total
            dynamic_sampling=dict(  # DAPO: a group of equal rewards is dropped, another task begins in its place
                enabled=False,  # False: such groups are kept, and have no gradient
                max_attempts=4,  # tasks that each of the P places may try, the first one included; the last is kept
                metric="total",  # the reward that must vary: total, accuracy, em, ..., or one of rewards.extra
            ),
            logps_chunk=1024,  # positions of a lane whose logits are held at once
        )
    )


def _search() -> ml_collections.ConfigDict:
    """Where searches are answered; keys come from the environment alone: SERPER_API_KEY."""
    return ml_collections.ConfigDict(
        dict(
            backend="local",  # local: the data set's index; http: a retriever; serper; ddgs: needs the [search] extra
            url="",  # of the retriever (http)
            cache="",  # file of recorded replies of http, serper, ddgs; a hash beside each
            cache_mode="off",  # off; record; replay: nothing goes out; mixed: what is not recorded goes out
            deadline_s=20.0,  # one search over the network, waiting and all tries included
            try_s=0.0,  # one try of it; 0: 2 (http), 4 (serper) or 8 (ddgs)
            n_threads=16,  # searches over the network in flight
            calls_per_s=0.0,  # tries over the network that start in a second; 0: no limit
            image_index="",  # of captioned images (launch/build_index.py); empty: no image search
            image_top_k=1,  # found images shown, each in full
        )
    )


def _data() -> ml_collections.ConfigDict:
    """Tasks and their images."""
    return ml_collections.ConfigDict(
        dict(
            tasks=MINI_TASKS,  # any of TASK_NAMES, and own files as "jsonl:PATH" (data/jsonl_tasks.py)
            dir="",  # of mat_coding/ and mat_search/ (data/mat.py), and of prepared sets; empty: <workdir>/data
            corpora=Pairs(),  # {name of a jsonl set: JSONL file of documents}; else <stem>.corpus.jsonl beside it
            strict=False,  # an unreadable training image stops the run at the start; False: grey in its place
            n_train=2000,  # training rows of each task, at most
            min_pixels=7056,  # smallest image after resizing, px
            max_pixels=7056,  # largest image after resizing, px
        )
    )


def _warm_start() -> ml_collections.ConfigDict:
    """Imitation of recorded chains before GRPO."""
    return ml_collections.ConfigDict(
        dict(
            chains=(),  # own conversations to imitate, as "jsonl:PATH" (data/chat_chains.py)
            n_chains=1500,  # recorded chains of each mini task
            n_practice=4000,  # unspoilt cards read at once: practice in reading, where a mini task is trained
            steps=220,  # optimiser steps; 0: no warm start
            rows=64,  # rows of a step, each packed with chains up to rollout.max_tokens
            learning_rate=2e-3,  # peak, falling by a cosine to a tenth
            warmup_steps=20,  # linear, from 0
        )
    )


def _tools() -> ml_collections.ConfigDict:
    """What the policy may call, and how calls are served."""
    return ml_collections.ConfigDict(
        dict(
            enabled=True,  # off: every call is refused
            offer=(),  # names of tools that every task is offered; empty: each task those of its kind
            extra=(),  # tools of one's own by import path: "my_package.my_module:my_tool"
            syntax="tags",  # how calls are written: tags (the paper's), or hermes (JSON, Qwen's chat template)
            crop_frame="",  # units of the crop tool's boxes: permille, original, resized; empty: the model's
            n_workers=2,  # sandbox processes
            timeout_s=5.0,  # one Python call, wall clock
            memory_mb=512,  # one Python call
            max_output_bytes=2000,  # printed text kept
            top_k=4,  # search results shown
            n_threads=8,  # calls of each tool in flight
            deadline_s=120.0,  # one call, waiting and all tries included; after it: an infrastructure failure
            trajectory_deadline_s=600.0,  # all calls of one trajectory
            n_tries=3,  # of one call, where its back-end fails
            sandbox=dict(  # in which model-written Python runs
                level="auto",  # auto: the strongest that holds; L1; L0; outer:NAME, declared (docs/sandbox.md)
                wrapper="",  # bwrap: each worker inside bubblewrap, around the level
                sessions=False,  # code finds the variables of the trajectory's earlier code, which is run again
                override=False,  # run model-written code though no level holds; stamped on all that is made
            ),
            search=_search(),
        )
    )


def _rewards() -> ml_collections.ConfigDict:
    """Parts of R_total."""
    return ml_collections.ConfigDict(
        dict(
            format=1.0,  # weight of R_format
            accuracy=1.0,  # weight of R_acc
            step=0.0,  # share of R_acc given to the first tool call: named problems, or query against the record
            max_answer_words=32,  # longer answers score 0
            query="f1",  # how a recorded step's query is compared: f1, or minilm (the paper), a package of its own
            extra=Pairs(),  # {"my_module:my_reward": weight}: functions of (trajectory, task), added to the total
            judge=dict(  # a model behind a chat completions server that grades answers
                weight=0.0,  # of its score in the total; 0: it is not asked in training
                model="",  # name by which the server knows the model
                base_url="https://api.openai.com/v1",  # of the server, without /chat/completions
                key_env="OPENAI_API_KEY",  # environment variable that holds the key; empty: the server takes none
                rubric="",  # text with {question}, {answers}, {answer}, or file:PATH of one; empty: the package's
                temperature=0.0,  # of sampling; below 0: not sent
                max_tokens=512,  # tokens of a reply; 0: not sent
                max_tokens_name="max_tokens",  # or max_completion_tokens, as the server calls it; empty: not sent
                extra=Pairs(),  # {"reasoning_effort": "low"}: more fields of each request, JSON values
                concurrency=16,  # answers that a process has graded at once
                timeout_s=60.0,  # one request
                n_tries=4,  # of one request
                prices=Pairs(),  # as config.openai.prices
                budget_dollars=0.0,  # the judge is not asked beyond it, earlier sessions included; 0: no limit
                budget_tokens=0,  # the same in tokens of prompts and replies; 0: no limit
            ),
        )
    )


def _openai() -> ml_collections.ConfigDict:
    """launch/evaluate.py --policy=openai: a model behind a chat completions server, asked by the openai package."""
    return ml_collections.ConfigDict(
        dict(
            model="",  # name by which the server knows the model
            base_url="https://api.openai.com/v1",  # of the server, without /chat/completions
            key_env="OPENAI_API_KEY",  # environment variable that holds the key; empty: the server takes none
            prompt="agent",  # agent: system prompt and tools; plain: the question alone; own text with {question}
            images="resized",  # resized: as data.min_pixels and data.max_pixels say; whole: as they are
            detail="",  # of images, as OpenAI's servers take it: low, high, auto; empty: not sent
            temperature=0.0,  # of sampling; below 0: not sent, for models that take none (o3)
            max_tokens=0,  # tokens of one turn; 0: rollout.max_turn_tokens
            max_tokens_name="max_tokens",  # or max_completion_tokens, as the server calls it; empty: not sent
            stops="cut",  # strings that end a turn: cut, the reply is cut behind one here; send: the server is told
            extra=Pairs(),  # {"reasoning_effort": "high"}: more fields of each request, JSON values
            concurrency=16,  # items that a process asks at once
            timeout_s=300.0,  # one request
            n_tries=8,  # of one request
            backoff_s=1.0,  # wait behind the first try, twice as long behind each further one
            max_backoff_s=60.0,  # the longest wait that the server has not asked for
            requests_per_min=0.0,  # of a process; 0: no limit
            tokens_per_min=0.0,  # of a process, in prompts and replies; 0: no limit
            prices=Pairs(),  # {"gpt-4o": (2.5, 10.0, 1.25)}: dollars for 10^6 tokens: prompt, reply, cached prompt
            budget_dollars=0.0,  # the evaluation asks nothing more beyond it, earlier sessions included; 0: no limit
            budget_tokens=0,  # the same in tokens of prompts and replies; 0: no limit
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
            distributed=dict(  # several processes on one mesh
                enabled=False,  # several processes, one a host: True on TPU pods
                coordinator="",  # host:port of process 0; empty, and so on below: as the cluster says
                n_processes=0,  # all processes of the run; 0: as the cluster says
                process=-1,  # number of this one, from 0; -1: as the cluster says
            ),
            model=_model(),
            weights="",  # Hugging Face directory, or GGUF file, to start from; empty: drawn from the seed
            chat_template="",  # hermes: tools.syntax may be hermes though the template of the weights is not
            tokenizer="",  # directory with tokenizer.json or tokenizer.model; empty: the weights', else the tiny one
            system_prompt="full",  # full, or short for models that read little
            system_prompts=Pairs(),  # {name of a task set: its system prompt, or file:PATH of one}, in its place
            data=_data(),  # tasks and their images
            warm_start=_warm_start(),  # imitation of recorded chains before GRPO
            rollout=_rollout(),
            tools=_tools(),  # what the policy may call, and how calls are served
            rewards=_rewards(),  # parts of R_total
            train=_train(),
            eval=dict(  # scores on the test splits
                every=50,  # GRPO steps between evaluations; 0: only before and after
                n_during=100,  # items of each task in an evaluation during training
                without_tools=True,  # evaluate the trained policy once more with tools switched off
                bootstrap=2000,  # resamples of an interval
                attempts=3,  # launch/evaluate.py: how often an item is asked that an infrastructure failure ends
            ),
            openai=_openai(),
            checkpoint=dict(  # what an interrupted run goes on from
                every=25,  # GRPO steps
                keep=2,  # newest completed ones; an older one is deleted behind a newer one
            ),
            report=dict(n_trajectories=12),  # of each task on the trajectory page
        )
    )
    config.lock()
    return config
