import json

import pytest

from arft_jax.data.pipeline import task_stream


def take(stream, n):
    return [int(next(stream)) for _ in range(n)]


def test_every_epoch_is_another_order_of_all_tasks():
    stream = task_stream(20, seed=1)
    first, second = take(stream, 20), take(stream, 20)
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second


def test_order_follows_from_the_seed():
    assert take(task_stream(50, 1), 120) == take(task_stream(50, 1), 120)
    assert take(task_stream(50, 1), 50) != take(task_stream(50, 2), 50)


@pytest.mark.parametrize("n_before", [0, 3, 20, 33])
def test_resumed_stream_goes_on_exactly(n_before):
    stream = task_stream(20, seed=5)
    take(stream, n_before)
    state = json.loads(json.dumps(stream.get_state()))
    expected = take(stream, 45)
    resumed = task_stream(20, seed=5)
    resumed.set_state(state)
    assert take(resumed, 45) == expected


def test_no_tasks_is_refused():
    with pytest.raises(ValueError, match="n_tasks"):
        task_stream(0, 0)
