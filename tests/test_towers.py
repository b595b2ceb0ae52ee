"""Towers that run: both forms, any batch, hard texts, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from encoders.tower_spec import TowerError, TowerSpec
from encoders.towers import batches_by_length, load_tower

HARD_TEXTS = [
    "red shirt",
    "",
    "a",
    "白色运动鞋",
    "กระเป๋าหนังสีดำ",
    "👟 🔥",
    "a\0b\tc\u00a0d",
    "[CLS] don't [SEP]",
    "café CAFÉ cafe\u0301 ΑΣ",
    "word " * 100,
    "x" * 101,
    "\ud800 lone surrogate",
    " \n ",
]


def safetensors(arrays: dict[str, npt.NDArray[np.float32]]) -> bytes:
    """Write arrays in the safetensors format."""
    header: dict[str, Any] = {}
    offset = 0
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(array.tobytes() for array in arrays.values())


def tiny_bert_files(width: int = 16, wide: int = 32, layers: int = 2) -> tuple[bytes, bytes, bytes]:
    """Make a random BERT: contents of config.json, model.safetensors and tokenizer.json."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = "abcdefghijklmnopqrstuvwxyz'[]白色运动鞋กระสดำασ👟🔥"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "shirt", "word", "##ord"]
    pieces += [*letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(piece, vocabulary[piece]) for piece in ("[CLS]", "[SEP]")]
    )
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.enable_truncation(128)
    tokenizer.enable_padding(length=128)

    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(vocabulary), width),
        "embeddings.position_embeddings.weight": (64, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm": (width,),
    }
    for layer in range(layers):
        name = f"encoder.layer.{layer}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes[f"{name}.attention.{part}"] = (width, width)
        shapes[f"{name}.attention.output.LayerNorm"] = (width,)
        shapes[f"{name}.intermediate.dense"] = (wide, width)
        shapes[f"{name}.output.dense"] = (width, wide)
        shapes[f"{name}.output.LayerNorm"] = (width,)
    arrays = {}
    for name, shape in shapes.items():
        weight = name if name.endswith("weight") else f"{name}.weight"
        arrays[weight] = rng.normal(0, 1, shape).astype(np.float32)
        if weight != name:
            arrays[f"{name}.bias"] = rng.normal(0, 0.3, shape[:1]).astype(np.float32)
    config = {"num_hidden_layers": layers, "num_attention_heads": 4, "layer_norm_eps": 1e-12}
    return json.dumps(config).encode(), safetensors(arrays), tokenizer.to_str().encode()


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a tiny random BERT as a tower with both forms, cut at 32 tokens."""
    from encoders.bert import text_network
    from encoders.presets import write_text_tower

    folder = tmp_path_factory.mktemp("bert")
    write_text_tower("tiny bert", text_network(*tiny_bert_files(), token_limit=32), folder)
    return folder


@pytest.fixture(scope="module")
def pictures() -> npt.NDArray[np.uint8]:
    """Draw 11 random pictures of the tiny tower's size."""
    return np.random.default_rng(3).integers(0, 256, (11, 16, 16, 3), dtype=np.uint8)


def test_a_specification_survives_json(bert: Path) -> None:
    spec = TowerSpec(
        "package:x", "text", 512, "ab", None, 512, 32, "sentencepiece", ("litert", "saved_model")
    )
    assert TowerSpec.from_json(spec.to_json()) == spec
    assert load_tower(bert).spec == TowerSpec.from_json((bert / "tower.json").read_text())


@pytest.mark.parametrize("text", ["{}", "[]", '{"spec": "x", "modality": "text", "colour": 1}'])
def test_a_specification_with_other_fields_is_refused(text: str) -> None:
    with pytest.raises(TowerError, match=r"^tower\.json does not have the fields \['batch', .*: build the"):
        TowerSpec.from_json(text)


def test_a_specification_that_is_not_json_is_refused() -> None:
    with pytest.raises(TowerError, match=r"^tower\.json is not JSON \(.*\): build the tower again$"):
        TowerSpec.from_json("{")


def test_a_folder_without_a_tower_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TowerError, match=rf"^{tmp_path} holds no tower\.json: build a tower there first$"):
        load_tower(tmp_path)


