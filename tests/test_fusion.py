from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoders.fusion import Fusion, FusionError, FusionKind
from encoders.gate import Gate, GateError

KINDS: tuple[FusionKind, ...] = ("concatenation", "weighted_sum", "mean", "max")
ROWS, D = 40, 6
WEIGHTS_OF_GATE = {"picture": 0.5, "text": 0.5}


def unit(array: np.ndarray) -> np.ndarray:
    return np.asarray(array / np.linalg.norm(array, axis=-1, keepdims=True), np.float32)


@pytest.fixture
def vectors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: unit(rng.standard_normal((ROWS, D))) for name in ("picture", "text")}


@pytest.fixture
def present() -> dict[str, np.ndarray]:
    picture, text = np.ones(ROWS, bool), np.ones(ROWS, bool)
    picture[:10], text[5:15] = False, False  # rows 5 to 9 have neither
    return {"picture": picture, "text": text}


WEIGHTS = {"picture": 0.3, "text": 0.7}


def expected_row(kind: str, parts: dict[str, np.ndarray]) -> np.ndarray:
    if kind == "concatenation":
        return np.concatenate([np.sqrt(WEIGHTS[m]) * parts.get(m, np.zeros(D)) for m in WEIGHTS])
    if kind == "weighted_sum":
        total = np.sum([WEIGHTS[m] * v for m, v in parts.items()], axis=0)
        return np.asarray(total / sum(WEIGHTS[m] for m in parts))
    stacked = np.stack(list(parts.values()))
    return np.asarray(stacked.mean(axis=0) if kind == "mean" else stacked.max(axis=0))


@pytest.mark.parametrize("kind", KINDS)
def test_fused_rows_follow_the_formula_with_any_modality_missing(
    kind: FusionKind, vectors: dict[str, np.ndarray], present: dict[str, np.ndarray]
) -> None:
    for name, array in vectors.items():
        array[~present[name]] = np.nan  # what stands in a missing row is never looked at
    fusion = Fusion(kind, WEIGHTS)
    fused = fusion.fuse(vectors, present)
    assert fused.dtype == np.float32
    assert fused.shape == (ROWS, fusion.dimension(D))
    for row in range(ROWS):
        parts = {m: vectors[m][row] for m in WEIGHTS if present[m][row]}
        if parts:
            np.testing.assert_allclose(fused[row], unit(expected_row(kind, parts)), atol=1e-6)
        else:
            assert not fused[row].any()


def test_text_query_ranks_by_the_weighted_sum_of_similarities_in_a_concatenation(
    vectors: dict[str, np.ndarray], present: dict[str, np.ndarray]
) -> None:
    fusion = Fusion("concatenation", WEIGHTS)
    query = unit(np.random.default_rng(1).standard_normal((3, D)))
    scores = fusion.query({"text": query}, {}) @ fusion.fuse(vectors, present).T
    similarity = {m: np.where(present[m], query @ vectors[m].T, 0) for m in WEIGHTS}
    weighted = np.sum([WEIGHTS[m] * similarity[m] for m in WEIGHTS], axis=0)
    share = np.sum([WEIGHTS[m] * present[m] for m in WEIGHTS], axis=0)  # the renormalisation for missing modalities
    np.testing.assert_allclose(scores, weighted / np.sqrt(np.where(share == 0, 1, share)), atol=1e-6)
    whole = present["picture"] & present["text"]
    assert np.array_equal(np.argsort(-scores[:, whole]), np.argsort(-weighted[:, whole]))


@pytest.mark.parametrize("kind", ["weighted_sum", "mean", "max"])
def test_text_query_stands_as_it_is_in_a_space_of_its_own_dimension(
    kind: FusionKind,
) -> None:
    query = unit(np.random.default_rng(2).standard_normal((3, D)))
    np.testing.assert_allclose(Fusion(kind, WEIGHTS).query({"text": query}, {}), query, atol=1e-6)


@pytest.mark.parametrize("kind", ["weighted_sum", "mean", "max"])
def test_query_with_a_product_s_text_and_picture_equals_the_product(
    kind: FusionKind, vectors: dict[str, np.ndarray], present: dict[str, np.ndarray]
) -> None:
    fusion = Fusion(kind, WEIGHTS)
    np.testing.assert_allclose(fusion.query(vectors, present), fusion.fuse(vectors, present), atol=1e-6)


