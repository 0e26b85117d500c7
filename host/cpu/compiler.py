"""A plan as machine code."""

from __future__ import annotations

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from host.cpu.batches import WORDS, Shared
from host.cpu.ir import I8, I32, I64, POINTER, Code, Tables, Value
from host.cpu.isa import Isa
from host.cpu.plan import Plan
from host.cpu.program import FLOATS, INTEGERS, OPTIMISATION, PREPARED, Compiled, target_machine
from host.cpu.steps import Context, Step


def assembled(plan: Plan, scales: NDArray[np.float64], isa: Isa) -> tuple[str, NDArray[np.uint8]]:
    """LLVM IR and the tables' block.

    Args:
        plan: of the network.
        scales: of the output's channels.
        isa: the path that the plan was made for.
    """
    module, tables = ir.Module("hwgen"), Tables()
    steps = [_function(module, f"step_{number}", step, isa, tables) for number, step in enumerate(plan.steps)]
    shared = [
        None if one is None else (one, _function(module, f"shared_{number}", one.step, isa, tables))
        for number, one in enumerate(plan.shared.get(step) for step in plan.steps)
    ]
    at_scales = tables.add(scales)
    for name in (INTEGERS, FLOATS):
        _batch(module, name, plan, _ends(module, name, plan, at_scales), steps, shared)
    _prepared(module)
    return str(module), tables.block()


def _function(module: Value, name: str, step: Step, isa: Isa, tables: Tables) -> Value:
    code = Code(module, name, (POINTER, POINTER), ir.VoidType())
    work, block = code.function.args
    step.emit(Context(code, isa, work, block, tables))
    code.finish()
    return code.function


def _ends(module: Value, name: str, plan: Plan, at_scales: int) -> tuple[Value, Value]:
    """Functions of a word: one that reads it and says whether there was a NaN, and one that writes its results."""
    begin = Code(module, f"{name}_begin", (POINTER, POINTER), I8)
    word, work = begin.function.args
    if name == INTEGERS:
        plan.input.integers(begin, word, work)
        begin.finish(I8(0))
    else:
        begin.finish(begin.builder.zext(plan.input.floats(begin, word, work), I8))
    end = Code(module, f"{name}_end", (POINTER, POINTER, POINTER), ir.VoidType())
    result, work, block = end.function.args
    if name == INTEGERS:
        plan.output.integers(end, result, work)
    else:
        plan.output.floats(end, result, work, block, at_scales)
    end.finish()
    return begin.function, end.function


def _batch(
    module: Value,
    name: str,
    plan: Plan,
    ends: tuple[Value, Value],
    steps: list[Value],
    shared: list[tuple[Shared, Value] | None],
) -> None:
    """The function of a batch: as many words as there are in whole groups, then the rest one by one.

    Args:
        ends: functions that begin and end a word.
        steps: functions of the steps.
        shared: of each step, what words share of it, and the function that computes it for a group.
    """
    unit = 1 if name == INTEGERS else 4
    inputs, values = (of.channels * of.height * of.width for of in (plan.input.target, plan.output.source))
    code = Code(module, name, (POINTER, POINTER, I64, POINTER, POINTER), I32, private=False)
    words, results, count, work, block = code.function.args
    builder, bad = code.builder, code.variable(I8, 0)

    def read(number: Value) -> None:
        word = code.at(words, code.offset((number, unit * inputs)))
        bad.set(builder.or_(bad.get(), builder.call(ends[0], (word, work))))

    def write(number: Value) -> None:
        builder.call(ends[1], (code.at(results, code.offset((number, 4 * values))), work, block))

    grouped: Value = I64(0)
    if any(shared):
        grouped = builder.mul(builder.udiv(count, I64(WORDS)), I64(WORDS))
        with code.when(builder.icmp_signed(">", grouped, I64(0))), code.loop(grouped, step=WORDS) as first:
            # Between two shared steps, and before and behind them, each word goes its way alone.
            joints = [None, *(one for one in shared if one), None]
            numbers = [number for number, one in enumerate(shared) if one]
            bounds = zip([0, *(number + 1 for number in numbers)], [*numbers, len(steps)], strict=True)
            for before, behind, (start, stop) in zip(joints[:-1], joints[1:], bounds, strict=True):
                with code.loop(WORDS) as number:
                    if before is None:
                        read(builder.add(first, number))
                    else:
                        before[0].scatter(code, work, number)
                    for step in steps[start:stop]:
                        builder.call(step, (work, block))
                    if behind is None:
                        write(builder.add(first, number))
                    else:
                        behind[0].gather(code, work, number)
                if behind is not None:
                    builder.call(behind[1], (work, block))
    with code.when(builder.icmp_signed(">", count, grouped)), code.loop(count, start=grouped) as number:
        read(number)
        for step in steps:
            builder.call(step, (work, block))
        write(number)
    code.finish(builder.zext(bad.get(), I32))


def _prepared(module: Value) -> None:
    """The function of a batch of float32 words whose arguments lie in memory, eight bytes each."""
    code = Code(module, PREPARED, (POINTER,), I32, private=False)
    batch = module.globals[FLOATS]
    arguments = [code.load(code.function.args[0], kind.type, 8 * n) for n, kind in enumerate(batch.args)]
    code.finish(code.builder.call(batch, arguments))


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
