"""The runtime: open a bundle, run(x).

    with host.open("build/net", device="sim") as accelerator:
        y = accelerator.run(x)
        accelerator.stats

Needs numpy and safetensors; a device's own needs are imported when it is opened.
"""

from host.accelerator import Accelerator, Statistics, open
from host.devices import Device, register

__all__ = ["Accelerator", "Device", "Statistics", "open", "register"]
