"""The rotation Q = H D / sqrt(n) that weights were multiplied by: random signs, then a Hadamard matrix, which is a
Kronecker product of Paley's (1933) matrices and Sylvester's of the remaining power of two. The C++ is
core/codec/rotation.cc."""
from __future__ import annotations

from typing import List, Optional, Tuple

import numpy as np

_MASK = (1 << 64) - 1
_MAX_PALEY_ORDER = 256
_GOLDEN = 0x9E3779B97F4A7C15


def _random_signs(n: int, seed: int) -> "np.ndarray":
    """xoshiro256** (Blackman and Vigna, 2018), seeded by SplitMix64; -1 where the top bit is set."""
    state = []
    z = (seed * _GOLDEN + n) & _MASK
    for _ in range(4):
        z = (z + _GOLDEN) & _MASK
        x = z
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
        state.append(x ^ (x >> 31))
    s0, s1, s2, s3 = state
    signs = np.empty(n, np.float32)
    for i in range(n):
        x = (s1 * 5) & _MASK
        x = ((x << 7 | x >> 57) * 9) & _MASK
        t = (s1 << 17) & _MASK
        s2 ^= s0
        s3 ^= s1
        s1 ^= s2
        s0 ^= s3
        s2 ^= t
        s3 = (s3 << 45 | s3 >> 19) & _MASK
        signs[i] = -1 if x >> 63 else 1
    return signs


def _is_prime(q: int) -> bool:
    return q >= 2 and all(q % d for d in range(2, int(q ** 0.5) + 1))


def _is_power_of_two(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0


def _has_paley(order: int) -> bool:
    if order > _MAX_PALEY_ORDER or order % 4:
        return False
    return (_is_prime(order - 1) and order % 4 == 0) or (_is_prime(order // 2 - 1) and (order // 2 - 1) % 4 == 1)


def hadamard_factors(n: int) -> List[int]:
    """Orders, ascending and without powers of two except a last one, whose product is n and whose sum is least (of several
    the first that a search from small to large finds); empty if there are none."""
    best: Tuple[Optional[int], List[int]] = (None, [])

    def search(left: int, least: int, chosen: List[int]) -> None:
        nonlocal best
        if _is_power_of_two(left):
            cost = sum(chosen) + left.bit_length() - 1
            if best[0] is None or cost < best[0]:
                best = (cost, chosen + ([left] if left > 1 or not chosen else []))
            return
        for order in range(least, min(left, _MAX_PALEY_ORDER) + 1, 4):
            if left % order == 0 and not _is_power_of_two(order) and _has_paley(order):
                search(left // order, order, chosen + [order])

    search(n, 12, [])
    return best[1]


def _jacobsthal(q: int) -> "np.ndarray":
    symbol = np.full(q, -1, np.float32)
    symbol[[i * i % q for i in range(1, q)]] = 1
    symbol[0] = 0
    index = np.arange(q)
    return symbol[(index[:, None] - index[None, :]) % q]


def paley_matrix(order: int) -> "np.ndarray":
    """REQUIRES: _has_paley(order)."""
    if _is_prime(order - 1) and order % 4 == 0:
        # Paley I: I + S, S skew with the Jacobsthal matrix in its lower right corner.
        h = np.ones((order, order), np.float32)
        h[1:, 0] = -1
        h[1:, 1:] = _jacobsthal(order - 1)
        np.fill_diagonal(h[1:, 1:], 1)
        return h
    # Paley II: each entry of the symmetric conference matrix becomes a 2 x 2 block.
    half = order // 2
    c = np.ones((half, half), np.float32)
    c[1:, 1:] = _jacobsthal(half - 1)
    np.fill_diagonal(c, 0)
    return (np.kron(c, np.array([[1, 1], [1, -1]], np.float32)) +
            np.kron(np.eye(half, dtype=np.float32), np.array([[1, -1], [-1, -1]], np.float32)))


class Rotation:
    """Immutable. ValueError if no Hadamard matrix of the size is known, or the kind is not."""

    def __init__(self, n: int, kind: str, seed: int):
        self.n = n
        self._factors: List[Tuple[int, Optional[np.ndarray]]] = []
        if kind == "none":
            return
        if kind not in ("full", "block"):
            raise ValueError(f"rotation {kind!r} is not known; there are full, block and none")
        block = n if kind == "full" else n & -n
        orders = hadamard_factors(block)
        if not orders:
            raise ValueError(f"no Hadamard matrix of order {block} is known")
        self._blocks = n // block
        self._factors = [(order, None if _is_power_of_two(order) else paley_matrix(order)) for order in orders]
        self._scale = (_random_signs(n, seed) * np.float32(1 / np.sqrt(block))).astype(np.float32)

    def apply_inverse(self, rows: "np.ndarray") -> None:
        """rows <- rows Q, that is Q' of each row of [m, n], in place. float32."""
        if not self._factors:
            return
        outer, inner = rows.shape[0] * self._blocks, self.n // self._blocks
        x = rows
        for order, matrix in self._factors:
            inner //= order
            if matrix is None:
                x = _sylvester(x.reshape(outer, order))
            else:
                x = np.matmul(matrix.T, x.reshape(outer, order, inner))
            outer *= order
        rows[:] = x.reshape(rows.shape) * self._scale


def _sylvester(x: "np.ndarray") -> "np.ndarray":
    """Sylvester's matrix applied to each row."""
    rows, n = x.shape
    half = n // 2
    while half >= 1:
        pairs = x.reshape(rows * (n // (2 * half)), 2, half)
        x = np.stack((pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]), axis=1)
        half //= 2
    return x.reshape(rows, n)
