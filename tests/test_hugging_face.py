"""Hugging Face's folders as towers: the answers of the original implementation, both layouts, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras_hub
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from conftest import least_cosine
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from encoders import bert, clip, hugging_face
from encoders.hugging_face import Folder
from encoders.presets import build_tower
from encoders.sources import load_picture_network, load_text_network, read_source
from encoders.tower_spec import Decoding, TowerError
from encoders.towers import load_tower
from encoders.weights import WeightsError
from transforms.decode import decode_picture

Arrays = dict[str, npt.NDArray[np.float32]]


@pytest.fixture(scope="module")
def golden(real_data: Path) -> Path:
    """Return the folder of tiny random models with the answers of `transformers`."""
    return real_data / "golden"


def decoded(golden: Path, side: int, decoding: Decoding) -> npt.NDArray[np.uint8]:
    """Decode the pictures that the answers are for."""
    files = [golden / "image0.png", golden / "image1.png"]
    return np.stack([decode_picture(path.read_bytes(), side, **asdict(decoding)) for path in files])


def copy_model(source: Path, target: Path) -> Path:
    """Copy a model's folder, to be changed."""
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    target.chmod(0o755)
    return target


def rewrite_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None takes one away."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize(
    ("name", "decoding"),
    [
        ("clip", Decoding("crop")),
        ("siglip", Decoding("stretch")),
        ("vit", Decoding("stretch", "bilinear")),
        ("dinov2", Decoding("crop")),
    ],
)
def test_pictures_get_the_vectors_of_the_original_from_their_files(name: str, decoding: Decoding, golden: Path) -> None:
    network = hugging_face.picture_network(str(golden / name), {})
    assert (network.side, network.decoding) == (64, decoding)
    expected = np.load(golden / name / "expected.npz")
    answers = expected["image"] if "image" in expected.files else expected["hidden"][:, 0]
    pixels = decoded(golden, network.side, network.decoding)
    found = network.features(tf.constant(pixels)).numpy()
    assert least_cosine(found, answers) > 0.99999
    # Prepared otherwise they would not: the test sees what it is to see.
    other = decoded(golden, network.side, Decoding("pad"))
    assert least_cosine(network.features(tf.constant(other)).numpy(), answers) < 0.9999


def test_texts_get_the_vectors_of_the_original(golden: Path) -> None:
    expected = np.load(golden / "bert" / "expected.npz")
    network = hugging_face.text_network(str(golden / "bert"), {})
    assert network.token_limit == 64
    encodings = Tokenizer.from_str(network.tokenizer_file.decode()).encode_batch(expected["texts"].tolist())
    lengths = np.array([len(encoding.ids) for encoding in encodings], np.int32)
    np.testing.assert_array_equal(lengths, expected["attention_mask"].sum(1))
    ids = expected["input_ids"].astype(np.int32)
    assert least_cosine(network.features(network.weights, ids, lengths).numpy(), expected["embedding"]) > 0.999999


def test_siglips_texts_get_the_vectors_of_the_original_whatever_stands_in_the_padding(golden: Path) -> None:
    expected = np.load(golden / "siglip" / "expected.npz")
    ids = expected["input_ids"].astype(np.int32)
    _, features = clip.siglip_text_features(clip.read_side(Folder.open(str(golden / "siglip")), "text"), 1, begun=False)
    whole = np.full(len(ids), 16, np.int32)
    assert least_cosine(features(tf.constant(ids), tf.constant(whole)).numpy(), expected["text"]) > 0.999999
    short = features(tf.constant(ids[:, :5]), tf.constant(whole * 0 + 4)).numpy()
    filled = np.where(np.arange(16) < 4, ids, 1)
    np.testing.assert_allclose(short, features(tf.constant(filled), tf.constant(whole)).numpy(), atol=1e-6)
    _, begun = clip.siglip_text_features(clip.read_side(Folder.open(str(golden / "siglip")), "text"), 1, begun=True)
    later = np.concatenate([np.full((len(ids), 1), 7, np.int32), ids], 1)
    np.testing.assert_allclose(
        begun(tf.constant(later), tf.constant(whole + 1)).numpy(), features(tf.constant(ids), tf.constant(whole)).numpy(),
        atol=1e-6,
    )  # fmt: skip


