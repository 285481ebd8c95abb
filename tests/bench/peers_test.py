#!/usr/bin/env python3
"""Checks the scripts that measure beside other quantizers: how 4-bit weights are read, which pairs of results may be
compared, and that the environment is made once. No peer is needed; with torch, whole layers are read back, too."""
import copy
import importlib.util
import json
import pathlib
import sys
import tempfile
import unittest
from unittest import mock

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER / "peers")]
import measure_peers
import packed4
import peer_main
from context import Unmeasurable
from keys import KEYS, PEER_METHODS, PEERS, peer_keys
from measure import METHOD_FLAGS

OURS = {"bpw": 4.0, "kl_mean": 0.09, "total_seconds": 60.0, "weights": 1000,
        "quality": {"base_perplexity": 29.2, "scored_tokens": 8184, "top1_agreement": 0.8}}
PEER = measure_peers.Peer(
    {"seconds": 600.0, "settings": {"nsamples": 128}, "versions": {"a": "1.2"}},
    {"ids": 9, "ids_different": 0, "scored_tokens": 8184, "weights": 1000, "base_perplexity": 29.21, "bpw": 4.2,
     "kl_mean": 0.3, "top1_agreement": 0.7}, "peer")


def signed32(word):
    return word - (1 << 32) if word >> 31 else word


