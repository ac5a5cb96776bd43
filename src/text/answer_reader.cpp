#include "text/answer_reader.h"

#include <utility>

#include "text/chat_markers.h"

namespace fathom {

// Markers of tool calls may be special tokens: not text, but they do mean something to the parser.
AnswerReader::AnswerReader(const Tokenizer& tokenizer, AnswerOptions options)
    : options_(std::move(options)),
      eos_(tokenizer.added_id_of(marker::kEos).value_or(-1)),
      decoder_(tokenizer, !options_.chat),
      parser_(options_.encoding, options_.thinking),
      stop_(std::move(options_.stop)) {
  message_.role = Role::assistant;
}

void AnswerReader::push(int32_t token, Events& pieces, bool may_stop) {
  if (stopped()) return;
  // An answer told to go on past the end of sentence goes on; the parser would end there.
  if (options_.chat && token == eos_) return;
  const std::string text = decoder_.push(token);
  text_bytes_ += text.size();
  if (text.empty()) return;
  if (options_.chat)
    take(parser_.feed(text), pieces, may_stop);
  else
    add_content(text, pieces, may_stop);
}

void AnswerReader::finish(Events& pieces) {
  const std::string text = decoder_.flush();
  text_bytes_ += text.size();
  if (options_.chat) {
    take(parser_.feed(text), pieces, true);
    take(parser_.finish(), pieces, true);
  } else {
    add_content(text, pieces, true);
  }
  if (!stopped()) release_held(pieces);
}

size_t AnswerReader::decided() const {
  const size_t undecided = (options_.chat ? parser_.undecided() : 0) + stop_.held();
  return text_bytes_ - undecided - stop_.dropped();
}

void AnswerReader::take(Events&& events, Events& pieces, bool may_stop) {
  for (CompletionEvent& event : events) {
    if (called_) return;
    if (event.kind == CompletionEvent::Kind::content) {
      add_content(event.text, pieces, may_stop);
    } else if (!stopped()) {
      release_held(pieces);
      append(std::move(event), pieces);
    }
  }
}

void AnswerReader::release_held(Events& pieces) {
  std::string rest;
  stop_.flush(rest);
  append({CompletionEvent::Kind::content, std::move(rest)}, pieces);
}

void AnswerReader::add_content(std::string_view text, Events& pieces, bool may_stop) {
  std::string out;
  if (may_stop || stopped())
    stop_.feed(text, out);
  else
    out = text;
  append({CompletionEvent::Kind::content, std::move(out)}, pieces);
}

// Adds to the message and to the pieces; text of one kind in a row is one piece.
void AnswerReader::append(CompletionEvent event, Events& pieces) {
  using Kind = CompletionEvent::Kind;
  switch (event.kind) {
    case Kind::content:
      if (event.text.empty()) return;
      message_.content += event.text;
      break;
    case Kind::reasoning:
      message_.reasoning_content += event.text;
      break;
    case Kind::tool_name:
      message_.tool_calls.push_back(parser_.message().tool_calls[event.call]);
      break;
    case Kind::tool_arguments:
      called_ = options_.single_call;
      break;
  }
  const bool text = event.kind == Kind::content || event.kind == Kind::reasoning;
  if (text && !pieces.empty() && pieces.back().kind == event.kind)
    pieces.back().text += event.text;
  else
    pieces.push_back(std::move(event));
}

}  // namespace fathom
