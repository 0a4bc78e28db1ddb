"""Videos of the commands: which frames are read of which files, when they are shown, and what is refused."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from question_files import png_header

from mmtok.hub.handler import MAX_ASPECT_RATIO, Video, evenly, open_video
from mmtok.visuals import read_video


def gray(value: int, size: tuple[int, int] = (30, 20)) -> Image.Image:
    return Image.new("RGB", size, (value, value, value))


def animation(path: Path, count: int, *, duration: int | list[int] = 250, size: tuple[int, int] = (30, 20)) -> Path:
    """Frames of the grays 0, 10, 20, ..."""
    frames = [gray(10 * number, size) for number in range(count)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=duration, lossless=True)
    return path


def folder(path: Path, names: list[str], size: tuple[int, int] = (30, 20)) -> Path:
    path.mkdir()
    for number, name in enumerate(names):
        gray(10 * number, size).save(path / name)
    return path


def video_file(path: Path, count: int, codec: str = "mpeg4", noise: bool = False) -> Path:
    import av

    frames = [gray(10 * number, (64, 32)) for number in range(count)]
    if noise:
        pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 64, 3), dtype=np.uint8)
        frames = [Image.fromarray(each) for each in pixels]

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    return path


def grays(frames: list[Image.Image]) -> list[int]:
    return [round(np.asarray(frame).mean() / 10) for frame in frames]


@pytest.mark.parametrize("ending", ["gif", "png", "webp"])
def test_frames_of_an_animation_are_chosen_evenly(tmp_path: Path, ending: str) -> None:
    video = read_video(animation(tmp_path / f"moving.{ending}", 10), 4)
    assert {(frame.size, frame.mode) for frame in video.frames} == {((30, 20), "RGB")}
    assert list(video.indices) == grays(video.frames) == [0, 2, 5, 7]
    assert (video.total, video.fps, video.seconds) == (10, 4.0, [0.0, 0.5, 1.25, 1.75])


def test_an_animation_of_uneven_durations_has_their_mean(tmp_path: Path) -> None:
    video = read_video(animation(tmp_path / "moving.gif", 3, duration=[100, 200, 300]), 8)
    assert (video.indices, video.fps) == ((0, 1, 2), 5.0)


def test_a_folder_has_its_frames_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = [f"frame{number}.png" for number in range(12)]
    path = folder(tmp_path / "frames", names)
    (path / "notes.txt").write_text("no frame")
    (path / ".hidden.png").write_text("no frame")
    video = read_video(path, 12)
    assert grays(video.frames) == list(range(12))
    assert (video.total, video.fps) == (12, 1.0)


def test_a_video_says_what_transformers_asks() -> None:
    from transformers.video_utils import VideoMetadata

    video = Video([gray(0), gray(0)], (0, 6), 12, 4.0)
    metadata = VideoMetadata(**video.metadata)
    assert metadata.timestamps == video.seconds == [0.0, 1.5]
    assert (metadata.duration, metadata.width, metadata.height, metadata.total_num_frames) == (3.0, 30, 20, 12)


@pytest.mark.torchvision
@pytest.mark.parametrize(("name", "codec"), [("clip.mp4", "mpeg4"), ("clip.webm", "libvpx"), ("clip.avi", "mpeg4")])
def test_a_video_file_is_read_as_an_animation_is(tmp_path: Path, name: str, codec: str) -> None:
    """WebM does not say how many frames it has."""
    video = read_video(video_file(tmp_path / name, 10, codec), 4)
    assert [frame.size for frame in video.frames] == [(64, 32)] * 4
    assert list(video.indices) == grays(video.frames) == [0, 2, 5, 7]
    assert (video.total, video.fps) == (10, 8.0)


def test_frames_are_chosen_as_transformers_does() -> None:
    assert evenly(10, 4) == [0, 2, 5, 7]
    assert evenly(3, 8) == [0, 1, 2]


def sizes(path: Path) -> Path:
    folder(path, ["1.png", "2.png"])
    gray(0, (20, 30)).save(path / "3.png")
    return path


def cut_off(path: Path) -> Path:
    """An animated PNG without its end."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (5, 20, 30, 3), dtype=np.uint8)
    frames = [Image.fromarray(frame) for frame in noise]
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:])
    path.write_bytes(file.getvalue()[: len(file.getvalue()) // 2])
    return path


def text(path: Path) -> Path:
    path.write_text("hello\n" * 40)
    return path


def header(width: int, height: int) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_bytes(png_header(width, height))
        return path

    return write


def in_folder(write: Callable[[Path], Path]) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.mkdir()
        for number in range(3):
            write(path / f"{number}.png")
        return path

    return make


REFUSED = {
    "a missing file": ("clip.mp4", lambda path: path, "No such file or directory"),
    "an empty folder": ("frames", lambda path: folder(path, []), "the folder holds no images: put in the frames, at"),
    "a folder of text": ("frames", lambda path: text(folder(path, []) / "a.txt").parent, "the folder holds no images"),
    "a folder of one": ("frames", lambda path: folder(path, ["1.png"]), "the folder holds 1 image: put in the frames"),
    "frames of two sizes": ("frames", sizes, "3.png has 20 x 30 pixels, and 1.png 30 x 20: give one size"),
    "a frame that is none": ("frames", in_folder(text), "0.png cannot be read as an image: it is not an image"),
    "large frames": ("frames", in_folder(header(60_000, 60_000)), "0.png cannot be read as an image: it has more than"),
    "a photo": ("photo.png", lambda path: animation(path, 1), "it has a single frame: ask about it as an image"),
    "a bomb": ("bomb.png", header(60_000, 60_000), "its frames have more than 89,478,485 pixels: scale it down"),
    "a large frame": ("large.png", header(10_000, 9_000), "its frames have 10000 x 9000 pixels, more than"),
    "a strip": ("strip.png", header(MAX_ASPECT_RATIO + 1, 1), "its frames have 201 x 1 pixels, one side over 200"),
    "half a file": ("half.png", cut_off, r"frame \d of 5 cannot be decoded: "),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_video_is_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    file, make, message = REFUSED[name]
    with pytest.raises(ValueError, match=rf"{file} cannot be read as a video: {message}.*\.$"):
        read_video(make(tmp_path / file), 8)


def test_all_frames_together_have_a_largest_size(tmp_path: Path) -> None:
    path = animation(tmp_path / "a.gif", 10)
    with path.open("rb") as file:
        assert len(open_video(file, 5, 5 * 30 * 20).frames) == 5
    for frames, pixels, message in (
        (6, 3000, r"6 frames of 30 x 20 pixels have more than 3,000: read at most 5, or scale it down\."),
        (2, 600, r"2 frames of 30 x 20 pixels have more than 600: scale it down\."),
    ):
        with path.open("rb") as file, pytest.raises(ValueError, match=message):
            open_video(file, frames, pixels)


def test_a_missing_decoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    told = r"clip\.mp4 cannot be read as a video: .* PyAV, for other files, is missing: run pip install av"
    with pytest.raises(ValueError, match=told):
        read_video(text(tmp_path / "clip.mp4"), 8)


@pytest.mark.torchvision
def test_what_pyav_cannot_decode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"notes\.txt cannot be read as a video: PyAV says: Invalid .*: give a whole MP4"
    ):
        read_video(text(tmp_path / "notes.txt"), 8)
    clip = video_file(tmp_path / "clip.mp4", 10)
    clip.write_bytes(clip.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"clip\.mp4 cannot be read as a video: no frames are found in it: "):
        read_video(clip, 8)
    with pytest.raises(ValueError, match="it has a single frame: ask about it as an image"):
        read_video(video_file(tmp_path / "still.mp4", 1), 8)


@pytest.mark.torchvision
def test_a_video_file_without_its_end_is_refused(tmp_path: Path) -> None:
    """An AVI says at its beginning how many frames it has."""
    clip = video_file(tmp_path / "clip.avi", 10, noise=True)
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"only \d of 8 frames can be decoded: the file is damaged"):
        read_video(clip, 8)
