"""Tokenizers of models as `tokenizer.json`, which the `tokenizers` wheel runs without TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from encoders.tower_spec import TowerError

if TYPE_CHECKING:
    from encoders.hugging_face import Folder

CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def read_tokenizer(folder: Folder, kind: str) -> tuple[str, bytes]:
    """Find a folder's tokenizer: its kind, a key of `tower_spec.TOKENIZER_FILES`, and the content of its file.

    Args:
        folder: the model's.
        kind: "wordpiece", "clip", "bytes" or "sentencepiece": what is made where the folder has no tokenizer.json.

    Raises:
        TowerError: the folder has none.
    """
    if folder.has("tokenizer.json"):
        content = folder.json("tokenizer.json") | {"truncation": None, "padding": None}
        return "tokenizers", json.dumps(content, ensure_ascii=False).encode()
    settings = folder.json("tokenizer_config.json")
    if kind == "wordpiece" and folder.has("vocab.txt"):
        pieces = (folder.path / "vocab.txt").read_text("utf-8").splitlines()
        return "tokenizers", wordpiece_file(pieces, bool(settings.get("do_lower_case", True)), settings.get("strip_accents"))
    if kind in ("clip", "bytes") and folder.has("vocab.json") and folder.has("merges.txt"):
        merges = (folder.path / "merges.txt").read_text("utf-8").splitlines()
        make = clip_file if kind == "clip" else roberta_file
        return "tokenizers", make(folder.json("vocab.json"), merges)
    for name in ("spiece.model", "sentencepiece.bpe.model"):
        if kind == "sentencepiece" and folder.has(name):
            return "sentencepiece", (folder.path / name).read_bytes()
    raise TowerError(
        f"{folder.path} holds no tokenizer.json: transformers writes it by AutoTokenizer.from_pretrained(name)"
        ".save_pretrained(folder)"
    )


def wordpiece_file(pieces: Sequence[str], lowercase: bool, strip_accents: bool | None) -> bytes:
    """Make BERT's tokenizer of its pieces in the order of their ids."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _between(tokenizer, "[CLS]", "[SEP]")


def clip_file(vocabulary: Mapping[str, int], merges: Sequence[str]) -> bytes:
    """Make CLIP's tokenizer: byte pairs of words, lower case, an end in every word's last piece."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    pairs = _pairs(merges)
    model = models.BPE(
        dict(vocabulary), pairs, continuing_subword_prefix="", end_of_word_suffix="</w>", fuse_unk=False,
        unk_token="<|endoftext|>",
    )  # fmt: skip
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return _between(tokenizer, "<|startoftext|>", "<|endoftext|>")


def roberta_file(vocabulary: Mapping[str, int], merges: Sequence[str]) -> bytes:
    """Make RoBERTa's tokenizer: byte pairs, a space being part of the word after it."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(dict(vocabulary), _pairs(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _between(tokenizer, "<s>", "</s>")


def _pairs(merges: Sequence[str]) -> list[tuple[str, str]]:
    lines = [line for line in merges if line.strip() and not line.startswith("#version")]
    return [(first, second) for first, _, second in (line.partition(" ") for line in lines)]


def _between(tokenizer: Any, begin: str, end: str) -> bytes:
    """Put every text between two tokens; a text that spells one of them is a text."""
    from tokenizers import processors

    ids = {token: tokenizer.token_to_id(token) for token in (begin, end)}
    missing = [token for token, number in ids.items() if number is None]
    if missing:
        raise TowerError(f"the vocabulary has no token '{missing[0]}': it belongs to another model")
    tokenizer.add_special_tokens([begin, end])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=list(ids.items())
    )
    return bytes(tokenizer.to_str().encode())


def begins(kind: str, content: bytes) -> bool:
    """Tell whether a SentencePiece model has a token that goes before each text."""
    if kind != "sentencepiece":
        return False
    from sentencepiece import SentencePieceProcessor

    return bool(SentencePieceProcessor(model_proto=content).bos_id() >= 0)


def check_end(content: bytes, ends: int, name: str) -> None:
    """Check that a tokenizer.json ends every text with the id `ends`, as its network was trained.

    Raises TowerError where it does not.
    """
    from tokenizers import Tokenizer

    found = Tokenizer.from_str(content.decode()).encode("a").ids
    if not found or found[-1] != ends:
        raise TowerError(f"the tokenizer of {name} ends a text with the ids {found[-1:]}, its network expects {ends}")


def token_id(content: bytes, token: str) -> int | None:
    """Look an id up in a tokenizer.json."""
    from tokenizers import Tokenizer

    found: int | None = Tokenizer.from_str(content.decode()).token_to_id(token)
    return found
