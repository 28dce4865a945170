"""Every notebook runs from top to bottom on a run directory; none is stored with outputs."""

import json
import pathlib
import sys
import types

import pytest

NOTEBOOKS = sorted((pathlib.Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


def code_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture
def shown(monkeypatch):
    """Stands in for IPython.display, which only notebooks need; a list of what was displayed."""
    found = []
    display = types.ModuleType("IPython.display")
    display.display = found.append
    display.HTML = display.Image = lambda data: data
    package = types.ModuleType("IPython")
    package.version_info = (9, 0, 0)  # matplotlib asks
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return found


def test_reading_a_run_shows_its_table_plot_and_trajectories(finished_run, shown, monkeypatch, capsys, repo_root):
    _, directory = finished_run
    monkeypatch.setenv("ARFT_RUN", str(directory.path))
    scope = {}
    for cell in code_cells(repo_root / "notebooks" / "read_a_run.ipynb"):
        exec(compile("".join(cell["source"]), "read_a_run.ipynb", "exec"), scope)
    printed = capsys.readouterr().out
    assert "tiny & small" in printed and "[+100.00, +100.00]" in printed
    assert "mini_coding: 6 gained, 0 lost, 0 the same" in printed
    plot, page = shown
    assert plot.startswith(b"\x89PNG")
    assert page.count("&lt;article") == 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_stored_without_outputs(path):
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code_cells(path))
