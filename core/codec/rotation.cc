#include "core/codec/rotation.h"

#include <algorithm>
#include <cmath>

#include "core/base/rng.h"

// Additions give the same bits in any width, so the compiler may make a wide copy of a loop beside the plain one. The
// choice is made by the loader before ThreadSanitizer is ready, which crashes it: there, only the plain one.
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

// One output row of a dense factor, kWidth columns at a time with their sums in registers.
template <int kWidth>
__attribute__((always_inline)) inline void DenseRow(const float* source, const float* signs, int64_t sign_stride,
                                                    int64_t order, int64_t inner, int64_t& k, float* result) {
  for (; k + kWidth <= inner; k += kWidth) {
    float sum[kWidth] = {};
    for (int64_t col = 0; col < order; ++col) {
      const float sign = signs[col * sign_stride];
      const float* value = source + col * inner + k;
      for (int i = 0; i < kWidth; ++i) sum[i] += sign * value[i];
    }
    for (int i = 0; i < kWidth; ++i) result[k + i] = sum[i];
  }
}

// Applies a dense factor along one axis of [outer][order][inner], out of place.
QAMSERVE_AVX2_CLONE void ApplyDense(const float* in, float* out, const float* matrix, int64_t order, int64_t outer,
                                    int64_t inner, bool transpose) {
  for (int64_t o = 0; o < outer; ++o) {
    const float* source = in + o * order * inner;
    for (int64_t row = 0; row < order; ++row) {
      float* result = out + (o * order + row) * inner;
      const float* signs = transpose ? matrix + row : matrix + row * order;
      const int64_t sign_stride = transpose ? order : 1;
      int64_t k = 0;
      DenseRow<32>(source, signs, sign_stride, order, inner, k, result);
      DenseRow<8>(source, signs, sign_stride, order, inner, k, result);
      DenseRow<4>(source, signs, sign_stride, order, inner, k, result);
      DenseRow<1>(source, signs, sign_stride, order, inner, k, result);
    }
  }
}

// Sylvester's matrix of order n on each of `outer` consecutive runs of n, in place.
QAMSERVE_AVX2_CLONE void ApplySylvester(float* x, int64_t n, int64_t outer) {
  for (int64_t half = n / 2; half >= 1; half /= 2) {
    for (int64_t start = 0; start < n * outer; start += 2 * half) {
      float* a = x + start;
      float* b = a + half;
      for (int64_t k = 0; k < half; ++k) {
        const float sum = a[k] + b[k], difference = a[k] - b[k];
        a[k] = sum;
        b[k] = difference;
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
