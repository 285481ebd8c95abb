"""Every key that ./run bench can measure: its unit, its bar and what it is."""
import dataclasses

# What a right implementation of the codec without scales gives on SmolLM2, to be met within 10 %.
JOINT_KL = {"5.5": 0.0396, "4.0": 0.339, "3.5": 0.738}
# By method and rate; None where the issue is only to know the figure.
METHOD_KL_LIMIT = {
    "ldlq": {"5.5": 0.0125, "4.5": 0.048, "4.0": 0.097, "3.5": 0.185, "3.0": 0.37},
    "trellis_ldlq": {"5.5": 0.0085, "4.5": 0.033, "4.0": 0.063, "3.5": 0.125, "3.0": 0.24},
    "polar": {"5.5": None, "4.0": None, "3.5": None},
    "scalar": {"5.0": None, "4.0": None},
    "rtn": {"6.0": None, "4.0": None},
    "w8a8": {"8.0": None},
}
# Tensors with rates of their own, at the size of one rate.
MIXED_KL_LIMIT = {"5.5": 0.0075, "4.0": 0.052}
METHOD_ABOUT = {
    "ldlq": "joint codec with error feedback (LDLQ), 16 calibration windows",
    "trellis_ldlq": "trellis codec with error feedback (LDLQ); calibration windows as in the command",
    "polar": "amplitude and phase coded apart, no channel scales",
    "scalar": "Lloyd-Max levels for each weight, no channel scales",
    "rtn": "round to nearest, rows scaled by their largest weight, neither rotation nor channel scales",
    "w8a8": "SmoothQuant W8A8 (alpha 0.5) on 8-bit kernels",
}
# Quantizers from PyPI that ours is compared with at 4 bits (measure_peers.py): what they are called, how they are run, and
# how that is told. Both are published settings but for the windows' length, so that each takes minutes on two cores:
# AutoRound goes through a sixteenth of the tokens that its default recipe does.
PEERS = {
    "autoround": {"title": "AutoRound", "options": ["--recipe", "light", "--sample-tokens", "512", "--group-size", "128"],
                  "about": "its light recipe of 50 iterations, 128 windows of 512 tokens instead of 2048"},
    "gptq": {"title": "GPTQModel", "options": ["--sample-tokens", "1024", "--group-size", "128"],
             "about": "its defaults, 128 windows of 1024 tokens"},
}
# Of ours beside them, and how their keys' last parts begin.
PEER_METHODS = {"ldlq": "", "trellis_ldlq": "trellis_"}
JOINT_SCALE_KL_LIMIT = {"5.5": 0.016, "4.0": 0.13, "3.5": 0.25}

# Rows and columns of the products of a GPU: gate and up, and down, of Mistral 7B. The bars are for codes of 40 MB
# and more, which the second shape has from 5.5 bits a weight on.
GPU_SHAPES = [(28672, 4096), (4096, 14336)]
GPU_LEAST_BYTES = 40e6
# Codec, rate, tokens, least fraction of the read bandwidth (None: only to know the figure), what it is.
GPU_PRODUCTS = [("joint", "5.5", 1, 0.8, "product from codes of the joint codec"),
                ("joint", "5.5", 16, 0.7, "the same for 16 tokens"),
                ("joint", "4.0", 1, 0.8, "product from codes of the joint codec at 4 bpw"),
                ("trellis", "4.0", 1, None, "product from codes of the trellis codec"),
                ("int8", "8.0", 1, 0.8, "product of 8-bit weights and activations"),
                ("full", "16.0", 1, None, "product of 16-bit weights by this engine's own dense kernel, which "
                 "gpu.decode_7b.5.5.ratio_full has below the line")]
# Name: prompts from so many tokens to less than so many, least fraction of cuBLAS's speed, what it is.
GPU_PREFILL = {"from_384.cublas_fraction": (384, 1 << 30, 0.7, "384 to 2048 tokens"),
               "below_384.cublas_fraction": (1, 384, 0.6, "64 to 256 tokens")}
