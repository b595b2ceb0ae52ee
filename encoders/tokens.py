"""Tokenizers of the forms that take ids, run by their own wheels: no TensorFlow."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

from encoders.tower_spec import TOKENIZER_FILES, TowerError, TowerSpec

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def missing_package(package: str, extra: str) -> ModuleNotFoundError:
    """Return the error that names the extra which brings a package."""
    return ModuleNotFoundError(
        f"the package '{package}' is not installed: pip install 'catalogue-index[{extra}]'"
    )


def shape_text(text: str, spec: TowerSpec) -> str:
    """Return a text as the tower's network was trained to see it: prefix, case, punctuation."""
    # A lone surrogate has no UTF-8; cleaned texts have none.
    shaped = spec.prefix + str(text).encode("utf-8", "replace").decode()
    if spec.text_form == "as_is":
        return shaped
    shaped = shaped.lower()
    return shaped if spec.text_form == "lower" else " ".join(shaped.translate(_NO_PUNCTUATION).split())


def load_tokenizer(spec: TowerSpec, folder: Path) -> Callable[[list[str]], list[Any]]:
    """Load the tokenizer beside a tower: texts -> lists of ids, uncut, with the end and, where it knows one, the begin.

    Raises:
        TowerError: the tower names a tokenizer that is unknown.
        ModuleNotFoundError: its package is missing; the message names the extra.
    """
    if spec.tokenizer == "sentencepiece":
        try:
            from sentencepiece import SentencePieceProcessor
        except ModuleNotFoundError as error:
            raise missing_package("sentencepiece", "query") from error
        processor = SentencePieceProcessor(model_file=str(folder / TOKENIZER_FILES["sentencepiece"]))
        begins = processor.bos_id() >= 0
        return lambda texts: processor.encode(texts, out_type=int, add_bos=begins, add_eos=True)
    if spec.tokenizer == "tokenizers":
        try:
            from tokenizers import Tokenizer
        except ModuleNotFoundError as error:
            raise missing_package("tokenizers", "query") from error
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILES["tokenizers"]))
        # As in the SavedModel, a text that spells a special token is a text.
        tokenizer.encode_special_tokens = True
        return lambda texts: [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    raise TowerError(
        f"{spec.spec} names the tokenizer '{spec.tokenizer}', which is unknown: build the tower again"
    )
