"""The coverage matrix: how well each vision token stands for each text and each vision token (paper, section 3).

Symbols of the paper: m text tokens `text`, n vision tokens `vision` (after the projector) and `raw_vision` (before it),
tau_t `text_temperature`, tau_v `vision_temperature`, alpha `vision_weight`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .devices import to_device
from .options import TEMPERATURE, WEIGHT

# Tokens that are shorter than this count as having no direction.
_SHORTEST = 1e-12

# Rows of a matrix of cosines that are computed at once; a crop of CLIP ViT-L/14 at 336 pixels has 576 tokens.
_ROWS_AT_ONCE = 576
# Entries of a matrix that is not held which are computed at once: 16 MiB in float32.
_ENTRIES_AT_ONCE = 2**22


@torch.no_grad()
def coverage_matrix(
    text: torch.Tensor,
    vision: torch.Tensor,
    raw_vision: torch.Tensor,
    *,
    text_weight: float = 1.0,
    vision_weight: float = 0.5,
    text_temperature: float = 0.02,
    vision_temperature: float = 0.2,
    text_mask: torch.Tensor | None = None,
    vision_mask: torch.Tensor | None = None,
    check_values: bool = True,
) -> torch.Tensor:
    """Stacks the weighted text-vision and vision-vision similarities, one row for each token to cover.

    Each row is a softmax over the n vision tokens of cosine / temperature, in float32. Text rows are weighted
    text_weight / m and vision rows vision_weight / n, so that a sum over rows of the best entries is the paper's
    f(S; text-vision) + alpha f(S; vision-vision). No gradient is kept.

    Args:
        text: (..., m, d) embeddings of the text tokens to cover; m may be 0.
        vision: (..., n, d) vision tokens after the projector.
        raw_vision: (..., n, d_raw) the same tokens before the projector.
        text_weight, vision_weight: non-negative, not both 0.
        text_temperature, vision_temperature: above 0.
        text_mask: (..., m) bool, False for rows that fill a batch; they become zero rows.
        vision_mask: (..., n) bool, False for vision tokens that fill a batch; they become zero rows and columns, and
            change no other entry. Both masks may stay on the CPU, where it costs nothing to see that they mask nothing.
        check_values: False leaves out the one look at the features, which on an accelerator has to wait for them.

    Returns:
        (..., m + n, n) float32, text rows first; the entries of a column are neighbours in memory, for the maximiser.

    Raises:
        ValueError: n = 0, shapes that do not belong together, NaN or infinite features, an argument out of range.
    """
    _require_settings(text_weight, vision_weight, text_temperature, vision_temperature)
    _require_shapes(text, vision, raw_vision, text_mask, vision_mask)
    # None where the host can see that a mask masks nothing.
    text_mask, vision_mask = (
        None if mask is None or (mask.device.type == "cpu" and bool(mask.all())) else to_device(mask, vision.device)
        for mask in (text_mask, vision_mask)
    )
    logits, directions = _logits(text, vision, raw_vision, text_temperature, vision_temperature, check_values)
    if vision_mask is not None:
        logits = logits.masked_fill(~vision_mask[..., None, :], -torch.inf)
    text_rows = logits.softmax(-1)
    vision_columns, row_sums = _soft_columns(_inner_products(directions), vision_mask)
    row_scales = _row_weights(vision, vision_weight, vision_mask) / row_sums
    columns = vision_columns.new_empty(*vision_columns.shape[:-1], text.shape[-2] + vision.shape[-2])
    text_weights = _row_weights(text, text_weight, text_mask)
    _multiply_into(columns[..., : text.shape[-2]], text_rows.transpose(-1, -2), text_weights[..., None, :])
    _multiply_into(columns[..., text.shape[-2] :], vision_columns, row_scales[..., None, :])
    return columns.transpose(-1, -2)


class CoverageRows:
    """The coverage matrix of one item that is too large to be held: a vision row is computed whenever it is read.

    Args:
        text: (m, d), as those of `coverage_matrix`, like what follows.
        vision: (n, d)
        raw_vision: (n, d_raw)
        text_weight, vision_weight, text_temperature, vision_temperature, check_values: see there.

    Attributes:
        text: (m, n) float32, the text rows.

    Raises:
        ValueError: as there.
    """

    @torch.no_grad()
    def __init__(
        self,
        text: torch.Tensor,
        vision: torch.Tensor,
        raw_vision: torch.Tensor,
        *,
        text_weight: float = 1.0,
        vision_weight: float = 0.5,
        text_temperature: float = 0.02,
        vision_temperature: float = 0.2,
        check_values: bool = True,
    ) -> None:
        _require_settings(text_weight, vision_weight, text_temperature, vision_temperature)
        _require_shapes(text, vision, raw_vision, None, None)
        logits, self._directions = _logits(text, vision, raw_vision, text_temperature, vision_temperature, check_values)
        self.text = logits.softmax(-1) * _row_weights(text, text_weight, None)[:, None]
        self._largest = self._directions.square().sum(-1)
        self._scales = torch.ones_like(self._largest)
        # Kept: small tensors would come to lie in the gaps of large ones that are freed, which then never fit again.
        self._entries = self.text.new_empty(max(1, _ENTRIES_AT_ONCE // len(vision)), len(vision))
        rows = torch.arange(len(text) + len(vision), device=vision.device)
        sums = torch.cat([self.read(block).sum(-1) for block in self.blocks(rows[len(text) :])])
        self._scales = _row_weights(vision, vision_weight, None) / sums

    def blocks(self, rows: torch.Tensor) -> Sequence[torch.Tensor]:
        """Numbers of rows in runs that are read at once."""
        return rows.split(len(self._entries))

    def read(self, rows: torch.Tensor) -> torch.Tensor:
        """(r,) numbers of rows in ascending order, one of `blocks` -> (r, n), which the next call overwrites."""
        words = int((rows < len(self.text)).sum())
        entries = self._entries[: len(rows)]
        torch.index_select(self.text, 0, rows[:words], out=entries[:words])
        others, vision = rows[words:] - len(self.text), entries[words:]
        torch.mm(self._directions[others], self._directions.T, out=vision)
        vision.sub_(self._largest[others, None]).exp_().mul_(self._scales[others, None])
        return entries

    def column(self, index: torch.Tensor) -> torch.Tensor:
        """(1,) number of a column -> (m + n,)"""
        logits = self._directions @ self._directions.index_select(0, index)[0]
        vision = logits.sub_(self._largest).exp_().mul_(self._scales)
        return torch.cat([self.text.index_select(1, index)[:, 0], vision])


def _logits(
    text: torch.Tensor,
    vision: torch.Tensor,
    raw_vision: torch.Tensor,
    text_temperature: float,
    vision_temperature: float,
    check_values: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both similarities of the paper in front of the softmax, in float32.

    Returns:
        (..., m, n) cosines / text_temperature of text and vision tokens, and (..., n, d_raw) vectors whose inner
        products are cosines / vision_temperature of vision tokens.

    Raises:
        ValueError: with `check_values`, features that are not finite.
    """
    given = {"text": text, "vision": vision, "raw_vision": raw_vision}
    features = [values.float() for values in given.values()]
    lengths = [torch.linalg.vector_norm(values, dim=-1) for values in features]
    # NaN and infinity show in a token's length: one value is read back.
    if check_values and not bool(torch.stack([torch.isfinite(values).all() for values in lengths]).all()):
        for (name, values), measured in zip(given.items(), lengths, strict=True):
            if not bool(torch.isfinite(measured).all()):
                wrong = values[~torch.isfinite(values)]
                bad = float(wrong[0] if len(wrong) else values.abs().max())
                raise ValueError(f"{name} contains {bad}: check the image and the dtype of the weights for overflow.")
    text_length, vision_length, raw_length = (values.clamp_min(_SHORTEST) for values in lengths)
    directions = features[0] / text_length[..., None]
    # Scaling the product is much less work than scaling the vision tokens.
    cosines = (directions @ features[1].transpose(-1, -2)) / vision_length[..., None, :]
    return cosines / text_temperature, features[2] / (raw_length * vision_temperature**0.5)[..., None]


