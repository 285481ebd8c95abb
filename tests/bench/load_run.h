// A load on one server: so many streams at once, each with a prompt of its own, and what came of it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <nlohmann/json.hpp>

#include "tests/bench/load_target.h"

namespace qamserve {

struct LoadOptions {
  int streams = 16;
  // A stream that ends is replaced at once for warm_up_seconds and then seconds, which are measured. 0 seconds: exactly
  // one request a stream, all measured.
  double warm_up_seconds = 0;
  double seconds = 10;
  double finish_seconds = 300;  // what streams that run get after that; whatever is left then is lost
  int prompt_tokens = 64;
  int answer_tokens = 64;
  int vocab_tokens = 32000;  // ids of prompts are below
  uint64_t seed = 1;         // of the prompts: the same ones for every server
  pid_t pid = 0;             // the server, whose memory is watched; 0 = not watched
};

// Runs the load and returns when no stream is left. The object it gives:
//   requests {started, finished, lost, short}   lost: ended with an error, without a reason, without a token, or not in
//                                               time; such a stream is not replaced. short: finished with fewer tokens
//                                               than asked for
//   answering_max                               most streams at a time of which a token had come and the end had not
//   tokens                                      of all streams from the first to the last
//   window_seconds, tokens_per_second           while all streams ran, after the warm-up
//   ttft_ms, inter_token_ms {p50, p99, count}   of requests begun and messages come after the warm-up; tokens that come
//                                               in one message count as one
//   client_cpu                                  cores that this process took in the window
//   rss_bytes {first, at_20_percent, last, max}, rss_growth   of the server over the window; growth = last over that at
//                                               20 %, less 1. Only with a pid
//   errors                                      the first few
//
// The first answer of each stream is cut so that the streams end one after another and not all at once.
nlohmann::json RunLoad(const LoadOptions& options, LoadTarget& target);

}  // namespace qamserve
