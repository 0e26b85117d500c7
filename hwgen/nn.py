"""k-winner-take-all activations for torch: the layers that make activations sparse by an exact count.

Selection at inference is what `docs/arithmetic.md` defines and the hardware does: exactly k winners, ties to the lowest
index in torch's own order (C, H, W), winners keep their value, negative ones too; k >= n is the identity.

Boosting follows Ahmad and Scheinkman, "How Can We Be So Dense? The Benefits of Using Highly Sparse Representations"
(2019), section 3: in training only, a unit that wins too rarely is ranked higher. Inference never boosts.
"""

from __future__ import annotations

from hwgen.errors import ToolError, install

try:
    import torch
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    raise ToolError(f"hwgen.nn needs {error.name}: {install('torch')}") from error


def winners_mask(x: Tensor, k: int) -> Tensor:
    """Marks the k largest values of the last dimension.

    Args:
        x: (..., n).
        k: number of winners, 1 <= k.

    Returns:
        bool (..., n) with exactly min(k, n) true; among equal values the lowest index wins.
    """
    if k >= x.shape[-1]:
        return torch.ones_like(x, dtype=torch.bool)
    # topk leaves the order of ties open; only a stable sort settles it.
    order = torch.sort(x.detach(), dim=-1, descending=True, stable=True).indices[..., :k]
    return torch.zeros_like(x, dtype=torch.bool).scatter_(-1, order, True)


class _KWinners(nn.Module):
    """What both layers share: the checks, the boosting and its duty cycle."""

    local: bool
    duty_cycle: Tensor

    def __init__(self, k: int, n: int | None, boost_strength: float, duty_cycle_period: int) -> None:
        super().__init__()
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise ValueError(f"k must be a positive integer, not {k!r}")
        if n is not None and n < 1:
            raise ValueError(f"n must be a positive integer or None, not {n!r}")
        if boost_strength < 0:
            raise ValueError(f"boost_strength must not be negative, not {boost_strength!r}")
        if boost_strength > 0 and n is None:
            raise ValueError("boosting counts how often each unit wins, so it needs n, the number of units")
        if duty_cycle_period < 1:
            raise ValueError(f"duty_cycle_period must be a positive integer, not {duty_cycle_period!r}")
        self.k = k
        self.n = n
        self.boost_strength = float(boost_strength)
        self.duty_cycle_period = duty_cycle_period
        if n is not None:
            self.register_buffer("duty_cycle", torch.zeros(n))

    def _select(self, rows: Tensor) -> Tensor:
        """The mask of the winners of rows (..., n) whose last dimension competes."""
        n = rows.shape[-1]
        if self.training:
            # Kept as one factor a unit: units are the first dimension of the tensor (features or channels).
            if self.boost_strength > 0:
                target = self.k / n
                rows = rows * torch.exp(self.boost_strength * (target - self._unit_duty_cycle(n)))
            # Which of equal values wins does not matter yet, and a sort takes three times as long.
            chosen = torch.topk(rows.detach(), min(self.k, n), dim=-1, sorted=False).indices
            return torch.zeros_like(rows, dtype=torch.bool).scatter_(-1, chosen, True)
        return winners_mask(rows, self.k)

    def _unit_duty_cycle(self, n: int) -> Tensor:
        """The duty cycle of each of the n competitors; a channel's positions share the channel's."""
        return self.duty_cycle.repeat_interleave(n // self.duty_cycle.numel())

    def _count(self, mask: Tensor) -> None:
        """Moves the duty cycle towards the share of wins in mask (units, samples)."""
        if self.training and self.n is not None:
            weight = min(1.0, mask.shape[1] / self.duty_cycle_period)
            self.duty_cycle.lerp_(mask.float().mean(dim=1), weight)

    def extra_repr(self) -> str:
        boost = f", boost_strength={self.boost_strength}" if self.boost_strength else ""
        return f"k={self.k}, local={self.local}, n={self.n}{boost}"


class KWinners(_KWinners):
    """Keeps the k largest of n features and zeroes the others.

    Args:
        k: winners of each sample, 1 <= k.
        n: features; only boosting and the duty cycle need it.
        boost_strength: how strongly rare winners are favoured in training; 0 is plain k-WTA.
        duty_cycle_period: samples over which the duty cycle averages.

    Shape: (..., n) -> (..., n). Raises ValueError for features that are not n.
    """

    local = False

    def __init__(
        self, k: int, n: int | None = None, *, boost_strength: float = 0.0, duty_cycle_period: int = 1000
    ) -> None:
        super().__init__(k, n, boost_strength, duty_cycle_period)

    def forward(self, x: Tensor) -> Tensor:
        if self.n is not None and x.shape[-1] != self.n:
            raise ValueError(f"KWinners was made for {self.n} features, but its input has shape {tuple(x.shape)}")
        mask = self._select(x)
        self._count(mask.reshape(-1, mask.shape[-1]).T)
        # `where`, not a product: a losing infinity or NaN must not leak, and a losing negative must not give -0.
        return torch.where(mask, x, x.new_zeros(()))


class KWinners2d(_KWinners):
    """Keeps the k largest values of a map and zeroes the others.

    Args:
        k: winners of each position (local) or of each sample (global), 1 <= k.
        n: channels; only boosting and the duty cycle need it.
        local: the C channels of each position compete if true, else all C*H*W values.
        boost_strength, duty_cycle_period: as for KWinners; the duty cycle is counted a channel.

    Shape: (N, C, H, W) -> (N, C, H, W). Raises ValueError for any other rank or for channels that are not n.
    """

    def __init__(
        self,
        k: int,
        n: int | None = None,
        *,
        local: bool = True,
        boost_strength: float = 0.0,
        duty_cycle_period: int = 1000,
    ) -> None:
        super().__init__(k, n, boost_strength, duty_cycle_period)
        self.local = bool(local)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or (self.n is not None and x.shape[1] != self.n):
            wanted = "C" if self.n is None else self.n
            raise ValueError(f"KWinners2d takes (N, {wanted}, H, W), but its input has shape {tuple(x.shape)}")
        if self.local:
            mask = self._select(x.movedim(1, -1)).movedim(-1, 1)
        else:
            mask = self._select(x.flatten(1)).reshape(x.shape)
        self._count(mask.movedim(1, 0).flatten(1))
        return torch.where(mask, x, x.new_zeros(()))
