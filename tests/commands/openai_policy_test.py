"""Evaluations of a model behind a server, by the command: answers, costs, files, the budget, the key, bad input."""

import collections
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import PIL.Image
import pytest

pytest.importorskip("openai", reason="needs the openai package, of the [openai] extra")

from arft_jax.commands.cli import evaluate as cli
from arft_jax.config import default_config
from arft_jax.io.trajectories import load_trajectories
from arft_jax.testing.chat_server import FAULTS, ChatServer, ErrorReply, images_of, openai_error, question_of
from arft_jax.train.run_dir import RunDir

# ml_collections loads a config file by a way that Python 3.12 no longer has.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

KEY = "sk-test-0123456789abcdef"
PRICE = (2.5, 10.0, 1.25)


def write_items(folder, n, images=True, kind="general"):
    """A task set of n test items, each with a question of its own whose answer is its number."""
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(folder / "photo.png")
    item = dict(kind=kind, images=["photo.png"] if images else [], answers="x", split="train", question="Which?")
    lines = [item | {"id": "train"}]
    for i in range(n):
        lines.append(item | {"id": f"i{i}", "question": f"What is {i}?", "answers": str(i), "split": "test"})
    (folder / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "items.jsonl"


def number_in(body):
    return re.search(r"What is (\d+)\?", question_of(body))[1]


def flags(server, items, out, *more):
    return [
        "--config=tiny_cpu:smoke", "--policy=openai", "--benchmark=items", f"--out={out}",
        "--config.warm_start.steps=0", f"--config.data.tasks=('jsonl:{items}',)",
        f"--config.openai.base_url={server.url}",
        "--config.openai.model=gpt-4o", f"--config.openai.prices={{'gpt-4o': {PRICE}}}",
        "--config.openai.backoff_s=0.001", "--config.openai.timeout_s=10", "--config.eval.bootstrap=50", *more,
    ]  # fmt: skip


PLAIN = ("--tools=off", "--config.openai.prompt=plain")


def predictions(out):
    return {r["id"]: r for r in map(json.loads, (out / "items" / "predictions.jsonl").read_text().splitlines())}


def requests(out):
    return [json.loads(line) for line in (out / "requests.jsonl").read_text().splitlines()]


def check_costs(out, server):
    """The costs in the results are those of the server's own count; returns them."""
    total = json.loads((out / "results.json").read_text())["costs"]["gpt-4o"]
    assert {name: total[name] for name in server.spent} == dict(server.spent)
    fresh = server.spent["prompt_tokens"] - server.spent["cached_tokens"]
    parts = (fresh, server.spent["completion_tokens"], server.spent["cached_tokens"])
    assert total["dollars"] == pytest.approx(sum(n * price for n, price in zip(parts, PRICE, strict=True)) / 1e6)
    assert total["requests"] == server.n_requests == len(requests(out))
    return total


def check_once(out, server, n):
    """Every item was answered once, and asked again only where a fault had ended the try before."""
    found = predictions(out)
    assert sorted(found) == list(range(1, n + 1)) and all(r["em"] == 1.0 for r in found.values())
    assert len(server.answered) == n and set(server.answered.values()) == {1}
    by_item = collections.defaultdict(list)
    for line in requests(out):
        by_item[line["item"]].append(line["outcome"])
    assert all(outcomes.count("reply") == 1 and outcomes[-1] == "reply" for outcomes in by_item.values())


@pytest.fixture
def items(tmp_path):
    return write_items(tmp_path / "data", 12)


# ------------------------------------------------------------- what is asked


def test_a_hundred_items_of_a_server_that_fails_in_every_way_are_answered_once(tmp_path, capsys):
    items = write_items(tmp_path / "data", 100, images=False)
    quick = [fault for fault in FAULTS if fault not in ("timeout", "drip")]
    bad = iter(["timeout", "drip", *[*quick, "429:0.01", "429:date:0"] * 4])

    def faults(number):  # every second request fails, until there are no more ways
        return next(bad, None) if number % 2 else None

    with ChatServer(number_in, faults=faults, slow_s=9.0, keep_bodies=False) as server:
        # A reply that comes too late has its cost, which is not known here: wait long enough for a busy machine.
        assert cli.main(flags(server, items, tmp_path / "out", *PLAIN, "--config.openai.timeout_s=3")) == 0
    assert server.n_faults.total() == 46 and len(server.n_faults) == 13
    check_once(tmp_path / "out", server, 100)
    total = check_costs(tmp_path / "out", server)
    assert total["replies"] == 100 and total["unknown"] > 0
    printed = capsys.readouterr().out
    assert re.search(r"items 100/100  F1 100.0  EM 100.0  infra 0  .*  \$0.\d\d\n", printed)
    assert f"gpt-4o: {total['requests']} requests, {total['prompt_tokens']} tokens in" in printed
    assert f"the cost of {total['unknown']} requests is not known" in (tmp_path / "out" / "table.md").read_text()


def test_an_agent_meets_its_tools_and_sees_every_picture(items, tmp_path):
    def answer(body):
        if len(body["messages"]) == 2:
            return '<think>closer</think><crop>{"box": [0, 0, 500, 500]}</crop>and more'
        return f"<think>seen</think><answer>{number_in(body)}</answer>"

    more = ("--config.tools.offer=('crop',)", "--config.openai.images=whole", "--config.system_prompt=full")
    with ChatServer(answer) as server:
        assert cli.main(flags(server, items, tmp_path / "out", *more)) == 0
    [body] = [body for body in server.asked if number_in(body) == "7" and len(body["messages"]) == 4]
    system, question, turn, seen = body["messages"]
    assert "<crop>" in system["content"] and turn["content"].endswith("</crop>")
    assert question["content"][1] == {"type": "text", "text": "What is 7?"}
    assert seen["role"] == "user" and len(images_of(body)) == 2
    assert body["temperature"] == 0.0 and body["max_tokens"] == 96  # config.rollout.max_turn_tokens
    played = load_trajectories(tmp_path / "out" / "items" / "trajectories")
    assert len(played) == 12
    for trajectory in played:
        [picture] = trajectory.turns[0].observation.images
        assert picture.name == "image_2" and picture.size == (20, 30) and trajectory.info["model"].startswith("gpt-4o")
        assert trajectory.rewards["em"] == 1.0 and trajectory.info["usage"]["prompt_tokens"] > 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["system"] == "gpt-4o" and record["policy"] == {"server": "openai", "model": "gpt-4o"}
    assert record["base_url"] == server.url and "openai.base_url" not in record["config"]


def test_a_run_gives_its_configuration_and_needs_no_checkpoint(items, tmp_path):
    config = default_config()
    config.workdir, config.data.tasks, config.warm_start.steps = str(tmp_path / "run"), (f"jsonl:{items}",), 0
    RunDir(config)
    with ChatServer(number_in) as server:
        _, *asked = flags(server, items, tmp_path / "out", *PLAIN, "--limit=2")
        asked = [f"--workdir={tmp_path / 'run'}", *(flag for flag in asked if "warm_start" not in flag)]
        assert cli.main(asked) == 0
    assert len(predictions(tmp_path / "out")) == 2
    check_costs(tmp_path / "out", server)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]  # a run is left as it is


