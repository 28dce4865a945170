import numpy as np

from arft_jax.data.synthetic import draw


def rng(seed=0):
    return np.random.default_rng(seed)


def test_a_card_follows_from_its_rng():
    card = draw.Card("Red", "Star", 47)
    np.testing.assert_array_equal(draw.draw_card(card, rng(3)), draw.draw_card(card, rng(3)))
    assert (draw.draw_card(card, rng(3)) != draw.draw_card(card, rng(4))).any()


def test_sizes_are_those_stated():
    cards = tuple(draw.random_card(rng(i)) for i in range(4))
    assert draw.draw_card(cards[0], rng()).shape == (84, 84, 3)
    assert draw.draw_sheet(cards, rng()).shape == (168, 168, 3)
    assert draw.draw_emblem("Blue", "Circle", rng()).shape == (84, 84, 3)


def test_every_figure_colour_and_number_looks_different():
    seen = {draw.draw_card(draw.Card(c, f, 10), rng()).tobytes() for c in draw.COLOURS for f in draw.FIGURES}
    seen |= {draw.draw_card(draw.Card("Red", "Star", n), rng()).tobytes() for n in range(11, 100)}
    assert len(seen) == 16 + 89
    emblems = {draw.draw_emblem(c, f, rng()).tobytes() for c in draw.COLOURS for f in draw.FIGURES}
    assert len(emblems) == 16


def test_the_figure_stands_in_the_upper_part_and_the_number_below():
    for seed in range(20):
        pixels = draw.draw_card(draw.Card("Red", "Square", 88), rng(seed)).astype(int)
        red = (pixels[:, :, 0] - pixels[:, :, 1] > 100).nonzero()[0]
        black = (pixels.max(axis=2) < 60).nonzero()[0]
        assert red.max() < 36 < black.min() and black.max() <= 83


def test_nothing_touches_the_edge_of_a_card():
    for seed in range(50):
        pixels = draw.draw_card(draw.random_card(rng(seed)), rng(seed))
        edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (edge == edge[0]).all()
