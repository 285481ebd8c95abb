#include "core/kernels/kernels.h"

namespace qamserve {

const Kernels& BestKernels() {
  if (const Kernels* avx2 = Avx2Kernels()) return *avx2;
  return ScalarKernels();
}

const Kernels* KernelsByName(std::string_view name) {
  if (name == "scalar") return &ScalarKernels();
  if (name == "avx2") return Avx2Kernels();
  return nullptr;
}

}  // namespace qamserve
