#include "io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "base/error.h"
#include "base/file_kind.h"
#include "numerics/bf16.h"
#include "numerics/f16.h"
#include "numerics/fp8.h"

namespace fathom {
namespace {

constexpr uint64_t kMaxHeader = 100'000'000;  // the limit of the format's own implementation
constexpr size_t kMaxRank = 16;

// Takes the header apart while it is parsed. No document is built, so deep nesting, millions of
// values or repeated keys cost nothing and are refused where they stand:
//   { NAME: { "dtype": S, "shape": [..], "data_offsets": [b, e] }, "__metadata__": { K: S } }
class HeaderSax final : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderSax(const std::string& origin, SafetensorsHeader& out) : origin_(origin), out_(out) {}

  bool null() override { return wrong("null"); }
  bool boolean(bool) override { return wrong("a boolean"); }
  bool number_integer(number_integer_t v) override { return wrong(fmt::format("{}", v)); }
  bool number_float(number_float_t, const string_t& text) override {
    return wrong(printable(text));
  }
  bool binary(binary_t&) override { return wrong("binary data"); }

  bool number_unsigned(number_unsigned_t v) override {
    if (state_ == State::shape && entry_.shape.size() < kMaxRank && v <= INT64_MAX) {
      entry_.shape.push_back(static_cast<int64_t>(v));
      return true;
    }
    if (state_ == State::offsets && offsets_ < 2) {
      (offsets_++ == 0 ? entry_.begin : entry_.end) = v;
      return true;
    }
    return wrong(fmt::format("{}", v));
  }

  bool string(string_t& text) override {
    if (state_ == State::metadata) {
      out_.metadata[key_] = text;
      return true;
    }
    if (state_ != State::tensor || key_ != "dtype") return wrong("a string");
    entry_.dtype = dtype_from_name(text);
    entry_.dtype_name = printable(text);
    return true;
  }

  bool start_object(size_t) override {
    if (state_ == State::start) {
      state_ = State::top;
    } else if (state_ == State::top) {
      state_ = key_ == "__metadata__" ? State::metadata : State::tensor;
      entry_ = {};
      entry_.name = key_;
      seen_.clear();
      offsets_ = 0;
    } else {
      return wrong("an object");
    }
    return true;
  }

  bool key(string_t& name) override {
    key_ = name;
    auto& keys = state_ == State::top ? names_ : seen_;
    if (!keys.insert(name).second)
      fail("{}: key {} stands twice in the header{}", origin_, printable(name), place());
    if (state_ == State::tensor && name != "dtype" && name != "shape" && name != "data_offsets")
      fail("{}: tensor {}: unknown key {}, expected dtype, shape and data_offsets", origin_,
           printable(entry_.name), printable(name));
    return true;
  }

  bool start_array(size_t) override {
    if (state_ == State::tensor && key_ == "shape")
      state_ = State::shape;
    else if (state_ == State::tensor && key_ == "data_offsets")
      state_ = State::offsets;
    else
      return wrong("an array");
    return true;
  }

  bool end_array() override {
    if (state_ == State::offsets && offsets_ != 2)
      fail("{}: tensor {}: data_offsets has {} numbers, expected 2", origin_,
           printable(entry_.name), offsets_);
    state_ = State::tensor;
    return true;
  }

  bool end_object() override {
    if (state_ == State::tensor) {
      for (const char* needed : {"dtype", "shape", "data_offsets"})
        if (!seen_.count(needed))
          fail("{}: tensor {}: no {} in the header", origin_, printable(entry_.name), needed);
      out_.entries.push_back(std::move(entry_));
    }
    if (state_ == State::metadata) seen_.clear();
    state_ = state_ == State::top ? State::done : State::top;
    return true;
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    fail("{}: the header is not JSON: wrong at its byte {}", origin_, position);
  }

 private:
  enum class State { start, top, tensor, shape, offsets, metadata, done };

