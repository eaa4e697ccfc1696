from __future__ import annotations

import numpy as np

from secateur import affine


def test_symmetric_scale_maps_the_extreme_to_127() -> None:
    scale = affine.symmetric_scale([2.54, 0.0, 1e-42])
    assert scale.dtype == np.float32
    assert scale[0] == np.float32(2.54) / np.float32(127)
    assert scale[1] == scale[2] == 1.0  # empty, and too small to have a finite reciprocal


def test_asymmetric_qparams_extend_the_range_to_zero() -> None:
    scale, zero_point = affine.asymmetric_qparams([-1.0, 2.0, -3.0, 0.0], [1.55, 5.1, -0.5, 0.0])
    assert scale.dtype == np.float32
    assert zero_point.dtype == np.uint8
    np.testing.assert_array_equal(zero_point, [100, 0, 255, 0])
    np.testing.assert_allclose(scale, [0.01, 0.02, 3 / 255, 1.0], rtol=1e-6)


def test_quantize_rounds_half_to_even_and_clips() -> None:
    x = np.float32([0.5, 1.5, 2.5, -0.5, -1.5, 300.0, -300.0])
    np.testing.assert_array_equal(affine.quantize(x, 1.0, 0, -127, 127), [0, 2, 2, 0, -2, 127, -127])
    np.testing.assert_array_equal(affine.quantize(x, 1.0, 10, 0, 255), [10, 12, 12, 10, 8, 255, 0])


def test_quantize_multiplies_by_the_rounded_reciprocal() -> None:
    random = np.random.default_rng(0)
    x = random.normal(0, 3, 10_000).astype(np.float32)
    scale = np.float32(0.0237)
    inverse = np.float32(1) / scale
    expected = np.clip(np.rint(x * inverse), -127, 127)
    np.testing.assert_array_equal(affine.quantize(x, scale, 0, -127, 127), expected)


def test_a_value_on_the_grid_survives_exactly() -> None:
    q = np.arange(0, 256)
    for scale in np.float32([0.0123, 1.0, 7.5e-5, 311.0]):
        x = affine.dequantize(q, scale, 77)
        np.testing.assert_array_equal(affine.quantize(x, scale, 77, 0, 255), q)
        np.testing.assert_array_equal(affine.fake_quantize(x, scale, 77, 0, 255), x)


def test_zero_stays_zero() -> None:
    scale, zero_point = affine.asymmetric_qparams(-0.37, 1.91)
    assert affine.fake_quantize(0.0, scale, zero_point, 0, 255) == 0.0


def test_huge_values_saturate() -> None:
    x = np.float32([3e38, -3e38])
    np.testing.assert_array_equal(affine.quantize(x, 1e-6, 0, -127, 127), [127, -127])
