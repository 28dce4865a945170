"""Asks a trained agent one question over one image and prints the trajectory.

    python launch/agent.py --config=configs/tiny_cpu.py --image=card.png --question="What number is printed?"

The policy is the newest checkpoint of the config's work directory; the tools are the training's own. ``--kind``
chooses the agent (coding or search); ``--html=FILE`` writes the trajectory as a page. Bad input: one
sentence, exit status 2.
"""

import sys

from absl import flags

from arft_jax.commands import config_flag

_CONFIG = config_flag.define_config()
_IMAGE = flags.DEFINE_string("image", None, "Image file.")
_QUESTION = flags.DEFINE_string("question", None, "What to ask.")
_KIND = flags.DEFINE_enum("kind", "coding", ("coding", "search"), "Which agent answers.")
_CORPUS = flags.DEFINE_string("corpus", "", "Search only this collection of the index; empty: all of it.")
_INDEX = flags.DEFINE_string("index", "", "Search index; empty: the run's own.")
_TEMPERATURE = flags.DEFINE_float("temperature", 0.0, "0 is greedy.")
_MAX_TOKENS = flags.DEFINE_integer("max_tokens", 2048, "Tokens of the trajectory, prompt included.")
_HTML = flags.DEFINE_string("html", "", "Also write a page to this file.")


def main(argv: list[str]) -> None:
    try:
        if len(argv) > 1:
            raise ValueError(f"every argument must be a --flag=value: got {argv[1]!r}")
        for flag in (_CONFIG, _IMAGE, _QUESTION):
            if not flag.value:
                raise ValueError(f"--{flag.name} must be given")
        from arft_jax import agent  # after the flags: bad input costs no import of jax

        agent.ask(
            _CONFIG.value,
            image=_IMAGE.value,
            question=_QUESTION.value,
            kind=_KIND.value,
            corpus=_CORPUS.value,
            index=_INDEX.value,
            temperature=_TEMPERATURE.value,
            max_tokens=_MAX_TOKENS.value,
            html=_HTML.value,
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    config_flag.run(main)
