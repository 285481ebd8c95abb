#!/usr/bin/env python3
"""Makes tests/core/format/golden/dequantize.inc from the PyPI package `gguf`, an implementation of the block types that
is independent of ours (numpy). Needs: pip install gguf. With --file it makes golden/gguf_file.inc, a whole small file by
that package's writer. With --model FILE it prints, for each tensor of a GGUF file, the SHA-256 of its dequantized
float32 values, to be compared with our reader's by hand.

  make_gguf_golden.py > tests/core/format/golden/dequantize.inc
  make_gguf_golden.py --file > tests/core/format/golden/gguf_file.inc
"""
import argparse
import hashlib
import struct
import tempfile

import numpy as np
from gguf import GGUFReader, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

# Where the float16 scales (and minima) lie in each block; all other bytes are random.
HALF_OFFSETS = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
                "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
# One ordinary block and one with a negative scale and a subnormal minimum, so that rounding and signs show.
HALVES = [(0.0123, 0.456), (-1.7, 3.1e-7)]


def make_block(rng, type_name, halves):
    _, size = GGML_QUANT_SIZES[GGMLQuantizationType[type_name]]
    block = bytearray(rng.integers(0, 256, size, dtype=np.uint8).tobytes())
    for offset, value in zip(HALF_OFFSETS[type_name], halves):
        block[offset:offset + 2] = struct.pack("<e", value)
    return bytes(block)


def print_golden():
    rng = np.random.default_rng(20240607)
    print("// Made by tests/reference/make_gguf_golden.py: type, stored blocks, float32 values; the last two in hex, "
          "little-endian.")
    for type_name in HALF_OFFSETS:
        stored = b"".join(make_block(rng, type_name, halves) for halves in HALVES)
        values = dequantize(np.frombuffer(stored, dtype=np.uint8), GGMLQuantizationType[type_name])
        text = values.astype("<f4").tobytes().hex()
        print(f'{{DType::k{type_name}, "{stored.hex()}",')
        lines = [text[i:i + 112] for i in range(0, len(text), 112)]
        print("\n".join(f' "{line}"' for line in lines) + "},")


def print_file():
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        writer = GGUFWriter(file.name, "llama")
        writer.add_block_count(2)
        writer.add_layer_norm_rms_eps(0.5)
        writer.add_uint64("test.u64", 2**64 - 1)
        writer.add_int8("test.i8", -7)
        writer.add_float64("test.f64", 0.1)
        writer.add_bool("test.bool", True)
        writer.add_array("test.ints", [1, -2, 3])
        writer.add_array("test.floats", [0.5, -1.25])
        writer.add_array("test.bools", [True, False])
        writer.add_token_list(["<s>", "", "\u2581caf\u00e9"])
        writer.add_tensor("output_norm.weight", np.array([1, 2, 3], dtype=np.float32))
        writer.add_tensor("blk.0.attn_q.weight", np.arange(6, dtype=np.float16).reshape(2, 3))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        print_hex("gguf", open(file.name, "rb").read())


def print_hex(package, data):
    print(f"// Made by tests/reference/make_{package}_golden.py: one whole file in hex.")
    text = data.hex()
    print("\n".join(f'"{text[i:i + 112]}"' for i in range(0, len(text), 112)))


def print_model(path):
    for tensor in GGUFReader(path).tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype("<f4")
        shape = [int(d) for d in reversed(tensor.shape)]
        print(tensor.name, tensor.tensor_type.name, shape, hashlib.sha256(values.tobytes()).hexdigest())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a GGUF file whose tensors to hash")
    parser.add_argument("--file", action="store_true", help="print a whole file")
    arguments = parser.parse_args()
    if arguments.model:
        print_model(arguments.model)
    elif arguments.file:
        print_file()
    else:
        print_golden()
