"""From a torch module to a float network: what is read is honoured exactly, everything else is refused by name."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hwgen.errors import ModelError, ShapeError
from hwgen.float_network import Network
from hwgen.importer_layers import K_WINNERS, SUPPORTED, Chain, add_conv, add_linear, add_module, array

if TYPE_CHECKING:
    import numpy as np
    import torch
    import torch.fx
    from numpy.typing import NDArray


def import_torch(model: torch.nn.Module, input_shape: Sequence[int]) -> Network:
    """Reads a model as it behaves in evaluation mode.

    Args:
        model: a module whose forward torch.fx can trace and that is one straight chain of supported layers. It is left
            as it was.
        input_shape: (C, H, W) or (F,), without the batch dimension.

    Returns:
        The float network: batch norm folded, dropout dropped. Pruned weights are those that a torch.nn.utils.prune mask
        zeroes, or, without one, those that are 0.

    Raises:
        ModelError: names the module that cannot be realised exactly, and says why.
    """
    import torch

    if isinstance(model, str | os.PathLike):
        raise ModelError(
            f"model {os.fspath(model)}: files, ONNX among them, are not supported; give the torch.nn.Module"
        )
    if not isinstance(model, torch.nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise ModelError(f"model: must be a torch.nn.Module that runs in Python, not {type(model).__name__}")
    shape = tuple(input_shape)
    if len(shape) not in (1, 3) or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ModelError(f"input shape: must be (C, H, W) or (F,) in positive integers, not {shape}")
    _refuse_hooks(model)
    with torch.no_grad():
        return _Walk(_trace(model), shape).network()


def import_for(model: torch.nn.Module, samples: NDArray[np.floating]) -> Network:
    """`import_torch` for samples (N, ...) of calibration data, whose shape may be what is wrong where layers do not fit."""
    try:
        return import_torch(model, samples.shape[1:])
    except ShapeError as error:
        raise ShapeError(f"{error}; each sample of the calibration data has shape {samples.shape[1:]}") from None


def _refuse_hooks(model: torch.nn.Module) -> None:
    from torch.nn.utils.prune import BasePruningMethod

    for name, module in model.named_modules():
        before = [hook for hook in module._forward_pre_hooks.values() if not isinstance(hook, BasePruningMethod)]
        if before or module._forward_hooks:
            raise ModelError(
                f"layer {name!r} ({type(module).__name__}): has forward hooks, which may change what it computes; "
                "remove them before the import"
            )


def _trace(model: torch.nn.Module) -> torch.fx.GraphModule:
    """The model's graph in evaluation mode, in which every layer is one node."""
    import torch
    import torch.fx
    from torch.nn.utils import parametrize

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
            kind = parametrize.type_before_parametrizations(m)
            return kind.__name__ in K_WINNERS or (
                kind.__module__.startswith("torch.") and not isinstance(m, torch.nn.Sequential)
            )

    tracer = Tracer()
    # A leaf has no graph of its own.
    root = torch.nn.Sequential(model) if tracer.is_leaf_module(model, "") else model
    training = [module for module in root.modules() if module.training]
    attributes = set(vars(root))
    try:
        root.eval()
        return torch.fx.GraphModule(root, tracer.trace(root))
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"model ({type(model).__name__}): torch.fx cannot trace its forward ({reason}); write it as a straight "
            "chain without control flow that depends on values or shapes"
        ) from error
    finally:
        for module in training:
            module.training = True
        # Tracing leaves the constants that it met as attributes of the model.
        for name in set(vars(root)) - attributes:
            delattr(root, name)


class _Batch:
    """Stands for the batch size, the one size that is not known."""


