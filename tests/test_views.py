"""View spaces and pass plans: exhaustive against naive references, uniform, replayable."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from distill.views import CropFlip, Identity, RandomAugment, ViewSpace, epoch_order, pass_views

PLAIN = RandomAugment(
    num_views=64, padding=0, flip=False, rotation_degrees=0, brightness=0, contrast=0, cutout=0
)


def random_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 256, shape, dtype=np.uint8)


def naive_crop_flip(image: np.ndarray, *, top: int, left: int, flip: int, padding: int):
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    crop = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
    return crop[..., ::-1] if flip else crop


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 7, 5), (3, 28, 28), (2, 6, 10)])
@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("flips", [1, 2])
def test_crop_flip_enumerates_every_crop_and_flip_once(shape, padding, flips):
    space = CropFlip(padding=padding, flip=flips == 2)
    side = 2 * padding + 1
    assert space.num_views == side**2 * flips
    image = random_images(*shape)
    stack = np.repeat(image[None], space.num_views, axis=0)
    rendered = space.render(stack, np.arange(space.num_views))
    expected = [
        naive_crop_flip(image, top=top, left=left, flip=flip, padding=padding)
        for top in range(side)
        for left in range(side)
        for flip in range(flips)
    ]
    np.testing.assert_array_equal(rendered, np.stack(expected))
    assert len({view.tobytes() for view in rendered}) == space.num_views


def test_the_standard_augmentation_has_162_views():
    assert CropFlip().num_views == 162


@pytest.mark.parametrize("space", [Identity(), CropFlip(), RandomAugment(num_views=50)])
def test_rendering_depends_on_nothing_but_image_and_view(space):
    images = random_images(700, 3, 12, 12)  # more than one block of rows
    before = images.copy()
    views = np.random.default_rng(1).integers(0, space.num_views, 700)
    together = space.render(images, views)
    np.testing.assert_array_equal(images, before)
    order = np.random.default_rng(2).permutation(700)
    np.testing.assert_array_equal(space.render(images[order], views[order]), together[order])
    alone = [space.render(images[[b]], views[[b]])[0] for b in range(0, 700, 50)]
    np.testing.assert_array_equal(np.stack(alone), together[::50])
    assert together.dtype == np.uint8
    assert together.shape == images.shape


@pytest.mark.parametrize("space", [Identity(), CropFlip(), RandomAugment(num_views=50)])
def test_wrong_requests_are_named(space):
    images = random_images(2, 1, 6, 6)
    for view in (-1, space.num_views):
        with pytest.raises(ValueError, match=rf"views 0..{space.num_views - 1}, and {view} is not"):
            space.render(images, np.array([0, view]))
    with pytest.raises(ValueError, match=r"views: .*not one integer for each of 2 images"):
        space.render(images, np.array([0]))
    with pytest.raises(ValueError, match=r"images: float32 .*not uint8"):
        space.render(images.astype(np.float32), np.array([0, 0]))
    assert space.render(images[:0], np.zeros(0, np.int64)).shape == (0, 1, 6, 6)


def test_random_augment_with_everything_off_is_the_image():
    images = random_images(64, 3, 9, 9)
    np.testing.assert_array_equal(PLAIN.render(images, np.arange(64)), images)


@pytest.mark.parametrize(
    "change",
    [
        {"padding": 2},
        {"flip": True},
        {"rotation_degrees": 45},
        {"brightness": 0.5},
        {"contrast": 0.5},
        {"cutout": 3},
    ],
)
def test_every_knob_changes_pixels_and_the_fingerprint(change):
    images = random_images(64, 3, 9, 9)
    changed = PLAIN.model_copy(update=change)
    other_seed = changed.model_copy(update={"seed": 1})
    pictures = [s.render(images, np.arange(64)) for s in (PLAIN, changed, other_seed)]
    prints = [str(s.fingerprint_fields()) for s in (PLAIN, changed, other_seed)]
    assert len({picture.tobytes() for picture in pictures}) == 3
    assert len(set(prints)) == 3


def test_random_shifts_and_flips_are_crops_of_the_padded_image():
    image = random_images(1, 1, 6, 6)
    rendered = PLAIN.model_copy(update={"num_views": 400, "padding": 1, "flip": True}).render(
        np.repeat(image, 400, axis=0), np.arange(400)
    )
    crops = CropFlip(padding=1).render(np.repeat(image, 18, axis=0), np.arange(18))
    assert {r.tobytes() for r in rendered} == {c.tobytes() for c in crops}


def test_rotation_turns_about_the_centre_by_at_most_its_angle():
    ys, xs = np.mgrid[:65, :65] - 32
    spoke = ((ys == 0) & (xs > 0)).astype(np.uint8)[None, None] * 255
    turned = PLAIN.model_copy(update={"rotation_degrees": 40}).render(
        np.repeat(spoke, 64, axis=0), np.arange(64)
    )
    far = (turned[:, 0] > 0) & (np.hypot(ys, xs) > 10)
    angles = [np.degrees(np.arctan2(ys[mask], xs[mask])).mean() for mask in far]
    assert max(np.abs(angles)) < 41
    assert min(angles) < -30
    assert max(angles) > 30


def test_rotation_agrees_with_exact_trigonometry():
    from distill.views.augment import _rotation

    angles = np.linspace(-np.pi, np.pi, 10_001)
    cosine, sine = _rotation(angles)
    assert np.abs(cosine - np.cos(angles) * 65536).max() <= 0.5 + 1e-6
    assert np.abs(sine - np.sin(angles) * 65536).max() <= 0.5 + 1e-6


def test_tone_by_hand():
    images = random_images(64, 3, 9, 9)
    bright = PLAIN.model_copy(update={"brightness": 1.0}).render(images, np.arange(64))
    ratios = [bright[b].mean() / images[b].mean() for b in range(64)]
    assert min(ratios) < 0.2
    assert max(ratios) > 1.2
    flat = np.full((64, 3, 9, 9), 77, np.uint8)
    contrast = PLAIN.model_copy(update={"contrast": 1.0})
    np.testing.assert_array_equal(contrast.render(flat, np.arange(64)), flat)


def test_cutout_blackens_a_square_that_the_border_may_clip():
    white = np.full((64, 3, 9, 9), 255, np.uint8)
    holes = PLAIN.model_copy(update={"cutout": 3}).render(white, np.arange(64)) == 0
    assert holes.any(axis=(1, 2, 3)).all()
    sizes = holes[:, 0].sum(axis=(1, 2))
    assert set(sizes) == {4, 6, 9}
    np.testing.assert_array_equal(holes[:, 0], holes[:, 2])


def test_augmentation_and_plans_never_change():
    """Recorded signals outlive releases: these bytes may only change together with the store's."""
    ramp = (np.arange(3 * 8 * 8) % 251).astype(np.uint8).reshape(1, 3, 8, 8)
    space = RandomAugment(num_views=10, padding=1, cutout=2)
    rendered = space.render(np.repeat(ramp, 10, axis=0), np.arange(10))
    assert int((rendered.ravel() * np.arange(1, rendered.size + 1)).sum()) == 142_739_441
    views = pass_views(np.arange(8), pass_index=5, num_views=162, seed=3)
    assert views.tolist() == [100, 99, 80, 92, 106, 77, 146, 18]
    assert epoch_order(10, seed=3, epoch=1).tolist() == [6, 3, 9, 2, 5, 7, 8, 1, 4, 0]


