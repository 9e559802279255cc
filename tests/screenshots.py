"""Take the pictures of TensorBoard in docs/board.md: ``python -m tests.screenshots RUNS TO``.

RUNS is what ``tutelage board`` opens. It needs Debian's package ``chromium``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.board_helpers import board, chromium, look

# The page, its picture, and how large it is.
PAGES = (
    ("hparams", "hparams.png", 1900, 640),
    ("custom_scalars", "custom-scalars.png", 1430, 1480),
    ("images", "images.png", 1430, 1330),
    ("scalars", "scalars.png", 1430, 860),
)


def main(runs: str, target: str) -> None:
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    with board(str(Path(runs).resolve()), "--port", "0") as (url, _), chromium() as browser:
        for tab, name, width, height in PAGES:
            page = look(browser, url, tab, width=width, height=height)
            page.screenshot(path=folder / name)
            print(folder / name)


if __name__ == "__main__":
    main(*sys.argv[1:])