def as_open_clip(arrays: Mapping[str, npt.NDArray[Any]], siglip: bool) -> Arrays:
    """Name weights as open_clip does, from how `transformers` names them."""
    given: Arrays = {}
    trunk, text = ("visual.trunk", "text.") if siglip else ("visual", "")
    vision = {"vision_model.embeddings.class_embedding": "visual.class_embedding",
              "vision_model.embeddings.patch_embedding": f"{trunk}.patch_embed.proj" if siglip else "visual.conv1",
              "vision_model.embeddings.position_embedding.weight": f"{trunk}.{'pos_embed' if siglip else 'positional_embedding'}",
              "vision_model.pre_layrnorm": "visual.ln_pre",
              "vision_model.post_layernorm": f"{trunk}.{'norm' if siglip else 'ln_post'}"}  # fmt: skip
    words = {"text_model.embeddings.token_embedding": f"{text}token_embedding",
             "text_model.embeddings.position_embedding.weight": f"{text}positional_embedding",
             "text_model.final_layer_norm": f"{text}ln_final"}  # fmt: skip
    for name, array in arrays.items():
        for ours, theirs in (vision | words).items():
            if name.startswith(ours):
                given[name.replace(ours, theirs)] = array[None] if name.endswith("position_embedding.weight") and (
                    siglip and "vision" in name) else array  # fmt: skip
    for side, blocks, layout in (
        ("vision_model", f"{trunk}.blocks" if siglip else "visual.transformer.resblocks", "timm" if siglip else "clip"),
        ("text_model", f"{text}transformer.resblocks", "clip"),
    ):
        for number in range(2):
            for part in ("weight", "bias"):
                old, new = f"{side}.encoder.layers.{number}", f"{blocks}.{number}"
                joined = np.concatenate([arrays[f"{old}.self_attn.{letter}_proj.{part}"] for letter in "qkv"])
                clips = layout == "clip"
                given[f"{new}.attn.in_proj_{part}" if clips else f"{new}.attn.qkv.{part}"] = joined
                out = "out_proj" if clips else "proj"
                given[f"{new}.attn.{out}.{part}"] = arrays[f"{old}.self_attn.out_proj.{part}"]
                for ours, theirs in (("layer_norm1", "ln_1" if clips else "norm1"), ("layer_norm2", "ln_2" if clips else "norm2"),
                                     ("mlp.fc1", "mlp.c_fc" if clips else "mlp.fc1"),
                                     ("mlp.fc2", "mlp.c_proj" if clips else "mlp.fc2")):  # fmt: skip
                    given[f"{new}.{theirs}.{part}"] = arrays[f"{old}.{ours}.{part}"]
    if not siglip:
        given["visual.proj"] = arrays["visual_projection.weight"].T
        given["text_projection"] = arrays["text_projection.weight"].T
        return {name: np.ascontiguousarray(array) for name, array in given.items()}
    for part in ("weight", "bias"):
        query, key, value = np.split(arrays[f"vision_model.head.attention.in_proj_{part}"], 3)
        given[f"{trunk}.attn_pool.q.{part}"], given[f"{trunk}.attn_pool.kv.{part}"] = query, np.concatenate([key, value])
        for ours, theirs in (("attention.out_proj", "proj"), ("layernorm", "norm"), ("mlp.fc1", "mlp.fc1"),
                             ("mlp.fc2", "mlp.fc2")):  # fmt: skip
            given[f"{trunk}.attn_pool.{theirs}.{part}"] = arrays[f"vision_model.head.{ours}.{part}"]
        given[f"text.text_projection.{part}"] = arrays[f"text_model.head.{part}"]
    given[f"{trunk}.attn_pool.latent"] = arrays["vision_model.head.probe"]
    return {f"model.{name}": np.ascontiguousarray(array) for name, array in given.items()}


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_the_layout_of_open_clip_gives_the_same_vectors(name: str, golden: Path, tmp_path: Path) -> None:
    expected = np.load(golden / name / "expected.npz")
    siglip = name == "siglip"
    save_file(as_open_clip(load_file(golden / name / "model.safetensors"), siglip), tmp_path / "open_clip_model.safetensors")
    heads = 8  # values of an attention's head in these tiny networks: 32 / 4; CLIP's pictures have 48 / 4
    vision: dict[str, Any] = {"timm_model_name": "vit_base_patch16_siglip_224", "head_width": heads}
    if not siglip:
        vision = {"layers": 2, "width": 48, "patch_size": 16, "image_size": 64, "head_width": 12}
    mean, std = ([0.5] * 3, [0.5] * 3) if siglip else (clip.CLIP_MEAN, clip.CLIP_STD)
    config = {
        "model_cfg": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": vision, "text_cfg": {"heads": 4, "layers": 2}},
        "preprocess_cfg": {"mean": mean, "std": std, "interpolation": "bicubic",
                           "resize_mode": "squash" if siglip else "shortest"},
    }  # fmt: skip
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    network = hugging_face.picture_network(str(tmp_path), {})
    pixels = decoded(golden, network.side, network.decoding)
    assert least_cosine(network.features(tf.constant(pixels)).numpy(), expected["image"]) > 0.99999
    side = clip.read_side(Folder.open(str(tmp_path)), "text")
    _, features = clip.siglip_text_features(side, 1, begun=False) if siglip else clip.clip_text_features(side)
    ids = expected["input_ids"].astype(np.int32)
    lengths = np.full(len(ids), 16) if siglip else expected["attention_mask"].sum(1)
    found = features(tf.constant(ids), tf.constant(lengths.astype(np.int32))).numpy()
    assert least_cosine(found, expected["text"]) > 0.999999


