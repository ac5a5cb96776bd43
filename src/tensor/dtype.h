// Element types of tensors in memory and in safetensors files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace fathom {

enum class DType : uint8_t { f32, bf16, f16, fp8_e4m3, u8, i32, i64 };

constexpr size_t size_of(DType t) {
  switch (t) {
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
    case DType::f16:
      return 2;
    case DType::i64:
      return 8;
    default:
      return 1;
  }
}

// The name safetensors files use.
constexpr std::string_view name_of(DType t) {
  switch (t) {
    case DType::f32:
      return "F32";
    case DType::bf16:
      return "BF16";
    case DType::f16:
      return "F16";
    case DType::fp8_e4m3:
      return "F8_E4M3";
    case DType::u8:
      return "U8";
    case DType::i32:
      return "I32";
    case DType::i64:
      return "I64";
  }
  return "?";
}

constexpr std::optional<DType> dtype_from_name(std::string_view name) {
  for (DType t :
       {DType::f32, DType::bf16, DType::f16, DType::fp8_e4m3, DType::u8, DType::i32, DType::i64})
    if (name_of(t) == name) return t;
  return std::nullopt;
}

}  // namespace fathom
