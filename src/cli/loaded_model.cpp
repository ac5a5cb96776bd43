#include "cli/loaded_model.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "cli/command.h"
#include "cli/processes.h"
#include "io/machine.h"
#include "model/optional_block.h"
#include "runtime/cache_origin.h"
#include "text/json_reader.h"

namespace fathom::cli {
namespace {

namespace fs = std::filesystem;
using Document = nlohmann::json;

std::string generation_config_path(const std::string& folder) {
  return folder + "/generation_config.json";
}

// The MTP block is loaded only where it will draft tokens. Asked for, it must be there and whole;
// by default a block that is not whole is left out, with a note.
std::unique_ptr<Checkpoint> load(const std::string& folder, const ModelOptions& o) {
  const std::optional<int>& asked = o.compute.speculative_tokens;
  CheckpointOptions options;
  options.config_file = o.config;
  const ComputePlan plan = o.compute.plan(folder);
  options.layout = plan.layout;
  check_processes(folder, o.config, plan);
  options.with_mtp = asked ? *asked > 0 : drafts_by_default(plan);
  if (asked || !options.with_mtp) return Checkpoint::load(folder, options);
  CheckpointWithOptionalBlock loaded = load_with_optional_block(folder, options);
  if (!loaded.left_out.empty())
    fmt::print(stderr, "note: no tokens are drafted: {}\n", loaded.left_out);
  return std::move(loaded.checkpoint);
}

// The config of random weights. No tensor says whether there is an MTP block: it is made where
// drafts are asked for, and by default where the config has one.
Config dummy_config(const std::string& folder, const ModelOptions& o) {
  const ComputePlan plan = o.compute.plan(folder);
  if (plan.device != DeviceKind::cuda)
    throw UsageError(
        "--load-format dummy: random weights are made in the memory of a GPU; for a CPU "
        "`make-checkpoint` writes a folder of them");
  if (plan.layout.processes > 1)
    throw UsageError("--load-format dummy: for the GPUs of one process, not for several");
  Config config = load_config(folder, o.config);
  const std::optional<int>& asked = o.compute.speculative_tokens;
  if (asked)
    config.mtp_layers = *asked > 0 ? 1 : 0;
  else if (!drafts_by_default(plan))
    config.mtp_layers = 0;
  return config;
}

// `ranks_folder`: its files may say for how many ranks they are; empty: the options alone do.
// `host_bytes`: what the weights occupy on a CPU.
EngineOptions engine_options_of(const ModelOptions& o, const Config& config,
                                const std::string& ranks_folder, int64_t host_bytes,
                                EngineOptions e) {
  e.compute = o.compute.plan(ranks_folder);
  if (!o.compute.speculative_tokens && config.mtp_layers > 0 && drafts_by_default(e.compute)) {
    e.compute.speculative_tokens = kDefaultSpeculativeTokens;
    e.compute.mtp = true;
  }
  if (o.compute.speculate_always && e.compute.speculative_tokens == 0)
    throw UsageError("--speculative-always: there are no drafts here; give --speculative-tokens");
  e.regulate_drafts = !o.compute.speculate_always;
  const bool gpu = e.compute.device == DeviceKind::cuda;
  e.weight_bytes =
      gpu ? PlacedWeights::bytes_on_gpu(config, e.compute.numerics, e.compute.layout) : host_bytes;
  // Asked before the weights are there, and again by nobody: what they take is in weight_bytes.
  if (gpu) e.available_bytes = find_gpu(e.compute.layout.ranks_here()).free;
  // Every process gets a cache of the same size; those of one machine divide what is free there.
  if (const std::optional<int64_t> others = memory_of_others()) {
    if (!gpu) e.available_bytes = available_memory() / process_link()->share().machine.count;
    e.available_bytes = std::min(*e.available_bytes, *others);
  }
  return e;
}

// Those of a checkpoint, or without one of random weights.
EngineOptions chosen_options(const ModelOptions& o, const Checkpoint* checkpoint,
                             const Config& config, const std::string& folder, EngineOptions e) {
  if (checkpoint) return engine_options_of(o, *checkpoint, std::move(e));
  return engine_options_of(o, config, folder, 0, std::move(e));
}

}  // namespace

// Its end of sentence may be one id or a list.
std::vector<int32_t> stop_ids_of(const std::string& folder, const Config& config) {
  std::vector<int32_t> ids = {config.eos};
  const std::string path = generation_config_path(folder);
  if (!fs::exists(path)) return ids;
  const auto document = parse_json<Document>(read_all(path), path);
  JsonAt<Document> eos = JsonAt<Document>(document, path + ": ").at("eos_token_id");
  if (eos.null()) return ids;
  if (eos.value().is_array())
    for (size_t i = 0; i < eos.array_size(); ++i)
      ids.push_back(eos.at(i).integer(0, config.vocab - 1));
  else
    ids.push_back(eos.integer(0, config.vocab - 1));
  return ids;
}

EngineOptions engine_options_of(const ModelOptions& o, const Checkpoint& checkpoint,
                                EngineOptions e) {
  if (!e.cache_dir.empty()) e.checkpoint = checkpoint_digest(checkpoint.path(), o.config);
  // A command that has loaded the folder for one rank computes with one. On a CPU the mapped files
  // occupy what they will once every page of them has been read.
  return engine_options_of(o, checkpoint.config(),
                           checkpoint.layout().ranks() > 1 ? checkpoint.path() : std::string(),
                           checkpoint.mapped_bytes(), std::move(e));
}

void ModelOptions::add_to(CLI::App& command) {
  command.add_option("--config", config, "config file instead of the folder's own");
  command.add_option("--encoding", encoding, "v3.1 or v3.2 (default: what the folder says)")
      ->check(CLI::IsMember({"v3.1", "v3.2"}));
  compute.add_context_to(command);
  compute.add_step_tokens_to(command);
  compute.add_index_budget_to(command);
  compute.add_speculation_to(command);
  compute.add_ranks_to(command);
  compute.add_groups_to(command);
  compute.add_to(command);
}

void ModelOptions::add_load_format_to(CLI::App& command) {
  command
      .add_option("--load-format", load_format,
                  "auto: the weights of --ckpt-path; dummy: random ones of its config, made on the "
                  "GPU, to measure a model without its files")
      ->check(CLI::IsMember({"auto", "dummy"}))
      ->capture_default_str();
}

LoadedModel::LoadedModel(const std::string& folder, const ModelOptions& options,
                         EngineOptions engine)
    : checkpoint_(options.dummy_weights() ? nullptr : load(folder, options)),
      config_(checkpoint_ ? checkpoint_->config() : dummy_config(folder, options)),
      tokenizer_(Tokenizer::from_folder(folder)),
      encoding_(choose_encoding(options.encoding, folder)),
      stop_ids_(stop_ids_of(folder, config())),
      engine_options_(
          chosen_options(options, checkpoint_.get(), config(), folder, std::move(engine))) {
  const EngineOptions& e = engine_options_;
  if (e.compute.device == DeviceKind::cuda)
    fmt::print(stderr, "{}\n", plan_engine(config(), e).describe());
  weights_ = std::make_unique<DeviceWeights>(
      checkpoint_ ? DeviceWeights(config(), checkpoint_->rank_weights(), e.compute, true)
                  : DeviceWeights::random(config(), e.compute, 0, "--load-format dummy"));
  engine_ = make_engine(config(), weights_->ranks(), e);
  for (const std::string& warning :
       checkpoint_ ? checkpoint_->warnings()
                   : std::vector<std::string>{"random weights, so answers mean nothing"})
    fmt::print(stderr, "note: {}\n", warning);
  say_computing_threads(options.compute.threads);
  fmt::print(stderr, "{}; {} prompts\n", engine_->describe(), encoding_name(encoding_));
}

SamplingParams sampling_of_folder(const std::string& folder) {
  SamplingParams p;
  p.temperature = 1;
  const std::string path = generation_config_path(folder);
  if (!fs::exists(path)) return p;
  const auto document = parse_json<Document>(read_all(path), path);
  const auto number = [&](const char* name, double low, double high) -> std::optional<double> {
    const auto it = document.is_object() ? document.find(name) : document.end();
    if (it == document.end() || it->is_null()) return std::nullopt;
    if (!it->is_number() || it->get<double>() < low || it->get<double>() > high)
      fail("{}: {} is {}: a number from {} to {} is accepted", path, name, it->dump(), low, high);
    return it->get<double>();
  };
  if (const auto t = number("temperature", 0, 100)) p.temperature = static_cast<float>(*t);
  if (const auto t = number("top_p", 1e-9, 1)) p.top_p = static_cast<float>(*t);
  if (const auto t = number("min_p", 0, 1)) p.min_p = static_cast<float>(*t);
  if (const auto t = number("top_k", -1, 1 << 30)) p.top_k = std::max(0, static_cast<int>(*t));
  return p;
}

}  // namespace fathom::cli