def test_clips_tokenizer_is_made_of_its_vocabulary_where_there_is_no_tokenizer_json(golden: Path, tmp_path: Path) -> None:
    folder = copy_model(golden / "clip", tmp_path / "clip")
    (folder / "tokenizer.json").unlink()
    made, given = (Tokenizer.from_str(hugging_face.text_network(str(path), {}).tokenizer_file.decode())
                   for path in (folder, golden / "clip"))  # fmt: skip
    texts = ["red running shoes", "T-shirt  for MEN, 42 €", "", "café 白色", "don't"]
    assert [one.ids for one in made.encode_batch(texts)] == [one.ids for one in given.encode_batch(texts)]


def test_dinov2_is_used_with_the_pixels_it_is_prepared_for_though_it_was_trained_on_more(golden: Path, tmp_path: Path) -> None:
    folder = copy_model(golden / "dinov2", tmp_path / "dinov2")
    crop, size = {"height": 32, "width": 32}, {"shortest_edge": 40}
    rewrite_json(folder / "preprocessor_config.json", crop_size=crop, size=size)
    network = hugging_face.picture_network(str(folder), {})
    assert (network.side, network.decoding) == (32, Decoding("crop", "bicubic", 0.8))
    found = network.features(tf.constant(decoded(golden, 32, network.decoding))).numpy()
    assert np.isfinite(found).all()
    assert found.shape == (2, 48)