@pytest.mark.parametrize(
    "model, more",
    [
        ("o3", ["--config.openai.max_tokens_name=max_completion_tokens", "--config.openai.temperature=-1"]),
        ("xcomposer", []),
    ],
)
def test_the_models_of_the_table_are_asked_in_their_own_form(items, tmp_path, capsys, model, more):
    with ChatServer(number_in) as server:
        asked = flags(server, items, tmp_path / "out", *PLAIN, f"--config.openai.model={model}", *more)
        assert cli.main([*asked, "--config.openai.extra={'seed': 3}"]) == 0
    assert len(predictions(tmp_path / "out")) == 12 and server.asked[0]["seed"] == 3
    assert question_of(server.asked[0]).endswith("\nAnswer with a word or a short phrase, and write nothing else.")
    assert [message["role"] for message in server.asked[0]["messages"]] == ["user"]
    assert f"{model}: 12 requests" in (printed := capsys.readouterr().out) and "at an unknown price" in printed
    total = json.loads((tmp_path / "out" / "results.json").read_text())["costs"][model]
    assert total["reasoning_tokens"] == (12 * 64 if model == "o3" else 0) and total["dollars"] is None


def test_refusals_are_answers_and_requests_that_are_refused_have_a_reason(items, tmp_path):
    def answer(body):
        number = int(number_in(body))
        if number == 1:
            return {"text": None, "refusal": "I'm sorry, I can't help with that."}
        if number == 2:
            return {"text": "", "finish": "content_filter"}
        if number == 3:
            raise openai_error(400, "maximum context length is 10 tokens", "context_length_exceeded")
        if number == 4:
            raise openai_error(400, "Your request was rejected by our safety system", "content_policy_violation")
        return str(number)

    with ChatServer(answer) as server:
        assert cli.main(flags(server, items, tmp_path / "out", *PLAIN)) == 0
    found = predictions(tmp_path / "out")
    assert {i: (found[i]["status"], found[i]["f1"]) for i in range(2, 6)} == {
        2: ("no_action", 0.0), 3: ("no_action", 0.0), 4: ("tokens", 0.0), 5: ("no_action", 0.0),
    }  # fmt: skip
    assert found[2]["reason"] == "the model declined: I'm sorry, I can't help with that."
    assert (
        found[4]["reason"].startswith("the server declined: status 400: maximum context") and "reason" not in found[6]
    )
    assert len(server.asked) == 12  # none of them twice


