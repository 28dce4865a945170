"""The tools that come with the package, in the order in which a system prompt announces them.

Another one is a module with a :class:`arft_jax.tools.record.Tool`, and a line here; one's own need not be here at all
(``config.tools.extra``).
"""

from arft_jax.syntax.tags import TagSyntax
from arft_jax.tools.crop_tool import CROP
from arft_jax.tools.diagnose import DIAGNOSE
from arft_jax.tools.image_search import IMAGE_SEARCH
from arft_jax.tools.python_tool import PYTHON
from arft_jax.tools.record import Tool
from arft_jax.tools.search_tool import SEARCH

BUNDLED: dict[str, Tool] = {tool.name: tool for tool in (DIAGNOSE, PYTHON, SEARCH, IMAGE_SEARCH, CROP)}


def paper_syntax() -> TagSyntax:
    """The tags of the paper's three tools."""
    return TagSyntax([SEARCH.spec, DIAGNOSE.spec, PYTHON.spec])
