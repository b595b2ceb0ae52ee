from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from encoders.heads import BLOCK_ROWS, Head, HeadError, apply_head, random_head


def make_head(inputs: int = 24, units: int = 16, outputs: int = 8, seed: int = 0) -> Head:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    return Head(
        mean=draw(inputs),
        scale=np.exp(draw(inputs)),
        linear=draw(inputs, outputs),
        hidden=draw(inputs, units),
        hidden_bias=draw(units),
        output=draw(units, outputs),
        bias=draw(outputs),
    )


def test_head_follows_its_formula_and_gives_unit_vectors() -> None:
    head = make_head()
    features = np.random.default_rng(1).standard_normal((37, 24)).astype(np.float32)
    z = (features.astype(np.float64) - head.mean) / head.scale
    expected = z @ head.linear + np.maximum(z @ head.hidden + head.hidden_bias, 0) @ head.output + head.bias
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    vectors = apply_head(head, features)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_bits_of_a_row_depend_neither_on_how_many_rows_there_are_nor_on_its_neighbours() -> None:
    head = make_head(200, 64, 32)
    features = np.random.default_rng(2).standard_normal((2 * BLOCK_ROWS + 5, 200)).astype(np.float16)
    whole = apply_head(head, features)
    assert np.array_equal(whole[:1], apply_head(head, features[:1]))
    assert np.array_equal(whole[BLOCK_ROWS : BLOCK_ROWS + 700], apply_head(head, features[BLOCK_ROWS : BLOCK_ROWS + 700]))
    others = np.where(np.arange(len(features))[:, None] % 3 == 0, features, features[::-1])
    assert np.array_equal(whole[::3], apply_head(head, others)[::3])
    # In which order a processor's kernel adds up depends on the place in its tiles.
    np.testing.assert_allclose(whole[700:1900], apply_head(head, features[700:1900]), atol=1e-6)
    np.testing.assert_allclose(whole[::-1], apply_head(head, features[::-1]), atol=1e-6)


def test_a_small_block_answers_the_same_to_a_millionth() -> None:
    head = make_head()
    features = np.random.default_rng(3).standard_normal((20, 24)).astype(np.float32)
    np.testing.assert_allclose(apply_head(head, features, block=8), apply_head(head, features), atol=1e-6)


def test_no_rows_give_no_vectors() -> None:
    assert apply_head(make_head(), np.zeros((0, 24), np.float16)).shape == (0, 8)


