// ChoiceReader turns the tokens of one choice into the events that the protocols write: pieces of
// text, reasoning and calls, log-probabilities, and the finish reason. Plain computation: it uses
// no thread and no clock.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/generation.h"
#include "text/answer_reader.h"

namespace fathom::server {

// A copy of a TokenEvent that owns its data: the engine's own is valid during the callback alone.
struct KeptToken {
  int32_t token = -1;
  Finish finish = Finish::none;
  RequestStats stats;
  // Members that few events have; separate, to keep the usual token small.
  struct Extra {
    std::string error;
    std::vector<TokenLogprobs> logprobs;  // one or none
    std::vector<TokenLogprobs> prompt_logprobs;
  };
  std::unique_ptr<Extra> extra;

  static KeptToken of(const TokenEvent& event);
};

// Thread-compatible.
class ChoiceReader {
 public:
  // `id` names the tool calls. `service` and `request` are not needed afterwards.
  ChoiceReader(const Service& service, const GenerationRequest& request, std::string id,
               int choice);

  // Reads the next token and adds what is now known to `event`. Must not be called once ended().
  void take(KeptToken token, GenerationEvent& event);
  // Ends the choice with a failure.
  void fail(const Failure& failure, GenerationEvent& event);

  bool ended() const { return ended_; }
  // Whether a stop text has ended the choice. The engine does not know of it and must be told.
  bool stopped() const { return reader_.stopped(); }
  const RequestStats& stats() const { return stats_; }
  // How many tool calls of the answer could not be read.
  int unreadable_calls() const { return reader_.unreadable_calls(); }

 private:
  struct HeldLogprobs {
    size_t begin;  // of the token's text in the answer's, in bytes
    TokenLogprobs logprobs;
  };
  void release_logprobs(bool all, GenerationEvent& event);
  void end(std::string_view reason, GenerationEvent& event);

  const std::string id_;
  const int choice_;
  const bool chat_;
  const int64_t min_new_tokens_;
  AnswerReader reader_;
  std::deque<HeldLogprobs> held_;  // of tokens whose text is not decided yet
  RequestStats stats_;
  int64_t reasoning_tokens_ = 0;
  Message message_;  // with ids, at the end
  bool ended_ = false;
};

}  // namespace fathom::server
