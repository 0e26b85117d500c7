# amaranth: UnusedElaboratable=no
"""Equal components: described once, used many times.

A wide array of multipliers consists of hundreds of equal parts. Amaranth elaborates and writes each of them anew;
where the platform collects definitions, the first is written as a module and all are instances of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from amaranth.hdl import ClockSignal, Elaboratable, Instance, ResetSignal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In


class Definitions:
    """A platform that collects the components to be written as modules of their own.

    Attributes:
        target: what components are written for, or None.
    """

    def __init__(self, target: object = None):
        self.target = target
        self._names: dict[Any, str] = {}
        self._components: list[tuple[str, wiring.Component]] = []

    def __iter__(self) -> Iterator[tuple[str, wiring.Component]]:
        """The names of the modules and their components, in the order of their first use."""
        return iter(self._components)

    def name_of(self, key: Any, component: wiring.Component) -> str:
        """Of the module that stands for every component with this key."""
        if key not in self._names:
            self._names[key] = f"{type(component).__name__}_{len(self._names)}"
            self._components.append((self._names[key], component))
        return self._names[key]


class Shared(Elaboratable):
    """A component that equal ones have a module in common with.

    Arguments:
        kind: class of the component, which must have registers of the `sync` domain.
        parameters: its arguments, hashable: components with equal ones are equal.

    Attributes:
        component: of which to connect the members.
    """

    def __init__(self, kind: type[wiring.Component], **parameters: Any):
        self.component = kind(**parameters)
        self._key = (kind, tuple(sorted(parameters.items(), key=lambda item: item[0])))

    def elaborate(self, platform):
        if not isinstance(platform, Definitions):
            return self.component
        ports: dict[str, Value] = {"i_clk": ClockSignal(), "i_rst": ResetSignal()}
        for path, member, value in self.component.signature.flatten(self.component):
            direction = "i" if member.flow is In else "o"
            ports[f"{direction}_{'__'.join(map(str, path))}"] = Value.cast(value)
        return Instance(platform.name_of(self._key, self.component), **ports)
