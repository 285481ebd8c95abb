// A device of core/quantize/device.h that runs what a GPU's threads do one after the other on this machine.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "core/quantize/cuda/encoder.h"
#include "core/quantize/cuda/factor_bodies.h"
#include "core/quantize/cuda/outcomes.h"
#include "core/quantize/cuda/statistics_bodies.h"
#include "core/quantize/cuda/tables.h"
#include "core/quantize/device.h"
#include "core/quantize/feedback.h"
#include "tests/core/quantize/cuda/host_grid.h"

namespace qamserve {

template <typename T>
const T* DataOrNull(std::span<const T> values) {
  return values.empty() ? nullptr : values.data();
}

// `rotation` must outlive the parts.
inline RotationParts HostParts(const Rotation& rotation) {
  RotationParts parts = PartsOf(rotation);
  parts.signs = rotation.signs().data();
  for (int f = 0; f < parts.factors; ++f) {
    parts.entries[f] = DataOrNull(std::span<const float>(rotation.factors()[static_cast<size_t>(f)].entries));
  }
  return parts;
}

// As CudaFactor. `status` says why there is none.
struct HostFactor {
  std::vector<float> h, scratch, rows;
  std::vector<double> a, weights;
  double trace = 0;
  int failed = 0;
  absl::Status status;

  HostFactor(std::span<const float> outer, std::span<const float> scale, const Rotation& rotation, bool backwards)
      : h(outer.begin(), outer.end()), scratch(outer.size()), rows(outer.size()), a(outer.size(), std::nan("")) {
    const int64_t n = rotation.size();
    weights.resize(static_cast<size_t>(n / 2 * 3));
    const FactorMatrices m{h.data(), scratch.data(), a.data(), &trace, &failed, rows.data(), weights.data()};
    HostGrid grid(backwards);
    RotateOuterProducts(grid, HostParts(rotation), DataOrNull(scale), m);
    status = CheckTrace("g", trace, n);
    if (!status.ok()) return;
    FactorOuterProducts(grid, n, kFeedbackDamping * trace / static_cast<double>(n), m);
    if (failed != 0) status = NotPositiveDefinite("g");
  }
};

class HostCoder : public DeviceCoder {
 public:
  // `rows` and `weights` of a factor; empty without feedback.
  HostCoder(const DeviceTensor& tensor, std::span<const float> rows, std::span<const double> weights,
            int64_t panel_rows, bool backwards)
      : panel_rows_(panel_rows), backwards_(backwards), tables_(TablesOf(tensor.format)) {
    if (const Codebook* codebook = CodebookOf(tensor.format)) {
      points_ = PointsOf(*codebook);
      tables_.points.x = points_.data();
      tables_.points.y = points_.data() + tables_.points.count;
    }
    tables_.rotation = HostParts(tensor.rotation);
    tables_.scale = DataOrNull(tensor.scale);
    tables_.mean_square = DataOrNull(tensor.mean_square);
    tables_.factor = DataOrNull(rows);
    tables_.factor_weights = DataOrNull(weights);
  }

  int64_t panel_rows() const override { return panel_rows_; }

  absl::Status Encode(std::span<const float> rows, std::span<uint16_t> norms, std::span<uint8_t> packed,
                      std::span<StripOutcome> outcomes) override {
    PanelMeasures measures(norms.size(), outcomes.size());
    Memory memory(tables_, static_cast<int64_t>(norms.size()));
    std::copy(rows.begin(), rows.end(), memory.floats[0].begin());
    std::fill(packed.begin(), packed.end(), uint8_t{0});
    EncodePanel panel = memory.panel;
    panel.norms = norms.data();
    panel.packed = packed.data();
    panel.energy = measures.energy.data();
    panel.squared = measures.squared.data();
    panel.weighted = measures.weighted.data();
    HostGrid grid(backwards_);
    EncodePanelOn(grid, tables_, panel);
    std::copy_n(memory.loss.begin(), measures.loss.size(), measures.loss.begin());
    return ToOutcomes(norms, measures, outcomes);
  }