def test_a_template_of_ones_own_and_blank_pictures(items, tmp_path, capsys):
    (tmp_path / "prompt.txt").write_text("Q: {question}\nA:\n")
    own = f"--config.openai.prompt=file:{tmp_path / 'prompt.txt'}"
    with ChatServer(number_in) as server:
        shown = flags(server, items, tmp_path / "shown", "--tools=off", own)
        assert cli.main([*shown, "--limit=4"]) == 0 and len(server.asked) == 4
        assert cli.main([*shown, "--limit=4"]) == 0 and len(server.asked) == 4  # nothing is asked again
        assert question_of(server.asked[0]).startswith("Q: What is ")
        blank = flags(server, items, tmp_path / "blank", "--tools=off", own, "--image=blank")
        assert cli.main([*blank, f"--compare={tmp_path / 'shown'}"]) == 0
    assert "gpt-4o, blank images" in (printed := capsys.readouterr().out) and "difference to gpt-4o, 4 items" in printed
    assert len({images_of(body)[0] for body in server.asked}) == 2


def test_an_item_that_the_server_never_answers_is_named_and_tried_again_later(items, tmp_path, capsys):
    broken = True

    def answer(body):
        if broken and number_in(body) == "5":
            raise ErrorReply(503, {"detail": "overloaded"})
        return number_in(body)

    with ChatServer(answer) as server:
        asked = flags(server, items, tmp_path / "out", *PLAIN, "--config.openai.n_tries=2", "--config.eval.attempts=2")
        assert cli.main(asked) == 1
        assert [line["try"] for line in requests(tmp_path / "out") if line["item"] == 6] == [1, 2, 1, 2]
        assert "i5: the server did not answer: status 503: overloaded (2 tries)" in capsys.readouterr().out
        broken = False
        assert cli.main(asked) == 0
    check_once(tmp_path / "out", server, 12)


# ------------------------------------------------------------- budget, signals, key


