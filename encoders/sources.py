"""Sources of towers: one line each says where a network comes from and how items are prepared for it.

    package:efficientnet-lite2          keras:ResNet50?weights=<file>      saved-model:<folder>
    package:use-multilingual            keras-hub:<preset or folder>       tflite:<file>
    package:minilm                      hf:<folder>

Options follow as in an address: `?fit=pad&sha256=<hex>`. docs/towers.md lists them. Several, with commas between them,
stand side by side. TensorFlow is imported when a network is loaded, not with this module.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import unquote

from encoders.tower_spec import Decoding, Modality, TextForm, TowerError

if TYPE_CHECKING:
    from encoders.conversion import PictureNetwork, TextNetwork

PACKAGED: Mapping[str, Modality] = {
    "efficientnet-lite0": "picture",
    "efficientnet-lite1": "picture",
    "efficientnet-lite2": "picture",
    "use-multilingual": "text",
    "minilm": "text",
}
# Options of each kind of source; None: any, the source looks at them itself.
SCHEMES: Mapping[str, frozenset[str] | None] = {
    "package": frozenset(),
    "keras": None,
    "keras-hub": frozenset(("pooling", "tokens", "side")),
    "hf": frozenset(("pooling", "tokens")),
    "saved-model": frozenset(("sha256",)),
    "tflite": frozenset(("sha256", "mean", "std")),
}
PICTURES_ONLY = ("keras", "tflite")
COMMON: Mapping[Modality, frozenset[str]] = {
    "picture": frozenset(("batch", "crop_ratio", "fit", "resample")),
    "text": frozenset(("batch", "form", "prefix")),
}
CHOICES = {"fit": ("crop", "pad", "stretch"), "resample": ("bicubic", "bilinear"), "form": get_args(TextForm),
           "pooling": ("cls", "max", "mean")}  # fmt: skip
NUMBERS = {"batch": 1, "tokens": 3, "side": 1}
RANGES = {"crop_ratio": (0.0, 1.0), "mean": (-1.0, 255.0), "std": (0.0, 255.0)}


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


def split_specs(spec: str) -> list[str]:
    """Take apart specifications of towers that stand side by side; a comma in a path is no border."""
    return re.split(rf",(?=(?:{'|'.join(SCHEMES)}):)", spec)


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
            "keras-hub:<preset or folder>, hf:<folder>, saved-model:<folder> or tflite:<file>"
        )
    if scheme == "package" and name not in PACKAGED:
        raise TowerError(f"tower '{spec}' is unknown: the packaged ones are {', '.join(PACKAGED)}")
    encoded = PACKAGED[name] if scheme == "package" else "picture" if scheme in PICTURES_ONLY else modality
    if encoded != modality:
        raise TowerError(f"tower '{spec}' encodes a {encoded}, not a {modality}: name another one")
    options = {key: value for key, _, value in (part.partition("=") for part in query.split("&") if part)}
    common = {key: unquote(options.pop(key)) for key in sorted(COMMON[modality] & set(options))}
    own = SCHEMES[scheme]
    unknown = [] if own is None else sorted(set(options) - own)
    if unknown:
        known = ", ".join(sorted((own or frozenset()) | COMMON[modality]))
        raise TowerError(f"tower '{spec}' has the option '{unknown[0]}', which is unknown: known are {known}")
    _check_values(spec, common if own is None else {**options, **common})
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


def load_picture_network(source: Source) -> PictureNetwork:
    """Build the network for pictures that a source names, prepared for as its options say.

    Raises:
        TowerError, ApplicationError, WeightsError: the source holds no such network.
        ModuleNotFoundError: a package is not installed.
    """
    network = _picture_network(source)
    decoding = read_decoding(source, network.decoding)
    return replace(network, decoding=decoding, weights_hash=hash_with(network.weights_hash, decoding))


def read_decoding(source: Source, usual: Decoding) -> Decoding:
    """Return how pictures are decoded: as the options say, else as usual."""
    given: dict[str, Any] = {name: source.common[name] for name in ("fit", "resample") if name in source.common}
    if "crop_ratio" in source.common:
        given["crop_ratio"] = float(source.common["crop_ratio"])
    return replace(usual, **given)


def load_text_network(source: Source) -> TextNetwork:
    """Build the network for texts that a source names, as `load_picture_network` does."""
    network = _text_network(source)
    prefix = source.common.get("prefix", network.prefix)
    form: Any = source.common.get("form", network.text_form)
    digest = hash_with(network.weights_hash, prefix, form)
    return replace(network, prefix=prefix, text_form=form, weights_hash=digest)


def hash_with(weights_hash: str, *preparation: Any) -> str:
    """Hash how items are prepared into the hash of the weights; the usual way leaves it as it is."""
    from encoders.weights import combine_hashes

    if preparation in ((Decoding(),), ("", "as_is")):
        return weights_hash
    return combine_hashes(weights_hash, json.dumps([str(part) for part in preparation]))


def _picture_network(source: Source) -> PictureNetwork:
    if source.scheme == "package":
        from encoders import efficientnet_lite

        return efficientnet_lite.picture_network(source.name)
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
