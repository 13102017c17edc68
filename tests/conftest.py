"""What every test shares: shape checks while testing, one thread, repeatable hypothesis runs, the edge cases.

Shapes in the signatures of `freeanchor` are checked at every call: the hook must be in place before the package is
imported, so it stands here at module level. As for every type checker, an int may stand where a float is asked for.
"""

import os
from collections.abc import Iterator
from importlib.util import find_spec

import jaxtyping
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported: its kernels then run as numpy

if find_spec("beartype"):  # a machine with a GPU may not have it
    jaxtyping.install_import_hook("freeanchor", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

import pytest
import timm
from hypothesis import HealthCheck, settings
from oracles.inputs import EDGE_CASES, LossInputs
from safetensors.torch import save_file

torch.set_num_threads(1)
settings.register_profile(
    "project", deadline=None, derandomize=True, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("project")


@pytest.fixture(scope="session", autouse=True)
def _memory_is_given_back() -> Iterator[None]:
    """Commands called in this process leave its malloc as it is: tests of memory look at the whole process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("freeanchor.runtime.keep_freed_memory", lambda: None)
        yield


@pytest.fixture(scope="session")
def small_backbone(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of the command line for photographs: timm's smallest network with weights of a file, no download."""
    path = tmp_path_factory.mktemp("weights") / "test_efficientnet.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model("test_efficientnet").state_dict(), path)
    return ["--backbone", "test_efficientnet", "--backbone-weights", str(path)]


@pytest.fixture(params=EDGE_CASES, ids=lambda name: name.replace(" ", "-"))
def edge_case(request: pytest.FixtureRequest) -> LossInputs:
    """Each input of the fixed list of edge cases in turn."""
    return EDGE_CASES[request.param]()
