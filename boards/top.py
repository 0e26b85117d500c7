"""What a bitstream holds beside the accelerator: clock, reset, host link and lights.

    oscillator -> PLL -> sync          host -> UART -> x \\
    locked, button -> reset                               accelerator
                                       host <- UART <- y /

Lights: 0 the clock is locked, 1 bytes come or leave, 2 a byte was lost (until the next reset). The board's button
resets, which also brings a host and an accelerator that disagree about where a word begins together again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth import ClockDomain, ClockSignal, Elaboratable, Instance, Module, ResetSignal, Signal
from amaranth.lib import io
from amaranth.lib.cdc import ResetSynchronizer

from boards.catalogue import Board
from boards.link import SerialLink, beat_bytes
from boards.platforms import pins, platform
from boards.pll import Pll, PllSettings, pll_settings
from boards.uart import FRAME_BITS, baud_divider
from hwgen.format.bundle import Manifest
from hwgen.format.port import Port

TOP = "top"
# 2^22 cycles are some 40 ms: what a light must last to be seen.
LIGHT_BITS = 22


class Top(Elaboratable):
    """The top module of a board; `platform` supplies its pins.

    Arguments:
        accelerator: name of the module.
        input_bits, output_bits: of the payloads of its streams.
        settings: of the PLL.
        divider: clock cycles of a bit of the serial line.
    """

    def __init__(self, accelerator: str, input_bits: int, output_bits: int, settings: PllSettings, divider: int):
        self._accelerator, self._settings = accelerator, settings
        self._input_bits, self._output_bits, self._divider = input_bits, output_bits, divider

    def elaborate(self, platform) -> Module:
        m = Module()

        def pin(direction: str, port: Any, name: str) -> Any:
            m.submodules[name] = buffer = io.Buffer(direction, port)
            return buffer.i if direction == "i" else buffer.o

        ports = pins(platform)
        lights = [pin("o", port, f"light{i}") for i, port in enumerate(ports.lights)]
        button = pin("i", ports.button, "button")

        m.domains.sync = ClockDomain("sync")
        m.submodules.pll = pll = Pll(self._settings)
        m.submodules.reset = ResetSynchronizer(~pll.locked | button)
        m.d.comb += [
            pll.clock_in.eq(pin("i", ports.oscillator, "oscillator")),
            ClockSignal().eq(pll.clock_out),
        ]

        m.submodules.link = link = SerialLink(self._input_bits, self._output_bits, self._divider)
        m.submodules.accelerator = Instance(
            self._accelerator,
            i_clk=ClockSignal(),
            i_rst=ResetSignal(),
            i_x__payload=link.x.payload,
            i_x__valid=link.x.valid,
            o_x__ready=link.x.ready,
            o_y__payload=link.y.payload,
            o_y__valid=link.y.valid,
            i_y__ready=link.y.ready,
        )
        m.d.comb += [link.rx.eq(pin("i", ports.rx, "rx")), pin("o", ports.tx, "tx").eq(link.tx)]

        lost, active = Signal(), Signal(LIGHT_BITS + 1)
        with m.If(link.lost):
            m.d.sync += lost.eq(1)
        with m.If(link.active):
            m.d.sync += active.eq(1 << LIGHT_BITS)
        with m.Elif(active[-1]):
            m.d.sync += active.eq(active + 1)
        m.d.comb += [lights[0].eq(pll.locked), lights[1].eq(active[-1]), lights[2].eq(lost)]
        return m


@dataclass(frozen=True)
class TopSources:
    """A board's top module for one accelerator.

    Attributes:
        rtlil: the module `top`, which instances the accelerator.
        constraints: its pins, as an LPF file.
        clock_hz: of the accelerator, as the PLL makes it.
        baud: of the serial line.
        device, package, speed: of the FPGA, as the board's definition names them.
    """

    rtlil: str
    constraints: str
    clock_hz: float
    baud: int
    device: str
    package: str
    speed: str


def top_sources(board: Board, manifest: Manifest, clock_hz: float, baud: int | None = None) -> TopSources:
    """Makes the top module of a board for the accelerator of a bundle.

    Args:
        board: one with a `platform`.
        manifest: of the bundle.
        clock_hz: the accelerator's clock; the PLL makes the nearest within 1 %.
        baud: of the serial line, or None for the fastest that the clock makes.

    Raises:
        PlanError: the board has no definition of its pins, or clock or baud rate cannot be made.
        ToolError: amaranth-boards is missing.
    """
    definition = platform(board)
    settings = pll_settings(definition.default_clk_frequency, clock_hz)
    rate, divider = baud_divider(settings.output_hz, baud)
    top = Top(manifest.top, manifest.input.payload_bits, manifest.output.payload_bits, settings, divider)
    files = definition.prepare(top, TOP).files
    return TopSources(
        _text(files[f"{TOP}.il"]),
        _text(files[f"{TOP}.lpf"]),
        settings.output_hz,
        rate,
        definition.device,
        definition.package,
        definition.speed,
    )


def link_words_per_second(baud: int, input: Port, output: Port) -> float:
    """Words a second that the serial line carries: both directions at once, so the longer one decides."""
    word_bytes = max(port.beats * beat_bytes(port.payload_bits) for port in (input, output))
    return baud / FRAME_BITS / word_bytes


def _text(content: str | bytes) -> str:
    return content.decode() if isinstance(content, bytes) else content
