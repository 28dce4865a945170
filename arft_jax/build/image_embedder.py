"""Images to vectors with a config's own vision tower, for image search."""

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from arft_jax.build import model
from arft_jax.build.parts import set_up_jax
from arft_jax.data.batch import VisionBucket, fill_chunk, pack_chunks
from arft_jax.data.images import ImageProcessor
from arft_jax.io.weights import load_params
from arft_jax.models.family import Sizes
from arft_jax.steps.embed import make_embed
from arft_jax.steps.init import abstract_params, init_params
from arft_jax.trajectory import Image


class Embedder:
    """Images -> float32[n, D], the mean of each image's merged tokens at length 1; one program, traced once.

    An image's vector does not depend on the images beside it (to rounding).

    Args:
      graphdef: of the vision tower.
      params: its parameters, on one device.
      processor: pixels to patches.
      bucket: sizes of one call.
    """

    def __init__(self, graphdef: nnx.GraphDef, params: nnx.State, processor: ImageProcessor, bucket: VisionBucket):
        self._embed, self.params = make_embed(graphdef), params
        self._processor, self._bucket = processor, bucket

    def n_compiled(self) -> int:
        """Programs compiled so far."""
        return self._embed._cache_size()

    def __call__(self, images: Sequence[Image]) -> np.ndarray:
        """See the class.

        Raises:
          ValueError: no image, an image of extreme shape, or one that no call holds.
        """
        if not images:
            raise ValueError("at least one image must be given: got none")
        patched = [self._processor(image.pixels) for image in images]
        out: list[np.ndarray | None] = [None] * len(images)
        for members in pack_chunks([grid for _, grid in patched], self._bucket):
            vectors = self._chunk([patched[i] for i in members])
            for i, vector in zip(members, vectors, strict=True):
                out[i] = vector
        return np.stack(out)

    def _chunk(self, patched: list[tuple[np.ndarray, tuple[int, int, int]]]) -> np.ndarray:
        patches, layout = fill_chunk(patched, self._bucket)
        n = self._bucket.n_features
        tokens = [[i] * self._processor.n_tokens(grid) for i, (_, grid) in enumerate(patched)]
        owners = np.array(list(itertools.chain(*tokens)), np.int32)
        image_of = np.pad(owners, (0, n - len(owners)), constant_values=n)
        arguments = jax.device_put(jax.tree.map(lambda leaf: np.asarray(leaf)[None], (patches, layout)))
        vectors = self._embed(self.params, *arguments, jax.device_put(image_of))
        return jax.device_get(vectors)[: len(patched)]


def model_maker(config, sizes: Sizes) -> Callable[[nnx.Rngs], nnx.Module]:
    """Makes the model whose tower embeds: on one device, without adapters."""
    kinds = dict(dtype=jnp.dtype(config.model.dtype), param_dtype=jnp.dtype(config.model.param_dtype))
    return lambda rngs: sizes.family.make(sizes, rngs=rngs, **kinds)


def make_embedder(config) -> Embedder:
    """The embedder of a config: its published weights, or those its seed draws where it names none.

    It is the tower at step 0 of a run, not a trained one, so that an index outlives the run. It lives on the first
    device of the process; of published weights the tower's alone are read.

    Raises:
      ValueError: weights, tokenizer or sizes that do not fit the config.
    """
    sizes = model.model_config(config, model.load_tokenizer(config))
    make_model, tower = model_maker(config, sizes), sizes.family.tower
    if sizes.vision is None:
        raise ValueError(
            f"an image search must have a vision tower: {config.weights} has none (config.weights, config.model.vision)"
        )

    def make_tower(rngs: nnx.Rngs) -> nnx.Module:
        return getattr(make_model(rngs), tower)

    if config.weights:
        graphdef, _ = abstract_params(make_tower)
        _, whole = abstract_params(make_model)
        params = load_params(config.weights, whole, part=tower, rules=sizes.family.weights)[tower]
    else:
        graphdef, params = init_params(make_tower, config.seed)
    return Embedder(graphdef, params, model.image_processor(config, sizes), model.vision_bucket(config, sizes))


def embed_function(config) -> Callable[[Sequence[Image]], np.ndarray]:
    """As :func:`make_embedder`, with the persistent compilation cache set up first."""
    set_up_jax(config)
    return make_embedder(config)
