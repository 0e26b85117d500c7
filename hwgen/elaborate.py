"""A plan as Amaranth components: a table from kinds of stage to templates, which decides nothing."""

from __future__ import annotations

import re

import numpy as np
from amaranth.hdl import Shape, signed, unsigned

from hwgen.format.network import Conv2d, Linear
from hwgen.format.network import Requantise as RequantiseLayer
from hwgen.format.packed import PackedNetwork
from hwgen.plan import lanes, scatter, stages
from hwgen.plan.schedule import dense_packing, tables
from hwgen.plan.stages import WORD_GAP, Plan, Stage
from hwgen.plan.unrolled import graph_of
from rtl_templates.add_bias import AddBias
from rtl_templates.compact import Compact
from rtl_templates.drop_empty import DropEmpty
from rtl_templates.global_winners import GlobalWinners
from rtl_templates.list_conv import ListConv
from rtl_templates.local_winners import LocalWinners
from rtl_templates.mac_engine import MacEngine
from rtl_templates.narrow import Narrow
from rtl_templates.parallel_winners import ParallelGlobalWinners
from rtl_templates.pipe import StreamBuffer
from rtl_templates.pipeline import Pipeline
from rtl_templates.pool import Pool
from rtl_templates.relu import ReLU
from rtl_templates.requantise import Requantise
from rtl_templates.scatter_engine import Reach, ScatterEngine
from rtl_templates.stream_pool import StreamPool
from rtl_templates.streams import value_beat
from rtl_templates.target import target_of
from rtl_templates.unrolled_conv import UnrolledConv
from rtl_templates.walk import Walk
from rtl_templates.window_conv import WindowConv


def accelerator(plan: Plan, packed: PackedNetwork) -> Pipeline:
    """The component with stream `x` in and stream `y` out that carries out the plan."""
    network = _Elaborator(plan, packed)
    components = [
        (f"stage_{index}_{_identifier(stage.name)}_{_identifier(stage.kind)}", network.component(stage))
        for index, stage in enumerate(plan.stages)
    ]
    return Pipeline(components, linked=network.target.links, own_resets=True)


def stage_component(plan: Plan, packed: PackedNetwork, stage: Stage):
    """The component of one stage of the plan, to be looked at alone."""
    return _Elaborator(plan, packed).component(stage)


