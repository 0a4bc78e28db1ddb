"""Answers a file of questions with Ray Data: one staged model in each worker, images read by the workers.

    python examples/ray_batch.py --model ./llava-mmtok --questions questions.jsonl --output answers --workers 2

Each line of the input is {"image": path, "question": text}. The output folder gets JSON lines with `answer`. On a
cluster, `ray.init()` finds the cluster that the script is submitted to; give --gpus 1 for one GPU to each worker.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import ray


class Answerer:
    """A worker: loads the model once and answers batches.

    Args:
        model: staged folder or Hub repository.
        folder: what the paths of images are relative to.
        budget: `vision_token_budget`; None for the model's own.
        max_new_tokens: most tokens of an answer.
    """

    def __init__(self, model: str, folder: str, budget: int | None, max_new_tokens: int) -> None:
        from mmtok.apps.answering import load_pipeline

        self.pipeline = load_pipeline(model)
        self.folder = Path(folder)
        self.settings: dict[str, Any] = {"max_new_tokens": max_new_tokens}
        if budget is not None:
            self.settings["vision_token_budget"] = budget

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Adds `answer` to a batch of questions."""
        from mmtok.apps.answering import answer_batch
        from mmtok.visuals import read_image

        images = [[read_image(self.folder / name)] for name in batch["image"]]
        answers = answer_batch(self.pipeline, [str(text) for text in batch["question"]], images, **self.settings)
        return {**batch, "answer": answers}


def main() -> None:
    """Reads, answers, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--questions", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gpus", type=float, default=0, help="for each worker")
    parser.add_argument("--budget", type=int)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    options = parser.parse_args()
    questions = ray.data.read_json(str(options.questions.resolve()), lines=True)
    answers = questions.repartition(options.workers * 4).map_batches(
        Answerer,
        fn_constructor_args=(
            options.model,
            str(options.questions.resolve().parent),
            options.budget,
            options.max_new_tokens,
        ),
        batch_size=options.batch_size,
        concurrency=options.workers,
        num_gpus=options.gpus,
        num_cpus=0.5,  # workers keep what they are given: with a CPU each, none may be left for reading and writing
    )
    answers.write_json(str(options.output.resolve()))


if __name__ == "__main__":
    main()
