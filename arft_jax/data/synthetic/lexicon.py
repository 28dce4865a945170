"""The words of the self-made tasks: made-up names, questions, thoughts."""

import itertools

from arft_jax.data.synthetic.draw import COLOURS, FIGURES

RELATIONS = ("city", "ruler", "craft", "drink")
RIVAL = "rival"
HOUSES = tuple(itertools.product(COLOURS, FIGURES))

_ONSETS = ("Bel", "Dor", "Fen", "Gal", "Hol", "Kar", "Lum", "Mir", "Nov", "Pel", "Sar", "Tol", "Ven")
_ENDINGS = ("a", "en", "ik", "mo", "os", "ra", "sk", "ta", "um", "vi", "wyn", "ex")
NAMES = tuple(onset + ending for onset in _ONSETS for ending in _ENDINGS)  # 156, none of them a word of a question

# No document of these houses answers a question: they are there to be told apart.
OTHER_COLOURS = ("Black", "White")
OTHER_FIGURES = ("Moon", "Cross")

NUMBER_QUESTION = "What number is printed?"
CARD_QUESTION = "Which figure and number?"
BOX_QUESTION = "Box [{0}, {1}, {2}, {3}]: what number is printed?"
HOUSE_QUESTION = "What is the {relation} of the house with this emblem?"
EMBLEM_QUESTION = "Which colour and figure?"
READ_QUESTION = "Just read. {0}"
LOOK_QUESTION = "How does it look?"
LOOKS = {  # plain words, none of them a word of the protocol
    "rotation90": "tilted", "rotation180": "flipped", "dark": "dim", "overexposure": "pale", "blur": "soft",
    "noise": "grainy", "none": "clear",
}  # fmt: skip
REPEAT_QUESTION = "Repeat: {names}"
RIVAL_QUESTION = "What is the {relation} of the rival of the house with this emblem?"

THOUGHTS = {
    "problem": ("Look.", "Check.", "First look."),
    "code": ("Fix.", "Repair.", "Fix it."),
    "search": ("Search.", "Find it.", "Look up."),
    "answer": ("Read.", "Done.", "Answer."),
}
