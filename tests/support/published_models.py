"""A Hub on loopback with stock checkpoints on it, as this process and clean processes see it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import transformers
from hub_double import TOKEN, HubDouble
from huggingface_hub import constants, file_download

BASE = "llava-hf/small-llava"
TARGET = "org/llava-mmtok"
# A part of programs: two questions, one by one and as a batch, of the pipeline `ask`; `Image` is imported.
ASK_TWICE = """
# Images of one shape: the pipeline's own collation joins no others.
images = [Image.effect_mandelbrot((48, 24), (-2, -1, 1, 1), quality).convert("RGB") for quality in (20, 90)]
chats = [
    [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": question}]}]
    for image, question in zip(images, ("Is there a dog?", "Who walks in the park?"))
]
greedy = {"do_sample": False, "max_new_tokens": 4, "min_new_tokens": 4}
settings = {"generate_kwargs": greedy, "return_full_text": False}
single = [ask(text=chat, **settings)[0]["generated_text"] for chat in chats]
batch = [answer[0]["generated_text"] for answer in ask(text=chats, batch_size=2, **settings)]
"""


@contextmanager
def hub_for_this_process(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[HubDouble]:
    """Serves a Hub and points this process's huggingface_hub to it, with an empty cache and the Hub's token."""
    with HubDouble().serving() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        # huggingface_hub before 1.0 has a copy of the name.
        monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        # transformers keeps a client, with the address that it was made for.
        monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def upload_folder(hub: HubDouble, repo_id: str, folder: Path) -> str:
    """Puts a folder on the Hub from behind the server; returns the commit."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return hub.store.seed(repo_id, files)


def environment_of(hub: HubDouble, cache: Path) -> dict[str, str]:
    """Environment variables that point another process to the Hub, with a cache of its own."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(cache),
        "HF_HUB_CACHE": str(cache / "hub"),
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": TOKEN,
    }
