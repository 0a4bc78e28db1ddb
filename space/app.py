"""A Hugging Face Space: the page of `mmtok demo --web` on the model that comes with the package."""

from __future__ import annotations

from mmtok.apps.answering import load_pipeline
from mmtok.apps.page import build_page, serve
from mmtok.tiny import checkpoint_path


def main() -> None:
    """Loads the embedded model and serves the page."""
    page = build_page(load_pipeline(checkpoint_path()), embedded=True)
    serve(page, server_name="0.0.0.0", server_port=7860)


if __name__ == "__main__":
    main()