def test_query_with_text_and_picture_compares_their_weighted_sum_with_both_modalities(
    vectors: dict[str, np.ndarray],
) -> None:
    fusion = Fusion("concatenation", WEIGHTS)
    pooled = unit(np.sum([WEIGHTS[m] * vectors[m] for m in WEIGHTS], axis=0))
    expected = np.concatenate([np.sqrt(0.3) * pooled, np.sqrt(0.7) * pooled], axis=1)
    np.testing.assert_allclose(fusion.query(vectors, {}), expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_text_finds_pictures_where_products_are_fused_from_pictures_alone(
    kind: FusionKind, vectors: dict[str, np.ndarray], present: dict[str, np.ndarray]
) -> None:
    fusion = Fusion(kind, {"picture": 1, "text": 0})
    assert fusion.modalities == ("picture",)
    assert fusion.dimension(D) == D
    fused = fusion.fuse(vectors, {})
    np.testing.assert_allclose(fused, vectors["picture"], atol=1e-6)
    np.testing.assert_allclose(fusion.query({"text": vectors["text"]}, {}), vectors["text"], atol=1e-6)
    mixed = fusion.query(vectors, present)
    expected = np.where(present["picture"][:, None], vectors["picture"], vectors["text"])
    np.testing.assert_allclose(mixed, np.where((present["picture"] | present["text"])[:, None], expected, 0), atol=1e-6)


def test_catalogue_without_pictures_fuses_its_texts(vectors: dict[str, np.ndarray]) -> None:
    fused = Fusion("concatenation", WEIGHTS).fuse({"text": vectors["text"]}, {})
    np.testing.assert_allclose(fused, np.concatenate([np.zeros((ROWS, D)), vectors["text"]], axis=1), atol=1e-6)


def test_weight_zero_adds_no_dimensions() -> None:
    assert Fusion("concatenation", {"picture": 1, "text": 2, "structured": 0}).dimension(256) == 512
    assert Fusion("mean", {"picture": 1, "text": 2}).dimension(256) == 256


SHARE, S = 0.3, 5


@pytest.fixture
def structured() -> np.ndarray:
    return unit(np.random.default_rng(3).standard_normal((ROWS, S)))


def with_share(kind: FusionKind, share: float = SHARE) -> Fusion:
    return Fusion(kind, {**WEIGHTS, "structured": share}, S)


@pytest.mark.parametrize("kind", KINDS)
def test_structured_features_stand_beside_the_fused_vector_by_their_share(
    kind: FusionKind, vectors: dict[str, np.ndarray], present: dict[str, np.ndarray], structured: np.ndarray
) -> None:
    fusion = with_share(kind)
    assert fusion.modalities == ("picture", "text")
    assert fusion.dimension(D) == Fusion(kind, WEIGHTS).dimension(D) + S
    fused = fusion.fuse(vectors, present, structured)
    assert fused.dtype == np.float32
    z = Fusion(kind, WEIGHTS).fuse(vectors, present)
    there = present["picture"] | present["text"]
    expected = np.hstack([np.sqrt(1 - SHARE) * z, np.sqrt(SHARE) * structured])
    np.testing.assert_allclose(fused[there], expected[there], atol=1e-6)
    assert not fused[~there].any()
    similarity = (1 - SHARE) * z @ z.T + SHARE * structured @ structured.T
    np.testing.assert_allclose((fused @ fused.T)[there][:, there], similarity[there][:, there], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_queries_rank_as_without_structured_features(
    kind: FusionKind, vectors: dict[str, np.ndarray], present: dict[str, np.ndarray], structured: np.ndarray
) -> None:
    plain, fusion = Fusion(kind, WEIGHTS), with_share(kind)
    query = fusion.query(vectors, present)
    assert query.dtype == np.float32
    np.testing.assert_array_equal(query[:, :-S], plain.query(vectors, present))
    assert not query[:, -S:].any()
    before = plain.query(vectors, present) @ plain.fuse(vectors, present).T
    after = query @ fusion.fuse(vectors, present, structured).T
    np.testing.assert_allclose(after, np.sqrt(1 - SHARE) * before, atol=1e-6)


def test_a_share_of_zero_is_none_at_all(vectors: dict[str, np.ndarray], structured: np.ndarray) -> None:
    plain, fusion = Fusion("mean", WEIGHTS), with_share("mean", 0)
    assert fusion == plain
    assert fusion.to_json() == plain.to_json() == {"kind": "mean", "weights": WEIGHTS}
    np.testing.assert_array_equal(fusion.fuse(vectors, {}, structured), plain.fuse(vectors, {}))


def test_a_share_survives_json() -> None:
    fusion = with_share("concatenation")
    assert fusion.to_json()["structured_dimension"] == S
    again = Fusion.from_json(json.loads(json.dumps(fusion.to_json())))
    assert again == fusion == pickle.loads(pickle.dumps(fusion))
    assert (again.structured_weight, again.structured_dimension) == (SHARE, S)


def test_structured_features_of_another_shape_are_refused(vectors: dict[str, np.ndarray], structured: np.ndarray) -> None:
    for wrong in (None, structured[:, :2], structured[:3]):
        with pytest.raises(FusionError, match=r"structured features have shape \(.*\); the fusion takes \(40, 5\)"):
            with_share("mean").fuse(vectors, {}, wrong)


def test_settings_survive_json_and_pickle_with_the_order_of_weights() -> None:
    fusion = Fusion("concatenation", {"text": 0.5, "picture": 1})
    again = Fusion.from_json(json.loads(json.dumps(fusion.to_json())))
    assert again == fusion == pickle.loads(pickle.dumps(fusion))
    assert again.modalities == ("text", "picture")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"kind": "sum", "weights": {"text": 1}},
            "unknown fusion 'sum': choose one of concatenation, weighted_sum",
        ),
        (
            {"kind": "mean", "weights": {"text": -1}},
            "fusion weight -1.0 of 'text' is not a finite number of 0 or more",
        ),
        ({"kind": "mean", "weights": {"text": 0}}, "no modality has a fusion weight above 0"),
        ({"kind": "mean"}, "need 'kind' and 'weights'"),
        (
            {"kind": "mean", "weights": {"text": 1, "structured": 1}, "structured_dimension": 5},
            "fusion weight 1.0 of 'structured' is not below 1: it is a share of the whole",
        ),
        (
            {"kind": "mean", "weights": {"text": 1, "structured": 0.2}},
            "'structured' has the fusion weight 0.2, but there are no such features",
        ),
        (
            {"kind": "mean", "weights": {"text": 0, "structured": 0.2}, "structured_dimension": 5},
            "no modality has a fusion weight above 0",
        ),
    ],
)
def test_wrong_settings_are_refused(value: dict[str, Any], message: str) -> None:
    with pytest.raises(FusionError, match=message):
        Fusion.from_json(value)


