"""The ends of classifiers: dense layers that turn into convolutions, for images of any size.

A dense layer that reads a whole feature map is a convolution with a window as large as the map
(Sermanet et al. 2014; Long et al. 2015). On a larger image the convolution gives scores at every
position. Both forms have the same parameters, so weights need no conversion between them.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


class Dense(nn.Module):
    """A dense layer over a window of a feature map, or over a vector of features.

    With `fully_convolutional`, (N, H, W, C) -> (N, H - h + 1, W - w + 1, features) for a window
    (h, w). Otherwise (N, h, w, C), or (N, C) where the window is one position, -> (N, features).

    The kernel is (h, w, C, features), in the order of rows, columns, channels; (C, features)
    where the window is one position.

    Raises:
        ValueError: the input is smaller than the window, or is not of the window's size though
            the layer is dense.
    """

    features: int
    window: tuple[int, int] = (1, 1)
    fully_convolutional: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the layer to `x`."""
        channels = x.shape[-1]
        single = self.window == (1, 1)
        shape = (channels, self.features) if single else (*self.window, channels, self.features)
        # The input is checked first: what follows would complain in other terms.
        self._check(x)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias)
        if self.fully_convolutional:
            kernel = kernel.reshape(*self.window, channels, self.features)
            layout = ("NHWC", "HWIO", "NHWC")
            y = lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=layout)
        else:
            y = x.reshape(x.shape[0], -1) @ kernel.reshape(-1, self.features)
        return y + bias

    def _check(self, x: jax.Array) -> None:
        given = x.shape[1:3] if x.ndim == 4 else (1, 1)
        if self.fully_convolutional:
            if any(size < least for size, least in zip(given, self.window, strict=True)):
                raise ValueError(
                    f"{self.name} needs at least {_by(self.window)} positions and the image leaves "
                    f"{_by(given)}: enlarge the image"
                )
        elif given != self.window:
            raise ValueError(
                f"{self.name} is dense and reads {_by(self.window)} positions, this image leaves "
                f"{_by(given)}: resize the image to the network's own size, or build the network "
                "with fully_convolutional=True for a score map"
            )


def classify(
    x: jax.Array, num_classes: int | None, fully_convolutional: bool, name: str
) -> jax.Array:
    """The global average of a feature map (N, H, W, C) and the linear classifier behind it.

    Returns:
        (N, num_classes) logits; (N, C) features where num_classes is None. With
        `fully_convolutional` nothing is averaged: the classifier's scores at each position
        (N, H, W, num_classes), whose spatial mean is the logits; or the feature map itself.
    """
    if not fully_convolutional:
        x = jnp.mean(x, axis=(1, 2))
    if num_classes is None:
        return x
    return Dense(num_classes, fully_convolutional=fully_convolutional, name=name)(x)


def _by(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))
