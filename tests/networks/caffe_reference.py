"""The Caffe networks once more, from their releases' own names and in Caffe's own layout.

Each reads a dictionary of blobs ("layer/0", "layer/1", ...) and an image (N, 3, H, W). `Blobs` is
the dictionary's maker, too: asked for a blob that it does not hold, it draws one of the shape
that the layer needs, so that running a network once makes a complete release of it.
"""

import zlib

import jax.numpy as jnp
import numpy as np
from jax import lax


class Blobs(dict):
    """Blobs by name; what is missing is drawn at random when `get_blob` is asked for it."""

    def get_blob(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in self:
            random = np.random.default_rng(zlib.crc32(name.encode()))
            self[name] = self.draw(random, name, shape).astype(np.float32)
        assert self[name].shape == shape, name
        return self[name]

    @staticmethod
    def draw(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
        layer, number = name.rsplit("/", 1)
        if len(shape) > 1:
            return random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        if layer.startswith("bn"):
            # The sums of the statistics, and by what they are to be divided.
            if number == "2":
                return np.full(shape, 1.75)
            return random.uniform(0.5, 1.5, shape) if number == "1" else random.normal(size=shape)
        if layer.startswith("scale") and number == "0":
            return random.uniform(-0.5, 1, shape)
        return 0.05 * random.standard_normal(shape)


def convolution(b, x, layer, outputs, window, stride=1, pad=0, bias=True):
    kernel = b.get_blob(f"{layer}/0", (outputs, x.shape[1], window, window))
    y = lax.conv_general_dilated(x, kernel, (stride, stride), [(pad, pad)] * 2)
    return y + b.get_blob(f"{layer}/1", (outputs,))[:, None, None] if bias else y


def inner_product(b, x, layer, outputs):
    flat = x.reshape(x.shape[0], -1)  # channels, rows, columns
    kernel = b.get_blob(f"{layer}/0", (outputs, flat.shape[1]))
    return flat @ kernel.T + b.get_blob(f"{layer}/1", (outputs,))


def relu(x):
    return jnp.maximum(x, 0)


def max_pool(x, window, stride, pad=0):
    size = x.shape[2:]
    count = [-(-(n + 2 * pad - window) // stride) + 1 for n in size]
    short = [(c - 1) * stride + window - n - pad for c, n in zip(count, size, strict=True)]
    edges = ((0, 0), (0, 0), *((pad, max(s, 0)) for s in short))
    x = jnp.pad(x, edges, constant_values=-np.inf)
    columns = []
    for i, j in np.ndindex(window, window):
        rows = slice(i, i + (count[0] - 1) * stride + 1, stride)
        cols = slice(j, j + (count[1] - 1) * stride + 1, stride)
        columns.append(x[:, :, rows, cols])
    return jnp.max(jnp.stack(columns), axis=0)


def lrn(x, alpha, k):
    squares = jnp.pad(x**2, ((0, 0), (2, 2), (0, 0), (0, 0)))
    total = sum(squares[:, i : i + x.shape[1]] for i in range(5))
    return x * (k + alpha / 5 * total) ** -0.75


def cnn_s(b, x, width=1):
    """VGG_CNN_S; `width` divides the hidden layers' channels."""
    x = relu(convolution(b, x, "conv1", 96 // width, 7, 2))
    x = max_pool(lrn(x, 5e-4, 2.0), 3, 3)
    x = max_pool(relu(convolution(b, x, "conv2", 256 // width, 5)), 2, 2)
    for layer in ("conv3", "conv4", "conv5"):
        x = relu(convolution(b, x, layer, 512 // width, 3, pad=1))
    x = max_pool(x, 3, 3)
    x = relu(inner_product(b, x, "fc6", 4096 // width))
    x = relu(inner_product(b, x, "fc7", 4096 // width))
    return inner_product(b, x, "fc8", 1000)


# Output channels: 1x1, 3x3_reduce, 3x3, 5x5_reduce, 5x5, pool_proj.
INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def googlenet(b, x):
    """bvlc_googlenet without its auxiliary classifiers."""
    x = max_pool(relu(convolution(b, x, "conv1/7x7_s2", 64, 7, 2, 3)), 3, 2)
    x = lrn(x, 1e-4, 1.0)
    x = relu(convolution(b, x, "conv2/3x3_reduce", 64, 1))
    x = relu(convolution(b, x, "conv2/3x3", 192, 3, pad=1))
    x = max_pool(lrn(x, 1e-4, 1.0), 3, 2)
    for block, (one, reduce3, three, reduce5, five, projected) in INCEPTION.items():
        if block in ("4a", "5a"):
            x = max_pool(x, 3, 2)
        layer = f"inception_{block}"
        branches = [relu(convolution(b, x, f"{layer}/1x1", one, 1))]
        y = relu(convolution(b, x, f"{layer}/3x3_reduce", reduce3, 1))
        branches.append(relu(convolution(b, y, f"{layer}/3x3", three, 3, pad=1)))
        y = relu(convolution(b, x, f"{layer}/5x5_reduce", reduce5, 1))
        branches.append(relu(convolution(b, y, f"{layer}/5x5", five, 5, pad=2)))
        y = max_pool(x, 3, 1, 1)
        branches.append(relu(convolution(b, y, f"{layer}/pool_proj", projected, 1)))
        x = jnp.concatenate(branches, axis=1)
    return inner_product(b, x.mean((2, 3)), "loss3/classifier", 1000)


def normalised(b, x, bn):
    """A BatchNorm layer with its statistics, and the Scale layer behind it."""
    channels, scale = (x.shape[1],), "scale" + bn.removeprefix("bn")
    factor = b.get_blob(f"{bn}/2", (1,))
    mean = b.get_blob(f"{bn}/0", channels) / factor
    variance = b.get_blob(f"{bn}/1", channels) / factor
    x = (x - mean[:, None, None]) / jnp.sqrt(variance + 1e-5)[:, None, None]
    gamma, beta = b.get_blob(f"{scale}/0", channels), b.get_blob(f"{scale}/1", channels)
    return x * gamma[:, None, None] + beta[:, None, None]


def resnet50(b, x):
    """ResNet-50 of the authors' release."""
    x = convolution(b, x, "conv1", 64, 7, 2, 3)
    x = max_pool(relu(normalised(b, x, "bn_conv1")), 3, 2)
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), 2):
        for i, letter in enumerate("abcdef"[:blocks]):
            name = f"{stage}{letter}_branch"
            stride, skip = (2 if stage > 2 and i == 0 else 1), x
            if i == 0:
                skip = convolution(b, x, f"res{name}1", 4 * width, 1, stride, bias=False)
                skip = normalised(b, skip, f"bn{name}1")
            x = convolution(b, x, f"res{name}2a", width, 1, stride, bias=False)
            x = relu(normalised(b, x, f"bn{name}2a"))
            x = convolution(b, x, f"res{name}2b", width, 3, pad=1, bias=False)
            x = relu(normalised(b, x, f"bn{name}2b"))
            x = convolution(b, x, f"res{name}2c", 4 * width, 1, bias=False)
            x = relu(skip + normalised(b, x, f"bn{name}2c"))
    return inner_product(b, x.mean((2, 3)), "fc1000", 1000)


def squeezenet_v1_1(b, x):
    """SqueezeNet v1.1; v1.0 has the same names, bigger first filters and later pools."""
    x = max_pool(relu(convolution(b, x, "conv1", 64, 3, 2)), 3, 2)
    for i, squeeze in enumerate((16, 16, 32, 32, 48, 48, 64, 64), 2):
        y = relu(convolution(b, x, f"fire{i}/squeeze1x1", squeeze, 1))
        one = relu(convolution(b, y, f"fire{i}/expand1x1", 4 * squeeze, 1))
        three = relu(convolution(b, y, f"fire{i}/expand3x3", 4 * squeeze, 3, pad=1))
        x = jnp.concatenate([one, three], axis=1)
        if i in (3, 5):
            x = max_pool(x, 3, 2)
    return relu(convolution(b, x, "conv10", 1000, 1)).mean((2, 3))
