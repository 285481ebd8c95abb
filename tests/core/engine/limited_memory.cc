#include "tests/core/engine/limited_memory.h"

#include <atomic>
#include <cstdlib>
#include <new>

namespace {

std::atomic<size_t> largest_piece{qamserve::kNoLimit};

}  // namespace

namespace qamserve {

void LimitPieces(size_t bytes) { largest_piece = bytes; }

}  // namespace qamserve

// The other forms of new and delete call these.
void* operator new(size_t bytes) {
  if (bytes > largest_piece) throw std::bad_alloc();
  if (void* memory = std::malloc(bytes == 0 ? 1 : bytes)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
