"""Peak memory and time of the largest requests that the endpoint handler takes, beyond what the loaded model takes.

    python -m benchmarks.handler_memory

Each request runs in a process of its own; images are decoded in a further one, whose peak is `decoder_megabytes`. The
model is a small one, so that what is measured is the reading of images: a model adds what it takes for as many vision
tokens. Writes results/handler-memory-cpu.json.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.measure import save
from mmtok.hub.handler import EndpointHandler, Limits
from mmtok.publish import stage
from mmtok.tiny import EMBEDDED, LLAVA, QWEN, checkpoint_path

LIMITS = Limits()
SIDE = int(LIMITS.pixels**0.5)


def _encoded(width: int, height: int, kind: str, *, noise: bool) -> str:
    """An image in base64, of one colour or of noise."""
    pixels: NDArray[np.uint8] = np.zeros((height, width, 3), dtype=np.uint8)
    if noise:
        pixels[:] = np.random.default_rng(0).integers(0, 256, (height, width, 1), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


def _asking(images: list[str]) -> dict[str, Any]:
    parts = [{"type": "image", "image": image} for image in images]
    content = [*parts, {"type": "text", "text": "Is there a dog?"}]
    return {"messages": [{"role": "user", "content": content}]}


def _full_question() -> dict[str, Any]:
    return _asking([_encoded(SIDE, SIDE // LIMITS.images, "PNG", noise=False)] * LIMITS.images)


# What a request holds: one question, or as many as there may be.
REQUESTS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "one small image": lambda: [_asking([_encoded(96, 96, "PNG", noise=True)])],
    "one PNG of one colour, all pixels": lambda: [_asking([_encoded(SIDE, SIDE, "PNG", noise=False)])],
    "one TIFF of one colour, a third of the pixels": lambda: [
        _asking([_encoded(SIDE // 3, SIDE // 3, "TIFF", noise=False)])
    ],
    # As large as the limits of bytes and of pixels let it be.
    "one JPEG of noise": lambda: [_asking([_encoded(SIDE, SIDE * 4 // 5, "JPEG", noise=True)])],
    "one WebP of one colour, all pixels": lambda: [_asking([_encoded(SIDE, SIDE, "WEBP", noise=False)])],
    "all images of a question, all pixels": lambda: [_full_question()],
    "all questions, all images and pixels of each": lambda: [_full_question()] * LIMITS.questions,
}


def _video() -> dict[str, Any]:
    """As many frames as are read, with all pixels; they differ, so that a GIF keeps each."""
    shape = (SIDE, SIDE // LIMITS.frames)
    frames = [Image.new("RGB", shape, (number, 0, 0)) for number in range(LIMITS.frames)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    video = base64.b64encode(file.getvalue()).decode()
    asked = [{"type": "video", "video": video}, {"type": "text", "text": "Is there a dog?"}]
    return {"messages": [{"role": "user", "content": asked}]}


# Of a model that reads videos, which needs torchvision.
VIDEOS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "one video, all frames and pixels": lambda: [_video()],
    "all questions, a video with all frames and pixels each": lambda: [_video()] * LIMITS.questions,
}


# Runs the handler's program and says what its memory was at most: the usage of a child counts its parent's, too.
DECODER = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0], file=sys.stderr)
"""


def measure(name: str, folder: str) -> dict[str, Any]:
    """Memory (MB) and seconds of one request in this process."""
    handler, run, peaks = EndpointHandler(folder), subprocess.run, []

    def recorded(command: list[str], **named: Any) -> Any:
        ended = run([command[0], "-c", DECODER, *command[1:]], **named)
        peaks.append(int(ended.stderr.split()[-1]) / 1e3)
        return ended

    subprocess.run = recorded  # type: ignore[assignment]
    small = {"inputs": REQUESTS["one small image"](), "parameters": {"max_new_tokens": 1}}
    handler(small)
    data = {"inputs": {**REQUESTS, **VIDEOS}[name](), "parameters": {"max_new_tokens": 1}}
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak begins again
    before, start = _memory("VmRSS"), time.perf_counter()
    answered = len(handler(data))
    return {
        "answers": answered,
        "request_megabytes": round(len(json.dumps(data)) / 1e6, 1),
        "added_megabytes": round(_memory("VmHWM") - before),
        "decoder_megabytes": round(max(peaks[1:])),
        "seconds": round(time.perf_counter() - start, 2),
    }


def _memory(name: str) -> float:
    """Of this process, in MB."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1e3
    raise RuntimeError(f"/proc/self/status has no {name}: run this on Linux.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=[*REQUESTS, *VIDEOS])
    parser.add_argument("--folder")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.folder)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folders = {
            model: str(stage(checkpoint_path(model), Path(scratch) / model, check=False).path) for model in EMBEDDED
        }
        found = {}
        for name in (*REQUESTS, *VIDEOS):
            folder = folders[QWEN if name in VIDEOS else LLAVA]
            command = [sys.executable, "-m", "benchmarks.handler_memory", "--only", name, "--folder", folder]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            found[name] = json.loads(run.stdout.splitlines()[-1])
            print(name, found[name])
    results = {"limits": LIMITS._asdict(), "requests": found}
    print(save("handler-memory-cpu", results, "mmtok", "transformers", "pillow"))


if __name__ == "__main__":
    main()
