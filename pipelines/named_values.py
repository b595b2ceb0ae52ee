"""Settings that give values by name, read: weights of modalities, shares of languages, layers of towers.

--weight picture=0.5 --phrase-languages en=0.5,de=0.5 --fine-tune picture=4
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.setting import ConfigError
from transforms.shop_words import LANGUAGES

if TYPE_CHECKING:
    from pipelines.config import Config

MODALITIES = ("picture", "text", "reviews")
DEFAULT_PHRASE_LANGUAGES = {"en": 0.65, "zh": 0.35}
CHOSEN = "auto"  # of --weight structured=
DEFAULT_WEIGHTS = {"picture": 0.4, "text": 0.6, "reviews": 0.0, "structured": 0.0}


def fine_tuned_layers(config: Config) -> dict[str, int]:
    """Return how many of a tower's last layers are trained further, by modality.

    Raises:
        ConfigError: an unknown modality, or what is no number of at least 0.
    """
    for name, text in config.fine_tune.items():
        if name not in MODALITIES:
            raise ConfigError(f"--fine-tune names the modality '{name}'; it may be {', '.join(MODALITIES)}")
        if not text.isdecimal():
            raise ConfigError(f"--fine-tune {name}={text} is not a number of layers")
    return {name: int(text) for name, text in config.fine_tune.items()}


def phrase_languages(config: Config) -> dict[str, float]:
    """Return language -> its share of the phrases that training makes, in the order of `LANGUAGES`.

    Raises:
        ConfigError: an unknown language, one given twice, or shares that are no numbers above 0.
    """
    shares: dict[str, float] = {}
    for item in config.phrase_languages:
        language, equals, text = item.partition("=")
        if language not in LANGUAGES:
            raise ConfigError(f"--phrase-languages names '{language}'; it may be {', '.join(LANGUAGES)}")
        if language in shares:
            raise ConfigError(f"--phrase-languages names '{language}' twice")
        try:
            shares[language] = float(text) if equals else 1.0
        except ValueError:
            raise ConfigError(f"--phrase-languages {item} is not a number") from None
        if not 0 < shares[language] < float("inf"):
            raise ConfigError(f"--phrase-languages {item} must be finite and above 0")
    return {language: shares[language] for language in LANGUAGES if language in shares} or DEFAULT_PHRASE_LANGUAGES


def given_weights(config: Config) -> dict[str, float]:
    """Return the weights that the configuration gives, by modality; "structured" is the share of structured columns.

    A share that training is to choose (`chooses_share`) is not among them.

    Raises:
        ConfigError: an unknown modality, or a weight that is no finite non-negative number, or a share of 1 or more.
    """
    weights: dict[str, float] = {}
    for name, text in config.weight.items():
        if name not in DEFAULT_WEIGHTS:
            raise ConfigError(f"--weight names the modality '{name}'; it may be {', '.join(DEFAULT_WEIGHTS)}")
        if name not in MODALITIES and text == CHOSEN:
            continue
        try:
            weights[name] = float(text)
        except ValueError:
            raise ConfigError(f"--weight {name}={text} is not a number{'' if name in MODALITIES else ', nor auto'}") from None
        if not 0 <= weights[name] < float("inf"):
            raise ConfigError(f"--weight {name}={text} must be finite and not negative")
        if name not in MODALITIES and weights[name] >= 1:
            raise ConfigError(f"--weight {name}={text} must be below 1: it is a share of the fused vector")
    return weights


def chooses_share(config: Config) -> bool:
    """Tell whether training chooses the share of structured columns."""
    return config.weight.get("structured") == CHOSEN


def fusion_weights(config: Config) -> dict[str, float]:
    """Return the weight of each modality of a bundle that is trained, in the order of the fused vector.

    Raises:
        ConfigError: as `given_weights`.
    """
    return DEFAULT_WEIGHTS | given_weights(config)
