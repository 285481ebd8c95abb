#include <cmath>
#include <map>

#include "core/evaluate/evaluate.h"

namespace qamserve {
namespace {

// What became of the weights: "... whose linear layers (106.2 M weights) ".
std::string HowStored(const QuantizeSpec& spec, const QuantizePlan& plan, const ArtifactInputs& inputs) {
  if (spec.codec == Codec::kFull) {
    std::map<std::string, int> types;
    for (const TensorOutcome& tensor : inputs.outcomes) ++types[tensor.type];
    std::string list;
    for (const auto& [type, count] : types) {
      list += fmt::format("{}{} in {}", list.empty() ? "" : ", ", count, type);
    }
    return fmt::format("are not quantized but stored as 16-bit floats ({})", list);
  }
  std::string how;
  switch (spec.codec) {
    case Codec::kTrellis:
      how = "are coded in pairs along a trellis";
      break;
    case Codec::kUniform:
      how = fmt::format("are rounded to evenly spaced levels of {} bits", spec.bpw);
      break;
    case Codec::kInt8:
      how = "are rounded to 8 bits, as are the activations that they meet";
      break;
    default:
      how = fmt::format("are coded in pairs against a codebook of {} points ({})",
                        int64_t{1} << static_cast<int>(spec.bpw * 2), CodecName(spec.codec));
  }
  if (spec.rotation != RotationKind::kNone) how += ", after a Hadamard rotation";
  if (spec.channel_scale) how += ", with channel scales";
  if (spec.error_feedback) how += ", with error feedback";
  if (!spec.rates.empty()) how += ", some tensors at rates of their own";
  return how + fmt::format(". With row norms and scales that is {:.3f} bits a weight", plan.bpw);
}

std::string TextName(const std::string& source, bool chat_template) {
  return chat_template ? source + ", in the model's chat template" : source;
}

}  // namespace

std::string ModelCard(const Checkpoint& checkpoint, const QuantizeSpec& spec, const QuantizePlan& plan,
                      const ArtifactInputs& inputs, const QualityReport& q) {
  const ModelConfig& config = checkpoint.config();
  std::string card = "---\nlibrary_name: qamserve\npipeline_tag: text-generation\nbase_model_relation: quantized\n";
  card += "tags:\n- qamw\n- quantized\n---\n\n";
  const bool full = spec.codec == Codec::kFull;
  card += fmt::format("# {} {} (QAM-W)\n\n", inputs.display_name,
                      full ? "in full precision" : fmt::format("at {} bits a weight", spec.bpw));
  card += fmt::format(
      "A {} model of {} blocks whose linear layers ({:.1f} M weights) {}; {} are kept as they were.\n\n",
      ArchitectureName(config.architecture), config.num_layers, static_cast<double>(plan.weights) / 1e6,
      HowStored(spec, plan, inputs),
      plan.embeddings.empty() ? "embeddings, norms and biases" : "embeddings have 8 bits, norms and biases");
  card += fmt::format("Made from checkpoint `{}`, {}.\n\n", inputs.checkpoint_digest,
                      NeedsStatistics(spec)
                          ? "calibrated on " + TextName(inputs.calibration_source, inputs.calibration_chat_template)
                          : "without calibration");
  card += fmt::format(
      "## Quality\n\nPaired with the unquantized model on {} windows of {} tokens ({}), every position "
      "scored, on the kernels that serve it.\n\n",
      q.windows, q.window_tokens, TextName(q.text_source, q.chat_template));
  card += "| figure | value |\n|---|---|\n";
  card += fmt::format("| perplexity, unquantized | {:.4f} |\n", q.base_perplexity);
  card += fmt::format("| perplexity, {} | {:.4f} ({:+.2f} % +- {:.2f}) |\n", full ? "16-bit floats" : "quantized",
                      q.quantized_perplexity, 100 * q.perplexity_change, 100 * q.perplexity_change_stderr);
  card += fmt::format("| mean KL, nats a token | {:.5f} (95 %: {:.5f} to {:.5f}) |\n", q.kl_mean, q.kl_ci95_low,
                      q.kl_ci95_high);
  card += fmt::format("| KL p50 / p90 / p99 / p99.9 / max | {:.5f} / {:.5f} / {:.4f} / {:.4f} / {:.4f} |\n", q.kl_p50,
                      q.kl_p90, q.kl_p99, q.kl_p999, q.kl_max);
  card += fmt::format("| same first choice | {:.2f} % |\n\n", 100 * q.top1_agreement);
  card += "All figures, one row a tensor, and the digests of every file are in report.json.\n";
  return card;
}

}  // namespace qamserve
