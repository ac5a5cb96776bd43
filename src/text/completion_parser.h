// Reads what a model generates: reasoning, content and tool calls, as it arrives.
//
// Whatever the chunks, the events of a kind add up to the same text and message() is the same.
// A call's name comes out as soon as it is whole, its arguments while they are written. Markers and
// tags never come out, not even by half: bytes are held back while they may be part of one. Tool
// text that cannot be read becomes content without them; a call of which the client knows already
// ends where it stops being readable.
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
  // Of a call come its name, pieces of its arguments, and its end, behind which no piece follows.
  enum class Kind { reasoning, content, tool_name, tool_arguments, tool_end };
  Kind kind;
  std::string text;
  size_t call = 0;  // index into the message's tool_calls
};

class CompletionParser {
 public:
  using Events = std::vector<CompletionEvent>;

  // In thinking mode the prompt has ended with <think>: generation starts inside the reasoning.
  // `marker_tokens`: the markers of text/chat_markers.h that are tokens of the vocabulary. These
  // come by feed_marker() alone; in the text of feed() their characters are text.
  CompletionParser(Encoding encoding, bool thinking,
                   const std::vector<std::string_view>& marker_tokens = {});

  // Text may be cut anywhere, even inside a character. What follows an end-of-sentence marker is
  // ignored. Bytes that are not UTF-8 become U+FFFD.
  Events feed(std::string_view text);
  Events feed_marker(std::string_view marker);

  // No more text will come. Call once. `cut`: the model was not done (a limit has ended the
  // answer), so that what has only begun is a part of something: of a call whose name is known the
  // part stays, half a name and half a tag are dropped.
  Events finish(bool cut = false);

  // What has been read so far; complete after finish(). Calls have the ids "call_0", "call_1", ...
  // The arguments of a call that was cut or became unreadable are the beginning of a JSON object.
  const Message& message() const { return message_; }

  // OpenAI's finish_reason of a generation that ended by itself: "tool_calls" or "stop".
  std::string_view finish_reason() const;

  bool in_reasoning() const { return state_ == State::reasoning; }
  // Bytes of what was fed of which it is not known yet what they are.
  size_t undecided() const;
  // Calls (or blocks of them without any) that could not be read.
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
  std::string buffer_;  // marked text that is read, but not yet handed out: from at_ on
  size_t at_ = 0;
  // Marked text of the block or the call begun, for as long as it may still turn into content.
  std::string pending_;
  size_t block_calls_ = 0;  // calls announced in this block
  std::optional<ToolCallReader> call_;
  bool call_named_ = false;  // its name has been handed out
  int unreadable_calls_ = 0;
  bool finishing_ = false;  // no more text will come: nothing is waited for
  // White space behind tool calls belongs to the format; it is content only if text follows.
  bool after_calls_ = false;
  std::string held_space_;
};

}  // namespace fathom
