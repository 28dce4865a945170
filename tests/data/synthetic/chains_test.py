import collections
import dataclasses

import numpy as np
import pytest

from arft_jax import protocol
from arft_jax.data import chat, system_prompts
from arft_jax.data.images import ImageProcessor
from arft_jax.data.synthetic import chains, coding, corpus, degrade, lexicon, search
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.protocol import Answer
from arft_jax.tools.bundled import BUNDLED, paper_syntax
from arft_jax.trajectory import Observation, ToolStatus

SYNTAX = paper_syntax()


def record(tasks, toolbox, seed, **options):
    return chains.record_chains(tasks, toolbox.begin, seed, SYNTAX, **options)


@pytest.fixture(scope="module")
def coding_tasks():
    return [coding.make_item(0, "train", i).task() for i in range(160)]


@pytest.fixture(scope="module")
def search_tasks():
    return [item.task() for item in search.make_items(0, "train", 160)]


@pytest.fixture(scope="module")
def toolbox(fakes):
    return fakes.FakeToolbox(corpus.make_documents(0))


@pytest.fixture(scope="module")
def recorded(coding_tasks, search_tasks, toolbox):
    return record([*coding_tasks, *search_tasks], toolbox, seed=0)


def action(turn):
    return SYNTAX.parse(turn.text)


def is_novice(chain):
    return chain.task.kind == "search" or chain.turns[0].train


def test_every_recorded_turn_is_well_formed(recorded):
    for chain in recorded:
        assert all(SYNTAX.is_well_formed(turn.text) for turn in chain.turns)
        assert [turn.observation is None for turn in chain.turns] == [False] * (len(chain.turns) - 1) + [True]
        assert isinstance(action(chain.turns[-1]), Answer)


def test_novices_learn_protocol_turns_and_readers_learn_answers(recorded):
    for chain in recorded:
        flags = [(getattr(action(turn), "tool", "answer"), turn.train) for turn in chain.turns]
        if chain.task.kind == "search":
            assert all(train for _, train in flags)
        else:
            wanted = {"diagnose": is_novice(chain), "python": True, "answer": not is_novice(chain)}
            assert all(train == wanted[kind] for kind, train in flags)


def test_a_chain_follows_from_its_seed(coding_tasks, toolbox, recorded):
    again = record(coding_tasks, toolbox, seed=0, in_flight=7)
    assert [[t.text for t in c.turns] for c in again] == [[t.text for t in c.turns] for c in recorded[:160]]
    other = record(coding_tasks[:40], toolbox, seed=1)
    assert [c.turns[0].text for c in other] != [c.turns[0].text for c in again[:40]]


def test_what_a_coding_novice_says_is_blind_to_image_and_problem(coding_tasks, toolbox):
    """Same places in the list, other tasks behind them: the learnt turns do not change by a letter."""
    plain = [t for t in coding_tasks if t.problems != ("crop",)]
    shuffled = plain[1:] + plain[:1]

    def learnt(tasks):
        return [[t.text for t in c.turns if t.train] for c in record(tasks, toolbox, 3, reading_frac=0)]

    assert learnt(plain) == learnt(shuffled)


def test_a_questions_box_changes_crop_code_alone(coding_tasks, toolbox):
    crops = [t for t in coding_tasks if t.problems == ("crop",)][:40]
    plain = [t for t in coding_tasks if t.problems != ("crop",)][: len(crops)]
    with_box = record(crops, toolbox, 3, reading_frac=0)
    without = record(plain, toolbox, 3, reading_frac=0)
    for a, b in zip(with_box, without, strict=True):
        assert a.turns[0].text == b.turns[0].text
        if "'crop'" not in a.turns[0].text and len(a.turns) == 3:
            assert a.turns[1].text == b.turns[1].text


def test_stated_problems_are_uniform_whatever_the_truth(coding_tasks, toolbox):
    """Chi-square of 16 sets over 1600 novice chains: 95 % below 25, certainly below 45 (15 degrees of freedom)."""
    simple = [dataclasses.replace(t, images=coding_tasks[0].images) for t in coding_tasks[:10]] * 160
    stated = collections.Counter()
    for i, task in enumerate(simple):
        stated[tuple(next(chains.script_of(task, i, 5, 0.0)).action.arguments["problems"])] += 1
    expected = len(simple) / 16
    assert len(stated) == 16
    assert sum((n - expected) ** 2 / expected for n in stated.values()) < 45


def test_novice_code_is_right_for_the_stated_problem_and_copies_the_box(recorded):
    for chain in recorded:
        if chain.task.kind == "coding" and is_novice(chain) and len(chain.turns) == 3:
            kinds = tuple(action(chain.turns[0]).arguments["problems"])
            source = action(chain.turns[1]).arguments["code"]
            box = chains.question_box(chain.task.question)
            boxes = [box] if box else coding.CELL_BOXES
            assert source in [degrade.repair_code(kinds, b) for b in boxes]


