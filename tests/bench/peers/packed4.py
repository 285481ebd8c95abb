"""4-bit weights as GPTQ tools store them, read back from the file that they wrote.

A linear layer of `in` inputs and `out` outputs is stored as
  qweight  int32 [in / 8][out]       code of input 8 i + k in bits 4 k .. 4 k + 3 of row i
  scales   fp16  [groups][out]       weight = scale * (code - zero)
  qzeros   int32 [groups][out / 8]   zero of output 8 j + k in bits 4 k .. 4 k + 3 of column j, one less than it is
  g_idx    int32 [in]                optional: the group of each input; without it they go in order
The functions take integers as well as tensors, so that they can be checked without either library.
"""
PARTS = ("qweight", "scales", "qzeros", "g_idx")


def nibbles(words):
    """The eight 4-bit fields of 32-bit words, lowest first. A signed word's top field is right, too."""
    return [(words >> (4 * k)) & 15 for k in range(8)]


def zero_of(field):
    """The zero point that a field of qzeros stands for: tools of this format store one less, in 4 bits."""
    return (field + 1) & 15


def layers_of(names):
    """Names of the layers that are quantized, sorted; a layer that lacks a part is a ValueError."""
    layers = sorted(name[:-len(".qweight")] for name in names if name.endswith(".qweight"))
    for layer in layers:
        for part in PARTS[:3]:
            if f"{layer}.{part}" not in names:
                raise ValueError(f"{layer} has no {part}")
    return layers


def stored_bits(sizes, weights):
    """Bits a weight over all quantized layers. `sizes`: bytes by name of tensor, `weights`: how many were quantized."""
    layers = layers_of(sizes)
    total = sum(sizes.get(f"{layer}.{part}", 0) for layer in layers for part in PARTS)
    return 8 * total / weights


def dequantize(torch, qweight, scales, qzeros, g_idx, group_size):
    """The layer's weights and their steps (which may be negative), both float32 [out][in]. Groups in order have
    `group_size` inputs; the last may be shorter."""
    codes = torch.stack(nibbles(qweight), dim=1).reshape(-1, qweight.shape[1])          # [in][out]
    zeros = zero_of(torch.stack(nibbles(qzeros), dim=2).reshape(qzeros.shape[0], -1))   # [groups][out]
    group = torch.arange(codes.shape[0]) // group_size if g_idx is None else g_idx.long()
    steps = scales.float()[group]
    return (steps * (codes - zeros[group])).T.contiguous(), steps.T.contiguous()
