#include "cli/options.h"

#include <charconv>

#include "base/error.h"
#include "base/processors.h"
#include "kernels/cpu_ops.h"

namespace fathom::cli {

void ComputeOptions::add_to(CLI::App& command) {
  command
      .add_option("--device", device,
                  "cpu, cuda (H100, H200), or auto: the GPU where there is one that can")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  command
      .add_option("--numerics", numerics,
                  "exact (float32, CPU), bf16, or fp8 (the reference's rounding points) "
                  "(default: bf16 on a CPU, fp8 on a GPU)")
      ->check(CLI::IsMember({"exact", "bf16", "fp8"}));
  command.add_option("--kv", kv, "cache rows: f32, bf16 or fp8 (default: follows the numerics)")
      ->check(CLI::IsMember({"f32", "bf16", "fp8"}));
  command.add_option("--attention", attention, "sparse (the model) or dense (for comparison)")
      ->check(CLI::IsMember({"sparse", "dense"}))
      ->capture_default_str();
  std::vector<std::string> names;
  for (const CpuKernels& row : cpu_kernels()) names.emplace_back(row.name);
  command.add_option("--kernels", kernels, "force an implementation (default: the best usable)")
      ->check(CLI::IsMember(names));
  command.add_option("--threads", threads, kThreadsHelp)
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command.add_flag("--batch-invariant", batch_invariant,
                   "one form of attention everywhere: decode equals prefill bit for bit");
}

DeviceKind ComputeOptions::device_value() const {
  if (!found_) {
    // Naming kernels of the CPU, or float32 rows, is asking for the CPU.
    const bool cpu_only = numerics == "exact" || kv == "f32" || !kernels.empty();
    if (cpu_only && device == "cuda")
      fail("--device cuda: {} for the CPU only", numerics == "exact" ? "--numerics exact is"
                                                 : kv == "f32"       ? "--kv f32 is"
                                                                     : "--kernels is");
    const DeviceChoice choice = choose_device(cpu_only ? "cpu" : device);
    if (!choice.note.empty()) fmt::print(stderr, "note: {}\n", choice.note);
    found_ = choice.device;
  }
  return *found_;
}

Numerics ComputeOptions::numerics_value() const {
  if (numerics.empty()) return device_value() == DeviceKind::cuda ? Numerics::fp8 : Numerics::bf16;
  return numerics == "exact"  ? Numerics::exact
         : numerics == "bf16" ? Numerics::bf16
                              : Numerics::fp8;
}

std::optional<KvFormat> ComputeOptions::kv_value() const {
  if (kv.empty()) return std::nullopt;
  return kv == "f32" ? KvFormat::f32 : kv == "bf16" ? KvFormat::bf16 : KvFormat::fp8;
}

AttentionMode ComputeOptions::attention_value() const {
  return attention == "dense" ? AttentionMode::dense : AttentionMode::sparse;
}

EvalOptions ComputeOptions::eval_options() const {
  EvalOptions e;
  e.device = device_value();
  e.numerics = numerics_value();
  e.kv = kv_value();
  e.attention = attention_value();
  e.kernels = kernels;
  e.threads = threads;
  e.batch_invariant = batch_invariant;
  return e;
}

std::vector<int32_t> parse_ids(const std::string& text, const std::string& origin) {
  std::vector<int32_t> ids;
  const char* at = text.data();
  const char* end = at + text.size();
  auto space = [](char c) { return c == ' ' || (c >= '\t' && c <= '\r'); };
  for (;;) {
    while (at < end && space(*at)) ++at;
    if (at == end) return ids;
    int32_t id = 0;
    auto [next, error] = std::from_chars(at, end, id);
    if (error != std::errc() || (next < end && !space(*next))) {
      const char* stop = at;
      while (stop < end && !space(*stop) && stop - at < 40) ++stop;
      fail("{}: expected token ids with blanks between, found \"{}\"", origin,
           std::string(at, stop));
    }
    ids.push_back(id);
    at = next;
  }
}

void say_threads(int asked) {
  if (asked > 0) return;
  if (const std::string why = find_processors().describe(); !why.empty())
    fmt::print(stderr, "note: {}\n", why);
}

std::vector<int32_t> encode_text(const Tokenizer& tokenizer, const std::string& text) {
  std::vector<int32_t> ids = tokenizer.encode(text);
  const std::vector<int32_t> markers = tokenizer.encode("");
  if (!markers.empty() && !text.empty() && ids == tokenizer.encode(text, false))
    fmt::print(stderr, "note: the text begins with {} itself: it is not put in front again\n",
               tokenizer.decode(markers));
  return ids;
}

void check_ids(std::span<const int32_t> ids, int vocab) {
  for (size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || ids[i] >= vocab)
      fail("token {} is id {}: the vocabulary has ids 0 to {}", i, ids[i], vocab - 1);
}

}  // namespace fathom::cli