def test_head_file_has_the_same_bytes_each_time_and_comes_back_whole(tmp_path: Path) -> None:
    head = make_head()
    head.to_npz(tmp_path / "a.npz")
    head.to_npz(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    again = Head.from_npz(tmp_path / "a.npz")
    features = np.ones((1, 24), np.float32)
    assert np.array_equal(apply_head(head, features), apply_head(again, features))
    assert (again.dimension_in, again.dimension_out) == (24, 8)


def test_cut_head_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "text.npz"
    make_head().to_npz(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(HeadError, match=r"head file '.*text\.npz' cannot be read .*: write the bundle again"):
        Head.from_npz(path)
    path.write_bytes(b"")
    with pytest.raises(HeadError, match=r"text\.npz"):
        Head.from_npz(path)
    np.savez(path, mean=np.zeros(3))
    with pytest.raises(HeadError, match="lacks the arrays scale, linear, hidden, hidden_bias, output, bias"):
        Head.from_npz(path)


def test_feature_of_another_dimension_is_refused() -> None:
    with pytest.raises(HeadError, match=r"features of shape \(3, 25\) do not fit a head for dimension 24"):
        apply_head(make_head(), np.zeros((3, 25), np.float32))


def test_feature_that_is_not_finite_is_refused_with_its_row() -> None:
    features = np.zeros((5, 24), np.float16)
    features[3, 2] = np.inf
    with pytest.raises(HeadError, match="feature in row 3 has values that are not finite"):
        apply_head(make_head(), features)


def test_arrays_that_do_not_fit_together_are_refused() -> None:
    good = make_head()
    arrays = {name: getattr(good, name) for name in ("mean", "scale", "linear", "hidden", "hidden_bias", "output")}
    with pytest.raises(HeadError, match=r"'bias' has shape \(9,\), but its other arrays ask for \(8,\)"):
        Head(**arrays, bias=np.zeros(9, np.float32))
    with pytest.raises(HeadError, match="'scale' has values that are not positive"):
        Head(**{**arrays, "scale": np.zeros(24, np.float32)}, bias=good.bias)
    with pytest.raises(HeadError, match="'bias' has values that are not finite"):
        Head(**arrays, bias=np.full(8, np.nan, np.float32))


@pytest.mark.parametrize(("inputs", "outputs"), [(8, 32), (32, 32), (400, 256)])
def test_random_head_keeps_the_order_of_similarities(inputs: int, outputs: int) -> None:
    head = random_head(inputs, outputs, seed=5)
    features = np.random.default_rng(6).standard_normal((50, inputs)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    vectors = apply_head(head, features)
    np.testing.assert_allclose(vectors @ vectors.T, features @ features.T, atol=1e-5 if outputs >= inputs else 0.3)
    assert np.array_equal(head.linear, random_head(inputs, outputs, seed=5).linear)


def test_a_gap_is_taken_away_and_what_is_left_brought_to_unit_norm(tmp_path: Path) -> None:
    features = np.random.default_rng(1).standard_normal((50, 12)).astype(np.float32)
    plain = random_head(12, 8, 0)
    gap = apply_head(plain, features).mean(axis=0)
    centred = replace(plain, gap=gap)
    left = apply_head(plain, features) - gap
    expected = left / np.linalg.norm(left, axis=1, keepdims=True)
    np.testing.assert_allclose(apply_head(centred, features), expected, atol=1e-6)
    centred.to_npz(tmp_path / "centred.npz")
    assert np.array_equal(Head.from_npz(tmp_path / "centred.npz").gap, gap)
    plain.to_npz(tmp_path / "plain.npz")
    assert Head.from_npz(tmp_path / "plain.npz").gap.size == 0
    with pytest.raises(HeadError, match=r"head array 'gap' has shape \(5,\), but its other arrays ask for \(8,\)"):
        replace(plain, gap=np.zeros(5, np.float32))


def make_whitened(share: float = 0.6, seed: int = 0) -> Head:
    rng = np.random.default_rng(seed)
    whitening, bias = rng.standard_normal((24, 5)).astype(np.float32), rng.standard_normal(5).astype(np.float32)
    return replace(make_head(), whitening=whitening, whitening_bias=bias, whitened_share=share)


def test_whitened_values_stand_beside_the_learned_ones_with_their_share() -> None:
    head, features = make_whitened(), np.random.default_rng(1).standard_normal((37, 24)).astype(np.float32)
    vectors = apply_head(head, features)
    z = (features.astype(np.float64) - head.mean) / head.scale
    whitened = z @ head.whitening + head.whitening_bias
    whitened /= np.linalg.norm(whitened, axis=1, keepdims=True)
    learned = apply_head(make_head(), features)
    np.testing.assert_allclose(vectors, np.hstack([np.sqrt(0.4) * learned, np.sqrt(0.6) * whitened]), atol=1e-5)
    wider = apply_head(make_head().widened(5), features)
    assert np.array_equal(wider, np.hstack([learned, np.zeros((37, 5), np.float32)]))
    assert head.dimension_out == make_head().widened(5).dimension_out == 13


def test_a_whitened_head_comes_back_from_its_file_and_others_are_written_as_before(tmp_path: Path) -> None:
    for number, head in enumerate((make_whitened(), make_head().widened(5), make_head())):
        head.to_npz(tmp_path / f"{number}.npz")
        read = Head.from_npz(tmp_path / f"{number}.npz")
        for name in ("whitening", "whitening_bias", "linear", "gap"):
            assert np.array_equal(getattr(read, name), getattr(head, name))
        assert read.whitened_share == head.whitened_share
    with np.load(tmp_path / "2.npz") as archive:
        assert not {"whitening", "whitening_bias", "whitened_share"} & set(archive.files)
        whole = dict(archive)
    np.savez(tmp_path / "half.npz", **whole, whitened_share=np.float64(0.5))
    with pytest.raises(HeadError, match=r"half\.npz' lacks the arrays whitening, whitening_bias: write the bundle again"):
        Head.from_npz(tmp_path / "half.npz")


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_that_leaves_one_side_nothing_is_refused(share: float) -> None:
    with pytest.raises(HeadError, match=f"head gives whitened values the share {share}: train it again"):
        make_whitened(share)
    with pytest.raises(HeadError, match=r"head gives whitened values the share 0\.5: train it again"):
        replace(make_head().widened(5), whitened_share=0.5)


def test_whitening_arrays_that_do_not_fit_are_named() -> None:
    with pytest.raises(HeadError, match=r"'whitening' has shape \(24, 5\), but its other arrays ask for \(30, 5\)"):
        replace(make_head(30), whitening=np.ones((24, 5), np.float32), whitening_bias=np.ones(5, np.float32), whitened_share=0.5)
    with pytest.raises(HeadError, match=r"'whitening_bias' has shape \(4,\), but its other arrays ask for \(5,\)"):
        replace(make_whitened(), whitening_bias=np.ones(4, np.float32))
    with pytest.raises(HeadError, match="head has 5 whitened values already"):
        make_whitened().widened(5)
