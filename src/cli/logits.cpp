// `fathom logits`: the numbers behind the text, as a safetensors file.
#include <algorithm>
#include <charconv>
#include <map>
#include <memory>

#include "base/error.h"
#include "base/output_file.h"
#include "cli/command.h"
#include "cli/options.h"
#include "cli/processes.h"
#include "io/safetensors.h"
#include "model/checkpoint.h"
#include "runtime/device.h"
#include "runtime/evaluator.h"
#include "runtime/taps.h"
#include "text/tokenizer.h"

namespace fathom::cli {
namespace {

struct LogitsFlags {
  std::string ckpt, config, ids_file, text, rows = "-1", out, hidden_file;
  ComputeOptions compute;
  int from_layer = -1;
  bool taps = false, mtp = false;
};

// "0,5,-1" or "all" -> positions; negative ones count from the end.
std::vector<int64_t> parse_rows(const std::string& text, int64_t context) {
  std::vector<int64_t> rows;
  if (text == "all") {
    for (int64_t r = 0; r < context; ++r) rows.push_back(r);
    return rows;
  }
  const char* at = text.data();
  const char* end = at + text.size();
  while (at <= end) {
    int64_t row = 0;
    auto [next, error] = std::from_chars(at, end, row);
    if (error != std::errc() || (next != end && *next != ','))
      throw UsageError(fmt::format("--rows {}: expected numbers with commas, or all", text));
    if (row < -context || row >= context)
      throw UsageError(fmt::format("--rows: {} is outside a sequence of {} tokens", row, context));
    rows.push_back(row < 0 ? row + context : row);
    at = next + 1;
  }
  return rows;
}

std::vector<int32_t> input_ids(const LogitsFlags& o, const Checkpoint& checkpoint) {
  if (!o.ids_file.empty()) return parse_ids(read_all(o.ids_file), o.ids_file);
  return encode_text(Tokenizer::from_folder(checkpoint.path()), o.text);
}

// The residual stream to start from, widened to float32.
std::vector<float> load_hidden(const std::string& path, int width, int64_t* tokens) {
  SafetensorsFile file = SafetensorsFile::open(path);
  const StoredTensor& t = file.at("hidden");
  if (t.shape.size() != 2 || t.shape[1] != width)
    fail("{}: tensor hidden: expected [tokens, {}], found {}", path, width, shape_text(t.shape));
  if (t.dtype != DType::f32 && t.dtype != DType::bf16)
    fail("{}: tensor hidden: expected F32 or BF16, found {}", path, name_of(t.dtype));
  *tokens = t.shape[0];
  return to_floats(t);
}

// Collects rows of one result in the order they were asked for.
class RowTable {
 public:
  RowTable(std::vector<int64_t> rows, int64_t width)
      : rows_(std::move(rows)), width_(width), values_(rows_.size() * static_cast<size_t>(width)) {}
  void set(int64_t position, std::span<const float> values) {
    for (size_t i = 0; i < rows_.size(); ++i)
      if (rows_[i] == position) std::copy(values.begin(), values.end(), &values_[i * width()]);
  }
  size_t width() const { return static_cast<size_t>(width_); }
  int64_t size() const { return static_cast<int64_t>(rows_.size()); }
  const float* data() const { return values_.data(); }

 private:
  std::vector<int64_t> rows_;
  int64_t width_;
  std::vector<float> values_;
};

// Taps are recorded for ascending distinct rows; the file has them in the order asked for.
class TapTensors {
 public:
  TapTensors(const std::vector<int64_t>& asked, const std::vector<int64_t>& recorded)
      : asked_(asked), recorded_(recorded) {}

  template <class T>
  void add(std::vector<TensorData>& out, const std::string& name, DType dtype,
           const std::vector<T>& values) {
    if (values.empty()) return;
    size_t width = values.size() / recorded_.size();
    std::vector<std::byte>& memory = memory_.emplace_back(asked_.size() * width * sizeof(T));
    for (size_t i = 0; i < asked_.size(); ++i) {
      size_t from = static_cast<size_t>(
          std::lower_bound(recorded_.begin(), recorded_.end(), asked_[i]) - recorded_.begin());
      std::copy_n(&values[from * width], width, reinterpret_cast<T*>(memory.data()) + i * width);
    }
    out.push_back({name,
                   dtype,
                   {static_cast<int64_t>(asked_.size()), static_cast<int64_t>(width)},
                   memory.data()});
  }

