"""From packed codes to numbers, all codecs. The layouts are those of docs/artifact_format.md ("Packed codes", "8-bit
weights"); the C++ is core/codec/packing.h, int8_packing.h and trellis.h."""
from __future__ import annotations

import numpy as np

from ._codebooks import CODEBOOKS, TRELLIS_A, TRELLIS_B, TRELLIS_C, TRELLIS_STEPS

_ROWS = 32  # of a tile
_PAIRS = 32
_LINE = 128  # bytes
_STATE_BITS = 16


def normalized(codec: str, pair_bits: int, packed: "np.ndarray", rows: int, cols: int) -> "np.ndarray":
    """[rows, cols] float32: the values of a packed matrix before its row norms. ValueError if the bytes do not fit."""
    strips, tiles = -(-rows // _ROWS), -(-cols // (2 * _PAIRS))
    line_count = 2 * _PAIRS // 4 if codec == "int8" else pair_bits
    if packed.size != strips * tiles * line_count * _LINE:
        raise ValueError(f"{packed.size} bytes of codes for {rows} x {cols} weights at {pair_bits} bits a pair; expected "
                         f"{strips * tiles * line_count * _LINE}")
    if codec == "int8":
        values = packed.view(np.int8).reshape(strips, tiles * line_count, _ROWS, 4)
        values = values.transpose(0, 2, 1, 3).reshape(strips * _ROWS, tiles * 2 * _PAIRS)
        return values[:rows, :cols].astype(np.float32) / np.float32(127)
    codes = _codes(packed.reshape(strips, tiles, pair_bits, _LINE), pair_bits)
    if codec == "trellis":
        pairs, step = _trellis_values(codes, pair_bits)
    else:
        pairs, step = _codebook_values(codec, codes, pair_bits)
    values = pairs.reshape(strips * _ROWS, tiles * 2 * _PAIRS)[:rows, :cols]
    return values.astype(np.float32) * np.float32(step)


def _codes(tiles: "np.ndarray", pair_bits: int) -> "np.ndarray":
    """[strips, 32, pairs] from [strips, tiles, lines, 128]. Pair c of row r: v = c div 4, byte n = 4 r + c mod 4."""
    strips, across = tiles.shape[:2]

    def by_pair(parts: "np.ndarray") -> "np.ndarray":
        """From [strips, tiles, v, 128] to [strips, 32 rows, tiles, v, 4]."""
        return parts.reshape(strips, across, 8, _ROWS, 4).transpose(0, 3, 1, 2, 4)

    if pair_bits >= 8:
        base = 8
        codes = by_pair(tiles[:, :, :8]).astype(np.uint32)
    else:
        base = 4
        codes = by_pair(np.concatenate((tiles[:, :, :4] & 15, tiles[:, :, :4] >> 4), axis=2)).astype(np.uint32)
    v = np.arange(8, dtype=np.uint8)[:, None]
    for bit in range(base, pair_bits):
        codes |= by_pair((tiles[:, :, bit, None, :] >> v) & 1).astype(np.uint32) << np.uint32(bit)
    return codes.reshape(strips, _ROWS, across * _PAIRS)


def _codebook_values(family: str, codes: "np.ndarray", pair_bits: int) -> "tuple[np.ndarray, float]":
    """The integers of both columns of each pair, interleaved, and their step."""
    if (family, pair_bits) not in CODEBOOKS:
        raise ValueError(f"codec {family!r} with {pair_bits} bits a pair is not known")
    step, x, y = CODEBOOKS[family, pair_bits]
    magnitude_bits = pair_bits - 2
    index = codes & np.uint32((1 << magnitude_bits) - 1)
    columns = []
    for values, sign_bit in ((x, magnitude_bits), (y, magnitude_bits + 1)):
        magnitude = np.frombuffer(values, np.uint8).astype(np.int32)[index]
        columns.append(np.where((codes >> np.uint32(sign_bit)) & 1, -magnitude, magnitude))
    return np.stack(columns, axis=-1), step


def _trellis_values(codes: "np.ndarray", pair_bits: int) -> "tuple[np.ndarray, float]":
    """The same along the trellis: the state of a row is the last 16 bits of the codes above it, row 0 following on row
    31."""
    if pair_bits not in TRELLIS_STEPS:
        raise ValueError(f"codec 'trellis' with {pair_bits} bits a pair is not known")
    state = np.zeros_like(codes)
    for back in reversed(range(-(-_STATE_BITS // pair_bits))):
        state = ((state << np.uint32(pair_bits)) | np.roll(codes, back, axis=1)) & np.uint32(0xFFFF)
    columns = []
    for a, b, c in zip(TRELLIS_A, TRELLIS_B, TRELLIS_C):
        columns.append(_byte_sum(state * np.uint32(a)) + _byte_sum(state * np.uint32(b) + np.uint32(c)) - 510)
    return np.stack(columns, axis=-1), TRELLIS_STEPS[pair_bits]


def _byte_sum(hashed: "np.ndarray") -> "np.ndarray":
    return ((hashed & np.uint32(255)) + ((hashed >> np.uint32(8)) & np.uint32(255))).astype(np.int32)
