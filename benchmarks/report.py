"""Puts the tables of results/*.json into docs/speed.md: `python benchmarks/report.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from markdown import NOT_MEASURED, load, made_on, measured, ms, size, table, with_tables

PAGE = Path(__file__).resolve().parents[1] / "docs" / "speed.md"
# Results of prefill.py, and what they are called.
PLACES = {
    "cpu": "CPU, reduced depth",
    "cpu-batch": "CPU, reduced depth, batch 8",
    "cpu-full": "CPU, full depth",
    "cpu-next": "CPU, full depth, five crops",
    "cuda": "GPU, full depth",
}


def comparison() -> str:
    results = load("selection-cpu")
    peers = {"submodlib": "submodlib", "apricot": "apricot"}

    def row(case: dict[str, Any]) -> list[str]:
        faster, times = case["mmtok_times_faster_than"], case["ms"]
        cells = [f"{size(case['items'], case['tokens'], case['budget'])}, {case['tokens_are']}"]
        cells += [ms(times[name]) if name in times else NOT_MEASURED for name in ("plain", *peers, "mmtok")]
        cells += [f"**{faster['plain']:.1f} x**"]
        return cells + [f"{faster[name]:.1f} x" if name in faster else NOT_MEASURED for name in peers]

    header = ["case", "plain ms", "submodlib ms", "apricot ms", "mmtok ms", "over plain", "over submodlib"]
    return table([*header, "over apricot"], map(row, results["comparison"])) + "\n\n" + made_on(results)


def agreement() -> str:
    names = ("mmtok", "mmtok, from rows", "submodlib", "apricot")

    def row(case: dict[str, Any]) -> list[str]:
        cells = [f"{size(case['items'], case['tokens'], case['budget'])}, {case['tokens_are']}"]
        for name in names:
            if name not in case["coverage_over_plain"]:
                cells.append(NOT_MEASURED)
            elif case["same_picks_as_plain"][name]:
                cells.append("same picks")
            else:
                cells.append(f"coverage {case['coverage_over_plain'][name] - 1:+.1e}")
        return cells

    return table(["case", *names], map(row, load("selection-cpu")["comparison"]))


def growth() -> str:
    blocks = []
    for name, cases in load("selection-cpu")["growth"].items():
        rows = [
            [size(case["items"], case["tokens"], case["budget"]), *(ms(value) for value in case["ms"].values())]
            for case in cases
        ]
        blocks.append(table([f"by {name}", *(f"{way}, ms" for way in cases[0]["ms"])], rows))
    return "\n\n".join(blocks)


def on_gpu() -> str:
    header = ["case", "loop, ms", "captured graph, ms", "fused kernel, ms", "fused over loop", "picks of the kernel"]
    if not measured("selection-cuda"):
        return table(header, [[NOT_MEASURED, *[""] * (len(header) - 1)]])

    def row(case: dict[str, Any]) -> list[str]:
        times = [ms(case["ms"][name]) if name in case["ms"] else "refused" for name in ("loop", "captured", "fused")]
        off = case["coverage_over_loop"]["fused"] - 1
        return [
            f"{size(case['items'], case['tokens'], case['budget'])}, {case['tokens_are']}",
            *times,
            f"**{case['times_faster_than_loop']['fused']:.1f} x**",
            "same picks" if case["same_picks_as_loop"]["fused"] else f"coverage {off:+.1e}",
        ]

    results = load("selection-cuda")
    return table(header, map(row, results["comparison"])) + "\n\n" + made_on(results)


def similarity() -> str:
    rows = [
        [f"{case['items']} x {case['tokens']:,}", *(ms(value) for value in case["ms"].values())]
        for case in load("selection-cpu")["similarity"]
    ]
    return table(["tokens", "coverage_matrix, ms", "its product of raw features alone, ms"], rows)


def everywhere(
    header: Callable[[str, str], list[str]],
    rows: Callable[[dict[str, Any]], Iterable[list[str]]],
    *,
    machines: bool = False,
) -> str:
    """The same table for every file of results: the CPU at reduced and at full depth, and a GPU.

    Args:
        header: of the table, for the numbers of new tokens of a short and a long answer.
        rows: what stands under it of one measured case.
        machines: says below each table what it was made on.
    """
    blocks = []
    for place, title in PLACES.items():
        if not measured(f"prefill-{place}"):
            empty = header("2", "64")
            blocks.append(f"{title}:\n\n" + table(empty, [[NOT_MEASURED, *[""] * (len(empty) - 1)]]))
            continue
        results = load(f"prefill-{place}")
        cases = results["measured"]
        _, short, long = cases[0]["mmtok_times_faster"]
        rounds = min(case["rounds"] for case in cases)
        depth = (
            f"{title}, {cases[0]['layers']} language layers and {cases[0]['vision_layers']} of the vision tower, "
            f"{results['dtype']}, attention {cases[0]['attention']}, {rounds} round{'s' if rounds > 1 else ''}:"
        )
        every = [row for case in cases for row in rows(case)]
        block = [depth, table(header(short, long), every), *([made_on(results)] if machines else [])]
        blocks.append("\n\n".join(block))
    return "\n\n".join(blocks)


def named(case: dict[str, Any]) -> str:
    return f"{case['model']}, batch {case['batch']}"


def end_to_end() -> str:
    def rows(case: dict[str, Any]) -> Iterable[list[str]]:
        tokens, faster, times = case["prompt_tokens"], case["mmtok_times_faster"], case["ms"]
        cells = [f"{tokens['stock']:,} → {tokens['mmtok']}"]
        cells += [f"{ms(times[f'stock {n}'])} → {ms(times[f'mmtok {n}'])}, **{faster[n]:.2f} x**" for n in faster]
        cells += [f"{ms(times['stock decode'])} → {ms(times['mmtok decode'])}"]
        cells += [f"{case['cache_bytes']['stock'] / case['cache_bytes']['mmtok']:.1f} x"]
        peak = case["peak_bytes"]
        cells += [
            f"{peak['stock'] / 2**30:.1f} → {peak['mmtok'] / 2**30:.1f}" if peak["stock"] is not None else NOT_MEASURED
        ]
        yield [named(case), *cells]

    def header(short: str, long: str) -> list[str]:
        times = ["first token, ms", f"{short} tokens, ms", f"{long} tokens, ms", "decode, ms per token"]
        return ["model", "prompt tokens", *times, "smaller cache", "peak memory, GiB"]

    return everywhere(header, rows, machines=True)


def limit() -> str:
    def rows(case: dict[str, Any]) -> Iterable[list[str]]:
        cells = [ms(case["ms"][name]) for name in ("vision tower", "text only", "limit", "mmtok 1")]
        yield [named(case), *cells, f"**{100 * (case['first_token_over_limit'] - 1):+.1f} %**"]

    header = [
        "model",
        "vision tower, ms",
        "text of the pruned length, ms",
        "their sum, ms",
        "mmtok, ms",
        "above the sum",
    ]
    return everywhere(lambda *_: header, rows)


def limit_parts() -> str:
    results = load("limit-cpu")
    spent = results["ms"]
    alone = {"vision tower": "tower alone", "language model": "language model of text alone"}
    again = {"language model": "language model of text again"}
    rows = [
        [name, ms(spent[name]), *(ms(spent[other[name]]) if name in other else "-" for other in (alone, again))]
        for name in ("vision tower", "projector", "selection", "packing", "language model", "rest")
    ]
    own = sum(spent[name] for name in ("projector", "selection", "packing", "rest"))
    told = (
        f"{results['model']}, {results['layers']} language layers and {results['vision_layers']} of the vision tower, "
        f"{len(results['rounds'])} rounds: projector, selection, packing and rest take {ms(own)} ms, which is "
        f"{100 * own / (spent['tower alone'] + spent['text alone']):.1f} % of the sum. `generate` takes "
        f"{results['over_limit']:.2f} times the sum, and one text twice in a row differs by "
        f"{100 * results['text_twice']:.1f} %, as medians over the rounds."
    )
    header = ["part, ms", "inside generate", "alone", "alone, once more"]
    return "\n\n".join([told, table(header, rows), made_on(results)])


def phases() -> str:
    names = ("vision tower", "projector", "selection", "packing", "language model", "rest")

    def rows(case: dict[str, Any]) -> Iterable[list[str]]:
        for way in ("stock", "mmtok"):
            spent = case["phases_ms"][way]
            share = 100 * spent.get("selection", 0.0) / sum(spent.values())
            cells = [ms(spent[name]) if name in spent else "-" for name in names]
            yield [f"{named(case)}, {way}", *cells, f"{share:.1f} %" if share else "-"]

    return everywhere(lambda *_: ["first token, ms", *names, "selector's share"], rows)


def counted() -> str:
    def row(case: dict[str, Any]) -> list[str]:
        stock, own = (sum(case["gflops"][way].values()) for way in ("stock", "mmtok"))
        own += case["selection_gflops"]
        cache = case["cache_bytes"]
        return [
            case["model"],
            f"{case['prompt_tokens']['stock']:,} → {case['prompt_tokens']['mmtok']}",
            f"{stock / 1e3:.2f} → {own / 1e3:.2f}",
            f"{stock / own:.1f} x",
            f"{100 * case['selection_gflops'] / own:.2f} %",
            f"{cache['stock'] / 2**20:,.0f} → {cache['mmtok'] / 2**20:,.0f}",
            f"{cache['stock'] / cache['mmtok']:.1f} x",
        ]

    header = ["model, full depth", "prompt tokens", "Tflop to the first token", "fewer", "selector's share"]
    return table([*header, "cache, MiB", "smaller"], map(row, load("prefill-cpu")["counted"]))


def operations() -> str:
    results = load("host-ops")
    names = ("vision tower", "projector", "selection", "packing", "language model", "rest")

    def rows(case: dict[str, Any]) -> Iterable[list[str]]:
        for way in ("stock", "mmtok, loop", "mmtok, kernel"):
            first, reads = case[way]["first_token"], case[way]["first_token_reads"]
            cells = [f"{first[name]:,}" if name in first else "-" for name in names]
            waits = sum(reads.get(name, 0) for name in ("selection", "packing"))
            step = f"{case[way]['decode_step']:,}"
            yield [f"{case['model']}, {way}", *cells, f"{sum(first.values()):,}", str(waits), step]

    header = ["started for one image", *names, "sum", "waits in selection and packing", "a decode step"]
    return table(header, [row for case in results["counted"] for row in rows(case)]) + "\n\n" + counted_on(results)


def encode_once() -> str:
    def row(case: dict[str, Any]) -> list[str]:
        times = case["ms"]
        cells = [f"{case['model']}, {case['questions']} question{'s' if case['questions'] > 1 else ''}"]
        cells += [ms(times[name]) for name in ("every question encodes", "encoded once")]
        return [*cells, f"**{case['times_faster']:.2f} x**"]

    results = load("encode-once-cpu")
    header = ["model, questions about one image", "encoded for each, ms", "encoded once, ms", "faster"]
    return table(header, map(row, results["measured"])) + "\n\n" + made_on(results)


def custom_generate() -> str:
    results = load("custom-generate-cpu")
    names = {
        "loading": "transformers finds the code, compares its hash and imports it",
        "sharing": "the model is shared with an object of the class that prunes",
    }
    rows = ([name, ms(results["measured"]["ms"][key])] for key, name in names.items())
    return table(["part of a call", "ms"], rows) + "\n\n" + made_on(results)


def counted_on(results: dict[str, Any]) -> str:
    """One line on command and versions, for what does not depend on the machine."""
    versions = ", ".join(f"{name} {number}" for name, number in results["machine"]["versions"].items())
    return f"`{results['command']}`, {results['machine']['date']}; {versions}."


TABLES: dict[str, Callable[[], str]] = {
    "comparison": comparison,
    "agreement": agreement,
    "growth": growth,
    "on a GPU": on_gpu,
    "operations": operations,
    "similarity": similarity,
    "end to end": end_to_end,
    "limit": limit,
    "limit parts": limit_parts,
    "phases": phases,
    "counted": counted,
    "encode once": encode_once,
    "custom generate": custom_generate,
}


def rendered(page: str) -> str:
    """The page with every table made anew from the results; errors as `with_tables`."""
    return with_tables(page, TABLES)


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text()))
