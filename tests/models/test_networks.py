"""The test networks compute what the networks behind the reference maps computed."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import ARCHITECTURES, Oracle, convert, load_oracle, parameters
from paths import SHARED

FOLDER = SHARED / "oracles"
SLOW = {"vgg16", "googlenet", "resnet50"}

needs_oracles = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no reference maps at {FOLDER}")


@dataclass(frozen=True)
class Forward:
    oracle: Oracle
    logits: np.ndarray
    means: dict[str, np.ndarray]  # tagged layer -> (N, C) spatial mean


def run(oracle: Oracle) -> Forward:
    @jax.jit
    def forward(variables, x):
        means = {}

        def record(value, name):
            means[name] = value.mean((1, 2)) if value.ndim == 4 else value
            return value

        return oracle.model.clone(tag=record).apply(variables, x), means

    logits, means = jax.device_get(forward(oracle.variables, oracle.x))
    return Forward(oracle, logits, means)


@pytest.fixture(
    scope="module",
    params=[pytest.param(a, marks=pytest.mark.slow if a in SLOW else ()) for a in ARCHITECTURES],
)
def forward(request: pytest.FixtureRequest) -> Forward:
    return run(load_oracle(request.param, FOLDER))


def relative_error(value: np.ndarray, reference: np.ndarray) -> float:
    assert value.shape == reference.shape
    return float(np.abs(value - reference).max() / np.abs(reference).max())


@needs_oracles
def test_the_recipe_is_reproduced(forward: Forward) -> None:
    oracle = forward.oracle
    x = np.asarray(oracle.x)
    assert x.sum(dtype=np.float64) == pytest.approx(float(oracle.arrays["input_sum"]), rel=1e-9)
    np.testing.assert_array_equal(x[0, 0, :5, 0], oracle.arrays["input_first5"])

    names = oracle.arrays["param_names"].tolist()
    sums = dict(zip(names, oracle.arrays["param_sums"].tolist(), strict=True))
    for name, parameter in parameters(oracle.arch).items():
        value = oracle.variables
        for key in parameter.path:
            value = value[key]
        total = np.asarray(value).sum(dtype=np.float64)
        assert total == pytest.approx(sums.pop(name), rel=1e-9, abs=1e-6), name
    assert all(name.endswith(".num_batches_tracked") for name in sums)


@needs_oracles
def test_logits_are_the_reference(forward: Forward) -> None:
    assert relative_error(forward.logits, forward.oracle.arrays["logits"]) < 1e-5


@needs_oracles
def test_activations_at_the_tagged_layers_are_the_reference(forward: Forward) -> None:
    assert forward.oracle.layers
    for layer in forward.oracle.layers:
        reference = forward.oracle.arrays[f"activation_channels:{layer}"]
        assert relative_error(forward.means[layer], reference) < 1e-5, layer


@needs_oracles
def test_every_layer_that_the_oracle_names_is_tagged(forward: Forward) -> None:
    oracle = forward.oracle
    named = {name.partition(":")[2] for name in oracle.arrays if ":" in name}
    assert named | {oracle.contrast_layer} <= set(forward.means)


@needs_oracles
@pytest.mark.parametrize("arch", ["squeezenet1_0", "resnet18"])
def test_in_float64_the_logits_are_exact(arch: str) -> None:
    with jax.enable_x64(True):
        forward = run(load_oracle(arch, FOLDER, jnp.float64))
    assert forward.logits.dtype == np.float64
    assert relative_error(forward.logits, forward.oracle.arrays["logits"]) < 1e-12


def test_convert_lists_every_name_that_does_not_fit() -> None:
    state_dict = {n: np.zeros(p.shape, np.float32) for n, p in parameters("resnet18").items()}
    state_dict["bn1.num_batches_tracked"] = np.zeros((), np.int64)
    assert set(convert("resnet18", state_dict)) == {"params", "batch_stats"}

    del state_dict["conv1.weight"], state_dict["layer2.0.bn1.running_var"]
    state_dict["fc.bias"] = np.zeros(10, np.float32)
    state_dict["aux.weight"] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="not a state dict of resnet18") as error:
        convert("resnet18", state_dict)
    for text in (
        "missing conv1.weight",
        "missing layer2.0.bn1.running_var",
        "unexpected aux.weight",
        "mis-shaped fc.bias: (10,), expected (1000,)",
    ):
        assert text in str(error.value)