def test_vectors_of_different_shapes_are_refused(vectors: dict[str, np.ndarray]) -> None:
    fusion = Fusion("mean", WEIGHTS)
    with pytest.raises(FusionError, match=r"need one shape \[N, d\] in all modalities"):
        fusion.fuse({"picture": vectors["picture"], "text": vectors["text"][:, :3]}, {})
    with pytest.raises(FusionError, match=r"presence of 'text' has shape \(3,\) for 40 vectors"):
        fusion.fuse(vectors, {"text": np.ones(3, bool)})


def gate(seed: int = 0, **changes: Any) -> Gate:
    rng = np.random.default_rng(seed)
    given = {"modalities": ("picture", "text"), "hidden": rng.standard_normal((2 * D + 2, 5)),
             "hidden_bias": rng.standard_normal(5), "output": rng.standard_normal((5, 2)),
             "bias": rng.standard_normal(2)}  # fmt: skip
    return Gate(**{**given, **changes})


def test_attention_is_the_sum_by_the_weights_of_each_product(
    vectors: dict[str, np.ndarray], present: dict[str, np.ndarray]
) -> None:
    fusion = Fusion("attention", WEIGHTS_OF_GATE, gate=gate())
    masked = {name: (np.where(present[name][:, None], array, 0), present[name]) for name, array in vectors.items()}
    shares = gate().weigh(masked, ROWS)
    there = np.stack([present["picture"], present["text"]], axis=1)
    np.testing.assert_allclose(shares.sum(axis=1), there.any(axis=1), atol=1e-6)
    assert (shares[~there] == 0).all()
    assert shares[there.all(axis=1), 0].std() > 0.01
    total = sum(shares[:, [n]] * masked[name][0] for n, name in enumerate(("picture", "text")))
    norms = np.linalg.norm(total, axis=1, keepdims=True)
    expected = np.divide(total, norms, out=np.zeros_like(total), where=norms > 0)
    np.testing.assert_allclose(fusion.fuse(vectors, present), expected, atol=1e-6)


def test_a_query_of_one_modality_is_itself_by_attention_and_of_both_is_weighed(vectors: dict[str, np.ndarray]) -> None:
    fusion = Fusion("attention", WEIGHTS_OF_GATE, gate=gate())
    for name in vectors:
        np.testing.assert_allclose(fusion.query({name: vectors[name]}, {}), vectors[name], atol=1e-6)
    np.testing.assert_allclose(fusion.query(vectors, {}), fusion.fuse(vectors, {}), atol=1e-6)


