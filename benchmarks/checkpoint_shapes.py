"""The published checkpoints, compared with the released classes by their shapes alone.

`python -m benchmarks.checkpoint_shapes` builds the configuration of each for the classes that prune, loads it in a
clean process with weights that are headers only (see `clean_process.check_fit`), in the published names and shapes of
tensors, and prints what fitted. With `--cards FOLDER` it also writes the example cards.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mmtok
from mmtok.measuring import machine
from mmtok.publish.base import BaseCheckpoint, TensorHeader
from mmtok.publish.card import CardFacts, render_card
from mmtok.publish.clean_process import CheckFailed, check_fit
from mmtok.publish.repository import CONFIG_FILE, as_json, published_code
from mmtok.publish.settings import published_config

_FACTS = Path(__file__).with_name("facts")
# Every file of the folder but the names of tensors.
NAMES = tuple(sorted(path.stem for path in _FACTS.glob("*.json") if path.stem != "key_layout"))
# Those of which docs/cards has an example card: with the paper's figures, and without.
CARDS = ("llava-1.5-7b-hf", "qwen2.5-vl-3b-instruct")


@dataclass(frozen=True)
class Member:
    """One published checkpoint as its facts file describes it.

    Attributes:
        hub_id: its repo.
        config: its `config.json`.
        dtype: of its weights, as safetensors spells it.
        layout: of its tensors' names, of `facts/key_layout.json`.
        metadata: license and languages of its card.
    """

    hub_id: str
    config: dict[str, Any]
    dtype: str
    layout: str
    metadata: dict[str, Any]

    @classmethod
    def read(cls, name: str) -> Member:
        """Reads a checkpoint of `NAMES`."""
        facts = json.loads((_FACTS / f"{name}.json").read_text(encoding="utf-8"))
        metadata = {key: facts[key] for key in ("license", "language") if key in facts}
        weights = facts["weights"]
        return cls(facts["hub_id"], facts["config"], weights["dtype"], weights["layout"], metadata)

    def published_config(self) -> dict[str, Any]:
        """Its configuration for the class that prunes; without its tokenizer, nothing is left out of the text."""
        return published_config(BaseCheckpoint(Path(), self.config, ()), {})

    def tensors(self) -> dict[str, TensorHeader]:
        """Name, type and shape of every tensor, as published."""
        layouts = json.loads((_FACTS / "key_layout.json").read_text(encoding="utf-8"))
        layout = layouts[self.layout]
        layout = layouts.get(layout.get("like"), {}) | layout
        text, vision = self.config["text_config"], self.config["vision_config"]
        patterns = layout["every_model"] | layout.get(self.config["model_type"], {})
        patterns |= layout.get("vision", {}).get(vision["model_type"], {})
        if not self.config.get("tie_word_embeddings"):
            patterns |= layout.get("untied", {})
        in_text = layout["text_layer"] | layout.get("text", {}).get(text["model_type"], {})
        layers = [(layer, in_text) for layer in range(text["num_hidden_layers"])]
        layers += [(layer, layout.get("kinds", {}).get(kind, {})) for layer, kind in self._kinds()]
        for in_layer, count in (
            (layout["vision_layer"], vision.get("num_hidden_layers", vision.get("depth"))),
            (layout.get("deepstack", {}), len(vision.get("deepstack_visual_indexes", ()))),
        ):
            layers += [(layer, in_layer) for layer in range(count)]
        for layer, in_layer in layers:
            for name, axes in in_layer.items():
                experts = text["n_routed_experts"] if "{expert}" in name else 1
                patterns |= {name.format(layer=layer, expert=expert): axes for expert in range(experts)}
        sizes = self._sizes()
        return {
            name: TensorHeader(self.dtype, tuple(axis if isinstance(axis, int) else sizes[axis] for axis in axes))
            for name, axes in patterns.items()
        }

    def _kinds(self) -> Iterator[tuple[int, str]]:
        """Every layer of the language model with its attention, and with whether it has experts."""
        text = self.config["text_config"]
        experts = text.get("num_experts") or text.get("n_routed_experts")
        for layer in range(text["num_hidden_layers"]):
            yield layer, text["layer_types"][layer] if "layer_types" in text else "full_attention"
            yield layer, "sparse" if experts and layer >= text.get("first_k_dense_replace", 0) else "dense"

    def _sizes(self) -> dict[str, int]:
        text, vision = self.config["text_config"], self.config["vision_config"]
        sizes = {f"text.{name}": value for name, value in text.items()}
        sizes |= {f"vision.{name}": value for name, value in vision.items()}
        heads, key_values = text["num_attention_heads"], text["num_key_value_heads"]
        head = text.get("head_dim", text["hidden_size"] // heads)
        sizes["text.query_size"] = heads * head
        sizes["text.query_and_gate"] = heads * head * (2 if text.get("attn_output_gate") else 1)
        sizes["text.key_value_size"] = key_values * head
        sizes["text.global_query_size"] = heads * text.get("global_head_dim", head)
        sizes["text.global_key_value_size"] = text.get("num_global_key_value_heads", key_values) * text.get(
            "global_head_dim", head
        )
        sizes["text.gate_up"] = 2 * text.get("intermediate_size", 0)
        sizes["text.moe_gate_up"] = 2 * text.get("moe_intermediate_size", 0)
        if "linear_num_key_heads" in text:
            sizes["text.linear_value"] = text["linear_num_value_heads"] * text["linear_value_head_dim"]
            keys = text["linear_num_key_heads"] * text["linear_key_head_dim"]
            sizes["text.linear_qkv"] = 2 * keys + sizes["text.linear_value"]
        width = vision.get("embed_dim", vision["hidden_size"])
        merge = vision.get("spatial_merge_size", self.config.get("spatial_merge_size", 1))
        if "downsample_ratio" in self.config:
            merge = round(1 / self.config["downsample_ratio"])
        sizes["vision.qkv"] = 3 * width
        sizes["vision.mlp"] = width * vision.get("mlp_ratio", 0)
        sizes["vision.merged"] = width * merge**2
        patch, image = (_side(vision.get(name, 0)) for name in ("patch_size", "image_size"))
        sizes["vision.patch"], sizes["vision.patch_values"] = patch, 3 * patch**2
        has_class_token = vision["model_type"] in ("clip_vision_model", "internvl_vision")
        sizes["vision.positions"] = (image // patch) ** 2 + int(has_class_token)
        return sizes


@dataclass(frozen=True)
class Fit:
    """What fitted: all tensors, and how many parameters they hold."""

    hub_id: str
    model_class: str
    tensors: int
    parameters: int


def check_member(member: Member) -> Fit:
    """Loads a member with weights that are headers only.

    Raises:
        CheckFailed: a tensor is missing, unexpected or of another shape.
    """
    tensors = member.tensors()
    with tempfile.TemporaryDirectory(prefix="mmtok-family-") as scratch:
        config = _write_code(member, Path(scratch))
        count = check_fit(Path(scratch), member.config, tensors)
    parameters = sum(math.prod(tensor.shape) for tensor in tensors.values())
    return Fit(member.hub_id, config["architectures"][0], count, parameters)


def example_card(member: Member) -> str:
    """The card that a push of this member would write, apart from commit, repo and tag."""
    with tempfile.TemporaryDirectory(prefix="mmtok-family-") as scratch:
        _write_code(member, Path(scratch))
        facts = CardFacts.of_folder(
            scratch,
            release=mmtok.__version__,
            base_model=member.hub_id,
            base_metadata=member.metadata,
        )
    return render_card(facts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks every member and prints what fitted; returns 1 if one does not fit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoint_shapes", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--cards", type=Path, metavar="FOLDER", help="write the example cards into FOLDER")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write what fitted as JSON")
    parsed = parser.parse_args(arguments)
    unknown = set(parsed.names) - set(NAMES)
    if unknown:
        parser.error(f"there is no {min(unknown)}: choose from {', '.join(NAMES)}")
    fits, failed = [], False
    for name in parsed.names or NAMES:
        member = Member.read(name)
        if parsed.cards and name in CARDS:
            parsed.cards.mkdir(parents=True, exist_ok=True)
            (parsed.cards / f"{name}.md").write_text(example_card(member), encoding="utf-8")
        try:
            fit = check_member(member)
        except CheckFailed as error:
            print(f"{member.hub_id}: {error}", file=sys.stderr)
            failed = True
            continue
        fits.append(fit)
        print(f"{fit.hub_id}: {fit.tensors} tensors, {fit.parameters:,} parameters fit {fit.model_class}", flush=True)
    if parsed.results and not failed:
        versions = machine("transformers")["versions"]
        results = {"source": "python -m benchmarks.checkpoint_shapes --results", **versions}
        results["fits"] = [asdict(fit) for fit in fits]
        parsed.results.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return int(failed)


def _side(size: int | list[int]) -> int:
    """The side of a square, of which some configurations give both."""
    return size[0] if isinstance(size, list) else size


def _write_code(member: Member, folder: Path) -> dict[str, Any]:
    """Writes the published code and the configuration; returns the configuration."""
    config = member.published_config()
    (folder / CONFIG_FILE).write_text(as_json(config), encoding="utf-8")
    for name, content in published_code(config["model_type"]).items():
        (folder / name).write_bytes(content)
    return config


if __name__ == "__main__":
    sys.exit(main())
