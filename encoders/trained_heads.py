"""What training of heads gives, and what each later step on them takes and gives again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from encoders.gate import Gate
from encoders.heads import Head


@dataclass(frozen=True)
class TrainedHeads:
    """Hold heads by modality, the gate for them where there is one, and figures of how they came about as JSON values."""

    heads: Mapping[str, Head]
    gate: Gate | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
