#include "tests/support/gguf_writer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/base/file.h"
#include "core/codec/half.h"

namespace qamserve {
namespace {

// Numbers of ggml's enumerations.
enum ValueType : uint32_t { kUint32 = 4, kInt32 = 5, kFloat32 = 6, kBool = 7, kString = 8, kArray = 9 };
constexpr uint64_t kAlignment = 32;  // where general.alignment is not given
constexpr int64_t kBlock = 32;

template <typename T>
void Put(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

void PutString(std::string& out, std::string_view text) {
  Put(out, static_cast<uint64_t>(text.size()));
  out.append(text);
}

void PadToAlignment(std::string& out) { out.append((kAlignment - out.size() % kAlignment) % kAlignment, '\0'); }

uint32_t TypeNumber(DType type) {
  switch (type) {
    case DType::kF16:
      return 1;
    case DType::kQ4_1:
      return 3;
    case DType::kQ8_0:
      return 8;
    default:
      return 0;  // F32
  }
}

void PutQ8_0(std::string& out, const float* x) {
  float largest = 0;
  for (int64_t i = 0; i < kBlock; ++i) largest = std::max(largest, std::abs(x[i]));
  const float scale = largest / 127;
  Put(out, FloatToHalf(scale));
  for (int64_t i = 0; i < kBlock; ++i) {
    Put(out, static_cast<int8_t>(scale == 0 ? 0 : std::lround(x[i] / scale)));
  }
}

void PutQ4_1(std::string& out, const float* x) {
  const float low = *std::min_element(x, x + kBlock);
  const float high = *std::max_element(x, x + kBlock);
  const float scale = (high - low) / 15;
  Put(out, FloatToHalf(scale));
  Put(out, FloatToHalf(low));
  const auto level = [&](float value) {
    return static_cast<uint8_t>(scale == 0 ? 0 : std::clamp(std::lround((value - low) / scale), 0L, 15L));
  };
  for (int64_t i = 0; i < kBlock / 2; ++i) {
    Put(out, static_cast<uint8_t>(level(x[i]) | level(x[i + kBlock / 2]) << 4));
  }
}

std::string Encode(DType type, std::span<const float> values) {
  std::string out;
  const auto n = static_cast<int64_t>(values.size());
  switch (type) {
    case DType::kF16:
      for (const float value : values) Put(out, FloatToHalf(value));
      break;
    case DType::kQ8_0:
      for (int64_t i = 0; i + kBlock <= n; i += kBlock) PutQ8_0(out, values.data() + i);
      break;
    case DType::kQ4_1:
      for (int64_t i = 0; i + kBlock <= n; i += kBlock) PutQ4_1(out, values.data() + i);
      break;
    default:
      for (const float value : values) Put(out, value);
  }
  return out;
}

void PutKey(std::string& out, uint64_t& keys, std::string_view key, uint32_t type) {
  PutString(out, key);
  Put(out, type);
  ++keys;
}

}  // namespace

void GgufWriter::AddString(std::string_view key, std::string_view value) {
  PutKey(metadata_, keys_, key, kString);
  PutString(metadata_, value);
}

void GgufWriter::AddUint32(std::string_view key, uint32_t value) {
  PutKey(metadata_, keys_, key, kUint32);
  Put(metadata_, value);
}

void GgufWriter::AddFloat32(std::string_view key, float value) {
  PutKey(metadata_, keys_, key, kFloat32);
  Put(metadata_, value);
}

void GgufWriter::AddBool(std::string_view key, bool value) {
  PutKey(metadata_, keys_, key, kBool);
  Put(metadata_, static_cast<uint8_t>(value));
}

void GgufWriter::AddStrings(std::string_view key, const std::vector<std::string>& values) {
  PutKey(metadata_, keys_, key, kArray);
  Put(metadata_, static_cast<uint32_t>(kString));
  Put(metadata_, static_cast<uint64_t>(values.size()));
  for (const std::string& value : values) PutString(metadata_, value);
}

void GgufWriter::AddInt32s(std::string_view key, const std::vector<int32_t>& values) {
  PutKey(metadata_, keys_, key, kArray);
  Put(metadata_, static_cast<uint32_t>(kInt32));
  Put(metadata_, static_cast<uint64_t>(values.size()));
  for (const int32_t value : values) Put(metadata_, value);
}

void GgufWriter::AddTensor(std::string_view name, const std::vector<int64_t>& shape, DType type,
                           std::span<const float> values) {
  tensors_.push_back({std::string(name), shape, type, Encode(type, values)});
}

absl::Status GgufWriter::Write(const std::string& path) const {
  std::string out = "GGUF";
  Put(out, uint32_t{3});
  Put(out, static_cast<uint64_t>(tensors_.size()));
  Put(out, keys_);
  out += metadata_;
  std::string data;
  for (const Tensor& tensor : tensors_) {
    PutString(out, tensor.name);
    Put(out, static_cast<uint32_t>(tensor.shape.size()));
    for (auto dim = tensor.shape.rbegin(); dim != tensor.shape.rend(); ++dim) Put(out, static_cast<uint64_t>(*dim));
    Put(out, TypeNumber(tensor.type));
    Put(out, static_cast<uint64_t>(data.size()));
    data += tensor.data;
    PadToAlignment(data);
  }
  PadToAlignment(out);
  return WriteFileAtomically(path, out + data);
}

}  // namespace qamserve