class _Elaborator:
    def __init__(self, plan: Plan, packed: PackedNetwork):
        self.plan, self.packed, self.target = plan, packed, target_of(plan.family, plan.ultra_ram)
        self.layers = {layer.name: layer for layer in packed.network.layers}

    def component(self, stage: Stage):
        match stage:
            case stages.Source():
                shape = _shape(8, self.packed.network.input.signed)
                return StreamBuffer(value_beat(shape, stage.lanes))
            case stages.Mac():
                return self._mac(stage)
            case stages.Unrolled():
                return self._unrolled(stage)
            case stages.Lanes():
                return self._lanes(stage)
            case stages.WindowLanes():
                return self._window_lanes(stage)
            case stages.Scatter():
                return self._scatter(stage)
            case stages.Narrow():
                return Narrow(_shape(stage.bits, stage.signed), stage.lanes_in, stage.lanes_out)
            case stages.DropEmpty():
                return DropEmpty(stage.in_layout, _shape(stage.bits, stage.signed))
            case stages.Pool():
                return self._pool(stage)
            case stages.StreamPool():
                return StreamPool(
                    stage.function,
                    _shape(stage.bits, stage.signed),
                    _shape(stage.result_bits, stage.result_signed),
                    lanes=stage.lanes,
                    beats=stage.beats,
                    map=stage.map,
                    kernel=stage.kernel,
                )
            case stages.Requantise():
                return self._requantise(stage)
            case stages.AddBias():
                shape = _shape(stage.bits, stage.signed)
                return AddBias(stage.layout, self._bias(stage.bias_of), shape, shape)
            case stages.ReLU():
                return ReLU(_shape(stage.bits, stage.signed), stage.lanes)
            case stages.LocalWinners():
                return LocalWinners(
                    stage.layout, _shape(8, stage.signed), stage.k, stage.emit, stage.units, stage.emitters
                )
            case stages.Compact():
                return Compact(stage.layout, _shape(8, stage.signed), stage.size)
            case stages.GlobalWinners():
                arguments = (stage.layout, stage.positions, _shape(8, stage.signed), stage.k, stage.emit)
                if stage.units > 1:
                    return ParallelGlobalWinners(*arguments, stage.units)
                return GlobalWinners(*arguments)
        raise AssertionError(f"no template for {stage.kind}")

    def _bias(self, name: str) -> list[int]:
        layer = self.layers[name]
        assert isinstance(layer, Linear | Conv2d)
        return [int(value) for value in layer.bias]

    def _mac(self, stage: stages.Mac) -> MacEngine:
        layer = self.layers[stage.name]
        assert isinstance(layer, Linear | Conv2d)
        packing = dense_packing(layer) if stage.mode == "dense" else self.packed.packings[stage.name]
        content = tables(stage, packing)
        window = stage.window
        rows_per_pixel = -(-stage.beats // stage.beats_per_row)
        walk = Walk(
            rows=window.size[0],
            columns=window.size[1],
            row_stride=window.stride[0],
            column_stride=window.stride[1],
            map_rows=window.map[0],
            map_columns=window.map[1],
            rows_per_pixel=rows_per_pixel,
            folds=stage.folds,
            fold_stride=0,
            dy=content.kernel_y * window.dilation[0] - window.padding[0],
            dx=content.kernel_x * window.dilation[1] - window.padding[1],
            offset=content.offset,
            present=content.present,
            weight=content.weight,
            interval=stage.interval,
            gap=WORD_GAP,
        )
        return MacEngine(
            shape=_shape(8, stage.signed),
            stream_lanes=stage.stream_lanes,
            index_size=stage.index_size,
            positions=window.map[0] * window.map[1],
            beats=stage.beats,
            beats_per_row=stage.beats_per_row,
            walk=walk,
            weights=content.weights,
            kernel_ids=content.kernel_ids,
            kernels=stage.kernels,
            accumulator=signed(stage.accumulator_bits),
            banks=stage.banks,
            routed=stage.routed,
            serial=stage.serial,
        )

    def _unrolled(self, stage: stages.Unrolled) -> UnrolledConv:
        layer = self.layers[stage.name]
        assert isinstance(layer, Conv2d)
        return UnrolledConv(
            graph_of(layer, stage.signed, self.target),
            shape=_shape(8, stage.signed),
            accumulator=signed(stage.accumulator_bits),
            channels=stage.channels,
            map=stage.window.map,
            kernel=stage.window.kernel,
            stride=stage.window.stride,
            pool=stage.pool,
            pixels=stage.pixels,
            lanes=stage.lanes,
        )

    def _lanes(self, stage: stages.Lanes) -> ListConv:
        weights, kernel_ids = lanes.weights(stage, self.packed.packings[stage.name])
        return ListConv(
            shape=_shape(8, stage.signed),
            entries=stage.entries,
            windows=lanes.windows_of(stage.window),
            weights=weights,
            kernel_ids=kernel_ids,
            kernels=stage.kernels,
            accumulator=signed(stage.accumulator_bits),
            offset=self.target.pair_offset,
            parts=stage.parts,
            split=stage.split,
            unpaired=stage.unpaired,
        )

    def _window_lanes(self, stage: stages.WindowLanes) -> WindowConv:
        weights, kernel_ids = lanes.weights(stage, self.packed.packings[stage.name])
        return WindowConv(
            shape=_shape(8, stage.signed),
            entries=stage.entries,
            windows=lanes.windows_of(stage.window),
            weights=weights,
            kernel_ids=kernel_ids,
            kernels=stage.kernels,
            accumulator=signed(stage.accumulator_bits),
            interval=stage.interval,
            chains=stage.chains,
            offset=self.target.pair_offset,
            unpaired=stage.unpaired,
        )

    def _scatter(self, stage: stages.Scatter) -> ScatterEngine:
        weights, kernel_ids = scatter.weights(stage, self.packed.packings[stage.name])
        vertical, horizontal = (
            Reach(stage.window.size[axis], table.inside, table.output, table.kernel)
            for axis in (0, 1)
            for table in (scatter.reach(stage.window, axis),)
        )
        return ScatterEngine(
            shape=_shape(8, stage.signed),
            entries=stage.entries,
            vertical=vertical,
            horizontal=horizontal,
            weights=weights,
            kernel_ids=kernel_ids,
            kernels=stage.kernels,
            accumulator=signed(stage.accumulator_bits),
        )

    def _pool(self, stage: stages.Pool) -> Pool:
        window = stage.window
        y, x = (part.reshape(1, -1, 1) for part in np.indices(window.kernel))
        walk = Walk(
            rows=window.size[0],
            columns=window.size[1],
            row_stride=window.stride[0],
            column_stride=window.stride[1],
            map_rows=window.map[0],
            map_columns=window.map[1],
            rows_per_pixel=stage.beats,
            folds=stage.beats,
            fold_stride=1,
            dy=y * window.dilation[0] - window.padding[0],
            dx=x * window.dilation[1] - window.padding[1],
            offset=np.zeros_like(y),
            present=np.ones_like(y, dtype=bool),
            weight=None,
            interval=window.area,
            gap=WORD_GAP,
        )
        return Pool(
            stage.function,
            _shape(stage.bits, stage.signed),
            _shape(stage.result_bits, stage.result_signed),
            lanes=stage.lanes,
            positions=window.map[0] * window.map[1],
            beats=stage.beats,
            walk=walk,
        )

    def _requantise(self, stage: stages.Requantise) -> Requantise:
        layer = self.layers[stage.name]
        assert isinstance(layer, RequantiseLayer)
        channels = 1 + max(channel for row in stage.layout for channel in row)
        # Behind a Flatten there is a multiplier for each position as well; the planner has checked that they are equal.
        by_channel = layer.multiplier[:: max(1, layer.multiplier.size // channels)]
        multipliers = [int(value) for value in np.broadcast_to(by_channel, channels)]
        biases = self._bias(stage.bias_of) if stage.bias_of else [0] * channels
        return Requantise(
            stage.layout,
            multipliers,
            biases,
            layer.shift,
            _shape(stage.bits, stage.in_signed),
            _shape(8, stage.signed),
        )


def _shape(bits: int, is_signed: bool) -> Shape:
    return signed(bits) if is_signed else unsigned(bits)


def _identifier(name: str) -> str:
    return re.sub(r"[^0-9A-Za-z]+", "_", name)
