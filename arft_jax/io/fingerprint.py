"""Short hashes that tell one set of weights from another without reading all of it."""

import hashlib
import os
import pathlib

_WHOLE = 8 << 20  # bytes; a larger file is sampled
_N_BLOCKS, _BLOCK = 256, 4096


def sampled_sha256(path: str | os.PathLike, patterns: tuple[str, ...] = ("*.json", "*.safetensors")) -> str:
    """A hash of the names, sizes and contents of a folder's files, or of one file.

    Of a file above 8 MiB it reads 256 blocks of 4 KiB that lie evenly between its ends: any training moves some number
    in them, while a few changed bytes may be missed.

    Args:
      path: a folder or a file.
      patterns: which files of a folder count; those of its subfolders do not.
    """
    path = pathlib.Path(path)
    files = [path] if path.is_file() else sorted({file for pattern in patterns for file in path.glob(pattern)})
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name if path.is_dir() else ''}\0{size}\0".encode())
        with open(file, "rb") as opened:
            if size <= _WHOLE:
                digest.update(opened.read())
                continue
            for n in range(_N_BLOCKS):
                opened.seek((size - _BLOCK) * n // (_N_BLOCKS - 1))
                digest.update(opened.read(_BLOCK))
    return digest.hexdigest()
