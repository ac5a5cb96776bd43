#include "text/completion_parser.h"

#include <algorithm>
#include <utility>

#include "text/chat_markers.h"

namespace fathom {
namespace {

using Kind = CompletionEvent::Kind;

constexpr std::string_view kSpace = " \t\r\n";
constexpr size_t kNewlinesBeforeBlock = 2;  // that v3.2 writes between content and a block

// The marked text of an encoding's tags around and in a block of calls.
struct Tags {
  std::string_view block_end, call_begin;

  static const Tags& of(Encoding encoding) {
    static constexpr Tags kV31 = {
        "\xFF"
        "E",
        "\xFF"
        "b"};
    static constexpr Tags kV32 = {
        "</\xFF"
        "Dfunction_calls>",
        "<\xFF"
        "Dinvoke name=\""};
    return encoding == Encoding::v31 ? kV31 : kV32;
  }
};

// Length of the longest end of `text` that may be the beginning of `tag`.
size_t partial_tag(std::string_view text, std::string_view tag) {
  for (size_t n = std::min(text.size(), tag.size() - 1); n > 0; --n) {
    if (text.ends_with(tag.substr(0, n))) return n;
  }
  return 0;
}

// The "<" or "</" that `text` ends in.
size_t tag_opening(std::string_view text) {
  return text.ends_with("</") ? 2 : text.ends_with("<") ? 1 : 0;
}

size_t newlines_at_end(std::string_view text) {
  size_t n = 0;
  while (n < kNewlinesBeforeBlock && n < text.size() && text[text.size() - 1 - n] == '\n') ++n;
  return n;
}

}  // namespace

CompletionParser::CompletionParser(Encoding encoding, bool thinking,
                                   const std::vector<std::string_view>& marker_tokens)
    : encoding_(encoding),
      state_(thinking ? State::reasoning : State::content),
      markers_(encoding, marker_tokens) {
  message_.role = Role::assistant;
}

CompletionParser::Events CompletionParser::feed(std::string_view text) {
  markers_.text(text, buffer_);
  consume();
  return std::exchange(events_, {});
}

CompletionParser::Events CompletionParser::feed_marker(std::string_view marker) {
  markers_.marker(marker, buffer_);
  consume();
  return std::exchange(events_, {});
}

CompletionParser::Events CompletionParser::finish(bool cut) {
  // After a call, the rest is the beginning of another call or of a tag: it is not read.
  const bool in_block = state_ == State::block || state_ == State::call;
  const bool half_marker = cut && markers_.holds_part();
  markers_.finish(!half_marker && !(in_block && (cut || block_calls_ > 0)), buffer_);
  consume();
  if (state_ == State::reasoning || state_ == State::content) {
    // The newlines and the "<" that v3.2 writes before its marker are markup, not content.
    const std::string_view text = rest();
    const size_t tag = half_marker ? 0 : tag_opening(text);
    const size_t lines = newlines_at_end(text.substr(0, text.size() - tag));
    const bool begun = half_marker || (cut && tag == 1 && lines == kNewlinesBeforeBlock);
    if (begun && encoding_ == Encoding::v32) buffer_.resize(buffer_.size() - tag - lines);
    finishing_ = true;
    consume();
  } else if (state_ == State::call && call_named_) {
    unreadable_calls_ += cut ? 0 : 1;
    end_call();
  } else {
    if (!cut && block_calls_ == 0) {
      pending_ += rest();
      give_back();
    } else if (!cut && state_ == State::call) {
      ++unreadable_calls_;
    }
  }
  buffer_.clear();
  at_ = 0;
  pending_.clear();
  held_space_.clear();
  return std::exchange(events_, {});
}

std::string_view CompletionParser::finish_reason() const {
  return message_.tool_calls.empty() ? "stop" : "tool_calls";
}

size_t CompletionParser::undecided() const {
  return markers_.held() + unmarked_size(rest()) + held_space_.size() + unmarked_size(pending_);
}

void CompletionParser::consume() {
  while (step()) {
  }
  buffer_.erase(0, at_);
  at_ = 0;
}

// Does one state's work on the buffered text. Returns false if more text is needed.
bool CompletionParser::step() {
  switch (state_) {
    case State::reasoning:
    case State::content:
      return step_text();
    case State::block:
      return step_block();
    case State::call:
      return step_call();
  }
  return false;
}

// Bytes at the end of `text` that may belong to what follows.
size_t CompletionParser::held_at_end(std::string_view text) const {
  if (finishing_) return 0;
  size_t held = state_ == State::reasoning ? partial_tag(text, marker::kEndThink) : 0;
  if (encoding_ == Encoding::v32) {
    const size_t tag = tag_opening(text);
    held = std::max(held, tag + newlines_at_end(text.substr(0, text.size() - tag)));
  }
  return held;
}

// Reasoning and content, up to what ends them.
bool CompletionParser::step_text() {
  const std::string_view text = rest();
  const size_t marker = text.find(kMark);
  const std::string_view plain = text.substr(0, marker);
  const size_t end = state_ == State::reasoning ? plain.find(marker::kEndThink) : plain.npos;
  if (end != plain.npos) {
    emit_text(plain.substr(0, end));
    at_ += end + marker::kEndThink.size();
    state_ = State::content;
    return true;
  }
  if (marker == text.npos) {
    const size_t ready = text.size() - held_at_end(text);
    emit_text(text.substr(0, ready));
    at_ += ready;
    return false;
  }
  if (encoding_ == Encoding::v32) return step_dsml(marker);
  emit_text(plain);
  at_ += marker;
  if (text[marker + 1] == mark::kCallsBegin)
    begin_block(2);
  else
    at_ += 2;  // a marker where it means nothing
  return true;
}

// Handles a DSML marker in reasoning or content. It is part of the tag that begins a block of
// calls, or has no meaning here.
bool CompletionParser::step_dsml(size_t marker) {
  const std::string_view text = rest();
  const size_t opening = tag_opening(text.substr(0, marker)), begin = marker - opening;
  DsmlTag tag;
  if (opening > 0 && text[marker + 1] == mark::kDsml) tag = dsml_tag_at(text.substr(begin));
  const bool block = tag.size > 0 && !tag.closing && tag.inside == "function_calls";
  const bool wait = tag.open && !finishing_;
  const size_t lines = block || wait ? newlines_at_end(text.substr(0, begin)) : 0;
  const size_t ready = begin - lines;
  emit_text(text.substr(0, ready));
  at_ += ready;
  if (wait) return false;
  if (block) {
    begin_block(lines + tag.size);
  } else if (tag.open) {
    at_ = buffer_.size();  // half a tag at the end
  } else {
    at_ += tag.size > 0 ? tag.size : opening + 2;
  }
  return true;
}

// The next `size` bytes begin a block of calls.
void CompletionParser::begin_block(size_t size) {
  pending_ = rest().substr(0, size);
  at_ += size;
  block_calls_ = 0;
  state_ = State::block;
}

bool CompletionParser::step_block() {
  const Tags& tags = Tags::of(encoding_);
  const std::string_view all = rest();
  const size_t space = std::min(all.find_first_not_of(kSpace), all.size());
  const std::string_view text = all.substr(space);
  if (block_calls_ == 0) pending_ += all.substr(0, space);
  at_ += space;
  if (text.starts_with(tags.block_end)) {
    at_ += tags.block_end.size();
    if (block_calls_ == 0) give_back();
    pending_.clear();
    state_ = State::content;
    return true;
  }
  if (text.starts_with(tags.call_begin)) {
    pending_ += tags.call_begin;
    at_ += tags.call_begin.size();
    call_.emplace(encoding_);
    call_named_ = false;
    state_ = State::call;
    return true;
  }
  if (tags.call_begin.starts_with(text) || tags.block_end.starts_with(text)) return false;
  if (block_calls_ == 0) give_back();
  pending_.clear();
  state_ = State::content;
  return true;
}

bool CompletionParser::step_call() {
  read_call();
  switch (call_->status()) {
    case ToolCallReader::Status::reading:
      return false;
    case ToolCallReader::Status::complete:
      end_call();
      return true;
    case ToolCallReader::Status::unreadable:
      if (call_named_) {
        ++unreadable_calls_;
        end_call();
      } else {
        give_back();
      }
      state_ = State::content;
      return true;
  }
  return false;
}

// Passes on the parts of the call that its reader finds in the text.
void CompletionParser::read_call() {
  const std::string_view text = rest();
  const size_t size = call_->read(text);
  if (!call_->announced()) pending_ += text.substr(0, size);
  at_ += size;
  if (call_->announced() && !call_named_) {
    const size_t index = message_.tool_calls.size();
    message_.tool_calls.push_back({"call_" + std::to_string(index), call_->name(), {}});
    events_.push_back({Kind::tool_name, call_->name(), index});
    call_named_ = true;
    ++block_calls_;
    pending_.clear();
    held_space_.clear();
  }
  std::string arguments = call_->take_arguments();
  if (arguments.empty()) return;
  message_.tool_calls.back().arguments += arguments;
  events_.push_back({Kind::tool_arguments, std::move(arguments), message_.tool_calls.size() - 1});
}

void CompletionParser::end_call() {
  events_.push_back({Kind::tool_end, {}, message_.tool_calls.size() - 1});
  call_.reset();
  after_calls_ = true;
  state_ = State::block;
}

// What is pending was no call: it is content.
void CompletionParser::give_back() {
  ++unreadable_calls_;
  state_ = State::content;
  const std::string_view call_begin = Tags::of(encoding_).call_begin;
  if (pending_.ends_with(call_begin)) pending_.resize(pending_.size() - call_begin.size());
  emit_text(without_markers(std::exchange(pending_, {})));
}

void CompletionParser::emit(Kind kind, std::string_view text) {
  if (text.empty()) return;
  const bool reasoning = kind == Kind::reasoning;
  (reasoning ? message_.reasoning_content : message_.content) += text;
  events_.push_back({kind, std::string(text)});
}

void CompletionParser::emit_text(std::string_view text) {
  if (state_ == State::reasoning) return emit(Kind::reasoning, text);
  if (after_calls_) {
    held_space_ += text;
    if (held_space_.find_first_not_of(kSpace) == held_space_.npos) return;
    after_calls_ = false;
    return emit(Kind::content, std::exchange(held_space_, {}));
  }
  emit(Kind::content, text);
}

}  // namespace fathom
