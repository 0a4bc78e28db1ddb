"""The cache of features: bounded in bytes, least recently used first out, independent of what was put in."""

from __future__ import annotations

import torch

from mmtok.vllm.feature_cache import FeatureCache


def features(value: int) -> torch.Tensor:
    """8 bytes."""
    return torch.full((1, 2), float(value))


def test_the_least_recently_used_goes_first() -> None:
    cache = FeatureCache(16)
    cache.put("a", features(1))
    cache.put("b", features(2))
    cache.get("a")
    cache.put("c", features(3))
    assert cache.get("b") is None
    assert torch.equal(cache.get("a"), features(1))
    assert torch.equal(cache.get("c"), features(3))
    assert (len(cache), cache.bytes) == (2, 16)


def test_bytes_never_exceed_the_bound() -> None:
    cache, generator = FeatureCache(100), torch.Generator().manual_seed(0)
    for index in range(200):
        cache.put(str(index % 37), torch.zeros(int(torch.randint(1, 40, (1,), generator=generator))))
        held = [cache.get(str(key)) for key in range(37)]
        assert cache.bytes == sum(each.numel() * 4 for each in held if each is not None) <= 100


def test_what_is_larger_than_the_bound_or_has_no_key_is_not_held() -> None:
    cache = FeatureCache(4)
    cache.put("large", features(1))
    cache.put("", torch.zeros(1))
    assert (len(cache), cache.bytes, cache.get("large"), cache.get("")) == (0, 0, None, None)


def test_a_slice_is_held_without_the_batch_it_came_from() -> None:
    batch, cache = torch.arange(8.0).view(4, 2), FeatureCache(64)
    cache.put("second", batch[1:2])
    batch.zero_()
    held = cache.get("second")
    assert torch.equal(held, torch.tensor([[2.0, 3.0]]))
    assert held.untyped_storage().nbytes() == 8


def test_clear_forgets_everything() -> None:
    cache = FeatureCache(64)
    cache.put("a", features(1))
    cache.clear()
    assert (len(cache), cache.bytes, cache.get("a")) == (0, 0, None)
