"""The published figures: typed rightly, as far as they check one another."""

import pytest

from arft_jax.evaluate import published

HALVES = {"mat_coding": (70, 130), "mat_search": (75, 75)}
ROUNDING = 0.03  # of three cells of two digits; some cells have one


def test_eleven_systems_stand_in_the_papers_order():
    for benchmark in HALVES:
        rows = published.rows_of(benchmark)
        assert len(rows) == 11 and [row.system for row in rows if row.tools] == [
            "OpenAI-o3", "Qwen2.5-VL-3B + Visual-ARFT", "Qwen2.5-VL-7B + Visual-ARFT",
        ]  # fmt: skip
    assert published.rows_of("mini_coding") == ()
    best = published.rows_of("mat_search")[-1].figures["mat_search"]
    assert best == {
        "simple": {"f1": 71.78, "em": 66.67}, "hard": {"f1": 55.77, "em": 44.0}, "avg": {"f1": 63.77, "em": 55.33},
    }  # fmt: skip


@pytest.mark.parametrize("benchmark", HALVES)
@pytest.mark.parametrize("measure", ["f1", "em"])
def test_an_average_is_that_of_its_halves(benchmark, measure):
    """(n_simple * simple + n_hard * hard) / n, but for o3 on MAT-Coding, which answered a part of the items."""
    n_simple, n_hard = HALVES[benchmark]
    off = []
    for row in published.rows_of(benchmark):
        figures = row.figures[benchmark]
        mean = (n_simple * figures["simple"][measure] + n_hard * figures["hard"][measure]) / (n_simple + n_hard)
        if abs(mean - figures["avg"][measure]) > ROUNDING:
            off.append(row.system)
    assert off == (["OpenAI-o3"] if benchmark == "mat_coding" else [])
