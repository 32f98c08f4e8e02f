"""All methods by name, for the command line and the experiments."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from ..explain.prepared import prepare
from ..maps.arrays import Grid
from ..rules.gradient import GRADIENT
from . import activation_maps, excitation, gradients
from .contrast import contrastive
from .feedback import feedback
from .lrp import LRP_ALPHA_BETA, LRP_EPSILON, LRP_GAMMA, LRP_ZPLUS, lrp
from .rise import rise
from .winner_take_all import winner_take_all


@dataclass(frozen=True)
class Method:
    """A saliency method.

    Attributes:
      name: for `get` and the command line.
      title: for tables and pictures.
      function: ``function(model_fn, params, x, target, *, layer, ...) -> maps``.
      source: who proposed it.
      per_layer: it can be read at any layer, by ``layer=``.
      bounded: it takes the input's range, ``x_bounds=``.
      ruled: it takes a rule set of Excitation Backprop, ``rules=``.

    The cells of a method's map lie where its layer's do:

    >>> import jax, jax.numpy as jnp
    >>> from excitation_jax import maps, methods
    >>> def model(w, x):
    ...     return jax.nn.relu(jax.lax.conv(x, w[0], (4, 4), "VALID")).mean((2, 3)) @ w[1]
    >>> w, x = (jnp.ones((5, 3, 3, 3)), jnp.ones((5, 2))), jnp.ones((2, 3, 15, 15))
    >>> method = methods.get("grad-cam")
    >>> found = method.function(model, w, x, 0)
    >>> grid = method.grid(model, w, x)
    >>> grid.stride, grid.offset, found.shape
    ((4.0, 4.0), (1.0, 1.0), (2, 4, 4))
    >>> maps.resize(found, (15, 15), grid).shape
    (2, 15, 15)
    """

    name: str
    title: str
    function: Callable[..., jax.Array]
    source: str
    per_layer: bool = True
    bounded: bool = False
    ruled: bool = False

    def grid(
        self, model_fn: Callable[..., Any], params: Any, x: Any, **options: Any
    ) -> Grid | None:
        """Where the cells of the method's maps lie on x, for `excitation_jax.maps.resize`.

        Args:
          model_fn, params, x: as of the method; arrays or `jax.ShapeDtypeStruct`s.
          options: the method's; ``layer`` counts.

        Returns:
          None where it is not known: the map can then be painted as a plain tile only.

        Raises:
          ValueError: an unknown layer.
        """
        own = inspect.signature(self.function).parameters.get("layer")
        layer = options.get("layer", own.default if own else None)
        names = () if layer is None else (layer,)
        prepared = prepare(model_fn, (params, x), names, False, GRADIENT, require_rules=False)
        return prepared.read[0].grid


_IJCV18 = "Zhang et al., IJCV 2018"
_METHODS = (
    Method("mwp", "MWP", excitation.mwp, "Zhang et al., ECCV 2016", bounded=True, ruled=True),
    Method("c-mwp", "c-MWP", excitation.c_mwp, "Zhang et al., ECCV 2016", bounded=True, ruled=True),
    Method("c-mwp-star", "c-MWP*", excitation.c_mwp_star, _IJCV18, ruled=True),
    Method("c-mwp-post-norm", "c-MWP post-norm", excitation.c_mwp_post_norm, _IJCV18, ruled=True),
    Method("c-mwp-without-norm", "c-MWP w/o norm", excitation.c_mwp_without_norm, _IJCV18,
           ruled=True),
    Method("gradient", "gradient", gradients.gradient, "Simonyan et al., ICLR workshop 2014"),
    Method("c-gradient", "c-Grad", contrastive(gradients.gradient), _IJCV18),
    Method("input-x-gradient", "input x gradient", gradients.input_x_gradient,
           "Shrikumar et al., ICML 2017"),
    Method("smoothgrad", "SmoothGrad", gradients.smoothgrad, "Smilkov et al., 2017"),
    Method("integrated-gradients", "integrated gradients", gradients.integrated_gradients,
           "Sundararajan et al., ICML 2017", per_layer=False),
    Method("deconvnet", "DeconvNet", gradients.deconvnet, "Zeiler and Fergus, ECCV 2014"),
    Method("c-deconvnet", "c-Deconv", contrastive(gradients.deconvnet), _IJCV18),
    Method("guided-backprop", "guided backprop", gradients.guided_backprop,
           "Springenberg et al., ICLR workshop 2015"),
    Method("lrp", "LRP composite", lrp, "Kohlbrenner et al., IJCNN 2020"),
    Method("lrp-epsilon", "LRP-epsilon", functools.partial(lrp, rules=LRP_EPSILON),
           "Bach et al., PLoS ONE 2015"),
    Method("lrp-gamma", "LRP-gamma", functools.partial(lrp, rules=LRP_GAMMA),
           "Montavon et al., 2019"),
    Method("lrp-zplus", "LRP-z+", functools.partial(lrp, rules=LRP_ZPLUS),
           "Montavon et al., Pattern Recognition 2017"),
    Method("lrp-alpha-beta", "LRP-alpha2-beta1", functools.partial(lrp, rules=LRP_ALPHA_BETA),
           "Bach et al., PLoS ONE 2015"),
    Method("cam", "CAM", activation_maps.cam, "Zhou et al., CVPR 2016"),
    Method("c-cam", "c-CAM", contrastive(activation_maps.cam), _IJCV18),
    Method("grad-cam", "Grad-CAM", activation_maps.grad_cam, "Selvaraju et al., ICCV 2017"),
    Method("grad-cam++", "Grad-CAM++", activation_maps.grad_cam_plus_plus,
           "Chattopadhyay et al., WACV 2018"),
    Method("layer-cam", "LayerCAM", activation_maps.layer_cam, "Jiang et al., TIP 2021"),
    Method("linear-approximation", "linear approximation", gradients.linear_approximation,
           "Kindermans et al., 2016"),
    Method("rise", "RISE", rise, "Petsiuk et al., BMVC 2018", per_layer=False),
    Method("feedback", "Feedback", feedback, "Cao et al., ICCV 2015"),
    Method("winner-take-all", "winner-take-all", winner_take_all,
           "Tsotsos et al., Artificial Intelligence 1995"),
)  # fmt: skip
_BY_KEY = {method.name.replace("-", ""): method for method in _METHODS}


def names() -> tuple[str, ...]:
    """The names of all methods."""
    return tuple(method.name for method in _METHODS)


def get(name: str) -> Method:
    """The method of a name; case, hyphens and underscores do not matter.

    Raises:
      ValueError: there is none; the message gives the nearest names.

    >>> from excitation_jax import methods
    >>> methods.get("GradCAM").title
    'Grad-CAM'
    """
    key = name.lower().replace("-", "").replace("_", "").replace(" ", "")
    if key in _BY_KEY:
        return _BY_KEY[key]
    near = [_BY_KEY[k].name for k in difflib.get_close_matches(key, _BY_KEY, n=3, cutoff=0.5)]
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(names())}"
    raise ValueError(f"no method named {name!r}: {hint}")
