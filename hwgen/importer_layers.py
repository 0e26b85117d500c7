"""One torch module at a time to layers of the float network."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwgen.errors import ModelError, ShapeError
from hwgen.float_network import AvgPool2d, Conv2d, Layer, Linear, output_shape
from hwgen.format.network import Flatten, KWinners, MaxPool2d, Pair, ReLU
from hwgen.format.shapes import window_count

if TYPE_CHECKING:
    import torch

SUPPORTED = (
    "supported are Conv2d, Linear, BatchNorm1d and BatchNorm2d right after them, ReLU, MaxPool2d, AvgPool2d, "
    "AdaptiveAvgPool2d, Flatten, KWinners, KWinners2d, Dropout, Identity and a final Softmax or LogSoftmax, "
    "in one straight chain"
)
K_WINNERS = ("KWinners", "KWinners2d")


class Chain:
    """The layers read so far.

    Attributes:
        shape: of what they make, without the batch dimension.
        layers: in order.
        head: as in `Network`.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.layers: list[Layer] = []
        self.head: str | None = None

    def add(self, layer: Layer) -> None:
        if self.head is not None:
            raise ModelError(f"layer {layer.name!r} ({type(layer).__name__}): follows a softmax, which must come last")
        self.shape = output_shape(layer, self.shape)
        self.layers.append(layer)

    def free_name(self, path: str, other: str) -> str:
        """`path`, or where a layer has it already `other`, numbered if need be."""
        taken = {layer.name for layer in self.layers}
        candidates = itertools.chain([path, other], (f"{other}_{count}" for count in itertools.count(1)))
        return next(name for name in candidates if name not in taken)


def add_module(chain: Chain, name: str, module: torch.nn.Module) -> None:
    """Appends what `module` does; raises ModelError if that cannot be done exactly."""
    from torch.nn.utils import parametrize

    kind = parametrize.type_before_parametrizations(module)
    if kind.__name__ in K_WINNERS:
        _add_k_winners(chain, name, module, kind.__name__)
        return
    # Only torch's own classes are known by name: a subclass may compute anything.
    known = kind.__name__ if kind.__module__.startswith("torch.nn.modules.") else ""
    made: Any = module
    match known:
        case "Linear":
            add_linear(chain, name, *_masked(name, module, "weight"), _bias(name, module))
        case "Conv2d":
            if made.padding_mode != "zeros":
                raise ModelError(
                    f"layer {name!r} (Conv2d): padding_mode {made.padding_mode!r} is not supported, only 'zeros'"
                )
            weight, mask = _masked(name, module, "weight")
            add_conv(
                chain, name, weight, mask, _bias(name, module), made.stride, made.padding, made.dilation, made.groups
            )
        case "BatchNorm1d" | "BatchNorm2d":
            _fold_batch_norm(chain, name, made, known)
        case "ReLU":
            chain.add(ReLU(name))
        case "MaxPool2d":
            _add_max_pool(chain, name, made)
        case "AvgPool2d":
            _add_avg_pool(chain, name, made)
        case "AdaptiveAvgPool2d":
            _add_adaptive_pool(chain, name, made)
        case "Flatten":
            if made.start_dim != 1 or made.end_dim not in (-1, len(chain.shape)):
                raise ModelError(
                    f"layer {name!r} (Flatten): start_dim={made.start_dim}, end_dim={made.end_dim} is not supported; "
                    "only start_dim=1 and end_dim=-1, everything but the batch"
                )
            if len(chain.shape) > 1:
                chain.add(Flatten(name))
        case "Softmax" | "LogSoftmax":
            _set_head(chain, name, known, made.dim)
        case "Identity" | "Dropout" | "Dropout1d" | "Dropout2d" | "Dropout3d" | "AlphaDropout" | "FeatureAlphaDropout":
            pass
        case _:
            raise ModelError(f"layer {name!r} ({kind.__name__}): is not supported; {SUPPORTED}")


def add_linear(
    chain: Chain, name: str, weight: NDArray[np.float64], mask: NDArray[np.bool_], bias: NDArray[np.float64] | None
) -> None:
    """Appends a linear layer: weight and mask (outputs, inputs), bias (outputs,)."""
    chain.add(Linear(name, weight, mask, np.zeros(len(weight)) if bias is None else bias))


