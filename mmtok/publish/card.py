"""The model card: what is known about a staged folder, with a table of budgets, through one Jinja template.

A card ends with a mark that holds the hash of everything above it. That is how a later push tells a card that nobody
touched, which it may replace, from one that somebody edited, which it keeps.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from mmtok import CODE_REPOSITORY, install_line
from mmtok.hub.families import PREFIX, family_of
from mmtok.hub.options import PruningOptions

log = logging.getLogger(__name__)

_TEMPLATE = Path(__file__).with_name("card_template.md")
_FACTS = Path(__file__).with_name("facts")
_PAPER_RESULTS, _TESTED_VERSIONS = _FACTS / "paper_results.json", _FACTS / "tested_versions.json"
AUTHORS = "Sixun Dong, Juhua Hu, Mian Zhang, Ming Yin, Yanjie Fu and Qi Qian"
_MARK = re.compile(r"\n<!-- Written by mmtok (?P<release>\S+), card (?P<sha256>[0-9a-f]{64}) -->\n?\Z")
# Budgets in the table of a model, where all crops have equally many tokens and where they differ.
_COUNTS = (192, 128, 64, 32, 16, 8, 4)
_SHARES = (0.5, 0.2, 0.1, 0.05)


@dataclass(frozen=True)
class Measurements:
    """Results of this repository's own code on one checkpoint, read from a committed results file.

    Attributes:
        machine: what they were measured on.
        versions: of the libraries, such as "torch 2.13.0, transformers 5.23.0".
        source: the script and results file that they come from.
        columns: names of the columns behind "budget".
        rows: budget ("all" for every token) and one value per column.
    """

    machine: str
    versions: str
    source: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    @classmethod
    def from_file(cls, path: str | Path) -> Measurements:
        """Reads a JSON object of these attributes.

        Raises:
            ValueError: the file lacks a field, or a row has another number of values than there are columns.
        """
        read, names = json.loads(Path(path).read_text(encoding="utf-8")), [each.name for each in fields(cls)]
        if missing := set(names) - set(read):
            raise ValueError(f"{path} lacks {', '.join(sorted(missing))}: a card shows no figure without its origin.")
        for row in read["rows"]:
            if len(row) != len(read["columns"]) + 1:
                raise ValueError(
                    f"{path} has the row {row}: give a budget and one value for each of {read['columns']}."
                )
        return cls(**{name: read[name] for name in names})


@dataclass(frozen=True)
class CardFacts:
    """Everything that a card says.

    Attributes:
        config: the staged `config.json`.
        code_files: how many code files there are.
        release: version of mmtok that staged the folder.
        base_model, base_revision: Hub id and commit of the base; None for a folder that no Hub id is known of.
        base_metadata: metadata of the base's own card; license and languages are taken over.
        repo_id, tag: where the folder is published; None before that is known.
        measurements: results of this repository's code on this checkpoint, if there are any.
        chat_template: whether there is one.
        image_text: what stands for an image in a prompt that is written without a template.
    """

    config: Mapping[str, Any]
    code_files: int
    release: str
    base_model: str | None = None
    base_revision: str | None = None
    base_metadata: Mapping[str, Any] = field(default_factory=dict)
    repo_id: str | None = None
    tag: str | None = None
    measurements: Measurements | None = None
    chat_template: bool = True
    image_text: str = "<image>"

    @classmethod
    def of_folder(
        cls, folder: str | Path, *, release: str, base_folder: str | Path | None = None, **known: Any
    ) -> CardFacts:
        """The facts of a staged folder, of the README.md in that of its base, and further ones that are `known`."""
        folder = Path(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        card = None if base_folder is None else Path(base_folder) / "README.md"
        if card is not None and card.is_file():
            known["base_metadata"] = metadata_of(card.read_text(encoding="utf-8", errors="replace"))
        return cls(config=config, code_files=len(list(folder.glob("*.py"))), release=release, **known)


def render_card(facts: CardFacts) -> str:
    """The model card as Markdown with its metadata, ending with the mark of an untouched card."""
    family, budgets = family_of(facts.config["model_type"]), budget_table(facts.config)
    name = facts.base_model.split("/")[-1] if facts.base_model else family.title
    card = ModelCard.from_template(
        card_data=_metadata(facts),
        template_str=_TEMPLATE.read_text(encoding="utf-8"),
        facts=facts,
        title=f"{name} with MMTok",
        family=family.title,
        frame=family.load_class().frame,
        vllm=find_spec(f"mmtok.vllm.{facts.config['model_type'].removeprefix(PREFIX)}") is not None,
        default=_default_budget(facts.config, budgets),
        repo=facts.repo_id or "ORGANISATION/MODEL",
        code_repository=CODE_REPOSITORY,
        install=install_line("publish"),
        install_vllm=install_line("vllm"),
        authors=AUTHORS,
        tested=json.loads(_TESTED_VERSIONS.read_text(encoding="utf-8")),
        budgets=budgets,
        budget_rows=budgets.rows(facts.config.get("vision_token_budget")),
        paper_tables=json.loads(_PAPER_RESULTS.read_text(encoding="utf-8"))["models"].get(facts.base_model, []),
    )
    return marked(str(card), facts.release)


def marked(card: str, release: str) -> str:
    """A card with the mark of one that nobody has touched, written by a release of mmtok."""
    body = card.rstrip("\n") + "\n"
    return f"{body}\n<!-- Written by mmtok {release}, card {_hash(body)} -->\n"


def edited_by_hand(card: str) -> bool:
    """Whether a card is anything else than what `render_card` once returned."""
    card = card.replace("\r\n", "\n")
    mark = _MARK.search(card)
    return mark is None or mark["sha256"] != _hash(card[: mark.start()])


def metadata_of(card: str) -> dict[str, Any]:
    """The metadata of a card's text; empty where there is none, or none that the Hub accepts."""
    try:
        return ModelCard(card, ignore_metadata_errors=True).data.to_dict()
    except (yaml.YAMLError, ValueError, TypeError) as error:
        log.warning("The metadata of a card cannot be read and is left out: %s", " ".join(str(error).split()))
        return {}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _default_budget(config: Mapping[str, Any], budgets: BudgetTable) -> str:
    budget, full = config.get("vision_token_budget"), budgets.tokens_per_crop
    if budget is None:
        return "every vision token by default, fewer when a budget is given"
    kept = f"a share of {budget}" if isinstance(budget, float) else f"{min(budget, full or budget)}"
    several = max(map(len, budgets.images.values())) > 1
    shared = ", shared by the crops of an image" if several and config.get("budget_scope") == "image" else ""
    return f"{kept} of the {f'{full} ' if full else ''}vision tokens of each crop by default{shared}"


