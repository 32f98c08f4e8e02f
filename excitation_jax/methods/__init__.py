"""The methods that the papers compare with, all of one signature, on one engine.

``method(model_fn, params, x, target, *, layer, ...) -> maps``: (N, H, W), or (N, K, H, W) for K
targets, at the layer's own resolution; `excitation_jax.maps.resize` enlarges them. Most are a rule
set of the engine that computes MWP; all work under `jax.jit`.
"""

from ..rules.gradient import DECONVNET, GRADIENT, GUIDED
from ..rules.relevance import AlphaBeta, Epsilon, Flat, Gamma, lrp_rules
from ..rules.winner_take_all import WINNER_TAKE_ALL
from .activation_maps import cam, grad_cam, grad_cam_plus_plus, layer_cam
from .contrast import contrastive
from .excitation import c_mwp, c_mwp_post_norm, c_mwp_star, c_mwp_without_norm, mwp
from .feedback import feedback
from .gradients import (
    deconvnet,
    gradient,
    guided_backprop,
    input_x_gradient,
    integrated_gradients,
    linear_approximation,
    smoothgrad,
)
from .lrp import LRP_ALPHA_BETA, LRP_COMPOSITE, LRP_EPSILON, LRP_GAMMA, LRP_ZPLUS, lrp
from .registry import Method, get, names
from .rise import rise
from .winner_take_all import winner_take_all

__all__ = [
    "DECONVNET",
    "GRADIENT",
    "GUIDED",
    "LRP_ALPHA_BETA",
    "LRP_COMPOSITE",
    "LRP_EPSILON",
    "LRP_GAMMA",
    "LRP_ZPLUS",
    "WINNER_TAKE_ALL",
    "AlphaBeta",
    "Epsilon",
    "Flat",
    "Gamma",
    "Method",
    "c_mwp",
    "c_mwp_post_norm",
    "c_mwp_star",
    "c_mwp_without_norm",
    "cam",
    "contrastive",
    "deconvnet",
    "feedback",
    "get",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient",
    "guided_backprop",
    "input_x_gradient",
    "integrated_gradients",
    "layer_cam",
    "linear_approximation",
    "lrp",
    "lrp_rules",
    "mwp",
    "names",
    "rise",
    "smoothgrad",
    "winner_take_all",
]
