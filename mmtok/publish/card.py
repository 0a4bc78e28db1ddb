"""The model card: what is known about a staged folder, with a table of budgets, through one Jinja template.

A card ends with a mark that holds the hash of everything above it. That is how a later push tells a card that nobody
touched, which it may replace, from one that somebody edited, which it keeps.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
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
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    @classmethod
    def from_file(cls, path: str | Path) -> Measurements:
        """Reads {"machine", "versions", "source", "columns", "rows": [[budget, value, ...], ...]}.

        Raises:
            ValueError: the file lacks a field, or a row has another number of values than there are columns.
        """
        read = json.loads(Path(path).read_text(encoding="utf-8"))
        missing = {"machine", "versions", "source", "columns", "rows"} - set(read)
        if missing:
            raise ValueError(f"{path} lacks {', '.join(sorted(missing))}: a card shows no figure without its origin.")
        for row in read["rows"]:
            if len(row) != len(read["columns"]) + 1:
                raise ValueError(
                    f"{path} has the row {row}: give a budget and one value for each of {read['columns']}."
                )
        rows = tuple(tuple(row) for row in read["rows"])
        return cls(read["machine"], read["versions"], read["source"], tuple(read["columns"]), rows)


@dataclass(frozen=True)
class CardFacts:
    """Everything that a card says.

    Attributes:
        config: the staged `config.json`.
        code_files: how many code files there are.
        release: version of mmtok that staged the folder.
        base_model: Hub id of the base; None where the base is a folder that no Hub id is known of.
        base_revision: commit of the base that the weights come from.
        base_metadata: metadata of the base's own card; license and languages are taken over.
        repo_id: where the folder is published; None before that is known.
        tag: the tag of this version in that repo.
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
        """The facts of a staged folder.

        Args:
            folder: holds `config.json` and the published code files.
            release: version of mmtok.
            base_folder: holds the base's README.md, if it has one.
            known: further attributes.
        """
        folder = Path(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        code = len(list(folder.glob("*.py")))
        if base_folder is not None:
            known.setdefault("base_metadata", card_metadata(Path(base_folder) / "README.md"))
        return cls(config=config, code_files=code, release=release, **known)


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


def card_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata of a card file; empty without the file or without metadata."""
    path = Path(path)
    return metadata_of(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else {}


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
    known: dict[str, Any] = {key: facts.base_metadata.get(key) for key in ("license_name", "license_link")}
    if facts.base_model:
        # The Hub knows adapter, finetune, merge and quantized. The weights are the base's own, so nothing fits exactly;
        # "finetune" is what the Hub assumes of any repo in the base's own format.
        known |= {"base_model": facts.base_model, "base_model_relation": "finetune"}
        known["base_model_revision"] = facts.base_revision
    return ModelCardData(
        language=facts.base_metadata.get("language"),
        license=facts.base_metadata.get("license"),
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["custom_code", "token-pruning", "vision", "multimodal", "arxiv:2508.18264"],
        **known,
    )


@dataclass(frozen=True)
class BudgetTable:
    """Budgets of one model, in its own numbers.

    Attributes:
        about: what a crop is, as sentences.
        images: name of an image -> vision tokens of each of its crops.
        same_crops: whether all crops have equally many tokens; budgets are numbers then and shares otherwise.
        note: on what the figures leave out; "" for nothing.
    """

    about: str
    images: dict[str, tuple[int, ...]] = field(default_factory=dict)
    same_crops: bool = True
    note: str = ""

    @property
    def tokens_per_crop(self) -> int | None:
        """None where crops differ."""
        return next(iter(self.images.values()))[0] if self.same_crops else None

    @property
    def totals(self) -> list[int]:
        """Vision tokens of each image without pruning."""
        return [sum(crops) for crops in self.images.values()]

    def rows(self, configured: int | float | None) -> list[dict[str, Any]]:
        """For each budget: vision tokens that stay of each image, and their share.

        Args:
            configured: the budget of the configuration, which has a row too.
        """
        budgets: set[int | float] = set(_COUNTS if self.same_crops else _SHARES)
        full = self.tokens_per_crop
        if full is not None and isinstance(configured, float):
            configured = round(configured * full)
        if configured is not None:
            budgets.add(configured)
        if full is not None:
            budgets = {budget for budget in budgets if budget < full}
        ordered = sorted(budgets, key=lambda budget: (isinstance(budget, int), budget), reverse=True)
        return [self._row(budget, budget == configured) for budget in ordered]

    def _row(self, budget: int | float, configured: bool) -> dict[str, Any]:
        options = PruningOptions(vision_token_budget=budget)
        kept = [sum(map(options.budget_of, crops)) for crops in self.images.values()]
        share = 100 * (budget if isinstance(budget, float) else kept[0] / self.totals[0])
        return {"budget": budget, "configured": configured, "kept": kept, "share": f"{share:.1f} %"}


def budget_table(config: Mapping[str, Any]) -> BudgetTable:
    """The table of a model.

    Args:
        config: the content of its `config.json`, that of a stock checkpoint or of a staged folder.
    """
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
    same_crops = len({tokens for crops in images.values() for tokens in crops}) == 1
    return BudgetTable(geometry.about, images, same_crops, note if any(separators) else "")