# Name: unit, bar, what it is.
GPU_DECODE = {"tokens_per_second": ("tokens/s", None, "greedy decoding at 5.5 bpw of a model of random codes and Mistral "
                                    "7B's shapes, batch 1, 128 tokens, all of a step"),
              "roofline_fraction": ("ratio", 0.6, "its weight bytes a second over what the reading kernel reaches"),
              "ratio_full": ("ratio", 2.2, "its speed over the same engine's with 16-bit weights (codec full). Those go through "
                             "this engine's own dense kernel, and a slow one flatters the ratio: gpu.full.16.0.read_fraction is "
                             "that kernel by itself beside the read bandwidth")}
# Method, rate, least weights/s, what it is.
GPU_QUANTIZE = [("joint", "5.5", 1e9, "scale, rotate and code with the joint codebook"),
                ("joint", "4.0", None, "the same at 4 bpw"),
                ("ldlq", "4.0", None, "the joint codec with error feedback (LDLQ), factors included,"),
                ("trellis", "4.0", 15e6, "scale, rotate and search trellises of 2^16 states"),
                ("trellis_ldlq", "4.0", None, "the trellis with error feedback, factors included,")]

# Metadata stores: as store_bench calls them, and as their keys end.
QUEUE_ENGINES = {"sqlite": "sqlite", "postgresql": "postgres"}


# A figure that stays short of its bar is reported as it is after so many attempts, each different and measured.
LEAST_ATTEMPTS = 3


@dataclasses.dataclass(frozen=True)
class Attempt:
    """What was done to bring a figure to its bar, what that brought, and how this was measured."""

    commit: str
    done: str
    brought: str
    measured: str


ONE_CORE = "one token, one core, from its second-level cache"
XEON = f"{ONE_CORE}; Sapphire Rapids, beside other load"
ATTEMPTS = {
    "smollm2.decode.ratio_q5_0.avx2": [
        Attempt("cd22d1097fad", "one 64-bit load brings four indices of a row, bit planes are unpacked 32 bytes at a time, the "
                "next rows of the head are prefetched", "57 to 81 tokens/s",
                "batch 1 at 5.5 bpw, 2 threads, head in 16 bits"),
        Attempt("cb2cba16071c", "the other codec at the same rate, computed as bytes and not looked up (smollm2.decode_trellis.*): what to "
                "pick for such a machine", "6.2 to 9.9 G weights/s at 11 bits a pair", "one token, one core"),
        Attempt("aa941fa9e806", "a parallel call no longer waits for threads that never came to it", "110 to 72 us a call of eight "
                "short ranges", "two compilers beside it"),
    ],
    "smollm2.decode.ratio_q5_0.avx512": [
        Attempt("20fca034317d", "kernels of AVX-512, which look magnitudes up in registers by permutations of bytes",
                "3.4 times as fast as AVX2 at 5.5 bits a weight: 32 G weights/s, AVX2 9", ONE_CORE),
        Attempt("20fca034317d", "the lookup of 9-bit magnitudes as two chains of two permutations joined by a blend",
                "32 G weights/s; one chain of four 27, blends alone 25", "codes of 11 bits a pair on Zen 4"),
    ],
    "smollm2.decode.ratio_q4_0.avx2": [
        Attempt("973f765d28ec", "codes of up to 9 bits a pair are looked up in registers",
                "6 to 8.4 G weights/s at 9 bits a pair", XEON),
        Attempt("cb2cba16071c", "magnitudes are looked up by differences of tables, without blends",
                "7.5 to 8.5 G weights/s at 9 bits a pair", "one token, one core"),
        Attempt("aa941fa9e806", "a parallel call no longer waits for threads that never came to it", "110 to 72 us a call of eight "
                "short ranges", "two compilers beside it"),
    ],
    "smollm2.decode.ratio_q4_0.avx512": [
        Attempt("20fca034317d", "kernels of AVX-512, which look magnitudes up in registers by permutations of bytes",
                "63 G weights/s at 9 bits a pair, AVX2 9", ONE_CORE),
        Attempt("f77001d6af75", "one kernel for one to four tokens, which sums both halves of a line in turn",
                "63 to 89 G weights/s at 9 bits a pair", ONE_CORE),
    ],
    "smollm2.decode40.ratio_q4_0.avx2": [
        Attempt("973f765d28ec", "codes of up to 9 bits a pair are looked up in registers",
                "6 to 13 G weights/s at 8 bits a pair", XEON),
        Attempt("aa941fa9e806", "a parallel call no longer waits for threads that never came to it", "110 to 72 us a call of eight "
                "short ranges", "two compilers beside it"),
        Attempt("145509c4cad0", "magnitudes of four quarters of a line at a time, so that each table is loaded once for all; not "
                "kept", "220 to 208 tokens/s (127 to 136 at 4.5 bits a weight)", "batch 1, 2 threads, Zen 5; "
                "the trellis codec at the same rate has 257"),
    ],
}
# Figures that fail their bars and have had fewer attempts than that: work to be done, which the page says.
ATTEMPTS_DUE: list[str] = []


