"""Pushes that fail, at every request in turn and by every kind of fault: main holds the old state or all of the new."""

from __future__ import annotations

import multiprocessing
import os
import signal
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_double import TOKEN, Fault, HubDouble
from huggingface_hub import close_session, file_download
from huggingface_hub.utils import _http
from published_models import BASE, TARGET

from mmtok.cli.publish import tidy_end
from mmtok.publish import PublishError
from mmtok.publish.push import Release, prepare, publish
from mmtok.publish.recipe import Destination, Recipe

OLD = {"README.md": b"# The card of version zero\n", "config.json": b"{}", "notes.txt": b"mine"}
MOST_REQUESTS = 40
# Every request of a push fails in turn, which takes a quarter of a minute: `make test-heavy` tries all faults.
WEIGHTS = [pytest.param(False, id="copied"), pytest.param(True, id="uploaded", marks=pytest.mark.heavy)]
MORE_FAULTS = [pytest.param(kind, marks=pytest.mark.heavy) for kind in (500, 429, 401)]


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits between the retries of huggingface_hub are counted, not waited."""
    clock = types.SimpleNamespace(sleep=lambda seconds: None)
    for module in (_http, file_download):
        monkeypatch.setattr(module, "time", clock)


def run_again(hub: HubDouble) -> None:
    """No faults any more, and no connections either: the next run is a process of its own."""
    hub.arm()
    close_session()


def push_again(hub: HubDouble, release: Release) -> None:
    """A push without faults; the repo then holds all of it, in one commit on top of what was there, and the tag."""
    run_again(hub)
    report = publish(
        release, Destination(TARGET, tag="v1.0", overwrite_card=True, delete_others=True), verify_after=False
    )
    repository = hub.store.repository(TARGET)
    assert repository.tags == {"v1.0": repository.branches["main"]} == {"v1.0": report.commit}
    assert complete(hub, release)


def complete(hub: HubDouble, release: Release) -> bool:
    """Whether main is one commit on top of the old state and holds every file of the release."""
    repository = hub.store.repository(TARGET)
    head, title = repository.commit_at("main"), f"MMTok 0.1.0 on {BASE}"
    if head.title != title or repository.commits[head.parent or ""].title == title:
        return False
    files = hub.files(TARGET)
    expected = {path: file.read_bytes() for path, file in release.files.items()}
    expected |= {path: hub.files(BASE)[path] for path in release.weights}
    return all(files.get(path) == content for path, content in expected.items())


def start_over(hub: HubDouble) -> dict[str, tuple[str, bool]]:
    """The target as somebody left it before the push; returns its tree."""
    run_again(hub)
    hub.store.repositories.pop(TARGET, None)
    hub.store.seed(TARGET, OLD)
    return hub.tree(TARGET)


@pytest.mark.parametrize("upload", WEIGHTS)
@pytest.mark.parametrize("kind", ["drop", 412, *MORE_FAULTS])
def test_a_fault_at_any_request_leaves_main_old_or_complete(
    hub: HubDouble, release: Release, kind: int | str, upload: bool
) -> None:
    hub.refuse_duplicates = upload
    strike_every_request(hub, release, kind=kind)


@pytest.mark.parametrize("upload", WEIGHTS)
@pytest.mark.parametrize("kind", ["drop", *MORE_FAULTS[:2]])
def test_a_hub_that_fails_from_some_request_on_leaves_main_old_or_complete(
    hub: HubDouble, release: Release, kind: int | str, upload: bool
) -> None:
    hub.refuse_duplicates = upload
    strike_every_request(hub, release, kind=kind, persistent=True)


@pytest.mark.parametrize("upload", WEIGHTS)
def test_an_answer_that_is_lost_leaves_main_old_or_complete(hub: HubDouble, release: Release, upload: bool) -> None:
    hub.refuse_duplicates = upload
    strike_every_request(hub, release, kind="drop", served=True)


def strike_every_request(hub: HubDouble, release: Release, **fault: Any) -> None:
    """Lets one request after the other fail, each in a push of its own, and pushes again after each."""
    messages = []
    for number in range(1, MOST_REQUESTS):
        old = start_over(hub)
        hub.arm(Fault(number, **fault))
        try:
            publish(
                release, Destination(TARGET, tag="v1.0", overwrite_card=True, delete_others=True), verify_after=False
            )
        except PublishError as error:
            messages.append(str(error))
        reached = len(hub.log) >= number
        assert hub.tree(TARGET) == old or complete(hub, release), f"half published by a fault at request {number}"
        push_again(hub, release)
        if not reached:
            break
    else:
        pytest.fail(f"a push took more than {MOST_REQUESTS} requests")
    assert number > 10
    assert len(messages) >= 3
    assert all("run the same command again" in message for message in messages), messages


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("drop", "The connection to the Hub broke"),
        (500, "The Hub answered 500 while committing to org/llava-mmtok"),
        (412, r"The branch has moved since it was read \(412\) .* Nothing was changed"),
        (401, "log in with `hf auth login`"),
        (429, "The Hub asks to wait 1 seconds"),
    ],
)
def test_every_kind_of_fault_has_its_message(hub: HubDouble, release: Release, kind: int | str, message: str) -> None:
    start_over(hub)
    hub.arm(Fault(1, kind, only="/commit/"))
    with pytest.raises(PublishError, match=message):
        publish(release, Destination(TARGET, delete_others=True))


def test_a_lost_tag_is_said_to_be_all_that_is_missing(hub: HubDouble, release: Release) -> None:
    start_over(hub)
    hub.arm(Fault(1, 500, only="/tag/"))
    with pytest.raises(PublishError, match="only the tag is missing"):
        publish(release, Destination(TARGET, tag="v1.0", overwrite_card=True, delete_others=True))
    assert complete(hub, release)
    push_again(hub, release)


@pytest.mark.parametrize("kind", ["drop", 500, 401])
def test_a_verification_that_cannot_read_says_so_and_the_next_run_verifies(
    hub: HubDouble, release: Release, kind: int | str
) -> None:
    start_over(hub)
    hub.arm(Fault(1, kind, only="/prompt.py", persistent=True))
    with pytest.raises(PublishError, match="Nothing was verified; run the same command again"):
        publish(release, Destination(TARGET, overwrite_card=True, delete_others=True))
    assert complete(hub, release)
    run_again(hub)
    report = publish(release, Destination(TARGET, overwrite_card=True, delete_others=True))
    assert report.changes == ()
    assert report.verification is not None
    assert report.verification.ok


@pytest.mark.parametrize("kind", ["drop", 500, 401, 429])
@pytest.mark.parametrize("only", ["/api/models/", "/resolve/", "/tree/"])
def test_a_base_that_cannot_be_read_is_reported(hub: HubDouble, tmp_path: Path, kind: int | str, only: str) -> None:
    hub.arm(Fault(1, kind, only=only, persistent=True))
    with pytest.raises((PublishError, ValueError), match=BASE):
        prepare(BASE, Recipe(), tmp_path / "release", check=False)
    assert {request.method for request in hub.log} <= {"GET", "HEAD"}


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.heavy),
        pytest.param(signal.SIGTERM, marks=pytest.mark.heavy),
        signal.SIGKILL,
    ],
)
def test_a_push_that_ends_at_any_request_leaves_main_old_or_complete(
    hub: HubDouble, release: Release, tmp_path: Path, sent: signal.Signals
) -> None:
    """Also of its own files nothing is left, after SIGKILL once the next push has ended."""
    context = forks()
    (tmp_path / "scratch").mkdir()

    def push_in_a_process(end: Callable[[Any], Fault | None]) -> int:
        child = context.Process(target=_push_in_a_process, args=(hub.url, tmp_path))
        fault = end(child)
        hub.arm(*([fault] if fault else []))
        child.start()
        child.join(120)
        return int(child.exitcode)

    start_over(hub)
    assert push_in_a_process(lambda child: None) == 0  # the base is in the cache then
    for number in range(1, MOST_REQUESTS):
        old = start_over(hub)
        ended = push_in_a_process(lambda child, at=number: Fault(at, "drop", before=ending(child, sent)))
        # 1 is Python's own for KeyboardInterrupt.
        assert ended in ({signal.SIGINT: 1, signal.SIGTERM: 143, signal.SIGKILL: -9}[sent], 0), ended
        assert hub.tree(TARGET) == old or complete(hub, release), f"half published by {sent.name} at request {number}"
        assert sent == signal.SIGKILL or not list((tmp_path / "scratch").iterdir())
        if ended == 0:
            break
    assert number > 10
    push_again(hub, release)
    assert push_in_a_process(lambda child: None) == 0
    assert not list((tmp_path / "scratch").iterdir())


def test_a_process_killed_after_the_commit_is_completed(hub: HubDouble, release: Release, tmp_path: Path) -> None:
    start_over(hub)
    (tmp_path / "scratch").mkdir()
    child = forks().Process(target=_push_in_a_process, args=(hub.url, tmp_path))
    hub.arm(Fault(1, "drop", only="/tag/", before=ending(child, signal.SIGKILL)))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert complete(hub, release)
    assert hub.store.repository(TARGET).tags == {}
    push_again(hub, release)


def forks() -> Any:
    """Makes processes; a server keeps the imports, so that each push is a fork that takes no seconds to start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mmtok.publish.push"])
    return context


def ending(process: Any, sent: signal.Signals) -> Callable[[], None]:
    """What sends a signal to a started process."""
    return lambda: os.kill(process.pid, sent)


def _push_in_a_process(url: str, folder: Path) -> None:
    """Runs in a forked process, which does not have the test's patches; its files are below `folder`."""
    import tempfile

    from huggingface_hub import constants

    from mmtok.publish import push

    os.environ["HF_TOKEN"] = TOKEN  # the server that it was forked from may be older than the test
    constants.ENDPOINT = url
    constants.HUGGINGFACE_CO_URL_TEMPLATE = url + "/{repo_id}/resolve/{revision}/{filename}"
    constants.HF_HUB_DISABLE_XET = True
    constants.HF_HUB_CACHE = str(folder / "cache")
    tempfile.tempdir = str(folder / "scratch")
    _http.time = file_download.time = types.SimpleNamespace(sleep=lambda seconds: None)  # type: ignore[assignment]
    destination = Destination(TARGET, tag="v1.0", overwrite_card=True, delete_others=True)
    with tidy_end():
        push(BASE, destination, verify_after=False, check=False)