def _multiply_into(part: torch.Tensor, values: torch.Tensor, weights: torch.Tensor) -> None:
    if torch.compiler.is_compiling():  # which takes no `out` that is a part of a tensor
        part.copy_(values * weights)
    else:
        torch.mul(values, weights, out=part)


def _inner_products(vectors: torch.Tensor) -> torch.Tensor:
    """(..., n, d) -> (..., n, n), its own transpose; what is right of the diagonal blocks is computed once."""
    count = vectors.shape[-2]
    if count <= _ROWS_AT_ONCE:
        return vectors @ vectors.transpose(-1, -2)
    products = vectors.new_empty(*vectors.shape[:-1], count)
    for start in range(0, count, _ROWS_AT_ONCE):
        end = start + _ROWS_AT_ONCE
        products[..., start:end, start:] = vectors[..., start:end, :] @ vectors[..., start:, :].transpose(-1, -2)
        products[..., end:, start:end] = products[..., start:end, end:].transpose(-1, -2)
    return products


def _soft_columns(logits: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax over the columns of a matrix of cosines / temperature, without its division, in place and transposed.

    The matrix is its own transpose, and no cosine is above that of a token with itself: the diagonal holds every
    row's largest logit.

    Returns:
        (..., n, n) exponentials, one row for each column of the softmax, and (..., n) the divisors.
    """
    largest = logits.diagonal(dim1=-2, dim2=-1).clone()
    exponentials = logits.sub_(largest[..., None, :]).exp_()
    if mask is None:
        return exponentials, exponentials.sum(-2)
    exponentials.masked_fill_(~mask[..., None], 0.0)
    # A filler's row may be all 0 by now; it is going to be weighted 0.
    return exponentials, exponentials.sum(-2).masked_fill_(~mask, 1.0)


def _row_weights(rows: torch.Tensor, weight: float, mask: torch.Tensor | None) -> torch.Tensor:
    """(..., r, d) -> (..., r) float32: weight / (number of true rows), 0 for masked rows."""
    start = weight / max(rows.shape[-2], 1) if mask is None else weight
    weights = torch.full(rows.shape[:-1], start, dtype=torch.float32, device=rows.device)
    if mask is None:
        return weights
    # A quotient of two tensors is rounded as the one above, so that a mask in which nothing is masked changes no bit.
    return weights.div_(mask.sum(-1, keepdim=True).clamp_min(1)).mul_(mask)


def _require_settings(
    text_weight: float, vision_weight: float, text_temperature: float, vision_temperature: float
) -> None:
    for name, value, (accepts, wanted) in (
        ("text_weight", text_weight, WEIGHT),
        ("vision_weight", vision_weight, WEIGHT),
        ("text_temperature", text_temperature, TEMPERATURE),
        ("vision_temperature", vision_temperature, TEMPERATURE),
    ):
        if not accepts(value):
            raise ValueError(f"{name} is {value}: give {wanted}.")
    if text_weight == 0 and vision_weight == 0:
        raise ValueError("text_weight and vision_weight are both 0: there is nothing to cover. Raise one of them.")


def _require_shapes(
    text: torch.Tensor,
    vision: torch.Tensor,
    raw_vision: torch.Tensor,
    text_mask: torch.Tensor | None,
    vision_mask: torch.Tensor | None,
) -> None:
    for name, features in (("text", text), ("vision", vision), ("raw_vision", raw_vision)):
        if not features.is_floating_point():
            raise ValueError(f"{name} has dtype {features.dtype}: give floating-point features.")
    shapes = f"text {tuple(text.shape)}, vision {tuple(vision.shape)}, raw_vision {tuple(raw_vision.shape)}"
    if min(text.dim(), vision.dim(), raw_vision.dim()) < 2:
        raise ValueError(f"Features must have shape (..., tokens, width), not {shapes}.")
    if vision.shape[-2] == 0:
        raise ValueError(f"There are no vision tokens to choose from: {shapes}.")
    if (
        vision.shape[:-1] != raw_vision.shape[:-1]
        or text.shape[:-2] != vision.shape[:-2]
        or text.shape[-1] != vision.shape[-1]
    ):
        raise ValueError(
            "text and vision must share their width, vision and raw_vision their number of tokens, and all three their "
            f"leading dimensions, not {shapes}."
        )
    for name, mask, features in (("text_mask", text_mask, text), ("vision_mask", vision_mask, vision)):
        if mask is not None and (mask.dtype != torch.bool or mask.shape != features.shape[:-1]):
            raise ValueError(
                f"{name} has dtype {mask.dtype} and shape {tuple(mask.shape)}: give a bool mask of shape "
                f"{tuple(features.shape[:-1])}."
            )
