#!/usr/bin/env python3
"""Makes tests/core/format/golden/safetensors_file.inc: a small file by the PyPI package `safetensors`, whose writer is
independent of ours. Needs: pip install safetensors numpy.

  make_safetensors_golden.py > tests/core/format/golden/safetensors_file.inc
"""
import numpy as np
from safetensors.numpy import save

if __name__ == "__main__":
    data = save(
        {
            "model.norm.weight": np.array([1, 2, 3], dtype=np.float32),
            "model.layers.0.self_attn.q_proj.weight": np.arange(6, dtype=np.float16).reshape(2, 3),
            "scalar": np.array(-7, dtype=np.int64),
        },
        metadata={"format": "pt", "note": "caf\u00e9"},
    )
    print("// Made by tests/reference/make_safetensors_golden.py: one whole file in hex.")
    text = data.hex()
    print("\n".join(f'"{text[i:i + 112]}"' for i in range(0, len(text), 112)))
