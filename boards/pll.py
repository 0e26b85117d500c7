"""The ECP5's phase-locked loop: from a board's oscillator to the clock of the accelerator."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth import Const, Elaboratable, Instance, Module, Signal

from hwgen.errors import PlanError

# The data sheet's limits (Lattice FPGA-DS-02012, PLL timing), in Hz.
DETECTOR_HZ = (3.125e6, 400e6)
OSCILLATOR_HZ = (400e6, 800e6)
OUTPUT_LIMIT_HZ = 400e6
INPUT_DIVIDERS, FEEDBACK_DIVIDERS, OUTPUT_DIVIDERS = range(1, 129), range(1, 81), range(1, 129)
# Beyond this a clock is not the one that was asked for.
TOLERANCE = 0.01


@dataclass(frozen=True)
class PllSettings:
    """Dividers of a loop that is closed over its output.

    Attributes:
        input_hz: of the oscillator.
        input_divider, feedback_divider: the output is input_hz * feedback_divider / input_divider.
        output_divider: from the loop's own oscillator to the output.
    """

    input_hz: float
    input_divider: int
    feedback_divider: int
    output_divider: int

    @property
    def output_hz(self) -> float:
        return self.input_hz * self.feedback_divider / self.input_divider

    @property
    def oscillator_hz(self) -> float:
        return self.output_hz * self.output_divider


def pll_settings(input_hz: float, output_hz: float) -> PllSettings:
    """The settings whose output is nearest; of equals the fastest phase detector, then the middle of the oscillator.

    Raises:
        PlanError: nothing comes within 1 %.
    """
    middle = sum(OSCILLATOR_HZ) / 2
    candidates = [
        PllSettings(input_hz, input_divider, feedback_divider, output_divider)
        for input_divider in INPUT_DIVIDERS
        if DETECTOR_HZ[0] <= input_hz / input_divider <= DETECTOR_HZ[1]
        for feedback_divider in FEEDBACK_DIVIDERS
        if (made := input_hz * feedback_divider / input_divider) <= OUTPUT_LIMIT_HZ
        for output_divider in OUTPUT_DIVIDERS
        if OSCILLATOR_HZ[0] <= made * output_divider <= OSCILLATOR_HZ[1]
    ]
    best = min(
        candidates,
        key=lambda found: (abs(found.output_hz - output_hz), found.input_divider, abs(found.oscillator_hz - middle)),
    )
    if not abs(best.output_hz - output_hz) <= TOLERANCE * output_hz:
        slowest, fastest = (pick(found.output_hz for found in candidates) / 1e6 for pick in (min, max))
        raise PlanError(
            f"clock must be one that the PLL makes of {input_hz / 1e6:g} MHz, {slowest:g} to {fastest:g} MHz, "
            f"not {output_hz / 1e6:g} MHz; the nearest is {best.output_hz / 1e6:g} MHz"
        )
    return best


class Pll(Elaboratable):
    """An EHXPLLL with one output.

    Arguments:
        settings: its dividers.

    Members:
        clock_in: from the oscillator.
        clock_out: the clock made of it.
        locked: 1 once the clock is good.
    """

    def __init__(self, settings: PllSettings):
        self._settings = settings
        # Kept, so that reports call the clock by this name and not by that of some register's input.
        self.clock_out = Signal(name="clock", attrs={"keep": 1})
        self.clock_in, self.locked = Signal(), Signal()

    def elaborate(self, platform) -> Module:
        m = Module()
        settings = self._settings
        unused = ("RST", "STDBY", "PHASESEL0", "PHASESEL1", "PHASEDIR", "PHASESTEP", "PHASELOADREG", "PLLWAKESYNC")
        m.submodules.loop = Instance(
            "EHXPLLL",
            # From these Lattice's tools, and the packer of the bitstream, set up the analogue loop filter.
            a_FREQUENCY_PIN_CLKI=f"{settings.input_hz / 1e6:g}",
            a_FREQUENCY_PIN_CLKOP=f"{settings.output_hz / 1e6:g}",
            a_ICP_CURRENT="12",
            a_LPF_RESISTOR="8",
            a_MFG_ENABLE_FILTEROPAMP="1",
            a_MFG_GMCREF_SEL="2",
            p_PLLRST_ENA="DISABLED",
            p_INTFB_WAKE="DISABLED",
            p_STDBY_ENABLE="DISABLED",
            p_DPHASE_SOURCE="DISABLED",
            p_FEEDBK_PATH="CLKOP",
            p_CLKI_DIV=settings.input_divider,
            p_CLKFB_DIV=settings.feedback_divider,
            p_CLKOP_ENABLE="ENABLED",
            p_CLKOP_DIV=settings.output_divider,
            # The phase is that of the input when the divider starts at its last count.
            p_CLKOP_CPHASE=settings.output_divider - 1,
            p_CLKOP_FPHASE=0,
            i_CLKI=self.clock_in,
            i_CLKFB=self.clock_out,
            o_CLKOP=self.clock_out,
            o_LOCK=self.locked,
            **{f"i_{port}": Const(0) for port in unused},
        )
        return m
