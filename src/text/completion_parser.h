// CompletionParser reads generated text as it arrives, and tells reasoning, content and tool calls
// apart.
//
// However the text is cut into chunks, the events of each kind add up to the same text, and
// message() is the same. A call's name is handed out when it is complete, its arguments while they
// are written. Markers and tags are never handed out: bytes that may be part of one are held back.
// A call that cannot be read becomes content, without its markers and tags. If its name has already
// been handed out, the call ends where it stops being readable.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/chat.h"
#include "text/marked_text.h"
#include "text/messages.h"
#include "text/tool_call_reader.h"

namespace fathom {

struct CompletionEvent {
  // The events of a call: its name, pieces of its arguments, and its end.
  enum class Kind { reasoning, content, tool_name, tool_arguments, tool_end };
  Kind kind;
  std::string text;
  size_t call = 0;  // index into the message's tool_calls
};

class CompletionParser {
 public:
  using Events = std::vector<CompletionEvent>;

  // In thinking mode the prompt has ended with <think>: generation starts inside the reasoning.
  // `marker_tokens`: the markers of text/chat_markers.h that are tokens of the vocabulary. They are
  // passed to feed_marker(); the same characters in feed() are ordinary text.
  CompletionParser(Encoding encoding, bool thinking,
                   const std::vector<std::string_view>& marker_tokens = {});

  // Text may be cut anywhere, even inside a character. What follows an end-of-sentence marker is
  // ignored. Bytes that are not UTF-8 become U+FFFD.
  Events feed(std::string_view text);
  Events feed_marker(std::string_view marker);

  // Call this once, when no more text will come. `cut`: a limit has ended the answer before the
  // model did. Then a call whose name is known keeps the arguments it has; half a name and half a
  // tag are dropped.
  Events finish(bool cut = false);

  // What has been read so far; complete after finish(). Calls have the ids "call_0", "call_1", ...
  // If a call was cut or became unreadable, its arguments are only the beginning of a JSON object.
  const Message& message() const { return message_; }

  // OpenAI's finish_reason of a generation that ended by itself: "tool_calls" or "stop".
  std::string_view finish_reason() const;

  bool in_reasoning() const { return state_ == State::reasoning; }
  // Bytes that were fed and are not yet known to be content, reasoning or markup.
  size_t undecided() const;
  // How many calls could not be read. A block of calls without any call counts as one.
  int unreadable_calls() const { return unreadable_calls_; }

 private:
  enum class State { reasoning, content, block, call };

  void consume();
  bool step();
  bool step_text();
  bool step_dsml(size_t marker);
  bool step_block();
  bool step_call();
  void begin_block(size_t size);
  void read_call();
  void end_call();
  void give_back();
  size_t held_at_end(std::string_view text) const;

  void emit(CompletionEvent::Kind kind, std::string_view text);
  void emit_text(std::string_view text);
  std::string_view rest() const { return std::string_view(buffer_).substr(at_); }

  const Encoding encoding_;
  State state_;
  MarkerReader markers_;
  Message message_;
  Events events_;
  std::string buffer_;  // marked text; from at_ on it is not handed out yet
  size_t at_ = 0;
  // Marked text of the current block or call, while it may still become content.
  std::string pending_;
  size_t block_calls_ = 0;  // calls announced in this block
  std::optional<ToolCallReader> call_;
  bool call_named_ = false;  // its name has been handed out
  int unreadable_calls_ = 0;
  bool finishing_ = false;  // no more text will come: nothing is waited for
  // White space after tool calls is part of the format. It becomes content only if text follows it.
  bool after_calls_ = false;
  std::string held_space_;
};

}  // namespace fathom
