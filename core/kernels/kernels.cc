#include "core/kernels/kernels.h"

namespace qamserve {

const Kernels& BestKernels() {
  if (const Kernels* avx512 = Avx512Kernels()) return *avx512;
  if (const Kernels* avx2 = Avx2Kernels()) return *avx2;
  return ScalarKernels();
}

const Kernels* KernelsByName(std::string_view name) {
  if (name == "scalar") return &ScalarKernels();
  if (name == "avx2") return Avx2Kernels();
  if (name == "avx512") return Avx512Kernels();
  return nullptr;
}

}  // namespace qamserve
