"""Maps as arrays: resize, blur, point, box, overlay; how to combine and how to judge them."""

from .arrays import Colormap, blur, box, overlay, point, resize

__all__ = ["Colormap", "blur", "box", "overlay", "point", "resize"]
