#include "core/quantize/pair_coder.h"

#include <algorithm>
#include <cmath>

#include "core/codec/int8_packing.h"
#include "core/codec/trellis.h"

namespace qamserve {
namespace {

class CodebookCoder : public PairCoder {
 public:
  explicit CodebookCoder(const NearestPoint& nearest) : nearest_(nearest) {}
  void Encode(float* x, float* y, uint16_t* codes) override {
    for (int r = 0; r < kTileRows; ++r) {
      const NearestPoint::Point point = nearest_.Encode(x[r], y[r]);
      codes[r] = static_cast<uint16_t>(point.code);
      x[r] = point.x;
      y[r] = point.y;
    }
  }

 private:
  const NearestPoint& nearest_;
};

// Whole numbers of 127ths of a row's largest weight.
class Int8Coder : public PairCoder {
 public:
  void Encode(float* x, float* y, uint16_t* codes) override {
    constexpr auto kMax = static_cast<float>(kInt8MaxWeight);
    const auto round = [&](float& v) {
      const float q = std::nearbyint(std::clamp(v * kMax, -kMax, kMax));
      v = q * (1.0f / kMax);
      return static_cast<uint8_t>(static_cast<int8_t>(q));
    };
    for (int r = 0; r < kTileRows; ++r) {
      const uint8_t even = round(x[r]), odd = round(y[r]);
      codes[r] = static_cast<uint16_t>(even | odd << 8);
    }
  }
};

class TrellisCoder : public PairCoder {
 public:
  explicit TrellisCoder(const TrellisTable& table)
      : bits_(table.pair_bits()), step_(TrellisStep(bits_)), search_(table, BestKernels()) {}
  void Encode(float* x, float* y, uint16_t* codes) override {
    for (int r = 0; r < kTileRows; ++r) {
      x[r] /= step_;
      y[r] /= step_;
    }
    search_.Encode(x, y, codes);
    uint32_t state = 0;
    for (int r = -kTrellisStateBits; r < kTileRows; ++r) {
      state = NextTrellisState(state, codes[(r + kTileRows) % kTileRows], bits_);
      if (r < 0) continue;
      x[r] = static_cast<float>(TrellisValue(state, 0)) * step_;
      y[r] = static_cast<float>(TrellisValue(state, 1)) * step_;
    }
  }

 private:
  int bits_;
  float step_;
  TrellisSearch search_;
};

}  // namespace

CoderTables::CoderTables(const TensorFormat& format) : format_(format) {
  if (const Codebook* codebook = CodebookOf(format)) {
    nearest_ = std::make_unique<const NearestPoint>(*codebook);
  } else if (format.codec == Codec::kTrellis) {
    trellis_ = std::make_unique<const TrellisTable>(format.pair_bits);
  }
}

std::unique_ptr<PairCoder> CoderTables::MakeCoder() const {
  if (trellis_ != nullptr) return std::make_unique<TrellisCoder>(*trellis_);
  if (nearest_ == nullptr) return std::make_unique<Int8Coder>();
  return std::make_unique<CodebookCoder>(*nearest_);
}

}  // namespace qamserve
