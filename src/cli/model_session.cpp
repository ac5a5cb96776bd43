#include "cli/model_session.h"

#include <random>

#include "text/utf8.h"

namespace fathom::cli {
namespace {

ModelOptions with_sequences(ModelOptions o, int sequences) {
  o.compute.sequences = sequences;
  return o;
}

EngineOptions engine_options(bool keep_prefixes) {
  EngineOptions e;
  e.keep_prefixes = keep_prefixes;
  return e;
}

}  // namespace

void GenerationOptions::add_to(CLI::App& command) {
  command.add_option("--max-new-tokens", max_new_tokens, "longest answer")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->capture_default_str();
  command.add_option("--temperature", temperature, "0 takes the most probable token every time")
      ->check(number_from(0.0, 100.0))
      ->capture_default_str();
  command.add_option("--top-k", top_k, "draw from the k most probable tokens, 0 for all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      .add_option("--top-p", top_p,
                  "draw from the fewest most probable tokens that make up p (after top-k)")
      ->check(number_from(1e-9, 1.0))
      ->capture_default_str();
  command
      .add_option("--min-p", min_p,
                  "leave out tokens less than p times as probable as the first (after top-p)")
      ->check(number_from(0.0, 1.0))
      ->capture_default_str();
  command.add_option("--seed", seed, "the same seed draws the same tokens (default: a new one)");
  command.add_flag("--thinking", thinking, "let the model reason before it answers");
  command.add_option("--system", system, "system message");
  model.add_to(command);
}

ModelSession::ModelSession(const std::string& folder, const GenerationOptions& options,
                           int sequences, bool keep_prefixes)
    : options_(options),
      model_(folder, with_sequences(options.model, sequences), engine_options(keep_prefixes)) {}

std::vector<int32_t> ModelSession::prompt_ids(const Conversation& conversation,
                                              bool thinking) const {
  for (const Message& m : conversation) require_utf8(m.content, "the prompt");
  return encode_segments(tokenizer(), render(conversation, {encoding(), thinking, false}));
}

std::vector<int32_t> ModelSession::raw_ids(const std::string& text) const {
  require_utf8(text, "the prompt");
  return encode_text(tokenizer(), text);
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
  r.stop_ids = model_.stop_ids();
  r.sink = [&answer](const TokenEvent& event) { answer.take(event); };
  return engine().submit(std::move(r));
}

Answer ModelSession::new_answer(bool thinking, bool raw, Answer::Show show) const {
  return Answer(tokenizer(), encoding(), thinking, raw, std::move(show));
}

Speed ModelSession::speed() const {
  const EngineStats s = model_.engine().stats();
  return {s.prompt_tokens, s.generated_tokens, s.speculation, s.prompt_seconds,
          s.generation_seconds};
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
