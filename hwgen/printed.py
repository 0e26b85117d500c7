"""What commands print: tables for people, or one JSON object."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hwgen import terminal

if TYPE_CHECKING:
    from hwgen.format.packed import PackedNetwork
    from hwgen.plan import Plan


def network_figures(packed: PackedNetwork, path: str) -> dict[str, Any]:
    """Of what packing made of a network, for JSON."""
    layers = [asdict(layer) for layer in packed.report()]
    slots = sum(layer["slots"] for layer in layers)
    return {
        "path": path,
        "nonzeros": sum(layer["nonzeros"] for layer in layers),
        "packing_efficiency": sum(layer["nonzeros"] for layer in layers) / slots if slots else 1.0,
        "layers": layers,
    }


def network(packed: PackedNetwork, json: bool, path: str) -> None:
    """What packing made of each layer."""
    if json:
        terminal.print_json(network_figures(packed, path))
        return
    columns = (
        "layer",
        "weight",
        "non-zeros",
        "density",
        "sets",
        "kernels a set",
        "rows",
        "efficiency",
        "sum bits",
    )
    rows = [
        (
            layer.name,
            "x".join(map(str, layer.shape)),
            layer.nonzeros,
            f"{layer.density:.1%}",
            layer.sets,
            layer.kernels,
            layer.rows,
            f"{layer.efficiency:.1%}",
            layer.accumulator_bits,
        )
        for layer in packed.report()
    ]
    terminal.print_table(path, columns, rows, left=2)


def plan(made: Plan, json: bool) -> None:
    """The stages of a plan."""
    from hwgen import plan_table

    if json:
        terminal.print_json(plan_table.figures(made))
    else:
        plan_table.show(made)


def figures(title: str, values: dict[str, Any], json: bool) -> None:
    """Names and values."""
    if json:
        terminal.print_json(values)
        return
    terminal.print_table(title, ("", ""), [(name.replace("_", " "), value) for name, value in values.items()])


def build(made: Any, json: bool) -> None:
    """What place and route took and reached; says so where it missed its clock."""
    values = made.to_json()
    if not made.timing_met:
        terminal.say(
            f"hwgen: timing: the slowest path allows {made.core_mhz:.1f} MHz of the {made.clock_mhz:.1f} MHz asked for; "
            "build with a lower --clock or another --seed before using the bitstream"
        )
    if json:
        terminal.print_json(values)
        return
    rows = [
        (resource, used["used"], used["available"], f"{used['used'] / used['available']:.1%}")
        for resource, used in made.utilisation.items()
    ]
    terminal.print_table(f"Used of {made.board}", ("", "used", "available", ""), rows)
    rest = ("clock_mhz", "timing_met", "cycles_per_word", "words_per_second", "baud", "link_words_per_second")
    clocks = {f"Fmax of {name}, MHz": fmax for name, fmax in values["fmax_mhz"].items()}
    figures(str(made.bitstream), {**clocks, **{name: values[name] for name in rest}}, False)


def demo(result: Any) -> None:
    """Accuracies, and what each mode takes."""
    accuracies = [
        ("dense, float", f"{result.accuracy_dense:.2%}"),
        ("sparse, float", f"{result.accuracy_sparse:.2%}"),
        ("sparse, int8", f"{result.accuracy_int8:.2%}"),
        ("sparse, hardware", f"{result.accuracy_hardware:.2%}"),
    ]
    terminal.print_table(f"Accuracy on {result.images} test images", ("network", "accuracy"), accuracies)
    rows = [
        (
            name,
            mode.multipliers,
            f"{mode.cycles_per_word:,.0f}",
            mode.cycles_planned,
            f"{mode.cycles_times_multipliers:,.0f}",
            f"{mode.packing_efficiency:.1%}",
            mode.bit_exact,
        )
        for name, mode in result.modes.items()
    ]
    columns = (
        "mode",
        "multipliers",
        "cycles measured",
        "cycles planned",
        "cycles x multipliers",
        "packing",
        "bit-exact",
    )
    terminal.print_table(f"One image, each mode as fast as the multipliers of {result.board} allow", columns, rows)
    print(f"{result.nonzeros:,} of {result.weights:,} weights are non-zero.")
