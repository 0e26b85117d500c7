"""A plan as machine code."""

from __future__ import annotations

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from host.cpu.ir import I8, I32, I64, POINTER, Code, Tables
from host.cpu.isa import Isa
from host.cpu.plan import Plan
from host.cpu.program import FLOATS, INTEGERS, OPTIMISATION, Compiled, target_machine
from host.cpu.steps import Context


def assembled(plan: Plan, scales: NDArray[np.float64], isa: Isa) -> tuple[str, NDArray[np.uint8]]:
    """LLVM IR and the tables' block.

    Args:
        plan: of the network.
        scales: of the output's channels.
        isa: the path that the plan was made for.
    """
    module, tables = ir.Module("hwgen"), Tables()
    steps = []
    for number, step in enumerate(plan.steps):
        code = Code(module, f"step_{number}", (POINTER, POINTER), ir.VoidType())
        work, block = code.function.args
        step.emit(Context(code, isa, work, block, tables))
        code.finish()
        steps.append(code.function)
    at_scales = tables.add(scales)
    output = plan.output.source
    values = output.channels * output.height * output.width
    source = plan.input.target
    inputs = source.channels * source.height * source.width
    for name, unit in ((INTEGERS, 1), (FLOATS, 4)):
        code = Code(module, name, (POINTER, POINTER, I64, POINTER, POINTER), I32, private=False)
        words, results, count, work, block = code.function.args
        bad = code.variable(I8, 0)
        with code.loop(count) as number:
            word = code.at(words, code.offset((number, unit * inputs)))
            result = code.at(results, code.offset((number, 4 * values)))
            if name == INTEGERS:
                plan.input.integers(code, word, work)
            else:
                bad.set(code.builder.or_(bad.get(), code.builder.zext(plan.input.floats(code, word, work), I8)))
            for step in steps:
                code.builder.call(step, (work, block))
            if name == INTEGERS:
                plan.output.integers(code, result, work)
            else:
                plan.output.floats(code, result, work, block, at_scales)
        code.finish(code.builder.zext(bad.get(), I32))
    return str(module), tables.block()


def compiled(plan: Plan, scales: NDArray[np.float64], isa: Isa, cpu: str = "") -> Compiled:
    """Machine code for this processor, or for `cpu` as of `target_machine`; other arguments as of `assembled`."""
    text, block = assembled(plan, scales, isa)
    machine = target_machine(isa, cpu)
    module = llvm.parse_assembly(text)
    module.triple = machine.triple
    optimise(module, machine)
    return Compiled(machine.emit_object(module), block, plan.workspace())


def optimise(module, machine) -> None:
    options = llvm.create_pipeline_tuning_options(OPTIMISATION)
    # Loops are written as they should be.
    options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
