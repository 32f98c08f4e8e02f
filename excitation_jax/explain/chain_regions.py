"""The rows of a Markov chain's matrix for several affine operations that are one neuron (D2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..engine.carriers import Evaluation
from ..engine.regions import Place, Region
from ..program.trace import Op, Value
from .chain_rows import State, activation, active, lanes_of, signs

Dense = np.ndarray


class RegionRows:
    """The rows of a region's output: for each child, (neurons, of the child)."""

    def __init__(
        self, region: Region, env: dict[Value, Any], run: Evaluation,
        jacobians: Mapping[Place, list[Dense]],
    ):  # fmt: skip
        self.region, self.env, self.run, self.jacobians = region, env, run, jacobians
        self.top = region.output
        self.rows = math.prod(self.top.shape)
        self.made = {v for op in region.merged for v in op.outputs}
        # A part of the whole counts by its factor; its amount by that one's size.
        self.signed, self.sizes = self._down(np.asarray), self._down(np.abs)
        self.counts = self._down(lambda jacobian: np.abs(np.sign(jacobian)))

    def of(self, direction: int) -> tuple[list[tuple[State, Dense]], dict[Value, Dense]]:
        """By states of the children; and which part of P passes which partial sum."""
        affine, found, passing = self._split(direction)
        inside = {op: self._connections(op, direction) for op in self.region.members}
        excited = {op.outputs[0]: block.sum(1) for op, block in inside.items()}
        total = self._up(excited, np.abs).get(self.top, np.zeros(self.rows))
        for op, block in inside.items():
            share = _divided(self.sizes[op.outputs[0]] @ block, total)
            found[op, self._source(op)] = affine[:, None] * share
        for value, part in self._parts(excited, total).items():
            passing[value] = passing.get(value, 0) + affine[:, None] * part
        passing.update({value: self.counts[value] for value in self.region.whole})
        rows = []
        for (op, i), block in found.items():
            way = None if op in inside else self.region.signs[op, i]
            for lane, columns in lanes_of(self.run, op, i, direction, way):
                rows.append(((lane, op.inputs[i]), block * columns[None, :]))
        return rows, passing

    def _down(self, of: Callable[[Dense], Dense]) -> dict[Value | Place, Dense]:
        """For each part, (the whole, the part): products of a function of the factors."""
        found: dict[Any, Dense] = {self.top: np.eye(self.rows)}
        for op in reversed(self.region.inner):
            for i, value in enumerate(op.inputs):
                for out, jacobian in zip(op.outputs, self.jacobians.get((op, i), []), strict=False):
                    name = value if value in self.made else (op, i)
                    if out in found:
                        found[name] = found.get(name, 0) + found[out] @ of(jacobian)
        return found

    def _up(self, parts: Mapping[Any, Dense], of: Callable[[Dense], Dense]) -> dict[Any, Dense]:
        """The amounts of all values inside, from those of some parts."""
        found = dict(parts)
        for op in self.region.inner:
            for i, value in enumerate(op.inputs):
                name = value if value in self.made else (op, i)
                for out, jacobian in zip(op.outputs, self.jacobians.get((op, i), []), strict=False):
                    if name in found:
                        found[out] = found.get(out, 0) + of(jacobian) @ found[name]
        return found

    def _parts(self, excited: Mapping[Value, Dense], total: Dense) -> dict[Value, Dense]:
        """Which part of the affine terms' P passes a partial sum; alike where nothing excites."""
        alike = {value: np.ones_like(z) for value, z in excited.items()}
        amounts, numbers = self._up(excited, np.abs), self._up(alike, np.abs)
        found = {}
        for value in self.region.values:
            if value in amounts:
                by_amount = _divided(self.sizes[value] * amounts[value], total)
                evenly = _divided(self.sizes[value] * numbers[value], numbers[self.top])
                found[value] = np.where(total[:, None] == 0, evenly, by_amount)
        return found

    def _source(self, op: Op) -> int:
        return op.inputs.index(self.run.plan.steps[op].sources[0])

    def _connections(self, op: Op, direction: int) -> Dense:
        """Eq. 6: h w+, (neurons of a member, their children)."""
        i, step = self._source(op), self.run.plan.steps[op]
        reading = step.readings[i]
        before = signs(None if reading is None else reading.sign, op.inputs[i], self.run)
        behind = direction * signs(self.region.signs[op], op.outputs[0], self.run)
        weights = np.maximum(behind[:, None] * self.jacobians[op, i][0] * before[None, :], 0)
        return weights * activation(step, i, self.env, self.run, 1)[None, :]

    def _towards(self, place: Place, direction: int) -> Dense:
        """Eq. 19: what the elements of another summand contribute."""
        op, i = place
        step, value = self.run.plan.steps[op], op.inputs[i]
        reading = step.readings[i]
        push = direction * signs(self.region.signs[place], value, self.run)
        push = push * signs(None if reading is None else reading.sign, value, self.run)
        up, down = (activation(step, i, self.env, self.run, way) for way in (1, -1))
        return np.where(push > 0, up, down)

    def _split(self, direction: int) -> tuple[Dense, dict[Place, Dense], dict[Value, Dense]]:
        """Which part of P all affine terms get, what the other summands, and what passes sums."""
        region, run = self.region, self.run
        if not region.others:
            return np.ones(self.rows), {}, {}
        h = {place: self._towards(place, direction) for place in region.others}
        depends = {(op, i): active(run, op.inputs[i], self.env) for op, i in region.others}
        amounts, numbers = self._up(h, np.abs), self._up(depends, lambda j: np.abs(np.sign(j)))
        y, own = self._affine(direction)
        total, alone = amounts[self.top] + y, numbers[self.top] + own == 1

        def part(name: Any, amount: Dense, number: Dense) -> Dense:
            share = _divided(self.sizes[name] * amount, total)
            return np.where(alone[:, None], ~own[:, None] * self.counts[name] * number, share)

        shares = {place: part(place, h[place], depends[place]) for place in region.others}
        passing = {v: part(v, amounts[v], numbers[v]) for v in region.values if v in amounts}
        return np.where(alone, own, _divided(y[:, None], total)[:, 0]), shares, passing

    def _affine(self, direction: int) -> tuple[Dense, Dense]:
        """The value of all affine terms together, and whether they depend on the input."""
        region, run = self.region, self.run
        if not region.members:
            return np.zeros(self.rows), np.zeros(self.rows, bool)
        y = np.ravel(np.asarray(self.env[self.top], float))
        for op, i in region.others:
            summand = jnp.asarray(self.env[op.inputs[i]], float)
            reading = run.plan.steps[op].readings[i]
            if reading is not None:  # what constants add to an activation is no part of it
                summand = summand - reading.offset(self.env, summand.dtype, {})
            y = y - self.signed[op, i] @ np.ravel(np.asarray(summand))
        values = [op.outputs[0] for op in region.members]
        own = sum(self.counts[value] @ active(run, value, self.env) for value in values)
        sign = signs(region.signs[self.top], self.top, run)
        return np.maximum(direction * sign * y, 0), np.asarray(own) > 0


def _divided(block: Dense, total: Dense) -> Dense:
    scale = np.divide(1, total, out=np.zeros_like(total), where=total != 0)
    return scale[:, None] * block
