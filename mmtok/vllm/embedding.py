"""The embedding step of the models: vision tower in bounded batches, cache of features, projector, selection."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from mmtok.hub.images import EncodedVision
from mmtok.vllm.feature_cache import FeatureCache
from mmtok.vllm.method import geometry_of, kept_flags
from mmtok.vllm.processor import PIXELS
from mmtok.vllm.request import REQUESTS, PruningRequest

# Name in vLLM's --additional-config, and what counts without it.
CACHE_OPTION = "mmtok_feature_cache_gib"
CACHE_GIB = 0.5


class PruningEmbeddingMixin:
    """Modifications of a LLaVA model of vLLM: what `embed_multimodal` returns of an image are the tokens that stay."""

    # The vision tower, on whose weights the cached features depend.
    tower_name = "vision_tower"
    # An adapter of the vision tower would have to count the crops that the tower sees, and vLLM counts the tokens that
    # stay; and features of one adapter must not be cached for another.
    supports_tower_connector_lora = False

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        _refuse_modes(vllm_config)
        cache_bytes = _cache_bytes(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self.geometry = geometry_of(vllm_config.model_config.hf_config)
        self.features = FeatureCache(cache_bytes)
        self.tower_state: list[tuple[int, object]] = []
        self.crops_at_once = self._most_at_once(vllm_config)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Loads weights; features of the old ones are forgotten, also where a loader writes into `param.data`."""
        self.features.clear()
        return super().load_weights(weights)  # type: ignore[misc]

    def embed_multimodal(self, **kwargs: object) -> Any:
        """For each image or video (kept, hidden), the tokens that its request keeps; vLLM gives one modality at a time.

        Raises:
            RuntimeError: pixels without a request.
        """
        kind = next((each for each, name in PIXELS.items() if kwargs.get(name) is not None), None)
        if kind is None:  # image_embeds or video_embeds
            return super().embed_multimodal(**kwargs)  # type: ignore[misc]
        sent: Any = kwargs.pop(REQUESTS[kind], None)
        if sent is None:
            raise RuntimeError(f"{PIXELS[kind]} came without {REQUESTS[kind]}: MMTok's processor did not make it.")
        pixels, sizes = self._images(**kwargs) if kind == "image" else self._videos(**kwargs)
        requests = [PruningRequest.from_tensor(each) for each in sent]
        embedded: list[torch.Tensor] = []
        for start, end in _batches([len(each) for each in pixels], self.crops_at_once):
            embedded += self._embed(pixels[start:end], sizes[start:end], requests[start:end])
        return embedded

    def _most_at_once(self, vllm_config: Any) -> int:
        """Crops, or patches of images without crops, that vLLM encoded at once when it measured the memory."""
        size = self.geometry.largest_image
        return images_at_once(vllm_config, len(self.geometry.layout(size).source)) * self.geometry.crops(size)

    def _images(self, **kwargs: object) -> tuple[list[torch.Tensor], Sequence[Any]]:
        """For each image (crops, channels, h, w), and its (height, width)."""
        images: Any = self._parse_and_validate_image_input(**kwargs)  # type: ignore[attr-defined]
        return list(images["pixel_values"]), [tuple(size) for size in images["image_sizes"].tolist()]

    def _videos(self, **kwargs: object) -> tuple[list[torch.Tensor], Sequence[Any]]:
        """For each video (frames, channels, h, w), and its size."""
        raise NotImplementedError

    def _packed(self, crops: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """(crops, tokens, hidden) behind the projector -> (T, hidden) as they stand in the prompt."""
        raise NotImplementedError

    def _raw_packed(self, features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """(crops, tokens, d_raw) before the projector -> the rows that the layout's `source` counts."""
        return features.flatten(0, 1)

    def _projected(self, features: Sequence[torch.Tensor], sizes: Sequence[tuple[int, int]]) -> Sequence[torch.Tensor]:
        """For each image (T, hidden) as they stand in the prompt, from what `_encoded` gave."""
        projected = self.multi_modal_projector(torch.cat(list(features))).split([len(each) for each in features])  # type: ignore[attr-defined]
        return [self._packed(each, size) for each, size in zip(projected, sizes, strict=True)]

    def _carried(
        self, tokens: torch.Tensor, features: torch.Tensor, size: tuple[int, int], prunes: bool
    ) -> torch.Tensor:
        """(T, hidden), and what `_encoded` gave -> what vLLM gets of those that stay, all where nothing is pruned."""
        return tokens

    def _embed(
        self, pixels: Sequence[torch.Tensor], sizes: Sequence[tuple[int, int]], requests: Sequence[PruningRequest]
    ) -> list[torch.Tensor]:
        features = self._features(pixels, sizes, [request.image_key for request in requests])
        packed = self._projected(features, sizes)
        prunes = [request.pruning.prunes for request in requests]
        embedded = [self._carried(*each) for each in zip(packed, features, sizes, prunes, strict=True)]
        alike: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            if request.pruning.prunes:
                alike.setdefault(json.dumps(request.options, sort_keys=True), []).append(index)
        for members in alike.values():
            options = requests[members[0]].pruning
            candidates = None
            if options.padding == "exclude":
                candidates = [
                    self.geometry.candidates(pixels[index].cpu(), sizes[index], requests[index].tiled)
                    for index in members
                ]
            encoded = EncodedVision(
                [packed[index] for index in members],
                [self._raw_packed(features[index], sizes[index]) for index in members],
                [self.geometry.layout(sizes[index], requests[index].tiled) for index in members],
                candidates,
            )
            flags, counts = self._kept(encoded, [requests[index] for index in members])
            for index, flag, count in zip(members, flags, counts, strict=True):
                embedded[index] = _rows(embedded[index], flag, count)
        return embedded

    def _kept(
        self, encoded: EncodedVision, requests: Sequence[PruningRequest]
    ) -> tuple[Sequence[torch.Tensor], list[int]]:
        """For each of some images whose requests have equal options (T,) bool, and how many stay."""
        texts = [request.text_ids for request in requests]
        # Of the model without adapters: with LoRA, vLLM's layer takes only as many ids as the step has tokens, and
        # its caches of images are shared by all adapters.
        embedding = self.language_model.model.embed_tokens  # type: ignore[attr-defined]
        embed = getattr(embedding, "base_layer", embedding)
        return kept_flags(encoded, texts, embed, requests[0].pruning)

    def _features(
        self, pixels: Sequence[torch.Tensor], sizes: Sequence[tuple[int, int]], keys: Sequence[str]
    ) -> list[torch.Tensor]:
        """What `_encoded` gives for each image; the vision tower runs once for equal images."""
        # vLLM replaces weights without load_weights, too: `reload_weights` in the layout of its kernels does.
        tower: torch.nn.Module = getattr(self, self.tower_name)
        # Tensors of inference mode count no versions, and are taken for new ones.
        state = [(each.data_ptr(), object() if each.is_inference() else each._version) for each in tower.parameters()]
        if state != self.tower_state:
            self.features.clear()
            self.tower_state = state
        found = {key: self.features.get(key) for key in keys if key}
        # Of equal images the first is encoded; those without a key are equal to none.
        wanted = [at for at, key in enumerate(keys) if not key or (found[key] is None and keys.index(key) == at)]
        new: dict[int, torch.Tensor] = {}
        if wanted:
            encoded = self._encoded([pixels[index] for index in wanted], [sizes[index] for index in wanted])
            new = dict(zip(wanted, encoded, strict=True))
        for index, features in new.items():
            found[keys[index]] = features
            self.features.put(keys[index], features)
        device = pixels[0].device
        return [
            new[index] if index in new else found[key].to(device)  # type: ignore[union-attr]
            for index, key in enumerate(keys)
        ]

    def _encoded(self, pixels: Sequence[torch.Tensor], sizes: Sequence[tuple[int, int]]) -> Sequence[torch.Tensor]:
        """For each image (crops, tokens, d_raw), what the vision tower makes of it, before the projector."""
        # An image of the most tokens need not have the most crops.
        parts = torch.cat(list(pixels)).split(self.crops_at_once)
        return torch.cat([self._tower(part) for part in parts]).split([len(each) for each in pixels])

    def _tower(self, crops: torch.Tensor) -> torch.Tensor:
        """(crops, channels, h, w) -> (crops, tokens, d_raw)"""
        return self._image_pixels_to_features(self.vision_tower, crops)  # type: ignore[attr-defined]


def _rows(tokens: torch.Tensor, flags: torch.Tensor, count: int) -> torch.Tensor:
    """(T, d), (T,) bool -> (count, d) in order, without waiting for the device to count the flags."""
    places = torch.arange(len(tokens), device=tokens.device)
    order = torch.where(flags, places, places + len(tokens)).argsort()[:count]
    return tokens[order]


def _batches(crops: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Runs of images, from and up to, of at most `most` crops each, or of one image."""
    runs: list[tuple[int, int]] = []
    start = total = 0
    for index, count in enumerate(crops):
        if index > start and total + count > most:
            runs.append((start, index))
            start, total = index, 0
        total += count
    return [*runs, (start, len(crops))] if len(crops) else []


def images_at_once(vllm_config: Any, tokens: int) -> int:
    """Images of so many tokens, the most, that vLLM encoded at once when it measured the memory.

    Its scheduler counts the tokens that stay, so that many more images than were measured can come in one step.
    """
    scheduler, model = vllm_config.scheduler_config, vllm_config.model_config
    in_prompt = min(model.get_multimodal_config().get_limit_per_prompt("image"), model.max_model_len // tokens)
    images = min(scheduler.max_num_encoder_input_tokens // tokens, scheduler.max_num_seqs * max(1, in_prompt))
    return max(1, images)


def _cache_bytes(vllm_config: Any) -> int:
    if vllm_config.weight_transfer_config is not None:
        return 0  # weights may be written past PyTorch, and features of the old ones would stay
    given = (vllm_config.additional_config or {}).get(CACHE_OPTION, CACHE_GIB)
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 <= given < float("inf"):
        raise ValueError(f"{CACHE_OPTION} is {given!r}: give the size of the cache of features in GiB, 0 for none.")
    return int(given * 2**30)


def _refuse_modes(vllm_config: Any) -> None:
    """Raises a ValueError for what the embedding step cannot run in."""
    if vllm_config.model_config.multimodal_config.mm_encoder_only:
        raise ValueError(
            "mm_encoder_only is True: MMTok selects by the embeddings of the text, which an instance without the "
            "language model lacks. Leave it off, and serve with one instance that encodes and answers."
        )
    if vllm_config.compilation_config.cudagraph_mm_encoder:
        raise ValueError(
            "cudagraph_mm_encoder is True: a CUDA graph of the vision tower takes the place of the step that selects. "
            "Leave it off."
        )
    if vllm_config.lora_config is not None and vllm_config.lora_config.enable_tower_connector_lora:
        raise ValueError(
            "enable_tower_connector_lora is True: MMTok runs adapters of the language model only. Leave it off, and "
            "merge an adapter of the vision tower or the projector into the weights."
        )