def _metadata(facts: CardFacts) -> ModelCardData:
    taken_over = ("language", "license", "license_name", "license_link")
    known: dict[str, Any] = {key: facts.base_metadata.get(key) for key in taken_over}
    if facts.base_model:
        # The Hub knows adapter, finetune, merge and quantized. The weights are the base's own, so nothing fits exactly;
        # "finetune" is what the Hub assumes of any repo in the base's own format.
        known |= {"base_model": facts.base_model, "base_model_relation": "finetune"}
        known["base_model_revision"] = facts.base_revision
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["custom_code", "token-pruning", "vision", "multimodal", "arxiv:2508.18264"],
        **known,
    )


@dataclass(frozen=True)
class BudgetTable:
    """Budgets of one model, in its own numbers; as shares where crops differ."""

    about: str  # what a crop is, as sentences
    images: dict[str, tuple[int, ...]]  # by name, the vision tokens of each crop
    tokens_per_crop: int | None  # None where crops differ
    note: str  # on what the figures leave out

    @property
    def totals(self) -> list[int]:
        """Vision tokens of each image without pruning."""
        return [sum(crops) for crops in self.images.values()]

    def rows(self, configured: int | float | None) -> list[dict[str, Any]]:
        """For each budget, that of the configuration among them: vision tokens that stay of each image, and a share."""
        full = self.tokens_per_crop
        if full is not None and isinstance(configured, float):
            configured = round(configured * full)
        budgets: set[int | float] = set(_SHARES if full is None else _COUNTS)
        if configured is not None:
            budgets.add(configured)
        rows = []
        for budget in sorted(budgets, key=lambda budget: (isinstance(budget, int), budget), reverse=True):
            if full is not None and budget >= full:
                continue
            options = PruningOptions(vision_token_budget=budget)
            kept = [sum(map(options.budget_of, crops)) for crops in self.images.values()]
            share = 100 * (budget if isinstance(budget, float) else kept[0] / self.totals[0])
            rows.append({"budget": budget, "configured": budget == configured, "kept": kept, "share": f"{share:.1f} %"})
        return rows


def budget_table(config: Mapping[str, Any]) -> BudgetTable:
    """The table of a model with this `config.json`, that of a stock checkpoint or of a staged folder."""
    model_class = family_of(config["model_type"]).load_class()
    given = {name: value for name, value in config.items() if name not in ("model_type", "auto_map")}
    geometry = model_class.geometry_class(model_class.config_class.from_dict(given))
    layouts = {name: geometry.layout(size) for name, size in geometry.examples.items()}
    images = {name: tuple(each.crop[each.crop >= 0].bincount().tolist()) for name, each in layouts.items()}
    separators = [int((each.source < 0).sum()) for each in layouts.values()]
    note = (
        f"Without pruning there are row separators besides, up to {max(separators)} in these images; a pruned image "
        "has none."
    )
    counts = {tokens for crops in images.values() for tokens in crops}
    tokens_per_crop = counts.pop() if len(counts) == 1 else None
    return BudgetTable(geometry.about, images, tokens_per_crop, note if any(separators) else "")