def test_a_budget_stops_it_and_a_larger_one_goes_on_with_the_costs_of_both(items, tmp_path, capsys):
    with ChatServer(number_in) as server:
        asked = flags(server, items, tmp_path / "out", *PLAIN, "--config.openai.concurrency=1")
        # about 107 tokens of a prompt, half of them cached, and 1 of the reply: some $0.0002 an item
        assert cli.main([*asked, "--config.openai.budget_dollars=0.001"]) == 3
        n = len(predictions(tmp_path / "out"))
        assert 3 <= n < 9 and server.n_requests == n
        err = capsys.readouterr().err
        assert (
            "the budget of 0.001 dollars (config.openai.budget_dollars) is spent" in err and f"gpt-4o: {n} req" in err
        )
        assert cli.main([*asked, "--config.openai.budget_dollars=0.001"]) == 3 and server.n_requests == n
        assert cli.main([*asked, "--config.openai.budget_tokens=100000"]) == 0
        check_once(tmp_path / "out", server, 12)
        check_costs(tmp_path / "out", server)
    assert server.n_requests == 12


def test_a_signal_ends_it_behind_an_item_and_nothing_is_asked_twice(items, tmp_path, capsys):
    together = threading.Barrier(4, timeout=30)  # four replies are under way when the signal comes

    def answer(body):
        if server.n_requests <= 4 and together.wait() == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return number_in(body)

    with ChatServer(answer) as server:
        asked = flags(server, items, tmp_path / "out", *PLAIN, "--config.openai.concurrency=4")
        assert cli.main(asked) == 128 + signal.SIGTERM
        before = [line["item"] for line in requests(tmp_path / "out") if line["outcome"] == "reply"]
        assert sorted(before) == sorted(predictions(tmp_path / "out")) and 0 < len(before) < 12
        assert cli.main(asked) == 0
    replies = [line["item"] for line in requests(tmp_path / "out") if line["outcome"] == "reply"]
    assert sorted(replies) == list(range(1, 13))


