"""Lets a torchvision that was built for CUDA load beside a torch for the CPU, in the test environment only.

Its compiled operators cannot load there, and the Python that describes one of them then fails on import. vLLM and
transformers use none of them; declaring their signatures is enough.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

_DECLARED = """
_declared = torch.library.Library("torchvision", "FRAGMENT")
_declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

"""
_BEFORE = '@torch.library.register_fake("torchvision::nms")'


def main() -> None:
    spec = find_spec("torchvision")
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit("torchvision is not installed.")
    file = Path(spec.submodule_search_locations[0]) / "_meta_registrations.py"
    if subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode == 0:
        return
    text = file.read_text(encoding="utf-8")
    if _BEFORE not in text:
        raise SystemExit(f"{file} has no line {_BEFORE!r}: this torchvision needs another fix.")
    file.write_text(text.replace(_BEFORE, _DECLARED.lstrip() + _BEFORE), encoding="utf-8")


if __name__ == "__main__":
    main()