def test_a_form_that_is_not_there_is_refused(tiny_towers: dict[str, Path]) -> None:
    with pytest.raises(TowerError, match=r"has no form 'litert' in .* \(forms: saved_model\)$"):
        load_tower(tiny_towers["text"], "litert")


def test_litert_is_the_default_form_where_there_is_one(tiny_towers: dict[str, Path]) -> None:
    assert load_tower(tiny_towers["picture"]).form == "litert"
    assert load_tower(tiny_towers["text"]).form == "saved_model"


def test_a_picture_has_the_same_bits_in_any_batch_on_any_threads(
    tiny_towers: dict[str, Path], pictures: npt.NDArray[np.uint8]
) -> None:
    tower = load_tower(tiny_towers["picture"], threads=1)
    together = tower.encode(pictures)
    alone = np.concatenate([tower.encode(picture[None]) for picture in pictures])
    assert together.shape == (11, tower.spec.dimension)
    assert together.dtype == np.float32
    np.testing.assert_array_equal(alone, together)
    np.testing.assert_array_equal(tower.encode(pictures[::-1])[::-1], together)
    np.testing.assert_array_equal(load_tower(tiny_towers["picture"], threads=2).encode(pictures), together)


def test_both_forms_agree_on_pictures(tiny_towers: dict[str, Path], pictures: npt.NDArray[np.uint8]) -> None:
    litert, saved_model = (load_tower(tiny_towers["picture"], form) for form in ("litert", "saved_model"))
    np.testing.assert_allclose(litert.encode(pictures), saved_model.encode(pictures), rtol=1e-5, atol=1e-5)
    many = np.concatenate([pictures] * 4)
    assert len(many) > saved_model.spec.batch
    np.testing.assert_allclose(saved_model.encode(many)[:11], saved_model.encode(pictures), rtol=1e-6)


@pytest.mark.parametrize("form", ["litert", "saved_model"])
def test_no_items_give_no_features(tiny_towers: dict[str, Path], bert: Path, form: str) -> None:
    assert load_tower(tiny_towers["picture"], form).encode(np.zeros((0, 16, 16, 3), np.uint8)).shape == (
        0,
        24,
    )
    assert load_tower(bert, form).encode([]).shape == (0, 16)


def test_pictures_of_another_size_or_type_are_refused(tiny_towers: dict[str, Path]) -> None:
    tower = load_tower(tiny_towers["picture"])
    message = r"^pictures are {}, but saved-model:.* takes uint8\[B, 16, 16, 3\]: decode them to side 16$"
    with pytest.raises(TowerError, match=message.format(r"uint8\[1, 17, 16, 3\]")):
        tower.encode(np.zeros((1, 17, 16, 3), np.uint8))
    with pytest.raises(TowerError, match=message.format(r"float32\[1, 16, 16, 3\]")):
        tower.encode(np.zeros((1, 16, 16, 3), np.float32))
    with pytest.raises(TowerError, match=message.format(r"uint8\[16, 16, 3\]")):
        tower.encode(np.zeros((16, 16, 3), np.uint8))


def test_a_text_has_the_same_bits_in_any_batch_on_any_threads(bert: Path) -> None:
    tower = load_tower(bert, threads=1)
    together = tower.encode(HARD_TEXTS)
    np.testing.assert_array_equal(np.concatenate([tower.encode([text]) for text in HARD_TEXTS]), together)
    np.testing.assert_array_equal(tower.encode(HARD_TEXTS[::-1] * 5)[: len(HARD_TEXTS)][::-1], together)
    np.testing.assert_array_equal(load_tower(bert, threads=2).encode(HARD_TEXTS), together)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_both_forms_agree_on_hard_texts(bert: Path) -> None:
    litert, saved_model = (load_tower(bert, form) for form in ("litert", "saved_model"))
    np.testing.assert_allclose(litert.encode(HARD_TEXTS), saved_model.encode(HARD_TEXTS), atol=2e-5)
    distinct = litert.encode(["red shirt", "白色", "กระ", "👟"])
    assert (distinct @ distinct.T - np.eye(4)).max() < 0.999


