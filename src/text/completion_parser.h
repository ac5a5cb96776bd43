// Reads what a model generates: reasoning, content and tool calls, as it arrives.
//
// Whatever the chunks, the events of a kind add up to the same text and message() is the same. A
// tag is never handed out by half, and a tool call only as a whole: once it is known to be well
// formed. Tool text that is not becomes content, as it stands; what an answer was cut off in behind
// a call of the same block (the next call, half a tag) is dropped.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "text/chat.h"
#include "text/messages.h"

namespace fathom {

struct CompletionEvent {
  enum class Kind { reasoning, content, tool_name, tool_arguments };
  Kind kind;
  std::string text;
  size_t call = 0;  // index into the message's tool_calls
};

class CompletionParser {
 public:
  using Events = std::vector<CompletionEvent>;

  // In thinking mode the prompt has ended with <think>: generation starts inside the reasoning.
  CompletionParser(Encoding encoding, bool thinking);

  // Text may be cut anywhere, even inside a character. What follows an end-of-sentence marker is
  // ignored. Bytes that are not UTF-8 become U+FFFD.
  Events feed(std::string_view text);

  // No more text will come. Call once.
  Events finish();

  // What has been read so far; complete after finish(). Calls have the ids "call_0", "call_1", ...
  const Message& message() const { return message_; }

  // OpenAI's finish_reason of a generation that ended by itself: "tool_calls" or "stop".
  std::string_view finish_reason() const;

  bool in_reasoning() const { return state_ == State::reasoning; }
  // Bytes of what was fed of which it is not known yet what they are.
  size_t undecided() const {
    const bool in_doubt = state_ == State::tool_block && block_calls_ == 0;
    return incoming_.size() + rest().size() + held_space_.size() +
           (in_doubt ? block_text_.size() : 0);
  }

 private:
  enum class State { reasoning, content, tool_block };
  struct Tags;  // the encoding's markers around tool calls

  void consume(std::string_view valid_text);
  bool step();
  bool step_reasoning();
  bool step_content();
  bool step_tool_block();
  void end_malformed_block(size_t bytes);
  void accept_call(ToolCall call);

  void emit(CompletionEvent::Kind kind, std::string_view text);
  void emit_content(std::string_view text);
  std::string_view rest() const { return std::string_view(buffer_).substr(at_); }

  const Tags* tags_;
  State state_;
  Message message_;
  Events events_;
  std::string incoming_;  // not yet known to be whole characters, or part of an end marker
  bool ended_ = false;    // the end marker has been seen
  std::string buffer_;    // read, but not yet handed out: from at_ on
  size_t at_ = 0;
  std::string block_text_;  // of the tool block begun, while it may still turn into content
  size_t block_calls_ = 0;  // calls accepted in it
  size_t searched_ = 0;     // bytes of rest() without an end of the call begun there
  // White space behind tool calls belongs to the format; it is content only if text follows.
  bool after_calls_ = false;
  std::string held_space_;
};

}  // namespace fathom