class Packed(unittest.TestCase):
    def test_nibbles_lowest_first_also_of_signed_words(self):
        self.assertEqual(packed4.nibbles(0x76543210), [0, 1, 2, 3, 4, 5, 6, 7])
        self.assertEqual(packed4.nibbles(signed32(0xFEDCBA98)), [8, 9, 10, 11, 12, 13, 14, 15])

    def test_zero_is_stored_one_less(self):
        self.assertEqual([packed4.zero_of(field) for field in (7, 0, 15)], [8, 1, 0])

    def test_layers_need_all_parts(self):
        parts = ["b.qweight", "b.scales", "b.qzeros", "a.qweight", "a.scales", "a.qzeros", "norm.weight"]
        self.assertEqual(packed4.layers_of(parts), ["a", "b"])
        with self.assertRaisesRegex(ValueError, "b has no qzeros"):
            packed4.layers_of([part for part in parts if part != "b.qzeros"])

    def test_stored_bits_count_scales_zeros_and_order(self):
        # 128 inputs in groups of 64, 16 outputs: 4 bits, and 16 + 4 bits a group.
        sizes = {"a.qweight": 128 * 16 // 2, "a.scales": 2 * 16 * 2, "a.qzeros": 2 * 16 // 2, "norm.weight": 999}
        self.assertAlmostEqual(packed4.stored_bits(sizes, 128 * 16), 4 + 20 / 64)
        sizes["a.g_idx"] = 128 * 4
        self.assertAlmostEqual(packed4.stored_bits(sizes, 128 * 16), 4 + 20 / 64 + 32 / 16)

    @unittest.skipUnless(importlib.util.find_spec("torch"), "torch is not installed")
    def test_layer_is_read_back(self):
        import torch

        inputs, outputs, group = 24, 16, 16  # the last group is half a group
        codes = torch.randint(0, 16, (inputs, outputs))
        zeros = torch.randint(1, 16, (2, outputs))
        scales = (torch.rand(2, outputs) - 0.5).half()
        qweight = [[signed32(sum(int(codes[8 * i + k, j]) << 4 * k for k in range(8))) for j in range(outputs)]
                   for i in range(inputs // 8)]
        qzeros = [[signed32(sum(int(zeros[g, 8 * j + k]) - 1 << 4 * k for k in range(8))) for j in range(outputs // 8)]
                  for g in range(2)]
        of_input = torch.tensor([i // group for i in range(inputs)])
        stored = [torch.tensor(qweight, dtype=torch.int32), scales, torch.tensor(qzeros, dtype=torch.int32)]
        expected = (scales.float()[of_input] * (codes - zeros[of_input])).T
        weights, steps = packed4.dequantize(torch, *stored, None, group)
        self.assertTrue(torch.equal(weights, expected))
        self.assertTrue(torch.equal(steps, scales.float()[of_input].T))
        shuffled = of_input[torch.randperm(inputs)]
        expected = (scales.float()[shuffled] * (codes - zeros[shuffled])).T
        self.assertTrue(torch.equal(packed4.dequantize(torch, *stored, shuffled.int(), group)[0], expected))


class PeerMain(unittest.TestCase):
    def test_windows_are_consecutive_and_whole(self):
        self.assertEqual(peer_main.cut(list(range(7)), 2, 3), [[0, 1, 2], [3, 4, 5]])
        with self.assertRaisesRegex(ValueError, "5 tokens, 2 windows of 3 need 6"):
            peer_main.cut(list(range(5)), 2, 3)

    def test_tokenizer_gets_a_padding_token_if_it_has_none(self):
        with tempfile.TemporaryDirectory() as folder:
            source, out = pathlib.Path(folder) / "source", pathlib.Path(folder) / "out"
            source.mkdir()
            out.mkdir()
            (source / "tokenizer.json").write_text("{}")
            for config, padding in (({"eos_token": "e"}, "e"), ({"eos_token": "e", "pad_token": "p"}, "p")):
                (source / "tokenizer_config.json").write_text(json.dumps(config))
                peer_main.copy_tokenizer(source, out)
                written = json.loads((out / "tokenizer_config.json").read_text())
                self.assertEqual(written, {"eos_token": "e", "pad_token": padding})
            self.assertTrue((out / "tokenizer.json").exists())

    def test_calibration_takes_what_the_text_has(self):
        with tempfile.TemporaryDirectory() as folder:
            ids = pathlib.Path(folder) / "ids"
            ids.write_text("\n".join(map(str, range(10))))
            arguments = peer_main.parse(["quantize", "--peer", "gptq", "--model", "m", "--calibration", str(ids), "out"])
            windows, settings = peer_main.calibration(arguments, {"seqlen": 4, "nsamples": 128, "iters": 50})
            self.assertEqual(windows, [[0, 1, 2, 3], [4, 5, 6, 7]])
            self.assertEqual(settings, {"seqlen": 4, "nsamples": 2, "iters": 50})
            arguments.sample_tokens = 3
            self.assertEqual(peer_main.calibration(arguments, {"seqlen": 4, "nsamples": 2})[0], [[0, 1, 2], [3, 4, 5]])
            arguments.sample_tokens = 11
            with self.assertRaisesRegex(ValueError, "10 tokens, less than a window of 11"):
                peer_main.calibration(arguments, {"seqlen": 4, "nsamples": 2})

    def test_other_formats_are_refused(self):
        peer_main.check_format({"bits": 4, "packing_format": "auto_round:auto_gptq"})
        peer_main.check_format({"bits": 4, "checkpoint_format": "gptq"})
        for config in ({"bits": 8, "packing_format": "auto_round:auto_gptq"}, {"bits": 4},
                       {"bits": 4, "packing_format": "auto_round:auto_awq"}, {"bits": 4, "checkpoint_format": "gptq_v2"}):
            with self.assertRaises(ValueError):
                peer_main.check_format(config)

    def test_layers_that_are_read_wrongly_are_refused(self):
        peer_main.check_layer("a", 0.12, -0.01)
        for error, shift in ((0.6, 0.0), (0.4, 1.0), (0.4, -1.0), (float("nan"), 0.0), (0.1, float("nan"))):
            with self.assertRaisesRegex(ValueError, "a is read wrongly"):
                peer_main.check_layer("a", error, shift)

    def test_libraries_see_no_accelerator_and_enough_workers(self):
        for cores, workers in ((1, "2"), (2, "2"), (5, "3"), (64, "32")):
            variables = peer_main.library_variables(cores, "/bin")
            self.assertEqual(variables["GPTQMODEL_CPU_WORKERS"], workers)
        self.assertEqual((variables["CUDA_VISIBLE_DEVICES"], variables["HF_HUB_OFFLINE"]), ("", "1"))
        self.assertEqual(variables["PATH"], f"{sys.prefix}/bin:/bin")

    def test_options_of_every_peer_are_understood(self):
        for name, spec in PEERS.items():
            parsed = peer_main.parse(["quantize", "--peer", name, *spec["options"], "--model", "m", "--calibration", "c",
                                      "--threads", "2", "out"])
            self.assertEqual((parsed.peer, parsed.threads), (name, 2))


class Figures(unittest.TestCase):
    def test_keys_are_known_and_methods_ours(self):
        given = [key for keys, _ in measure_peers.measurements(None) for key in keys]
        self.assertEqual(sorted(given), sorted(key for key in KEYS if key.startswith("peer.")))
        self.assertLessEqual(set(PEER_METHODS), set(METHOD_FLAGS))

    def test_ratios_are_ours_over_theirs(self):
        found = measure_peers.figures("autoround", "ldlq", OURS, PEER, "ours")
        self.assertEqual(list(found), peer_keys("autoround", "ldlq"))
        kl, seconds = found.values()
        self.assertAlmostEqual(kl.value, 0.3)
        self.assertAlmostEqual(seconds.value, 0.1)
        self.assertEqual(kl.command, "ours ; peer")
        for part in ("AutoRound", "a 1.2", "nsamples 128", "0.30000", "4.200 bpw"):
            self.assertIn(part, kl.peer)

    def test_what_cannot_be_compared_is_not(self):
        for field, value, reason in (("ids_different", 1, "token ids differ"), ("scored_tokens", 8192, "positions"),
                                     ("weights", 999, "weights"), ("base_perplexity", 29.3, "perplexity"),
                                     ("bpw", 3.9, "stored bits")):
            peer = copy.deepcopy(PEER)
            peer.measured[field] = value
            with self.assertRaisesRegex(Unmeasurable, reason):
                measure_peers.check_comparable(OURS, peer)


class FakeContext:
    """Runs nothing; `fails` as a program that ends badly does."""

    def __init__(self, folder):
        self.work, self.ran, self.fails = pathlib.Path(folder), [], False

    def run(self, command, quiet=False):
        self.ran.append([str(part) for part in command])
        if self.fails:
            raise Unmeasurable("no network")


class Environment(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.context = FakeContext(folder.name)
        self.requirements = pathlib.Path(folder.name) / "requirements.txt"
        self.requirements.write_text("a==1\n")
        create = mock.patch("venv.create", lambda folder, with_pip: (folder / "bin").mkdir(parents=True))
        create.start()
        self.addCleanup(create.stop)

    def make(self):
        return measure_peers.environment(self.context, self.requirements)

    def test_made_once_for_the_same_requirements(self):
        first = self.make()
        self.assertEqual(self.make(), first)
        self.assertEqual(len(self.context.ran), 1)
        self.assertIn(str(self.requirements), self.context.ran[0])
        self.requirements.write_text("a==2\n")
        self.assertNotEqual(self.make(), first)
        self.assertEqual(len(self.context.ran), 2)

    def test_a_failed_install_is_tried_again(self):
        self.context.fails = True
        with self.assertRaises(Unmeasurable):
            self.make()
        self.context.fails = False
        self.make()
        self.assertEqual(len(self.context.ran), 2)

    def test_versions_are_pinned(self):
        lines = (measure_peers.FOLDER / "requirements.txt").read_text().splitlines()
        packages = [line for line in lines if line and not line.startswith("#")]
        self.assertTrue(packages)
        for line in packages:
            self.assertRegex(line, r"^[A-Za-z0-9_.-]+==[0-9.]+$")


if __name__ == "__main__":
    unittest.main()
