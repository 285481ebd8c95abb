// Products to compute, with weights and activations in every place that a kernel may get wrong.
#pragma once

#include <vector>

#include "core/base/rng.h"
#include "core/codec/int8_packing.h"
#include "core/codec/tensor_format.h"
#include "core/kernels/kernels.h"

namespace qamserve {

// Random codes; activations of any size, those of token 1 all the largest.
struct PackedProblem {
  int64_t rows, cols, tokens;
  std::vector<uint8_t> codes;
  std::vector<float> row_scale, scale;
  std::vector<int16_t> q;
  std::vector<int32_t> table;
  PackedMatrix w;
  PackedInput x;

  PackedProblem(const TensorFormat& format, int64_t r, int64_t c, int64_t t) : rows(r), cols(c), tokens(t) {
    Rng rng(static_cast<uint64_t>(100 * r + c + t + format.pair_bits));
    codes.resize(static_cast<size_t>(PackedBytes(rows, cols, format.pair_bits)));
    for (uint8_t& byte : codes) byte = static_cast<uint8_t>(rng.NextU64());
    for (int64_t i = 0; i < StripsDown(rows) * kTileRows; ++i) {
      row_scale.push_back(static_cast<float>(rng.NextUniform()));
    }
    q.resize(static_cast<size_t>(tokens * PaddedCols(cols)));
    for (int64_t token = 0; token < tokens; ++token) {
      scale.push_back(static_cast<float>(rng.NextUniform()));
      for (int64_t col = 0; col < cols; ++col) {
        const int any = static_cast<int>(rng.NextU64() % (2 * kMaxActivation + 1)) - kMaxActivation;
        const int most = rng.NextU64() % 2 == 0 ? kMaxActivation : -kMaxActivation;
        q[static_cast<size_t>(token * PaddedCols(cols) + col)] = static_cast<int16_t>(token == 1 ? most : any);
      }
    }
    table = DecodeTable(format);
    w = {codes.data(), row_scale.data(), table.empty() ? nullptr : table.data(), format.pair_bits, rows, cols};
    x = {q.data(), PaddedCols(cols), scale.data(), tokens};
  }
  PackedProblem(const PackedProblem&) = delete;

  std::vector<float> Reference() const {
    std::vector<float> y(static_cast<size_t>(tokens * rows), -1);
    alignas(64) char scratch[kPackedScratchBytes];
    ScalarKernels().packed_matmul({w, x, y.data(), rows, 0, StripsDown(rows), scratch});
    return y;
  }
};

// Any bytes; activations of 8 bits, and of 14.
struct Int8Problem {
  int64_t rows, cols, tokens;
  std::vector<int8_t> data;
  std::vector<float> row_scale, scale;
  std::vector<int8_t> q;
  std::vector<int16_t> wide;
  Int8Matrix w;
  Int8Input x;
  PackedInput wide_x;

  Int8Problem(int64_t r, int64_t c, int64_t t) : rows(r), cols(c), tokens(t) {
    Rng rng(static_cast<uint64_t>(100 * r + c + t));
    data.resize(static_cast<size_t>(Int8Bytes(rows, cols)));
    for (int8_t& byte : data) byte = rng.NextU64() % 16 == 0 ? int8_t{-128} : static_cast<int8_t>(rng.NextU64());
    for (int64_t i = 0; i < StripsDown(rows) * kTileRows; ++i) {
      row_scale.push_back(static_cast<float>(rng.NextUniform()));
    }
    const int64_t padded = PaddedCols(cols);
    q.resize(static_cast<size_t>(tokens * padded));
    wide.resize(q.size());
    for (int64_t token = 0; token < tokens; ++token) {
      scale.push_back(static_cast<float>(rng.NextUniform()));
      for (int64_t col = 0; col < cols; ++col) {
        const auto at = static_cast<size_t>(token * padded + col);
        const int narrow = static_cast<int>(rng.NextU64() % (2 * kMaxActivation8 + 1)) - kMaxActivation8;
        const int any = static_cast<int>(rng.NextU64() % (2 * kMaxActivation + 1)) - kMaxActivation;
        q[at] = static_cast<int8_t>(token == 1 ? -kMaxActivation8 : narrow);
        wide[at] = static_cast<int16_t>(token == 1 ? -kMaxActivation : any);
      }
    }
    w = {data.data(), row_scale.data(), rows, cols};
    x = {q.data(), padded, scale.data(), tokens};
    wide_x = {wide.data(), padded, scale.data(), tokens};
  }
  Int8Problem(const Int8Problem&) = delete;

  std::vector<float> Reference() const {
    std::vector<float> y(static_cast<size_t>(tokens * rows), -1);
    ScalarKernels().int8_matmul({w, x, y.data(), rows, 0, StripsDown(rows)});
    return y;
  }
  std::vector<float> WideReference() const {
    std::vector<float> y(static_cast<size_t>(tokens * rows), -1);
    ScalarKernels().int8_wide_matmul({w, wide_x, y.data(), rows, 0, StripsDown(rows)});
    return y;
  }
};

}  // namespace qamserve
