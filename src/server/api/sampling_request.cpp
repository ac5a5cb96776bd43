#include "server/api/sampling_request.h"

#include <algorithm>
#include <charconv>

namespace fathom::server {
namespace {

// The keys are token ids, as JSON wants them: text.
std::vector<std::pair<int32_t, float>> read_logit_bias(const JsonField& at, int32_t vocab) {
  std::vector<std::pair<int32_t, float>> bias;
  if (at.null()) return bias;
  for (const auto& [key, value] : at.object().items()) {
    int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0 || id >= vocab)
      fail("{}: expected token ids from 0 to {} as keys, found '{}'", at.path(), vocab - 1, key);
    bias.emplace_back(id, static_cast<float>(number_or(at.at(key), 0, -100, 100)));
  }
  return bias;
}

const std::string& read_stop_text(const JsonField& at) {
  const std::string& text = at.string();
  if (text.empty() || text.size() > kMaxStopBytes)
    fail("{}: expected a text of 1 to {} bytes, found {}", at.path(), kMaxStopBytes, text.size());
  return text;
}

std::vector<std::string> read_stop(const JsonField& at) {
  if (at.null() || at.value().is_array()) return read_stop_texts(at);
  at.expect(at.value().is_string(), "a string or an array of strings");
  return {read_stop_text(at)};
}

std::vector<int32_t> read_ids(const JsonField& at, int32_t vocab) {
  std::vector<int32_t> ids;
  if (at.null()) return ids;
  for (size_t i = 0; i < at.array_size(); ++i) ids.push_back(at.at(i).integer(0, vocab - 1));
  return ids;
}

// -1 is vLLM's way to say that all tokens may be drawn, as 0 is.
int read_top_k(const JsonField& at, int absent) {
  return static_cast<int>(std::max<int64_t>(0, integer_or(at, absent, -1, INT32_MAX)));
}

}  // namespace

std::vector<std::string> read_stop_texts(const JsonField& at) {
  std::vector<std::string> stop;
  if (at.null()) return stop;
  if (at.array_size() > kMaxStopTexts)
    fail("{}: at most {} stop texts are accepted, found {}", at.path(), kMaxStopTexts,
         at.array_size());
  for (size_t i = 0; i < at.array_size(); ++i) stop.push_back(read_stop_text(at.at(i)));
  return stop;
}

void read_sampling(const JsonField& root, const ServiceOptions& options,
                   GenerationRequest& request) {
  constexpr double kTiny = 1e-9;  // so small that only the most probable token is left
  SamplingParams& s = request.sampling;
  s = options.sampling;
  s.temperature = static_cast<float>(number_or(root.at("temperature"), s.temperature, 0, 100));
  s.top_p = std::max(static_cast<float>(number_or(root.at("top_p"), s.top_p, 0, 1)), float{kTiny});
  s.min_p = static_cast<float>(number_or(root.at("min_p"), s.min_p, 0, 1));
  s.top_k = read_top_k(root.at("top_k"), s.top_k);
  // Any integer is a valid seed; the generator takes its bits.
  if (!root.at("seed").null())
    request.seed = static_cast<uint64_t>(integer_or(root.at("seed"), 0, INT64_MIN, INT64_MAX));
  LogitRules& rules = request.rules;
  rules.bias = read_logit_bias(root.at("logit_bias"), options.vocab);
  rules.presence_penalty = static_cast<float>(number_or(root.at("presence_penalty"), 0, -2, 2));
  rules.frequency_penalty = static_cast<float>(number_or(root.at("frequency_penalty"), 0, -2, 2));
  rules.repetition_penalty =
      static_cast<float>(number_or(root.at("repetition_penalty"), 1, 0.01, 100));
  rules.min_new_tokens = integer_or(root.at("min_tokens"), 0, 0, INT32_MAX);
  request.n = static_cast<int>(integer_or(root.at("n"), 1, 1, kMaxChoices));
  request.stop = read_stop(root.at("stop"));
  request.stop_token_ids = read_ids(root.at("stop_token_ids"), options.vocab);
  request.ignore_eos = root.at("ignore_eos").boolean_or(false);
  request.priority = static_cast<int>(integer_or(root.at("priority"), 0, INT32_MIN, INT32_MAX));
}

StreamRequest read_stream(const JsonField& root) {
  StreamRequest stream;
  stream.stream = root.at("stream").boolean_or(false);
  const JsonField options = root.at("stream_options");
  if (options.null()) return stream;
  if (!stream.stream) fail("stream_options: only for requests with \"stream\": true");
  stream.include_usage = options.at("include_usage").boolean_or(false);
  stream.continuous_usage =
      stream.include_usage && options.at("continuous_usage_stats").boolean_or(false);
  return stream;
}

bool serves_model(const JsonField& root, const ServiceOptions& options) {
  const JsonField model = root.at("model");
  return model.null() || serves_model(model.string(), options);
}

bool serves_model(std::string_view name, const ServiceOptions& options) {
  const auto& names = options.model_names;
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace fathom::server
