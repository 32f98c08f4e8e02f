"""Which rule meets which primitive; the presets."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from jax import lax
from jax.extend.core import primitives

from ..program import compat
from ..program.primitives import TABLE, Kind
from .passing import (
    Difference,
    Elementwise,
    Gather,
    Move,
    Place,
    PlacedWinner,
    Product,
    Quotient,
    Select,
    Winner,
    Within,
)
from .rule import CustomRule, Rule
from .sharing import Affine, DeviceSum, PlacedSum, Sum

Primitive = compat.Primitive


@dataclass(frozen=True, eq=False, repr=False)
class RuleSet:
    """An immutable choice of a rule for every primitive.

    Args:
      name: shown by `explain_rules`.
      table: rule by primitive.
      calls: rule by name of a jitted function, which then is one operation.
      scopes: ``(pattern, rules)`` pairs; where a module path matches the shell-style pattern,
        those rules hold. Later pairs win.
      default: rule for primitives that are not in the table; None refuses them.

    A rule is a function ``rule(call, p)`` of the operation's values and the probability at its
    output. It returns the probability of each operand, None for those that get nothing:

    >>> import jax, jax.numpy as jnp
    >>> from jax import lax
    >>> import excitation_jax as ej
    >>> def first_takes_all(call, p):
    ...     return p, jnp.zeros_like(p)
    >>> rules = ej.EXCITATION.replace({lax.add_p: first_takes_all})
    >>> f = ej.excite(lambda x: jnp.abs(x) + x[::-1], rules=rules)
    >>> jax.vjp(f, jnp.array([1.0, 2.0]))[1](jnp.array([1.0, 0.0]))[0].tolist()
    [1.0, 0.0]
    """

    name: str
    table: Mapping[Primitive, Rule]
    scopes: tuple[tuple[str, RuleSet], ...] = field(default=())
    calls: Mapping[str, Rule] = field(default_factory=lambda: MappingProxyType({}))
    default: Rule | None = None

    def __repr__(self) -> str:
        # The table has some eighty rows, and `help` shows this for every default argument.
        return f"<RuleSet {self.name}>"

    def rule_for(self, primitive: Primitive, path: str, call: str | None = None) -> Rule | None:
        """The rule for a primitive in the module at ``path``; None if there is none.

        Args:
          call: the name of the jitted function, where it is the call of one.
        """
        for pattern, rules in reversed(self.scopes):
            if fnmatch.fnmatchcase(path, pattern):
                return rules.rule_for(primitive, path, call)
        return self.table.get(primitive, self.default) if call is None else self.calls.get(call)

    @property
    def call_names(self) -> frozenset[str]:
        """Names of the jitted functions that have a rule in some part of a model."""
        return frozenset(self.calls).union(*(rules.call_names for _, rules in self.scopes))

    def replace(
        self, rules: Mapping[Primitive | Callable[..., Any], Rule | Callable[..., Any]]
    ) -> RuleSet:
        """A new rule set with these rules in place of, or added to, the present ones.

        Args:
          rules: rules by JAX primitive, or by jitted function (recognised by its name), which
            then is one operation, whatever is inside: a Pallas kernel or an FFI call, say.

        Raises:
          TypeError: a key is neither, or a rule is not callable.
        """
        table, calls = dict(self.table), dict(self.calls)
        for key, rule in rules.items():
            if not callable(rule) and not isinstance(rule, Rule):
                raise TypeError(f"the rule for {key!r} is not callable: {rule!r}")
            made = rule if isinstance(rule, Rule) else CustomRule(rule)
            if isinstance(key, Primitive):
                table[key] = made
            elif hasattr(key, "lower") and hasattr(key, "__name__"):
                calls[key.__name__] = made
            else:
                raise TypeError(
                    "rules are given by JAX primitive (jax.lax.add_p, say) or by function "
                    f"decorated with jax.jit, not {key!r}"
                )
        return replace(
            self, name=f"{self.name}+", table=MappingProxyType(table), calls=MappingProxyType(calls)
        )

    def scoped(self, pattern: str, rules: RuleSet) -> RuleSet:
        """A new rule set that uses ``rules`` in modules whose path matches ``pattern``.

        >>> import excitation_jax as ej
        >>> rules = ej.EXCITATION.scoped("layer4/*", ej.EXCITATION_RESIDUAL)
        """
        return replace(self, name=f"{self.name}+", scopes=(*self.scopes, (pattern, rules)))


def excitation_rules(
    name: str, *, effective: bool = True, clamped: bool = True, skips: str = "share",
    merges: bool = True, evenly: bool = False,
) -> RuleSet:  # fmt: skip
    """The rules of Excitation Backprop; the options are those of `Affine` and `Sum`."""
    affine = Affine(effective, clamped, merges, evenly)
    total = Sum(clamped, skips, merges, evenly)
    by_kind: dict[Kind, Rule] = {
        Kind.ELEMENTWISE: Elementwise(), Kind.IDENTITY: Elementwise(), Kind.MOVE: Move(),
        Kind.SUM: affine, Kind.AFFINE: affine,
        Kind.WINNER: Winner(), Kind.NEST: Within(),
    }  # fmt: skip
    exceptions: dict[Primitive, Rule] = {
        **dict.fromkeys((lax.add_p, primitives.add_jaxvals_p), total),
        lax.sub_p: Sum(merges=merges, evenly=evenly) if clamped else Difference(),
        lax.mul_p: Product(), lax.div_p: Quotient(),
        lax.max_p: Winner(), lax.min_p: Winner(), lax.select_n_p: Select(),
        lax.gather_p: Gather(), lax.scatter_p: Place(),
        lax.scatter_add_p: PlacedSum(clamped, merges, evenly),
        lax.scatter_max_p: PlacedWinner(), lax.scatter_min_p: PlacedWinner(),
        **dict.fromkeys((lax.psum_p, compat.psum_invariant_p), DeviceSum(merges, evenly)),
    }  # fmt: skip
    # Under explicit sharding (reshard) nothing has been tried.
    rows = {primitive: row for primitive, row in TABLE.items() if primitive is not compat.reshard_p}
    table = {p: by_kind[row.kind] for p, row in rows.items() if row.kind in by_kind} | exceptions
    return RuleSet(name, MappingProxyType(table))


@functools.lru_cache(maxsize=64)
def without_norm(rules: RuleSet, sides: tuple[int, ...] = (1, -1)) -> RuleSet:
    """The rules without Z of Eq. 6: at every affine operation a child gets ``P h w+``.

    What arrives is no probability (IJCV18, 6.1.3, "w/o norm"). Pooling counts as affine; the sum of
    two signals keeps the quotient of Eq. 19, between what its summands are: each layer of a sum is
    a neuron of its own. Where nothing excites an affine operation, nothing is handed on. w are the
    layer's own weights, with the sign of a scale behind them (a BatchNorm's), not its size.

    Args:
      rules: any rules; those of a user's own are left as they are.
      sides: of a contrastive pass, those that the top layer sends: ``(1, -1)`` the target's less
        the negated classifier's, ``(1,)`` the target's alone, ``(-1,)`` the other's, negative.

    Returns:
      The same object for the same arguments: rule sets are keys of compiled programs.

    >>> import jax, jax.numpy as jnp
    >>> import excitation_jax as ej
    >>> rules = ej.rules.without_norm(ej.EXCITATION)
    >>> f = ej.excite(lambda x: x @ jnp.array([2.0, 1.0]), rules=rules)
    >>> jax.vjp(f, jnp.array([3.0, 5.0]))[1](jnp.float32(1))[0].tolist()
    [6.0, 5.0]
    """

    def changed(rule: Rule) -> Rule:
        if isinstance(rule, Affine):
            return replace(rule, merges=False, evenly=False, normalises=False, sides=sides)
        if isinstance(rule, Sum | PlacedSum | DeviceSum):
            return replace(rule, merges=False)
        return rule

    return replace(
        rules,
        name=f"{rules.name} without norm",
        table=MappingProxyType({key: changed(rule) for key, rule in rules.table.items()}),
        calls=MappingProxyType({key: changed(rule) for key, rule in rules.calls.items()}),
        scopes=tuple((pattern, without_norm(scope, sides)) for pattern, scope in rules.scopes),
    )


#: The rules of the papers, for any network (design: R1 to R9).
EXCITATION = excitation_rules("EXCITATION")

#: What TorchRay computes: raw weights (BatchNorm invisible), values not clamped, sums split by
#: the signed a / (a + b). To compare with published maps, not to explain models.
EXCITATION_TORCHRAY = excitation_rules(
    "EXCITATION_TORCHRAY", effective=False, clamped=False, merges=False
)

#: At the sum of an identity skip and a residual branch the skip gets nothing (IJCV18, Fig. 7c).
EXCITATION_RESIDUAL = excitation_rules("EXCITATION_RESIDUAL", skips="nothing")

#: A neuron that nothing excites (its bias drives it) hands its probability on evenly, to all its
#: children: so none is lost on the way down (D10).
EXCITATION_CONSERVING = excitation_rules("EXCITATION_CONSERVING", evenly=True)

#: Every layer is a neuron of its own: a sum of several splits by their values first (Eq. 19), as in
#: all versions up to 0.1.
EXCITATION_UNMERGED = excitation_rules("EXCITATION_UNMERGED", merges=False)
