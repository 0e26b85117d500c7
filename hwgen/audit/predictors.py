"""One function for whatever computes: torch modules, packed networks, ONNX files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hwgen.errors import DataError, InputError, ToolError
from hwgen.format.packed import PackedNetwork

if TYPE_CHECKING:
    import torch

Predictor: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.floating]]


def predictor(model: Any) -> Predictor:
    """A function from float32 (N, ...) to the model's output (N, classes).

    Args:
        model: a torch.nn.Module, which runs in evaluation mode and is left as it was; a PackedNetwork; or the path of
            an .hwpack file, or of an .onnx file, which onnxruntime runs. Packed networks run on the device "cpu",
            which gives the integers of every device. Nothing is unpickled.

    Raises:
        FormatError: a damaged .hwpack file.
        InputError: none of these, or an ONNX file that onnxruntime refuses or that has not one float32 input.
        ToolError: onnxruntime is not installed.
    """
    if isinstance(model, PackedNetwork):
        return _packed(model)
    if isinstance(model, str | os.PathLike):
        path = Path(model)
        if path.suffix == ".hwpack":
            return _packed(PackedNetwork.load(path))
        if path.suffix == ".onnx":
            return _onnx(path)
        raise InputError(f"model {path}: must be an .onnx or an .hwpack file")
    if callable(getattr(model, "eval", None)) and callable(model):
        return _torch(model)
    raise InputError(
        f"model: must be a torch.nn.Module, a PackedNetwork or the path of an .onnx or .hwpack file, "
        f"not {type(model).__name__}"
    )


def _packed(packed: PackedNetwork) -> Predictor:
    from host.accelerator import Accelerator
    from host.devices import open_device

    return Accelerator(packed.network, open_device("cpu", packed.network, None)).run


def _torch(model: torch.nn.Module) -> Predictor:
    import torch

    def run(x: NDArray[np.float32]) -> NDArray[np.floating]:
        training = [module for module in model.modules() if module.training]
        first = next(model.parameters(), None)
        device = "cpu" if first is None else first.device
        try:
            with torch.no_grad():
                return model.eval()(torch.from_numpy(x).to(device)).cpu().numpy()
        # The model is the user's code, which may fail in any way.
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(f"cannot take inputs of shape {x.shape}: {reason}") from error
        finally:
            for module in training:
                module.training = True

    return run


def _onnx(path: Path) -> Predictor:
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ToolError(f"{path}: running ONNX files needs onnxruntime: pip install onnxruntime") from error

    def guarded(call: Callable[[], Any]) -> Any:
        try:
            return call()
        # onnxruntime's exceptions have no class in common but this one.
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"{path}: onnxruntime cannot run it: {reason}") from error

    options = onnxruntime.SessionOptions()
    # Errors are raised; its warnings would come between the lines of a command.
    options.log_severity_level = 4
    session = guarded(lambda: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]))
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(outputs) != 1:
        raise InputError(
            f"{path}: must have one float32 input and one output, not {len(inputs)} inputs "
            f"({', '.join(value.type for value in inputs)}) and {len(outputs)} outputs"
        )
    batch = inputs[0].shape[0] if inputs[0].shape and isinstance(inputs[0].shape[0], int) else None

    def run(x: NDArray[np.float32]) -> NDArray[np.floating]:
        size = batch or len(x)
        # A graph of a fixed batch size gets a last batch that is filled up.
        padded = np.concatenate([x, np.zeros((-len(x) % size, *x.shape[1:]), np.float32)])
        parts = [
            guarded(lambda start=start: session.run(None, {inputs[0].name: padded[start : start + size]})[0])  # type: ignore[misc]
            for start in range(0, len(padded), size)
        ]
        return np.concatenate(parts)[: len(x)]

    return run
