"""Every text that the self-made tasks can hold, with weights: what the tiny tokenizer is made from."""

from arft_jax.data.synthetic import degrade, lexicon
from arft_jax.data.synthetic.coding import CELL_BOXES
from arft_jax.data.synthetic.corpus import query_of
from arft_jax.data.system_prompts import STYLES, USUAL, system_prompt
from arft_jax.tools import diagnose, result_text, toolbox
from arft_jax.tools.bundled import BUNDLED, paper_syntax

_REPLIES = (
    diagnose.TIP_FIX,
    diagnose.TIP_NONE,
    diagnose.TIP_CROP,
    toolbox.SWITCHED_OFF,
    result_text.NOTHING_FOUND,
    "<information> 1. Content: ",
    " </information>",
    "Error: ",
)


def training_texts() -> list[tuple[str, int]]:
    """(text, weight) pairs, always in the same order."""
    pairs = [(f"{role}\n", 400) for role in ("system", "user", "assistant")]
    syntax, weights = paper_syntax(), {"short": 400, "full": 2}
    for style in reversed(STYLES):
        for kind, names in USUAL.items():
            specs = [BUNDLED[name].spec for name in names]
            pairs.append((system_prompt(kind, style, specs, syntax), weights[style]))
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
    pairs += [(f"<{tag}>Red</{tag}>", 200) for tag in (*syntax.tags, "think")]
    for kinds in degrade.PROBLEM_SETS:
        pairs.append((BUNDLED["diagnose"].spec.write({"problems": kinds}), 100))
        for box in CELL_BOXES:
            pairs.append((BUNDLED["python"].spec.write({"code": degrade.repair_code(kinds, box)}), 100))
    pairs += [(name, 120) for name in lexicon.NAMES]
    pairs += [(query_of(house, word), 60) for house in lexicon.HOUSES for word in (*lexicon.RELATIONS, lexicon.RIVAL)]
    pairs += [(f"{a} {b}", 60) for a in lexicon.OTHER_COLOURS for b in lexicon.OTHER_FIGURES]
    pairs += [(text, 100) for text in _REPLIES]
    return pairs
