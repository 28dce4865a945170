"""The figures that Visual-ARFT publishes for MAT (arXiv 2505.14246, table 1): eleven systems, F1 and EM in percent."""

import dataclasses
from collections.abc import Mapping

Figures = Mapping[str, Mapping[str, float]]  # by split, then f1 or em


@dataclasses.dataclass(frozen=True)
class PublishedRow:
    """One system of the table.

    Args:
      system: its name; what stands indented under a base model there carries that model's name here.
      tools: whether it could use tools.
      figures: by benchmark.
    """

    system: str
    tools: bool
    figures: Mapping[str, Figures]


def _row(system: str, tools: bool, coding: str, search: str) -> PublishedRow:
    def figures(cells: str) -> dict[str, dict[str, float]]:
        pairs = [map(float, cell.split("/")) for cell in cells.split()]
        return {
            split: dict(zip(("f1", "em"), pair, strict=True))
            for split, pair in zip(("simple", "hard", "avg"), pairs, strict=True)
        }

    return PublishedRow(system, tools, {"mat_coding": figures(coding), "mat_search": figures(search)})


_THREE, _SEVEN = "Qwen2.5-VL-3B", "Qwen2.5-VL-7B"
_TRAINED = " + Visual-ARFT"
ROWS = (
    _row("GPT-4o", False, "47.12/38.57 27.57/15.38 34.41/23.5", "68.55/61.33 53.61/42.67 61.08/52.00"),
    _row("OpenAI-o3", True, "70.38/65.38 75.00/70.59 72.99/68.33", "79.72/70.67 63.74/52.00 71.73/61.33"),
    _row("LLaVA-v1.5-7B", False, "19.50/12.86 9.30/5.38 12.87/8.00", "56.55/52.00 30.32/25.33 43.44/38.67"),
    _row("LLaVA-NeXT-7B", False, "30.78/17.14 17.11/10.00 21.89/12.5", "63.27/56.00 38.75/29.33 51.01/42.67"),
    _row("LLaVA-OneVision-7B", False, "39.86/28.57 16.05/11.54 24.38/17.5", "61.78/54.67 31.66/26.67 46.72/40.67"),
    _row("XComposer2.5", False, "36.06/22.86 19.90/10.77 25.56/15.0", "60.16/54.67 31.93/28.00 46.04/41.33"),
    _row("InternVL2.5-8B", False, "39.48/28.57 26.62/13.85 31.12/19.00", "61.72/53.33 41.69/33.33 51.70/43.33"),
    _row(_THREE, False, "46.29/35.71 17.98/13.85 27.89/21.50", "57.54/50.67 33.11/26.67 45.32/38.67"),
    _row(_THREE + _TRAINED, True, "49.78/40.00 28.42/13.08 35.90/22.50", "56.41/50.67 45.55/36.00 50.98/43.33"),
    _row(_SEVEN, False, "55.23/40.00 19.67/11.54 32.12/21.50", "67.40/61.33 39.59/32.00 53.49/46.67"),
    _row(_SEVEN + _TRAINED, True, "60.10/51.43 45.60/25.38 50.68/34.50", "71.78/66.67 55.77/44.00 63.77/55.33"),
)


def rows_of(benchmark: str) -> tuple[PublishedRow, ...]:
    """The published rows of a benchmark, in the order of the table; none for one that the paper does not have."""
    return tuple(row for row in ROWS if benchmark in row.figures)
