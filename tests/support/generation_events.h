// What a generation tells a protocol's writer, made by hand.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/api/responses_writer.h"
#include "server/generation.h"

namespace fathom::test {

// Ids that count: prefix1, prefix2, ...
inline server::IdMaker counting_ids() {
  auto next = std::make_shared<int>(0);
  return [next](std::string_view prefix) { return std::string(prefix) + std::to_string(++*next); };
}

inline server::GenerationEvent said(std::vector<CompletionEvent> pieces) {
  server::GenerationEvent event;
  event.pieces = std::move(pieces);
  return event;
}

// The end of an answer of 5 tokens, 3 of them reasoning, to 20 of a prompt, 8 of them kept ones.
inline server::GenerationEvent ended(const char* reason) {
  server::GenerationEvent event;
  event.ended = true;
  event.finish_reason = reason;
  event.stats.prompt_tokens = 20;
  event.stats.reused_tokens = 8;
  event.stats.generated_tokens = 5;
  event.reasoning_tokens = 3;
  return event;
}

}  // namespace fathom::test
