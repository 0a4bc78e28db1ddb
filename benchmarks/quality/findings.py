"""The findings at the top of docs/quality.md and the sentences with figures in it, each from the results of a case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from textwrap import fill

from .tables import ADAPTIVE, BASELINES, Results, budgets_of, cell_of, percent, signed, with_interval

# The rows of MMTok alone, which are an ablation and no other method.
OWN = ("MMTok", "text rows", "vision rows")
_WIDTH = 120
NAMED = {"scenes": "images of 2 to 5 objects", "crowded": "crowded images", "tiles": "five crops"}


def findings(found: Mapping[str, Results]) -> str:
    """What the page shows, as a list."""
    found_out = (
        _few_tokens(found),
        _against_others(found),
        _both_rows(found["scenes"]),
        _many_tokens(found["scenes"]),
        _relations(found["relations"]),
        _preset(found["preset"]),
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
    parts = []
    for name, kind in NAMED.items():
        results = found[name]
        best = max(_others(results), key=partial(_kept, results))
        parts.append(
            f"{percent(_kept(results, 'MMTok'))} % on {kind} (best other method: {best}, "
            f"{percent(_kept(results, best))} %)"
        )
    few, crops = (", ".join(map(str, found[name]["small_budgets"])) for name in ("scenes", "tiles"))
    return (
        f"**With few tokens MMTok keeps the most.** Of the score with all tokens, averaged over budgets of {few} of "
        f"144 tokens ({crops} for each of five crops), it keeps " + "; ".join(parts) + "."
    )


def _against_others(found: Mapping[str, Results]) -> str:
    level = []
    for name, kind in NAMED.items():
        rows = {row["method"]: row["reference_lead"] for row in found[name]["compared"]}
        level += [f"{method} on {kind}" for method in _others(found[name]) if rows[method]["low"] <= 0]
    shown = f"except against {_joined(level)}, where no difference is shown" if level else "against every method"
    return f"**The lead is larger than chance** (95 % interval above 0) {shown}."


def _both_rows(scenes: Results) -> str:
    own, text, vision = (percent(_kept(scenes, method)) for method in OWN)
    return (
        f"**Text rows and vision rows are both needed.** On images of 2 to 5 objects both together keep {own} %, text "
        f"rows alone {text} %, vision rows alone {vision} %: text rows know nothing of what is not asked for, which "
        "counting needs, and vision rows lose the object that is asked for at 4 tokens and fewer."
    )


def _many_tokens(scenes: Results) -> str:
    shares = {
        budget: {
            method: round(cell_of(scenes, method, budget)["retention"]["mean"]["estimate"], 3)
            for method in ("MMTok", *_others(scenes))
        }
        for budget in budgets_of(scenes, "MMTok")
    }
    lost = [
        f"at {budget} tokens {best} keeps {percent(kept[best])} % and MMTok {percent(kept['MMTok'])} %"
        for budget, kept in shares.items()
        if (best := max(kept, key=kept.__getitem__)) != "MMTok"
    ]
    if not lost:
        return "**No other method is ahead at any budget** on images of 2 to 5 objects."
    return f"**With many tokens it is not always the best:** {_joined(lost)} (images of 2 to 5 objects)."


def _relations(related: Results) -> str:
    full = cell_of(related, "all", None)["metrics"]["relation"]["accuracy"]
    shown = [
        f"{percent(cell_of(related, 'MMTok', budget)['metrics']['relation']['accuracy'])} % with {budget}"
        for budget in (16, 8, 4)
    ]
    return (
        "**Where two objects stand to each other survives pruning**, if the tokens say where they were: "
        f"{percent(full)} % right with all tokens, {_joined(shown)}."
    )


def _preset(preset: Results) -> str:
    return (
        "**The preset for one crop** keeps more than the paper's settings on images that were not used to choose it: "
        f"{signed(preset['lead'])} percentage points. In five crops the same settings are not ahead "
        f"({signed(preset['sets']['tiles']['lead']['mean'])}), so that LLaVA-NeXT's preset has the paper's settings "
        "without padding."
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
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + f" and {parts[-1]}"


def removed_options(removed: Results) -> str:
    """Why two options of an earlier release are gone, with the figures that decided it."""
    answers = {row["method"]: row["reference_lead"] for row in removed["budget_scope"]["answers"]}
    [scenes], [crowded] = (removed["center_features"]["evidence"][name] for name in ("scenes", "crowded"))
    return fill(
        '`budget_scope="image"` let the crops of an image share their budgets. The paper\'s budget for each crop was '
        f"ahead of it by {signed(answers['image scope'])} percentage points of the score in five crops, and by "
        f"{signed(answers['image scope, floor 1'])} where each crop was sure of its own share. `center_features=True` "
        "subtracted the mean token before the cosines. The object that is asked for kept a token less often: "
        f"{signed(scenes['reference_lead'])} percentage points for the paper's way on images of 2 to 5 objects, "
        f"{signed(crowded['reference_lead'])} on crowded ones. Both were removed; the rows are in "
        "`benchmarks/results/quality-removed-options.json`.",
        _WIDTH,
        break_on_hyphens=False,
    )


def taught_sentence(tiles: Results) -> str:
    taught = tiles["taught"]
    return f"{taught['steps']} steps, {taught['seconds']} s, {percent(taught['right'])} % of answers right at the end"


def relations_sentence(tiles: Results) -> str:
    right = tiles["aside"]["relation"]["accuracy"]
    return (
        'Relations ("Is the red circle left of the blue star?") are a fifth of what was taught. With all '
        f"tokens {percent(right)} % of such questions are answered right, where guessing gives 50 %: what pruning "
        "keeps of it is not shown."
    )


def alarms_sentence(preset: Results) -> str:
    """Why the preset loses at the fewest tokens a crop."""
    tiles = preset["sets"]["tiles"]
    fewest = min(int(at) for at in tiles["lead"] if at != "mean")
    paper, own = (cell_of(tiles, method, fewest)["metrics"]["adversarial"] for method in ("MMTok", "recommended"))
    return (
        f"With {fewest} for each crop the preset's recall in the adversarial task is {percent(own['recall'])} % "
        f"against {percent(paper['recall'])} % of the paper's settings, its precision {percent(own['precision'])} % "
        f"against {percent(paper['precision'])} %."
    )


def preset_questions(preset: Results) -> str:
    counts = [sum(task["questions"] for task in found["tasks"].values()) for found in preset["sets"].values()]
    return ", ".join(map(str, counts))


def sentence_of_machine(results: Results) -> str:
    m = results["machine"]
    versions = ", ".join(f"{name} {m['versions'][name]}" for name in ("python", "torch", "transformers"))
    return f"{m['processor']}, {m['cores']} cores, {versions}"
