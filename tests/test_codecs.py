"""Codecs: what comes back, how far off it may be, and how many bytes it takes."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.codecs import codec_name, make_codec

rng = np.random.default_rng(0)
LOGITS = (4 * rng.standard_normal((64, 100))).astype(np.float32)
FEATURES = rng.standard_normal((16, 6, 4, 4)).astype(np.float32) * np.float32(3)
TOP_K = ("top10-drop", "top10-uniform", "top10-residual")
ALL = [
    ("float32", FEATURES),
    ("float16", FEATURES),
    ("int8", FEATURES),
    *((t, LOGITS) for t in TOP_K),
]


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("text", "values"), ALL)
def test_rows_have_the_stated_length_and_decode_to_the_stated_dtype_and_shape(text, values):
    codec = make_codec(text, values.shape[1:])
    rows = codec.encode(values)
    decoded = codec.decode(rows)
    assert rows.dtype == np.uint8
    assert rows.shape == (len(values), codec.row_bytes)
    assert (decoded.dtype, decoded.shape) == (codec.dtype, values.shape)
    assert np.isfinite(decoded).all()


@pytest.mark.parametrize(("text", "values"), ALL)
def test_rows_do_not_depend_on_their_neighbours(text, values):
    codec = make_codec(text, values.shape[1:])
    rows = codec.encode(values)
    order = rng.permutation(len(values))
    np.testing.assert_array_equal(codec.encode(values[order]), rows[order])
    np.testing.assert_array_equal(codec.decode(rows[order]), codec.decode(rows)[order])


@pytest.mark.parametrize(("text", "values"), ALL)
def test_equal_names_mean_equal_bytes(text, values):
    codec = make_codec(text, values.shape[1:])
    again = make_codec(codec.name, codec.shape)
    assert again == codec
    np.testing.assert_array_equal(again.encode(values), codec.encode(values))


def test_float32_is_exact_and_float16_rounds_to_nearest():
    exact, half = make_codec("float32", (6, 4, 4)), make_codec("float16", (6, 4, 4))
    np.testing.assert_array_equal(exact.decode(exact.encode(FEATURES)), FEATURES)
    np.testing.assert_array_equal(half.decode(half.encode(FEATURES)), FEATURES.astype(np.float16))
    assert exact.error(FEATURES, exact.encode(FEATURES)) == 0
    assert 0 < half.error(FEATURES, half.encode(FEATURES)) <= 2**-11


@pytest.mark.parametrize("text", ["float32", "float16"])
def test_dense_codecs_decode_without_a_copy(text):
    codec = make_codec(text, (100,))
    rows = codec.encode(LOGITS)
    assert np.shares_memory(codec.decode(rows), rows)


@pytest.mark.parametrize(("values", "levels"), [(FEATURES, 254), (np.abs(FEATURES), 510)])
def test_int8_error_is_at_most_half_a_step_of_its_own_channel(values, levels):
    codec = make_codec("int8", values.shape[1:])
    largest = np.abs(values).max(axis=(2, 3), keepdims=True)
    difference = np.abs(codec.decode(codec.encode(values)) - values)
    assert (difference <= largest / levels * 1.002).all()  # steps round up to float16
    assert difference.max() > largest.max() / levels / 10


def test_int8_scales_each_channel_by_itself():
    values = FEATURES.copy()
    values[:, 0] *= 1e4
    codec = make_codec("int8", (6, 4, 4))
    np.testing.assert_array_equal(
        codec.decode(codec.encode(values))[:, 1:], codec.decode(codec.encode(FEATURES))[:, 1:]
    )


@pytest.mark.parametrize("value", [0.0, 1e-9, -1e-9, 1e-42, 2e-5, 5.0, -5.0, 8e6])
def test_int8_survives_constant_channels(value):
    values = np.full((2, 3, 2, 2), value, np.float32)
    codec = make_codec("int8", (3, 2, 2))
    np.testing.assert_allclose(codec.decode(codec.encode(values)), values, rtol=4e-3, atol=6e-8)


@pytest.mark.parametrize("text", TOP_K)
@pytest.mark.parametrize("classes", [11, 256, 257, 1000])
def test_top_k_keeps_the_largest_logits_and_their_order(text, classes):
    logits = rng.permuted(np.tile(np.linspace(-8, 8, classes, dtype=np.float32), (9, 1)), axis=1)
    codec = make_codec(text, (classes,))
    decoded = codec.decode(codec.encode(logits))
    order = np.argsort(-logits, axis=1)[:, :10]
    kept = np.take_along_axis(decoded, order, axis=1)
    np.testing.assert_array_equal(
        kept, np.take_along_axis(logits, order, axis=1).astype(np.float16).astype(np.float32)
    )
    np.put_along_axis(decoded, order, -np.inf, axis=1)
    assert (decoded.max(axis=1) <= kept.min(axis=1)).all()


def test_residual_preserves_the_mass_of_the_tail_and_of_every_kept_class():
    codec = make_codec("top10", (100,))
    decoded = softmax(codec.decode(codec.encode(LOGITS)))
    exact = softmax(LOGITS)
    order = np.argsort(-LOGITS, axis=1)
    kept, tail = order[:, :10], order[:, 10:]
    for pick in (kept, tail):
        mass = [np.take_along_axis(p, pick, axis=1).sum(axis=1) for p in (decoded, exact)]
        np.testing.assert_allclose(*mass, rtol=0.01)  # float16 logits up to 16: 2**-8 in the log
    kept_pair = [np.take_along_axis(p, kept, axis=1) for p in (decoded, exact)]
    np.testing.assert_allclose(*kept_pair, rtol=0.02)
    assert np.ptp(np.take_along_axis(decoded, tail, axis=1), axis=1).max() == 0


def test_uniform_tail_weighs_as_much_as_the_least_kept_class():
    codec = make_codec("top10-uniform", (100,))
    ordered = -np.sort(-softmax(codec.decode(codec.encode(LOGITS))), axis=1)
    np.testing.assert_allclose(ordered[:, 10:].sum(axis=1), ordered[:, 9], rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_drop_leaves_the_tail_no_mass_at_any_temperature_in_use(temperature):
    codec = make_codec("top10-drop", (100,))
    decoded = softmax(codec.decode(codec.encode(LOGITS)), temperature)
    assert ((decoded > 1e-100).sum(axis=1) == 10).all()


def test_top_k_breaks_ties_by_class():
    logits = np.random.default_rng(5).integers(0, 2, (8, 300)).astype(np.float32)
    codec = make_codec("top20-drop", (300,))
    for decoded, row in zip(codec.decode(codec.encode(logits)), logits, strict=True):
        np.testing.assert_array_equal(np.flatnonzero(decoded > 0), np.flatnonzero(row)[:20])


def test_errors_shrink_as_codecs_keep_more():
    errors = []
    for text in ("top3", "top10", "top50", "float32"):
        codec = make_codec(text, (100,))
        errors.append(codec.error(LOGITS, codec.encode(LOGITS)))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0


def test_top_k_error_is_the_largest_change_of_a_probability():
    codec = make_codec("top10-uniform", (100,))
    rows = codec.encode(LOGITS)
    change = np.abs(softmax(codec.decode(rows)) - softmax(LOGITS)).max()
    assert codec.error(LOGITS, rows) == pytest.approx(change, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "shape", "row_bytes"),
    [
        ("float32", (100,), 400),
        ("float16", (100,), 200),
        ("float16", (64, 8, 8), 8192),
        ("int8", (64, 8, 8), 4096 + 128),
        ("int8", (64,), 64 + 2),
        ("top10", (100,), 32),
        ("top10-drop", (100,), 30),
        ("top10", (1000,), 42),
    ],
)
def test_row_bytes(text, shape, row_bytes):
    assert make_codec(text, shape).row_bytes == row_bytes


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("text", "values"), ALL)
def test_values_that_are_not_finite_are_refused_by_row(text, values, bad):
    values = values.copy()
    values[5].flat[3] = bad
    with pytest.raises(ValueError, match="row 5 is not finite"):
        make_codec(text, values.shape[1:]).encode(values)


@pytest.mark.parametrize("text", ["float16", "top10"])
def test_overflow_of_float16_names_row_value_and_remedy(text):
    values = LOGITS.copy()
    values[7, 2] = 70000
    with pytest.raises(ValueError, match=r"row 7 holds 70000, beyond .*65504; use float32"):
        make_codec(text, (100,)).encode(values)


def test_values_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\[64, 100\], not \[n, 10\]"):
        make_codec("float16", (10,)).encode(LOGITS)


@pytest.mark.parametrize("text", ["float17", "top", "top0", "top10-residul", "", "../float16"])
def test_unknown_codecs_are_answered_with_the_list(text):
    with pytest.raises(ValueError, match=r"unknown codec .*float32, float16, int8, topK-drop"):
        codec_name(text)


def test_near_miss_is_suggested():
    with pytest.raises(ValueError, match="did you mean float16"):
        make_codec("floot16", (100,))


@pytest.mark.parametrize(("text", "shape"), [("top10", (10,)), ("top10", (64, 8, 8)), ("int8", ())])
def test_shapes_that_do_not_fit_the_codec_are_refused(text, shape):
    with pytest.raises(ValueError, match="shape"):
        make_codec(text, shape)
