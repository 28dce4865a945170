"""Import paths: what they give, and one sentence for each that gives nothing."""

import sys

import pytest

from arft_jax.io.import_path import load_object


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory of modules that is the current one and is on no path yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part])
    (tmp_path / "ip_good.py").write_text("class Box:\n    size = 3\n\ndef turns(trajectory, task):\n    return 1\n")
    (tmp_path / "ip_broken.py").write_text("import json\n\n1 /\n")
    (tmp_path / "ip_raises.py").write_text("raise RuntimeError('no\\nlicence')\n")
    yield tmp_path
    for name in ("ip_good", "ip_broken", "ip_raises"):
        sys.modules.pop(name, None)


def test_a_module_of_the_current_directory_is_found(here):
    assert load_object("ip_good:turns", "config.k")(None, None) == 1
    assert load_object("ip_good:Box.size", "config.k") == 3
    assert sys.path.count(str(here)) == 1 and sys.path[-1] == str(here)


REFUSALS = {
    "no colon": ("ip_good.turns", r"of the form my_package.my_module:name: got 'ip_good.turns' \(config.k\)$"),
    "no name": ("ip_good:", r"got 'ip_good:' \(config.k\)$"),
    "no text": (7, r"got 7 \(config.k\)$"),
    "a file": ("dir/ip_good.py:turns", "of the form my_package.my_module:name"),
    "no module": ("ip_gone:f", r"ip_gone must be importable: got ModuleNotFoundError: No module .* \(config.k\)$"),
    "a syntax error": ("ip_broken:f", r"ip_broken must be importable: got SyntaxError: .* \(config.k\)$"),
    "an import that raises": ("ip_raises:f", r"got RuntimeError: no licence, for 'ip_raises:f' \(config.k\)$"),
    "a misspelt name": ("ip_good:turn", r"has no such name, for .* \(config.k\); did you mean ip_good:turns\?$"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_gives_nothing_is_one_sentence_with_the_key(here, case):
    path, sentence = REFUSALS[case]
    with pytest.raises(ValueError, match=sentence) as error:
        load_object(path, "config.k")
    assert "\n" not in str(error.value)
