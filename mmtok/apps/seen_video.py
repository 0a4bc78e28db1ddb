"""Videos as the vision tower saw them: some of the frames, made back from `pixel_values_videos`, with their times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from PIL import Image

from mmtok.videos import Video, evenly

from .seen_image import GAP, LARGEST_SIDE, put_together, read_side, rgb_images
from .wording import counted

# Frames that are drawn at most, and patches side by side in a row of them.
MOST_DRAWN = 8
_PATCHES_IN_A_ROW = 128
# Inches of a drawing at most, and those that a frame and a patch want.
_WIDEST, _FRAME, _PATCH = 14.0, 3.2, 0.12
_LABEL_POINTS = 9.5


@dataclass(frozen=True)
class SeenVideo:
    """Frames of a video as the vision tower saw them.

    Attributes:
        crops: RGB frames of one size, each a grid of square patches. Where the tower reads frames in pairs, the first
            of a pair.
        numbers: the crop of a selection that each of them is.
        patch_size: pixels along the side of a patch.
        count: crops that a selection can name, drawn or not.
        together: frames that the tower reads together as one crop.
        video: what was read of the file.
    """

    crops: tuple[Image.Image, ...]
    numbers: tuple[int, ...]
    patch_size: int
    count: int
    together: int
    video: Video

    @property
    def unit(self) -> str:
        """What a crop is."""
        return "frame" if self.together == 1 else "pair of frames"

    def described(self) -> str:
        """Which frames were read, and which of them are drawn."""
        read, total = len(self.video.indices), self.video.total
        text = f"all {total} frames read" if read == total else f"{read} of {total:,} frames read"
        if self.together > 1:
            text += f" in {counted(self.count, 'pair')}"
        if len(self.crops) < self.count:
            text += f", {len(self.crops)} of them drawn"
        return text + (", of each pair the first frame" if self.together > 1 else "")

    def label(self, number: int) -> str:
        """Such as "frame 3, 1.0 s", or of a pair "frames 5-6, 2.0 s", counted among the frames that are read."""
        first = number * self.together
        # Of an odd number of frames the last one has no other in its pair.
        last = min(first + self.together, len(self.video.indices)) - 1
        which = f"frame {first + 1}" if first == last else f"frames {first + 1}-{last + 1}"
        return f"{which}, {self.video.seconds[first]:.1f} s"

    def as_json(self) -> dict[str, Any]:
        """Plain values: which frames of the file were read, and the crop that each is in."""
        frames = zip(self.video.indices, self.video.seconds, strict=True)
        return {
            "total_frames": self.video.total,
            "frames": [
                {"index": index, "seconds": round(seconds, 3), "crop": place // self.together}
                for place, (index, seconds) in enumerate(frames)
            ],
            "drawn_crops": list(self.numbers),
        }

    @property
    def columns(self) -> int:
        """Frames in a row of an overlay."""
        fit = max(1, _PATCHES_IN_A_ROW // self._patches)
        rows = -(-len(self.crops) // fit)
        return -(-len(self.crops) // rows)

    @property
    def inches(self) -> float:
        """The width of an overlay on paper."""
        return min(_WIDEST, max(_FRAME * self.columns, _PATCH * self.columns * self._patches))

    @property
    def _patches(self) -> int:
        return self.crops[0].width // self.patch_size

    def origins(self, scale: int) -> list[tuple[int, int]]:
        """Upper left corner (x, y) of each frame in an overlay: in rows, with room for the label above each."""
        width, height = (side * scale for side in self.crops[0].size)
        text = self._text_size(scale) * 3 // 2
        return [
            (column * (width + GAP), text + row * (height + text + GAP))
            for row, column in (divmod(place, self.columns) for place in range(len(self.crops)))
        ]

    def captions(self, scale: int) -> list[tuple[str, tuple[int, int], int]]:
        """The labels, with their place and size in an overlay."""
        size = self._text_size(scale)
        places = [(x, y - size * 4 // 3) for x, y in self.origins(scale)]
        return [(self.label(number), place, size) for number, place in zip(self.numbers, places, strict=True)]

    def scale(self) -> int:
        """How many pixels of an overlay a pixel of a frame takes along each side."""
        return max(1, LARGEST_SIDE // (self.columns * self.crops[0].width))

    def _text_size(self, scale: int) -> int:
        """Pixels of an overlay: so that a label fits above its frame, and is read where the overlay is scaled down."""
        width = self.crops[0].width * scale
        return max(9, min(width // 12, round(self.columns * width * _LABEL_POINTS / 72 / self.inches)))


def seen_video(inputs: Mapping[str, Any], video: Video, config: Any, video_processor: Any) -> SeenVideo:
    """The frames of the video of a prompt, evenly chosen ones where there are more than `MOST_DRAWN`.

    Args:
        inputs: of a model; `pixel_values_videos` is (1, frames, 3, H, W), or the patches of Qwen-VL with
            `video_grid_thw` (1, 3).
        video: what they were made of.
        config: of the model.
        video_processor: gives `image_mean` and `image_std`.
    """
    pixels, grid = inputs["pixel_values_videos"], inputs.get("video_grid_thw")
    vision, together = config.vision_config, 1
    patch = int(vision.patch_size)
    if grid is None:
        side = read_side(config)
        frames = pixels[0, :, :, :side, :side]
    else:
        together, patch = int(vision.temporal_patch_size), patch * int(vision.spatial_merge_size)
        frames = put_together(pixels, torch.as_tensor(grid)[0].tolist(), config)
    numbers = evenly(len(frames), MOST_DRAWN)
    drawn = rgb_images(frames[numbers], video_processor)
    if grid is None:
        # Stock pools two by two tokens, and of an odd number one more.
        tokens = ceil(side // patch / 2)
        patch = -(-side // tokens)
        drawn = [frame.resize((tokens * patch, tokens * patch), Image.Resampling.BILINEAR) for frame in drawn]
    return SeenVideo(tuple(drawn), tuple(numbers), patch, len(frames), together, video)
