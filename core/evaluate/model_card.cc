#include <cmath>

#include "core/evaluate/evaluate.h"

namespace qamserve {

std::string ModelCard(const Checkpoint& checkpoint, const QuantizeSpec& spec, const QuantizePlan& plan,
                      const ArtifactInputs& inputs, const QualityReport& q) {
  const ModelConfig& config = checkpoint.config();
  std::string card = "---\nlibrary_name: qamserve\npipeline_tag: text-generation\nbase_model_relation: quantized\n";
  card += "tags:\n- qamw\n- quantized\n---\n\n";
  card += fmt::format("# {} at {} bits a weight (QAM-W)\n\n", inputs.display_name, spec.bpw);
  card += fmt::format(
      "A {} model of {} blocks whose linear layers ({:.1f} M weights) are coded in pairs against a codebook of {} "
      "points, "
      "after a Hadamard rotation{}. With row norms and scales that is {:.3f} bits a weight; {} are kept as they "
      "were.\n\n",
      ArchitectureName(config.architecture), config.num_layers, static_cast<double>(plan.weights) / 1e6,
      int64_t{1} << static_cast<int>(spec.bpw * 2), spec.channel_scale ? " and activation-aware channel scales" : "",
      plan.bpw, plan.embeddings.empty() ? "embeddings, norms and biases" : "embeddings have 8 bits, norms and biases");
  card += fmt::format("Made from checkpoint `{}`, calibrated on {}.\n\n", inputs.checkpoint_digest,
                      inputs.calibration_source);
  card += fmt::format(
      "## Quality\n\nPaired with the unquantized model on {} windows of {} tokens ({}), every position "
      "scored, on the kernels that serve it.\n\n",
      q.windows, q.window_tokens, q.text_source);
  card += "| figure | value |\n|---|---|\n";
  card += fmt::format("| perplexity, unquantized | {:.4f} |\n", q.base_perplexity);
  card += fmt::format("| perplexity, quantized | {:.4f} ({:+.2f} % +- {:.2f}) |\n", q.quantized_perplexity,
                      100 * q.perplexity_change, 100 * q.perplexity_change_stderr);
  card += fmt::format("| mean KL, nats a token | {:.5f} (95 %: {:.5f} to {:.5f}) |\n", q.kl_mean, q.kl_ci95_low,
                      q.kl_ci95_high);
  card += fmt::format("| KL p50 / p90 / p99 / p99.9 / max | {:.5f} / {:.5f} / {:.4f} / {:.4f} / {:.4f} |\n", q.kl_p50,
                      q.kl_p90, q.kl_p99, q.kl_p999, q.kl_max);
  card += fmt::format("| same first choice | {:.2f} % |\n\n", 100 * q.top1_agreement);
  card += "All figures, one row a tensor, and the digests of every file are in report.json.\n";
  return card;
}

}  // namespace qamserve
