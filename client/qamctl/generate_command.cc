#include "client/qamctl/checks.h"
#include "client/qamctl/commands.h"
#include "client/qamctl/errors.h"
#include "client/qamctl/resolve.h"
#include "client/qamctl/sampling.h"

namespace qamserve::qamctl {
namespace {

absl::Status Generate(Session& session, const std::string& model, const std::string& prompt_argument,
                      const SamplingFlags& flags) {
  v1::GenerateRequest request;
  request.set_model(ModelName(model));
  ASSIGN_OR_RETURN(*request.mutable_prompt(), TextOrStdin(session, prompt_argument));
  *request.mutable_params() = ToParams(flags);
  request.set_priority(flags.priority);
  request.set_timeout_seconds(flags.timeout_seconds);
  Interruptible interruptible(session.terminal().interrupts);
  StreamPrinter printer(session, flags.stats);
  const absl::Status status = session.client().Generate(
      request, [&](const v1::GenerateResponse& response) { printer(response); }, interruptible.cancellation());
  const absl::Status printed = printer.Finish();
  if (!status.ok() && interruptible.interrupted()) return Cancelled(kInterrupted, "stopped");
  RETURN_IF_ERROR(status);
  return printed;
}

}  // namespace

Action BuildGenerate(CLI::App& app) {
  auto model = std::make_shared<std::string>();
  auto prompt = std::make_shared<std::string>();
  auto flags = std::make_shared<SamplingFlags>();
  app.add_option("model", *model, "The served model, or an alias")->required()->type_name("MODEL");
  app.add_option("prompt", *prompt, "The text to continue; - reads it from standard input")
      ->required()
      ->check(Utf8())
      ->type_name("PROMPT|-");
  AddSamplingFlags(app, flags);
  return [model, prompt, flags](Session& session) { return Generate(session, *model, *prompt, *flags); };
}

}  // namespace qamserve::qamctl