def test_the_key_is_in_no_file_and_in_nothing_that_is_printed(items, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("SOME_KEY", KEY)

    def answer(body):
        if number_in(body) == "3":
            raise ErrorReply(400, {"error": {"message": f"rejected: Authorization: Bearer {KEY}", "code": KEY}})
        return f"{KEY} {number_in(body)}"

    with ChatServer(answer, faults=lambda number: "500" if number % 3 == 0 else None, key=KEY) as server:
        asked = flags(server, items, tmp_path / "out", *PLAIN, "--config.openai.key_env=SOME_KEY")
        assert cli.main(asked) == 1
        server.key = "another"
        assert cli.main([*asked[:3], f"--out={tmp_path / 'refused'}", *asked[4:]]) == 2
    texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    out, err = capfd.readouterr()
    assert "error: the server must take the key: got Incorrect API key provided: Bearer [redacted]" in err
    assert "Bearer [redacted]" in (tmp_path / "out" / "requests.jsonl").read_text()
    assert predictions(tmp_path / "out")[1]["pred_answer"] == "[redacted] 0"
    assert len(texts) > 5 and not any(KEY.encode() in text for text in texts) and KEY not in out + err


# ------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "more, sentence",
    [
        (["--config.openai.model="], "a model must be named: got none (config.openai.model)"),
        (["--config.openai.model=gpt-5o"], "model must be one that the server has: got 'gpt-5o'"),
        (["--config.openai.base_url=http://127.0.0.1:{port}"], "a server must answer: got "),
        (
            ["--config.openai.base_url=http://h:x/"],
            "base_url must be http://host... or https://host...: got 'http://h:x/'",
        ),
        (["--config.openai.base_url=https://me:pw@h/v1"], "base_url must carry no user or password"),
        (["--config.openai.base_url=h/v1"], "base_url must begin with http:// or https://: got 'h/v1'"),
        (
            ["--config.openai.base_url=https://example.org/v1", "--config.openai.key_env=NO_KEY"],
            "the environment variable NO_KEY must hold the server's key: it is not set",
        ),
        (["--config.openai.key_env=ODD_KEY"], "ODD_KEY must hold printable ASCII without spaces"),
        (["--tools=on"], "tools must be off where the prompt does not announce them: got prompt='plain' (--tools=off"),
        (["--config.openai.prompt=shortly"], "or a text with {question}: got 'shortly' (config.openai.prompt)"),
        (["--config.openai.prompt=file:/nowhere"], "a prompt must be a readable file: got /nowhere"),
        (["--out="], "a folder must be given where no run is evaluated: got none (--out)"),
        (["--config.openai.prices={'m': 1.0}"], "prices must be of the form"),
        (["--config.openai.extra={'model': 'm'}"], "extra must hold no field that other keys set: got 'model'"),
        (["--config.openai.prices={}", "--config.openai.budget_dollars=1"], "prices must have that of the model"),
        (["--config.openai.stops=never"], "stops must be cut or send: got 'never' (config.openai.stops)"),
        (["--config.openai.concurrency=0"], "concurrency must be at least 1: got 0 (config.openai.concurrency)"),
        (["--config.openai.timeout_s=0"], "timeout_s must be above 0: got 0.0 (config.openai.timeout_s)"),
        (["--config.rollout.max_image_pixels=10"], "i0: 1 images of"),
    ],
)
def test_bad_input_is_one_sentence_before_any_item_is_asked(items, tmp_path, capsys, monkeypatch, more, sentence):
    monkeypatch.setenv("ODD_KEY", "two words")
    monkeypatch.delenv("NO_KEY", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    with ChatServer(number_in) as server:
        asked = flags(server, items, tmp_path / "out", *PLAIN, *(word.replace("{port}", str(port)) for word in more))
        assert cli.main(asked) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.startswith("error: ") and err.count("\n") == 1 and server.asked == []


def test_a_package_that_is_not_installed_is_named(items, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with ChatServer(number_in) as server:
        assert cli.main(flags(server, items, tmp_path / "out", *PLAIN)) == 2
    assert "the openai package must be installed: pip install 'arft_jax[openai]' (--policy" in capsys.readouterr().err


def test_a_model_that_takes_no_images_is_one_sentence(items, tmp_path, capsys):
    def answer(body):
        raise openai_error(400, "Invalid content type. image_url is only supported by certain models.")

    with ChatServer(answer) as server:
        assert cli.main(flags(server, items, tmp_path / "out", *PLAIN, "--config.openai.concurrency=1")) == 2
    err = capsys.readouterr().err
    assert "model must take images: got status 400: Invalid content type." in err and err.count("\n") == 1
    assert len(server.asked) == 1 and predictions(tmp_path / "out") == {}


def test_another_way_of_asking_is_refused_in_the_same_folder(items, tmp_path, capsys):
    with ChatServer(number_in) as server:
        assert cli.main(flags(server, items, tmp_path / "out", *PLAIN, "--limit=1")) == 0
        for more, difference in (
            ("--config.openai.model=o3", "model='gpt-4o' there and 'o3' here"),
            ("--config.openai.temperature=1", "config.openai.temperature=0.0 there and 1.0 here"),
            ("--config.openai.prompt={question}", "config.openai.prompt='plain' there"),
        ):
            assert cli.main(flags(server, items, tmp_path / "out", *PLAIN, "--limit=1", more)) == 2
            assert difference in capsys.readouterr().err
        assert cli.main(flags(server, items, tmp_path / "out", *PLAIN, "--config.openai.concurrency=2")) == 0


# ------------------------------------------------------------- slow


def start(*asked):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "arft_jax", "evaluate", *asked]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_five_thousand_items_of_a_server_that_fails_in_every_way(tmp_path):
    """One request in four fails, in every way in turn; prints how long it took and the largest resident set."""
    n, items = 5000, write_items(tmp_path / "data", 5000)
    ways = [*FAULTS, "429:0.2", "429:date:0"]
    with ChatServer(
        number_in, faults=lambda k: ways[(k // 4) % len(ways)] if k % 4 == 3 else None, slow_s=40.0, keep_bodies=False
    ) as server:
        begin = time.perf_counter()
        more = ("--config.openai.timeout_s=15", "--config.openai.concurrency=64", "--config.openai.backoff_s=0.05")
        process = start(*flags(server, items, tmp_path / "out", *PLAIN, *more))
        printed = process.communicate(timeout=1700)[0]
        took_s = time.perf_counter() - begin
    assert process.returncode == 0, printed
    rss_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    check_once(tmp_path / "out", server, n)
    total = check_costs(tmp_path / "out", server)
    print(f"{n} items, {server.n_requests} requests, {server.n_faults.total()} faults: {took_s:.0f} s, {rss_mb:.0f} MB")
    print(total)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_killed_at_half_asks_no_answered_item_again(tmp_path):
    items = write_items(tmp_path / "data", 200)
    out, waits = tmp_path / "out", [True]

    def answer(body):
        time.sleep(0.05 * waits[0])
        return number_in(body)

    with ChatServer(answer) as server:
        asked = flags(server, items, out, *PLAIN, "--config.openai.concurrency=4")
        process, file = start(*asked), out / "items" / "predictions.jsonl"
        try:
            while not file.exists() or file.read_bytes().count(b"\n") < 100:
                assert process.poll() is None, process.communicate()[0]
                time.sleep(0.01)
        finally:
            process.kill()  # SIGKILL
            process.communicate()
        whole = file.read_bytes().rpartition(b"\n")[0].splitlines()
        before = {json.loads(line)["id"] for line in whole}
        n_before, waits[0] = len(requests(out)), False
        process = start(*asked)
        printed = process.communicate(timeout=300)[0]
        assert process.returncode == 0, printed
    assert file.read_bytes().splitlines()[: len(whole)] == whole
    assert sorted(predictions(out)) == list(range(1, 201))
    assert not before & {line["item"] for line in requests(out)[n_before:]}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_ask_their_shares_and_share_the_budget(tmp_path):
    items = write_items(tmp_path / "data", 12)
    out = tmp_path / "out"

    def run(server, *more):
        with socket.socket() as found:
            found.bind(("localhost", 0))
            port = found.getsockname()[1]
        ways = [
            f"--config.distributed.{key}" for key in ("enabled=True", f"coordinator=localhost:{port}", "n_processes=2")
        ]
        asked = flags(server, items, out, *PLAIN, "--config.openai.concurrency=1", *more, *ways)
        processes = [start(*asked, f"--config.distributed.process={k}") for k in range(2)]
        try:
            printed = [process.communicate(timeout=300)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        return [process.returncode for process in processes], printed

    with ChatServer(number_in) as server:
        codes, printed = run(server, "--config.openai.budget_dollars=0.001")
        assert codes == [3, 3], printed
        n = server.n_requests
        assert 4 <= n < 10 and len(predictions(out)) == n
        codes, printed = run(server)
        assert codes == [0, 0], printed
    check_once(out, server, 12)
    check_costs(out, server)
    assert [path.name for path in out.glob("requests*")] == ["requests.jsonl"]


def test_a_search_index_of_a_set_that_is_not_asked_is_not_needed(tmp_path):
    (tmp_path / "items.corpus.jsonl").write_text('{"title": "Fox", "text": "A fox is red."}\n')
    path = write_items(tmp_path, 2, kind="search")
    turns = {1: "<think>t</think><search>fox</search>", 2: "<think>t</think><answer>red</answer>"}
    with ChatServer(lambda body: turns[sum(m["role"] == "user" for m in body["messages"])]) as server:
        words = [word for word in flags(server, path, tmp_path / "out") if "data.tasks" not in word]
        words += [f"--config.data.tasks=('mini_search', 'jsonl:{path}')", f"--config.data.dir={tmp_path}"]
        assert cli.main(words) == 0
        found = [m["content"] for body in server.asked for m in body["messages"][2:] if m["role"] == "user"]
    assert found and all("A fox is red." in text for text in found)
    assert not list(tmp_path.glob("mini_search*"))