class _Walk:
    """Follows a graph from its input to its output and collects the layers of the only path."""

    def __init__(self, graph: torch.fx.GraphModule, shape: tuple[int, ...]) -> None:
        self._graph = graph
        self._input_shape = shape
        self._chain = Chain(shape)
        self._tip: torch.fx.Node | None = None
        self._shapes: dict[torch.fx.Node, tuple[int, ...]] = {}
        self._constants: dict[torch.fx.Node, Any] = {}

    def network(self) -> Network:
        for node in self._graph.graph.nodes:
            if node.op == "placeholder":
                self._enter(node)
            elif node.op == "output":
                if node.args[0] is not self._tip:
                    raise ModelError("model: must return one tensor, the end of its chain of layers")
            elif self._asks_shape(node):
                self._constants[node] = self._sizes(node)
            elif all(source in self._constants for source in node.all_input_nodes):
                self._constants[node] = self._evaluate(node)
            else:
                self._follow(node)
        return Network(self._input_shape, tuple(self._chain.layers), self._chain.head)

    def _enter(self, node: torch.fx.Node) -> None:
        if self._tip is None:
            self._tip, self._shapes[node] = node, self._input_shape
        elif node.users:
            raise ModelError(f"model: has a second input, {node.name!r}; only one is supported")

    def _asks_shape(self, node: torch.fx.Node) -> bool:
        asks = node.target == "size" if node.op == "call_method" else node.target is getattr and node.args[1] == "shape"
        return asks and node.args[0] in self._shapes

    def _sizes(self, node: torch.fx.Node) -> Any:
        sizes = (_Batch(), *self._shapes[node.args[0]])  # type: ignore[index]
        dimension = (*node.args[1:], *node.kwargs.values()) if node.op == "call_method" else ()
        return sizes[dimension[0]] if dimension else sizes  # type: ignore[index]

    def _evaluate(self, node: torch.fx.Node) -> Any:
        """What depends only on parameters and sizes, such as a weight times its mask."""
        args, kwargs = self._known(node.args), self._known(node.kwargs)
        try:
            match node.op:
                case "get_attr":
                    return functools.reduce(getattr, str(node.target).split("."), self._graph)
                case "call_module":
                    return self._graph.get_submodule(str(node.target))(*args, **kwargs)
                case "call_method":
                    return getattr(args[0], str(node.target))(*args[1:], **kwargs)
                case _:
                    return node.target(*args, **kwargs)  # type: ignore[operator]
        except Exception as error:
            raise ModelError(f"layer {node.name!r} ({_kind(node)}): cannot be computed in advance: {error}") from error

    def _known(self, values: Any) -> Any:
        import torch.fx

        return torch.fx.map_arg(values, lambda node: self._constants.get(node, node))

    def _follow(self, node: torch.fx.Node) -> None:
        sources = [source for source in node.all_input_nodes if source not in self._constants]
        if sources != [self._tip]:
            names = " and ".join(repr(source.name) for source in sources)
            raise ModelError(
                f"layer {node.name!r} ({_kind(node)}): takes {names}; branches and skip connections are not supported: "
                "each layer must take the result of the one before it, in one straight chain"
            )
        if not node.users:
            raise ModelError(
                f"layer {node.name!r} ({_kind(node)}): its result is not used; assign it, also where it works in place"
            )
        if node.op == "call_module":
            path = str(node.target)
            add_module(self._chain, self._chain.free_name(path, node.name), self._graph.get_submodule(path))
        else:
            self._add_function(node)
        self._tip, self._shapes[node] = node, self._chain.shape

    def _add_function(self, node: torch.fx.Node) -> None:
        """Functions and methods are read as the modules that do the same."""
        import torch

        if node.target in (torch.nn.functional.linear, torch.conv2d):
            self._add_weighted(node)
            return
        name = self._chain.free_name(node.name, node.name)
        known = _functions().get(node.target)
        if known is None:
            raise ModelError(f"layer {name!r} ({_kind(node)}): is not supported; {SUPPORTED}")
        parameters, defaults, module = known
        args, kwargs = self._known(node.args), self._known(node.kwargs)
        bound = defaults | dict(zip(parameters, args[1:], strict=False)) | kwargs
        if module == "Dropout":
            if bound["training"]:
                raise ModelError(
                    f"layer {name!r} ({_kind(node)}): drops in evaluation too; pass training=self.training"
                )
        elif module == "view":
            self._check_view(name, _kind(node), args[1:] or tuple(kwargs.values()))
            add_module(self._chain, name, torch.nn.Flatten())
        else:
            settings = {key: value for key, value in bound.items() if key in parameters}
            add_module(self._chain, name, getattr(torch.nn, module)(**settings))

    def _check_view(self, name: str, kind: str, sizes: tuple[Any, ...]) -> None:
        """Only a view that flattens everything but the batch is a layer."""
        if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
            sizes = tuple(sizes[0])
        features = 1
        for size in self._chain.shape:
            features *= size
        batch_kept = len(sizes) == 2 and (isinstance(sizes[0], _Batch) or sizes[0] == -1 != sizes[1])
        if not batch_kept or sizes[1] not in (-1, features):
            raise ModelError(f"layer {name!r} ({kind}): only a view as (batch, -1) is supported; use nn.Flatten")

    def _add_weighted(self, node: torch.fx.Node) -> None:
        """F.linear or F.conv2d, which layers of the user's own call."""
        import torch

        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        sources = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
        given = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1} | self._known(sources)
        source = sources["weight"]
        path = str(source.target) if isinstance(source, torch.fx.Node) and source.op == "get_attr" else ""
        # A weight that is computed of several tensors belongs to no module.
        owner = path.removesuffix(".weight") if path.endswith(".weight") else node.name
        name = self._chain.free_name(owner, node.name)
        if not isinstance(given["weight"], torch.Tensor) or sources["input"] is not self._tip:
            raise ModelError(f"layer {name!r} ({_kind(node)}): its weight is not constant")
        weight = array(name, "weight", given["weight"])
        bias = None if given["bias"] is None else array(name, "bias", given["bias"])
        if node.target is torch.conv2d:
            settings = (given["stride"], given["padding"], given["dilation"], given["groups"])
            add_conv(self._chain, name, weight, weight != 0, bias, *settings)
        else:
            add_linear(self._chain, name, weight, weight != 0, bias)


