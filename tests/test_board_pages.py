"""What a person sees of real runs in TensorBoard's pages, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from tests.board_helpers import ask, board, chromium, look, train_runs, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

NAMES = ("ce", "ebkd temperature=2", "ebkd temperature=4")


@pytest.fixture(scope="module")
def opened(
    fashion: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Page]]:
    """Opens a page by its name in the address."""
    runs = train_runs(fashion, tmp_path_factory.mktemp("pages"))
    with board(str(runs), "--port", "0") as (url, _), chromium() as browser:
        wait_for(lambda: set(NAMES) < set(ask(url, "runs")))
        yield lambda tab: look(browser, url, tab)


def texts(page: Page, selector: str) -> list[str]:
    """What every matching element says, its white space made one space."""
    return [re.sub(r"\s+", " ", text).strip() for text in page.locator(selector).all_inner_texts()]


def test_the_table_shows_runs_settings_and_results(opened: Callable[[str], Page]) -> None:
    page = opened("hparams")
    cells = texts(page, "tf-hparams-table-view .table-cell")
    assert set(NAMES) < set(cells)
    headings = texts(page, "tf-hparams-table-view .table-header")
    assert headings[:1] + headings[2:] == [
        "Trial ID",
        "method",
        "temperature",
        "seed",
        "validation accuracy (best)",
        "test accuracy",
        "validation accuracy (last epoch)",
        "seconds",
        "parameters",
    ]
    width = len(headings)
    rows = [cells[start : start + width] for start in range(width, len(cells), width)]
    rows = [row for row in rows if row[0]]  # the grid keeps empty ones in store
    assert {row[0]: row[2:4] for row in rows} == {
        "ce": ["ce", ""],
        "ebkd temperature=2": ["ebkd", "2.0000"],
        "ebkd temperature=4": ["ebkd", "4.0000"],
    }
    assert all(0 <= float(row[6]) <= 1 for row in rows)


def test_charts_of_all_runs_are_side_by_side(opened: Callable[[str], Page]) -> None:
    page = opened("custom_scalars")
    categories = texts(page, "tf-custom-scalar-dashboard .category-name")
    assert categories[:3] == ["Accuracy", "Teachers' weights", "Losses, mean of each epoch"]
    cards = page.locator("tf-custom-scalar-multi-line-chart-card")
    for tag, matches in (("accuracy/validation", 3), ("teacher_weight/a", 2)):
        card = cards.filter(has_text=tag)
        card.get_by_text(f"Matches ({matches})").wait_for()


def test_scalars_are_drawn_of_all_runs(opened: Callable[[str], Page]) -> None:
    page = opened("scalars")
    assert set(NAMES) < set(texts(page, "tf-runs-selector .item-label-container"))
    assert {"accuracy", "loss"} < set(texts(page, "tf-scalar-dashboard .category-name"))


def test_heat_maps_are_shown_of_runs_that_weigh_teachers(opened: Callable[[str], Page]) -> None:
    page = opened("images")
    cards = page.locator("tf-image-loader")
    assert cards.count() == 2
    for name in NAMES[1:]:
        assert cards.filter(has_text=name).count() == 1
    for picture in page.locator("tf-image-loader img").all():
        assert picture.evaluate("picture => picture.naturalWidth") > 300


def test_time_series_name_the_runs(opened: Callable[[str], Page]) -> None:
    page = opened("timeseries")
    for name in NAMES:
        page.get_by_text(name, exact=True).first.wait_for()