def test_attention_without_a_gate_and_gates_that_do_not_fit_are_refused(
    vectors: dict[str, np.ndarray], tmp_path: Path
) -> None:
    with pytest.raises(FusionError, match="fusion by attention needs a gate, which is trained: train --fusion attention"):
        Fusion("attention", WEIGHTS_OF_GATE).fuse(vectors, {})
    with pytest.raises(GateError, match=r"gate arrays of shapes .* do not fit 2 modalities: train it again"):
        gate(bias=np.zeros(3))
    with pytest.raises(GateError, match="gate array 'bias' has values that are not finite: train it again"):
        gate(bias=np.array([0, np.nan]))
    other = {name: np.ones((3, D + 1), np.float32) for name in vectors}
    with pytest.raises(GateError, match=f"the gate weighs vectors of dimension {D}: train it with these heads"):
        Fusion("attention", WEIGHTS_OF_GATE, gate=gate()).fuse(other, {})
    gate().to_npz(tmp_path / "fusion.npz")
    assert Gate.from_npz(tmp_path / "fusion.npz") == gate()
    assert Gate.from_npz(tmp_path / "fusion.npz") != gate(seed=1)
    (tmp_path / "fusion.npz").write_bytes(b"no")
    with pytest.raises(GateError, match=r"gate file '.*fusion.npz' cannot be read .*: write the bundle again"):
        Gate.from_npz(tmp_path / "fusion.npz")


def test_a_concatenation_is_taken_apart_into_what_it_was_made_of(
    vectors: dict[str, np.ndarray], present: dict[str, np.ndarray]
) -> None:
    structured = unit(np.random.default_rng(3).standard_normal((ROWS, 4)))
    fusion = Fusion("concatenation", WEIGHTS | {"structured": 0.2}, 4)
    assert fusion.keeps(("text", "picture"))
    assert not fusion.keeps(("text", "smell"))
    assert not Fusion("mean", WEIGHTS).keeps(("text", "picture"))
    assert not Fusion("concatenation", {"picture": 1, "text": 0}).keeps(("text", "picture"))
    apart, there, kept = fusion.split(fusion.fuse(vectors, present, structured))
    some = present["picture"] | present["text"]
    assert np.allclose(kept[some], structured[some], atol=1e-6)
    for name, array in vectors.items():
        assert np.array_equal(there[name], present[name])
        assert np.allclose(apart[name], array * present[name][:, None], atol=1e-6)


def test_a_query_of_other_weights_is_carried_to_a_concatenation(vectors: dict[str, np.ndarray]) -> None:
    """Products that have all modalities are ranked as the other concatenation ranks them."""
    structured = unit(np.random.default_rng(3).standard_normal((ROWS, 4)))
    fusion = Fusion("concatenation", WEIGHTS | {"structured": 0.2}, 4)
    for weights in ({"text": 0.1, "picture": 0.9}, {"text": 2.0}, {"picture": 3, "text": 1, "structured": 0.6}):
        other = Fusion("concatenation", weights, 4)
        queries = other.fuse({name: array[:5] for name, array in vectors.items()}, {}, structured[:5])
        expected = queries @ other.fuse(vectors, {}, structured).T
        found = fusion.carry(queries, other) @ fusion.fuse(vectors, {}, structured).T
        factor = (found * expected).sum(axis=1, keepdims=True) / (expected * expected).sum(axis=1, keepdims=True)
        assert np.allclose(found, factor * expected, atol=1e-5)


def test_a_query_by_what_a_concatenation_does_not_hold_is_compared_with_all_it_holds(vectors: dict[str, np.ndarray]) -> None:
    other = Fusion("concatenation", {"text": 1})
    query = other.query({"text": vectors["text"]}, {})
    assert np.allclose(Fusion("concatenation", {"picture": 1}).carry(query, other), vectors["text"], atol=1e-6)


@pytest.mark.parametrize("kind", ["weighted_sum", "mean", "max"])
def test_a_query_of_other_weights_is_carried_to_a_sum(kind: FusionKind, vectors: dict[str, np.ndarray]) -> None:
    other = Fusion("concatenation", {"text": 0.2, "picture": 0.8})
    query = other.fuse(vectors, {})
    expected = unit(0.2 * vectors["text"] + 0.8 * vectors["picture"])
    assert np.allclose(Fusion(kind, WEIGHTS).carry(query, other), expected, atol=1e-6)


def test_fusions_that_do_not_weigh_have_no_weights_of_queries() -> None:
    with pytest.raises(FusionError, match=r"^a fusion by mean has no weights, so queries have none of their own$"):
        Fusion("mean", WEIGHTS, query_weights={"text": {"text": 1.0}})
    for bad in ({"product": {"text": 1.0}}, {"text": {"smell": 1.0}}):
        with pytest.raises(FusionError, match=r"of queries by (product|text): they are of picture, text, by text or picture$"):
            Fusion("weighted_sum", WEIGHTS, query_weights=bad)
    with pytest.raises(FusionError, match=r"^fusion weight -1.0 of 'text' is not a finite number of 0 or more$"):
        Fusion("weighted_sum", WEIGHTS, query_weights={"text": {"text": -1}})
