"""The reader of artifacts against the worked examples of docs/artifact_format.md, against what a rotation must be, and
against folders that are not artifacts. That whole artifacts are read as the C++ reads them is tests/e2e's to show."""
import json
import pathlib
import tempfile
import unittest

import numpy as np

from qamserve import _rotation, _unpack
from qamserve._codebooks import CODEBOOKS, TRELLIS_STEPS
from qamserve.artifact import ArtifactError, ArtifactReader


class Codes(unittest.TestCase):
    def test_packed_11_bits(self):
        tile = np.zeros(1408, np.uint8)
        tile[269], tile[1037], tile[1293] = 0xA7, 1 << 2, 1 << 2
        codes = _unpack._codes(tile.reshape(1, 1, 11, 128), 11)
        self.assertEqual(codes[0, 3, 9], 0x5A7)
        self.assertEqual(np.count_nonzero(codes), 1)
        values = _unpack.normalized("joint", 11, tile, 32, 64)
        step, x, y = CODEBOOKS["joint", 11]
        self.assertAlmostEqual(values[3, 18], x[423] * step, places=6)
        self.assertAlmostEqual(values[3, 19], -y[423] * step, places=6)

    def test_packed_5_bits(self):
        tile = np.zeros(640, np.uint8)
        tile[511], tile[639] = 0xD0, 1 << 7
        codes = _unpack._codes(tile.reshape(1, 1, 5, 128), 5)
        self.assertEqual(codes[0, 31, 31], 0x1D)
        self.assertEqual(np.count_nonzero(codes), 1)

    def test_trellis_8_bits(self):
        codes = np.zeros((1, 32, 1), np.uint32)
        codes[0, 31, 0], codes[0, 0, 0] = 0x12, 0x34
        values, step = _unpack._trellis_values(codes, 8)
        self.assertEqual(values[0, 0, 0].tolist(), [-98, -80])
        self.assertEqual(step, TRELLIS_STEPS[8])

    def test_8_bit_weights(self):
        packed = np.zeros(2 * 64 * 32, np.uint8)
        packed[2052], packed[2181] = 127, 256 - 64
        values = _unpack.normalized("int8", 16, packed, 64, 64)
        self.assertEqual(values[33, 0], 1)
        self.assertAlmostEqual(0.5 * values[33, 5], -0.25197, places=5)
        self.assertEqual(np.count_nonzero(values), 2)

    def test_bytes_that_do_not_fit(self):
        for codec, bits in (("joint", 11), ("trellis", 8), ("int8", 16)):
            with self.assertRaisesRegex(ValueError, "bytes of codes"):
                _unpack.normalized(codec, bits, np.zeros(7, np.uint8), 32, 64)
        for codec, bits in (("joint", 13), ("trellis", 12), ("morse", 8)):
            with self.assertRaisesRegex(ValueError, "not known"):
                _unpack.normalized(codec, bits, np.zeros(128 * bits, np.uint8), 32, 64)

    def test_all_codebooks_are_there(self):
        self.assertEqual(len(CODEBOOKS), 4 * 8)
        for (family, bits), (step, x, y) in CODEBOOKS.items():
            self.assertEqual((len(x), len(y)), (2 ** (bits - 2),) * 2, family)
            self.assertGreater(step, 0)


class Rotations(unittest.TestCase):
    def test_is_orthogonal(self):
        for n in (1, 2, 12, 20, 24, 28, 36, 44, 64, 576, 640, 1536):
            for kind in ("full", "block", "none"):
                q = np.eye(n, dtype=np.float32)
                _rotation.Rotation(n, kind, 1).apply_inverse(q)
                np.testing.assert_allclose(q @ q.T, np.eye(n), atol=1e-5, err_msg=f"{n} {kind}")

    def test_factors(self):
        self.assertEqual(_rotation.hadamard_factors(576), [12, 12, 4])
        self.assertEqual(_rotation.hadamard_factors(1536), [12, 128])
        self.assertEqual(_rotation.hadamard_factors(640), [20, 32])
        self.assertEqual(_rotation.hadamard_factors(5632), [44, 128])
        self.assertEqual(_rotation.hadamard_factors(1), [1])
        self.assertEqual(_rotation.hadamard_factors(7), [])

    def test_what_there_is_not(self):
        with self.assertRaisesRegex(ValueError, "order 7"):
            _rotation.Rotation(7, "full", 1)
        with self.assertRaisesRegex(ValueError, "'twist'"):
            _rotation.Rotation(8, "twist", 1)


