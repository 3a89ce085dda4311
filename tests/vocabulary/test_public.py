"""The package imports fast, and loads its public names lazily."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

import humo


def in_a_new_process(program: str) -> str:
    """Return the output of a program."""
    ran = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_importing_the_package_imports_nothing_heavy() -> None:
    loaded = json.loads(in_a_new_process("import json, sys, humo; print(json.dumps(list(sys.modules)))"))
    assert "humo" in loaded
    heavy = {"torch", "diffusers", "transformers", "numpy", "pydantic", "av", "PIL", "rich"}
    assert not heavy & set(loaded)


def test_requests_and_geometry_import_no_torch() -> None:
    program = "import json, sys; from humo import GenerateRequest, HuMoError; print(json.dumps(list(sys.modules)))"
    loaded = json.loads(in_a_new_process(program))
    assert "humo.request" in loaded
    assert not {"torch", "numpy", "diffusers", "transformers"} & set(loaded)


def test_importing_the_package_takes_less_than_half_a_second() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        in_a_new_process("import humo")
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 0.5


def test_every_public_name_exists_and_is_listed_before_its_first_use() -> None:
    assert set(json.loads(in_a_new_process("import json, humo; print(json.dumps(dir(humo)))"))) >= set(humo.__all__)
    for name in humo.__all__:
        assert getattr(humo, name) is not None


def test_public_classes_are_those_of_their_modules() -> None:
    from humo.errors import HuMoError
    from humo.inference.pipeline import HuMoPipeline
    from humo.request import GenerateRequest

    assert humo.HuMoPipeline is HuMoPipeline
    assert humo.GenerateRequest is GenerateRequest
    assert humo.HuMoError is HuMoError


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'HuMoPipelin'"):
        _ = humo.HuMoPipelin
    assert not hasattr(humo, "nothing")


def test_the_version_is_a_version() -> None:
    assert [part.isdigit() for part in humo.__version__.split(".")] == [True, True, True]
