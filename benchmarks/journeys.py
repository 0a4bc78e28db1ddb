"""Follows a new user through README and docs, in an environment of its own with the newest of everything.

    python -m benchmarks.journeys --environment runs/newcomer

Every step is a command, run in one empty folder as it is written here; the results have its seconds, its exit code and
what it printed last. The environment is made if it is not there, by the install line of the README from a clone of this
checkout. `./base` is the stock checkpoint in the package, and the Hub that of the tests, on loopback: the package index
is all of the network that is used.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import save

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "demo,video,web,serve"
PACKAGES = ("torch", "torchvision", "transformers", "huggingface_hub", "av", "gradio", "mmtok")
PORT = 8765
REQUESTS = 16


class Step(NamedTuple):
    """One thing that a user does.

    Attributes:
        name: what for.
        command: a line of shell; of a server the one that starts it.
        use: what is done with the server at an address once it answers; None for a command that ends by itself.
    """

    name: str
    command: str
    use: Callable[[str], dict[str, Any]] | None = None


def opened(address: str, data: Any = None) -> tuple[int, str]:
    """Status and text of a request, which may be refused."""
    content = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(address, content, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def use_page(address: str) -> dict[str, Any]:
    """Opens the page."""
    status, text = opened(address)
    if status != 200 or "gradio" not in text:
        raise RuntimeError(f"the page answered {status}")
    return {"status": status}


def use_server(address: str) -> dict[str, Any]:
    """Asks one question, `REQUESTS` at once, and what else an operator tries; statuses and seconds."""
    photo = b64encode((ROOT / "docs" / "images" / "demo.png").read_bytes()).decode()

    def ask(image: str = f"data:image/png;base64,{photo}", **fields: Any) -> tuple[int, float]:
        content = [{"type": "text", "text": "Is there a dog?"}, {"type": "image_url", "image_url": {"url": image}}]
        messages = [{"role": "user", "content": content}]
        data = {"model": "./llava-mmtok", "max_tokens": 16, "messages": messages, **fields}
        began = time.perf_counter()
        status, _ = opened(f"{address}/v1/chat/completions", data)
        return status, round(time.perf_counter() - began, 2)

    found: dict[str, Any] = {"first": ask(), "second": ask()}
    if [status for status, _ in found.values()] != [200, 200]:
        raise RuntimeError(f"the server answered {found}")
    with ThreadPoolExecutor(REQUESTS) as pool:
        together = list(pool.map(lambda _: ask(), range(REQUESTS)))
    seconds = sorted(seconds for _, seconds in together)
    found |= {"requests at once": REQUESTS, "their statuses": sorted({status for status, _ in together})}
    found |= {"soonest and last, seconds": [seconds[0], seconds[-1]]}
    tried: dict[str, dict[str, Any]] = {
        "a budget": {"generation_config": json.dumps({"vision_token_budget": 4})},
        "a budget of -1": {"generation_config": json.dumps({"vision_token_budget": -1})},
        "a budget as a field": {"vision_token_budget": 4},
        "another model": {"model": "another"},
        "no image": {"image": "data:image/png;base64,AAAA"},
        "an address that cannot be reached": {"image": "http://127.0.0.1:9/photo.jpg"},
    }
    found |= {name: ask(**fields)[0] for name, fields in tried.items()}
    return found | {path: opened(f"{address}{path}")[0] for path in ("/health", "/metrics", "/v1/models")}


# After the environment is there. The files are those of `prepare`.
STEPS: tuple[Step, ...] = (
    Step("what there is", "mmtok --help"),
    Step("try it", "mmtok demo"),
    Step("check the installation", "mmtok doctor"),
    Step("prune a loaded model", "python prune.py"),
    Step("draw what is kept", 'mmtok show photo.png "Is there a dog?" --model ./base'),
    Step("stage", "mmtok stage ./base ./llava-mmtok"),
    Step("a pipeline of the staged folder", "python pipeline.py"),
    Step("verify the folder", "mmtok verify ./llava-mmtok"),
    Step("what a push would send", "mmtok push ./base me/llava-mmtok --dry-run"),
    Step("push", "mmtok push ./base me/llava-mmtok --tag v1"),
    Step("push again", "mmtok push ./base me/llava-mmtok --tag v1"),
    Step("verify on the Hub", "mmtok verify me/llava-mmtok --revision v1"),
    Step("ask a model on the Hub", 'mmtok ask photo.png "Is there a dog?" --model me/llava-mmtok --budget all 16'),
    Step("choose a budget", "mmtok compare photos --model ./llava-mmtok --limit 12"),
    Step("choose a budget, embedded model", "mmtok compare"),
    Step("time it", 'mmtok bench photo.png "Is there a dog?" --model ./llava-mmtok'),
    Step("accuracy", "mmtok eval --model ./llava-mmtok --questions pope.json --images photos --budget 16"),
    Step(
        "a file of questions", "mmtok generate --model ./llava-mmtok --questions questions.csv --output answers.jsonl"
    ),
    Step("the page", f"mmtok demo --web --port {PORT}", use_page),
    Step("the page of the staged model", f"mmtok demo --web --model ./llava-mmtok --port {PORT}", use_page),
    Step("serve", f"transformers serve ./llava-mmtok --trust-remote-code --port {PORT}", use_server),
    # A video, of a small random Qwen2.5-VL.
    Step("stage another family", "mmtok stage ./base-qwen ./qwen-mmtok"),
    Step("draw a video", 'mmtok show --video clip.gif "Where is the ball?" --model ./qwen-mmtok --budget 0.2'),
    Step(
        "questions about a video",
        "mmtok generate --model ./qwen-mmtok --questions clips.jsonl --output clips-answers.jsonl",
    ),
)


def program(page: str, number: int = 0) -> str:
    """A Python block of a page, about the checkpoint that is here."""
    code = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)[number]
    return str(code).replace("llava-hf/llava-1.5-7b-hf", "./base").replace("photo.jpg", "photo.png")


def prepare(folder: Path) -> None:
    """The files of a user: two stock checkpoints, images, a video, questions, programs copied from the pages."""
    import shutil

    from PIL import Image

    from mmtok.apps.demo import example
    from mmtok.tiny import checkpoint_path

    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from chat_checkpoints import make_chat_checkpoint

    shutil.copytree(checkpoint_path(), folder / "base")
    make_chat_checkpoint(folder / "base-qwen", "qwen2_5_vl")
    (folder / "photos").mkdir()
    lines, labelled = ["image,question"], []
    for number in range(6):
        shown = example(number)
        shown.image.save(folder / "photos" / f"{number}.png")
        for question in shown.questions:
            lines.append(f'photos/{number}.png,"{question.text}"')
        labelled.append({"question_id": number, "image": f"{number}.png", "text": "Is there a dog?", "label": "no"})
    labelled[0]["label"] = "yes"
    example(0).image.save(folder / "photo.png")
    (folder / "questions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "pope.json").write_text("".join(json.dumps(line) + "\n" for line in labelled), encoding="utf-8")
    frames = [Image.new("RGB", (48, 24), (20 * number, 90, 0)) for number in range(12)]
    frames[0].save(folder / "clip.gif", save_all=True, append_images=frames[1:], duration=250)
    asked = {"video": "clip.gif", "question": "Where is the ball?"}
    (folder / "clips.jsonl").write_text(json.dumps(asked) + "\n", encoding="utf-8")
    (folder / "prune.py").write_text(program("docs/prune.md"), encoding="utf-8")
    (folder / "pipeline.py").write_text(program("README.md", 1), encoding="utf-8")


def follow(steps: Sequence[Step], folder: Path, environment: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Takes the steps, one after another, whether they fail or not.

    Yields:
        "step", "command", "seconds", "exit code", "last" (line that was printed), and what the use of a server found.
    """
    for step in steps:
        began = time.perf_counter()
        found: dict[str, Any] = {}
        log = folder.parent / "step.log"
        with log.open("w+", encoding="utf-8") as file:
            named: Any = {"cwd": folder, "env": environment, "stdin": subprocess.DEVNULL}
            named |= {"stdout": file, "stderr": subprocess.STDOUT}
            if step.use is None:
                code = subprocess.run(["bash", "-c", step.command], check=False, **named).returncode
            else:
                code, found = used(step, named)
        text = log.read_text(encoding="utf-8", errors="replace").strip()
        lines = text.splitlines()
        if code:
            print(text[-3000:], file=sys.stderr)
        yield {
            "step": step.name,
            "command": step.command,
            "seconds": round(time.perf_counter() - began, 1),
            "exit code": code,
            "last": lines[-1][:300] if lines else "",
            **({"found": found} if found else {}),
        }


