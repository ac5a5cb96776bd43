#include "cli/model_session.h"

#include <filesystem>
#include <random>

#include "base/error.h"
#include "cli/command.h"
#include "text/chat.h"
#include "text/json_reader.h"
#include "text/utf8.h"

namespace fathom::cli {
namespace {

namespace fs = std::filesystem;

// What the weights will occupy once every page of them has been read.
int64_t mapped_bytes(const std::string& folder) {
  int64_t bytes = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".safetensors")
      bytes += static_cast<int64_t>(entry.file_size());
  return bytes;
}

// The config's end of sentence, and those of generation_config.json (one id or a list).
std::vector<int32_t> stop_ids_of(const std::string& folder, const Config& config) {
  std::vector<int32_t> ids = {config.eos};
  const std::string path = folder + "/generation_config.json";
  if (!fs::exists(path)) return ids;
  const auto document = parse_json<nlohmann::json>(read_all(path), path);
  JsonAt<nlohmann::json> eos = JsonAt<nlohmann::json>(document, path + ": ").at("eos_token_id");
  if (eos.null()) return ids;
  if (eos.value().is_array())
    for (size_t i = 0; i < eos.array_size(); ++i)
      ids.push_back(eos.at(i).integer(0, config.vocab - 1));
  else
    ids.push_back(eos.integer(0, config.vocab - 1));
  return ids;
}

std::unique_ptr<Checkpoint> load(const std::string& folder, const std::string& config) {
  CheckpointOptions options;
  options.config_file = config;
  options.with_mtp = false;  // plain decoding has no use for it
  return Checkpoint::load(folder, options);
}

}  // namespace

void GenerationOptions::add_to(CLI::App& command) {
  command.add_option("--config", config, "config file instead of the folder's own");
  command.add_option("--max-new-tokens", max_new_tokens, "longest answer")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->capture_default_str();
  command.add_option("--temperature", temperature, "0 takes the most probable token every time")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  command.add_option("--top-k", top_k, "draw from the k most probable tokens, 0 for all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      .add_option("--top-p", top_p,
                  "draw from the fewest most probable tokens that make up p (after top-k)")
      ->check(CLI::Range(1e-9, 1.0))
      ->capture_default_str();
  command
      .add_option("--min-p", min_p,
                  "leave out tokens less than p times as probable as the first (after top-p)")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command.add_option("--seed", seed, "the same seed draws the same tokens (default: a new one)");
  command.add_flag("--thinking", thinking, "let the model reason before it answers");
  command.add_option("--encoding", encoding, "v3.1 or v3.2 (default: what the folder says)")
      ->check(CLI::IsMember({"v3.1", "v3.2"}));
  command.add_option("--system", system, "system message");
  command
      .add_option("--chunk", chunk,
                  "tokens of one step; longer prompts go in chunks (default: 512 on a CPU, 4096 on "
                  "a GPU)")
      ->check(CLI::Range(1, 1 << 16));
  command
      .add_option("--max-context", max_context,
                  "tokens of prompt and answer together (default: the model's, or what fits)")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 40));
  command
      .add_option("--index-budget", index_budget_mib,
                  "MiB of index scores held at once (default: 64 on a CPU, 512 on a GPU)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  compute.add_to(command);
}

ModelSession::ModelSession(const std::string& folder, const GenerationOptions& options,
                           int max_seqs, int keep_prefixes)
    : options_(options),
      checkpoint_(load(folder, options.config)),
      tokenizer_(Tokenizer::from_folder(folder)),
      encoding_(choose_encoding(options.encoding, folder)),
      stop_ids_(stop_ids_of(folder, checkpoint_->config())) {
  EngineOptions e;
  e.device = options.compute.device_value();
  e.numerics = options.compute.numerics_value();
  e.kv = options.compute.kv_value();
  e.attention = options.compute.attention_value();
  e.kernels = options.compute.kernels;
  e.threads = options.compute.threads;
  e.batch_invariant = options.compute.batch_invariant;
  e.max_context = options.max_context;
  e.max_seqs = max_seqs;
  e.max_step_tokens = options.chunk > 0 ? options.chunk : default_chunk(e.device);
  e.keep_prefixes = keep_prefixes;
  const Config& config = checkpoint_->config();
  if (e.device == DeviceKind::cuda) e.index_budget = kGpuIndexBudget;
  if (options.index_budget_mib > 0) e.index_budget = options.index_budget_mib << 20;
  if (e.device == DeviceKind::cuda) {
    e.weight_bytes = PlacedWeights::bytes_on_gpu(config, e.numerics);
    e.available_bytes = static_cast<int64_t>(device_memory_free());
    fmt::print(stderr, "{}\n", plan_engine(config, e).describe());
  } else {
    e.weight_bytes = mapped_bytes(folder);
  }
  weights_ = std::make_unique<DeviceWeights>(config, checkpoint_->weights(), e.device, e.numerics,
                                             false, true);
  engine_ = std::make_unique<Engine>(config, weights_->get(), e);
  for (const std::string& warning : checkpoint_->warnings())
    fmt::print(stderr, "note: {}\n", warning);
  fmt::print(stderr, "{}; {} prompts\n", engine_->describe(), encoding_name(encoding_));
}

std::vector<int32_t> ModelSession::prompt_ids(const Conversation& conversation,
                                              bool thinking) const {
  for (const Message& m : conversation) require_utf8(m.content, "the prompt");
  return encode_segments(tokenizer_, render(conversation, {encoding_, thinking, false}));
}

std::vector<int32_t> ModelSession::raw_ids(const std::string& text) const {
  require_utf8(text, "the prompt");
  return tokenizer_.encode(text);
}

Result<RequestId> ModelSession::submit(std::vector<int32_t> ids, Answer& answer) {
  Request r;
  r.ids = std::move(ids);
  r.max_new_tokens = options_.max_new_tokens;
  r.sampling = {options_.temperature, options_.top_k, options_.top_p, options_.min_p,
                options_.seed.value_or(0)};
  if (!options_.seed) {
    std::random_device random;
    r.sampling.seed = (uint64_t{random()} << 32) | random();
  }
  r.stop_ids = stop_ids_;
  r.sink = [&answer](const TokenEvent& event) { answer.take(event); };
  return engine_->submit(std::move(r));
}

Answer ModelSession::new_answer(bool thinking, bool raw, Answer::Show show) const {
  return Answer(tokenizer_, encoding_, thinking, raw, std::move(show));
}

Speed ModelSession::speed() const {
  const EngineStats s = engine_->stats();
  return {s.prompt_tokens, s.generated_tokens, s.prompt_seconds, s.generation_seconds};
}

Conversation conversation_of_prompt(const std::string& system, const std::string& prompt) {
  Conversation c;
  auto add = [&](Role role, const std::string& content) {
    Message& m = c.emplace_back();
    m.role = role;
    m.content = content;
  };
  if (!system.empty()) add(Role::system, system);
  add(Role::user, prompt);
  return c;
}

}  // namespace fathom::cli
