"""The findings at the top of docs/quality.md and the sentences with figures in it, each from the results of a case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from textwrap import fill

import numpy as np

from mmtok.evaluation import FULL, INSTRUCTION

from .cases import ADAPTIVE, POPE, SHARED_BUDGET
from .tables import (
    BASELINES,
    Results,
    budgets_of,
    cell_of,
    compared_at,
    instruction_gaps,
    percent,
    signed,
    with_interval,
)

# The rows of MMTok alone, which are an ablation and no other method.
OWN = ("MMTok", "text rows", "vision rows")
_SHARED = SHARED_BUDGET.name
_WIDTH = 120
NAMED = {
    "scenes": "images of 2 to 5 objects",
    "crowded": "crowded images",
    "unseen": "images in a style that training did not draw",
}


def findings(found: Mapping[str, Results]) -> str:
    """What the page shows, as a list."""
    found_out = (
        _few_tokens(found),
        _against_others(found),
        _one_object(found["scenes"]),
        _counting(found["scenes"]),
        _many_tokens(found["scenes"]),
        _kept_for_counting(found["counting"], found["scenes"]),
        _both_rows(found["scenes"]),
        _where_picks_lie(found["evidence"]["sets"]["scenes"]),
        _five_crops(found["tiles"]),
        _instruction(found),
        _settings(found["settings"]),
        _adaptive(found["crowded"]),
    )
    return "\n".join(
        fill(f"- {finding}", _WIDTH, subsequent_indent="  ", break_on_hyphens=False) for finding in found_out
    )


def _kept(results: Results, method: str) -> float:
    return next(row for row in results["compared"] if row["method"] == method)["retention"]["estimate"]


def _others(results: Results) -> list[str]:
    return [row["method"] for row in results["compared"] if row["method"] in BASELINES and row["method"] not in OWN]


def _few_tokens(found: Mapping[str, Results]) -> str:
    parts, ahead = [], []
    for name, kind in NAMED.items():
        results = found[name]
        own, best = _kept(results, "MMTok"), max(_others(results), key=partial(_kept, results))
        parts.append(f"{percent(own)} % on {kind} (best other method: {best}, {percent(_kept(results, best))} %)")
        ahead += [kind] if own > _kept(results, best) else []
    few = ", ".join(map(str, found["scenes"]["small_budgets"]))
    heading = "the most" if len(ahead) == len(NAMED) else f"the most on {_joined(ahead) or 'no kind of images'}"
    return (
        f"**With few tokens MMTok keeps {heading}.** Of the score with all tokens, averaged over budgets of {few} of "
        "144 tokens, it keeps " + "; ".join(parts) + "."
    )


def _against_others(found: Mapping[str, Results]) -> str:
    level = []
    for name, kind in NAMED.items():
        rows = {row["method"]: row["reference_lead"] for row in found[name]["compared"]}
        level += [f"{method} on {kind}" for method in _others(found[name]) if rows[method]["low"] <= 0]
    shown = f"except against {_joined(level)}, where no difference is shown" if level else "against every method"
    return f"**The lead is larger than chance** (95 % interval above 0) {shown}."


def _right(results: Results, method: str, budget: int | None, *tasks: str) -> float:
    """Accuracy in a task, or the mean over several, in percent."""
    metrics = cell_of(results, method, budget)["metrics"]
    return float(100 * np.mean([metrics[task]["accuracy"] for task in tasks]))


def _one_object(scenes: Results) -> str:
    with_few = [f"{_right(scenes, 'MMTok', budget, *POPE):.1f} % with {budget}" for budget in (16, 4, 2)]
    named = [f"{_right(scenes, 'MMTok', budget, 'what'):.1f} % with {budget}" for budget in (16, 4, 2)]
    return (
        "**A question for one object loses little.** Of POPE's questions about images of 2 to 5 objects "
        f"{_right(scenes, 'all', None, *POPE):.1f} % are answered right with all 144 tokens, {_joined(with_few)}; of "
        f'questions such as "What animal is in the image?" {_right(scenes, "all", None, "what"):.1f} %, '
        f"{_joined(named)}."
    )


def _counting(scenes: Results) -> str:
    budgets = budgets_of(scenes, "MMTok")
    counted = [f"{_right(scenes, 'MMTok', budget, 'count'):.1f} % with {budget}" for budget in budgets]
    return (
        f"**Counting is the hardest:** {_right(scenes, 'all', None, 'count'):.1f} % right with all tokens, "
        f"{_joined(counted)}. An image has up to 5 objects, and 4 tokens show at most 4 of them."
    )


def _kept_for_counting(counting: Results, scenes: Results) -> str:
    cells = {(cell["method"], cell["budget"]): cell for cell in counting["cells"]}
    parts = []
    for budget in (64, 16):
        own, other = (_right(scenes, method, budget, "count") for method in ("MMTok", "CDPruner"))
        lost, others_lost = (percent(cells[method, budget]["missed"]) for method in ("MMTok", "CDPruner"))
        parts.append(
            f"with {budget} tokens {own:.1f} % are counted right with MMTok and {other:.1f} % with CDPruner, and "
            f"{lost} % and {others_lost} % of the objects have no token"
        )
    return f"**Counts and objects without a token:** {'; '.join(parts)}."


def _both_rows(scenes: Results) -> str:
    own, text, vision = (percent(_kept(scenes, method)) for method in OWN)
    return (
        f"**Text rows and vision rows are both needed.** On images of 2 to 5 objects both together keep {own} %, text "
        f"rows alone {text} %, vision rows alone {vision} %: text rows know nothing of what is not asked for, which "
        "counting needs, and vision rows lose the object that is asked for at 4 tokens and fewer."
    )


def _many_tokens(scenes: Results) -> str:
    at = [(method, budget) for budget in scenes["compared_at"] for method in _others(scenes)]
    leads = {key: compared_at(scenes, *key)["reference_lead"] for key in at}
    behind = [
        f"against {method} with {budget} tokens {signed(lead)}"
        for (method, budget), lead in leads.items()
        if lead["high"] < 0
    ]
    if behind:
        return f"**MMTok is behind** on images of 2 to 5 objects, in points: {_joined(behind)}."
    (method, budget), least = min(leads.items(), key=lambda item: item[1]["estimate"])
    return (
        "**At no budget from 64 to 2 tokens is another method ahead** with an interval that excludes 0 (images of 2 to "
        f"5 objects). The least lead is that over {method} with {budget} tokens: {signed(least)} points."
    )


def _where_picks_lie(scenes: Results) -> str:
    cells = {(cell["method"], cell["budget"]): cell for cell in scenes["cells"]}
    own, random = cells["MMTok", 4], cells["random", 4]
    return (
        f"**Kept tokens lie on objects.** With 4 tokens and a question for one object, {percent(own['on_asked'])} % of "
        f"what MMTok keeps lies on that object and {percent(own['on_objects'])} % on any object of the image; of "
        f"random tokens {percent(random['on_asked'])} % and {percent(random['on_objects'])} %. The object that is "
        "asked for "
        f"has at least one of the 4 tokens in {percent(own['shown']['estimate'])} % of the questions. The others are "
        "spent on the rest of the image, as the vision rows ask for."
    )


def _five_crops(tiles: Results) -> str:
    budget = 4
    kept = {
        method: cell_of(tiles, method, budget)["retention"]["mean"] for method in ("MMTok", *_others(tiles), _SHARED)
    }
    best = max(_others(tiles), key=lambda method: kept[method]["estimate"])
    leads = {each: compared_at(tiles, _SHARED, each)["reference_lead"] for each in tiles["compared_at"]}
    listed = ", ".join(
        f"{-100 * lead['estimate']:+.1f} [{-100 * lead['high']:+.1f}, {-100 * lead['low']:+.1f}] with {each}"
        for each, lead in leads.items()
    )
    return (
        f"**Five crops:** with {budget} tokens for each, MMTok keeps {with_interval(kept['MMTok'])} % of the score "
        f"with all 744 tokens (best of the others: {best}, {with_interval(kept[best])} %). "
        f'With `budget_scope="image"` the crops share as many tokens, and it keeps {with_interval(kept[_SHARED])} %. '
        f"The lead of sharing over equal budgets, in points, by tokens per crop: {listed}. {_ahead_in_crops(tiles)}"
    )


def _ahead_in_crops(tiles: Results) -> str:
    """Where another method, or one kind of rows alone, is ahead of equal budgets."""
    methods = [row["method"] for row in tiles["compared"] if row["method"] not in ("MMTok", _SHARED)]
    at = [(method, budget) for budget in tiles["compared_at"] for method in methods]
    leads = {each: compared_at(tiles, *each)["reference_lead"] for each in at}
    behind = [f"{m} with {b} {signed(lead)}" for (m, b), lead in leads.items() if lead["high"] < 0]
    if not behind:
        return "No other method is ahead of equal budgets."
    return f"Equal budgets are behind, in points: {'; '.join(behind)}."


def _instruction(found: Mapping[str, Results]) -> str:
    def largest(name: str, *kinds: Sequence[str]) -> str:
        return f"{max(abs(gap) for tasks in kinds for _, gap in instruction_gaps(found, name, tasks)):.1f}"

    return (
        f"**The benchmarks' instruction** (\u201c{INSTRUCTION.strip()}\u201d) moves accuracy on POPE's questions and "
        f"on names by at most {largest('scenes', POPE, ('what',))} points on images of 2 to 5 objects and "
        f"{largest('crowded', POPE, ('what',))} on crowded ones, with all tokens, 16 or 4; counting moves by up to "
        f"{largest('scenes', ('count',))}."
    )


def _settings(settings: Results) -> str:
    best, lead = next(iter(settings["lead"].items()))
    return (
        "**No other temperatures and weights keep more than the paper's:** of "
        f"{len(settings['lead'])} combinations the best ({best}: text temperature, vision temperature, weight of the "
        f"vision rows) leads by {signed(lead)} points, on the very images on which it was found."
    )


def _adaptive(crowded: Results) -> str:
    cells = [cell_of(crowded, method.name, 64) for method in ADAPTIVE]
    cell = min(cells, key=lambda cell: abs(cell["vision_tokens"] - 4))
    fixed = cell_of(crowded, "MMTok", 4)["retention"]["mean"]
    return (
        f"**An adaptive budget** (`coverage_target`) that reads {cell['vision_tokens']:.1f} tokens on average keeps "
        f"{with_interval(cell['retention']['mean'])} % on crowded images; a fixed budget of 4 keeps "
        f"{with_interval(fixed)} %."
    )


def _joined(parts: Sequence[str]) -> str:
    return "".join(parts) if len(parts) < 2 else ", ".join(parts[:-1]) + f" and {parts[-1]}"


def settings_count(settings: Results) -> str:
    """How many combinations were tried, and how many of them are ahead or behind with an interval that says so."""
    leads = settings["lead"].values()
    ahead, behind = sum(lead["low"] > 0 for lead in leads), sum(lead["high"] < 0 for lead in leads)
    return f"Of {len(leads)} combinations {ahead} are ahead of the paper's settings and {behind} behind"


def sentence_of_machine(results: Results) -> str:
    m = results["machine"]
    versions = ", ".join(f"{name} {m['versions'][name]}" for name in ("python", "torch", "transformers"))
    return f"{m['processor']}, {m['cores']} cores, {versions}"


def sentence_of_training(training: Results) -> str:
    """How long the training of the model takes, and how what it makes compares with the model that ships."""

    def listed(right: Results) -> str:
        scenes = {budget: right["scenes"][budget]["yes/no"] for budget in (FULL, "4")}
        return f"{percent(scenes[FULL])} % with all tokens and {percent(scenes['4'])} % with 4"

    run = training["training"]
    counts = {name: percent(training[name]["scenes"][FULL]["count"]) for name in ("trained", "embedded")}
    return fill(
        f"`make tiny` trains it from nothing: all stages in one run took {round(run['wall_seconds'] / 60)} minutes on "
        f"two cores ({run['machine']['processor']}). The model of that run, which is not the one that ships, has of "
        f"yes/no questions about 200 images that no table here shows {listed(training['trained'])} right, and of "
        f"counts {counts['trained']} %; the one that ships {listed(training['embedded'])}, and {counts['embedded']} % "
        "(`benchmarks/results/training.json`).",
        _WIDTH,
        break_on_hyphens=False,
    )
