"""The processor of the host as a device: machine code made for one network.

    layers -> steps (plan.py) -> LLVM IR (dense.py, winners.py, ...) -> machine code (compiler.py) -> device.py

Quantised values are bytes in channels-last order, at an offset that makes them unsigned (layout.py), so that comparing
bytes compares values and the dot-product instructions, which want one unsigned side, serve signed and unsigned alike.
"""