def test_readers_see_a_legible_picture_before_they_answer(recorded):
    """The last image shown differs from the unspoilt card by no more than its kind's repair leaves."""
    seen = 0
    for i, chain in enumerate(recorded[:160]):
        if not is_novice(chain):
            item = coding.make_item(0, "train", i)
            images = [image for turn in chain.turns[:-1] for image in turn.observation.images]
            shown = images[-1].pixels if images else chain.task.images[0].pixels
            clean = item.processed if item.kinds == ("crop",) else item.original
            assert np.abs(shown.astype(float) - clean).mean() < 45
            assert action(chain.turns[-1]).text == item.answers[0]
            seen += 1
    assert seen > 50


def test_what_a_search_novice_asks_for_is_blind_to_the_emblem(search_tasks, toolbox):
    def first_houses(tasks):
        recorded = record(tasks, toolbox, 3)
        return [action(c.turns[0]).arguments["query"].rsplit(" ", 1)[0] for c in recorded]

    assert first_houses(search_tasks) == first_houses(search_tasks[1:] + search_tasks[:1])
    assert len(set(first_houses(search_tasks))) == 16


def test_search_chains_ask_the_questions_relation_and_copy_what_came_back(recorded):
    worlds = {world.corpus: world for world in corpus.make_worlds(0, "train")}
    for chain in recorded[160:]:
        world = worlds[chain.task.corpus]
        *queries, answer = [action(turn) for turn in chain.turns]
        *house, word = queries[0].arguments["query"].split()
        if chain.task.split == "hard":
            assert word == lexicon.RIVAL
            *rival, word = queries[1].arguments["query"].split()
            assert tuple(rival) == world.rivals[tuple(house)]
            house = rival
        assert len(queries) == (2 if chain.task.split == "hard" else 1)
        assert f" {word} of " in chain.task.question
        assert answer.text == world.facts[tuple(house)][word]


def test_trimming_drops_what_no_loss_depends_on(recorded):
    for chain in recorded:
        trimmed = chain.trimmed()
        assert trimmed.turns[-1].train and trimmed.turns[-1].observation is None
        assert [t.text for t in trimmed.turns if t.train] == [t.text for t in chain.turns if t.train]


def test_a_tools_own_failure_stops_the_recording(coding_tasks, fakes):
    class Broken(fakes.FakeToolbox):
        def _answer(self, task, action, image):
            return Observation("no worker", status=ToolStatus.INFRA)

    with pytest.raises(RuntimeError, match="no worker"):
        record(coding_tasks[:1], Broken(), 0)


def test_chains_are_short_in_the_tiny_tokenizer(recorded):
    """Prompts under 60 tokens (9 of the image), coding chains under 190, two-hop chains under 200."""
    tokenizer, processor = Tokenizer.tiny(), ImageProcessor(7056, 7056)
    longest = collections.Counter()
    for chain in recorded:
        specs = [BUNDLED[name].spec for name in system_prompts.USUAL[chain.task.kind]]
        system = system_prompts.system_prompt(chain.task.kind, "short", specs, SYNTAX)
        prompt = chat.prompt_segment(tokenizer, processor, system, chain.task.question, chain.task.images)
        n = len(prompt.tokens)
        longest[chain.task.kind, "prompt"] = max(longest[chain.task.kind, "prompt"], n)
        for turn in chain.turns:
            n += len(tokenizer.encode(turn.text))
            if turn.observation is not None:
                n += len(chat.observation_segment(tokenizer, processor, turn.observation).tokens)
        longest[chain.task.kind, "chain"] = max(longest[chain.task.kind, "chain"], n)
    print(dict(longest))
    assert max(longest["coding", "prompt"], longest["search", "prompt"]) < 60
    assert longest["coding", "chain"] < 190 and longest["search", "chain"] < 200


def test_practice_speaks_no_word_of_the_protocols_choices():
    practice = chains.practice_chains(0, 60, SYNTAX)
    assert len(practice) == 60
    questions = collections.Counter(chain.task.question.split()[0] for chain in practice)
    assert questions["How"] == 20 and questions["Repeat:"] == 10 and questions["Just"] == 20
    for chain in practice:
        [turn] = chain.turns
        assert turn.train and isinstance(action(turn), Answer)
        words = set(turn.text.replace("<", " ").replace(">", " ").split())
        assert not words & {*protocol.KINDS, "problem", "code", "search"}


def test_the_look_of_a_card_is_described_by_its_kinds():
    for task in coding.look_tasks(seed=0, n=30):
        assert task.answers == (" ".join(lexicon.LOOKS[kind] for kind in task.problems),)


def test_practice_shows_no_image_of_the_data_sets():
    shown = {image.sha256 for chain in chains.practice_chains(0, 120, SYNTAX) for image in chain.task.images}
    items = [coding.make_item(0, split, i).task() for split in ("train", "test") for i in range(100)]
    items += [item.task() for split in ("train", "test") for item in search.make_items(0, split, 100)]
    assert not shown & {image.sha256 for task in items for image in task.images}


def test_no_question_of_the_data_sets_is_practised_without_the_protocol():
    practised = {chain.task.question for chain in chains.practice_chains(0, 300, SYNTAX)}
    items = [coding.make_item(0, "train", i).task() for i in range(200)]
    items += [item.task() for item in search.make_items(0, "train", 200)]
    assert not practised & {task.question for task in items}
