// One answer on its way from token ids to what they mean: text, reasoning, tool calls, up to a stop
// text. What `generate`, `chat` and the server all read answers with.
//
// Whatever the tokens the text is cut into, the pieces of a kind add up to the same text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/completion_parser.h"
#include "text/stop_text.h"
#include "text/stream_decoder.h"

namespace fathom {

struct AnswerOptions {
  Encoding encoding = Encoding::v31;
  // False: text alone, of kind content, without special tokens: nobody knows what it continues.
  bool chat = true;
  bool thinking = false;  // the prompt has ended in <think>
  // Looked for in the content: what the client reads as the answer. Not in reasoning, and not in
  // the markup and the arguments of tool calls, which a blank line or a brace must not cut.
  std::vector<std::string> stop;
  bool single_call = false;  // the answer ends behind its first tool call
};

// Thread-compatible.
class AnswerReader {
 public:
  using Events = CompletionParser::Events;

  // `tokenizer` must outlive the reader.
  AnswerReader(const Tokenizer& tokenizer, AnswerOptions options);

  // The next token; not the one that ended the answer, which is no text. What it made certain is
  // appended to `pieces`: no piece of kind tool_end, which only tells when single_call ends.
  // `may_stop` false: no stop text ends in this token's text (an answer that has not reached its
  // least length).
  void push(int32_t token, Events& pieces, bool may_stop = true);

  // No more tokens will come. Call once; not after stopped(). `cut`: a limit has ended the answer
  // (CompletionParser::finish).
  void finish(Events& pieces, bool cut = false);

  // The answer has ended by itself: in front of a stop text, or behind its only call.
  bool stopped() const { return stop_.found() || called_; }
  std::string_view stop_text() const { return stop_.found_text(); }

  // The whole message, after finish() or once stopped(): what the pieces add up to. Its calls have
  // the ids "call_0", "call_1", ...; CompletionParser::message() says what a call may be that was
  // cut.
  const Message& message() const { return message_; }
  bool in_reasoning() const { return options_.chat && parser_.in_reasoning(); }
  // OpenAI's finish_reason of an answer that ended by itself: "tool_calls" or "stop".
  std::string_view finish_reason() const {
    return message_.tool_calls.empty() ? "stop" : "tool_calls";
  }

  // Tool calls that the answer has tried and that could not be read.
  int unreadable_calls() const { return parser_.unreadable_calls(); }

  // Bytes of text that the tokens so far stand for, and how many of them are decided: part of a
  // piece handed out (or of markup). Once stopped, decided() is where the stop text begins.
  size_t text_bytes() const { return text_bytes_; }
  size_t decided() const;

 private:
  bool push_marker(int32_t token, Events& pieces, bool may_stop);
  void take(Events&& events, Events& pieces, bool may_stop);
  void add_content(std::string_view text, Events& pieces, bool may_stop);
  void release_held(Events& pieces);
  void append(CompletionEvent event, Events& pieces);

  AnswerOptions options_;
  int32_t eos_ = -1;
  std::vector<std::pair<int32_t, std::string_view>> marker_tokens_;
  StreamDecoder decoder_;
  CompletionParser parser_;
  StopText stop_;
  Message message_;
  bool called_ = false;  // options_.single_call, and there it is
  size_t text_bytes_ = 0;
};

}  // namespace fathom
