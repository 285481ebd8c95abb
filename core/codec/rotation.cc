#include "core/codec/rotation.h"

#include <algorithm>
#include <cmath>

#include "core/base/rng.h"

// Additions in one order give the same bits in any width, so the compiler may make a wide copy of a loop beside the
// plain one. The choice is made by the loader before ThreadSanitizer is ready, which crashes it: there, only the plain
// one.
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
#define QAMSERVE_AVX2_CLONE __attribute__((target_clones("avx2", "default")))
#else
#define QAMSERVE_AVX2_CLONE
#endif

namespace qamserve {
namespace {

bool IsPrime(int64_t q) {
  if (q < 2) return false;
  for (int64_t d = 2; d * d <= q; ++d) {
    if (q % d == 0) return false;
  }
  return true;
}

bool IsPowerOfTwo(int64_t n) { return n > 0 && (n & (n - 1)) == 0; }

// The Jacobsthal matrix of a prime q: entry (i, j) is the Legendre symbol of i - j.
std::vector<int> Jacobsthal(int64_t q) {
  std::vector<int> symbol(static_cast<size_t>(q), -1);
  symbol[0] = 0;
  for (int64_t i = 1; i < q; ++i) symbol[static_cast<size_t>(i * i % q)] = 1;
  std::vector<int> matrix(static_cast<size_t>(q * q));
  for (int64_t i = 0; i < q; ++i) {
    for (int64_t j = 0; j < q; ++j)
      matrix[static_cast<size_t>(i * q + j)] = symbol[static_cast<size_t>((i - j + q) % q)];
  }
  return matrix;
}

// Orders above this cost more as a dense factor than the blocks that would replace them.
constexpr int64_t kMaxPaleyOrder = 256;

bool HasPaley(int64_t order) {
  if (order > kMaxPaleyOrder || order % 4 != 0) return false;
  if (IsPrime(order - 1) && (order - 1) % 4 == 3) return true;
  const int64_t q = order / 2 - 1;
  return order % 4 == 0 && IsPrime(q) && q % 4 == 1;
}

// Extends `chosen` so that its product times a power of two is n; keeps the cheapest in `best`.
void Search(int64_t n, int64_t least, std::vector<int64_t>& chosen, int64_t cost, int64_t& best_cost,
            std::vector<int64_t>& best) {
  if (IsPowerOfTwo(n)) {
    int64_t total = cost;
    for (int64_t p = n; p > 1; p /= 2) ++total;
    if (total < best_cost) {
      best_cost = total;
      best = chosen;
      if (n > 1 || chosen.empty()) best.push_back(n);
    }
    return;
  }
  for (int64_t order = least; order <= std::min(n, kMaxPaleyOrder); order += 4) {
    if (n % order != 0 || IsPowerOfTwo(order) || !HasPaley(order)) continue;
    chosen.push_back(order);
    Search(n / order, order, chosen, cost + order, best_cost, best);
    chosen.pop_back();
  }
}

// Vectors as the compiler knows them; it makes of them what the instruction set of a clone has.
using Float4 = float __attribute__((vector_size(16)));
using Float8 = float __attribute__((vector_size(32)));

template <typename Vector>
__attribute__((always_inline)) inline void Load(const float* from, Vector& v) {
  __builtin_memcpy(&v, from, sizeof(v));
}
template <typename Vector>
__attribute__((always_inline)) inline void Store(const Vector& v, float* to) {
  __builtin_memcpy(to, &v, sizeof(v));
}

// Rows of a dense factor that are summed at once: with one, every addition would wait for the one before it.
constexpr int kDenseRows = 4;  // every order is a multiple of 4

// Signs of kDenseRows output rows: entry (row, col) is at row * row_stride + col * col_stride.
struct Signs {
  const float* data;
  int64_t row_stride;
  int64_t col_stride;
};

// kDenseRows output rows, columns k onwards as far as whole vectors go. A row's sum runs over `col` in ascending order.
template <typename Vector>
__attribute__((always_inline)) inline void DenseRows(const float* source, const Signs& signs, int64_t order,
                                                     int64_t inner, int64_t& k, float* result) {
  constexpr int64_t kWidth = sizeof(Vector) / sizeof(float);
  for (; k + kWidth <= inner; k += kWidth) {
    Vector sum[kDenseRows] = {};
    for (int64_t col = 0; col < order; ++col) {
      Vector value;
      Load(source + col * inner + k, value);
      for (int r = 0; r < kDenseRows; ++r) sum[r] += signs.data[r * signs.row_stride + col * signs.col_stride] * value;
    }
    for (int r = 0; r < kDenseRows; ++r) Store(sum[r], result + r * inner + k);
  }
}

// Applies a dense factor along one axis of [outer][order][inner], out of place.
QAMSERVE_AVX2_CLONE void ApplyDense(const float* in, float* out, const float* matrix, int64_t order, int64_t outer,
                                    int64_t inner, bool transpose) {
  using Float1 = float __attribute__((vector_size(4)));
  const int64_t row_stride = transpose ? 1 : order, col_stride = transpose ? order : 1;
  for (int64_t o = 0; o < outer; ++o) {
    const float* source = in + o * order * inner;
    for (int64_t row = 0; row < order; row += kDenseRows) {
      float* result = out + (o * order + row) * inner;
      const Signs signs{matrix + row * row_stride, row_stride, col_stride};
      int64_t k = 0;
      DenseRows<Float8>(source, signs, order, inner, k, result);
      DenseRows<Float4>(source, signs, order, inner, k, result);
      DenseRows<Float1>(source, signs, order, inner, k, result);
    }
  }
}

// The stage of Sylvester's transform whose partners are kHalf lanes apart: lower lanes become a + b, upper ones a - b.
template <int kHalf>
__attribute__((always_inline)) inline void SylvesterWithin(Float8& v) {
  constexpr int h = kHalf;
  constexpr auto sign = [](int lane) { return (lane & h) != 0 ? -1.0f : 1.0f; };
  constexpr Float8 kSigns = {sign(0), sign(1), sign(2), sign(3), sign(4), sign(5), sign(6), sign(7)};
  v = __builtin_shufflevector(v, v, 0 ^ h, 1 ^ h, 2 ^ h, 3 ^ h, 4 ^ h, 5 ^ h, 6 ^ h, 7 ^ h) + v * kSigns;
}

// Stages `half`, `half` / 2, ... 1 for runs of 2 * half <= 8, as many as there are in whole vectors; how many floats
// that are.
__attribute__((always_inline)) inline int64_t SylvesterSmall(float* x, int64_t half, int64_t size) {
  int64_t at = 0;
  for (; at + 8 <= size; at += 8) {
    Float8 v;
    Load(x + at, v);
    if (half >= 4) SylvesterWithin<4>(v);
    if (half >= 2) SylvesterWithin<2>(v);
    SylvesterWithin<1>(v);
    Store(v, x + at);
  }
  return at;
}

// Stages `half` and `half` / 2 at once, which halves the passes over memory. REQUIRES: half >= 16.
__attribute__((always_inline)) inline void SylvesterTwoStages(float* x, int64_t half, int64_t size) {
  const int64_t quarter = half / 2;
  for (int64_t start = 0; start < size; start += 2 * half) {
    for (float* p = x + start; p < x + start + quarter; p += 8) {
      Float8 v[4];
      for (int i = 0; i < 4; ++i) Load(p + i * quarter, v[i]);
      const Float8 a = v[0] + v[2], b = v[1] + v[3], c = v[0] - v[2], d = v[1] - v[3];
      Store(a + b, p);
      Store(a - b, p + quarter);
      Store(c + d, p + 2 * quarter);
      Store(c - d, p + 3 * quarter);
    }
  }
}

// Sylvester's matrix of order n on each of `outer` consecutive runs of n, in place.
QAMSERVE_AVX2_CLONE void ApplySylvester(float* x, int64_t n, int64_t outer) {
  const int64_t size = n * outer;
  int64_t half = n / 2;
  for (; half >= 16; half /= 4) SylvesterTwoStages(x, half, size);
  for (; half >= 8; half /= 2) {
    for (int64_t start = 0; start < size; start += 2 * half) {
      Float8 a, b;
      Load(x + start, a);
      Load(x + start + half, b);
      Store(a + b, x + start);
      Store(a - b, x + start + half);
    }
  }
  const int64_t done = half >= 1 ? SylvesterSmall(x, half, size) : size;
  // What is left is shorter than a vector.
  for (; half >= 1; half /= 2) {
    for (int64_t start = done; start < size; start += 2 * half) {
      for (int64_t k = start; k < start + half; ++k) {
        const float sum = x[k] + x[k + half], difference = x[k] - x[k + half];
        x[k] = sum;
        x[k + half] = difference;
      }
    }
  }
}

}  // namespace

const char* RotationKindName(RotationKind kind) {
  switch (kind) {
    case RotationKind::kFull:
      return "full";
    case RotationKind::kBlock:
      return "block";
    case RotationKind::kNone:
      return "none";
  }
  return "";
}

absl::StatusOr<RotationKind> ParseRotationKind(std::string_view name) {
  for (RotationKind kind : {RotationKind::kFull, RotationKind::kBlock, RotationKind::kNone}) {
    if (name == RotationKindName(kind)) return kind;
  }
  return InvalidArgument("ROTATION", "rotation \"{}\" is not known; there are full, block and none", name);
}

std::vector<float> PaleyMatrix(int64_t order) {
  if (!HasPaley(order)) return {};
  const auto n = static_cast<size_t>(order);
  std::vector<float> h(n * n, 1.0f);
  if (const int64_t q = order - 1; IsPrime(q) && q % 4 == 3) {
    // Paley I: I + S, S skew with the Jacobsthal matrix in its lower right corner.
    const std::vector<int> jacobsthal = Jacobsthal(q);
    for (int64_t i = 0; i < q; ++i) {
      h[static_cast<size_t>((i + 1) * order)] = -1;
      for (int64_t j = 0; j < q; ++j) {
        h[static_cast<size_t>((i + 1) * order + j + 1)] =
            i == j ? 1.0f : static_cast<float>(jacobsthal[static_cast<size_t>(i * q + j)]);
      }
    }
    return h;
  }
  // Paley II: each entry of the symmetric conference matrix becomes a 2 x 2 block.
  const int64_t half = order / 2, q = half - 1;
  const std::vector<int> jacobsthal = Jacobsthal(q);
  for (int64_t i = 0; i < half; ++i) {
    for (int64_t j = 0; j < half; ++j) {
      int entry = 1;
      if (i == j) {
        entry = 0;
      } else if (i > 0 && j > 0) {
        entry = jacobsthal[static_cast<size_t>((i - 1) * q + j - 1)];
      }
      const int block[2][2] = {{entry == 0 ? 1 : entry, entry == 0 ? -1 : entry},
                               {entry == 0 ? -1 : entry, entry == 0 ? -1 : -entry}};
      for (int64_t a = 0; a < 2; ++a) {
        for (int64_t b = 0; b < 2; ++b) {
          h[static_cast<size_t>((2 * i + a) * order + 2 * j + b)] = static_cast<float>(block[a][b]);
        }
      }
    }
  }
  return h;
}

std::vector<int64_t> HadamardFactors(int64_t n) {
  std::vector<int64_t> chosen, best;
  int64_t best_cost = INT64_MAX;
  Search(n, 12, chosen, 0, best_cost, best);
  return best;
}

absl::StatusOr<Rotation> Rotation::Create(int64_t n, RotationKind kind, uint64_t seed) {
  if (n < 1 || n > (int64_t{1} << 20)) {
    return InvalidArgument("ROTATION_DIMENSION", "a rotation of dimension {} was asked for; the limits are 1 and 2^20",
                           n);
  }
  Rotation rotation;
  rotation.n_ = n;
  if (kind == RotationKind::kNone) return rotation;
  const int64_t block = kind == RotationKind::kFull ? n : (n & -n);
  rotation.blocks_ = n / block;
  const std::vector<int64_t> orders = HadamardFactors(block);
  if (orders.empty()) {
    return InvalidArgument(
        "ROTATION_DIMENSION",
        "no Hadamard matrix of order {} is known here (products of powers of two and Paley orders up "
        "to {}); rotation \"block\" uses blocks of {}",
        n, kMaxPaleyOrder, n & -n);
  }
  for (int64_t order : orders)
    rotation.factors_.push_back({order, IsPowerOfTwo(order) ? std::vector<float>() : PaleyMatrix(order)});
  rotation.scale_ = static_cast<float>(1.0 / std::sqrt(static_cast<double>(block)));
  Rng rng(seed * 0x9e3779b97f4a7c15u + static_cast<uint64_t>(n));
  for (int64_t i = 0; i < n; ++i) rotation.signs_.push_back(rng.NextU64() >> 63 ? -1.0f : 1.0f);
  return rotation;
}

std::string Rotation::Describe() const {
  std::string text = blocks_ > 1 ? fmt::format("{} blocks of ", blocks_) : "";
  for (size_t i = 0; i < factors_.size(); ++i) text += fmt::format("{}{}", i == 0 ? "" : " x ", factors_[i].order);
  return text;
}

void Rotation::Transform(float* x, float* scratch, bool transpose) const {
  int64_t outer = blocks_, inner = n_ / blocks_;
  float* from = x;
  float* to = scratch;
  for (const Factor& factor : factors_) {
    inner /= factor.order;
    if (factor.entries.empty()) {
      ApplySylvester(from, factor.order, outer);  // always the last factor: inner is 1
    } else {
      ApplyDense(from, to, factor.entries.data(), factor.order, outer, inner, transpose);
      std::swap(from, to);
    }
    outer *= factor.order;
  }
  if (from != x) std::copy(from, from + n_, x);
}

void Rotation::Apply(float* x, float* scratch) const {
  if (factors_.empty()) return;
  for (int64_t i = 0; i < n_; ++i) x[i] *= signs_[static_cast<size_t>(i)];
  Transform(x, scratch, /*transpose=*/false);
  for (int64_t i = 0; i < n_; ++i) x[i] *= scale_;
}

void Rotation::ApplyInverse(float* x, float* scratch) const {
  if (factors_.empty()) return;
  Transform(x, scratch, /*transpose=*/true);
  for (int64_t i = 0; i < n_; ++i) x[i] *= scale_ * signs_[static_cast<size_t>(i)];
}

}  // namespace qamserve
