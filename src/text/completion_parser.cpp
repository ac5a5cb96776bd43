#include "text/completion_parser.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "text/chat_markers.h"
#include "text/tool_call_text.h"
#include "text/utf8.h"

namespace fathom {
namespace {

constexpr std::string_view kSpace = " \t\r\n";

// Length of the longest end of `text` that may be the beginning of `tag`.
size_t partial_tag(std::string_view text, std::string_view tag) {
  for (size_t n = std::min(text.size(), tag.size() - 1); n > 0; --n) {
    if (text.ends_with(tag.substr(0, n))) return n;
  }
  return 0;
}

// Newlines at the end of `text`, at most `limit` of them.
size_t newlines_at_end(std::string_view text, size_t limit) {
  size_t n = 0;
  while (n < limit && n < text.size() && text[text.size() - 1 - n] == '\n') ++n;
  return n;
}

}  // namespace

struct CompletionParser::Tags {
  std::string_view block_begin, block_end, call_begin, call_end;
  size_t newlines_before;  // that the encoding writes in front of a block after content
  std::optional<ToolCall> (*parse_call)(std::string_view body);

  static const Tags& of(Encoding encoding) {
    static constexpr Tags kV31 = {
        marker::kCallsBegin, marker::kCallsEnd, marker::kCallBegin, marker::kCallEnd, 0,
        parse_call_v31};
    static constexpr Tags kV32 = {"<｜DSML｜function_calls>",
                                  "</｜DSML｜function_calls>",
                                  "<｜DSML｜invoke name=\"",
                                  "</｜DSML｜invoke>",
                                  2,
                                  parse_call_v32};
    return encoding == Encoding::v31 ? kV31 : kV32;
  }
};

CompletionParser::CompletionParser(Encoding encoding, bool thinking)
    : tags_(&Tags::of(encoding)), state_(thinking ? State::reasoning : State::content) {
  message_.role = Role::assistant;
}

CompletionParser::Events CompletionParser::feed(std::string_view text) {
  events_.clear();
  if (ended_) return {};
  incoming_ += text;
  const size_t end = incoming_.find(marker::kEos);
  ended_ = end != incoming_.npos;
  const size_t ready = ended_ ? end
                              : incoming_.size() - std::max(incomplete_utf8_tail(incoming_),
                                                            partial_tag(incoming_, marker::kEos));
  consume(replace_invalid_utf8(std::string_view(incoming_).substr(0, ready)));
  incoming_.erase(0, ready);
  return std::exchange(events_, {});
}

CompletionParser::Events CompletionParser::finish() {
  events_.clear();
  // Half a character in a block with a call is half a tag or half a call.
  if (state_ == State::tool_block && block_calls_ > 0)
    incoming_.resize(incoming_.size() - incomplete_utf8_tail(incoming_));
  if (!ended_) consume(replace_invalid_utf8(incoming_));
  ended_ = true;
  if (state_ == State::reasoning) {
    emit(CompletionEvent::Kind::reasoning, rest());
  } else {
    // A block cut off before its first call was never one. Behind a call what is left is the
    // beginning of the next, or of a tag: nothing that anybody should read.
    const bool in_block = state_ == State::tool_block;
    if (in_block && block_calls_ == 0) emit_content(block_text_);
    if (!in_block || block_calls_ == 0) emit_content(rest());
  }
  buffer_.clear();
  at_ = 0;
  return std::exchange(events_, {});
}

std::string_view CompletionParser::finish_reason() const {
  return message_.tool_calls.empty() ? "stop" : "tool_calls";
}

void CompletionParser::consume(std::string_view valid_text) {
  buffer_ += valid_text;
  while (step()) {
  }
  buffer_.erase(0, at_);
  at_ = 0;
}

// One state's work on what is there. False: nothing more to do before more text comes.
bool CompletionParser::step() {
  switch (state_) {
    case State::reasoning:
      return step_reasoning();
    case State::content:
      return step_content();
    case State::tool_block:
      return step_tool_block();
  }
  return false;
}

bool CompletionParser::step_reasoning() {
  const std::string_view text = rest();
  const size_t end = text.find(marker::kEndThink);
  const bool found = end != text.npos;
  const size_t ready = found ? end : text.size() - partial_tag(text, marker::kEndThink);
  emit(CompletionEvent::Kind::reasoning, text.substr(0, ready));
  at_ += ready;
  if (!found) return false;
  at_ += marker::kEndThink.size();
  state_ = State::content;
  return true;
}

bool CompletionParser::step_content() {
  const std::string_view text = rest();
  const size_t begin = text.find(tags_->block_begin);
  const bool found = begin != text.npos;
  const size_t tag = found ? begin : text.size() - partial_tag(text, tags_->block_begin);
  // Newlines in front of a block are its own, so they wait for what follows them.
  const size_t ready = tag - newlines_at_end(text.substr(0, tag), tags_->newlines_before);
  emit_content(text.substr(0, ready));
  if (!found) {
    at_ += ready;
    return false;
  }
  const size_t block = begin + tags_->block_begin.size();
  block_text_ = text.substr(ready, block - ready);
  block_calls_ = 0;
  searched_ = 0;
  at_ += block;
  state_ = State::tool_block;
  return true;
}

bool CompletionParser::step_tool_block() {
  const std::string_view all = rest();
  const size_t space = std::min(all.find_first_not_of(kSpace), all.size());
  const std::string_view text = all.substr(space);
  if (text.starts_with(tags_->block_end)) {
    const size_t size = space + tags_->block_end.size();
    if (block_calls_ == 0) {
      end_malformed_block(size);
    } else {
      at_ += size;
      state_ = State::content;
    }
    return true;
  }
  if (!text.starts_with(tags_->call_begin)) {
    const bool undecided =
        tags_->call_begin.starts_with(text) || tags_->block_end.starts_with(text);
    if (undecided) return false;
    end_malformed_block(0);
    return true;
  }
  // The end tag may have begun before what was searched last time.
  const size_t body = tags_->call_begin.size();
  const size_t from = std::max(body, searched_ - std::min(searched_, tags_->call_end.size()));
  const size_t end = text.find(tags_->call_end, from);
  if (end == text.npos) {
    searched_ = text.size();
    return false;
  }
  searched_ = 0;
  const size_t size = space + end + tags_->call_end.size();
  if (auto call = tags_->parse_call(text.substr(body, end - body))) {
    at_ += size;
    accept_call(std::move(*call));
  } else {
    end_malformed_block(size);
  }
  return true;
}

// The block so far, if nothing in it was accepted, and the next `bytes` are content after all.
void CompletionParser::end_malformed_block(size_t bytes) {
  if (block_calls_ == 0) emit_content(block_text_);
  emit_content(rest().substr(0, bytes));
  at_ += bytes;
  state_ = State::content;
}

void CompletionParser::accept_call(ToolCall call) {
  const size_t index = message_.tool_calls.size();
  call.id = "call_" + std::to_string(index);
  events_.push_back({CompletionEvent::Kind::tool_name, call.name, index});
  events_.push_back({CompletionEvent::Kind::tool_arguments, call.arguments, index});
  message_.tool_calls.push_back(std::move(call));
  ++block_calls_;
  after_calls_ = true;
  held_space_.clear();
}

void CompletionParser::emit(CompletionEvent::Kind kind, std::string_view text) {
  if (text.empty()) return;
  const bool reasoning = kind == CompletionEvent::Kind::reasoning;
  (reasoning ? message_.reasoning_content : message_.content) += text;
  events_.push_back({kind, std::string(text)});
}

void CompletionParser::emit_content(std::string_view text) {
  if (after_calls_) {
    held_space_ += text;
    if (held_space_.find_first_not_of(kSpace) == held_space_.npos) return;
    after_calls_ = false;
    emit(CompletionEvent::Kind::content, std::exchange(held_space_, {}));
    return;
  }
  emit(CompletionEvent::Kind::content, text);
}

}  // namespace fathom
