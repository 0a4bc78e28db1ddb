"""The tables of docs/quality.md, each from the results of a case; and the paper's own figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmtok.evaluation import FULL
from mmtok.evaluation.selectors import METHODS

from .cases import ADAPTIVE, POPE, TARGETS

# LLaVA-1.5-7B, mean of the tasks in % of all tokens: tables 1, 16 and 21 of the paper (columns differ, see the note).
PAPER_LLAVA_15 = {
    "FastV": {192: 89.6, 128: 84.4, 64: 75.6},
    "SparseVLM": {192: 95.5, 128: 92.9, 64: 86.9},
    "VisionZip": {192: 97.9, 128: 96.8, 64: 93.2},
    "DivPrune": {192: 98.0, 128: 96.9, 64: 94.8},
    "MMTok": {192: 98.7, 128: 97.8, 64: 96.6},
}
PAPER_EXTREME = {
    "VisionZip": {32: 88.1},
    "DivPrune": {32: 91.9, 16: 86.3, 8: 76.4, 4: 66.3},
    "MMTok": {64: 96.1, 32: 93.0, 16: 88.9, 8: 83.5, 4: 77.5, 2: 70.9},
}
PAPER_POPE = {
    "VisionZip": {64: 77.0, 32: 68.88},
    "DivPrune": {64: 85.56, 32: 82.06, 16: 69.56, 8: 52.10, 4: 33.33},
    "MMTok": {64: 85.77, 32: 82.95, 16: 79.79, 8: 78.46, 4: 74.84, 2: 68.95},
}
PAPER_ABLATION = (
    ("text rows", "raw cosine", 93.8),
    ("vision rows", "raw cosine", 94.7),
    ("text rows", "softmax", 93.9),
    ("vision rows", "softmax", 95.7),
    ("both", "softmax", 96.7),
)

Results = Mapping[str, Any]
BASELINES = tuple(METHODS)


def cell_of(results: Results, method: str, budget: int | None) -> dict[str, Any]:
    """One cell of a case's results."""
    return next(c for c in results["cells"] if c["method"] == method and c["budget"] == budget)


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def with_interval(interval: Mapping[str, float]) -> str:
    return f"{percent(interval['estimate'])} [{percent(interval['low'])}, {percent(interval['high'])}]"


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are figures."""
    lines = ["| " + " | ".join(heading) + " |", "|---|" + "---:|" * (len(heading) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def budgets_of(results: Results, method: str) -> list[int]:
    return sorted({c["budget"] for c in results["cells"] if c["method"] == method}, reverse=True)


def retention_table(results: Results, methods: Sequence[str]) -> str:
    """Mean retention of methods over budgets, the best of every budget in bold."""
    budgets = budgets_of(results, methods[0])
    means = {m: {b: cell_of(results, m, b)["retention"]["mean"]["estimate"] for b in budgets} for m in methods}
    best = {b: max(round(means[m][b], 3) for m in methods) for b in budgets}
    small = {row["method"]: row for row in results["compared"]}
    rows = []
    for method in methods:
        shown = [percent(means[method][b]) for b in budgets]
        shown = [
            f"**{s}**" if round(means[method][b], 3) == best[b] else s for s, b in zip(shown, budgets, strict=True)
        ]
        rows.append([method, *shown, with_interval(small[method]["retention"])])
    few = ", ".join(map(str, results["small_budgets"]))
    return table(["kept, %", *map(str, budgets), f"mean of {few} [95 %]"], rows)


def lead_table(results: Results, methods: Sequence[str]) -> str:
    """By how much MMTok keeps more than each method, over the small budgets."""
    small = {row["method"]: row["reference_lead"] for row in results["compared"]}
    rows = []
    for method in methods:
        lead = small[method]
        verdict = "ahead" if lead["low"] > 0 else "behind" if lead["high"] < 0 else "no difference shown"
        rows.append(
            [
                f"MMTok against {method}",
                f"{100 * lead['estimate']:+.1f}",
                f"{100 * lead['low']:+.1f}",
                f"{100 * lead['high']:+.1f}",
                verdict,
            ]
        )
    return table(["percentage points", "lead", "low", "high", "MMTok is"], rows)


def leads_table(results: Results, methods: Sequence[str]) -> str:
    """By how much MMTok keeps more than each method at each budget."""
    budgets = list(results["compared_at"])
    rows = [
        [method, *(signed(compared_at(results, method, budget)["reference_lead"]) for budget in budgets)]
        for method in methods
    ]
    return table(["MMTok's lead, points", *budgets], rows)


def compared_at(results: Results, method: str, budget: str) -> Mapping[str, Any]:
    """What is known of a method at one budget: `retention` and `reference_lead`."""
    return next(row for row in results["compared_at"][budget] if row["method"] == method)


def full_table(results: Results) -> str:
    """What the model reaches with all tokens."""
    tasks = results["tasks"]
    rows = []
    for name, values in results["full"].items():
        shown = [
            percent(values[key]) if key in values else ""
            for key in ("accuracy", "precision", "recall", "f1", "yes_ratio")
        ]
        rows.append([name, str(tasks[name]["questions"]), *shown])
    return table(["task", "questions", "accuracy", "precision", "recall", "F1", "yes ratio"], rows)


def pope_table(results: Results, methods: Sequence[str], task: str = "adversarial") -> str:
    """F1 of one of POPE's tasks."""
    budgets = budgets_of(results, methods[0])
    full = cell_of(results, FULL, None)["metrics"][task]["f1"]
    rows = [[m, *(percent(cell_of(results, m, b)["metrics"][task]["f1"]) for b in budgets)] for m in methods]
    return table([f"F1, {task} (all tokens {percent(full)})", *map(str, budgets)], rows)


