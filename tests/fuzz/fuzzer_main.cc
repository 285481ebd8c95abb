// libFuzzer's side of one target, which FUZZ_TARGET names.
#include <cstddef>
#include <cstdint>

#include "tests/fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  for (const qamserve::FuzzTarget& target : qamserve::FuzzTargets()) {
    if (target.name == FUZZ_TARGET) target.run(input);
  }
  return 0;
}
