"""The pins of boards: amaranth-boards' definitions, and what they lack."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from amaranth.build import Attrs, Pins, Resource, Subsignal

from boards.catalogue import Board
from hwgen.errors import PlanError, ToolError, install

# Where a board has no serial line of its own: its lines on a connector, to which a converter is wired.
SERIAL = {
    # The Feather's RX and TX.
    "orangecrab-85f": Resource(
        "uart",
        0,
        Subsignal("rx", Pins("0", dir="i", conn=("io", 0))),
        Subsignal("tx", Pins("1", dir="o", conn=("io", 0))),
        Attrs(IO_TYPE="LVCMOS33"),
    )
}


@dataclass(frozen=True)
class BoardPins:
    """What every board's top module needs, as ports without buffers.

    Attributes:
        oscillator, button, rx: inputs; the button is 1 while it is pressed.
        tx: an output.
        lights: three outputs, 1 for bright.
    """

    oscillator: Any
    button: Any
    rx: Any
    tx: Any
    lights: tuple[Any, ...]


def platform(board: Board) -> Any:
    """The board's definition in amaranth-boards, with a serial line.

    Raises:
        PlanError: it has none here.
        ToolError: amaranth-boards is missing.
    """
    if board.platform is None:
        raise PlanError(f"{board.name}: no open place and route here")
    module, _, name = board.platform.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)()
    except ModuleNotFoundError as error:
        raise ToolError(
            f"{error.name} is not installed, which is needed for a bitstream: {install('boards')}"
        ) from error
    if board.name in SERIAL:
        found.add_resources([SERIAL[board.name]])
    return found


def pins(platform: Any) -> BoardPins:
    """Asks a platform for its pins.

    Lights are three LEDs, or one of each colour of the first RGB LED; the button is the first, or the reset.
    """
    serial = platform.request("uart", 0, dir=dict.fromkeys(("rx", "tx", "rts", "dtr"), "-"))
    if ("led", 2) in platform.resources:
        lights = tuple(platform.request("led", number, dir="-") for number in range(3))
    else:
        colours = platform.request("rgb_led", 0, dir=dict.fromkeys("rgb", "-"))
        lights = (colours.g, colours.b, colours.r)
    button = next(name for name in ("button_fire", "button", "rst") if (name, 0) in platform.resources)
    return BoardPins(
        platform.request(platform.default_clk, dir="-"),
        platform.request(button, 0, dir="-"),
        serial.rx,
        serial.tx,
        lights,
    )