@pytest.mark.parametrize("num_views", [1, 2, 3, 18, 162, 500])
def test_v_passes_show_every_view_of_every_sample_once(num_views):
    indices = np.arange(100) * 7919
    shown = np.stack(
        [
            pass_views(indices, pass_index=p, num_views=num_views, seed=5)
            for p in range(num_views, 2 * num_views)
        ]
    )
    assert shown.dtype == np.int64
    np.testing.assert_array_equal(
        np.sort(shown, axis=0), np.repeat(np.arange(num_views)[:, None], 100, axis=1)
    )


def test_the_plan_repeats_after_v_passes_and_holds_for_any_pass():
    indices = np.arange(50)
    first = pass_views(indices, pass_index=4, num_views=7, seed=0)
    late = pass_views(indices, pass_index=4 + 7 * 10**12, num_views=7, seed=0)
    np.testing.assert_array_equal(first, late)
    huge = pass_views(indices, pass_index=3, num_views=2**31 - 1, seed=0)
    assert len(set(huge.tolist())) == 50
    with pytest.raises(ValueError, match="pass_index: -1 is negative"):
        pass_views(indices, pass_index=-1, num_views=7, seed=0)
    with pytest.raises(ValueError, match="num_views: 0"):
        pass_views(indices, pass_index=0, num_views=0, seed=0)


