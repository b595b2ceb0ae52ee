"""Sources of towers: one line each says where a network comes from and how items are prepared for it.

    package:efficientnet-lite2          keras:ResNet50?weights=<file>      saved-model:<folder>
    package:use-multilingual            keras-hub:<preset or folder>       tflite:<file>
    package:minilm                      hf:<folder>                    compact:<side>

Options follow as in an address: `?fit=pad&sha256=<hex>`. docs/towers.md lists them. Several, with commas between them,
stand side by side. TensorFlow is imported when a network is loaded, not with this module.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, get_args
from urllib.parse import unquote

from encoders.tower_spec import Decoding, Fit, Modality, Precision, Resample, TextForm, TowerError, TowerSpec

if TYPE_CHECKING:
    from encoders.conversion import PictureNetwork, TextNetwork

PACKAGED: Mapping[str, Modality] = {
    "efficientnet-lite0": "picture",
    "efficientnet-lite1": "picture",
    "efficientnet-lite2": "picture",
    "use-multilingual": "text",
    "minilm": "text",
}
COMPACT = "compact"
# Options of each kind of source, by what it encodes; None: any, the source looks at them itself.
SCHEMES: Mapping[str, Mapping[Modality, frozenset[str] | None]] = {
    "package": {"picture": frozenset(("side",)), "text": frozenset()},
    "keras": {"picture": None},
    COMPACT: {"picture": frozenset()},
    "keras-hub": {"picture": frozenset(("depths", "pooling", "side")), "text": frozenset(("pooling", "tokens"))},
    "hf": {"picture": frozenset(("depths", "pooling")), "text": frozenset(("pooling", "tokens"))},
    "saved-model": {"picture": frozenset(("sha256",)), "text": frozenset(("sha256",))},
    "tflite": {"picture": frozenset(("sha256", "mean", "std"))},
}
COMMON: Mapping[Modality, frozenset[str]] = {
    "picture": frozenset(("batch", "crop_ratio", "fit", "precision", "resample", "xla")),
    "text": frozenset(("batch", "form", "precision", "prefix", "xla")),
}
# Those that some kinds have no use for, and why.
USELESS: Mapping[tuple[str, str], str] = {
    ("package", "precision"): "the packaged towers compute in float32",
    (COMPACT, "precision"): "a compact tower is trained in float32",
    ("package", "xla"): "the packaged towers run in LiteRT, which XLA does not compile",
    ("saved-model", "precision"): "a SavedModel computes in what it was saved with",
    ("tflite", "precision"): "a LiteRT file computes in what it was converted to",
    ("tflite", "xla"): "a LiteRT file runs in LiteRT, which XLA does not compile",
    ("tflite", "batch"): "a LiteRT file says itself how many pictures it takes at once",
}
CHOICES = {
    "fit": get_args(Fit), "resample": get_args(Resample), "form": get_args(TextForm), "pooling": ("cls", "max", "mean"),
    "precision": get_args(Precision), "xla": ("off", "on"), "depths": ("all", "last"),
}  # fmt: skip
NUMBERS = {"batch": 1, "tokens": 3, "side": 1}
RANGES = {"crop_ratio": (0.0, 1.0), "mean": (-1.0, 255.0), "std": (0.0, 255.0)}

LEAST_SIDE = 16  # of a compact tower: it halves a picture four times
LEAST_PACKAGED_SIDE = 64  # of an EfficientNet-Lite: its colour block has 4 x 4 tiles of 16 pixels

Pictures = TypeVar("Pictures", "PictureNetwork", TowerSpec)
Texts = TypeVar("Texts", "TextNetwork", TowerSpec)
Network = TypeVar("Network", "PictureNetwork", "TextNetwork")


@dataclass(frozen=True)
class Source:
    """A specification that was read.

    Attributes:
        spec: as it was given.
        modality: what the network encodes.
        scheme: its kind, a key of SCHEMES.
        name: what is looked up there: a package's tower, an application, a preset, a file or a folder.
        options: those of the kind.
        common: those of all kinds: how items are prepared, how many at once.
    """

    spec: str
    modality: Modality
    scheme: str
    name: str
    options: Mapping[str, str]
    common: Mapping[str, str]

    @property
    def precision(self) -> Precision:
        """Give Keras's policy that the network is built under."""
        return self.common.get("precision", "float32")  # type: ignore[return-value]

    @property
    def xla(self) -> bool:
        """Tell whether the network is to be compiled."""
        return self.common.get("xla") == "on"


