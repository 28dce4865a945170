"""The log of requests: whole lines alone, one file of several processes, and what it says of costs."""

import pytest

from arft_jax.remote import log
from arft_jax.remote.costs import Meter


def line(number, outcome="reply", usage=True):
    tokens = dict(prompt_tokens=10, cached_tokens=0, completion_tokens=number, reasoning_tokens=0)
    return {"item": number, "outcome": outcome, "model": "m", "usage": tokens if usage else None}


def write(folder, *lines, process=None):
    requests = log.RequestLog(folder, process)
    for record in lines:
        requests.write(record)
    requests.close()


def test_a_line_that_a_kill_cut_short_is_dropped_before_the_next(tmp_path):
    write(tmp_path, line(1))
    with open(tmp_path / "requests.jsonl", "a") as file:
        file.write('{"item": 2, "outc')
    assert [record["item"] for record in log.read_log(tmp_path)] == [1]
    write(tmp_path, line(3))
    assert [record["item"] for record in log.read_log(tmp_path)] == [1, 3]


def test_the_logs_of_processes_become_one(tmp_path):
    write(tmp_path, line(1))
    write(tmp_path, line(2), process=0)
    write(tmp_path, line(3), line(4), process=1)
    assert sorted(record["item"] for record in log.read_log(tmp_path)) == [1, 2, 3, 4]
    part = (tmp_path / "requests.1.jsonl").read_bytes()
    log.join_logs(tmp_path)
    (tmp_path / "requests.1.jsonl").write_bytes(part)  # as if the process had ended before it was deleted
    log.join_logs(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["requests.jsonl"]
    assert [record["item"] for record in log.read_log(tmp_path)] == [1, 2, 3, 4]


def test_a_log_that_is_none_is_refused(tmp_path):
    (tmp_path / "requests.jsonl").write_text('{"a": 1}\n[]\n')
    with pytest.raises(ValueError, match="line 2 is none"):
        list(log.read_log(tmp_path))


@pytest.mark.parametrize(
    "outcome, usage, unknown",
    [("reply", True, 0), ("reply", False, 1), ("refused", False, 0), ("failed", False, 0), ("lost", False, 1),
     ("unreadable", True, 0), ("unreadable", False, 1), ("cut", False, 1)],
)  # fmt: skip
def test_it_is_counted_whose_cost_is_not_known(outcome, usage, unknown):
    meter = Meter({"m": (1.0, 1.0)})
    log.count(meter, line(5, outcome, usage))
    total = meter.totals()["m"]
    assert (total["requests"], total["replies"], total["unknown"]) == (1, int(outcome == "reply"), unknown)
    assert total["prompt_tokens"] == (10 if usage else 0)