def used(step: Step, named: Any) -> tuple[int, dict[str, Any]]:
    """Starts a server, uses it, stops it; 0 and what was found, or its exit code."""
    assert step.use is not None
    address, began = f"http://127.0.0.1:{PORT}", time.perf_counter()
    with subprocess.Popen(shlex.split(step.command), **named) as process:
        try:
            while process.poll() is None and time.perf_counter() - began < 600:
                try:
                    opened(address)
                except OSError:
                    time.sleep(0.2)
                    continue
                ready = round(time.perf_counter() - began, 1)
                return 0, {"seconds until it answers": ready, **step.use(address)}
            return process.poll() or 1, {}
        except (OSError, RuntimeError) as error:
            return 1, {"error": str(error)}
        finally:
            process.terminate()


@contextmanager
def hub() -> Iterator[dict[str, str]]:
    """The Hub on loopback, as variables of the environment."""
    command = [sys.executable, str(ROOT / "tests" / "support" / "hub_double.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            # It takes files over HTTP, and not into Xet's storage.
            yield {"HF_ENDPOINT": address, "HF_TOKEN": "hf_journeys", "HF_HUB_DISABLE_XET": "1"}
        finally:
            process.terminate()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--environment", type=Path, required=True, help="a virtual environment, made if it is not there"
    )
    parser.add_argument("--only", nargs="+", metavar="STEP", help="these alone, by their names; nothing is written")
    options = parser.parse_args()
    place = options.environment.resolve()
    taken: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch, hub() as of_hub:
        folder = Path(scratch) / "user"
        folder.mkdir()
        paths = f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"
        variables = {**os.environ, **of_hub, "PATH": paths, "HF_HOME": f"{scratch}/hf", "VIRTUAL_ENV": str(place)}
        for name in ("PYTHONPATH", "OMP_NUM_THREADS"):
            variables.pop(name, None)
        install = [
            Step("clone", f"git clone --quiet {ROOT} ../mmtok"),
            *([] if place.exists() else [Step("make an environment", f"{sys.executable} -m venv {place}")]),
            Step("install", f"cd ../mmtok && pip install --quiet '.[{EXTRAS}]'"),
            Step("what is installed", f"pip list --format=freeze | grep -iE '^({'|'.join(PACKAGES)})=' | xargs"),
        ]
        prepare(folder)
        steps = [*install, *(step for step in STEPS if options.only is None or step.name in options.only)]
        for found in follow(steps, folder, variables):
            for path, name in ((ROOT, "CHECKOUT"), (place, "FOLDER")):
                found["command"] = found["command"].replace(str(path), name)
            taken.append(found)
            print(json.dumps(found), flush=True)
    if options.only is None:
        save("journeys", {"steps": taken})
    failed = [found["step"] for found in taken if found["exit code"]]
    print(f"{len(taken)} steps, failed: {', '.join(failed) or 'none'}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