def split_specs(spec: str) -> list[str]:
    """Take apart specifications of towers that stand side by side; a comma in a path is no border."""
    return re.split(rf",(?=(?:{'|'.join(SCHEMES)}):)", spec)


def side_of_pair(spec: str, modality: Modality) -> str:
    """Return the specification of one side of a pair: without the options of how items of the other side are prepared."""
    foreign = {name for names in COMMON.values() for name in names} - COMMON[modality]
    parts = []
    for one in split_specs(spec):
        name, _, query = one.partition("?")
        kept = "&".join(option for option in query.split("&") if option.partition("=")[0] not in foreign)
        parts.append(f"{name}?{kept}" if kept else name)
    return ",".join(parts)


def read_source(spec: str, modality: Modality) -> Source:
    """Read a specification; nothing is looked up yet.

    Raises:
        TowerError: it is unknown, of the other modality, or has an option that means nothing.
    """
    scheme, separator, rest = spec.partition(":")
    name, _, query = rest.partition("?")
    if not separator or not name or scheme not in SCHEMES:
        raise TowerError(
            f"tower '{spec}' is unknown: give package:<{' | '.join(PACKAGED)}>, keras:<Application>?weights=<file>, "
            "keras-hub:<preset or folder>, hf:<folder>, saved-model:<folder>, tflite:<file> or compact:<side>"
        )
    if scheme == "package" and name not in PACKAGED:
        raise TowerError(f"tower '{spec}' is unknown: the packaged ones are {', '.join(PACKAGED)}")
    if scheme == COMPACT and not (name.isdecimal() and int(name) >= LEAST_SIDE):
        raise TowerError(f"tower '{spec}': give the pixels of a side, at least {LEAST_SIDE}, as in {COMPACT}:64")
    encodes = (PACKAGED[name],) if scheme == "package" else tuple(SCHEMES[scheme])
    if modality not in encodes:
        raise TowerError(f"tower '{spec}' encodes a {encodes[0]}, not a {modality}: name another one")
    options = {key: unquote(value) for key, _, value in (part.partition("=") for part in query.split("&") if part)}
    common = {key: options.pop(key) for key in sorted(COMMON[modality] & set(options))}
    own = SCHEMES[scheme][modality]
    unknown = [] if own is None else sorted(set(options) - own)
    if unknown:
        known = ", ".join(sorted(one for one in (own or frozenset()) | COMMON[modality] if (scheme, one) not in USELESS))
        raise TowerError(f"tower '{spec}' has the option '{unknown[0]}', which is unknown: known are {known}")
    for option in common:
        why = USELESS.get((scheme, option))
        if (scheme, modality, option) == ("saved-model", "text", "xla"):
            why = "a SavedModel for texts takes strings, which XLA cannot compile"
        if why is not None:
            raise TowerError(f"tower '{spec}' has the option '{option}', but {why}: leave it away")
    _check_values(spec, common if own is None else {**options, **common})
    if scheme == "package" and int(options.get("side", LEAST_PACKAGED_SIDE)) < LEAST_PACKAGED_SIDE:
        raise TowerError(f"tower '{spec}': give the pixels of a side, at least {LEAST_PACKAGED_SIDE}")
    return Source(spec, modality, scheme, name, options, common)


def _check_values(spec: str, options: Mapping[str, str]) -> None:
    for name, value in options.items():
        if name in CHOICES and value not in CHOICES[name]:
            raise TowerError(f"tower '{spec}': {name} may be {', '.join(CHOICES[name])}")
        if name in NUMBERS and not (value.isdecimal() and int(value) >= NUMBERS[name]):
            raise TowerError(f"tower '{spec}': {name} is a number of at least {NUMBERS[name]}")
        if name in RANGES and not RANGES[name][0] < _float(value) <= RANGES[name][1]:
            least, most = RANGES[name]
            raise TowerError(f"tower '{spec}': {name} is a number above {least:g} and at most {most:g}")


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def check_trainable(spec: str, modality: Modality) -> None:
    """Refuse to train a tower further that has no layers which can be.

    Raises:
        TowerError: it is a finished graph, several towers, or no tower of that modality.
    """
    sources = [read_source(one, modality) for one in split_specs(spec)]
    why = {"saved-model": "a SavedModel is a finished graph", "tflite": "a LiteRT file is a finished graph"}.get(
        sources[0].scheme, "its weights are quantised" if sources[0].name == "use-multilingual" else ""
    )
    if sources[0].precision == "mixed_float16":
        why = "16 bits do not hold its gradients, mixed_bfloat16 may"
    if len(sources) > 1:
        why = "of several towers side by side none can be"
    if why:
        trainable = "keras:, keras-hub:, hf: or package:efficientnet-lite0"
        named = trainable if modality == "picture" else "keras-hub:, hf: or package:minilm"
        raise TowerError(f"tower '{spec}' cannot be trained further: {why}; name one of {named}, or leave --fine-tune away")