def bert_like_folder(folder: Path, kind: str) -> Path:
    """Write a tiny random RoBERTa, XLM-R or DistilBERT, without a tokenizer of its own kind."""
    from test_towers import tiny_bert_files

    config, weights, tokenizer = tiny_bert_files()
    arrays = dict(load_weights(weights))
    settings = json.loads(config) | {"hidden_size": 16, "intermediate_size": 32, "model_type": kind, "hidden_act": "gelu",
                                     "vocab_size": len(arrays["embeddings.word_embeddings.weight"]),
                                     "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
                                     "max_position_embeddings": 64, "type_vocab_size": 2, "pad_token_id": 1,
                                     "layer_norm_eps": 1e-5, "architectures": ["X"]}  # fmt: skip
    if kind == "distilbert":
        new_names = {ours: theirs for theirs, ours in bert.DISTILLED.items()}
        renamed = {}
        for name, array in arrays.items():
            name = name.replace("encoder.layer", "transformer.layer")
            for ours in sorted(new_names, key=len, reverse=True):
                name = name.replace(f".{ours}.", f".{new_names[ours]}.")
            renamed[f"distilbert.{name}"] = array
        arrays = {name: array for name, array in renamed.items() if "token_type" not in name}
        settings |= {"n_layers": 2, "n_heads": 4, "dim": 16, "hidden_dim": 32, "activation": "gelu", "dropout": 0.0,
                     "attention_dropout": 0.0}  # fmt: skip
        settings = {name: value for name, value in settings.items() if not name.startswith(("num_", "hidden_act", "layer_n"))}
    else:
        segments = "embeddings.token_type_embeddings.weight"
        # KerasHub's conversion of RoBERTa forgets what `transformers` adds to every token.
        arrays[segments] = arrays[segments][:1] * (kind != "roberta")
        settings["type_vocab_size"] = 1
        arrays = {f"roberta.{name}": array for name, array in arrays.items()}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings))
    save_file(arrays, folder / "model.safetensors")
    (folder / "tokenizer.json").write_bytes(tokenizer)
    return folder


def load_weights(data: bytes) -> Mapping[str, npt.NDArray[Any]]:
    from encoders.weights import read_safetensors

    return read_safetensors(data)


@pytest.mark.parametrize("kind", ["distilbert", "roberta", "xlm-roberta"])
def test_the_kin_of_bert_answers_as_kerashubs_conversion(kind: str, tmp_path: Path) -> None:
    folder = bert_like_folder(tmp_path / "model", kind)
    network = hugging_face.text_network(str(folder), {})
    positions = 62 if "roberta" in kind else 64
    assert network.token_limit == positions
    rng = np.random.default_rng(1)
    lengths = np.array([3, 9, 5], np.int32)
    real = np.arange(9) < lengths[:, None]
    ids = np.where(real, rng.integers(5, 40, (3, 9)), 1).astype(np.int32)
    found = network.features(network.weights, tf.constant(ids), tf.constant(lengths)).numpy()
    backbone = keras_hub.models.Backbone.from_preset(str(folder))
    states = backbone({"token_ids": ids, "padding_mask": real.astype(np.int32)}).numpy()
    pooled = (states * real[..., None]).sum(1) / lengths[:, None]
    assert least_cosine(found, pooled) > 0.99999


