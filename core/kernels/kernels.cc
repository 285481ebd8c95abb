#include "core/kernels/kernels.h"

#include <cstdio>
#include <cstdlib>

namespace qamserve {

const Kernels& BestKernels() {
  if (const char* name = std::getenv(kKernelsVariable); name != nullptr && *name != '\0') {
    const Kernels* named = KernelsByName(name);
    if (named == nullptr) {
      std::fprintf(stderr, "%s is \"%s\"; this machine runs %s\n", kKernelsVariable, name, KernelNames().c_str());
      std::exit(EXIT_FAILURE);
    }
    return *named;
  }
  if (const Kernels* amx = AmxKernels()) return *amx;
  if (const Kernels* avx512 = Avx512Kernels()) return *avx512;
  if (const Kernels* avx2 = Avx2Kernels()) return *avx2;
  return ScalarKernels();
}

const Kernels* KernelsByName(std::string_view name) {
  if (name == "scalar") return &ScalarKernels();
  if (name == "avx2") return Avx2Kernels();
  if (name == "avx512") return Avx512Kernels();
  if (name == "amx") return AmxKernels();
  return nullptr;
}

std::string KernelNames() {
  std::string names = "scalar";
  for (const Kernels* kernels : {Avx2Kernels(), Avx512Kernels(), AmxKernels()}) {
    if (kernels != nullptr) names.append(", ").append(kernels->name);
  }
  return names;
}

}  // namespace qamserve