def test_a_samples_view_does_not_depend_on_who_else_is_asked():
    whole = pass_views(np.arange(1000), pass_index=9, num_views=162, seed=1)
    some = np.array([7, 900, 7, 0])
    np.testing.assert_array_equal(
        pass_views(some, pass_index=9, num_views=162, seed=1), whole[some]
    )


def chi_square(counts: np.ndarray) -> float:
    """Standardised: about normal with mean 0 and variance 1 for uniform counts."""
    expected = counts.sum() / counts.size
    freedom = counts.size - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


@pytest.mark.parametrize("num_views", [2, 3, 162])
@pytest.mark.parametrize("seed", [0, 1])
def test_at_any_pass_views_are_uniform_over_samples(num_views, seed):
    for pass_index in (0, 1, num_views - 1):
        views = pass_views(
            np.arange(200 * num_views), pass_index=pass_index, num_views=num_views, seed=seed
        )
        assert abs(chi_square(np.bincount(views, minlength=num_views))) < 5


@pytest.mark.parametrize("num_views", [3, 18])
def test_consecutive_passes_are_as_good_as_independent(num_views):
    indices = np.arange(100 * num_views**2)
    first = pass_views(indices, pass_index=0, num_views=num_views, seed=0)
    second = pass_views(indices, pass_index=1, num_views=num_views, seed=0)
    pairs = np.bincount(first * num_views + second, minlength=num_views**2)
    distinct = pairs.reshape(num_views, num_views)[~np.eye(num_views, dtype=bool)]
    assert distinct.sum() == len(indices)  # never the same view twice
    assert abs(chi_square(distinct)) < 5


def test_permutations_of_three_views_are_uniform():
    plans = [pass_views(np.arange(6000), pass_index=p, num_views=3, seed=0) for p in range(3)]
    counts = np.unique(plans[0] * 9 + plans[1] * 3 + plans[2], return_counts=True)[1]
    assert len(counts) == 6
    assert abs(chi_square(counts)) < 5


def test_plans_differ_by_seed():
    one, two = (pass_views(np.arange(500), pass_index=0, num_views=162, seed=s) for s in (0, -1))
    assert (one == two).mean() < 0.05


def test_an_epochs_order_is_a_permutation_of_its_own():
    orders = [epoch_order(5000, seed=s, epoch=e) for s, e in ((0, 0), (0, 1), (1, 0))]
    for order in orders:
        assert order.dtype == np.int64
        np.testing.assert_array_equal(np.sort(order), np.arange(5000))
    np.testing.assert_array_equal(orders[0], epoch_order(5000, seed=0, epoch=0))
    for other in (orders[1], orders[2], np.arange(5000)):
        assert (orders[0] == other).mean() < 0.01


def test_an_epochs_order_is_uniform():
    firsts = [epoch_order(10, seed=0, epoch=e)[0] for e in range(2000)]
    assert abs(chi_square(np.bincount(firsts, minlength=10))) < 5


def test_view_spaces_are_read_by_kind():
    adapter = TypeAdapter(ViewSpace)
    for space in (Identity(), CropFlip(padding=2, flip=False), RandomAugment(num_views=7, seed=2)):
        assert adapter.validate_python(space.fingerprint_fields()) == space
    with pytest.raises(ValidationError, match="crop_flip"):
        adapter.validate_python({"kind": "crop"})
    with pytest.raises(ValidationError, match="pading"):
        adapter.validate_python({"kind": "crop_flip", "pading": 4})


def test_views_import_without_torch():
    program = "import sys, distill.views; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
