"""In-process stand-ins for the tools: cv2 on arrays instead of a sandbox, a title match instead of an index."""

import concurrent.futures
import types

import cv2

from arft_jax import protocol
from arft_jax.tools.diagnose import tip
from arft_jax.tools.result_text import format_hits
from arft_jax.tools.search_index import Hit
from arft_jax.tools.toolbox import Conversation
from arft_jax.trajectory import Image, Observation


def run_code(source, pixels):
    """Runs repair code with the file names served from memory; RGB in, RGB out."""
    written = {}

    def imread(name):
        assert name == protocol.INPUT_NAME
        return pixels[:, :, ::-1].copy()

    def imwrite(name, image):
        assert name == protocol.OUTPUT_NAME
        written["image"] = image[:, :, ::-1].copy()

    fake = types.SimpleNamespace(**{k: v for k, v in vars(cv2).items() if not k.startswith("__")})
    fake.imread, fake.imwrite = imread, imwrite
    exec(source.replace("import cv2\n", ""), {"cv2": fake})
    return written["image"]


class FakeToolbox:
    """submit() answers at once; ``calls`` holds what was asked."""

    def __init__(self, documents=()):
        self.documents, self.calls = list(documents), []

    def begin(self, task):
        """The tools as one chain meets them."""
        return Conversation(self, task)

    def submit(self, call, context):
        images = tuple(context.images)
        self.calls.append((context.task, call, images))
        future = concurrent.futures.Future()
        future.set_result(self._answer(context.task, call, images))
        return future

    def _answer(self, task, action, images):
        if action.tool == "diagnose":
            return Observation(tip(tuple(action.arguments["problems"])))
        if action.tool == "python":
            return Observation("", (Image(run_code(action.arguments["code"], images[-1].pixels), "image_2"),))
        hits = [d for d in self.documents if d.corpus == task.corpus and d.title == action.arguments["query"]]
        return Observation(format_hits([Hit(d.title, d.text, 1.0) for d in hits], 1000))