 private:
  const std::vector<int64_t>&asked_, &recorded_;
  std::vector<std::vector<std::byte>> memory_;
};

int run(const LogitsFlags& o) {
  check_output_file(o.out);
  CheckpointOptions loading;
  loading.config_file = o.config;
  loading.with_mtp = o.mtp;
  const ComputePlan compute = o.compute.plan(o.ckpt);
  loading.layout = compute.layout;
  check_processes(o.ckpt, o.config, compute);
  std::unique_ptr<Checkpoint> checkpoint = Checkpoint::load(o.ckpt, loading);
  const Config& config = checkpoint->config();

  std::vector<int32_t> ids;
  std::vector<float> hidden;
  int64_t context = 0;
  if (o.hidden_file.empty()) {
    ids = input_ids(o, *checkpoint);
    check_ids(ids, config.vocab);
    context = static_cast<int64_t>(ids.size());
  } else {
    if (o.from_layer < 0 || o.from_layer >= config.layers)
      throw UsageError(
          fmt::format("--from-layer {}: layers are 0 to {}", o.from_layer, config.layers - 1));
    hidden = load_hidden(o.hidden_file, config.hidden, &context);
  }
  if (context == 0) fail("there are no tokens to run: the input is empty");
  if (context > config.max_positions)
    fail("{} tokens do not fit the model's context of {}", context, config.max_positions);

  std::vector<int64_t> asked = parse_rows(o.rows, context), sorted = asked, below_last;
  std::sort(sorted.begin(), sorted.end());
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  for (int64_t row : asked)
    if (row < context - 1) below_last.push_back(row);

  TapOps* taps = nullptr;
  EvalOptions eval;
  eval.compute = o.compute.plan(o.ckpt);
  eval.compute.context = context;
  eval.compute.step_tokens = static_cast<int>(std::min<int64_t>(eval.compute.step_tokens, context));
  eval.compute.mtp = o.mtp;
  eval.compute.observed = o.taps;
  if (o.taps)
    eval.wrap = [&](Ops& inner) {
      auto wrapped = std::make_unique<TapOps>(inner, sorted, context);
      taps = wrapped.get();
      return wrapped;
    };
  const DeviceWeights weights(config, checkpoint->rank_weights(), eval.compute);
  Evaluator evaluator(config, weights.ranks(), eval);
  say_computing_threads(o.compute.threads);
  fmt::print(stderr, "{}\n", evaluator.describe());

  RowTable logits(asked, config.vocab), mtp_logits(below_last, config.vocab);
  evaluator.set_mtp_sink([&](int64_t row, auto values) { mtp_logits.set(row, values); });
  auto sink = [&](int64_t row, std::span<const float> values) { logits.set(row, values); };
  if (o.hidden_file.empty())
    evaluator.feed(ids, sorted, sink);
  else
    evaluator.feed_hidden(o.from_layer, Tensor(hidden.data(), DType::f32, {context, config.hidden}),
                          sorted, sink);

  std::vector<int32_t> row_ids(asked.begin(), asked.end());
  std::vector<TensorData> out = {
      {"rows", DType::i32, {logits.size()}, row_ids.data()},
      {"logits", DType::f32, {logits.size(), config.vocab}, logits.data()}};
  if (o.mtp)
    out.push_back({"mtp_logits", DType::f32, {mtp_logits.size(), config.vocab}, mtp_logits.data()});
  TapTensors tap_tensors(asked, sorted);
  if (taps)
    for (const auto& [layer, t] : taps->layers()) {
      std::string prefix = fmt::format("L{}.", layer);
      tap_tensors.add(out, prefix + "out", DType::f32, t.out);
      tap_tensors.add(out, prefix + "index_score", DType::f32, t.index_score);
      tap_tensors.add(out, prefix + "selected", DType::u8, t.selected);
      tap_tensors.add(out, prefix + "experts", DType::i32, t.experts);
    }
  write_safetensors(o.out, out);
  return 0;
}

}  // namespace

void add_logits(CLI::App& app) {
  auto* c =
      app.add_subcommand("logits", "write logits and inner values of chosen positions to a file");
  auto o = std::make_shared<LogitsFlags>();
  c->add_option("--ckpt-path", o->ckpt, "checkpoint folder")->required();
  c->add_option("--config", o->config, "config file instead of the folder's own");
  auto* input = c->add_option_group("input", "where the sequence comes from (one of)");
  auto* ids = input->add_option("--ids", o->ids_file, "file of whitespace-separated token ids");
  auto* text = input->add_option("--text", o->text, "text, special tokens recognised");
  auto* hidden = input->add_option("--hidden", o->hidden_file,
                                   "safetensors file with tensor hidden [T, D] (f32 or bf16)");
  (void)ids;
  (void)text;
  input->require_option(1);
  c->add_option("--from-layer", o->from_layer, "with --hidden: the layer it stands in front of")
      ->needs(hidden);
  hidden->needs(c->get_option("--from-layer"));
  c->add_option("--rows", o->rows, "positions, e.g. 0,5,-1, or all")->capture_default_str();
  c->add_option("--out", o->out, "safetensors file to write")->required();
  o->compute.add_step_tokens_to(*c);
  c->add_flag("--taps", o->taps, "also per layer: out, index_score, selected, experts");
  c->add_flag("--mtp", o->mtp, "also mtp_logits: the MTP module's guess of the token after next")
      ->excludes(hidden);
  o->compute.add_ranks_to(*c);
  o->compute.add_groups_to(*c);
  o->compute.add_to(*c);
  on_run(*c, [o] { return run(*o); });
}

}  // namespace fathom::cli
