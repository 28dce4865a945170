"""Metadata, dependencies and extras; no logic.

The pairs that are tested: jax 0.10.2 with flax 0.12.8 on Python 3.11, and jax 0.12.0.1 with flax 0.12.12 on
Python 3.12. flax 0.12.8 and older break on jax 0.11.1 and later, so each pair is bounded on both sides.
"""

from pathlib import Path

from setuptools import find_packages, setup

SERVE = ["starlette>=1.0,<2", "uvicorn>=0.40,<1", "prometheus-client>=0.22,<1"]

setup(
    name="arft_jax",
    version="0.1.0",
    description="Visual agentic reinforcement fine-tuning in JAX: a vision-language model learns by GRPO to use tools.",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.13",
    packages=[*find_packages(include=["arft_jax", "arft_jax.*"]), "arft_jax.configs"],
    package_dir={"arft_jax.configs": "configs"},  # a wheel has the shipped configurations inside the package
    package_data={"arft_jax.data": ["assets/**"]},
    entry_points={
        "console_scripts": [
            "arft-train = arft_jax.commands.cli.train:main",
            "arft-agent = arft_jax.commands.cli.agent:main",
            "arft-tool = arft_jax.commands.cli.tool:main",
            "arft-evaluate = arft_jax.commands.cli.evaluate:main",
            "arft-serve = arft_jax.commands.cli.serve:main",
            "arft-score = arft_jax.commands.cli.score:main",
            "arft-summary = arft_jax.commands.cli.summary:main",
            "arft-convert = arft_jax.commands.cli.convert:main",
            "arft-compile-check = arft_jax.commands.cli.compile_check:main",
            "arft-build-index = arft_jax.commands.cli.build_index:main",
            "arft-prepare-data = arft_jax.commands.cli.prepare_data:main",
            "arft-make-tiny-checkpoint = arft_jax.commands.cli.make_tiny_checkpoint:main",
            "arft-make-tiny-data = arft_jax.commands.cli.make_tiny_data:main",
            "arft-make-data = arft_jax.commands.cli.make_data:main",
            "arft-bench = arft_jax.commands.cli.bench:main",
            "arft-bench-decode = arft_jax.commands.cli.bench_decode:main",
            "arft-bench-update = arft_jax.commands.cli.bench_update:main",
            "arft-bench-search = arft_jax.commands.cli.bench_search:main",
            "arft-bench-serve = arft_jax.commands.cli.bench_serve:main",
        ]
    },
    install_requires=[
        'jax>=0.10.2,<0.11.1; python_version < "3.12"',
        'flax>=0.12.8,<0.12.12; python_version < "3.12"',
        'jax>=0.11.2,<0.13; python_version >= "3.12"',
        'flax>=0.12.12,<0.13; python_version >= "3.12"',
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12.8,<0.13",
        "transformers>=5.23,<6",
        "sentencepiece>=0.2",
        "protobuf>=4",  # for tokenizer.model files; tensorflow-datasets has it too
        "jinja2>=3.1",  # for chat templates of transformers
        "tensorflow-datasets>=4.9.10,<5",
        "importlib_resources",  # tensorflow-datasets imports it without asking for it
        "pyarrow>=17",  # Parquet; tensorflow-datasets has it too
        "grain>=0.2.18,<0.3",
        "ml_collections>=1.1,<2",
        "safetensors>=0.5,<1",
        "tantivy>=0.27,<0.28",
        "absl-py>=2.3",
        "numpy>=2.0,<3",
        "pillow>=11",
        "opencv-python-headless>=4.10,<6",
        "matplotlib>=3.9,<4",
    ],
    extras_require={
        "tpu": ["jax[tpu]"],
        "cuda": ["jax[cuda12]"],
        "openai": ["openai>=3,<4"],  # evaluation of models behind a server
        "test": [
            *SERVE,
            "openai>=3,<4",
            "usearch>=2.26,<3",
            "gguf>=0.17,<1",
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "ruff>=0.12",
            "setuptools>=77",
        ],
        "torch": ["torch==2.13.0", "peft>=0.21.2,<1", "trl==1.16.0"],
        "serve": SERVE,
        "gguf": ["gguf>=0.17,<1"],
        "search": ["usearch>=2.26,<3", "ddgs>=9"],  # image search; DuckDuckGo
        "notebooks": ["jupyterlab>=4", "ipykernel>=6"],
        "baselines": [
            "torch==2.13.0",
            "torchvision==0.28.0",
            "accelerate>=1",
            "transformers[serving]>=5.23,<6",
            "trl==1.16.0",
            "google-tunix==0.1.7",
        ],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