 private:
  // A panel's, full of what another panel may have left.
  struct Memory {
    std::vector<float> floats[4], sums, target;
    std::vector<double> terms, loss;
    std::vector<uint16_t> codes, found;
    EncodePanel panel;

    Memory(const EncodeTables& tables, int64_t rows) {
      panel.rows = rows;
      const int64_t n = tables.rotation.cols;
      const auto size = static_cast<size_t>(panel.padded() * n), padded = static_cast<size_t>(panel.padded());
      float** const matrices[4] = {&panel.weights, &panel.rotated, &panel.values, &panel.scratch};
      for (int i = 0; i < 4; ++i) {
        floats[i].assign(size, -77.0f);
        *matrices[i] = floats[i].data();
      }
      terms.assign(2 * size, -77.0);
      codes.assign(padded * static_cast<size_t>((n + 1) / 2), 0xa5a5);
      sums.assign(padded * kFeedbackBlockCols, -77.0f);
      target.assign(4 * padded, -77.0f);
      found.assign(padded, 0xa5a5);
      loss.assign(padded, 0.0);
      panel.error_terms = terms.data();
      panel.energy_terms = terms.data() + size;
      panel.codes = codes.data();
      panel.sums = sums.data();
      panel.target = target.data();
      panel.found = found.data();
      panel.loss = loss.data();
    }
  };

  int64_t panel_rows_;
  bool backwards_;
  EncodeTables tables_;
  std::vector<float> points_;
};

class HostInputSums : public DeviceInputSums {
 public:
  HostInputSums(int64_t cols, bool outer) : cols_(cols), outer_(outer) {
    sums_.squares.resize(static_cast<size_t>(cols));
    sums_.max_abs.resize(static_cast<size_t>(cols));
    if (outer) sums_.outer.resize(static_cast<size_t>(TriangleSize(cols)));
  }
  absl::Status Add(const float* x, int64_t tokens) override {
    std::vector<float> channels(static_cast<size_t>(cols_ * PaddedTokens(tokens)), -77.0f);
    HostGrid grid(tokens % 2 == 0);
    AddInputsOn(
        grid,
        {cols_, sums_.squares.data(), sums_.max_abs.data(), outer_ ? sums_.outer.data() : nullptr, channels.data()}, x,
        tokens);
    return absl::OkStatus();
  }
  absl::StatusOr<InputSums> Read() override { return sums_; }

 private:
  int64_t cols_;
  bool outer_;
  InputSums sums_;
};

class HostDevice : public QuantizeDevice {
 public:
  explicit HostDevice(int64_t panel_rows) : panel_rows_(panel_rows) {}
  int tensors() const { return static_cast<int>(factors_.size()); }

  bool Encodes(const TensorFormat& format) const override { return CudaEncodes(format); }
  absl::StatusOr<std::unique_ptr<DeviceCoder>> MakeCoder(const DeviceTensor& tensor) override {
    const std::unique_ptr<HostFactor>& factor = factors_.emplace_back();
    if (tensor.outer.empty())
      return std::make_unique<HostCoder>(tensor, std::span<const float>(), std::span<const double>(), panel_rows_,
                                         false);
    factors_.back() = std::make_unique<HostFactor>(tensor.outer, tensor.scale, tensor.rotation, true);
    RETURN_IF_ERROR(factor->status);
    return std::make_unique<HostCoder>(tensor, factor->rows, factor->weights, panel_rows_, true);
  }
  absl::StatusOr<std::unique_ptr<DeviceInputSums>> MakeInputSums(int64_t cols, bool outer) override {
    return std::make_unique<HostInputSums>(cols, outer);
  }

 private:
  int64_t panel_rows_;
  std::vector<std::unique_ptr<HostFactor>> factors_;  // one for each tensor; null without feedback
};

}  // namespace qamserve
