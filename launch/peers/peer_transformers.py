"""The transformers side of the benchmark, torch on CPU. Reads a figure's name a line, answers with its rate, JSON.

python launch/peers/peer_transformers.py      (pip install torch transformers pillow)
"""

import importlib.metadata
import json
import sys
import time

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

VOCAB, PROMPT_LEN, TURN_LEN, TEXT_LEN, DECODE_LEN, DECODE_ROWS = 32768, 256, 64, 128, 128, 16
GROUPS, GROUP_SIZE, SIDE, START, END, IMAGE = 4, 8, 16, 8, 9, 10  # SIDE patches: 64 image tokens


def make_model():
    text = dict(
        hidden_size=512, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=2,
        vocab_size=VOCAB, max_position_embeddings=4096, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
        pad_token_id=0, rope_parameters={"rope_type": "default", "mrope_section": [8, 12, 12], "rope_theta": 1e6},
    )  # fmt: skip
    vision = dict(
        depth=4, hidden_size=256, intermediate_size=512, num_heads=4, out_hidden_size=512, fullatt_block_indexes=[1, 3]
    )
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=IMAGE, video_token_id=11, vision_start_token_id=START,
        vision_end_token_id=END, tie_word_embeddings=True,
    )  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(config).float().eval()


def image_block(rows):
    ids = torch.full((rows, (SIDE // 2) ** 2 + 2), IMAGE)
    ids[:, 0], ids[:, -1] = START, END
    return ids


def text(rows, n):
    return torch.randint(20, VOCAB, (rows, n))


def prompts(rows):
    ids = text(rows, PROMPT_LEN)
    block = image_block(rows)
    ids[:, 8 : 8 + block.shape[1]] = block
    return ids


def inputs(ids, n_images):
    n = ids.shape[0] * n_images
    return dict(
        input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=(ids == IMAGE).long(),
        pixel_values=torch.randn(n * SIDE * SIDE, 1176), image_grid_thw=torch.tensor([[1, SIDE, SIDE]] * n),
    )  # fmt: skip


def generate(model, ids, n_images, new):
    with torch.no_grad():
        options = dict(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, eos_token_id=None)
        out = model.generate(**inputs(ids, n_images), max_new_tokens=new, **options)
    return torch.cat([ids, out[:, ids.shape[1] :].clamp(min=20)], 1)  # a sampled control token would be a broken image


def clock(function):
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def decode(model):
    ids = prompts(DECODE_ROWS)
    short = clock(lambda: generate(model, ids, 1, 1))
    return DECODE_ROWS * (DECODE_LEN - 1) / (clock(lambda: generate(model, ids, 1, DECODE_LEN)) - short)


def prefill(model):
    return DECODE_ROWS * PROMPT_LEN / clock(lambda: generate(model, prompts(DECODE_ROWS), 1, 1))


def turns(model):
    rows = GROUPS * GROUP_SIZE

    def play():
        ids = generate(model, prompts(GROUPS).repeat_interleave(GROUP_SIZE, 0), 1, TURN_LEN)
        ids = generate(model, torch.cat([ids, text(rows, TEXT_LEN)], 1), 1, TURN_LEN)
        generate(model, torch.cat([ids, image_block(rows)], 1), 2, TURN_LEN)

    return rows / clock(play)


def train(model):
    ids = torch.cat([prompts(DECODE_ROWS), text(DECODE_ROWS, DECODE_LEN)], 1)
    batch = inputs(ids, 1)
    model.train()

    def step():
        logits = model(**batch, use_cache=False).logits[:, PROMPT_LEN - 1 : -1]
        logps = logits.log_softmax(-1).gather(-1, ids[:, PROMPT_LEN:, None])
        (-logps.mean()).backward()

    seconds = clock(step)
    model.zero_grad()
    model.eval()
    return ids.numel() / seconds


def main():
    torch.manual_seed(0)
    torch.set_num_threads(2)
    figures = dict(decode=decode, prefill=prefill, group_prefill=prefill, turns=turns, train=train)
    model = make_model()
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    print(json.dumps({"versions": versions, "figures": list(figures)}), flush=True)
    generate(model, prompts(2), 1, 2)
    for line in sys.stdin:
        print(json.dumps({"rate": figures[line.strip()](model)}), flush=True)


if __name__ == "__main__":
    main()
