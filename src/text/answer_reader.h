// AnswerReader turns the token ids of one answer into content, reasoning and tool calls, up to a
// stop text. `generate`, `chat` and the server all use it.
//
// The pieces of each kind add up to the same text, however the tokens cut it.
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
  // False: a plain completion. Its text is not parsed: all of it is content, without special
  // tokens.
  bool chat = true;
  bool thinking = false;  // the prompt has ended in <think>
  // Stop texts. They are searched in the content, which the client reads as the answer. They are
  // not searched in reasoning or in tool calls, which a blank line or a brace must not cut.
  std::vector<std::string> stop;
  bool single_call = false;  // the answer ends after its first tool call
};

// Thread-compatible.
class AnswerReader {
 public:
  using Events = CompletionParser::Events;

  // `tokenizer` must outlive the reader.
  AnswerReader(const Tokenizer& tokenizer, AnswerOptions options);

  // Reads the next token. The stop token that ended the answer is not pushed: it has no text.
  // Appends to `pieces` what is now known, never a piece of kind tool_end. `may_stop` false: this
  // token's text cannot complete a stop text (the answer has not reached its minimum length).
  void push(int32_t token, Events& pieces, bool may_stop = true);

  // Call this once when no more tokens will come, but not after stopped(). `cut`: a limit has ended
  // the answer (see CompletionParser::finish).
  void finish(Events& pieces, bool cut = false);

  // Whether the answer has ended by itself: before a stop text, or after the call of single_call.
  bool stopped() const { return stop_.found() || called_; }
  std::string_view stop_text() const { return stop_.found_text(); }

  // The whole message, after finish() or once stopped(): the sum of the pieces. Its calls have the
  // ids "call_0", "call_1", ...; CompletionParser::message() says what a call that was cut
  // contains.
  const Message& message() const { return message_; }
  bool in_reasoning() const { return options_.chat && parser_.in_reasoning(); }
  // OpenAI's finish_reason of an answer that ended by itself: "tool_calls" or "stop".
  std::string_view finish_reason() const {
    return message_.tool_calls.empty() ? "stop" : "tool_calls";
  }

  // How many tool calls of the answer could not be read.
  int unreadable_calls() const { return parser_.unreadable_calls(); }

  // text_bytes(): bytes of text of all tokens so far. decided(): how many of these bytes have been
  // handed out in pieces or read as markup. Once stopped, decided() is where the stop text begins.
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
  bool called_ = false;  // options_.single_call, and the call is complete
  size_t text_bytes_ = 0;
};

}  // namespace fathom
