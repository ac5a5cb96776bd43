// OpenAI's answer formats that chat and text completions share.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "server/generation.h"
#include "text/python_json.h"

namespace fathom::server {

// Returns `text` as a JSON string with its quotes.
std::string json_text(std::string_view text);

// The usage of a request, over all its choices.
struct Usage {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t reasoning_tokens = 0;
  int64_t draft_tokens = 0, accepted_tokens = 0;  // reported if there were any
};
OrderedJson usage_json(const Usage& usage);

// Adds up the usage of a request from the events of its choices. The choices of a prompt share its
// tokens, which are counted once, with the first choice.
class UsageCount {
 public:
  UsageCount(size_t choices, int per_prompt)
      : of_choice_(choices), per_prompt_(static_cast<size_t>(per_prompt)) {}
  void take(const GenerationEvent& event);
  Usage total() const;

 private:
  std::vector<Usage> of_choice_;
  size_t per_prompt_;
};

// Returns a log-probability as a JSON number; -infinity and all below -9999 become -9999.
double json_logprob(float logprob);

// Returns the text of one token; half a character is U+FFFD.
std::string token_text(const Tokenizer& tokenizer, int32_t id);

// The entries of `logprobs.content` of a chat answer.
OrderedJson chat_logprobs_json(const Tokenizer& tokenizer,
                               const std::vector<TokenLogprobs>& logprobs);

// Writes the chunks of a stream as text. Members that are the same in all chunks are serialized
// once.
class ChunkWriter {
 public:
  // `object` is the chunk's type. `usage_null`: chunks without usage have "usage": null.
  ChunkWriter(const ServiceOptions& options, std::string_view id, std::string_view object,
              int64_t created, bool usage_null);

  // A chunk of one choice. `body`: the members after "index" without finish_reason, as JSON text.
  // An empty `finish_reason` is null.
  std::string choice(int index, std::string_view body, std::string_view finish_reason,
                     const OrderedJson& usage = nullptr) const;
  // The chunk after the last one: no choices, the usage of the whole request.
  std::string usage(const OrderedJson& usage) const;

 private:
  std::string head_;
  bool usage_null_;
};

// Returns {"id", "object", "created", "model"} of a whole answer; choices and usage are added to
// it.
OrderedJson answer_head(const ServiceOptions& options, std::string_view id, std::string_view object,
                        int64_t created);
OrderedJson fingerprint_json(const ServiceOptions& options);

// An error in the middle of a stream, as its last event.
std::string error_event(const Failure& failure);

inline constexpr std::string_view kStreamDone = "data: [DONE]\n\n";

int64_t unix_now();

}  // namespace fathom::server