def load_network(source: Source) -> PictureNetwork | TextNetwork:
    """Build the network that a source names, of either modality."""
    return load_picture_network(source) if source.modality == "picture" else load_text_network(source)


def load_picture_network(source: Source) -> PictureNetwork:
    """Build the network for pictures that a source names, prepared for as its options say.

    Raises:
        TowerError, ApplicationError, WeightsError: the source holds no such network.
        ModuleNotFoundError: a package is not installed.
    """
    return prepare_pictures(source, _in_precision(source, _picture_network))


def load_text_network(source: Source) -> TextNetwork:
    """Build the network for texts that a source names, as `load_picture_network` does."""
    return prepare_texts(source, _in_precision(source, _text_network))


def _in_precision(source: Source, build: Callable[[Source], Network]) -> Network:
    """Build a network under a policy of Keras, which its layers keep; the process goes on under its own."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(source.precision)
    try:
        network = build(source)
    finally:
        keras.config.set_dtype_policy(before)
    return replace(network, precision=source.precision, weights_hash=_hash_with(network.weights_hash, source.precision))


def prepare_pictures(source: Source, made: Pictures) -> Pictures:
    """Return a network or tower for pictures, decoded as the source's options say, else as usual."""
    given: dict[str, Any] = {name: source.common[name] for name in ("fit", "resample") if name in source.common}
    if "crop_ratio" in source.common:
        given["crop_ratio"] = float(source.common["crop_ratio"])
    decoding = replace(made.decoding, **given)
    return replace(made, decoding=decoding, weights_hash=_hash_with(made.weights_hash, decoding))


def prepare_texts(source: Source, made: Texts) -> Texts:
    """Return a network or tower for texts, written as the source's options say, else as usual."""
    prefix = source.common.get("prefix", made.prefix)
    form: Any = source.common.get("form", made.text_form)
    return replace(made, prefix=prefix, text_form=form, weights_hash=_hash_with(made.weights_hash, prefix, form))


def _hash_with(weights_hash: str, *preparation: Any) -> str:
    """Hash how items are prepared, or computed with, into the hash of the weights; the usual way leaves it as it is."""
    from encoders.weights import combine_hashes

    if preparation in ((Decoding(),), ("", "as_is"), ("float32",)):
        return weights_hash
    return combine_hashes(weights_hash, json.dumps([str(part) for part in preparation]))


def _picture_network(source: Source) -> PictureNetwork:
    if source.scheme == "package":
        from encoders import efficientnet_lite

        return efficientnet_lite.picture_network(source.name, int(source.options.get("side", 0)) or None)
    if source.scheme == COMPACT:
        from encoders import compact

        return compact.picture_network(int(source.name))
    if source.scheme == "keras":
        from encoders import keras_application

        return keras_application.picture_network(source.name, source.options)
    if source.scheme == "keras-hub":
        from encoders import keras_hub_backbone

        return keras_hub_backbone.picture_network(source.name, source.options)
    from encoders import hugging_face

    return hugging_face.picture_network(source.name, source.options)


def _text_network(source: Source) -> TextNetwork:
    if source.name == "minilm" and source.scheme == "package":
        from encoders import bert

        return bert.minilm_network()
    if source.scheme == "package":
        from encoders import sentence_encoder

        return sentence_encoder.text_network()
    if source.scheme == "keras-hub":
        from encoders import keras_hub_backbone

        return keras_hub_backbone.text_network(source.name, source.options)
    from encoders import hugging_face

    return hugging_face.text_network(source.name, source.options)