  std::string place() const {
    return state_ == State::top        ? std::string()
           : state_ == State::metadata ? std::string(" (__metadata__)")
           : state_ == State::start    ? std::string(" (outermost value)")
                                       : fmt::format(" (tensor {})", printable(entry_.name));
  }
  [[noreturn]] bool wrong(const std::string& found) const {
    const char* expected = "an object for every key";
    if (state_ == State::start) expected = "an object";
    if (state_ == State::tensor) expected = "a string dtype and arrays shape and data_offsets";
    if (state_ == State::shape) expected = "at most 16 whole numbers in shape";
    if (state_ == State::offsets) expected = "two whole numbers in data_offsets";
    if (state_ == State::metadata) expected = "strings";
    fail("{}: header{}: expected {}, found {} at key {}", origin_, place(), expected, found,
         printable(key_));
  }

  const std::string& origin_;
  SafetensorsHeader& out_;
  State state_ = State::start;
  SafetensorsHeader::Entry entry_;
  std::string key_;
  std::unordered_set<std::string> names_, seen_;
  int offsets_ = 0;
};

// Bits of an element of the dtypes that the format's own implementation knows; nothing for others.
std::optional<uint64_t> bits_of(const SafetensorsHeader::Entry& e) {
  if (e.dtype) return 8 * size_of(*e.dtype);
  constexpr std::pair<std::string_view, uint64_t> kForeign[] = {
      {"BOOL", 8},        {"I8", 8},   {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
      {"F8_E5M2FNUZ", 8}, {"I16", 16}, {"U16", 16},    {"U32", 32},    {"U64", 64},
      {"F64", 64},        {"C64", 64}, {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}};
  for (const auto& [name, bits] : kForeign)
    if (name == e.dtype_name) return bits;
  return std::nullopt;
}

// The bytes of a tensor by its dtype and shape. Not known for foreign dtypes; `overflow` beyond
// 2^64.
struct ExpectedBytes {
  bool known = false, overflow = false;
  uint64_t bytes = 0;
};
ExpectedBytes expected_bytes(const SafetensorsHeader::Entry& e) {
  const std::optional<uint64_t> bits = bits_of(e);
  ExpectedBytes expected{bits.has_value(), false, 0};
  // A shape with a 0 has no bytes, so its product is not computed: an overflow in it would mean
  // nothing.
  if (!bits || std::find(e.shape.begin(), e.shape.end(), 0) != e.shape.end()) return expected;
  const bool whole = *bits % 8 == 0;
  uint64_t total = whole ? *bits / 8 : *bits;
  for (int64_t d : e.shape)
    expected.overflow |= __builtin_mul_overflow(total, static_cast<uint64_t>(d), &total);
  expected.bytes = whole ? total : total / 8 + (total % 8 != 0);
  return expected;
}

// Checks that sizes follow from dtype and shape, and that ranges are inside the data, one after the
// other.
void check_ranges(SafetensorsHeader& h, uint64_t data_bytes, const std::string& origin) {
  for (const auto& e : h.entries) {
    if (e.begin > e.end || e.end > data_bytes)
      fail("{}: tensor {}: bytes [{}, {}) lie outside the file's {} bytes of data (truncated?)",
           origin, printable(e.name), e.begin, e.end, data_bytes);
    const ExpectedBytes expected = expected_bytes(e);
    if (expected.known && (expected.overflow || expected.bytes != e.end - e.begin))
      fail("{}: tensor {}: {} of shape {} takes {} bytes, the header gives it {}", origin,
           printable(e.name), e.dtype_name, shape_text(e.shape),
           expected.overflow ? "more than 2^64" : fmt::format("{}", expected.bytes),
           e.end - e.begin);
  }
  std::stable_sort(h.entries.begin(), h.entries.end(), [](const auto& a, const auto& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  uint64_t at = 0;
  for (const auto& e : h.entries) {
    if (e.begin != at)
      fail("{}: tensor {}: data starts at byte {}, expected {} ({})", origin, printable(e.name),
           e.begin, at, e.begin < at ? "overlaps the tensor before" : "a hole before it");
    at = e.end;
  }
  if (at != data_bytes)
    fail("{}: the tensors end at byte {} of the data, the file has {} bytes of data", origin, at,
         data_bytes);
}

}  // namespace

std::string printable(std::string_view name) {
  std::string out;
  for (char c : name.substr(0, 160)) out += static_cast<unsigned char>(c) < 0x20 ? '?' : c;
  if (name.size() > 160) out += "...";
  return out;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

std::vector<float> to_floats(const StoredTensor& t) {
  std::vector<float> out(t.elements());
  const std::byte* p = t.data;
  switch (t.dtype) {
    case DType::f32:
      if (!out.empty()) std::memcpy(out.data(), p, t.bytes);
      return out;
    case DType::bf16:
    case DType::f16:
      for (size_t i = 0; i < out.size(); ++i) {
        uint16_t bits;
        std::memcpy(&bits, p + 2 * i, 2);
        out[i] = t.dtype == DType::bf16 ? to_float(Bf16{bits}) : half_to_float(bits);
      }
      return out;
    case DType::fp8_e4m3:
      for (size_t i = 0; i < out.size(); ++i) out[i] = fp8_to_float(static_cast<uint8_t>(p[i]));
      return out;
    default:
      fail("{}: tensor {}: expected a float dtype, found {}", t.file, t.name, name_of(t.dtype));
  }
}

SafetensorsHeader parse_safetensors(const std::byte* file, size_t bytes,
                                    const std::string& origin) {
  if (bytes < 8)
    fail("{}: not a safetensors file: {} bytes, expected at least 8 of header length", origin,
         bytes);
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<uint64_t>(file[i]);
  if (length < 2 || length > kMaxHeader || length > bytes - 8)
    fail("{}: header length is {}, expected 2 to {} in a file of {} bytes", origin, length,
         std::min<uint64_t>(kMaxHeader, bytes - 8), bytes);
  SafetensorsHeader h;
  h.data_start = 8 + length;
  const char* text = reinterpret_cast<const char*>(file) + 8;
  HeaderSax sax(origin, h);
  nlohmann::json::sax_parse(text, text + length, &sax);
  check_ranges(h, bytes - h.data_start, origin);
  return h;
}

namespace {

// For a file that is no safetensors file at all, the message says what it is: numbers from a header
// that does not exist would mislead.
SafetensorsHeader parse_or_name(const MappedFile& map, const std::string& path) {
  try {
    return parse_safetensors(map.data(), map.size(), path);
  } catch (const Error&) {
    const std::string_view front(reinterpret_cast<const char*>(map.data()),
                                 std::min<size_t>(map.size(), 4096));
    if (const std::string kind = unexpected_file_kind(front); !kind.empty())
      fail("{}: not a safetensors file: it is {}", path, kind);
    // What a server says instead of a file; a header's length has bytes of zero.
    const std::string_view line = front.substr(0, std::min<size_t>(front.find('\n'), 60));
    const bool is_text =
        std::all_of(line.begin(), line.end(), [](char c) { return c >= ' ' && c <= '~'; }) &&
        std::any_of(line.begin(), line.end(),
                    [](char c) { return (c | 32) >= 'a' && (c | 32) <= 'z'; });
    if (line.size() >= 8 && is_text)
      fail("{}: not a safetensors file: it is text, \"{}\"", path, line);
    throw;
  }
}

}  // namespace

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  SafetensorsFile f{MappedFile(path)};
  SafetensorsHeader h = parse_or_name(f.map_, path);
  f.metadata_ = std::move(h.metadata);
  f.tensors_.reserve(h.entries.size());
  for (auto& e : h.entries) {
    if (!e.dtype) {
      f.foreign_.push_back(
          {std::move(e.name), std::move(e.dtype_name), std::move(e.shape), e.end - e.begin, path});
      continue;
    }
    f.index_.emplace(e.name, f.tensors_.size());
    f.tensors_.push_back({std::move(e.name), *e.dtype, std::move(e.shape),
                          f.map_.data() + h.data_start + e.begin,
                          static_cast<size_t>(e.end - e.begin), path});
  }
  return f;
}

const StoredTensor* SafetensorsFile::find(std::string_view name) const {
  auto it = index_.find(std::string(name));
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

const StoredTensor& SafetensorsFile::at(std::string_view name) const {
  const StoredTensor* t = find(name);
  if (!t) fail("{}: no tensor {}", path(), name);
  return *t;
}

}  // namespace fathom
