"""Flax NNX models as pure functions, with the names of their modules.

A traced NNX model says nothing of its modules. `nnx_fn` therefore runs a private copy whose
modules carry their paths, and for the time of the call the ``__call__`` of their classes opens a
`jax.named_scope` where it meets a module that carries one; for all other modules of these classes
nothing changes. The path is a static attribute, so that it follows a module through nnx.jit,
nnx.remat, nnx.scan and nnx.vmap.

A subclass made for each path would not need the change of the class. But then ``type(module) is
nnx.Conv`` is false inside the model, which may compute something else without a word, and
``nnx.remat(Block.__call__)(block, x)`` has no name.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from flax import nnx


class TrainingModeError(ValueError):
    """The model would compute what it computes in training."""


def nnx_fn(model: nnx.Module, *, method: str = "__call__") -> tuple[Callable[..., Any], nnx.State]:
    """A Flax NNX model as a pure function and its state.

    Args:
      model: an `nnx.Module` in evaluation mode (``model.eval()``). It is read, never changed.
      method: name of the method to call.

    Returns:
      ``fn`` and ``state``. ``fn(state, x, ...)`` returns what ``model(x, ...)`` returns; ``state``
      is an `nnx.State` of the arrays in the model as they are now: parameters, batch statistics,
      counters. What the call changes in it is discarded. Random keys and what is no array stay
      inside ``fn``: a model that draws random numbers draws the same ones in every call. After
      more training, the state of another ``nnx_fn(model)`` fits the first ``fn``, too, which
      spares compiling again.

    Layers are named by the modules' paths as in `nnx.iter_modules`, with "_" for ".": "conv1",
    "layer1/0/conv1". A module in two places has the first path; called by a module that is not
    above it there, it stands below its caller, under its last name. A method other than
    ``__call__`` has no name of its own, and the modules that it calls keep theirs. Where a model
    runs only without names, it runs without, and a warning says so.

    Raises:
      ValueError: a BatchNorm takes the statistics of the batch or a Dropout is active: by its
        attribute (raised here) or by an argument of its call (raised by ``fn``).
      TypeError: ``model`` is no `nnx.Module` or has no such method.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import excitation_jax as ej
      >>> from flax import nnx
      >>> class Net(nnx.Module):
      ...     def __init__(self, rngs):
      ...         self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
      ...         self.head = nnx.Linear(4, 2, rngs=rngs)
      ...     def __call__(self, x):
      ...         return self.head(jax.nn.relu(self.conv(x)).mean((1, 2)))
      >>> fn, state = ej.nnx_fn(Net(nnx.Rngs(0)))
      >>> images = jnp.ones((1, 8, 8, 3))
      >>> [layer.name for layer in ej.layers(fn, state, images)]
      ['conv', 'relu', 'reduce_sum', 'head']
      >>> ej.attention_map(fn, state, images, target=1, layer="relu").shape
      (1, 8, 8)
    """
    from flax import nnx

    _check_module(model, method)
    _check_mode(model)
    root = type(model).__name__
    if hasattr(nnx, "with_vars"):  # since flax 0.12.8 a variable can be a reference, too
        model = nnx.with_vars(model, hijax=False, ref=False)
    graphdef, *states = nnx.split(model, _holds_arrays, ...)
    state, kept = jax.tree.map(lambda leaf: leaf, states)  # new variables for the model's own
    copy = nnx.merge(graphdef, state, kept, copy=True)
    classes = _name_modules(copy)
    named = nnx.graphdef(copy)
    works_with_names = True

    def call(definition: nnx.GraphDef, state: Any, args: Any, kwargs: Any) -> Any:
        with jax.named_scope(root):  # as in Linen: what all operations share is no layer
            return getattr(nnx.merge(definition, state, kept, copy=True), method)(*args, **kwargs)

    def fn(state: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal works_with_names
        failure: Exception | None = None
        if works_with_names:
            try:
                with _scopes(classes):
                    return call(named, state, args, kwargs)
            except TrainingModeError:
                raise
            except Exception as error:
                failure = error
        outputs = call(graphdef, state, args, kwargs)  # raises what the model itself raises
        if failure is not None:
            works_with_names = False
            reason = f"{type(failure).__name__}: {failure}".splitlines()[0]
            warnings.warn(
                f"the layers of {root} go without the names of its modules, with which the model "
                f"raises {reason}",
                stacklevel=2,
            )
        return outputs

    return fn, state


def _check_module(model: Any, method: str) -> None:
    from flax import linen, nnx

    if isinstance(model, nnx.Module):
        if not callable(getattr(model, method, None)):
            raise TypeError(
                f"{type(model).__name__} has no method {method!r}: give the name of one (method=)"
            )
    elif isinstance(model, type) and issubclass(model, nnx.Module):
        raise TypeError(f"{model.__name__} is a class: pass a model, {model.__name__}(...)")
    elif isinstance(model, linen.Module):
        raise TypeError(
            f"{type(model).__name__} is a Linen module and needs no adapter: pass model.apply as "
            "model_fn and its variables as params"
        )
    else:
        raise TypeError(
            f"nnx_fn takes an nnx.Module, not {type(model).__name__}: a function of (params, x) "
            "is a model_fn as it is"
        )


#: What model.eval() sets to True.
_EVALUATION_FLAGS = ("use_running_average", "deterministic")


def _check_mode(model: nnx.Module) -> None:
    """Raises where a module of the model is in training mode."""
    from flax import nnx

    found: dict[str, list[str]] = {}
    for path, module in nnx.iter_modules(model):
        for flag in _EVALUATION_FLAGS:
            if _trains(module, flag, getattr(module, flag, None)):
                found.setdefault(flag, []).append(_join(path) or "the model itself")
    if found:
        where = "; ".join(f"{flag}=False in {', '.join(paths)}" for flag, paths in found.items())
        flags = ", ".join(f"{flag}=True" for flag in found)
        raise TrainingModeError(
            f"{type(model).__name__} is in training mode: {where}. Call model.eval() first, or "
            f"pass nnx.with_attributes(model, {flags}), a copy in evaluation mode"
        )


def _trains(module: nnx.Module, flag: str, value: Any) -> bool:
    """Whether the module would train with this value of the flag; None where it is not set."""
    if value is None or value:
        return False
    rates = [getattr(module, name, 0) for name in ("rate", "dropout_rate")]
    return flag == "use_running_average" or any(rates)


def _holds_arrays(path: Any, value: Any) -> bool:
    """Whether a variable belongs to the state: it is all arrays, and no generator's."""
    from flax import nnx

    return not isinstance(value, nnx.RngState) and all(
        hasattr(leaf, "dtype") and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        for leaf in jax.tree.leaves(value)
    )


