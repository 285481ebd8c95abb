// A study: a table of methods x rates x models with the measured quality of each, as JSON, CSV and a page to read.
// Start here for studies. Data to text: no I/O, no clock; the same study gives the same bytes. Thread-safe. Names of
// models, checkpoints and methods may hold any bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/evaluate/evaluate.h"
#include "core/quantize/quantize.h"

namespace qamserve {

// One method at one rate on one model, measured.
struct StudyRow {
  std::string model;       // display name of the checkpoint
  std::string checkpoint;  // digest
  std::string method;      // MethodName(spec)
  QuantizeSpec spec;       // ValidateQuantizeSpec is OK
  double bpw = 0;          // with norms and scales
  int64_t artifact_bytes = 0;
  QualityReport quality;
  std::vector<TensorOutcome> tensors;  // plan order
  double ideal_distortion = 0;         // of the codec on a Gaussian at this rate; 0 = not known
  double predicted_output_error = 0;   // sum over tensors, from ideal_distortion; 0 = not known
  double output_error = 0;             // sum over tensors, measured; 0 without statistics
  double predicted_kl = 0;             // from output errors and the layers' sensitivities; 0 = not known
  double quantize_seconds = 0;         // calibration not included
};

struct Study {
  std::string display_name;
  std::vector<StudyRow> rows;
};

// "joint", "joint + scale", "polar", "trellis + LDLQ", "round to nearest", "SmoothQuant W8A8", "full precision". A
// rotation is named where it departs from what is usual: none for the last three, full for the others.
std::string MethodName(const QuantizeSpec& spec);

// Rank correlation, -1 to 1; equal values share the mean of their ranks. NaN if there are fewer than 3 values, if all
// values of a side are equal, or if one is NaN. REQUIRES: a.size() == b.size().
double SpearmanCorrelation(std::span<const double> a, std::span<const double> b);

// The mean squared error a weight over all tensors of a row, relative to the weights' mean square; 0 if there are none.
double MeanDistortion(const StudyRow& row);

// The rows of one checkpoint.
struct StudyModel {
  std::string model;
  std::string checkpoint;
  std::vector<size_t> rows;  // indices into Study::rows, ascending
};
// In order of their first rows. Checkpoints that share a display name stay apart.
std::vector<StudyModel> ModelsOf(const Study& study);

// Spearman's correlation of mean KL and perplexity change over some rows.
double KlPerplexityCorrelation(const Study& study, std::span<const size_t> rows);
// Likewise over all.
double KlPerplexityCorrelation(const Study& study);

// A row of codec joint and one of codec polar that differ in nothing else: checkpoint, options, nominal rate and the
// text that they were measured on are the same. Indices into Study::rows.
struct JointPolarPair {
  size_t joint = 0;
  size_t polar = 0;
};
// In order of the joint rows.
std::vector<JointPolarPair> PairJointWithPolar(const Study& study);

// `part` / `whole`; NaN unless both are known, that is, positive and finite.
double KnownRatio(double part, double whole);

// The rows, and what they say together: `summary` (rank correlation of KL and perplexity change, for each model and
// over all), `joint_against_polar` and `bound` (what theory predicts over what was measured). Keys are sorted; numbers
// have six significant digits; what is not known is null, except in rows, where it is 0.
std::string StudyJson(const Study& study);
// The display name and the rows of StudyJson; the rest follows from them. Errors: DATA_LOSS (STUDY_INVALID);
// FAILED_PRECONDITION (CODEC_VERSION) if a row was measured with another version of the codec.
absl::StatusOr<Study> StudyFromJson(const std::string& json);
// RFC 4180: a line of names, then a line a row, without `tensors`. A number that is not finite is left empty.
std::string StudyCsv(const Study& study);
// One file that needs no other: tables and plots, light or dark as the reader's system is.
std::string StudyHtml(const Study& study);

}  // namespace qamserve
