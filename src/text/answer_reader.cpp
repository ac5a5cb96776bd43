#include "text/answer_reader.h"

#include <algorithm>
#include <utility>

#include "text/chat_markers.h"

namespace fathom {

namespace {

// Markers that the parser tells from text. Not among them are the tags of reasoning, which models
// and grammars write as text, too.
constexpr std::string_view kParserMarkers[] = {
    marker::kEos,     marker::kCallsBegin, marker::kCallsEnd, marker::kCallBegin,
    marker::kCallEnd, marker::kToolSep,    marker::kDsml};

std::vector<std::pair<int32_t, std::string_view>> marker_tokens_of(const Tokenizer& tokenizer) {
  std::vector<std::pair<int32_t, std::string_view>> tokens;
  for (const std::string_view text : kParserMarkers)
    if (const auto id = tokenizer.added_id_of(text)) tokens.emplace_back(*id, text);
  return tokens;
}

std::vector<std::string_view> texts_of(
    const std::vector<std::pair<int32_t, std::string_view>>& tokens) {
  std::vector<std::string_view> texts;
  texts.reserve(tokens.size());
  for (const auto& [id, text] : tokens) texts.push_back(text);
  return texts;
}

}  // namespace

AnswerReader::AnswerReader(const Tokenizer& tokenizer, AnswerOptions options)
    : options_(std::move(options)),
      eos_(tokenizer.added_id_of(marker::kEos).value_or(-1)),
      marker_tokens_(marker_tokens_of(tokenizer)),
      decoder_(tokenizer, !options_.chat),
      parser_(options_.encoding, options_.thinking, texts_of(marker_tokens_)),
      stop_(std::move(options_.stop)) {
  message_.role = Role::assistant;
}

void AnswerReader::push(int32_t token, Events& pieces, bool may_stop) {
  if (stopped()) return;
  // Only an answer that ignores the end of sentence gets here with it. It must go on, and the
  // parser would end the answer.
  if (options_.chat && token == eos_) return;
  if (options_.chat && push_marker(token, pieces, may_stop)) return;
  const std::string text = decoder_.push(token);
  text_bytes_ += text.size();
  if (text.empty()) return;
  if (options_.chat)
    take(parser_.feed(text), pieces, may_stop);
  else
    add_content(text, pieces, may_stop);
}

// False if the token is no marker.
bool AnswerReader::push_marker(int32_t token, Events& pieces, bool may_stop) {
  const auto marker = std::find_if(marker_tokens_.begin(), marker_tokens_.end(),
                                   [&](const auto& entry) { return entry.first == token; });
  if (marker == marker_tokens_.end()) return false;
  const std::string half_character = decoder_.flush();
  text_bytes_ += half_character.size() + marker->second.size();
  take(parser_.feed(half_character), pieces, may_stop);
  take(parser_.feed_marker(marker->second), pieces, may_stop);
  return true;
}

void AnswerReader::finish(Events& pieces, bool cut) {
  std::string text = decoder_.flush();
  // Half a character at the end of a call that was cut is no part of its arguments.
  if (cut && !message_.tool_calls.empty()) text.clear();
  text_bytes_ += text.size();
  if (options_.chat) {
    take(parser_.feed(text), pieces, true);
    take(parser_.finish(cut), pieces, true);
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
      message_.tool_calls.push_back({"call_" + std::to_string(event.call), event.text, {}});
      break;
    case Kind::tool_arguments:
      message_.tool_calls.back().arguments += event.text;
      break;
    case Kind::tool_end:
      called_ = options_.single_call;
      return;
  }
  const bool joins = event.kind != Kind::tool_name && !pieces.empty() &&
                     pieces.back().kind == event.kind && pieces.back().call == event.call;
  if (joins)
    pieces.back().text += event.text;
  else
    pieces.push_back(std::move(event));
}

}  // namespace fathom