@pytest.mark.parametrize("form", ["litert", "saved_model"])
def test_texts_over_the_limit_are_cut_and_counted(bert: Path, form: str) -> None:
    tower = load_tower(bert, form)
    fits, over = "word " * 30, "word " * 31
    whole, cut = tower.encode([fits, over])
    np.testing.assert_allclose(whole, cut, atol=1e-5)
    assert tower.truncated == 1
    tower.encode([over, "red", over])
    assert tower.truncated == 3
    # The end of the text is kept, as the model was trained with it.
    cut, longer = tower.encode([over, "word " * 500])
    np.testing.assert_allclose(cut, longer, atol=1e-6)


def test_batches_hold_like_lengths_within_the_limits() -> None:
    lengths = np.random.default_rng(0).integers(1, 513, 1000)
    batches = list(batches_by_length(lengths, 32, 8192))
    np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(1000))
    assert max(len(rows) for rows in batches) == 32
    assert max(len(rows) * lengths[rows].max() for rows in batches) <= 8192
    assert [rows.tolist() for rows in batches_by_length(np.array([9, 2, 9]), 8, 4)] == [[1], [0], [2]]


def test_several_threads_may_share_a_tower(bert: Path) -> None:
    tower = load_tower(bert)
    texts = [f"red shirt {'abc'[i % 3]} {'x' * i}" for i in range(40)]
    expected = np.concatenate([tower.encode(texts[i : i + 10]) for i in range(0, 40, 10)])
    found: dict[int, npt.NDArray[np.float32]] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.__setitem__(i, tower.encode(texts[i : i + 10])))
        for i in range(0, 40, 10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(np.concatenate([found[i] for i in range(0, 40, 10)]), expected)
    np.testing.assert_allclose(tower.encode(texts), expected, atol=1e-6)


def test_a_feature_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    class Logarithm(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.uint8)])
        def __call__(self, pictures: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"features": tf.math.log(tf.cast(pictures[:, 0, 0], tf.float32))}

    module = Logarithm()
    tf.saved_model.save(module, str(tmp_path / "saved_model"), signatures=module.__call__)
    spec = TowerSpec("saved-model:log", "picture", 3, "00", 8, None, 4, None, ("saved_model",))
    (tmp_path / "tower.json").write_text(spec.to_json())
    pictures = np.full((6, 8, 8, 3), 7, np.uint8)
    np.testing.assert_allclose(load_tower(tmp_path).encode(pictures), np.log(7), rtol=1e-6)
    pictures[5] = 0
    with pytest.raises(
        TowerError, match=r"^the feature of item 5 by saved-model:log is not finite: check its"
    ):
        load_tower(tmp_path).encode(pictures)


def test_an_unknown_tokenizer_is_refused(bert: Path, tmp_path: Path) -> None:
    spec = replace(load_tower(bert).spec, tokenizer="spaces")
    (tmp_path / "tower.json").write_text(spec.to_json())
    (tmp_path / "model.tflite").symlink_to(bert / "model.tflite")
    with pytest.raises(
        TowerError, match=r"^tiny bert names the tokenizer 'spaces', which is unknown: build the"
    ):
        load_tower(tmp_path)


BLOCKED = """
import sys
from pathlib import Path
for name in sys.argv[2].split(","):
    sys.modules[name] = None
from encoders.towers import load_tower
try:
    print(load_tower(Path(sys.argv[1]), sys.argv[3]).encode(["red shirt", "白色"]).shape)
except ModuleNotFoundError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("blocked", "form", "printed"),
    [
        ("tensorflow,keras,apache_beam,sentencepiece,PIL", "litert", "(2, 16)"),
        (
            "tensorflow",
            "saved_model",
            "the package 'tensorflow' is not installed: pip install 'catalogue-index[pipelines]'",
        ),
        (
            "ai_edge_litert",
            "litert",
            "the package 'ai-edge-litert' is not installed: pip install 'catalogue-index[query]'",
        ),
        (
            "tokenizers",
            "litert",
            "the package 'tokenizers' is not installed: pip install 'catalogue-index[query]'",
        ),
    ],
)
def test_what_is_missing_is_named_and_litert_needs_no_tensorflow(
    bert: Path, blocked: str, form: str, printed: str
) -> None:
    command = [sys.executable, "-c", BLOCKED, str(bert), blocked, form]
    root = Path(__file__).parents[1]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert finished.stdout.strip() == printed
