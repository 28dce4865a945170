"""The coding agent of Visual-ARFT (arXiv 2505.14246): Qwen2.5-VL that repairs or crops a picture by code, then answers.

    python launch/compile_check.py --config=configs/visual_arft_coding.py:7b_tpu
    python launch/train.py --config=configs/visual_arft_coding.py:7b_tpu --config.weights=DIR --config.data.dir=DIR

``weights`` is a Hugging Face directory of Qwen2.5-VL-7B or 3B. ``data.dir`` holds ``MAT-Training`` and
``MAT-Benchmark`` as they are published (https://huggingface.co/datasets/laolao77/MAT): about 1,200 questions to train
on, 200 items to evaluate on. docs/mat.md has the chain from here to the rows "+ Visual-ARFT" of the paper's table.

A variant is words joined by ``_``:

    3b, 7b          the model; 7b
    tpu, gpu        v5e:4x4 (3b) or v5e:8x8 (7b); 8 x H100 80 GB; gpu
    live, released  five turns with live tools, or the released trainer's single recorded steps; live
    smoke           every stage in small, on any device, with the weights of launch/make_tiny_checkpoint.py and the
                    data of launch/make_tiny_data.py

Live: 16 prompts x 8 a step, 225 steps, three times over the questions; rewards on the whole trajectory, format + F1 of
the answer; one update a step at 1e-6, no KL. Expected: 50 minutes for the steps on v5e:8x8, by the arithmetic of
docs/compile_check.md, without evaluations; for 8 x H100 nothing was worked out.
Released: 1,400 steps of 16 recorded steps x 8, KL 0.04; configs/paper_parity.py says what is reproduced and what is
not; the paper gives no hours for it. Live is as large as configs/qwen7b_tpu.py and its like, which compile; of the
released recipe the update was compiled for 7b_tpu at e126aa7 (10.5 of 15.75 GiB a device). Neither was run on trained
weights, so there are no figures of our own yet.
Published F1/EM on MAT-Coding: 3B 49.78/40.00 simple, 28.42/13.08 hard; 7B 60.10/51.43 and 45.60/25.38.
"""

from arft_jax.presets import visual_arft_config


def get_config(variant: str = ""):
    return visual_arft_config("coding", variant)
