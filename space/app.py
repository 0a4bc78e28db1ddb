"""A Hugging Face Space: the page of `mmtok demo --web` on the model that comes with the package."""

from __future__ import annotations

import tempfile

from mmtok.apps.answering import load_pipeline
from mmtok.apps.web import launch
from mmtok.publish import stage
from mmtok.tiny import checkpoint_path


def main() -> None:
    """Stages the embedded model and serves the page."""
    with tempfile.TemporaryDirectory() as folder:
        staged = stage(checkpoint_path(), f"{folder}/mmtok-tiny", check=False)
        launch(load_pipeline(staged.path), embedded=True, server_name="0.0.0.0", server_port=7860)


if __name__ == "__main__":
    main()
