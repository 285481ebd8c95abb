#include <algorithm>
#include <cmath>

#include "client/qamctl/checks.h"
#include "client/qamctl/commands.h"
#include "client/qamctl/resolve.h"
#include "client/qamctl/sampling.h"
#include "client/qamctl/text.h"

namespace qamserve::qamctl {
namespace {

// Enough to see that two vectors differ; all of them are in the JSON.
constexpr int kShownValues = 4;

struct EmbedFlags {
  std::string model;
  std::vector<std::string> texts;
  bool normalize = false;
};

double Product(const v1::Embedding& a, const v1::Embedding& b) {
  double sum = 0;
  for (int i = 0; i < std::min(a.values_size(), b.values_size()); ++i) {
    sum += static_cast<double>(a.values(i)) * static_cast<double>(b.values(i));
  }
  return sum;
}

double Cosine(const v1::Embedding& a, const v1::Embedding& b) {
  const double lengths = std::sqrt(Product(a, a) * Product(b, b));
  return lengths > 0 ? Product(a, b) / lengths : 0;
}

std::string Shorten(const v1::Embedding& embedding) {
  std::string text;
  for (int i = 0; i < std::min(kShownValues, embedding.values_size()); ++i) {
    text += fmt::format("{:.5f} ", embedding.values(i));
  }
  return text + (embedding.values_size() > kShownValues ? "..." : "");
}

absl::Status Embed(Session& session, const EmbedFlags& flags) {
  v1::EmbedRequest request;
  request.set_model(ModelName(flags.model));
  request.set_normalize(flags.normalize);
  for (const std::string& text : flags.texts) {
    ASSIGN_OR_RETURN(*request.add_inputs()->mutable_text(), TextOrStdin(session, text));
  }
  ASSIGN_OR_RETURN(const v1::EmbedResponse response, session.client().Embed(request));
  if (session.json()) return session.PrintJson(response);
  Table vectors({{"INPUT", Align::kRight},
                 {"TOKENS", Align::kRight},
                 {"VALUES", Align::kRight},
                 {"LENGTH", Align::kRight},
                 {"FIRST VALUES"}});
  std::vector<Table::Column> columns = {{"COSINE", Align::kRight}};
  for (int i = 0; i < response.embeddings_size(); ++i) {
    const v1::Embedding& embedding = response.embeddings(i);
    vectors.Add({std::to_string(i), std::to_string(embedding.tokens()), std::to_string(embedding.values_size()),
                 fmt::format("{:.4f}", std::sqrt(Product(embedding, embedding))), Shorten(embedding)});
    columns.push_back({std::to_string(i), Align::kRight});
  }
  session.terminal().out << vectors.ToString();
  if (response.embeddings_size() < 2) return absl::OkStatus();
  Table cosines(std::move(columns));
  for (int i = 0; i < response.embeddings_size(); ++i) {
    std::vector<std::string> row = {std::to_string(i)};
    for (const v1::Embedding& other : response.embeddings()) {
      row.push_back(fmt::format("{:.4f}", Cosine(response.embeddings(i), other)));
    }
    cosines.Add(row);
  }
  session.terminal().out << "\n" << cosines.ToString();
  return absl::OkStatus();
}

}  // namespace

Action BuildEmbed(CLI::App& app) {
  auto flags = std::make_shared<EmbedFlags>();
  app.add_option("model", flags->model, "The served model, or an alias")->required()->type_name("MODEL");
  app.add_option("texts", flags->texts, "Up to 256 texts; - reads one from standard input")
      ->required()
      ->check(Utf8())
      ->type_name("TEXT|-...");
  app.add_flag("--normalize", flags->normalize, "Vectors of length 1");
  return [flags](Session& session) { return Embed(session, *flags); };
}

}  // namespace qamserve::qamctl