def _kind(node: torch.fx.Node) -> str:
    """What the user wrote: a module's class, a function or a method."""
    if node.op == "call_module":
        module = node.graph.owning_module.get_submodule(str(node.target))  # type: ignore[union-attr]
        return type(module).__name__
    return str(node.target) if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


@functools.cache
def _functions() -> dict[Any, tuple[tuple[str, ...], dict[str, Any], str]]:
    """Function or method -> its parameters after the tensor, their defaults where the module's differ, the module."""
    import torch
    from torch.nn import functional

    pool = ("kernel_size", "stride", "padding")
    table: list[tuple[tuple[Any, ...], tuple[str, ...], dict[str, Any], str]] = [
        ((functional.relu, torch.relu, torch.relu_, "relu", "relu_"), (), {}, "ReLU"),
        ((torch.flatten, "flatten"), ("start_dim", "end_dim"), {"start_dim": 0}, "Flatten"),
        ((torch.reshape, "reshape", "view"), (), {}, "view"),
        ((functional.softmax, torch.softmax, "softmax"), ("dim",), {}, "Softmax"),
        ((functional.log_softmax, torch.log_softmax, "log_softmax"), ("dim",), {}, "LogSoftmax"),
        (
            (functional.max_pool2d, torch.max_pool2d),
            (*pool, "dilation", "ceil_mode", "return_indices"),
            {},
            "MaxPool2d",
        ),
        (
            (functional.avg_pool2d,),
            (*pool, "ceil_mode", "count_include_pad", "divisor_override"),
            {},
            "AvgPool2d",
        ),
        ((functional.adaptive_avg_pool2d,), ("output_size",), {}, "AdaptiveAvgPool2d"),
        (
            (
                functional.dropout,
                functional.dropout1d,
                functional.dropout2d,
                functional.dropout3d,
                functional.alpha_dropout,
                functional.feature_alpha_dropout,
                torch.dropout,
            ),
            ("p", "training", "inplace"),
            {"training": True},
            "Dropout",
        ),
    ]
    return {
        target: (parameters, defaults, module) for targets, parameters, defaults, module in table for target in targets
    }
