"""Every text that the self-made tasks can hold, with weights: what the tiny tokenizer is made from."""

from arft_jax import protocol
from arft_jax.data.chat import SYSTEM
from arft_jax.data.synthetic import degrade, lexicon
from arft_jax.data.synthetic.chains import code_body, problem_body
from arft_jax.data.synthetic.coding import CELL_BOXES
from arft_jax.data.synthetic.corpus import query_of
from arft_jax.tools import result_text, toolbox

_REPLIES = (
    toolbox.TIP_FIX,
    toolbox.TIP_NONE,
    toolbox.TIP_CROP,
    toolbox.SWITCHED_OFF,
    result_text.NOTHING_FOUND,
    "<information> 1. Content: ",
    " </information>",
    "Error: ",
)


def training_texts() -> list[tuple[str, int]]:
    """(text, weight) pairs, always in the same order."""
    pairs = [(f"{role}\n", 400) for role in ("system", "user", "assistant")]
    pairs += [(prompts["short"], 400) for prompts in (SYSTEM["coding"], SYSTEM["search"])]
    pairs += [(prompts["full"], 2) for prompts in (SYSTEM["coding"], SYSTEM["search"])]
    pairs += [
        (text, 400)
        for text in (lexicon.NUMBER_QUESTION, lexicon.CARD_QUESTION, lexicon.EMBLEM_QUESTION, lexicon.LOOK_QUESTION)
    ]
    pairs += [(text, 400) for text in ("Repeat: ", "Just read. ", *lexicon.LOOKS.values())]
    pairs += [(lexicon.BOX_QUESTION.format(*box), 100) for box in CELL_BOXES]
    for relation in lexicon.RELATIONS:
        pairs += [(lexicon.HOUSE_QUESTION.format(relation=relation), 100)]
        pairs += [(lexicon.RIVAL_QUESTION.format(relation=relation), 100)]
    pairs += [(f"<think>{text}</think>", 200) for texts in lexicon.THOUGHTS.values() for text in texts]
    pairs += [(f"<{tag}>Red</{tag}>", 200) for tag in (*protocol.TAGS, "think")]
    for kinds in degrade.PROBLEM_SETS:
        pairs.append((problem_body(kinds), 100))
        for box in CELL_BOXES:
            pairs.append((code_body(kinds, box), 100))
    pairs += [(name, 120) for name in lexicon.NAMES]
    pairs += [(query_of(house, word), 60) for house in lexicon.HOUSES for word in (*lexicon.RELATIONS, lexicon.RIVAL)]
    pairs += [(f"{a} {b}", 60) for a in lexicon.OTHER_COLOURS for b in lexicon.OTHER_FIGURES]
    pairs += [(text, 100) for text in _REPLIES]
    return pairs
