"""Maps as arrays: resize, blur, point, box, overlay; how to combine and how to judge them."""

from .arrays import Colormap, Grid, blur, box, kernel, overlay, point, resize

__all__ = ["Colormap", "Grid", "blur", "box", "kernel", "overlay", "point", "resize"]
