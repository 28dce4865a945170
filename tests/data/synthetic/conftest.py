import importlib.util
import pathlib

import pytest


@pytest.fixture(scope="session")
def fakes():
    """The stand-ins for the tools in fakes.py."""
    spec = importlib.util.spec_from_file_location("data_fakes", pathlib.Path(__file__).with_name("fakes.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
