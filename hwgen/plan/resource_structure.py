"""What each kind of stage consists of: memories, multiplier blocks, and amounts of logic as its component has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, gcd

from hwgen.plan import stages
from hwgen.plan.lanes import windows_of
from hwgen.plan.resource_primitives import Memory, adder, banked, bits_for, memory
from hwgen.plan.stages import Stage
from hwgen.plan.window_lanes import parts_of
from rtl_templates import timing
from rtl_templates.sub_lists import SubLists
from rtl_templates.target import ECP5, Target
from rtl_templates.window_parts import LATENCY as WINDOW_LATENCY
from rtl_templates.windows import Windows

NO_MEMORY = Memory()

_VALUE_BITS = 8
# As quantisation makes them: multipliers of 16 bits.
_MULTIPLIER_BITS = 16
# Rows of a block, of which a deep list FIFO takes all.
_BLOCK_ROWS = 512


@dataclass(frozen=True)
class Structure:
    """What a stage consists of.

    Attributes:
        kind: whose coefficients it takes.
        amounts: of logic, by name.
        memory: of all memories.
        dsp: multiplier blocks.
    """

    kind: str
    amounts: Mapping[str, float]
    memory: Memory = NO_MEMORY
    dsp: int = 0


def structure(stage: Stage, family: str, target: Target) -> Structure:
    """What a stage consists of, for a family that was fitted, written for a target."""
    match stage:
        case stages.Source():
            return Structure("input", {"buffer": stage.lanes * _VALUE_BITS, "control": 1})
        case stages.Mac():
            return _mac(stage, family, target)
        case stages.Unrolled():
            return _unrolled(stage, family, target)
        case stages.Lanes():
            return _lanes(stage, family, target)
        case stages.WindowLanes():
            return _window_lanes(stage, family, target)
        case stages.Scatter():
            return _scatter(stage, family)
        case stages.Narrow():
            amounts = {"taken": stage.lanes_in * stage.bits, "given": stage.lanes_out * stage.bits, "control": 1}
            return Structure("narrow", amounts)
        case stages.DropEmpty():
            beats, lanes = len(stage.in_layout), len(stage.in_layout[0])
            return Structure("drop-empty", {"buffer": lanes * stage.bits, "control": 1 + bits_for(beats)})
        case stages.Pool():
            return _pool(stage, family)
        case stages.StreamPool():
            return _stream_pool(stage, family, target)
        case stages.Requantise():
            return _requantise(stage, family)
        case stages.AddBias():
            return _add_bias(stage, family)
        case stages.ReLU():
            return Structure("relu", {"buffer": stage.lanes * stage.bits, "control": 1})
        case stages.LocalWinners():
            return _local_winners(stage, family, target)
        case stages.Compact():
            channels = 1 + max(channel for row in stage.layout for channel in row)
            store = _position_store(
                family, target, stage.layout, timing.stored_positions(timing.COMPACT_POSITIONS, "entries")
            )
            return Structure(
                "compact", {"chosen": len(stage.layout[0]) * _VALUE_BITS, "channels": channels, "control": 1}, store
            )
        case stages.GlobalWinners():
            return _parallel_winners(stage, family) if stage.units > 1 else _global_winners(stage, family)
    raise AssertionError(f"no structure for {stage.kind}")


def _style(rows: int, target: Target) -> str:
    return "distributed" if rows <= target.distributed_depth else "block"


def _result_fifo(family: str, target: Target, depth: int, width: int) -> tuple[Memory, int]:
    """A ResultFifo of at least so many places: its memory, and the bits of its counters."""
    rows = 1 << max(1, bits_for(depth))
    return memory(family, rows, width, style=_style(rows, target)), 4 * bits_for(rows) + 2


def _word_buffer(family: str, payload: int, positions: int, beats: int, beats_per_row: int = 1) -> tuple[Memory, int]:
    """A WordBuffer with one reader: its memory, and the bits of a row's number."""
    address = bits_for(positions * -(-beats // beats_per_row))
    granule = payload if beats_per_row > 1 else 0
    return memory(family, 2 << address, payload * beats_per_row, granule=granule), address


def _regular(table: Memory) -> Memory:
    """Of a table whose contents follow a rule: about half of the LUTs of arbitrary contents."""
    return Memory(table.lut / 2, table.blocks)


def _walk(window: stages.Window, folds: int, interval: int, address: int) -> int:
    """Bits of a walker's counters."""
    (rows, columns), (down, across) = window.size, window.stride
    pixel_bits = bits_for(rows * down + 1) + bits_for(columns * across + 1)
    places = bits_for(rows) + bits_for(columns) + bits_for(folds)
    return bits_for(interval + stages.WORD_GAP) + places + pixel_bits + address


def _leaves(window: stages.Window) -> tuple[bool, ...]:
    """Of both axes: whether a window may leave the map."""
    return tuple(
        padding > 0 or (size - 1) * stride + (kernel - 1) * dilation - padding >= extent
        for padding, size, stride, kernel, dilation, extent in zip(
            window.padding, window.size, window.stride, window.kernel, window.dilation, window.map, strict=True
        )
    )


def _mac(stage: stages.Mac, family: str, target: Target) -> Structure:
    listed = stage.stream_lanes is None
    window, folds, readers, sets, kernels = stage.window, stage.folds, stage.readers, stage.parallel, stage.kernels
    lanes = stage.multipliers // sets
    per_reader = lanes // readers
    places, width = lanes * sets, stage.accumulator_bits
    routed = stage.routed and kernels > 1
    kernel_bits = bits_for(kernels) if routed else 0
    positions = window.map[0] * window.map[1]
    payload = (
        _VALUE_BITS + max(1, bits_for(stage.index_size)) if listed else _VALUE_BITS * per_reader // stage.beats_per_row
    )
    buffer, address = _word_buffer(family, payload, positions, stage.beats, stage.beats_per_row)

    # The step table, where its rows do not just count up: row of the buffer, and the place in the kernel along an axis
    # on which the window may leave the map.
    table, area = 0, window.area
    every = stage.steps == area * -(-stage.beats // stage.beats_per_row)
    counts_up = readers == 1 and window.size == (1, 1) and (every or listed)
    if stage.steps > 1:
        table += 0 if counts_up else address
        table += sum(
            bits_for(extent) + 1 for extent, leaves in zip(window.kernel, _leaves(window), strict=True) if leaves
        )
    if listed:
        pixels = -(-area // readers)
        weight_rows = folds * pixels * stage.list_rows * stage.index_size
        table += bits_for(weight_rows - stage.index_size + 1) if weight_rows > stage.index_size else 0
    else:
        weight_rows = folds * stage.steps
    table_rows = stage.steps if every and not listed else folds * stage.steps
    tables = _regular(memory(family, table_rows, table, rom=True)) * readers
    row = per_reader * sets * (_VALUE_BITS + kernel_bits)
    slots = stage.weight_bits / (_VALUE_BITS + kernel_bits)
    density = min(1.0, stage.nonzeros / slots) if stage.nonzeros and slots else 1.0
    weights, banks = banked(family, weight_rows, row, density)
    weights *= readers
    memories = buffer * readers + tables + weights
    amounts = {
        "banks": readers * row * (banks - 1),
        "activations": lanes * _VALUE_BITS,
        "walk": _walk(window, folds, stage.interval, address),
        "readers": readers * adder(max(1, address), family),
        "padding": readers * sum(_leaves(window)) * (address + 4),
        "rows": readers * adder(bits_for(weight_rows), family) if listed else 0,
        "control": 1,
    }
    nodes = (lanes - 1) * sets
    adders = adder(width, family)
    if not routed:
        kind = "mac single"
        memories += memory(family, stage.banks + (kernels > 1), width * sets, asynchronous=True)
        amounts |= {"sums": nodes * adders, "accumulators": sets * adders, "results": sets * width}
    elif stage.serial:
        kind = "mac serial"
        levels = bits_for(lanes)
        fifo, counters = _result_fifo(family, target, kernels + 2 + levels + 3, sets * width)
        rows = 1 << max(1, kernel_bits)
        memories += memory(family, rows, width + 1, asynchronous=True) * places + fifo
        amounts |= {"sums": nodes * adders, "accumulators": places * adders, "chosen": places * width}
        amounts |= {"addresses": places * kernel_bits, "results": counters}
    else:
        kind = "mac banked"
        size = 1 << kernel_bits
        memories += memory(family, stage.banks * size, width, reads=2, asynchronous=True) * places
        memories += memory(family, stage.banks, size * places, asynchronous=True)
        amounts |= {"sums": nodes * adders, "accumulators": places * adders, "chosen": places * width}
        amounts |= {"flags": places * size, "results": sets * width}
    # Two sets share a multiplier block where it is wide enough to keep their products apart.
    shared = 2 if target.pair_offset > 2 * _VALUE_BITS else 1
    return Structure(kind, amounts, memories, lanes * -(-sets // shared))


def _unrolled(stage: stages.Unrolled, family: str, target: Target) -> Structure:
    window, pool = stage.window, stage.pool
    outputs = 1 + max(channel for row in stage.layout for channel in row)
    beats, positions = len(stage.layout), pool[0] * pool[1]
    step = tuple(s * p for s, p in zip(window.stride, pool, strict=True))
    extent = tuple(timing.block_extent(k, s, p) for k, s, p in zip(window.kernel, window.stride, pool, strict=True))
    phases = -(-extent[0] // step[0])
    banks = phases * step[0]
    columns = gcd(stage.pixels, step[1])
    place_bits = bits_for(window.map[1] // stage.pixels)
    rows = 1 << (place_bits + 2)
    payload = stage.pixels * stage.channels * _VALUE_BITS
    ring = memory(family, rows, payload, style=_style(rows, target)) * banks

    # Levels of the graph: those of a tree over an output's adders, and one more where outputs share.
    depth = bits_for(stage.adders // outputs + 2) + 1
    pace = max(positions, beats)
    through = positions - 1 + depth + 3 + (positions > 1) + (2 if beats > 1 else 0)
    places = beats * -(-(6 + through + beats) // pace)
    width = stage.lanes * stage.accumulator_bits
    fifo, counters = _result_fifo(family, target, places, width)
    arriving = extent[0] * columns * stage.channels * _VALUE_BITS
    # With three operands or two, a LUT6 makes a bit of a sum. On the ECP5 a chain of its own begins and ends with half a
    # cell, and what is fitted is how much of it all remains.
    adders = Memory(lut=stage.adder_bits) if family == "ultrascale+" else NO_MEMORY
    amounts = {
        "adders": stage.adder_bits + 1.5 * stage.adders if family == "ecp5" else 0,
        "pool": outputs * adder(stage.accumulator_bits, family) if positions > 1 else 0,
        "narrow": outputs * stage.accumulator_bits if beats > 1 else 0,
        "arriving": arriving * (phases * (stage.pixels // columns) - 1),
        "taps": window.area * stage.channels * _VALUE_BITS * (positions - 1),
        "results": counters + width,
        "control": 1,
    }
    return Structure("unrolled", amounts, ring + fifo + adders)


def _lanes(stage: stages.Lanes, family: str, target: Target) -> Structure:
    lanes, sets, width = stage.lanes, stage.sets, stage.accumulator_bits
    kernel_bits, part_bits = bits_for(stage.kernels), bits_for(stage.parts)
    index_bits, weight_row_bits = max(1, bits_for(stage.index_size)), bits_for(stage.list_rows)
    entry = index_bits + _VALUE_BITS
    lists = SubLists(stage.entries, stage.split)
    row_bits = entry * lists.row_entries
    window = stage.window
    windows = windows_of(window)
    slot_bits = bits_for(lists.rows) + part_bits
    fifo_rows = _list_depth(windows, stage.interval, stage.cycles, slot_bits) << slot_bits
    style = "ultra" if target.ultra_ram and _style(fifo_rows, target) == "block" else _style(fifo_rows, target)
    fifos = memory(family, fifo_rows, row_bits, style=style) * lanes

    lane_rows = 1 << (index_bits + weight_row_bits + part_bits)
    slots = sets * (_VALUE_BITS + kernel_bits)
    together = 1 if lane_rows <= target.table_depth else 2
    weights = Memory()
    for count, ports in ((lanes // together, together), (lanes % together, 1)):
        rows = ports * lane_rows
        style = "block" if rows > target.table_depth else "auto"
        weights += memory(family, rows, slots, reads=ports, rom=True, style=style) * count
    banks = memory(family, 2 << kernel_bits, width, reads=2, asynchronous=True) * (lanes * sets)
    previous = memory(family, 2 << kernel_bits, sets * width, asynchronous=True)
    latency = lists.reads * stage.list_rows * stage.parts + 9 + lanes + 7
    under_way = -(-(latency + stage.kernels) // stage.interval)
    results, counters = _result_fifo(family, target, under_way * stage.kernels, sets * width)
    padded, pairs = windows.padded[0] + windows.padded[1], (lanes - stage.unpaired) * (sets // 2)
    amounts = {
        "accumulators": (lanes + 1) * sets * adder(width, family),
        "sums": -(-lanes // (target.adder_operands - 1)) * sets * adder(width, family),
        "overlaps": pairs if target.pairs_overlap else 0,
        "pairs": pairs,
        "kernel ids": lanes * sets * kernel_bits,
        "lanes": lanes,
        "entries": lanes * entry,
        "lists": stage.entries * entry,
        "waiting": stage.entries * entry,
        "pixels": padded,
        "results": counters,
        "control": 1,
    }
    return Structure("lanes", amounts, fifos + weights + banks + previous + results, lanes * sets - pairs)


def _list_depth(windows: Windows, interval: int, cycles: int, slot_bits: int) -> int:
    """Lists of a lane's FIFO, as ListConv chooses it."""
    depth = windows.full_speed_depth(interval, cycles)
    slot_rows = 1 << slot_bits
    # Deep enough for either target, whichever it is written for.
    return max(depth, _BLOCK_ROWS // slot_rows) if depth * slot_rows > ECP5.distributed_depth else depth


def _window_lanes(stage: stages.WindowLanes, family: str, target: Target) -> Structure:
    parts = parts_of(stage)
    lanes, sets, width = stage.lanes, stage.sets, stage.accumulator_bits
    kernel_bits, phase_bits = bits_for(stage.kernels), bits_for(parts.lists.list_rows)
    index_bits, weight_row_bits = max(1, bits_for(stage.index_size)), bits_for(stage.list_rows)
    entry = index_bits + _VALUE_BITS
    ring_rows = parts.ring << phase_bits
    style = "ultra" if target.ultra_ram and _style(ring_rows, target) == "block" else _style(ring_rows, target)
    rings = memory(family, ring_rows, entry * parts.lists.row_entries, style=style) * lanes
    lane_rows = 1 << (index_bits + weight_row_bits + bits_for(max(part.offsets for part in parts.parts)))
    slots, style = sets * (_VALUE_BITS + kernel_bits), "block" if lane_rows > target.table_depth else "auto"
    weights = Memory()
    for count, ports in ((parts.lanes // 2, 2), (parts.lanes % 2, 1)):
        weights += memory(family, lane_rows, slots, reads=ports, rom=True, style=style) * (count * stage.chains)
    accumulators = memory(family, 1 << kernel_bits, width, asynchronous=True) * (lanes * sets)
    beats = parts.lanes * stage.kernels
    previous = memory(family, beats, sets * width, style=_style(beats, target))
    latency = parts.steps + len(parts.groups) + WINDOW_LATENCY
    under_way = -(-(latency + stage.kernels) // stage.interval)
    results, counters = _result_fifo(family, target, under_way * stage.kernels, sets * width)
    pairs = (lanes - stage.unpaired) * (sets // 2)
    amounts = {
        "accumulators": lanes * sets * adder(width, family),
        "sums": stage.chains * sets * adder(width, family),
        "overlaps": pairs if target.pairs_overlap else 0,
        "pairs": pairs,
        "kernel ids": lanes * sets * kernel_bits,
        "lanes": lanes,
        "entries": lanes * entry,
        "lists": stage.entries * entry,
        "pixels": sum(windows_of(stage.window).padded),
        "results": counters,
        "control": stage.chains,
    }
    # A LUT a bit joins a group's sums to those before.
    joined = Memory(lut=stage.chains * len(parts.groups) * sets * width)
    memories = rings + weights + accumulators + previous + results + joined
    return Structure("window lanes", amounts, memories, lanes * sets - pairs)


def _scatter(stage: stages.Scatter, family: str) -> Structure:
    sets, width, places = stage.parallel, stage.accumulator_bits, stage.places
    positions = stage.window.map[0] * stage.window.map[1]
    index = bits_for(stage.channels * positions)
    buffer, _ = _word_buffer(family, _VALUE_BITS + max(1, index), 1, stage.entries)
    kernel_bits = bits_for(stage.kernels)
    depth = stage.channels * stage.window.area * stage.list_rows * stage.folds
    weights = memory(family, depth, sets * (_VALUE_BITS + kernel_bits), rom=True)
    banks = memory(family, places, width) * (2 * sets)
    place, row = bits_for(places), bits_for(depth)
    tables = Memory()
    for extent, kernel, stride in zip(stage.window.map, stage.window.kernel, stage.window.stride, strict=True):
        offsets = ceil(kernel / stride)
        tables += memory(family, extent << bits_for(offsets), 1 + place + row, rom=True)
    tables += memory(family, 2 * stage.channels, bits_for(stage.channels) + bits_for(positions), rom=True)
    amounts = {
        "adders": 2 * sets * adder(width, family),
        "values": 2 * sets * width,
        "addresses": sets * place,
        "places": place + row + index,
        "control": 1,
    }
    return Structure("scatter", amounts, buffer + weights + banks + tables, sets)


def _requantise(stage: stages.Requantise, family: str) -> Structure:
    lanes, beats = len(stage.layout[0]), len(stage.layout)
    multiplied = stage.multipliers > 0
    parts = timing.requantise_parts(stage.bits, stage.in_signed) if multiplied else 0
    split = multiplied and stage.in_signed and stage.bits == timing.BLOCK_WIDTH + 1
    # The shift leaves about 8 bits of the product.
    addend = stage.bits + _MULTIPLIER_BITS - 7 if multiplied else stage.bits - 2
    width = stage.bits + _MULTIPLIER_BITS if multiplied else stage.bits
    addends = memory(family, beats, lanes * addend, rom=True)
    multipliers = memory(family, beats, lanes * _MULTIPLIER_BITS, rom=True) if multiplied else Memory()
    amounts = {
        "adders": lanes * adder(width + 1, family),
        "split": lanes * adder(addend, family) if split else 0,
        "joined": lanes * adder(width - timing.PART_BITS, family) if parts > 1 else 0,
        "lanes": lanes,
        "signed": lanes if stage.signed else 0,
        "control": 1 + bits_for(beats),
    }
    return Structure("requantise", amounts, addends + multipliers, lanes * parts)


def _add_bias(stage: stages.AddBias, family: str) -> Structure:
    lanes, beats = len(stage.layout[0]), len(stage.layout)
    # A bias takes a few bits less than the sum.
    biases = memory(family, beats, lanes * max(1, stage.bits - 2), rom=True)
    amounts = {
        "adders": lanes * adder(stage.bits, family),
        "buffer": lanes * stage.bits,
        "control": 1,
    }
    return Structure("add-bias", amounts, biases)


def _stream_pool(stage: stages.StreamPool, family: str, target: Target) -> Structure:
    lanes, width = stage.lanes, stage.result_bits
    columns = -(-stage.map[1] // stage.kernel[1])
    rows = 1 << (bits_for(stage.beats) + bits_for(columns))
    partial = memory(family, rows, lanes * width, style=_style(rows, target))
    row = stage.map[1] // stage.kernel[1] * stage.beats
    fifo, counters = _result_fifo(
        family, target, max(16, row - row // stage.kernel[0] + stage.beats // 2 + 8), lanes * width
    )
    closest = stage.beats if stage.kernel[1] > 1 else (stage.map[1] - stage.kernel[1] + 1) * stage.beats
    amounts = {
        "compared": lanes * adder(stage.bits + 1, family),
        "chosen": lanes * width,
        "close": lanes * width if closest < 4 else 0,
        "results": counters,
        "places": bits_for(rows) + bits_for(stage.map[0]),
        "control": 1,
    }
    return Structure(f"stream pool {stage.function}", amounts, partial + fifo)


def _pool(stage: stages.Pool, family: str) -> Structure:
    window, lanes = stage.window, stage.lanes
    buffer, address = _word_buffer(family, lanes * stage.bits, window.map[0] * window.map[1], stage.beats)
    fifo = memory(family, 8, lanes * stage.result_bits)
    table = address + sum(
        bits_for(extent) + 1 for extent, leaves in zip(window.kernel, _leaves(window), strict=True) if leaves
    )
    steps = _regular(memory(family, window.area, table, rom=True))
    amounts = {
        "compared": lanes * adder(stage.bits, family),
        "chosen": lanes * stage.result_bits,
        "walk": _walk(window, stage.beats, window.area, address),
        "padding": sum(_leaves(window)) * (address + 4),
        "control": 1,
    }
    return Structure(f"pool {stage.function}", amounts, buffer + fifo + steps)


def _position_store(family: str, target: Target, layout: stages.Layout, positions: int) -> Memory:
    rows = 1 << (bits_for(len(layout)) + max(1, bits_for(positions)))
    return memory(family, rows, len(layout[0]) * _VALUE_BITS, style=_style(rows, target))


def _local_winners(stage: stages.LocalWinners, family: str, target: Target) -> Structure:
    channels, lanes = 1 + max(channel for row in stage.layout for channel in row), len(stage.layout[0])
    units = [
        last - first for first, last in timing.search_ranges(timing.search_steps(channels, stage.emit), stage.units)
    ]
    positions = timing.stored_positions(timing.local_positions(len(units), stage.emitters), stage.emit)
    store = _position_store(family, target, stage.layout, positions)
    amounts = {
        "marks": channels * len(units),
        # What a unit that does several steps marks comes from before it or from itself.
        "turns": channels * sum(steps > 1 for steps in units),
        "planes": channels * sum(steps - 1 for steps in units),
        "units": len(units) * (1 + bits_for(channels)),
        "control": 1,
    }
    if stage.emit == "values":
        amounts |= {"winners": channels, "beats": lanes * _VALUE_BITS}
        return Structure("local winners", amounts, store)
    emitters = stage.emitters
    entry = _VALUE_BITS + max(1, bits_for(channels))
    amounts |= {"chosen": lanes * _VALUE_BITS * emitters, "emitters": emitters, "channels": channels * emitters}
    if stage.emit == "lists":
        amounts["lists"] = stage.k * entry * emitters
    return Structure("local winners", amounts, store * emitters)


def _global_winners(stage: stages.GlobalWinners, family: str) -> Structure:
    channels = len(stage.layout)
    count = channels * stage.positions
    number = bits_for(count)
    histograms = memory(family, 256, bits_for(count + 1)) * 2
    values = memory(family, count, _VALUE_BITS) * 2
    order = memory(family, channels, number, rom=True) * (2 if stage.emit == "values" else 1)
    amounts = {"number": number, "control": 1}
    return Structure(f"global {stage.emit}", amounts, histograms + values + order)


def _parallel_winners(stage: stages.GlobalWinners, family: str) -> Structure:
    beats, lanes = len(stage.layout), len(stage.layout[0])
    channels = 1 + max(channel for row in stage.layout for channel in row)
    count, units = channels * stage.positions, stage.units
    counted = bits_for(beats * stage.positions + 1)
    histograms = memory(family, 256, counted) * (2 * lanes)
    words, address = _word_buffer(family, lanes * _VALUE_BITS, stage.positions, beats)
    places = memory(family, channels, bits_for(beats) + bits_for(lanes), rom=True)
    entry = _VALUE_BITS + bits_for(count)
    lists = memory(family, 2 << bits_for(stage.k), entry)
    amounts = {
        "counters": 2 * lanes * counted,
        "sums": (lanes - 1) * (counted + 2),
        "chosen": units * lanes * _VALUE_BITS,
        "entries": units * entry,
        "number": units * (bits_for(count) + address + bits_for(stage.k)),
        "control": 1,
    }
    return Structure("global parallel", amounts, histograms + (words + places + lists) * units)