class Folders(unittest.TestCase):
    CONFIG = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4, "quantization_config": {
        "quant_method": "qamw", "version": 2, "codec": "joint", "bits": 5.5, "pair_bits": 11, "rotation": "none",
        "rotation_seed": 1, "channel_scale": True}}
    LAYER = "model.layers.0.mlp.down_proj"

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def write(self, tensors, config=None, header=None):
        """tensors: name to (dtype, shape, bytes)."""
        (self.folder / "config.json").write_text(json.dumps(config or self.CONFIG))
        entries, data = {}, b""
        for name, (dtype, shape, raw) in tensors.items():
            entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
            data += raw
        text = json.dumps(entries).encode() if header is None else header
        (self.folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)

    def layer(self):
        scale = np.full(64, 2, np.float16)
        return {self.LAYER + ".codes": ("U8", [1408], bytes(1408)),
                self.LAYER + ".row_norm": ("F16", [32], np.arange(32, dtype=np.float16).tobytes()),
                "model.layers.0.mlp.down.channel_scale": ("F16", [64], scale.tobytes()),
                "model.norm.weight": ("BF16", [2], np.array([0x3F80, 0xC000], np.uint16).tobytes())}

    def test_norms_and_scales_are_undone(self):
        self.write(self.layer())
        reader = ArtifactReader(self.folder)
        self.assertEqual(reader.names(), [self.LAYER + ".weight", "model.norm.weight"])
        weight = reader[self.LAYER + ".weight"]
        step, x, y = CODEBOOKS["joint", 11]
        np.testing.assert_allclose(weight[:, 0], np.arange(32) * x[0] * step / 2, rtol=1e-6)
        np.testing.assert_allclose(weight[:, 1], np.arange(32) * y[0] * step / 2, rtol=1e-6)
        self.assertEqual(reader["model.norm.weight"].tolist(), [1, -2])
        self.assertNotIn("quantization_config", reader.hf_config())
        with self.assertRaises(KeyError):
            reader["model.none.weight"]

    def refused(self, words):
        with self.assertRaisesRegex(ArtifactError, words):
            dict(ArtifactReader(self.folder).items())

    def test_parts_that_are_missing_or_wrong(self):
        for name, words in ((self.LAYER + ".row_norm", "row_norm is missing"),
                            ("model.layers.0.mlp.down.channel_scale", "channel_scale is missing")):
            tensors = self.layer()
            del tensors[name]
            self.write(tensors)
            self.refused(words)
        tensors = self.layer()
        tensors[self.LAYER + ".codes"] = ("U8", [100], bytes(100))
        self.write(tensors)
        self.refused("down_proj: 100 bytes of codes")
        tensors = self.layer()
        tensors[self.LAYER + ".row_norm"] = ("F16", [32], np.full(32, np.inf, np.float16).tobytes())
        self.write(tensors)
        self.refused("not finite")
        tensors["model.norm.weight"] = ("I64", [1], bytes(8))
        self.write(tensors)
        reader = ArtifactReader(self.folder)
        with self.assertRaisesRegex(ArtifactError, "I64"):
            reader["model.norm.weight"]

    def test_headers_that_lie(self):
        for header in (b"", b"[]", b"{", b'{"a": 1}', b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
                       b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}}',
                       b'{"a": {"dtype": "U8", "shape": [99999999999, 99999999999], "data_offsets": [0, 0]}}',
                       b'{"a": {"dtype": "U8", "shape": ["x"], "data_offsets": [0, 0]}}', b"[" * 100_000):
            self.write({}, header=header)
            with self.assertRaises(ArtifactError, msg=header[:60]):
                ArtifactReader(self.folder)
        (self.folder / "model.safetensors").write_bytes(b"\xff" * 20)
        self.refused("claims")
        (self.folder / "model.safetensors").unlink()
        self.refused("not there")

    def test_configs_that_are_none(self):
        quantization = self.CONFIG["quantization_config"]
        for change in ({"version": 3}, {"quant_method": "gptq"}, {"pair_bits": None}, {"tensors": []}, {"codec": None}):
            config = {**self.CONFIG, "quantization_config": {**quantization, **change}}
            self.write(self.layer(), config)
            self.refused("")
        self.write(self.layer(), {"hidden_size": 64})
        self.refused("not that of an artifact")
        (self.folder / "config.json").write_text("nonsense")
        self.refused("not that of an artifact")


if __name__ == "__main__":
    unittest.main()
