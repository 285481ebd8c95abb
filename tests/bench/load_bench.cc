// Holds streams on a server of this machine and tells what came of it as one JSON object (load_run.h). What is lost is
// a figure, not an error: the exit status is 1 only if no load could be made.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

#include "tests/bench/load_run.h"

namespace qamserve {
namespace {

int Run(int argc, char** argv) {
  LoadOptions options;
  std::string server = "qamserve", address, model = "load";
  CLI::App app("Measures a server under concurrent streams, each with a prompt of random tokens of its own.");
  app.add_option("--server", server, "What answers there")
      ->capture_default_str()
      ->check(CLI::IsMember({"qamserve", "llama-server"}));
  app.add_option("--address", address, "127.0.0.1:PORT; no other machine is asked")->required();
  app.add_option("--model", model, "Name of the served model (qamserve)")->capture_default_str();
  app.add_option("--streams", options.streams, "Streams at once")->capture_default_str()->check(CLI::Range(1, 1024));
  app.add_option("--seconds", options.seconds,
                 "Measured time; a stream that ends is replaced. 0 = one request a stream")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 86400.0));
  app.add_option("--warm-up-seconds", options.warm_up_seconds, "The same load before, not measured")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 3600.0));
  app.add_option("--finish-seconds", options.finish_seconds, "What the last streams get to end")
      ->capture_default_str()
      ->check(CLI::Range(0.1, 3600.0));
  app.add_option("--prompt-tokens", options.prompt_tokens)->capture_default_str()->check(CLI::Range(1, 8192));
  app.add_option("--answer-tokens", options.answer_tokens)->capture_default_str()->check(CLI::Range(1, 8192));
  app.add_option("--vocab-tokens", options.vocab_tokens, "Ids of prompts are below")
      ->capture_default_str()
      ->check(CLI::Range(128, 1 << 20));
  app.add_option("--seed", options.seed, "Of the prompts")->capture_default_str();
  app.add_option("--pid", options.pid, "Process of the server, whose memory is watched");
  CLI11_PARSE(app, argc, argv);
  const absl::StatusOr<std::unique_ptr<LoadTarget>> target =
      server == "qamserve" ? OpenGrpcTarget(address, model) : OpenHttpTarget(address);
  if (!target.ok()) {
    fmt::print(stderr, "error: {}: {}\n", ReasonOf(target.status()), MessageOf(target.status()));
    return 1;
  }
  fmt::print("{}\n", RunLoad(options, **target).dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  return 0;
}

}  // namespace
}  // namespace qamserve

int main(int argc, char** argv) { return qamserve::Run(argc, argv); }