def test_sentence_transformers_say_how_to_pool_and_where_to_cut(golden: Path, tmp_path: Path) -> None:
    folder = copy_model(golden / "bert", tmp_path / "bert")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 20, "do_lower_case": True}))
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    network = hugging_face.text_network(str(folder), {})
    assert (network.token_limit, network.prefix, network.text_form) == (20, "query: ", "lower")
    ids, lengths = np.load(folder / "expected.npz")["input_ids"].astype(np.int32), np.full(3, 11, np.int32)
    mean = hugging_face.text_network(str(folder), {"pooling": "mean"})
    assert least_cosine(network.features(network.weights, ids, lengths).numpy(),
                        mean.features(mean.weights, ids, lengths).numpy()) < 0.99  # fmt: skip
    assert mean.weights_hash != network.weights_hash
    with pytest.raises(TowerError, match=r"bert has 64 positions: texts cannot have 65 tokens$"):
        hugging_face.text_network(str(folder), {"tokens": "65"})
    parts = [{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Dense"}]
    (folder / "modules.json").write_text(json.dumps(parts))
    with pytest.raises(TowerError, match=r"has a part sentence_transformers\.models\.Dense, which is not read here: export"):
        hugging_face.text_network(str(folder), {})


def test_options_say_how_items_are_prepared_and_make_another_space(golden: Path, tmp_path: Path) -> None:
    spec = f"hf:{golden / 'bert'}"
    plain = load_text_network(read_source(spec, "text"))
    built = build_tower(f"{spec}?prefix=red%20&form=lower&tokens=32&batch=4", "text", tmp_path / "tower")
    assert (built.prefix, built.text_form, built.token_limit, built.batch) == ("red ", "lower", 32, 4)
    assert built.forms == ("litert", "saved_model")
    assert built.weights_hash != plain.weights_hash
    build_tower(spec, "text", tmp_path / "plain")
    for form in built.forms:
        with_prefix, without = load_tower(tmp_path / "tower", form), load_tower(tmp_path / "plain", form)
        np.testing.assert_allclose(with_prefix.encode(["SHOES"]), without.encode(["red shoes"]), atol=1e-6)
    usual = load_picture_network(read_source(f"hf:{golden / 'clip'}", "picture"))
    padded = load_picture_network(read_source(f"hf:{golden / 'clip'}?fit=pad", "picture"))
    assert padded.decoding == Decoding("pad")
    assert padded.weights_hash != usual.weights_hash


def test_an_option_that_a_network_does_not_have_is_refused(golden: Path) -> None:
    spec = f"hf:{golden / 'clip'}"
    for modality, option in (("picture", "pooling=mean"), ("text", "pooling=mean"), ("text", "tokens=5")):
        load: Any = load_picture_network if modality == "picture" else load_text_network
        name = option.partition("=")[0]
        with pytest.raises(TowerError, match=f"clip is a model of type 'clip', which has no option '{name}': leave it away$"):
            load(read_source(f"{spec}?{option}", modality))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), TowerError, r"clip holds no config\.json: name a model's folder"),
        (lambda folder: (folder / "config.json").write_text("{"), TowerError, r"config\.json is not JSON \(.*\): download it"),
        (lambda folder: rewrite_json(folder / "config.json", model_type="llama"), TowerError,
         r"clip is a model of type 'llama', of which no picture tower is made: known are clip, siglip, "),
        (lambda folder: (folder / "model.safetensors").unlink(), WeightsError, r"clip holds no model\.safetensors: weights are"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}"), WeightsError,
         r"^weights file .*model\.safetensors cannot be read \(.*\): download it again"),
        (lambda folder: save_file({"a": np.zeros(2, np.float32)}, folder / "model.safetensors"), WeightsError,
         r"^the weights have no 'vision_model\.embeddings\.class_embedding': they are not those of the model in config\.json$"),
        (lambda folder: rewrite_json(folder / "config.json", vision_config={"hidden_size": 48, "num_attention_heads": 4,
                                                                            "num_hidden_layers": 2, "intermediate_size": 64,
                                                                            "image_size": 64, "patch_size": 16}), WeightsError,
         r"^'vision_model.encoder.layers.0.mlp.fc1.weight' is of shape \[48, 96\]; config\.json asks for \[48, 64\]$"),
        (lambda folder: rewrite_json(folder / "preprocessor_config.json", crop_size={"height": 32, "width": 32}), TowerError,
         r"clip prepares pictures of 32 pixels \(preprocessor_config\.json\) for a network that takes 64$"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_tower_for_pictures_is_refused(
    change: Any, error: type[Exception], message: str, golden: Path, tmp_path: Path
) -> None:
    folder = copy_model(golden / "clip", tmp_path / "clip")
    change(folder)
    with pytest.raises(error, match=message):
        hugging_face.picture_network(str(folder), {})


def test_a_folder_that_is_no_tower_for_texts_is_refused(golden: Path, tmp_path: Path) -> None:
    with pytest.raises(TowerError, match=r"siglip holds no tokenizer\.json: transformers writes it by AutoTokenizer"):
        hugging_face.text_network(str(golden / "siglip"), {})
    with pytest.raises(TowerError, match=r"vit is a model of type 'vit', of which no text tower is made: known are clip, "):
        hugging_face.text_network(str(golden / "vit"), {})
    folder = copy_model(golden / "clip", tmp_path / "clip")
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(content | {"post_processor": None}))
    with pytest.raises(TowerError, match=r"^the tokenizer of .*clip ends a text with the ids \[\d+\], its network expects 555$"):
        hugging_face.text_network(str(folder), {})
