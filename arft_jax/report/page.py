"""What every page shares: the frame, the style, escaping, images inside the file. No page reaches the network.

Text from outside is escaped, its control characters become marks, and it stands in a ``<bdi>`` of its own: what it
says in a script that runs from right to left moves nothing that stands beside it.
"""

import base64
import hashlib
import html
import io
import os
import pathlib

import numpy as np
import PIL.Image

from arft_jax.trajectory import Image

MAX_SHOWN_PX = 640  # longer sides are reduced for the page; the caption keeps the true size
SMALL_PX = 200  # smaller images are enlarged by a whole factor up to about this

STYLE = """
:root { color-scheme: light dark;
  --page: light-dark(#fbfbf9, #16181c); --box: light-dark(#ffffff, #1f2228); --line: light-dark(#d9d9d2, #3a3f48);
  --text: light-dark(#1c1e21, #e6e6e3); --dim: light-dark(#62666d, #a2a7b0); --code: light-dark(#f2f2ec, #15171b);
  --good: light-dark(#14713a, #6fd195); --bad: light-dark(#a8281c, #ff9286); --tool: light-dark(#2b5b9e, #8fb8f0); }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 84rem; padding: 1.5rem; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; } h2 { font-size: 1.05rem; margin: 0 0 .5rem; }
p { margin: .3rem 0; } .dim { color: var(--dim); } .good { color: var(--good); } .bad { color: var(--bad); }
img { max-width: 100%; } bdi, option { unicode-bidi: isolate; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums;
  display: block; overflow-x: auto; }
th, td { padding: .25rem .7rem; text-align: right; white-space: nowrap; }
th { border-bottom: 1px solid var(--text); font-weight: 600; } tr.first td { border-top: 1px solid var(--line); }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
"""

_CONTROLS = (*range(9), *range(11, 32), *range(127, 160))
_TURNING = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))  # marks of the order of writing
_MARKS = dict.fromkeys(_CONTROLS, "\N{SYMBOL FOR SUBSTITUTE}") | {code: f"[U+{code:04X}]" for code in _TURNING}


def policy(style: str, script: str = "") -> str:
    """The content security policy of a page: a browser that honours it loads nothing, whatever the page's text says.

    Its own style and script are let in by their hashes, no other ones, no attribute ``style`` and no handler.

    Args:
      style: what stands in its one ``<style>``.
      script: what stands in its one ``<script>``; empty: it has none.
    """
    scripts = _source(script) if script else "'none'"
    return (
        f"default-src 'none'; img-src data:; style-src {_source(style)}; script-src {scripts}; "
        "base-uri 'none'; form-action 'none'"
    )


def _source(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def attribute(value: object) -> str:
    """Escaped for an attribute or another place that takes no elements; what cannot be seen becomes visible marks.

    >>> attribute('a "b" \u202e')
    'a &quot;b&quot; [U+202E]'
    """
    return html.escape(str(value).translate(_MARKS))


def text(value: object) -> str:
    """A text as an element that is isolated from what stands beside it, escaped as by :func:`attribute`.

    >>> text("a < b")
    '<bdi dir="auto">a &lt; b</bdi>'
    """
    return f'<bdi dir="auto">{attribute(value)}</bdi>'


def data_uri(png: bytes) -> str:
    """The PNG inside a URL."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def figure(image: Image) -> str:
    """An image with its name and true size; small ones enlarged by a whole factor with hard pixels."""
    height, width = image.size
    picture = PIL.Image.fromarray(np.ascontiguousarray(image.pixels))
    picture.thumbnail((MAX_SHOWN_PX, MAX_SHOWN_PX))
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    factor = max(1, SMALL_PX // max(height, width))
    name = image.name or "image"
    return (
        f'<figure><img alt="{attribute(name)}" width="{picture.width * factor}" src="{data_uri(stream.getvalue())}"'
        f"{' class=small' if factor > 1 else ''}><figcaption>{text(name)} · {width} × {height} px</figcaption></figure>"
    )


def frame(title: str, body: str, style: str = "", script: str = "") -> str:
    """A whole page around ``body``, which is HTML already and holds no style, script or handler of its own."""
    style = f"{STYLE}{style}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy(style, script)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{attribute(title)}</title><style>{style}</style></head><body>\n{body}\n"
        + (f"<script>{script}</script>" if script else "")
        + "</body></html>\n"
    )


def write(path: str | os.PathLike, page: str) -> None:
    """Writes the page; a lone surrogate, which UTF-8 has not, becomes a character reference."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(page.encode("utf-8", errors="xmlcharrefreplace"))