def ablation_table(swept: Results) -> str:
    names = {
        ("text rows", "raw cosine"): "raw cosine, text",
        ("vision rows", "raw cosine"): "raw cosine, vision",
        ("both", "raw cosine"): "raw cosine, both",
        ("text rows", "softmax"): "text rows",
        ("vision rows", "softmax"): "vision rows",
        ("both", "softmax"): "MMTok",
    }
    paper = {(rows, form): f"{value:.1f}" for rows, form, value in PAPER_ABLATION}
    rows = [
        [f"{kind}, {form}", with_interval(small_shown(swept, name)), paper.get((kind, form), "")]
        for (kind, form), name in names.items()
    ]
    return table(["rows covered", "object shown here, %", "the paper's: score kept, LLaVA-1.5-7B at 64, %"], rows)


def sweep_table(swept: Results, names: Mapping[str, str], heading: str) -> str:
    """One line of a sweep: tick -> method."""
    shown = [percent(small_shown(swept, method)["estimate"]) for method in names.values()]
    return table([heading, *names], [["object shown, %", *shown]])


def small_shown(evidence: Results, method: str) -> dict[str, float]:
    return next(row for row in evidence["compared"] if row["method"] == method)["shown"]


def evidence_table(evidence: Results) -> str:
    """Share of the questions whose object keeps a token, the best of every budget in bold."""
    methods = [row["method"] for row in evidence["compared"]]
    shown = {(c["method"], c["budget"]): c["shown"]["estimate"] for c in evidence["cells"]}
    budgets = sorted({budget for _, budget in shown}, reverse=True)
    best = {b: max(round(shown[m, b], 3) for m in methods) for b in budgets}
    rows = []
    for row in evidence["compared"]:
        own = [shown[row["method"], b] for b in budgets]
        cells = [
            f"**{percent(v)}**" if round(v, 3) == best[b] else percent(v) for v, b in zip(own, budgets, strict=True)
        ]
        lead = row["reference_lead"]
        verdict = (
            ""
            if row["method"] == "MMTok"
            else f"{100 * lead['estimate']:+.1f} [{100 * lead['low']:+.1f}, {100 * lead['high']:+.1f}]"
        )
        rows.append([row["method"], *cells, verdict])
    return table(
        [f"object shown, % ({evidence['questions']} questions)", *map(str, budgets), "MMTok's lead, small budgets"],
        rows,
    )


def adaptive_table(results: Results) -> str:
    rows = []
    for target, method in zip(TARGETS, ADAPTIVE, strict=True):
        cell = cell_of(results, method.name, 64)
        rows.append([f"{target:g}", f"{cell['vision_tokens']:.1f}", with_interval(cell["retention"]["mean"])])
    return table(["coverage_target", "tokens read", "kept, %"], rows)


