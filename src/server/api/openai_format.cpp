#include "server/api/openai_format.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>

#include "server/http/sse.h"
#include "text/utf8.h"

namespace fathom::server {

std::string json_text(std::string_view text) { return dump_json(OrderedJson(text)); }

OrderedJson usage_json(const Usage& usage) {
  OrderedJson json;
  json["prompt_tokens"] = usage.prompt_tokens;
  json["completion_tokens"] = usage.completion_tokens;
  json["total_tokens"] = usage.prompt_tokens + usage.completion_tokens;
  json["prompt_tokens_details"]["cached_tokens"] = usage.cached_tokens;
  OrderedJson& details = json["completion_tokens_details"];
  details["reasoning_tokens"] = usage.reasoning_tokens;
  if (usage.draft_tokens > 0) {
    details["accepted_prediction_tokens"] = usage.accepted_tokens;
    details["rejected_prediction_tokens"] = usage.draft_tokens - usage.accepted_tokens;
  }
  return json;
}

void UsageCount::take(const GenerationEvent& event) {
  Usage& u = of_choice_[static_cast<size_t>(event.choice)];
  const RequestStats& s = event.stats;
  u = {s.prompt_tokens,        s.reused_tokens, s.generated_tokens,
       event.reasoning_tokens, s.draft_tokens,  s.accepted_tokens};
}

Usage UsageCount::total() const {
  Usage total;
  for (size_t c = 0; c < of_choice_.size(); ++c) {
    total.completion_tokens += of_choice_[c].completion_tokens;
    total.reasoning_tokens += of_choice_[c].reasoning_tokens;
    total.draft_tokens += of_choice_[c].draft_tokens;
    total.accepted_tokens += of_choice_[c].accepted_tokens;
    if (c % per_prompt_ != 0) continue;
    total.prompt_tokens += of_choice_[c].prompt_tokens;
    total.cached_tokens += of_choice_[c].cached_tokens;
  }
  return total;
}

// The shortest decimal that is this float: not the 17 digits of the double next to it.
double json_logprob(float logprob) {
  if (!(logprob > -9999.0f)) return -9999.0;
  return std::strtod(fmt::format("{}", logprob).c_str(), nullptr);
}

std::string token_text(const Tokenizer& tokenizer, int32_t id) {
  return replace_invalid_utf8(tokenizer.token_bytes(id));
}

namespace {

OrderedJson chat_logprob(const Tokenizer& tokenizer, int32_t id, float logprob) {
  OrderedJson json;
  json["token"] = token_text(tokenizer, id);
  json["logprob"] = json_logprob(logprob);
  OrderedJson bytes = OrderedJson::array();
  for (const char c : tokenizer.token_bytes(id)) bytes.push_back(static_cast<uint8_t>(c));
  json["bytes"] = std::move(bytes);
  return json;
}

}  // namespace

OrderedJson chat_logprobs_json(const Tokenizer& tokenizer,
                               const std::vector<TokenLogprobs>& logprobs) {
  OrderedJson content = OrderedJson::array();
  for (const TokenLogprobs& token : logprobs) {
    OrderedJson json = chat_logprob(tokenizer, token.token, token.logprob);
    OrderedJson top = OrderedJson::array();
    for (const auto& [id, logprob] : token.top) top.push_back(chat_logprob(tokenizer, id, logprob));
    json["top_logprobs"] = std::move(top);
    content.push_back(std::move(json));
  }
  return content;
}

ChunkWriter::ChunkWriter(const ServiceOptions& options, std::string_view id,
                         std::string_view object, int64_t created, bool usage_null)
    : usage_null_(usage_null) {
  OrderedJson head = answer_head(options, id, object, created);
  head["system_fingerprint"] = fingerprint_json(options);
  head_ = "data: " + dump_json(head);
  head_.back() = ',';  // instead of the closing brace
  head_ += "\"choices\":[";
}

std::string ChunkWriter::choice(int index, std::string_view body, std::string_view finish_reason,
                                const OrderedJson& usage) const {
  std::string out = head_;
  out += fmt::format("{{\"index\":{},", index);
  out += body;
  out += ",\"finish_reason\":";
  out += finish_reason.empty() ? "null" : json_text(finish_reason);
  out += "}]";
  if (usage_null_ || !usage.is_null()) out += ",\"usage\":" + dump_json(usage);
  return out += "}\n\n";
}

std::string ChunkWriter::usage(const OrderedJson& usage) const {
  return head_ + "],\"usage\":" + dump_json(usage) + "}\n\n";
}

OrderedJson answer_head(const ServiceOptions& options, std::string_view id, std::string_view object,
                        int64_t created) {
  OrderedJson json;
  json["id"] = id;
  json["object"] = object;
  json["created"] = created;
  json["model"] = options.model_names.front();
  return json;
}

OrderedJson fingerprint_json(const ServiceOptions& options) {
  return options.fingerprint.empty() ? OrderedJson(nullptr) : OrderedJson(options.fingerprint);
}

std::string error_event(const Failure& failure) {
  return "data: " + error_body(ErrorShape::openai, failure) + "\n\n";
}

int64_t unix_now() {
  using namespace std::chrono;
  return duration_cast<seconds>(system_clock::now().time_since_epoch()).count();
}

}  // namespace fathom::server