@dataclasses.dataclass(frozen=True)
class Key:
    """`kind` says how value and `limit` compare: "<=", ">=", "within" (relative `tolerance` of limit) or "" (no bar)."""

    unit: str
    about: str
    kind: str = ""
    limit: float = 0
    tolerance: float = 0

    def bar(self):
        if self.kind == "within":
            return f"within {100 * self.tolerance:g} % of {self.limit:g}"
        return f"{self.kind} {self.limit:g}" if self.kind else "none"

    def passes(self, value):
        """True, False, or None where there is no bar."""
        if self.kind == "<=":
            return value <= self.limit
        if self.kind == ">=":
            return value >= self.limit
        if self.kind == "within":
            return abs(value / self.limit - 1) <= self.tolerance
        return None


def peer_keys(peer, method):
    """The keys of both ratios of a method of ours to a peer."""
    return [f"peer.{peer}.4bit.{PEER_METHODS[method]}{what}_ratio" for what in ("kl", "seconds")]


KEYS = {
    "smollm2.tokenizer.mismatches": Key(
        "tokens", "tokens that differ from llama-tokenize on wiki.test.raw and on hostile text", "<=", 0),
    "gemma3.tokenizer.mismatches": Key("tokens", "the same for Gemma 3 270M", "<=", 0),
    "smollm2.base.ppl_rel_diff": Key(
        "ratio", "relative difference of the unquantized model's perplexity from llama-perplexity's on its F16 file, "
        "16 windows of 1024 tokens, second halves scored", "<=", 0.001),
    **{f"smollm2.joint.{bpw}.kl": Key(
        "nats/token", f"mean KL from the unquantized model at {bpw} bpw, no channel scales; 8 windows of 1024 tokens of "
        "wiki.test.raw, every position", "within", kl, 0.1) for bpw, kl in JOINT_KL.items()},
    **{f"smollm2.joint_scale.{bpw}.kl": Key("nats/token", f"the same at {bpw} bpw with channel scales", "<=", limit)
       for bpw, limit in JOINT_SCALE_KL_LIMIT.items()},
    **{f"smollm2.{method}.{rate}.kl": Key(
        "nats/token", f"mean KL at {rate} bpw: {METHOD_ABOUT[method]}; same windows", "<=" if limit else "", limit or 0)
       for method, limits in METHOD_KL_LIMIT.items() for rate, limit in limits.items()},
    **{f"smollm2.{method}.quantize_seconds": Key("s", f"calibrate, quantize and assemble; {about}", "<=", limit)
       for method, about, limit in (("ldlq", "4 bpw, joint with error feedback", 90),
                                    ("trellis_ldlq", "4 bpw, trellis of 2^16 states with error feedback", 600))},
    **{f"smollm2.mixed.{rate}.kl": Key(
        "nats/token", f"mean KL of the best artifact of the size of {rate} bpw: trellis with error feedback, rates by "
        "what each tensor is worth; same windows", "<=", limit) for rate, limit in MIXED_KL_LIMIT.items()},
    "smollm2.target_kl.bpw_above_sweep": Key(
        "bpw", "size of what a job with the target KL <= 0.02 gives, above the smallest rate of a full sweep whose upper "
        "bound passes; joint with error feedback", "<=", 0.15),
    "study.spearman": Key(
        "ratio", "rank correlation of mean KL and perplexity change over all rows of the studies of SmolLM2 and Gemma 3 "
        "270M", ">=", 0.98),
    "study.smollm2.joint_over_polar": Key(
        "ratio", "KL of the joint codec over that of the polar one at equal bits, the largest of 3.5, 4 and 5.5 bpw", "<=",
        1),
    "study.smollm2.ldlq_5.5_over_w8a8": Key(
        "ratio", "KL of the joint codec with error feedback at 5.5 bpw over SmoothQuant W8A8's, in one study", "<=", 1),
    "smollm2.embedding8.kl_ratio": Key(
        "ratio", "mean KL at 5.5 bpw with 8-bit embeddings and head over that with the checkpoint's"),
    "smollm2.embedding8.bytes_ratio": Key("ratio", "size of the weights file, likewise"),
    "smollm2.kv8.kl": Key(
        "nats/token", "mean KL of the unquantized model with an 8-bit KV cache from itself with floats; 8 windows of 1024 "
        "tokens of wiki.test.raw, every position"),
    "smollm2.joint_scale.5.5.kl_ratio_q5_0": Key(
        "ratio", "mean KL at 5.5 bpw over that of llama.cpp's Q5_0 (5.5 bpw), second halves of the same 8 windows scored "
        "on both sides", "<=", 0.25),
    "gemma3.joint_scale.5.5.kl": Key(
        "nats/token", "Gemma 3 270M at 5.5 bpw with channel scales; 4 windows of 1024 tokens, BOS first", "<=", 0.0125),
    "smollm2.quantize.seconds": Key(
        "s", "a job of the server, from its start to the assembled artifact, 5.5 bpw with channel scales: calibrate, "
        "quantize, assemble", "<=", 60),
    "smollm2.quantize.weights_per_second_per_core": Key(
        "weights/s", "the quantize stage of that job", ">=", 20e6),
    "smollm2.decode.ratio_q5_0": Key(
        "ratio", "batch-1 tokens/s at 5.5 bpw over llama-bench's on Q5_0, rounds of both in turn, median", ">=", 0.6),
    "smollm2.decode.tokens_per_second": Key("tokens/s", "batch-1, 128 tokens from an empty cache, 5.5 bpw"),
    "smollm2.decode.gb_per_second": Key("GB/s", "weight bytes read a second while decoding"),
    "smollm2.decode.bandwidth_fraction": Key(
        "ratio", "the same over the read bandwidth: what the fastest of some reading loops reaches with as many threads, of "
        "memory many times the last-level cache"),
    **{f"smollm2.{stem}.{isa}": Key(
        "ratio", f"batch-1 tokens/s at {rate} bpw, codec {codec}, over llama-bench's on {kind}, the head in 8 bits on both "
        f"sides; our kernels for {isa}, rounds of both in turn, median", ">=" if limit else "", limit)
       for stem, codec, rate, kind, limits in (("decode.ratio_q5_0", "joint", "5.5", "Q5_0", (0.9, 1.4)),
                                               ("decode.ratio_q4_0", "joint", "4.5", "Q4_0", (0.9, 1.4)),
                                               ("decode40.ratio_q4_0", "joint", "4.0", "Q4_0", (1.0, 1.0)),
                                               ("decode_trellis.ratio_q5_0", "trellis", "5.5", "Q5_0", (0.9, 0)),
                                               ("decode_trellis.ratio_q4_0", "trellis", "4.5", "Q4_0", (0.9, 0)),
                                               ("decode40_trellis.ratio_q4_0", "trellis", "4.0", "Q4_0", (1.0, 0)))
       for isa, limit in zip(("avx2", "avx512"), limits)},
    "smollm2.prefill512.ratio_q5_0": Key(
        "ratio", "tokens/s of a prompt of 512 tokens at 5.5 bpw over llama-bench's on Q5_0, the head in 8 bits on both "
        "sides; rounds of both in turn, median", ">=", 1),
    "kernels.prefill512.ratio_openblas": Key(
        "ratio", "multiply-adds a second of 512 tokens through a packed layer of 4096 x 4096 at 5.5 bpw, rotation and rounding of "
        "the activations included, over those of OpenBLAS's product of floats, whose weights were dequantized before; rounds "
        "of both in turn, median. Ours are of integers, so that the peak of float multiply-adds is not theirs"),
    "smollm2.decode.pinned_ratio": Key(
        "ratio", "batch-1 tokens/s at 5.5 bpw with each thread held to a core of its own over the same without; rounds of both "
        "in turn, median"),
    "smollm2.streams16.ratio_llama_server": Key(
        "ratio", "tokens/s of 16 streams at once on our server at 5.5 bpw over llama-server's on Q8_0, the head in 8 bits on "
        "both sides; prompts and answers of 128 tokens, rounds of both in turn, median. A step of 16 streams reads the weights "
        "once and is bound by arithmetic, not by bandwidth", ">=", 1.2),
    "engine.streams256.lost": Key(
        "streams", "of 256 at once on our server, 5.5 bpw: ended with an error or too early; prompts and answers of 64 "
        "tokens, a stream that ends is replaced", "<=", 0),
    "engine.streams256.rss_growth": Key(
        "ratio", "resident memory of the server at the end of that load over that at a fifth of it, less 1", "<=", 0.02),
    **{f"engine.streams256.{field}.{part}": Key("ms", f"{about}, {part} over that load")
       for field, about in (("ttft_ms", "from a request to its first token"), ("inter_token_ms", "from token to token"))
       for part in ("p50", "p99")},
    "smollm2.ldlq.peak_rss_over_plan": Key(
        "ratio", "peak resident memory of calibrating, quantizing and assembling with error feedback, over what the plan "
        "promised: a block of the model, its statistics, a tensor and its factor for each thread", "<=", 1),
    "gpu.read.gb_per_second": Key("GB/s", "what a kernel reads that does nothing else"),
    **{f"gpu.{codec}.{rate}.{'' if tokens == 1 else f'batch{tokens}.'}read_fraction": Key(
        "ratio", f"{about}: bytes of codes a second over what the reading kernel reaches; the worst of "
        "matrices of 28672 x 4096 and 4096 x 14336 with 40 MB of codes or more, that are together four times the cache",
        ">=" if limit else "", limit or 0)
       for codec, rate, tokens, limit, about in GPU_PRODUCTS},
    "gpu.chain.5.5.read_fraction": Key(
        "ratio", "the products of four layers of Mistral 7B's shapes, batch 1, replayed as a graph: bytes of codes a "
        "second over what the reading kernel reaches", ">=", 0.7),
    **{f"gpu.prefill.5.5.{name}": Key(
        "ratio", f"products of a layer of Mistral 7B's shapes for prompts of {about}: cuBLAS's time with half-precision "
        "weights and float sums over ours, the least. Ours give the CPU's bits: two matrix instructions where cuBLAS has "
        "one", ">=", limit) for name, (_, _, limit, about) in GPU_PREFILL.items()},
    **{f"gpu.decode_7b.5.5.{name}": Key(unit, about, ">=" if limit else "", limit or 0)
       for name, (unit, limit, about) in GPU_DECODE.items()},
    "gpu.trellis_search.4.0.weights_per_second": Key(
        "weights/s", "the search of 2^16 states at 4 bpw on a GPU, the codes of the CPU's search; bound by integer arithmetic, so "
        "that no bandwidth is its peak"),
    **{f"gpu.quantize.{method}.{rate}.weights_per_second": Key(
        "weights/s", f"{about} on a GPU, the CPU's bytes; the matrices of one layer of Mistral 7B's shapes, from floats to "
        "codes in the host's memory", ">=" if limit else "", limit or 0)
       for method, rate, limit, about in GPU_QUANTIZE},
    "gpu.quantize.ldlq.4.0.seconds_7b": Key(
        "s", "factors and codes of 32 such layers at 4 bpw, joint with error feedback (LDLQ), at the pace of one", "<=", 180),
    **{key: spec for peer in PEERS for method in PEER_METHODS
       for key, spec in zip(peer_keys(peer, method), (
           Key("ratio", f"our mean KL at 4 bpw over {PEERS[peer]['title']}'s at 4 bits ({PEERS[peer]['about']}): "
               f"{METHOD_ABOUT[method]}; 8 windows of 1024 tokens of wiki.test.raw, every position, each side against its "
               "own unquantized float32 model", "<=", 1),
           Key("ratio", f"our wall time to calibrate, quantize and assemble over {PEERS[peer]['title']}'s from reading the "
               "checkpoint to the last byte written; same artifacts, machine and threads")))},
    "bounded.quantize.peak_rss_ratio": Key(
        "ratio", "peak resident memory over 768 MiB while a random Llama of at least 2 GiB is calibrated, quantized and "
        "assembled, with data memory limited to 768 MiB", "<=", 1),
    **{f"queue.{what}.{short}": Key(unit, f"{about}, {engine}; 1000 queued jobs of 53 tasks, 4 threads that lease and "
                                    "complete tasks")
       for engine, short in QUEUE_ENGINES.items()
       for what, unit, about in (("claim_p99_ms", "ms", "what a worker waits for a task, 99th percentile"),
                                 ("transactions_per_second", "1/s", "leases and completions together"))},
    "fleet.workers3.speedup": Key(
        "ratio", "a job on SmolLM2 by three workers over PostgreSQL and SeaweedFS, each on one thread, beside one such worker: "
        "ratio of the times from the job's start to its end", ">=", 2.5),
    "fleet.workers2.seconds_over_one_process": Key(
        "ratio", "that job by two workers on one thread each over the time of one server with SQLite on two threads: what it "
        "costs to be several, on the same cores"),
    "fleet.overhead_ms_per_task": Key(
        "ms", "time of a job of many tiny tasks on one worker that is not in the tasks: claim, report, turn of stages, a task"),
    "fleet.simulated.workers_at_half_efficiency": Key(
        "workers", "simulated on recorded task times and store costs ([scaling](scaling.md)), 100 jobs of 7B, checkpoints on the "
        "workers' disks: most workers, of powers of two, that are half as good as one by itself"),
    "fleet.worker.rss_over_limit": Key(
        "ratio", "peak resident memory of a worker of a fleet, with a node cache of its own, that calibrates, quantizes, assembles "
        "and measures a random Llama of at least 2 GiB, over its limit, a quarter of the weights' bytes; mapped files count", "<=", 1),
    "fleet.serving_beside_job.inter_token_p99_ratio": Key(
        "ratio", "from token to token, 99th percentile of 4 streams on one server at 5.5 bpw, while it quantizes with its threads' "
        "default priority, over the same without a job; prompts and answers of 128 tokens, rounds of both in turn, median", "<=", 3),
}


def select(prefixes):
    """Keys that start with one of `prefixes`, all for none; a prefix that selects nothing is a ValueError."""
    for prefix in prefixes:
        if not any(key.startswith(prefix) for key in KEYS):
            raise ValueError(f"no key starts with '{prefix}'; ./run bench --list names them")
    return [key for key in KEYS if not prefixes or any(key.startswith(prefix) for prefix in prefixes)]