def paper_table(figures: Mapping[str, Mapping[int, float]]) -> str:
    budgets = sorted({budget for row in figures.values() for budget in row}, reverse=True)
    rows = [[method, *(f"{row[b]:g}" if b in row else "" for b in budgets)] for method, row in figures.items()]
    return table(["the paper's", *map(str, budgets)], rows)


def picks_table(evidence: Results, methods: Sequence[str], budgets: Sequence[int] = (16, 4)) -> str:
    """How much of what is kept lies on the object asked for, and on any object."""
    cells = {(cell["method"], cell["budget"]): cell for cell in evidence["cells"]}
    rows = [
        [method, *(percent(cells[method, b][share]) for share in ("on_asked", "on_objects") for b in budgets)]
        for method in methods
    ]
    kinds = ("on the object asked for", "on any object")
    return table(["share of the kept tokens, %", *(f"{kind}, {b} tokens" for kind in kinds for b in budgets)], rows)


INSTRUCTED_CELLS: tuple[tuple[str, int | None], ...] = (
    (FULL, None),
    ("MMTok", 16),
    ("MMTok", 4),
)


def instruction_gaps(found: Mapping[str, Results], name: str, tasks: Sequence[str]) -> list[tuple[float, float]]:
    """For each of `INSTRUCTED_CELLS` the mean accuracy in some tasks without the instruction, and what it adds."""

    def right(results: Results, method: str, budget: int | None) -> float:
        metrics = cell_of(results, method, budget)["metrics"]
        return sum(100 * metrics[task]["accuracy"] for task in tasks) / len(tasks)

    plain = [right(found[name], *cell) for cell in INSTRUCTED_CELLS]
    instructed = [right(found[f"instructed-{name}"], *cell) for cell in INSTRUCTED_CELLS]
    return [(before, after - before) for before, after in zip(plain, instructed, strict=True)]


def instruction_table(found: Mapping[str, Results]) -> str:
    """Accuracies without the instruction, and in brackets what it adds, in points."""
    columns = {
        "yes/no": ("scenes", POPE),
        "what": ("scenes", ("what",)),
        "count": ("scenes", ("count",)),
        "yes/no, crowded": ("crowded", POPE),
        "what, crowded": ("crowded", ("what",)),
    }
    gaps = [instruction_gaps(found, name, tasks) for name, tasks in columns.values()]
    rows = []
    for (method, budget), *cells in zip(INSTRUCTED_CELLS, *gaps, strict=True):
        tokens = "all" if budget is None else str(budget)
        rows.append([f"{method}, {tokens}" if budget else "all tokens", *(f"{a:.1f} ({gap:+.1f})" for a, gap in cells)])
    return table(["right, % (with the instruction, points)", *columns], rows)


def signed(lead: Mapping[str, float]) -> str:
    return f"{100 * lead['estimate']:+.1f} [{100 * lead['low']:+.1f}, {100 * lead['high']:+.1f}]"


def settings_table(settings: Results, count: int) -> str:
    """The best combinations of settings: what each keeps in every set, a mean over the budgets, and its lead."""
    named = {"scenes": "2 to 5 objects", "crowded": "crowded", "unseen": "unseen style"}

    def kept(method: str) -> list[str]:
        cells = settings["kept"][method]
        return [f"{100 * sum(cells[name].values()) / len(cells[name]):.1f}" for name in named]

    best = list(settings["lead"])[:count]
    rows = [["the paper's: 0.02, 0.2, 0.5", *kept("MMTok"), ""]]
    rows += [[method, *kept(method), signed(settings["lead"][method])] for method in best]
    return table(["temperatures and weight", *(f"kept, %, {name}" for name in named.values()), "lead, points"], rows)


def counting_table(counting: Results) -> str:
    """For each method and budget what is kept of each object when objects are counted."""
    rows = [
        [
            f"{cell['method']}, {cell['budget']}",
            f"{100 * cell['on_objects']:.1f}",
            f"{cell['tokens']:.1f}",
            f"{100 * cell['missed']:.1f}",
        ]
        for cell in counting["cells"]
    ]
    return table(["method, tokens", "on objects, %", "tokens an object", "objects without a token, %"], rows)