@dataclass(frozen=True)
class _Name:
    """Path of the nearest callable module above a module, and the path from there to it."""

    parent: str
    own: str

    @property
    def path(self) -> str:
        return f"{self.parent}/{self.own}" if self.parent else self.own

    def below(self, caller: str) -> str:
        """The scope to open inside the module ``caller``; "" where it is open already."""
        if self.path == caller:  # super().__call__, or the copy that nnx.remat makes
            return ""
        if not caller or self.path.startswith(f"{caller}/"):
            return self.path.removeprefix(f"{caller}/")
        return self.own


#: The attribute that holds a `_Name`. nnx.Dict does not count those of this prefix as its own.
_NAME = "_pytree__excitation_name"


def _name_modules(model: nnx.Module) -> set[type]:
    """Gives every callable module of ``model`` its name.

    Returns:
      The classes whose ``__call__`` they run.
    """
    from flax import nnx

    modules = {path: module for path, module in nnx.iter_modules(model) if callable(module)}
    classes = set()
    for path, module in modules.items():
        above = [path[:n] for n in range(len(path)) if path[:n] in modules]
        parent = above[-1] if above else ()
        name = _Name(_join(parent), _join(path[len(parent) :]))
        object.__setattr__(module, _NAME, name)  # nnx's own looks for arrays in the value
        # A class below the first is reached by super().__call__, with arguments of its own.
        first, *more = [base for base in type(module).__mro__ if "__call__" in vars(base)]
        classes |= {first, *(base for base in more if issubclass(base, nnx.Module))}
    return classes


def _join(path: Iterable[Any]) -> str:
    # A scope "a.b" would read as method b of the Linen module a.
    return "/".join(str(part).replace(".", "_") for part in path)


#: Path of the module whose scope is open.
_open: contextvars.ContextVar[str] = contextvars.ContextVar("_open", default="")
_lock = threading.Lock()
#: For each changed class, the number of calls that need the change, and its own ``__call__``.
_changed: dict[type, tuple[int, Any]] = {}


@contextlib.contextmanager
def _scopes(classes: set[type]) -> Iterator[None]:
    """Lets modules that carry a name open its scope when they are called."""
    with _lock:
        for cls in classes:
            count, original = _changed.get(cls, (0, vars(cls)["__call__"]))
            if not count:
                cls.__call__ = _scoped(original)  # type: ignore[method-assign]
            _changed[cls] = count + 1, original
    token = _open.set("")
    try:
        yield
    finally:
        _open.reset(token)
        with _lock:
            for cls in classes:
                count, original = _changed.pop(cls)
                if count > 1:
                    _changed[cls] = count - 1, original
                else:
                    cls.__call__ = original  # type: ignore[method-assign]


def _scoped(original: Any) -> Callable[..., Any]:
    """The ``__call__`` of a class, in the scope of the module's name where it has one."""

    @functools.wraps(original, updated=())
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = original.__get__(self, type(self))
        name = vars(self).get(_NAME)
        if name is None:
            return bound(*args, **kwargs)
        _check_call(self, name, bound, args, kwargs)
        scope = name.below(_open.get())
        token = _open.set(name.path)
        try:
            with jax.named_scope(scope) if scope else contextlib.nullcontext():
                return bound(*args, **kwargs)
        finally:
            _open.reset(token)

    return call


def _check_call(module: Any, name: _Name, bound: Any, args: Any, kwargs: Any) -> None:
    """Raises where the arguments of a call put the module in training mode."""
    for flag in _EVALUATION_FLAGS:
        if hasattr(module, flag):
            arguments = inspect.signature(bound).bind_partial(*args, **kwargs).arguments
            if _trains(module, flag, {**arguments, **kwargs}.get(flag)):
                raise TrainingModeError(
                    f"{name.path or 'the model'} is called with {flag}=False, as in training: "
                    f"call it with {flag}=True, or without, so that its attribute counts"
                )
