"""Embeddings of the sandbox: vectors that depend on the text alone, and mean nothing."""

from __future__ import annotations

import array
import base64
import hashlib
from typing import Any

import msgspec

from .completions import prompt_tokens, prompts_of
from .words import Refused, Told

DIMENSIONS = 8
MOST_DIMENSIONS, MOST_INPUTS = 4096, 2048


def tell(asked: dict[str, Any]) -> Told:
    inputs = prompts_of(asked.get("input"))
    size = asked.get("dimensions") or DIMENSIONS
    if not isinstance(size, int) or not 1 <= size <= MOST_DIMENSIONS or len(inputs) > MOST_INPUTS:
        raise Refused(f"at most {MOST_INPUTS} inputs and {MOST_DIMENSIONS} dimensions")
    vectors = [_vector(msgspec.json.encode(item), size) for item in inputs]
    packed = asked.get("encoding_format") == "base64"
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(vector.tobytes()).decode() if packed else vector.tolist(),
        }
        for index, vector in enumerate(vectors)
    ]
    used = sum(map(prompt_tokens, inputs))
    usage = {"prompt_tokens": used, "total_tokens": used}
    return {"object": "list", "data": data, "model": asked.get("model"), "usage": usage}


def _vector(seed: bytes, size: int) -> array.array[float]:
    """Numbers between -1 and 1 that depend on the seed alone."""
    stream = hashlib.shake_256(seed).digest(2 * size)
    return array.array("f", ((stream[2 * i] * 256 + stream[2 * i + 1]) / 32767.5 - 1 for i in range(size)))