def add_conv(
    chain: Chain,
    name: str,
    weight: NDArray[np.float64],
    mask: NDArray[np.bool_],
    bias: NDArray[np.float64] | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> None:
    """Appends a convolution.

    Args:
        weight, mask: (outputs, inputs // groups, rows, columns).
        bias: (outputs,).
        stride, padding, dilation: as torch gives them: integers, pairs, or a padding's name.

    Raises:
        ModelError: "same" padding that differs between two sides.
    """
    stride, dilation = _pair(stride), _pair(dilation)
    if padding == "same":
        total = [dilation[axis] * (weight.shape[2 + axis] - 1) for axis in (0, 1)]
        if total[0] % 2 or total[1] % 2:
            raise ModelError(
                f"layer {name!r} (Conv2d): padding='same' is uneven for a {weight.shape[2]}x{weight.shape[3]} kernel; "
                "use an odd kernel or a padding in numbers"
            )
        padding = [size // 2 for size in total]
    elif padding == "valid":
        padding = 0
    bias = np.zeros(len(weight)) if bias is None else bias
    chain.add(Conv2d(name, weight, mask, bias, stride, _pair(padding), dilation, groups))


def array(name: str, what: str, tensor: torch.Tensor) -> NDArray[np.float64]:
    """The values of a tensor in double precision; raises ModelError if they are not finite real numbers."""
    if tensor.is_meta:
        raise ModelError(f"layer {name!r}: its {what} has no values, only a shape; load the model's weights first")
    if tensor.is_complex() or tensor.is_quantized:
        raise ModelError(f"layer {name!r}: its {what} is {tensor.dtype}; only real, unquantised numbers are supported")
    value = tensor.detach().to_dense().cpu().double().numpy().copy()
    if not np.isfinite(value).all():
        raise ModelError(f"layer {name!r}: its {what} contains NaN or infinity; retrain or repair the model")
    return value


def _masked(name: str, module: torch.nn.Module, what: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """A parameter's effective values, and the positions that were not pruned."""
    mask: Any = getattr(module, f"{what}_mask", None)
    original: Any = getattr(module, f"{what}_orig", None)
    if mask is None or original is None:
        values = array(name, what, getattr(module, what))
        return values, values != 0
    # torch.nn.utils.prune updates the attribute itself only when the module runs.
    kept = array(name, f"{what} mask", mask) != 0
    return array(name, what, original * mask), kept


def _bias(name: str, module: torch.nn.Module) -> NDArray[np.float64] | None:
    return None if getattr(module, "bias", None) is None else _masked(name, module, "bias")[0]


def _fold_batch_norm(chain: Chain, name: str, module: Any, kind: str) -> None:
    """Folds y = (x - mean) / sqrt(var + eps) * gamma + beta into the layer before it."""
    last = chain.layers[-1] if chain.layers else None
    if not isinstance(last, Linear | Conv2d):
        raise ModelError(f"layer {name!r} ({kind}): must come right after a Conv2d or Linear, into which it is folded")
    if (kind == "BatchNorm1d") != (len(chain.shape) == 1) or module.num_features != chain.shape[0]:
        raise ModelError(
            f"layer {name!r} ({kind}): normalises {module.num_features} features, but its input has shape {chain.shape}"
        )
    if module.running_mean is None or module.running_var is None:
        raise ModelError(f"layer {name!r} ({kind}): has no running statistics; train with track_running_stats=True")
    variance = array(name, "running variance", module.running_var) + module.eps
    if (variance <= 0).any():
        raise ModelError(f"layer {name!r} ({kind}): its running variance is not positive; retrain or repair the model")
    factor, offset = 1 / np.sqrt(variance), np.zeros(len(variance))
    if module.affine:
        factor, offset = factor * _masked(name, module, "weight")[0], _masked(name, module, "bias")[0]
    weight = last.weight * factor.reshape(-1, *[1] * (last.weight.ndim - 1))
    bias = (last.bias - array(name, "running mean", module.running_mean)) * factor + offset
    chain.layers[-1] = dataclasses.replace(last, weight=weight, bias=bias)


def _add_max_pool(chain: Chain, name: str, module: Any) -> None:
    if module.return_indices:
        raise ModelError(f"layer {name!r} (MaxPool2d): return_indices is not supported; leave it out")
    kernel, dilation, padding = _pair(module.kernel_size), _pair(module.dilation), _pair(module.padding)
    layer = MaxPool2d(name, kernel, _pair(module.stride or kernel), padding, dilation, module.ceil_mode)
    _check_padding(layer, "MaxPool2d", dilation)
    chain.add(layer)


def _add_avg_pool(chain: Chain, name: str, module: Any) -> None:
    kernel, padding = _pair(module.kernel_size), _pair(module.padding)
    stride = _pair(module.stride or kernel)
    divisor = module.divisor_override
    if divisor is not None and divisor < 1:
        raise ModelError(f"layer {name!r} (AvgPool2d): divisor_override must be positive, not {divisor}")
    if divisor is None and any(padding) and not module.count_include_pad:
        raise ModelError(
            f"layer {name!r} (AvgPool2d): count_include_pad=False with padding has another divisor at the border; "
            "use count_include_pad=True or no padding"
        )
    layer = AvgPool2d(name, kernel, stride, divisor or kernel[0] * kernel[1], padding, module.ceil_mode)
    _check_padding(layer, "AvgPool2d", (1, 1))
    size = chain.shape[1:]
    chain.add(layer)
    whole = [window_count(size[axis], kernel[axis], stride[axis], padding[axis], 1) for axis in (0, 1)]
    if divisor is None and tuple(whole) != chain.shape[1:]:
        raise ModelError(
            f"layer {name!r} (AvgPool2d): ceil_mode makes partial windows on a {size[0]}x{size[1]} map, "
            "which have another divisor; use ceil_mode=False"
        )


def _add_adaptive_pool(chain: Chain, name: str, module: Any) -> None:
    if len(chain.shape) != 3:
        raise ModelError(
            f"layer {name!r} (AdaptiveAvgPool2d): takes a map (C, H, W), but its input has shape {chain.shape}"
        )
    height, width = chain.shape[1:]
    given = module.output_size if isinstance(module.output_size, tuple | list) else (module.output_size,) * 2
    rows, columns = given[0] or height, given[1] or width
    if height % rows or width % columns:
        raise ModelError(
            f"layer {name!r} (AdaptiveAvgPool2d): {height}x{width} does not divide evenly into {rows}x{columns}; "
            "use an AvgPool2d or a size that does"
        )
    kernel = (height // rows, width // columns)
    chain.add(AvgPool2d(name, kernel, kernel, kernel[0] * kernel[1]))


def _set_head(chain: Chain, name: str, kind: str, dim: int | None) -> None:
    # Without a dim torch takes the first after the batch, for vectors as well as for maps.
    if dim not in (None, 1) and dim != -len(chain.shape):
        raise ModelError(f"layer {name!r} ({kind}): dim={dim} is not supported, only dim=1")
    if chain.head is not None:
        raise ModelError(f"layer {name!r} ({kind}): follows a softmax, which must come last")
    chain.head = "softmax" if kind == "Softmax" else "log_softmax"


def _add_k_winners(chain: Chain, name: str, module: Any, kind: str) -> None:
    """hwgen.nn's modules, which have `k`, and nupic.torch's, which have `k_inference`."""
    wanted = 3 if kind == "KWinners2d" else 1
    if len(chain.shape) != wanted:
        what = "a map (C, H, W)" if wanted == 3 else "a vector"
        raise ShapeError(f"layer {name!r} ({kind}): takes {what}, but its input has shape {chain.shape}")
    local = bool(getattr(module, "local", False)) and kind == "KWinners2d"
    competitors = chain.shape[0] if local else int(np.prod(chain.shape))
    nupic = hasattr(module, "k_inference")
    units = None if nupic else getattr(module, "n", None)
    if units is not None and units != chain.shape[0]:
        raise ShapeError(f"layer {name!r} ({kind}): was made for n = {units}, but its input has shape {chain.shape}")
    k = _nupic_k(module, competitors) if nupic else getattr(module, "k", None)
    if not isinstance(k, int | np.integer) or isinstance(k, bool):
        raise ModelError(
            f"layer {name!r} ({kind}): has no integer k; hwgen.nn's and nupic.torch's layers are supported"
        )
    if k < 1:
        raise ModelError(f"layer {name!r} ({kind}): keeps {k} winners in evaluation; at least 1 is needed")
    if nupic and k < competitors:
        _refuse_boosting(name, module, kind)
    chain.add(KWinners(name, int(k), local))
    if nupic and getattr(module, "relu", False):
        chain.add(ReLU(f"{name}.relu"))


def _nupic_k(module: Any, competitors: int) -> Any:
    # A global KWinners2d sets k_inference in its first run, which may not have been yet; `n` is 0 until then.
    if getattr(module, "n", 0) or getattr(module, "local", False) or not hasattr(module, "percent_on_inference"):
        return module.k_inference
    return round(competitors * module.percent_on_inference)


def _refuse_boosting(name: str, module: Any, kind: str) -> None:
    """Boosting ranks x * exp((density - duty_cycle) * strength): equal duty cycles do not change the order."""
    duty_cycle = array(name, "duty cycle", module.duty_cycle)
    if float(module.boost_strength) > 0 and np.ptp(duty_cycle) > 0:
        raise ModelError(
            f"layer {name!r} ({kind}): ranks boosted values in evaluation (boost_strength="
            f"{float(module.boost_strength):g}), which the hardware does not; set it to 0 and check the accuracy"
        )


def _check_padding(layer: MaxPool2d | AvgPool2d, kind: str, dilation: Pair) -> None:
    """Torch's own rule, which it checks only when the model runs."""
    span = [dilation[axis] * (layer.kernel[axis] - 1) + 1 for axis in (0, 1)]
    if any(2 * layer.padding[axis] > span[axis] for axis in (0, 1)):
        raise ModelError(f"layer {layer.name!r} ({kind}): padding {layer.padding} is more than half of its window")


def _pair(value: Any) -> Pair:
    if isinstance(value, int):
        return (value, value)
    values = tuple(value)
    return (int(values[0]), int(values[-1]))
