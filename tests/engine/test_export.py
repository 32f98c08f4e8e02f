"""The compiled pass leaves Python: exported for CPU, GPU and TPU, stored, loaded, the same map."""

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import excitation_jax as ej

PLATFORMS = ("cpu", "cuda", "tpu")


class Net(nn.Module):
    """One of everything: convolution, BatchNorm, ReLU, max-pool, residual sum, pool, dense."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(8, (3, 3), 2, use_bias=False, name="conv1")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, name="bn1")(x))
        x = ej.tag(nn.max_pool(x, (3, 3), (2, 2), "SAME"), "pooled")
        y = nn.Conv(8, (3, 3), use_bias=False, name="conv2")(x)
        y = nn.BatchNorm(use_running_average=True, name="bn2")(y)
        x = jnp.mean(nn.relu(x + y), axis=(1, 2))
        return nn.Dense(5, name="head")(x)


def random_variables(model: nn.Module, x: jax.Array) -> dict:
    """Variables with BatchNorm scales of both signs and positive variances."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    leaves, tree = jax.tree.flatten_with_path(shapes)
    rng = np.random.default_rng(0)
    arrays = []
    for path, leaf in leaves:
        value = rng.normal(size=leaf.shape).astype(np.float32)
        arrays.append(jnp.asarray(np.abs(value) + 0.5 if path[-1].key == "var" else value))
    return jax.tree.unflatten(tree, arrays)


@pytest.mark.parametrize("layer", ["pooled", None])
@pytest.mark.parametrize("targets", [(2,), (2, 3)], ids=["one", "several"])
def test_an_exported_map_is_the_direct_one(layer: str | None, targets: tuple[int, ...]) -> None:
    model = Net()
    x = jax.random.normal(jax.random.key(1), (2, 24, 24, 3))
    variables = random_variables(model, x)
    target = jax.random.randint(jax.random.key(2), targets, 0, 5)

    @jax.jit
    def c_mwp(variables: dict, x: jax.Array, target: jax.Array) -> jax.Array:
        return ej.excitation_vjp(
            model.apply, variables, x, target, layer=layer, contrastive=True
        ).mwp

    exported = jax.export.export(c_mwp, platforms=PLATFORMS)(variables, x, target)
    assert exported.platforms == PLATFORMS
    stored = exported.serialize()
    loaded = jax.export.deserialize(stored)
    assert loaded.platforms == PLATFORMS

    direct = c_mwp(variables, x, target)
    assert float(jnp.abs(direct).sum()) > 0.1
    np.testing.assert_allclose(loaded.call(variables, x, target), direct, rtol=1e-6, atol=1e-9)
