// The tables of kernels that tests compare.
#pragma once

#include <vector>

#include "core/kernels/kernels.h"

namespace qamserve {

// Those that this machine runs, but the reference.
inline std::vector<const Kernels*> FastKernels() {
  std::vector<const Kernels*> tables;
  for (const Kernels* kernels : {Avx2Kernels(), Avx512Kernels(), AmxKernels()}) {
    if (kernels != nullptr) tables.push_back(kernels);
  }
  return tables;
}

// The reference, then the others.
inline std::vector<const Kernels*> AllKernels() {
  std::vector<const Kernels*> tables = FastKernels();
  tables.insert(tables.begin(), &ScalarKernels());
  return tables;
}

}  // namespace qamserve
